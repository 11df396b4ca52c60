//! `millrace pipeline` with parameters and lock files, as a user meets it.
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
use std::process::Output;

use serde_json::Value;
use support::{example, said};

const DEFINITION: &str = r#"
millrace: v1alpha1
pipeline: alerts
version: 0.1.0
parameters:
  limit: { type: number, default: 85, max: 200 }
  site: { type: text }
sources: [machine]
steps:
  celsius: { map: fahrenheit-to-celsius, from: machine }
  too-hot:
    filter: above-limit
    from: celsius
    config:
      limit: ${limit}
sinks:
  alerts: { from: too-hot }
binding:
  parameters: { site: north }
  sources:
    machine: { mqtt: { url: "mqtt://localhost", topic: "${site}/#" } }
  sinks:
    alerts: { mqtt: { url: "mqtt://localhost", topic: b } }
  components:
    fahrenheit-to-celsius: { file: fahrenheit-to-celsius.wasm }
    above-limit: { file: above-limit.wasm }
tests:
  hot-is-told:
    inputs: { machine: [{ payload: { fahrenheit: 212 } }] }
    outputs: { alerts: [{ payload: { celsius: 100 } }] }
"#;

fn millrace(folder: &Path, arguments: &[&str]) -> Output {
    support::millrace(folder, &[&["pipeline"], arguments].concat())
}

/// What a command says that has to fail with this code.
fn refused(folder: &Path, arguments: &[&str], code: i32) -> String {
    let output = millrace(folder, arguments);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", said(&output));
    said(&output)
}

/// What a command says that has to succeed.
fn done(folder: &Path, arguments: &[&str]) -> String {
    let output = millrace(folder, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    said(&output)
}

/// A folder with the definition and its components.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["fahrenheit-to-celsius", "above-limit"] {
        let file = folder.path().join(name).with_extension("wasm");
        fs::copy(example(name), file).unwrap();
    }
    fs::write(folder.path().join("pipeline.yaml"), DEFINITION).unwrap();
    folder
}

/// The component says that it is this version from now on.
fn become_version(folder: &Path, name: &str, version: &str) {
    let file = folder.join(name).with_extension("wasm");
    let bytes = fs::read(example(name)).unwrap();
    let version = version.parse().unwrap();
    fs::write(file, millrace_pipeline::with_component_version(bytes, &version)).unwrap();
}

fn digests(output: &Output) -> Vec<String> {
    assert!(output.status.success(), "{}", said(output));
    let built: Value = serde_json::from_slice(&output.stdout).unwrap();
    let stages = built.as_array().unwrap();
    stages.iter().map(|stage| stage["digest"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn parameters_come_from_the_command_line() {
    let folder = folder();
    let at = folder.path();
    let plan = done(at, &["plan", "pipeline.yaml", "--param", "limit=90"]);
    for part in [
        "parameter limit: `90`",
        "given with --param",
        "parameter site: `north`",
        "from the binding",
    ] {
        assert!(plan.contains(part), "{plan}");
    }
    let both = ["--json", "--param", "limit=120.5", "--param", "site=a=b"];
    let plan = millrace(at, &[&["plan", "pipeline.yaml"][..], &both].concat());
    let plan: Value = serde_json::from_slice(&plan.stdout).unwrap();
    assert_eq!(plan["stages"][0]["steps"][1]["config"]["limit"], "120.5");
    assert_eq!(plan["sources"][0]["settings"]["topic"], "a=b/#");

    let said = refused(at, &["lint", "pipeline.yaml", "--param", "limt=90"], 3);
    assert!(said.contains("did you mean `limit`?"), "{said}");
    let said = refused(at, &["build", "pipeline.yaml", "--param", "limit=900"], 3);
    assert!(said.contains("it must be 200 or less"), "{said}");
    let said = refused(at, &["plan", "pipeline.yaml", "--param", "limit"], 2);
    assert!(said.contains("NAME=VALUE"), "{said}");
    let said =
        refused(at, &["plan", "pipeline.yaml", "--param", "limit=1", "--param", "limit=2"], 1);
    assert!(said.contains("gives `limit` twice"), "{said}");
}

#[test]
fn a_test_runs_with_the_values_that_are_given() {
    let folder = folder();
    done(folder.path(), &["test", "pipeline.yaml"]);
    let said = refused(folder.path(), &["test", "pipeline.yaml", "--param", "limit=120"], 1);
    assert!(said.contains("1 failed"), "{said}");
}

#[test]
fn a_lock_holds_what_was_built() {
    let folder = folder();
    let at = folder.path();
    for command in ["build", "manifest", "deploy"] {
        let said = refused(at, &[command, "pipeline.yaml", "--locked"], 1);
        assert!(said.contains("there is no pipeline.lock"), "{said}");
        assert!(said.contains("`millrace pipeline lock pipeline.yaml` writes it"), "{said}");
    }
    let text = done(at, &["lock", "pipeline.yaml"]);
    assert!(text.contains("pipeline.lock is written"), "{text}");
    let lock = fs::read(at.join("pipeline.lock")).unwrap();
    assert!(done(at, &["lock", "pipeline.yaml"]).contains("is as it was"));
    assert_eq!(fs::read(at.join("pipeline.lock")).unwrap(), lock);

    // The same definition and lock make the same artifacts, wherever they are.
    let first = digests(&millrace(at, &["build", "pipeline.yaml", "--locked", "--json"]));
    let other = self::folder();
    fs::write(other.path().join("pipeline.lock"), &lock).unwrap();
    let second =
        digests(&millrace(other.path(), &["build", "pipeline.yaml", "--locked", "--json"]));
    assert_eq!(first, second);

    // A file that has changed is refused by everything that makes something of it.
    become_version(at, "above-limit", "1.4.0");
    for command in ["build", "manifest", "deploy", "test", "lock"] {
        let said = refused(at, &[command, "pipeline.yaml"], 1);
        let now = &said.split("sha256:").collect::<Vec<_>>();
        assert_eq!(now.len(), 3, "both digests: {said}");
        for part in [
            "pipeline.lock does not fit",
            "`above-limit` (above-limit.wasm)",
            "version 1.4.0",
            "`millrace pipeline lock --update pipeline.yaml`",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
    }
    done(at, &["lint", "pipeline.yaml"]);
    assert!(done(at, &["lock", "pipeline.yaml", "--update"]).contains("1.4.0"));
    done(at, &["test", "pipeline.yaml"]);
    assert_ne!(digests(&millrace(at, &["build", "pipeline.yaml", "--json"])), first);
}

#[test]
fn a_lock_that_is_none_or_of_another_is_refused() {
    let folder = folder();
    let at = folder.path();
    done(at, &["lock", "pipeline.yaml"]);
    let file = at.join("pipeline.lock");
    let lock = fs::read_to_string(&file).unwrap();

    fs::write(&file, &lock[..lock.len() / 2]).unwrap();
    for command in ["build", "test", "lock"] {
        let said = refused(at, &[command, "pipeline.yaml"], 1);
        assert!(said.contains("pipeline.lock is no lock file: EOF"), "{said}");
        assert!(said.contains("--update pipeline.yaml` writes it anew"), "{said}");
    }
    fs::write(&file, lock.replace("\"alerts\"", "\"hall\"")).unwrap();
    let said = refused(at, &["build", "pipeline.yaml"], 1);
    assert!(said.contains("the lock is for the pipeline `hall`, not for `alerts`"), "{said}");

    let mut less: Value = serde_json::from_str(&lock).unwrap();
    less["components"].as_object_mut().unwrap().remove("above-limit");
    fs::write(&file, less.to_string()).unwrap();
    let said = refused(at, &["build", "pipeline.yaml"], 1);
    assert!(
        said.contains("the component `above-limit` (above-limit.wasm) is not in the lock"),
        "{said}"
    );

    let mut old: Value = serde_json::from_str(&lock).unwrap();
    old["harness"]["version"] = "0.0.1".into();
    fs::write(&file, old.to_string()).unwrap();
    let said = refused(at, &["build", "pipeline.yaml"], 1);
    assert!(said.contains("the harness of this platform is version"), "{said}");

    done(at, &["lock", "pipeline.yaml", "--update"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), lock);
}

/// The lock is beside the file that names the components.
#[test]
fn a_binding_in_a_file_of_its_own_has_its_lock() {
    let folder = folder();
    let at = folder.path();
    let (graph, binding) = DEFINITION.split_once("binding:").unwrap();
    let (binding, tests) = binding.split_once("tests:").unwrap();
    fs::write(at.join("pipeline.yaml"), format!("{graph}tests:{tests}")).unwrap();
    fs::write(at.join("hall.yaml"), format!("millrace: v1alpha1\nbinding:{binding}")).unwrap();
    done(at, &["lock", "pipeline.yaml", "--binding", "hall.yaml"]);
    assert!(at.join("hall.lock").is_file() && !at.join("pipeline.lock").exists());
    become_version(at, "above-limit", "2.0.0");
    let said = refused(at, &["build", "pipeline.yaml", "--binding", "hall.yaml"], 1);
    assert!(
        said.contains("`millrace pipeline lock --update pipeline.yaml --binding hall.yaml`"),
        "{said}"
    );
}

#[test]
fn a_version_that_is_wanted_and_not_there_is_said() {
    let folder = folder();
    let at = folder.path();
    let wanted =
        DEFINITION.replace("file: above-limit.wasm", "file: above-limit.wasm, version: \"^1.2\"");
    fs::write(at.join("pipeline.yaml"), wanted).unwrap();
    let said = refused(at, &["build", "pipeline.yaml"], 3);
    assert!(
        said.contains("above-limit.wasm does not say its version, and ^1.2 is wanted"),
        "{said}"
    );
    become_version(at, "above-limit", "2.0.0");
    let said = refused(at, &["build", "pipeline.yaml"], 3);
    assert!(said.contains("above-limit.wasm is version 2.0.0, and ^1.2 is wanted"), "{said}");
    become_version(at, "above-limit", "1.3.0");
    done(at, &["build", "pipeline.yaml"]);
    let inspect = support::millrace(at, &["step", "inspect", "--json", "above-limit.wasm"]);
    let inspect: Value = serde_json::from_slice(&inspect.stdout).unwrap();
    assert_eq!(inspect["version"], "1.3.0");
}

/// A called file is planned, tested, built and locked with what calls it.
#[test]
fn a_sub_pipeline_is_part_of_what_calls_it() {
    let folder = folder();
    let at = folder.path();
    fs::create_dir(at.join("parts")).unwrap();
    fs::rename(at.join("above-limit.wasm"), at.join("parts/above-limit.wasm")).unwrap();
    let part = |limit: &str| {
        let text = format!(
            r#"
millrace: v1alpha1
pipeline: part
version: 0.1.0
parameters: {{ limit: {limit} }}
sources: [raw]
steps:
  check:
    filter: above-limit
    from: raw
    config: {{ limit: "${{limit}}" }}
sinks:
  out: {{ from: check }}
binding:
  components:
    above-limit: {{ file: above-limit.wasm }}
"#
        );
        fs::write(at.join("parts/part.yaml"), text).unwrap();
    };
    part("20");
    let calling = DEFINITION
        .replace("    filter: above-limit\n", "    pipeline: part\n")
        .replace("    config:\n      limit", "    parameters:\n      limit")
        .replace("above-limit: { file: above-limit.wasm }", "X")
        .replace("    X\n", "  pipelines:\n    part: { file: ./parts/part.yaml }\n");
    fs::write(at.join("pipeline.yaml"), &calling).unwrap();

    let plan = done(at, &["plan", "pipeline.yaml"]);
    assert!(plan.contains("too-hot-check"), "{plan}");
    done(at, &["test", "pipeline.yaml"]);
    refused(at, &["test", "pipeline.yaml", "--param", "limit=120"], 1);
    // By itself it has nothing to read from.
    refused(at, &["lint", "parts/part.yaml"], 3);

    let text = done(at, &["lock", "pipeline.yaml"]);
    for listed in ["too-hot/above-limit", "./parts/part.yaml"] {
        assert!(text.contains(listed), "{text}");
    }
    digests(&millrace(at, &["build", "pipeline.yaml", "--locked", "--json"]));
    part("30");
    let said = refused(at, &["build", "pipeline.yaml"], 1);
    assert!(
        said.contains("the sub-pipeline of `too-hot` (./parts/part.yaml) is sha256:"),
        "{said}"
    );

    fs::write(at.join("parts/part.yaml"), "millrace: v1alpha1\nsources: [raw]\n").unwrap();
    let said = refused(at, &["lint", "pipeline.yaml"], 3);
    for part in
        ["the sub-pipeline `parts/part.yaml` has", "--> parts/part.yaml:1:1", "`sinks` is missing"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
}
