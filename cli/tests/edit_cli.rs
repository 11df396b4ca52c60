//! `millrace pipeline set` and `rename`, as a user meets them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod support;

use std::fs;
use std::path::Path;

use serde_json::Value;
use support::{millrace, said};

const DEFINITION: &str = r#"# Alerts of hall 3.
millrace: v1alpha1
pipeline: alerts
version: 0.1.0
sources: [machine]

steps:
  too-hot: # in Celsius
    filter: above-limit
    from: machine
    config: { limit: 85 } # the customer's

sinks:
  alerts: { from: too-hot }
"#;

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("pipeline.yaml"), DEFINITION).unwrap();
    folder
}

fn text(folder: &Path) -> String {
    fs::read_to_string(folder.join("pipeline.yaml")).unwrap()
}

/// Runs it; answers the exit code and what was said.
fn run(folder: &Path, arguments: &[&str]) -> (i32, String) {
    let output = millrace(folder, &[&["pipeline"], arguments].concat());
    (output.status.code().unwrap(), said(&output))
}

#[test]
fn a_field_is_set_and_nothing_else_is_changed() {
    let folder = folder();
    let (code, shown) = run(
        folder.path(),
        &["set", "pipeline.yaml", "steps.too-hot.config.limit=90", "version=0.2.0"],
    );
    assert_eq!(code, 0, "{shown}");
    assert!(shown.contains("-    config: { limit: 85 } # the customer's\n+    config: { limit: 90 } # the customer's\n"), "{shown}");
    let wanted = DEFINITION.replace("limit: 85", "limit: 90").replace("0.1.0", "0.2.0");
    assert_eq!(text(folder.path()), wanted);

    let (code, shown) =
        run(folder.path(), &["set", "pipeline.yaml", "--remove", "steps.too-hot.config"]);
    assert_eq!(code, 0, "{shown}");
    assert_eq!(
        text(folder.path()),
        wanted.replace("    config: { limit: 90 } # the customer's\n", "")
    );
    let (_, shown) = run(folder.path(), &["set", "pipeline.yaml", "version=0.2.0"]);
    assert!(shown.contains("pipeline.yaml is as it was"), "{shown}");
}

#[test]
fn a_step_has_another_name_everywhere() {
    let folder = folder();
    let (code, shown) =
        run(folder.path(), &["rename", "pipeline.yaml", "too-hot", "hot", "--dry-run"]);
    assert_eq!(code, 0, "{shown}");
    assert!(
        shown.contains("+  hot: # in Celsius") && shown.contains("nothing was written"),
        "{shown}"
    );
    assert_eq!(text(folder.path()), DEFINITION);

    let output = millrace(
        folder.path(),
        &["--json", "pipeline", "rename", "pipeline.yaml", "too-hot", "hot"],
    );
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["written"], true);
    assert!(
        said["diff"].as_array().unwrap().contains(&"+  alerts: { from: hot }".into()),
        "{said}"
    );
    assert_eq!(text(folder.path()), DEFINITION.replace("too-hot", "hot"));

    let (code, shown) =
        run(folder.path(), &["rename", "pipeline.yaml", "steps.hot.config.limit", "max"]);
    assert_eq!(code, 0, "{shown}");
    assert!(text(folder.path()).contains("config: { max: 85 } # the customer's"));
}

#[test]
fn what_would_be_wrong_is_not_written() {
    let folder = folder();
    let (code, shown) = run(folder.path(), &["set", "pipeline.yaml", "steps.too-hot.from=nobody"]);
    assert_eq!(code, 3, "{shown}");
    assert!(shown.contains("nobody") && shown.contains("--force"), "{shown}");
    assert_eq!(text(folder.path()), DEFINITION);
    let (code, shown) =
        run(folder.path(), &["set", "pipeline.yaml", "steps.too-hot.from=nobody", "--force"]);
    assert_eq!(code, 0, "{shown}");
    assert_eq!(text(folder.path()), DEFINITION.replace("from: machine", "from: nobody"));

    for (arguments, words) in [
        (
            &["set", "pipeline.yaml", "steps.too-hot.map.x.y=1", "steps.too-hot.filter.x=1"][..],
            "`steps.too-hot.filter` is a single value",
        ),
        (&["set", "pipeline.yaml", "--remove", "steps.nobody"], "there is no `steps.nobody`"),
        (&["rename", "pipeline.yaml", "nobody", "somebody"], "there is no `nobody`"),
        (&["rename", "pipeline.yaml", "machine", "Machine"], "cannot be a name"),
        (&["set", "pipeline.yaml", "version"], "it has to be PATH=VALUE"),
        (&["set", "none.yaml", "version=1.0.0"], "could not read none.yaml"),
    ] {
        let before = text(folder.path());
        let (code, shown) = run(folder.path(), arguments);
        assert_ne!(code, 0);
        assert!(shown.contains(words), "{shown}");
        assert_eq!(text(folder.path()), before);
    }
}

/// What is wrong already stays wrong, also under another name.
#[test]
fn what_is_wrong_already_does_not_stop_an_edit() {
    let folder = folder();
    let wrong =
        DEFINITION.replace("from: machine", "from: machina") + "binding:\n  pipelines: {}\n";
    fs::write(folder.path().join("pipeline.yaml"), &wrong).unwrap();
    let (code, shown) = run(folder.path(), &["rename", "pipeline.yaml", "too-hot", "hot"]);
    assert_eq!(code, 0, "{shown}");
    assert_eq!(text(folder.path()), wrong.replace("too-hot", "hot"));
}

#[test]
fn a_binding_in_a_file_of_its_own_is_changed_too() {
    let folder = folder();
    let binding = "millrace: v1alpha1\nbinding:\n  sources:\n    machine: { mqtt: { url: \"mqtt://hall\", topic: a } } # hall 3\n";
    fs::write(folder.path().join("hall.yaml"), binding).unwrap();
    let (code, shown) = run(folder.path(), &["rename", "hall.yaml", "machine", "press"]);
    assert_eq!(code, 0, "{shown}");
    let (code, shown) =
        run(folder.path(), &["set", "hall.yaml", "binding.sources.press.mqtt.qos=1"]);
    assert_eq!(code, 0, "{shown}");
    let now = fs::read_to_string(folder.path().join("hall.yaml")).unwrap();
    assert_eq!(
        now,
        binding.replace("machine", "press").replace("topic: a }", "topic: a, qos: 1 }")
    );
}
