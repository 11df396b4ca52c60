//! A plan and its artifacts as a plain wadm manifest.
//!
//! The same input gives the same manifest, and its version carries a hash of the content: deploying twice changes
//! nothing, and any change is a new version. What changes gets another identity (stages, links, configurations carry a
//! hash of their content), because that is what wadm does well: it starts the new and takes the old away. Under one
//! identity it would take the old away first, and changed values would not reach the links of a running provider.
//!
//! A provider is an application of its own, shared by the pipelines of a lattice: their manifests name it, and have their
//! links from and to it.

use std::collections::{BTreeMap, BTreeSet};

use millrace_grants::{Authority, FROM_KEY, Grant, LINK_KEY, SERVERS_KEY, WRITERS_KEY};
use millrace_pipeline::{Edge, Hosts, Output, Plan, PlannedSink, PlannedSource, Stage, StageInput};
use millrace_settings::Server;
use millrace_settings::window::{STATE, STATE_IDLE};
use sha2::{Digest as _, Sha256};
use wadm_types::{
    CapabilityProperties, Component, ComponentProperties, ConfigDefinition, ConfigProperty,
    LinkProperty, Manifest, Metadata, Properties, SHARED_ANNOTATION_KEY,
    SharedApplicationComponentProperties, Specification, Spread, SpreadScalerProperty,
    TargetConfig, Trait, VERSION_ANNOTATION_KEY,
};

/// Name of the provider that serves durable edges.
pub const CONDUIT: &str = "conduit";

/// A provider's part in its application.
const PROVIDER: &str = "provider";

const MANAGED_BY: (&str, &str) = ("millrace.dev/managed-by", "millrace");

/// A stage's artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// Where hosts load it from: `millrace:STAGE@sha256:DIGEST` in the lattice's store, `file:///absolute/path`, or an OCI
    /// reference.
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

/// Name of the application that a provider is. No pipeline's name has an underscore.
#[must_use]
pub fn provider_application(provider: &str) -> String {
    format!("millrace_{provider}")
}

/// The provider that an application is, if it is one.
pub(crate) fn provider_of(manifest: &Manifest) -> Option<&str> {
    manifest.metadata.name.strip_prefix(&provider_application(""))
}

/// Whether this platform made the application.
pub(crate) fn is_ours(manifest: &Manifest) -> bool {
    let (label, value) = MANAGED_BY;
    manifest.metadata.labels.get(label).is_some_and(|found| found == value)
}

/// Identity in the lattice of a provider. wadm makes it of the names of application and component, and takes no other for
/// an application that is shared.
#[must_use]
pub fn provider_id(provider: &str) -> String {
    format!("{}-{PROVIDER}", provider_application(provider))
}

/// Writes the manifest of a provider: one instance in the lattice, for all pipelines. `image` is its archive.
#[must_use]
pub fn provider_manifest(provider: &str, image: &str) -> Manifest {
    let scale = SpreadScalerProperty { instances: 1, spread: Vec::new() };
    let component = Component {
        name: PROVIDER.to_owned(),
        properties: Properties::Capability {
            properties: CapabilityProperties {
                image: Some(image.to_owned()),
                application: None,
                id: None,
                config: Vec::new(),
                secrets: Vec::new(),
            },
        },
        traits: Some(vec![Trait::new_spreadscaler(scale)]),
    };
    let version = format!("{}-{}", env!("CARGO_PKG_VERSION"), short_hash(image.as_bytes()));
    let mut manifest = application(provider_application(provider), vec![component]);
    manifest.metadata.annotations.extend([
        (VERSION_ANNOTATION_KEY.to_owned(), version),
        (SHARED_ANNOTATION_KEY.to_owned(), "true".to_owned()),
    ]);
    manifest
}

/// Applications that a manifest uses a shared component of.
pub fn shared_applications(manifest: &Manifest) -> impl Iterator<Item = &str> {
    manifest.components().filter_map(|component| match &component.properties {
        Properties::Capability { properties } => {
            Some(properties.application.as_ref()?.name.as_str())
        }
        Properties::Component { properties } => {
            Some(properties.application.as_ref()?.name.as_str())
        }
    })
}

fn application(name: String, components: Vec<Component>) -> Manifest {
    let (label, value) = MANAGED_BY;
    Manifest {
        api_version: wadm_types::OAM_VERSION.to_owned(),
        kind: wadm_types::APPLICATION_KIND.to_owned(),
        metadata: Metadata {
            name,
            annotations: BTreeMap::new(),
            labels: BTreeMap::from([(label.to_owned(), value.to_owned())]),
        },
        spec: Specification { components, policies: Vec::new() },
    }
}

/// Writes the manifest of a plan. `artifacts` by stage name.
///
/// # Errors
///
/// A stage without artifact.
pub fn manifest(
    plan: &Plan,
    artifacts: &BTreeMap<String, Artifact>,
) -> Result<Manifest, ManifestError> {
    let mut components = Vec::new();
    for stage in &plan.stages {
        components.push(stage_component(plan, stage, artifacts)?);
    }
    for name in provider_names(plan) {
        components.push(provider_component(plan, name, artifacts)?);
    }
    let mut manifest = application(plan.pipeline.clone(), components);
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

/// What a stage is in the lattice: one identity for one content. A changed stage is another component beside the old one,
/// so that it runs before the old one is taken away; what has not changed is not touched.
struct StageParts<'a> {
    artifact: &'a Artifact,
    /// The provider behind it.
    provider: &'a str,
    /// Settings of its link to that provider.
    out: BTreeMap<String, String>,
    config: BTreeMap<String, String>,
    /// Tells this content from others.
    hash: String,
}

impl<'a> StageParts<'a> {
    fn new(
        plan: &'a Plan,
        stage: &'a Stage,
        artifacts: &'a BTreeMap<String, Artifact>,
    ) -> Result<Self, ManifestError> {
        let artifact = artifacts
            .get(&stage.name)
            .ok_or_else(|| ManifestError::NoArtifact(stage.name.clone()))?;
        let (provider, out) = match &stage.output {
            Output::Sink(name) => {
                let sink = sink(plan, name)?;
                let mut settings = sink.settings.clone();
                if !stage.writers.is_empty() {
                    let writers = serde_json::to_string(&stage.writers)?;
                    settings.insert(WRITERS_KEY.to_owned(), writers);
                }
                (sink.connector.as_str(), named(plan, name, &stage.name, settings))
            }
            Output::Edges(names) => {
                let edges =
                    names.iter().map(|name| edge(plan, name)).collect::<Result<Vec<_>, _>>()?;
                let mut settings = millrace_settings::edge::to_link(
                    edges.iter().map(|e| (e.name.as_str(), &e.settings)),
                )?;
                let grants = stage.outside();
                if !grants.is_empty() {
                    settings.insert(LINK_KEY.to_owned(), serde_json::to_string(&grants)?);
                    let asked = |name: &str| {
                        let named = name.parse::<Authority>().ok();
                        grants.values().flatten().any(|grant| {
                            matches!(grant, Grant::Http { server, .. } if named.as_ref() == Some(server))
                        })
                    };
                    let servers: BTreeMap<&String, &Server> =
                        plan.servers.iter().filter(|(name, _)| asked(name)).collect();
                    if !servers.is_empty() {
                        let servers = serde_json::to_string(&servers)?;
                        settings.insert(SERVERS_KEY.to_owned(), servers);
                    }
                }
                (CONDUIT, named(plan, "out", &stage.name, settings))
            }
        };
        let config = stage.config(&plan.pipeline);
        let place = (stage.instances, plan.hosts);
        let mut content = format!("{artifact:?}{provider}{out:?}{config:?}{place:?}");
        if !plan.placement.is_empty() {
            content.push_str(&format!("{:?}", plan.placement));
        }
        let hash = short_hash(content.as_bytes());
        Ok(Self { artifact, provider, out, config, hash })
    }
}

fn stage_component(
    plan: &Plan,
    stage: &Stage,
    artifacts: &BTreeMap<String, Artifact>,
) -> Result<Component, ManifestError> {
    let StageParts { artifact, provider, out, config: values, hash } =
        StageParts::new(plan, stage, artifacts)?;
    let out = config("out", &stage.name, &hash, out);
    let link = link("default", "consumer", provider, None, Some(out));
    let instances = usize::try_from(stage.instances).unwrap_or(usize::MAX);
    let spread = match plan.placement.is_empty() {
        true => Vec::new(),
        false => vec![Spread { requirements: plan.placement.clone(), ..Spread::default() }],
    };
    let scale = SpreadScalerProperty { instances, spread };
    let scaler = match plan.hosts {
        Hosts::One => Trait::new_spreadscaler(scale),
        Hosts::Every => Trait::new_daemonscaler(scale),
    };
    Ok(Component {
        name: stage.name.clone(),
        properties: Properties::Component {
            properties: ComponentProperties {
                image: Some(artifact.image.clone()),
                application: None,
                id: Some(format!("{}-{}-{hash}", plan.pipeline, stage.name)),
                config: vec![config("stage", &stage.name, &hash, values)],
                secrets: Vec::new(),
            },
        },
        traits: Some(vec![scaler, Trait::new_link(link)]),
    })
}

/// Names of the providers a plan needs.
#[must_use]
pub fn provider_names(plan: &Plan) -> BTreeSet<&str> {
    let sources = plan.sources.iter().map(|s| s.connector.as_str());
    let sinks = plan.sinks.iter().map(|s| s.connector.as_str());
    let conduit = (!plan.edges.is_empty()).then_some(CONDUIT);
    sources.chain(sinks).chain(conduit).collect()
}

/// The shared provider as the pipeline names it, and the links from it.
fn provider_component(
    plan: &Plan,
    name: &str,
    artifacts: &BTreeMap<String, Artifact>,
) -> Result<Component, ManifestError> {
    let mut traits = Vec::new();
    for stage in &plan.stages {
        let target = StageParts::new(plan, stage, artifacts)?.hash;
        for input in &stage.inputs {
            let from = input.from();
            let (connector, input, mut settings) = input_settings(plan, input)?;
            if connector == name {
                // The sink behind the stage has to tell what is of one from what is of another.
                if name == CONDUIT && stage.writers.len() > 1 {
                    settings.insert(FROM_KEY.to_owned(), from.to_owned());
                }
                let values = named(plan, input, &stage.name, settings);
                let hash = short_hash(format!("{target}{values:?}").as_bytes());
                let link_name = link_name(&plan.pipeline, input, &hash);
                let source = config("in", input, &hash, values);
                let link = link(&link_name, "handler", &stage.name, Some(source), None);
                traits.push(Trait::new_link(link));
            }
        }
    }
    Ok(Component {
        name: name.to_owned(),
        properties: Properties::Capability {
            properties: CapabilityProperties {
                image: None,
                application: Some(SharedApplicationComponentProperties {
                    name: provider_application(name),
                    component: PROVIDER.to_owned(),
                }),
                id: None,
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
            let mut settings = millrace_settings::to_flat(&edge.settings)?;
            if let Some(state) = &edge.state {
                let idle = state.idle_ms.map(|ms| (STATE_IDLE.to_owned(), ms.to_string()));
                settings.extend(idle);
                settings.insert(STATE.to_owned(), state.step.clone());
            }
            (CONDUIT, name, settings, &edge.delivery)
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

/// A link's name is one token, and no two links from one provider have the same: neither those of two pipelines, nor an
/// old and a new one of the same input, which are there at the same time while the one takes over from the other.
fn link_name(pipeline: &str, input: &str, hash: &str) -> String {
    format!("{pipeline}_{}_{hash}", input.replace('.', "_"))
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

/// A named configuration. `hash` tells what it belongs to: wadm forgets the configurations of what it takes away, also
/// when something else has them by the same names.
fn config(role: &str, name: &str, hash: &str, values: BTreeMap<String, String>) -> ConfigProperty {
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
        manifest(&plan, &artifacts).unwrap()
    }

    #[test]
    fn stages_providers_and_one_link_for_each_hop() {
        let manifest = example(TEXT, "d1");
        let names: Vec<&str> = manifest.components().map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["celsius", "too-hot", "conduit", "mqtt"]);
        // machine -> celsius, celsius -> conduit, conduit -> too-hot, too-hot -> mqtt
        assert_eq!(manifest.links().count(), 4);
        let shared: Vec<&str> = shared_applications(&manifest).collect();
        assert_eq!(shared, ["millrace_conduit", "millrace_mqtt"]);
        // wadm reads it back as it is.
        let text = serde_json::to_string(&manifest).unwrap();
        assert_eq!(serde_json::from_str::<Manifest>(&text).unwrap(), manifest);
    }

    #[test]
    fn a_provider_is_shared_and_another_archive_is_another_version() {
        let (one, other) = ("file:///mqtt-1.par.gz", "file:///mqtt-2.par.gz");
        let (one, other) = (provider_manifest("mqtt", one), provider_manifest("mqtt", other));
        assert!(one.shared());
        assert_eq!(one.metadata.name, "millrace_mqtt");
        assert_ne!(one.version(), other.version());
        assert!(example(TEXT, "d1").missing_shared_components(&[&one]).len() == 1, "conduit");
    }

    #[test]
    fn the_same_content_is_the_same_version_and_another_is_not() {
        let version = |text: &str, digest| example(text, digest).version().to_owned();
        assert!(version(TEXT, "d1").starts_with("0.1.0-"));
        assert_eq!(version(TEXT, "d1"), version(TEXT, "d1"));
        assert_ne!(version(TEXT, "d1"), version(TEXT, "d2"));
        assert_ne!(version(TEXT, "d1"), version(&TEXT.replace("limit: 85", "limit: 86"), "d1"));
    }

    fn links(component: &Component) -> impl Iterator<Item = &LinkProperty> {
        component.traits.iter().flatten().filter_map(|part| match &part.properties {
            wadm_types::TraitProperty::Link(link) => Some(link),
            _ => None,
        })
    }

    /// The settings of the link from a stage to the provider behind it.
    fn out(manifest: &Manifest, stage: &str) -> BTreeMap<String, String> {
        let component = manifest.components().find(|c| c.name == stage).unwrap();
        let configs: Vec<_> = links(component).flat_map(|link| &link.target.config).collect();
        assert_eq!(configs.len(), 1);
        configs[0].properties.clone().unwrap().into_iter().collect()
    }

    /// The conduit is told what each step was granted outside, and of the servers only those that the stage may ask. Another
    /// grant is another version of the stage.
    #[test]
    fn a_stage_that_asks_is_linked_to_the_conduit_with_its_grants() {
        let text = TEXT
            .replace("limit: 85 } }", "limit: 85 }, grants: [log, \"kv:b\", \"http:get:a.example\"] }")
            .replace(
                "  components:",
                "  servers:\n    a.example: { authorization-file: /secret }\n    b.example: { tls-ca-file: /ca }\n  components:",
            );
        let asking = example(&text, "d1");
        let settings = out(&asking, "too-hot");
        assert_eq!(settings["grants"], r#"{"too-hot":["kv:b","http:get:a.example"]}"#);
        assert_eq!(
            settings["servers"],
            r#"{"a.example":{"authorization-file":"/secret","allow-plain":false}}"#
        );
        assert_eq!(settings["edges"], "too-hot.alerts");
        assert!(asking.components().any(|c| c.name == "to-alerts"));
        assert!(!out(&asking, "celsius").contains_key("grants"));
        for (was, is) in [("kv:b", "kv:read:b"), ("/secret", "/other")] {
            let other = example(&text.replace(was, is), "d1");
            assert_ne!(asking.version(), other.version(), "{is}");
            assert!(names(&asking, "too-hot").is_disjoint(&names(&other, "too-hot")));
            assert_eq!(names(&asking, "celsius"), names(&other, "celsius"));
        }
    }

    /// A sink is told what the steps before it were granted of its connector; where there are several, each batch says of which
    /// it is.
    #[test]
    fn a_sink_is_told_what_its_steps_were_granted() {
        let granted = |place: &str| {
            let grants =
                format!("limit: 85 }} , grants: [log, \"{place}\", \"gpio:write:lamp\"] }}");
            TEXT.replace("limit: 85 } }", &grants)
        };
        let alone = example(&granted("mqtt:publish:plant/#"), "d1");
        assert_eq!(
            out(&alone, "too-hot")["writers"],
            r#"{"too-hot":{"too-hot":["mqtt:publish:plant/#"]}}"#
        );
        assert!(!out(&example(TEXT, "d1"), "too-hot").contains_key("writers"));
        let other = example(&granted("mqtt:publish:+/alerts"), "d1");
        assert_ne!(alone.version(), other.version());

        // Two before one sink, in a stage that only passes on.
        let both = granted("mqtt:publish:plant/#").replace(
            "alerts: { from: too-hot }",
            "alerts: { from: [{ name: too-hot, durable: true }, { name: celsius, durable: true }] }",
        );
        let both = example(&both, "d1");
        assert_eq!(
            out(&both, "to-alerts")["writers"],
            r#"{"celsius":{},"too-hot":{"too-hot":["mqtt:publish:plant/#"]}}"#
        );
        let conduit = both.components().find(|c| c.name == CONDUIT).unwrap();
        let links_to = links(conduit).filter(|link| link.target.name == "to-alerts");
        let configs = links_to.flat_map(|link| &link.source.as_ref().unwrap().config);
        let from: BTreeSet<String> =
            configs.map(|config| config.properties.as_ref().unwrap()["from"].clone()).collect();
        assert_eq!(from, ["celsius", "too-hot"].map(str::to_owned).into());

        // What a source gives the same sink comes from an edge as well, or it would be held to the step's grants.
        let source = granted("mqtt:publish:plant/#").replace(
            "alerts: { from: too-hot }",
            "alerts: { from: [{ name: too-hot, durable: true }, machine] }",
        );
        let source = example(&source, "d1");
        assert_eq!(
            out(&source, "to-alerts")["writers"],
            r#"{"machine":{},"too-hot":{"too-hot":["mqtt:publish:plant/#"]}}"#
        );
        let mqtt = source.components().find(|c| c.name == "mqtt").unwrap();
        let targets = links(mqtt).map(|link| link.target.name.as_str());
        assert_eq!(targets.collect::<Vec<_>>(), ["from-machine"]);
    }

    /// What is deployed has the values of parameters in it: another value is another version, and a roll-back has the one
    /// before.
    #[test]
    fn the_values_of_parameters_are_in_the_manifest() {
        let declared = TEXT
            .replace(
                "sources: [machine]",
                "parameters: { limit: 85, place: plant }\nsources: [machine]",
            )
            .replace("limit: 85 } }", "limit: \"${limit}\" } }")
            .replace("topic: plant/+/temperature", "topic: \"${place}/+/temperature\"");
        let before = example(&declared, "d1");
        assert_eq!(before, example(TEXT, "d1"));
        let given = declared.replace("binding:\n", "binding:\n  parameters: { limit: 86 }\n");
        let after = example(&given, "d1");
        assert_ne!(before.version(), after.version());
        assert_eq!(after, example(&TEXT.replace("limit: 85", "limit: 86"), "d1"));
    }

    /// Identities and names of configurations of the stages, and names of links, all that wadm tells things apart by.
    fn names(manifest: &Manifest, component: &str) -> BTreeSet<String> {
        let component = manifest.components().find(|c| c.name == component).unwrap();
        let mut names = BTreeSet::new();
        if let Properties::Component { properties } = &component.properties {
            names.extend(properties.id.clone());
            names.extend(properties.config.iter().map(|c| c.name.clone()));
        }
        for part in component.traits.iter().flatten() {
            if let wadm_types::TraitProperty::Link(link) = &part.properties {
                names.extend(link.name.clone().filter(|name| name != "default"));
                let configs = link.source.iter().flat_map(|s| &s.config).chain(&link.target.config);
                names.extend(configs.map(|c| c.name.clone()));
            }
        }
        names
    }

    #[test]
    fn what_changes_has_other_names_and_the_rest_keeps_them() {
        let before = example(TEXT, "d1");
        let limit = example(&TEXT.replace("limit: 85", "limit: 86"), "d1");
        assert_eq!(names(&before, "celsius"), names(&limit, "celsius"));
        assert!(names(&before, "too-hot").is_disjoint(&names(&limit, "too-hot")));
        // The link to the changed stage is another one.
        assert!(names(&before, "conduit").is_disjoint(&names(&limit, "conduit")));
        assert_eq!(names(&before, "mqtt"), names(&limit, "mqtt"));

        let source = example(&TEXT.replace("plant/+/temperature", "plant/#"), "d1");
        assert_eq!(names(&before, "celsius"), names(&source, "celsius"));
        assert!(names(&before, "mqtt").is_disjoint(&names(&source, "mqtt")));

        let code = example(TEXT, "d2");
        assert!(names(&before, "celsius").is_disjoint(&names(&code, "celsius")));
    }

    #[test]
    fn on_every_host_a_stage_is_scaled_for_each_and_is_another() {
        let one = example(TEXT, "d1");
        let every = example(&TEXT.replace("binding:\n", "binding:\n  hosts: every\n"), "d1");
        let scalers = |manifest: &Manifest| -> Vec<String> {
            let traits = manifest.components().flat_map(|c| c.traits.iter().flatten());
            traits.filter(|t| t.is_scaler()).map(|t| t.trait_type.clone()).collect()
        };
        assert_eq!(scalers(&one), ["spreadscaler", "spreadscaler"]);
        assert_eq!(scalers(&every), ["daemonscaler", "daemonscaler"]);
        assert!(names(&one, "too-hot").is_disjoint(&names(&every, "too-hot")));
    }

    #[test]
    fn a_placement_is_required_of_hosts_and_makes_another_stage() {
        let any = example(TEXT, "d1");
        let placed = "binding:\n  placement: { site: hall-3 }\n";
        let placed = example(&TEXT.replace("binding:\n", placed), "d1");
        let required = |manifest: &Manifest| -> Vec<String> {
            let traits = manifest.components().flat_map(|c| c.traits.iter().flatten());
            let scalers = traits.filter(|t| t.is_scaler());
            scalers.map(|t| serde_json::to_string(&t.properties).unwrap()).collect()
        };
        assert!(required(&any).iter().all(|text| !text.contains("site")));
        assert_eq!(required(&placed).len(), 2);
        for text in required(&placed) {
            assert!(text.contains(r#""requirements":{"site":"hall-3"}"#), "{text}");
        }
        assert!(names(&any, "too-hot").is_disjoint(&names(&placed, "too-hot")));
    }

    #[test]
    fn links_of_two_pipelines_have_names_of_their_own() {
        let (one, other) = (TEXT, TEXT.replace("pipeline: alerts", "pipeline: alarms"));
        let (one, other) = (example(one, "d1"), example(&other, "d1"));
        for component in ["celsius", "too-hot", "conduit", "mqtt"] {
            assert!(names(&one, component).is_disjoint(&names(&other, component)), "{component}");
        }
    }
}
