//! The files under `vectors/` are written by a second implementation; reader and writer must agree with it byte by byte.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use millrace_batch::{Batch, BatchWriter, Fields};
use serde_json::Value;

fn files(kind: &str) -> Vec<(PathBuf, Vec<u8>, Value)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors").join(kind);
    let mut found: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "bin"))
        .map(|path| {
            let json = fs::read_to_string(path.with_extension("json")).unwrap();
            (path.clone(), fs::read(&path).unwrap(), serde_json::from_str(&json).unwrap())
        })
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    assert!(found.len() >= 6, "vectors are missing");
    found
}

fn hex(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap();
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

fn headers(value: &Value) -> Vec<(&str, &str)> {
    value.as_array().map_or(Vec::new(), |entries| {
        entries
            .iter()
            .map(|entry| (entry[0].as_str().unwrap(), entry[1].as_str().unwrap()))
            .collect()
    })
}

#[test]
fn valid_vectors_are_read_and_written_back_byte_for_byte() {
    for (path, bytes, json) in files("valid") {
        let batch =
            Batch::parse(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(
            batch.headers().collect::<Vec<_>>(),
            headers(&json["headers"]),
            "{}",
            path.display()
        );
        let expected = json["messages"].as_array().unwrap();
        assert_eq!(batch.messages().count(), expected.len());

        let mut writer = BatchWriter::new(headers(&json["headers"])).unwrap();
        for (message, json) in batch.messages().zip(expected) {
            let key = json.get("key").map(hex);
            let payload = hex(&json["payload"]);
            let fields = Fields {
                timestamp: json["timestamp"].as_u64().unwrap(),
                topic: json["topic"].as_str().unwrap(),
                content_type: json.get("content_type").map(|text| text.as_str().unwrap()),
                key: key.as_deref(),
                payload: &payload,
            };
            assert_eq!(Fields::from(&message), fields, "{}", path.display());
            assert_eq!(message.headers().collect::<Vec<_>>(), headers(&json["headers"]));
            writer.push(&fields, headers(&json["headers"])).unwrap();
        }
        assert_eq!(writer.finish(), bytes, "{}", path.display());
    }
}

#[test]
fn invalid_vectors_are_refused_with_the_offset_and_the_field() {
    for (path, bytes, json) in files("invalid") {
        let error = Batch::parse(&bytes).expect_err(&path.display().to_string());
        assert_eq!(error.to_string(), json["error"].as_str().unwrap(), "{}", path.display());
    }
}

/// The reader printed in the documentation. Python is on every machine that builds this project, but is not demanded.
#[test]
fn the_documented_reader_reads_the_vectors() {
    if Command::new("python3").arg("--version").output().is_err() {
        eprintln!("skipped: no python3");
        return;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/read_batch.py");
    for (path, _, expected) in files("valid") {
        let output = Command::new("python3").arg(&script).arg(&path).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut found: Value = serde_json::from_slice(&output.stdout).unwrap();
        for (message, expected) in found["messages"]
            .as_array_mut()
            .unwrap()
            .iter_mut()
            .zip(expected["messages"].as_array().unwrap())
        {
            if expected.get("headers").is_none() {
                assert_eq!(
                    message.as_object_mut().unwrap().remove("headers"),
                    Some(Value::Array(Vec::new()))
                );
            }
        }
        assert_eq!(found, expected, "{}", path.display());
    }
}
