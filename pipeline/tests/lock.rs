//! Components of the version and with the digest that are wanted, and the lock file.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use millrace_pipeline::{Loaded, Lock, LockedHarness, Options, load_files, with_component_version};

/// The least component there is.
const EMPTY: &[u8] = b"\0asm\x0d\0\x01\0";

const DEFINITION: &str = r#"
millrace: v1alpha1
pipeline: alerts
version: 0.1.0
sources: [machine]
steps:
  celsius: { map: to-celsius, from: machine }
  too-hot: { filter: above-limit, from: celsius }
  hotter: { filter: above-limit, from: too-hot }
sinks:
  alerts: { from: hotter }
binding:
  sources:
    machine: { mqtt: { url: "mqtt://localhost", topic: a } }
  sinks:
    alerts: { mqtt: { url: "mqtt://localhost", topic: b } }
  components:
    to-celsius: { file: to-celsius.wasm }
    above-limit: { file: ./above-limit.wasm }
"#;

fn component(folder: &Path, name: &str, version: Option<&str>) {
    let bytes = match version {
        Some(version) => with_component_version(EMPTY.to_vec(), &version.parse().unwrap()),
        None => EMPTY.to_vec(),
    };
    fs::write(folder.join(name).with_extension("wasm"), bytes).unwrap();
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    component(folder.path(), "to-celsius", None);
    component(folder.path(), "above-limit", Some("1.2.3"));
    folder
}

fn read(folder: &Path, definition: &str) -> Loaded {
    let file = folder.join("pipeline.yaml");
    fs::write(&file, definition).unwrap();
    load_files(&file, None, &Options { check_files: true, ..Options::default() }).unwrap()
}

fn harness(version: &str, digest: char) -> LockedHarness {
    let digest = format!("sha256:{}", digest.to_string().repeat(64));
    LockedHarness {
        version: version.to_owned(),
        parts: BTreeMap::from([("intake".to_owned(), digest)]),
    }
}

fn lock(folder: &Path, definition: &str) -> Lock {
    let loaded = read(folder, definition);
    assert!(loaded.findings().is_empty(), "{}", loaded.render(false));
    loaded.lock(harness("0.1.0", '0')).unwrap().unwrap()
}

fn differences(locked: &Lock, now: &Lock) -> Vec<String> {
    locked.differences(now).iter().map(ToString::to_string).collect()
}

#[test]
fn a_component_has_the_version_that_is_wanted() {
    let folder = folder();
    let wanted = |version: &str| {
        let to = format!("./above-limit.wasm, version: \"{version}\" }}");
        read(folder.path(), &DEFINITION.replace("./above-limit.wasm }", &to))
    };
    for right in ["1.2", "^1.2.3", "=1.2.3", ">=1, <2", "*"] {
        assert!(wanted(right).findings().is_empty(), "{right}");
    }
    for (wrong, says) in [
        ("2", "above-limit.wasm is version 1.2.3, and 2 is wanted"),
        (">=1, <1.2", "is version 1.2.3, and >=1, <1.2 is wanted"),
        ("one", "`version` cannot be `one`"),
    ] {
        let loaded = wanted(wrong);
        let said = loaded.render(false);
        assert!(loaded.has_errors() && said.contains(says), "{said}");
        assert!(said.contains("pipeline.yaml:19:"), "{said}");
    }
    component(folder.path(), "above-limit", None);
    assert!(wanted("1").render(false).contains("above-limit.wasm does not say its version"));
    let mut odd = with_component_version(EMPTY.to_vec(), &"1.2.3".parse().unwrap());
    let end = odd.len();
    odd[end - 2] = b'x';
    fs::write(folder.path().join("above-limit.wasm"), odd).unwrap();
    assert!(wanted("1").render(false).contains("`1.2x3`, which is no semantic version"));
}

#[test]
fn a_component_has_the_digest_that_is_wanted() {
    let folder = folder();
    let digest = lock(folder.path(), DEFINITION).components["above-limit"].digest.clone();
    let to = format!("./above-limit.wasm, digest: \"{digest}\" }}");
    let definition = DEFINITION.replace("./above-limit.wasm }", &to);
    assert!(read(folder.path(), &definition).findings().is_empty());

    component(folder.path(), "above-limit", Some("1.2.4"));
    let loaded = read(folder.path(), &definition);
    assert_eq!(loaded.findings().len(), 1, "{}", loaded.render(false));
    let finding = &loaded.findings()[0];
    assert_eq!(finding.rule, "component-digest");
    let now = lock(folder.path(), DEFINITION).components["above-limit"].digest.clone();
    for part in ["above-limit.wasm", digest.as_str(), now.as_str()] {
        assert!(finding.message.contains(part), "{finding}");
    }
    assert!(loaded.plan().is_err());
}

#[test]
fn a_lock_says_what_is_there_and_is_read_again() {
    let folder = folder();
    let first = lock(folder.path(), DEFINITION);
    assert_eq!(first.components.keys().collect::<Vec<_>>(), ["above-limit", "to-celsius"]);
    let above = &first.components["above-limit"];
    assert_eq!(
        (above.file.as_str(), above.version.as_deref()),
        ("./above-limit.wasm", Some("1.2.3"))
    );
    assert_eq!(first.components["to-celsius"].version, None);
    let text = first.to_text();
    assert_eq!(text, lock(folder.path(), DEFINITION).to_text());
    assert!(text.ends_with("}\n"));
    let back = Lock::parse(text.as_bytes()).unwrap();
    assert_eq!(back, first);
    assert!(back.differences(&first).is_empty());
    // What is no part of the artifacts' components is free to change.
    let other = DEFINITION.replace("topic: a", "topic: c").replace("0.1.0", "0.2.0");
    assert!(first.differences(&lock(folder.path(), &other)).is_empty());
}

#[test]
fn a_lock_tells_what_differs() {
    let folder = folder();
    let locked = lock(folder.path(), DEFINITION);
    component(folder.path(), "above-limit", Some("1.3.0"));
    let now = lock(folder.path(), DEFINITION);
    let said = differences(&locked, &now);
    let [changed] = said.as_slice() else { panic!("{said:?}") };
    for part in [
        "`above-limit` (./above-limit.wasm)",
        &now.components["above-limit"].digest,
        "version 1.3.0",
        &locked.components["above-limit"].digest,
        "version 1.2.3",
    ] {
        assert!(changed.contains(part), "{changed}");
    }

    component(folder.path(), "above-limit", Some("1.2.3"));
    component(folder.path(), "smooth", None);
    let more = DEFINITION
        .replace("filter: above-limit, from: celsius", "map: smooth, from: celsius")
        .replace("components:\n", "components:\n    smooth: { file: smooth.wasm }\n");
    assert_eq!(
        differences(&locked, &lock(folder.path(), &more)),
        ["the component `smooth` (smooth.wasm) is not in the lock"]
    );
    assert_eq!(
        differences(&lock(folder.path(), &more), &locked),
        ["the lock has the component `smooth`, which no step uses"]
    );
    let moved = lock(folder.path(), &DEFINITION.replace("./above", "above"));
    let said = differences(&locked, &moved);
    assert_eq!(
        said,
        [
            "the component `above-limit` is above-limit.wasm, and the lock has it as ./above-limit.wasm"
        ]
    );
    let other = lock(folder.path(), &DEFINITION.replace("pipeline: alerts", "pipeline: hall"));
    assert_eq!(
        differences(&locked, &other),
        ["the lock is for the pipeline `alerts`, not for `hall`"]
    );

    let with = |harness| Lock { harness, ..locked.clone() };
    assert_eq!(
        differences(&locked, &with(harness("0.2.0", '1'))),
        ["the harness of this platform is version 0.2.0, and the lock has 0.1.0"]
    );
    let said = differences(&locked, &with(harness("0.1.0", '1')));
    assert!(said[0].starts_with("the part `intake` of the harness is sha256:1111"), "{said:?}");
    let said = differences(&locked, &with(LockedHarness::default()));
    assert_eq!(said.len(), 1);
}

#[test]
fn a_damaged_lock_is_refused() {
    let folder = folder();
    let text = lock(folder.path(), DEFINITION).to_text();
    let long = " ".repeat(1 << 20) + &text;
    for (wrong, says) in [
        ("", "EOF"),
        ("{}", "missing field"),
        (&text[..text.len() / 2], "EOF"),
        (&text.replace("\"millrace-lock\": 1", "\"millrace-lock\": 2"), "its form is 2"),
        (&text.replacen("sha256:", "md5:", 1), "the digest of `above-limit` is none"),
        (&text.replace("\"file\"", "\"flie\""), "flie"),
        (&long, "longer than 1048576 bytes"),
    ] {
        let error = Lock::parse(wrong.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    assert!(Lock::parse(&[0xff]).is_err());
}

#[test]
fn a_component_that_is_gone_cannot_be_locked() {
    let folder = folder();
    let loaded = read(folder.path(), DEFINITION);
    fs::remove_file(folder.path().join("to-celsius.wasm")).unwrap();
    let error = loaded.lock(harness("0.1.0", '0')).unwrap_err().to_string();
    assert!(error.contains("to-celsius.wasm"), "{error}");
}
