//! A plan and its artifacts as a plain wadm manifest.
//!
//! The same input gives the same manifest, and its version carries a hash of the content: deploying twice changes
//! nothing, and any change is a new version. Names of configurations carry a hash of their values, because changed
//! values do not reach the links of a running provider, and a changed name does.

use std::collections::{BTreeMap, BTreeSet};

use millrace_pipeline::{Edge, Output, Plan, PlannedSink, PlannedSource, Stage, StageInput};
use sha2::{Digest as _, Sha256};
use wadm_types::{
    CapabilityProperties, Component, ComponentProperties, ConfigDefinition, ConfigProperty,
    LinkProperty, Manifest, Metadata, Properties, Specification, SpreadScalerProperty,
    TargetConfig, Trait, VERSION_ANNOTATION_KEY,
};

/// Name of the provider that serves durable edges.
pub const CONDUIT: &str = "conduit";

/// A stage's artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// Where hosts load it from: `file:///absolute/path`, or an OCI reference.
    pub image: String,
    /// SHA-256 of its bytes, hexadecimal.
    pub digest: String,
}

/// Why no manifest can be written.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// A stage of the plan has no artifact.
    #[error("no artifact for stage `{0}`; build the pipeline first")]
    NoArtifact(String),
    /// A provider of the plan has no archive.
    #[error("no archive for provider `{0}`")]
    NoProvider(String),
    /// The plan speaks of a source, sink or edge that it does not have.
    #[error("the plan has no `{0}`")]
    NotInPlan(String),
    /// A setting could not be written as text.
    #[error("setting {0}")]
    Setting(#[from] millrace_settings::FieldError),
    /// The manifest could not be written as text.
    #[error("could not write the manifest: {0}")]
    Text(#[from] serde_json::Error),
}

/// Identity in the lattice of a part of a pipeline.
#[must_use]
pub fn component_id(pipeline: &str, name: &str) -> String {
    format!("{pipeline}-{name}")
}

/// Writes the manifest of a plan. `artifacts` by stage name, `providers` (images) by connector name.
///
/// # Errors
///
/// A stage without artifact or a provider without archive.
pub fn manifest(
    plan: &Plan,
    artifacts: &BTreeMap<String, Artifact>,
    providers: &BTreeMap<String, String>,
) -> Result<Manifest, ManifestError> {
    let mut components = Vec::new();
    for stage in &plan.stages {
        components.push(stage_component(plan, stage, artifacts)?);
    }
    for name in provider_names(plan) {
        components.push(provider_component(plan, name, providers)?);
    }
    let mut manifest = Manifest {
        api_version: wadm_types::OAM_VERSION.to_owned(),
        kind: wadm_types::APPLICATION_KIND.to_owned(),
        metadata: Metadata {
            name: plan.pipeline.clone(),
            annotations: BTreeMap::new(),
            labels: BTreeMap::from([("millrace.dev/managed-by".to_owned(), "millrace".to_owned())]),
        },
        spec: Specification { components, policies: Vec::new() },
    };
    let digests: Vec<&str> = plan
        .stages
        .iter()
        .filter_map(|s| artifacts.get(&s.name))
        .map(|a| a.digest.as_str())
        .collect();
    let content = format!("{}{digests:?}", serde_json::to_value(&manifest)?);
    let version = format!("{}-{}", plan.version, short_hash(content.as_bytes()));
    manifest.metadata.annotations.insert(VERSION_ANNOTATION_KEY.to_owned(), version);
    Ok(manifest)
}

fn stage_component(
    plan: &Plan,
    stage: &Stage,
    artifacts: &BTreeMap<String, Artifact>,
) -> Result<Component, ManifestError> {
    let artifact =
        artifacts.get(&stage.name).ok_or_else(|| ManifestError::NoArtifact(stage.name.clone()))?;
    let (provider, settings) = match &stage.output {
        Output::Sink(name) => {
            let sink = sink(plan, name)?;
            (sink.connector.as_str(), named(plan, name, &stage.name, sink.settings.clone()))
        }
        Output::Edges(names) => {
            let edges = names.iter().map(|name| edge(plan, name)).collect::<Result<Vec<_>, _>>()?;
            let settings = millrace_settings::edge::to_link(
                edges.iter().map(|e| (e.name.as_str(), &e.settings)),
            )?;
            (CONDUIT, named(plan, "out", &stage.name, settings))
        }
    };
    let link =
        link("default", "consumer", provider, None, Some(config("out", &stage.name, settings)));
    let instances = usize::try_from(stage.instances).unwrap_or(usize::MAX);
    let scale = SpreadScalerProperty { instances, spread: Vec::new() };
    Ok(Component {
        name: stage.name.clone(),
        properties: Properties::Component {
            properties: ComponentProperties {
                image: Some(artifact.image.clone()),
                application: None,
                id: Some(component_id(&plan.pipeline, &stage.name)),
                config: vec![config("stage", &stage.name, stage_config(plan, stage))],
                secrets: Vec::new(),
            },
        },
        traits: Some(vec![Trait::new_spreadscaler(scale), Trait::new_link(link)]),
    })
}

/// What the harness reads through wasi:config (docs/architecture.md, "Configuration of a stage").
fn stage_config(plan: &Plan, stage: &Stage) -> BTreeMap<String, String> {
    let mut config = BTreeMap::from([
        ("pipeline".to_owned(), plan.pipeline.clone()),
        ("stage".to_owned(), stage.name.clone()),
        ("out-subject".to_owned(), format!("{}.out.{}", plan.pipeline, stage.name)),
        ("dead-subject".to_owned(), format!("{}.dead.{}", plan.pipeline, stage.name)),
    ]);
    for (position, step) in stage.steps.iter().enumerate() {
        config.insert(format!("step.{position}.name"), step.name.clone());
        for (key, value) in &step.config {
            config.insert(format!("step.{position}.config.{key}"), value.clone());
        }
    }
    config
}

/// Names of the providers a plan needs.
#[must_use]
pub fn provider_names(plan: &Plan) -> BTreeSet<&str> {
    let sources = plan.sources.iter().map(|s| s.connector.as_str());
    let sinks = plan.sinks.iter().map(|s| s.connector.as_str());
    let conduit = (!plan.edges.is_empty()).then_some(CONDUIT);
    sources.chain(sinks).chain(conduit).collect()
}

fn provider_component(
    plan: &Plan,
    name: &str,
    providers: &BTreeMap<String, String>,
) -> Result<Component, ManifestError> {
    let image = providers.get(name).ok_or_else(|| ManifestError::NoProvider(name.to_owned()))?;
    let scale = SpreadScalerProperty { instances: 1, spread: Vec::new() };
    let mut traits = vec![Trait::new_spreadscaler(scale)];
    for stage in &plan.stages {
        for input in &stage.inputs {
            let (connector, input, settings) = input_settings(plan, input)?;
            if connector == name {
                let source = config("in", input, named(plan, input, &stage.name, settings));
                traits.push(Trait::new_link(link(
                    &link_name(input),
                    "handler",
                    &stage.name,
                    Some(source),
                    None,
                )));
            }
        }
    }
    Ok(Component {
        name: name.to_owned(),
        properties: Properties::Capability {
            properties: CapabilityProperties {
                image: Some(image.clone()),
                application: None,
                id: Some(component_id(&plan.pipeline, name)),
                config: Vec::new(),
                secrets: Vec::new(),
            },
        },
        traits: Some(traits),
    })
}

/// The connector that calls a stage for this input, the input's name, and the link's settings.
fn input_settings<'a>(
    plan: &'a Plan,
    input: &'a StageInput,
) -> Result<(&'a str, &'a str, BTreeMap<String, String>), ManifestError> {
    let (connector, name, mut settings, delivery) = match input {
        StageInput::Source(name) => {
            let source = source(plan, name)?;
            (source.connector.as_str(), name, source.settings.clone(), &source.delivery)
        }
        StageInput::Edge(name) => {
            let edge = edge(plan, name)?;
            (CONDUIT, name, millrace_settings::to_flat(&edge.settings)?, &edge.delivery)
        }
    };
    settings.extend(millrace_settings::to_flat(delivery)?);
    Ok((connector, name, settings))
}

fn source<'a>(plan: &'a Plan, name: &str) -> Result<&'a PlannedSource, ManifestError> {
    let found = plan.sources.iter().find(|s| s.name == name);
    found.ok_or_else(|| ManifestError::NotInPlan(name.to_owned()))
}

fn sink<'a>(plan: &'a Plan, name: &str) -> Result<&'a PlannedSink, ManifestError> {
    plan.sinks
        .iter()
        .find(|s| s.name == name)
        .ok_or_else(|| ManifestError::NotInPlan(name.to_owned()))
}

fn edge<'a>(plan: &'a Plan, name: &str) -> Result<&'a Edge, ManifestError> {
    plan.edges
        .iter()
        .find(|e| e.name == name)
        .ok_or_else(|| ManifestError::NotInPlan(name.to_owned()))
}

/// A link's name is one token.
fn link_name(input: &str) -> String {
    input.replace('.', "_")
}

fn link(
    name: &str,
    interface: &str,
    target: &str,
    source_config: Option<ConfigProperty>,
    target_config: Option<ConfigProperty>,
) -> LinkProperty {
    LinkProperty {
        namespace: "wasmcloud".to_owned(),
        package: "messaging".to_owned(),
        interfaces: vec![interface.to_owned()],
        source: source_config.map(|c| ConfigDefinition { config: vec![c], secrets: Vec::new() }),
        target: TargetConfig {
            name: target.to_owned(),
            config: target_config.into_iter().collect(),
            secrets: Vec::new(),
        },
        name: Some(name.to_owned()),
        ..LinkProperty::default()
    }
}

/// The settings of a link, with the keys that every link has.
fn named(
    plan: &Plan,
    name: &str,
    stage: &str,
    mut settings: BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    settings.insert("pipeline".to_owned(), plan.pipeline.clone());
    settings.insert("name".to_owned(), name.to_owned());
    settings.insert("stage".to_owned(), stage.to_owned());
    settings
}

fn config(role: &str, name: &str, values: BTreeMap<String, String>) -> ConfigProperty {
    let hash = short_hash(format!("{values:?}").as_bytes());
    let name = format!("{role}-{}-{hash}", name.replace('.', "-"));
    ConfigProperty { name, properties: Some(values.into_iter().collect()) }
}

/// The first eight hexadecimal digits of the SHA-256.
fn short_hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
millrace: v1alpha1
pipeline: alerts
version: 0.1.0
sources: [machine]
steps:
  celsius: { map: to-celsius, from: machine, config: { field: f } }
  too-hot: { filter: above-limit, from: { name: celsius, durable: true }, config: { limit: 85 } }
sinks:
  alerts: { from: too-hot }
binding:
  sources:
    machine: { mqtt: { url: "mqtt://localhost", topic: plant/+/temperature } }
  sinks:
    alerts: { mqtt: { url: "mqtt://localhost", topic: plant/alerts } }
  components:
    to-celsius: { file: a.wasm }
    above-limit: { file: b.wasm }
"#;

    fn example(text: &str, digest: &str) -> Manifest {
        let document = millrace_pipeline::Document { file: "pipeline.yaml", text };
        let plan = millrace_pipeline::load(document, None, &Default::default()).plan().unwrap();
        let artifact = |name: &str| {
            let image = format!("file:///artifacts/{name}.wasm");
            (name.to_owned(), Artifact { image, digest: digest.to_owned() })
        };
        let artifacts = plan.stages.iter().map(|s| artifact(&s.name)).collect();
        let images =
            ["mqtt", "conduit"].map(|n| (n.to_owned(), format!("file:///providers/{n}.par.gz")));
        manifest(&plan, &artifacts, &BTreeMap::from(images)).unwrap()
    }

    #[test]
    fn stages_providers_and_one_link_for_each_hop() {
        let manifest = example(TEXT, "d1");
        let names: Vec<&str> = manifest.components().map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["celsius", "too-hot", "conduit", "mqtt"]);
        // machine -> celsius, celsius -> conduit, conduit -> too-hot, too-hot -> mqtt
        assert_eq!(manifest.links().count(), 4);
        // wadm reads it back as it is.
        let text = serde_json::to_string(&manifest).unwrap();
        assert_eq!(serde_json::from_str::<Manifest>(&text).unwrap(), manifest);
    }

    #[test]
    fn the_same_content_is_the_same_version_and_another_is_not() {
        let version = |text: &str, digest| example(text, digest).version().to_owned();
        assert!(version(TEXT, "d1").starts_with("0.1.0-"));
        assert_eq!(version(TEXT, "d1"), version(TEXT, "d1"));
        assert_ne!(version(TEXT, "d1"), version(TEXT, "d2"));
        assert_ne!(version(TEXT, "d1"), version(&TEXT.replace("limit: 85", "limit: 86"), "d1"));
    }

    #[test]
    fn a_changed_value_changes_the_name_of_its_configuration() {
        let names = |manifest: &Manifest| -> Vec<String> {
            let stage = manifest.components().find(|c| c.name == "too-hot").unwrap();
            match &stage.properties {
                Properties::Component { properties } => {
                    properties.config.iter().map(|c| c.name.clone()).collect()
                }
                Properties::Capability { .. } => panic!("a stage is a component"),
            }
        };
        let before = example(TEXT, "d1");
        assert_eq!(names(&before), names(&example(TEXT, "d2")));
        assert_ne!(names(&before), names(&example(&TEXT.replace("limit: 85", "limit: 86"), "d1")));
    }
}
