//! Grants beside what the components of steps import: a step has what it needs, and no more than that. Composing decides about
//! every import (`millrace-compose`); here a definition is told before, with the place.

use std::collections::BTreeMap;
use std::path::Path as FilePath;

use millrace_grants::Grant;

use crate::component;
use crate::finding::Issue;
use crate::locate::{Part, Path, quoted};
use crate::model::{Binding, Kind, Pipeline, Step};

/// Interfaces that a component is refused for without a grant, with how the grant is written. Clocks and random numbers are
/// not among them: what is built for WASI imports those as a matter of course, and is denied them inside.
const NEEDED: [(&str, &str); 4] = [
    ("wasi:logging/logging", "log"),
    ("wasi:config/store", "config"),
    ("millrace:step/key-value", "kv:BUCKET"),
    ("millrace:step/http", "http:METHOD:HOST"),
];

/// What steps are granted and do not use, and use without a grant.
pub(crate) fn issues(pipeline: &Pipeline, binding: &Binding, folder: &FilePath) -> Vec<Issue> {
    // The same component may be that of many steps.
    let mut imports: BTreeMap<&str, Option<Vec<String>>> = BTreeMap::new();
    let mut issues = Vec::new();
    for (name, step) in &pipeline.steps {
        let Some(component) = binding.components.get(&step.component) else { continue };
        let read = imports
            .entry(&step.component)
            .or_insert_with(|| component::imports(&folder.join(&component.file)));
        // A file that is missing, or is no component, is reported as that.
        let Some(imports) = read else { continue };
        issues.extend(of_step(step, imports, &Path::of(["steps", name])));
    }
    issues
}

fn of_step(step: &Step, imports: &[String], path: &Path) -> Vec<Issue> {
    let has =
        |interface: &str| imports.iter().any(|import| import.split('@').next() == Some(interface));
    let mut issues = Vec::new();
    let mut open = Vec::new();
    for (index, text) in step.grants.iter().enumerate() {
        // What is no grant is reported as that.
        let Ok(grant) = text.parse::<Grant>() else { continue };
        let interfaces = grant.interfaces();
        open.extend(interfaces);
        if !interfaces.iter().any(|interface| has(interface)) {
            let what = interfaces.join("` or `");
            let message = format!(
                "the component {} does not import `{what}`, for which {} is granted",
                quoted(&step.component),
                quoted(text)
            );
            let at = path.key("grants").index(index);
            let issue = Issue::warning("grant-without-use", at, Part::Value, message);
            issues.push(issue.mend("remove it: a step has what it needs"));
        }
    }
    for (interface, grant) in NEEDED {
        // A component that is a stage itself has the stage's configuration.
        let own = step.kind == Kind::Monolithic && interface == "wasi:config/store";
        if has(interface) && !own && !open.contains(&interface) {
            let message = format!(
                "the component {} imports `{interface}`, which is not granted",
                quoted(&step.component)
            );
            let issue = Issue::error("use-without-grant", path.clone(), Part::Key, message);
            issues.push(issue.mend(format!("add `{grant}` to its grants, or build it without")));
        }
    }
    issues
}
