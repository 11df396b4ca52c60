//! The stages of a deployed pipeline: where a call reaches them.

use serde::{Deserialize, Serialize};
use wadm_types::{ComponentProperties, Manifest, Properties};

/// A stage of the version of a pipeline that is deployed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeployedStage {
    /// Its name in the pipeline.
    pub name: String,
    /// Its identity in the lattice, which another content does not have.
    pub id: String,
    /// Its steps, the first one first.
    pub steps: Vec<String>,
}

/// The stages in a manifest.
#[must_use]
pub fn stages(manifest: &Manifest) -> Vec<DeployedStage> {
    let stage = |component: &wadm_types::Component| match &component.properties {
        Properties::Component { properties } => Some(DeployedStage {
            name: component.name.clone(),
            id: properties.id.clone()?,
            steps: steps(properties),
        }),
        Properties::Capability { .. } => None,
    };
    manifest.components().filter_map(stage).collect()
}

/// The images of all components and providers in a manifest.
pub fn images(manifest: &Manifest) -> impl Iterator<Item = &str> {
    manifest.components().filter_map(|component| match &component.properties {
        Properties::Component { properties } => properties.image.as_deref(),
        Properties::Capability { properties } => properties.image.as_deref(),
    })
}

/// Names of the steps, as the harness reads them.
fn steps(properties: &ComponentProperties) -> Vec<String> {
    let name = |position: usize| {
        let key = format!("step.{position}.name");
        let values = properties.config.iter().filter_map(|config| config.properties.as_ref());
        values.filter_map(|values| values.get(&key)).next().cloned()
    };
    (0..).map_while(name).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::Artifact;

    const TEXT: &str = r#"
millrace: v1alpha1
pipeline: alerts
version: 0.1.0
sources: [machine]
steps:
  celsius: { map: c, from: machine }
  smooth: { map: c, from: celsius }
  too-hot: { filter: c, from: { name: smooth, durable: true } }
sinks:
  alerts: { from: too-hot }
binding:
  sources:
    machine: { mqtt: { url: "mqtt://localhost", topic: a } }
  sinks:
    alerts: { mqtt: { url: "mqtt://localhost", topic: b } }
  components:
    c: { file: a.wasm }
"#;

    #[test]
    fn stages_of_a_manifest_have_their_steps_in_order_and_their_identities() {
        let document = millrace_pipeline::Document { file: "pipeline.yaml", text: TEXT };
        let plan = millrace_pipeline::load(document, None, &Default::default()).plan().unwrap();
        let artifact = Artifact { image: "file:///a.wasm".to_owned(), digest: "d".to_owned() };
        let artifacts: BTreeMap<_, _> =
            plan.stages.iter().map(|s| (s.name.clone(), artifact.clone())).collect();
        let found = stages(&crate::manifest(&plan, &artifacts).unwrap());
        let names: Vec<_> = found.iter().map(|s| (s.name.as_str(), s.steps.join(" "))).collect();
        assert_eq!(
            names,
            [("celsius", "celsius smooth".to_owned()), ("too-hot", "too-hot".to_owned())]
        );
        assert!(found[0].id.starts_with("alerts-celsius-"), "{found:?}");
    }
}
