//! Edits of a definition's text: what is meant is there afterwards, and everything else is as it was.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::fs;
use std::path::{Path, PathBuf};

use millrace_pipeline::edit::{EditError, Editor, Value, write};
use millrace_pipeline::{Document, Input, Options, Pipeline, load};
use proptest::prelude::*;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn yaml_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "build" && name != "node_modules" && name != "target" {
            yaml_files(&path, files);
        } else if path.extension().is_some_and(|e| e == "yaml") {
            files.push(path);
        }
    }
}

/// Every definition and binding of the samples, the golden files and the documentation.
fn texts() -> Vec<(String, String)> {
    let mut files = Vec::new();
    for folder in [
        "samples",
        "pipeline/tests/golden/valid",
        "pipeline/tests/golden/invalid",
        "pipeline/tests/golden/binding",
    ] {
        yaml_files(&root().join(folder), &mut files);
    }
    files.sort();
    let mut texts: Vec<(String, String)> = files
        .into_iter()
        .filter_map(|file| Some((file.display().to_string(), fs::read_to_string(&file).ok()?)))
        .filter(|(_, text)| text.contains("millrace:"))
        .collect();
    let mut pages = vec![root().join("docs/pipeline.md"), root().join("README.md")];
    pages.extend(fs::read_dir(root().join("docs/connectors")).unwrap().map(|e| e.unwrap().path()));
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        let blocks = text.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
        for (at, block) in blocks.filter(|block| block.starts_with("millrace:")).enumerate() {
            texts.push((format!("{} {at}", page.display()), block.to_owned()));
        }
    }
    texts
}

fn model(text: &str) -> Option<Pipeline> {
    load(Document { file: "pipeline.yaml", text }, None, &Options::default()).pipeline().cloned()
}

/// Those without errors, with their models.
fn right() -> Vec<(String, String, Pipeline)> {
    let right = texts().into_iter().filter_map(|(name, text)| {
        let loaded =
            load(Document { file: "pipeline.yaml", text: &text }, None, &Options::default());
        let model = loaded.pipeline().filter(|_| !loaded.has_errors())?.clone();
        Some((name, text, model))
    });
    right.collect()
}

#[test]
fn a_model_that_has_not_changed_changes_no_byte() {
    let mut compared = 0;
    for (name, text) in texts() {
        for text in [text.replace('\n', "\r\n"), text] {
            let Some(model) = model(&text) else { continue };
            let mut editor = Editor::new(text.as_str()).unwrap();
            editor.apply(&model).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(editor.text(), text, "{name}");
            compared += 1;
        }
    }
    assert!(compared > 150, "{compared}");
}

#[test]
fn every_model_can_be_written() {
    let right = right();
    assert!(right.len() > 40, "{}", right.len());
    for (name, _, pipeline) in right {
        let written = write(&pipeline).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(model(&written).unwrap(), pipeline, "{name}\n{written}");
    }
}

/// Any definition becomes any other; each is tried with a third of them.
#[test]
fn every_text_becomes_every_model() {
    let right = right();
    let (mut done, mut tried) = (0, 0);
    for (number, (name, text, _)) in right.iter().enumerate() {
        for (other, _, pipeline) in right.iter().skip(number % 3).step_by(3) {
            tried += 1;
            let mut editor = Editor::new(text.as_str()).unwrap();
            match editor.apply(pipeline) {
                Ok(()) => {
                    assert_eq!(model(editor.text()).unwrap(), *pipeline);
                    done += 1;
                }
                Err(error) => {
                    println!("{name} -> {other}: {error}");
                    assert_eq!(editor.text(), text, "{name} -> {other}");
                }
            }
        }
    }
    assert!(tried > 800, "{tried}");
    assert_eq!(done, tried);
}

fn yaml(text: &str) -> Value {
    text.parse().unwrap()
}

type Edit = fn(&mut Editor) -> Result<(), EditError>;

/// Text before, edit, text after; also with the other line ends.
fn check(cases: &[(&str, Edit, &str)]) {
    let mut wrong = String::new();
    for (number, (before, edit, after)) in cases.iter().enumerate() {
        for ends in ["\n", "\r\n"] {
            let (before, after) = (before.replace('\n', ends), after.replace('\n', ends));
            let mut editor = Editor::new(before).unwrap();
            let done = edit(&mut editor);
            if done.is_err() || editor.text() != after {
                wrong += &format!(
                    "--- case {number} {ends:?} {done:?}\n{after}--- is\n{}\n",
                    editor.text()
                );
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn values_are_set() {
    check(&[
        // Quotes, comments and blanks stay.
        ("a: 1  # one\nb: 2\n", |e| e.set("a", &yaml("7")), "a: 7  # one\nb: 2\n"),
        ("a: 'x'\n", |e| e.set("a", &yaml("it's")), "a: 'it''s'\n"),
        ("a: \"x\" # x\n", |e| e.set("a", &yaml("say \"no\"")), "a: \"say \\\"no\\\"\" # x\n"),
        ("a: x\n", |e| e.set("a", &Value::Text("85".into())), "a: \"85\"\n"),
        ("a: \"80\"\n", |e| e.set("a", &Value::Word("85".into())), "a: \"85\"\n"),
        ("a: \"80\"\n", |e| e.set("a", &yaml("85")), "a: 85\n"),
        ("a: x", |e| e.set("a", &yaml("z")), "a: z"),
        // What YAML, or another reader of it, would take for something else has quotes.
        ("a: x\n", |e| e.set("a", &Value::Text("no".into())), "a: \"no\"\n"),
        ("a: x\n", |e| e.set("a", &Value::Text("null".into())), "a: \"null\"\n"),
        ("a: x\n", |e| e.set("a", &Value::Text(String::new())), "a: \"\"\n"),
        ("a: x\n", |e| e.set("a", &Value::Text("plant/#".into())), "a: plant/#\n"),
        ("a: x\n", |e| e.set("a", &Value::Text("a #b".into())), "a: \"a #b\"\n"),
        ("a: x\n", |e| e.set("a", &Value::Text("mqtt://h:1883".into())), "a: mqtt://h:1883\n"),
        (
            "a: { b: x }\n",
            |e| e.set("a.b", &Value::Text("mqtt://h".into())),
            "a: { b: \"mqtt://h\" }\n",
        ),
        ("a: x\n", |e| e.set("a", &Value::Text("10:30".into())), "a: \"10:30\"\n"),
        ("a: x\n", |e| e.set("a", &Value::Text("0x1f".into())), "a: \"0x1f\"\n"),
        ("a: x\n", |e| e.set("a", &Value::Text("tab\there".into())), "a: \"tab\\there\"\n"),
        ("a: x\n", |e| e.set("a", &Value::Text("16MiB".into())), "a: 16MiB\n"),
        ("a: x\n", |e| e.set("a", &Value::Text("grün ☃".into())), "a: grün ☃\n"),
        ("a: x\n", |e| e.set("a", &Value::Text("-".into())), "a: \"-\"\n"),
        // Nothing becomes something, and the other way round.
        ("a: # about\nb: 2\n", |e| e.set("a", &yaml("1")), "a: 1 # about\nb: 2\n"),
        ("a: # about\nb: 2\n", |e| e.set("a.x", &yaml("1")), "a: { x: 1 } # about\nb: 2\n"),
        ("a: x # about\n", |e| e.set("a", &Value::Null), "a: # about\n"),
        // Texts of several lines.
        (
            "a:\n  b: x # it\n  c: 2\n",
            |e| e.set("a.b", &Value::Text("one\ntwo\n".into())),
            "a:\n  b: | # it\n    one\n    two\n  c: 2\n",
        ),
        ("a: |\n  one\n  two\n\nb: 1\n", |e| e.set("a", &yaml("three")), "a: three\n\nb: 1\n"),
        (
            "a: { b: x }\n",
            |e| e.set("a.b", &Value::Text("one\ntwo".into())),
            "a: { b: \"one\\ntwo\" }\n",
        ),
        // Another shape.
        (
            "a:\n  # of b\n  b: 1\n  c: 2 # c\nd: 1 # d\n",
            |e| e.set("a", &yaml("x")),
            "a: x\nd: 1 # d\n",
        ),
        (
            "a: x # about\nb: 1\n",
            |e| e.set("a", &yaml("{ c: 1, d: [2, 3] }")),
            "a: { c: 1, d: [2, 3] } # about\nb: 1\n",
        ),
        ("a: [1, 2]\n", |e| e.set("a", &yaml("x")), "a: x\n"),
        ("a:\n  - 1\n  - 2 # two\n", |e| e.set("a[1]", &yaml("5")), "a:\n  - 1\n  - 5 # two\n"),
        (
            "a:\n  - 1\n  - b: 2\n",
            |e| e.set("a[1].b", &yaml("{ c: 1 }")),
            "a:\n  - 1\n  - b: { c: 1 }\n",
        ),
        ("a:\n  - 1\n  - b: 2\n    c: 3\n", |e| e.set("a[1]", &yaml("x")), "a:\n  - 1\n  - x\n"),
        // Only what differs.
        (
            "a:\n  b: 1 # b\n  c: [1, 2] # c\n",
            |e| e.set("a", &yaml("{ b: 1, c: [1, 3] }")),
            "a:\n  b: 1 # b\n  c: [1, 3] # c\n",
        ),
        (
            "a:\n  b: 1 # b\n  # of c\n  c: 2\n",
            |e| e.set("a", &yaml("{ d: 3, b: 1 }")),
            "a:\n  b: 1 # b\n  d: 3\n",
        ),
        ("a: [1, 2, 3, 4]\n", |e| e.set("a", &yaml("[1, 3, 4]")), "a: [1, 3, 4]\n"),
        (
            "a:\n- 1\n# two\n- 2\n- 3\n",
            |e| e.set("a", &yaml("[1, 3, 5, 6]")),
            "a:\n- 1\n# two\n- 3\n- 5\n- 6\n",
        ),
        // The order of `config` is that of the JSON which a component gets.
        (
            "steps: { s: { config: { j: { a: 1, b: 2 } } } }\n",
            |e| e.set("steps.s.config.j", &yaml("{ b: 2, a: 1 }")),
            "steps: { s: { config: { j: { b: 2, a: 1 } } } }\n",
        ),
        (
            "steps: { s: { other: { a: 1, b: 2 } } }\n",
            |e| e.set("steps.s.other", &yaml("{ b: 2, a: 1 }")),
            "steps: { s: { other: { a: 1, b: 2 } } }\n",
        ),
        // Names with other characters.
        ("\"a.b\": 1\n", |e| e.set("`a.b`", &yaml("2")), "\"a.b\": 2\n"),
    ]);
}

#[test]
fn what_is_new_looks_like_what_is_around_it() {
    check(&[
        ("a: { b: 1 }\n", |e| e.set("a.c", &yaml("2")), "a: { b: 1, c: 2 }\n"),
        ("a: {b: 1}\n", |e| e.set("a.c", &yaml("2")), "a: {b: 1, c: 2}\n"),
        ("a: {}\n", |e| e.set("a.c", &yaml("2")), "a: { c: 2 }\n"),
        ("a: []\n", |e| e.set("a[0]", &yaml("2")), "a: [2]\n"),
        ("a: [1]\n", |e| e.set("a[1]", &yaml("2")), "a: [1, 2]\n"),
        ("a: [1, 2,]\n", |e| e.insert("a", None, &yaml("3")), "a: [1, 2, 3,]\n"),
        ("a: [1, 2]\n", |e| e.insert("a", Some(0), &yaml("3")), "a: [3, 1, 2]\n"),
        ("a: [1, 2]\n", |e| e.insert("a", Some(1), &yaml("3")), "a: [1, 3, 2]\n"),
        (
            "a:\n  b: 1 # b\n\nd: 2\n",
            |e| e.set("a.c", &yaml("x")),
            "a:\n  b: 1 # b\n  c: x\n\nd: 2\n",
        ),
        ("a:\n    b: 1", |e| e.set("a.c", &yaml("x")), "a:\n    b: 1\n    c: x"),
        (
            "a:\n    b: 1\n",
            |e| e.set("a.c.d.e.f", &yaml("x")),
            "a:\n    b: 1\n    c:\n        d: { e: { f: x } }\n",
        ),
        // A blank line between the others is one before the new.
        (
            "a:\n  b:\n    x: 1\n\n  c:\n    x: 2\nz: 1\n",
            |e| e.set("a.d", &yaml("{ x: 3 }")),
            "a:\n  b:\n    x: 1\n\n  c:\n    x: 2\n\n  d:\n    x: 3\nz: 1\n",
        ),
        (
            "a:\n  b: { x: 1 }\n",
            |e| e.set("a.c", &yaml("{ x: 3 }")),
            "a:\n  b: { x: 1 }\n  c: { x: 3 }\n",
        ),
        (
            "a:\n  - 1\n  - 2\n",
            |e| e.insert("a", Some(1), &yaml("{ b: 1 }")),
            "a:\n  - 1\n  - { b: 1 }\n  - 2\n",
        ),
        (
            "a:\n- x: 1\n  y: 2\n",
            |e| e.insert("a", Some(0), &yaml("{ b: 1, c: 2 }")),
            "a:\n- b: 1\n  c: 2\n- x: 1\n  y: 2\n",
        ),
        ("a:\n  - x: 1\n", |e| e.set("a[0].z", &yaml("2")), "a:\n  - x: 1\n    z: 2\n"),
        // Comments further to the right belong to what is before.
        (
            "a:\n  b:\n    x: 1\n    # y: 2\n# z\nz: 1\n",
            |e| e.set("a.c", &yaml("3")),
            "a:\n  b:\n    x: 1\n    # y: 2\n  c: 3\n# z\nz: 1\n",
        ),
        // Braces with a line for each.
        (
            "a: {\n  b: 1, # b\n  c: 2 # c\n}\n",
            |e| e.set("a.d", &yaml("3")),
            "a: {\n  b: 1, # b\n  c: 2, # c\n  d: 3\n}\n",
        ),
        (
            "a: {\n  b: 1, # b\n  c: 2, # c\n}\n",
            |e| e.set("a.d", &yaml("3")),
            "a: {\n  b: 1, # b\n  c: 2, # c\n  d: 3,\n}\n",
        ),
        // The sections have an order.
        (
            "pipeline: p\nsources: [a]\nsinks:\n  b: { from: a }\n",
            |e| e.set("steps.s", &yaml("{ map: m, from: a }")),
            "pipeline: p\nsources: [a]\nsteps:\n  s: { map: m, from: a }\nsinks:\n  b: { from: a }\n",
        ),
        // A list of names with something to say of one.
        (
            "sources: [a, b]\n",
            |e| e.set("sources.b.description", &yaml("hall")),
            "sources: { a: {}, b: { description: hall } }\n",
        ),
        (
            "sources:\n  - a # one\n  - b # two\n",
            |e| e.set("sources.b.description", &yaml("hall")),
            "sources:\n  a: # one\n  b: { description: hall } # two\n",
        ),
    ]);
}

#[test]
fn what_is_removed_takes_its_comments_along() {
    check(&[
        ("a: { b: 1, c: 2, d: 3 }\n", |e| e.remove("a.b"), "a: { c: 2, d: 3 }\n"),
        ("a: { b: 1, c: 2, d: 3 }\n", |e| e.remove("a.c"), "a: { b: 1, d: 3 }\n"),
        ("a: { b: 1, c: 2, d: 3 }\n", |e| e.remove("a.d"), "a: { b: 1, c: 2 }\n"),
        ("a: { b: 1 } # a\n", |e| e.remove("a.b"), "a: {} # a\n"),
        ("a: [1, 2]\n", |e| e.remove("a[0]"), "a: [2]\n"),
        ("a: [1]\n", |e| e.remove("a[0]"), "a: []\n"),
        (
            "a: {\n  b: 1, # b\n  # of c\n  c: 2, # c\n  d: 3 # d\n}\n",
            |e| e.remove("a.c"),
            "a: {\n  b: 1, # b\n  d: 3 # d\n}\n",
        ),
        ("a: {\n  b: 1, # b\n  d: 3 # d\n}\n", |e| e.remove("a.d"), "a: {\n  b: 1 # b\n}\n"),
        (
            "# head\na: 1 # a\n# of b\n# and more\nb: 2 # b\n# of c\nc: 3 # c\n",
            |e| e.remove("b"),
            "# head\na: 1 # a\n# of c\nc: 3 # c\n",
        ),
        ("# head\na: 1\nb: 2\n", |e| e.remove("a"), "# head\nb: 2\n"),
        ("a: 1\n\n# apart\n\nb: 2\n\nc: 3\n", |e| e.remove("b"), "a: 1\n\n# apart\n\nc: 3\n"),
        (
            "a:\n  b: 1\n  c:\n    d: 1\n    # e: 2\n# of z\nz: 1\n",
            |e| e.remove("a.c"),
            "a:\n  b: 1\n# of z\nz: 1\n",
        ),
        ("a:\n  # of b\n  b: 1 # b\nz: 1\n", |e| e.remove("a.b"), "a: {}\nz: 1\n"),
        ("a: # it\n  - 1\nz: 1\n", |e| e.remove("a[0]"), "a: [] # it\nz: 1\n"),
        (
            "a:\n  - b: 1 # b\n    # of c\n    c: 2\n",
            |e| e.remove("a[0].b"),
            "a:\n  - # of c\n    c: 2\n",
        ),
        ("a:\n  - b: 1\n    c: 2\n  - x\n", |e| e.remove("a[0]"), "a:\n  - x\n"),
        ("a:\n  - b: 1\n  - x\n", |e| e.remove("a[0].b"), "a:\n  - {}\n  - x\n"),
        ("a: |\n  # no comment\nb: 1\n", |e| e.remove("b"), "a: |\n  # no comment\n"),
        ("a: |\n  # no comment\nb: 1\nc: 1\n", |e| e.remove("a"), "b: 1\nc: 1\n"),
        ("a: 1\nb: 2", |e| e.remove("b"), "a: 1\n"),
    ]);
}

const GRAPH: &str = "\
# Temperatures.
millrace: v1alpha1
pipeline: alerts
version: 0.1.0
sources: [machine] # the presses
steps:
  # Fahrenheit to Celsius.
  celsius:
    map: to-celsius
    from: machine # all of them

  sort: { branch: by-range, arms: [high, low], from: { name: celsius, durable: true } } # two ways
sinks:
  alerts: { from: sort.high }
  all:
    from:
      - 'sort.low' # low ones
      - { name: sort.high, durable: { max-age: 1h } }
      - celsius
binding:
  sources:
    machine: { mqtt: { url: \"mqtt://localhost\", topic: plant/# } }
  sinks:
    alerts: { mqtt: { url: \"mqtt://localhost\", topic: alerts } }
tests:
  told:
    inputs: { machine: [{ payload: \"1\" }] }
    outputs:
      alerts: [] # none
    rejected: { celsius: [{ kind: internal }] }
";

/// The lines that an edit of the graph has taken out and put in.
fn changed(edit: Edit) -> (Vec<String>, Vec<String>) {
    let mut editor = Editor::new(GRAPH).unwrap();
    edit(&mut editor).unwrap_or_else(|e| panic!("{e}"));
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let (before, after) = (lines(GRAPH), lines(editor.text()));
    let without = |a: &[String], b: &[String]| {
        let mut b = b.to_vec();
        a.iter()
            .filter(|line| match b.iter().position(|other| other == *line) {
                Some(at) => {
                    b.remove(at);
                    false
                }
                None => true,
            })
            .map(|line| line.trim().to_owned())
            .collect::<Vec<_>>()
    };
    (without(&before, &after), without(&after, &before))
}

#[test]
fn the_graph_is_edited_in_its_own_words() {
    let cases: [(Edit, &[&str], &[&str]); 16] = [
        (
            |e| e.rename_node("sort", "parts"),
            &[
                "sort: { branch: by-range, arms: [high, low], from: { name: celsius, durable: true } } # two ways",
                "alerts: { from: sort.high }",
                "- 'sort.low' # low ones",
                "- { name: sort.high, durable: { max-age: 1h } }",
            ],
            &[
                "parts: { branch: by-range, arms: [high, low], from: { name: celsius, durable: true } } # two ways",
                "alerts: { from: parts.high }",
                "- 'parts.low' # low ones",
                "- { name: parts.high, durable: { max-age: 1h } }",
            ],
        ),
        (
            |e| e.rename_node("machine", "press"),
            &[
                "sources: [machine] # the presses",
                "from: machine # all of them",
                "machine: { mqtt: { url: \"mqtt://localhost\", topic: plant/# } }",
                "inputs: { machine: [{ payload: \"1\" }] }",
            ],
            &[
                "sources: [press] # the presses",
                "from: press # all of them",
                "press: { mqtt: { url: \"mqtt://localhost\", topic: plant/# } }",
                "inputs: { press: [{ payload: \"1\" }] }",
            ],
        ),
        (
            |e| e.rename_node("alerts", "told"),
            &[
                "alerts: { from: sort.high }",
                "alerts: { mqtt: { url: \"mqtt://localhost\", topic: alerts } }",
                "alerts: [] # none",
            ],
            &[
                "told: { from: sort.high }",
                "told: { mqtt: { url: \"mqtt://localhost\", topic: alerts } }",
                "told: [] # none",
            ],
        ),
        (
            |e| e.rename_node("celsius", "c"),
            &[
                "celsius:",
                "sort: { branch: by-range, arms: [high, low], from: { name: celsius, durable: true } } # two ways",
                "- celsius",
                "rejected: { celsius: [{ kind: internal }] }",
            ],
            &[
                "c:",
                "sort: { branch: by-range, arms: [high, low], from: { name: c, durable: true } } # two ways",
                "- c",
                "rejected: { c: [{ kind: internal }] }",
            ],
        ),
        (
            |e| e.remove_node("celsius"),
            &[
                "# Fahrenheit to Celsius.",
                "celsius:",
                "map: to-celsius",
                "from: machine # all of them",
                "",
                "sort: { branch: by-range, arms: [high, low], from: { name: celsius, durable: true } } # two ways",
                "- celsius",
                "rejected: { celsius: [{ kind: internal }] }",
            ],
            &["sort: { branch: by-range, arms: [high, low] } # two ways", "rejected: {}"],
        ),
        (
            |e| e.remove_node("alerts"),
            &[
                "alerts: { from: sort.high }",
                "sinks:",
                "alerts: { mqtt: { url: \"mqtt://localhost\", topic: alerts } }",
                "outputs:",
                "alerts: [] # none",
            ],
            &["sinks: {}", "outputs: {}"],
        ),
        (
            |e| e.add_source("tank", None),
            &["sources: [machine] # the presses"],
            &["sources: [machine, tank] # the presses"],
        ),
        (
            |e| {
                e.add_step(
                    "hot",
                    &"{ filter: above, from: celsius, config: { limit: 85 } }".parse()?,
                )
            },
            &[],
            &["", "hot: { filter: above, from: celsius, config: { limit: 85 } }"],
        ),
        (
            |e| {
                e.add_sink(
                    "log",
                    &"{ from: celsius }".parse()?,
                    Some(&"{ mqtt: { url: x, topic: t } }".parse()?),
                )
            },
            &[],
            &["log:", "from: celsius", "log: { mqtt: { url: x, topic: t } }"],
        ),
        (
            |e| e.connect("celsius", "alerts"),
            &["alerts: { from: sort.high }"],
            &["alerts: { from: [sort.high, celsius] }"],
        ),
        (|e| e.connect("machine", "all"), &[], &["- machine"]),
        (|e| e.disconnect("sort.low", "all"), &["- 'sort.low' # low ones"], &[]),
        (
            |e| e.disconnect("sort.high", "alerts"),
            &["alerts: { from: sort.high }"],
            &["alerts: {}"],
        ),
        (
            |e| e.set_durable("machine", "celsius", Some(&Value::Literal("true".into()))),
            &["from: machine # all of them"],
            &["from: { name: machine, durable: true } # all of them"],
        ),
        (
            |e| e.set_durable("celsius", "sort", None),
            &[
                "sort: { branch: by-range, arms: [high, low], from: { name: celsius, durable: true } } # two ways",
            ],
            &["sort: { branch: by-range, arms: [high, low], from: celsius } # two ways"],
        ),
        (
            |e| e.set_config("celsius", "field", &Value::Text("f".into())),
            &[],
            &["config: { field: f }"],
        ),
    ];
    for (number, (edit, gone, added)) in cases.into_iter().enumerate() {
        let (were, are) = changed(edit);
        assert_eq!(
            (were, are),
            (
                gone.iter().map(|s| s.to_string()).collect(),
                added.iter().map(|s| s.to_string()).collect()
            ),
            "case {number}"
        );
    }
}

/// A test names a step of a called pipeline after the call.
#[test]
fn a_call_has_another_name_in_tests_too() {
    let text = "\
steps:
  clean: { pipeline: cleaning, inputs: { a: press } }
  clean-up: { map: m, from: clean.good }
tests:
  t: { rejected: { clean-celsius: [{ kind: trap }], clean-up: [{ kind: trap }] } }
";
    check(&[
        (
            text,
            |e| e.rename_node("clean", "wash"),
            &text
                .replace("clean:", "wash:")
                .replace("clean.good", "wash.good")
                .replace("clean-celsius", "wash-celsius"),
        ),
        (
            text,
            |e| e.remove_node("clean"),
            "steps:\n  clean-up: { map: m }\ntests:\n  t: { rejected: { clean-up: [{ kind: trap }] } }\n",
        ),
    ]);
}

#[test]
fn five_hundred_steps_are_changed_at_once() {
    let mut text = String::from(
        "millrace: v1alpha1\npipeline: large\nversion: 0.1.0\nsources: [machine]\nsteps:\n",
    );
    for i in 0..500 {
        let from = if i == 0 { "machine".to_owned() } else { format!("step-{}", i - 1) };
        text += &format!(
            "  step-{i}: # {i}\n    map: convert\n    from: {from}\n    config: {{ field: value-{i}, limit: {i} }}\n"
        );
    }
    text += "sinks: { out: { from: step-499 } }\n";
    let mut editor = Editor::new(text.as_str()).unwrap();
    let timed = |what: &str, edit: &mut dyn FnMut()| {
        let start = std::time::Instant::now();
        edit();
        let took = start.elapsed();
        println!("{what}: {took:?}");
        assert!(took.as_secs() < 5, "{what}: {took:?}");
    };
    timed("set", &mut || editor.set("steps.step-250.config.limit", &yaml("7")).unwrap());
    timed("rename", &mut || editor.rename_node("step-250", "half").unwrap());
    let mut model = editor.model().unwrap();
    model
        .steps
        .values_mut()
        .take(50)
        .for_each(|step| step.description = Some("changed".to_owned()));
    timed("apply, fifty changes", &mut || editor.apply(&model).unwrap());
    assert_eq!(editor.text().matches("changed").count(), 50);
}

#[test]
fn what_cannot_be_done_is_refused_and_changes_nothing() {
    let cases: [(Edit, &str); 17] = [
        (|e| e.remove("steps.nobody"), "there is no `steps.nobody`"),
        (
            |e| e.set("steps.celsius.map.x", &Value::Null),
            "`steps.celsius.map` is a single value, and has no `x` inside",
        ),
        (|e| e.set("a..b", &Value::Null), "is no path"),
        (|e| e.set("a[b]", &Value::Null), "is no path"),
        (|e| e.set("", &Value::Null), "is no path"),
        (|e| e.set("sinks.all.from[7]", &Value::Null), "has no `[7]` inside"),
        (|e| e.rename("steps.celsius", "sort"), "there is `steps.sort` already"),
        (|e| e.rename_node("celsius", "machine"), "there is `sources.machine` already"),
        (|e| e.rename_node("celsius", "Not A Name"), "cannot be a name"),
        (|e| e.rename_node("nobody", "somebody"), "there is no `nobody`"),
        (|e| e.remove_node("nobody"), "there is no `nobody`"),
        (|e| e.add_step("all", &Value::Null), "there is `sinks.all` already"),
        (|e| e.connect("sort.high", "alerts"), "already"),
        (|e| e.disconnect("machine", "alerts"), "there is no `sinks.alerts.from with machine`"),
        (|e| e.set_durable("machine", "alerts", None), "there is no"),
        (|e| e.set_config("nobody", "a", &Value::Null), "there is no `steps.nobody`"),
        (|e| e.set_binding("celsius", &Value::Null), "there is no `celsius`"),
    ];
    for (edit, said) in cases {
        let mut editor = Editor::new(GRAPH).unwrap();
        let error = edit(&mut editor).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
        assert_eq!(editor.text(), GRAPH);
    }
}

#[test]
fn an_edit_that_would_change_something_else_is_refused() {
    // Each text is one where the ordinary way of doing it goes wrong.
    let cases: [(&str, Edit); 5] = [
        // Behind a question mark a name is not all there is of an entry.
        ("? a\n: 1\n? b\n: 2\n", |e| e.remove("a")),
        // The blank lines belong to the text before.
        ("a: |+\n  x\n\n", |e| e.set("b", &Value::Null)),
        // A comment that is inside of what is moved to one line.
        ("s:\n  a:\n    name: x # why\n    more: 1\n", |e| e.set("s.a[0]", &Value::Null)),
        ("sources: [a, # one\n  b]\n", |e| e.remove("sources[0]")),
        ("a: 1\n", |e| e.remove("a")),
    ];
    for (text, edit) in cases {
        let mut editor = Editor::new(text).unwrap();
        let done = edit(&mut editor);
        assert!(done.is_err(), "{text} became {}", editor.text());
        assert_eq!(editor.text(), text);
    }
}

#[test]
fn what_is_no_definition_is_refused() {
    for (text, said) in [
        ("a: &x 1\nb: *x\n", "line 2, column 4: aliases are not part of the language"),
        ("a: !t 1\n", "tags are not part of the language"),
        ("a: 1\n---\nb: 1\n", "a file holds one definition"),
        ("a: [1\n", "this is not YAML"),
        ("", "empty"),
    ] {
        let error = Editor::new(text).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
    // A name for others is no use, and no harm.
    let mut editor = Editor::new("a: &x 1\nb: 2\n").unwrap();
    editor.set("a", &yaml("3")).unwrap();
    assert_eq!(editor.text(), "a: &x 3\nb: 2\n");
}

/// A text of any shape, in which every comment says what it belongs to.
struct Random {
    seed: u64,
    text: String,
    step: usize,
    /// The paths in it, and what is there: `s` a single value, `m` a mapping, `l` a list.
    paths: Vec<(String, char)>,
}

impl Random {
    fn of(seed: u64) -> Self {
        let mut random = Self { seed: seed | 1, text: String::new(), step: 2, paths: Vec::new() };
        random.step = [2, 2, 4][random.below(3)];
        if random.one_in(2) {
            random.text += "# of the file\n\n";
        }
        random.map("", 0, 0, true);
        if random.one_in(4)
            && random.text.lines().last().is_some_and(|line| !line.trim().is_empty())
        {
            random.text.pop();
        }
        if random.one_in(4) {
            random.text = random.text.replace('\n', "\r\n");
        }
        random
    }

    fn below(&mut self, end: usize) -> usize {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        (self.seed % end as u64) as usize
    }

    fn one_in(&mut self, many: usize) -> bool {
        self.below(many) == 0
    }

    fn name(&mut self, index: usize) -> String {
        let name = ["a", "key", "b-c", "with", "limit", "zeta"][index].to_owned();
        if self.one_in(8) { format!("{name}{}", self.below(9)) } else { name }
    }

    fn single(&mut self) -> &'static str {
        const SINGLE: [&str; 12] = [
            "x",
            "85",
            "true",
            "'quoted # it'",
            "\"say: # \\\" no\"",
            "plain text",
            "16MiB",
            "-1.5",
            "''",
            "\"{}\"",
            "grün",
            "0.1.0",
        ];
        SINGLE[self.below(SINGLE.len())]
    }

    fn end(&mut self, path: &str) {
        if self.one_in(3) {
            self.text += &format!(" # end of {path}.");
        }
        self.text += "\n";
    }

    fn map(&mut self, path: &str, column: usize, depth: usize, first_indented: bool) {
        let count = 1 + self.below(4);
        for index in 0..count {
            let name = self.name(index);
            let own = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            if index > 0 || first_indented {
                if index > 0 && self.one_in(4) {
                    self.text += "\n";
                }
                if self.one_in(4) && !self.text.is_empty() {
                    self.text += &format!("{}# above {own}.\n", " ".repeat(column));
                }
                self.text += &" ".repeat(column);
            }
            self.text += &format!("{name}:");
            self.value(&own, column, depth, self.step);
        }
    }

    /// What stands behind a colon or dash.
    fn value(&mut self, path: &str, column: usize, depth: usize, step: usize) {
        let what = if depth > 3 { self.below(3) } else { self.below(8) };
        match what {
            0 | 1 => {
                self.paths.push((path.to_owned(), 's'));
                let single = self.single();
                self.text += &format!(" {single}");
                self.end(path);
            }
            2 => {
                self.paths.push((path.to_owned(), 'f'));
                self.text += " ";
                self.flow(path, 0);
                self.end(path);
            }
            3 if !path.ends_with(']') => {
                self.paths.push((path.to_owned(), 's'));
                let indent = " ".repeat(column + step);
                self.text += &format!(" |\n{indent}# no comment\n{indent}  text\n");
            }
            4 if !path.ends_with(']') => {
                self.paths.push((path.to_owned(), 's'));
                self.end(path);
            }
            5 if !path.ends_with(']') => {
                self.paths.push((path.to_owned(), 'l'));
                self.end(path);
                let column = if self.one_in(3) { column } else { column + step };
                for index in 0..1 + self.below(3) {
                    let own = format!("{path}[{index}]");
                    if self.one_in(4) {
                        self.text += &format!("{}# above {own}.\n", " ".repeat(column));
                    }
                    self.text += &format!("{}-", " ".repeat(column));
                    if self.one_in(2) {
                        self.paths.push((own.clone(), 'm'));
                        self.text += " ";
                        self.map(&own, column + 2, depth + 1, false);
                    } else {
                        self.value(&own, column, 4, 2);
                    }
                }
            }
            _ if !path.ends_with(']') => {
                self.paths.push((path.to_owned(), 'm'));
                self.end(path);
                self.map(path, column + step, depth + 1, true);
            }
            _ => {
                self.paths.push((path.to_owned(), 's'));
                self.text += " x";
                self.end(path);
            }
        }
    }

    fn flow(&mut self, path: &str, depth: usize) {
        let list = self.one_in(2);
        let count = self.below(4);
        self.text += if list { "[" } else { "{ " };
        for index in 0..count {
            if index > 0 {
                self.text += ", ";
            }
            let own = match list {
                true => format!("{path}[{index}]"),
                false => {
                    let name = self.name(index);
                    self.text += &format!("{name}: ");
                    format!("{path}.{name}")
                }
            };
            if depth < 2 && self.one_in(3) {
                self.paths.push((own.clone(), 'f'));
                self.flow(&own, depth + 1);
            } else {
                self.paths.push((own, 's'));
                let single = self.single();
                self.text += if single.contains(' ') && !single.ends_with(['\'', '"']) {
                    "y-z"
                } else {
                    single
                };
            }
        }
        self.text += if list { "]" } else { " }" };
    }

    fn value_of(&mut self) -> Value {
        match self.below(9) {
            0 => Value::Text("85".into()),
            1 => Value::Literal("90".into()),
            2 => Value::Text("a: b # c".into()),
            3 => Value::Text("two\nlines\n".into()),
            4 => Value::Null,
            5 => yaml("[1, { a: b }]"),
            6 => yaml("{ a: 1, b: { c: [d] } }"),
            7 => yaml("{}"),
            _ => Value::Text(" \u{7}'\"\\ ,]}".into()),
        }
    }
}

/// What the comments of a text belong to.
fn owners(text: &str) -> Vec<String> {
    let marks = ["# above ", "# end of "];
    let mut owners: Vec<String> = text
        .lines()
        .flat_map(|line| {
            marks.iter().filter_map(move |mark| Some((mark, line.split_once(mark)?.1)))
        })
        .map(|(mark, owner)| format!("{mark}{}", owner.trim_end()))
        .collect();
    owners.sort();
    owners
}

fn is_inside(owner: &str, path: &str) -> bool {
    let owner =
        owner.trim_start_matches("# above ").trim_start_matches("# end of ").trim_end_matches('.');
    owner.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// How many lines of one text stand where the two differ: between what both begin and end with. Blank lines do not count.
fn lines_changed(from: &str, to: &str) -> usize {
    let from: Vec<&str> = from.lines().filter(|line| !line.trim().is_empty()).collect();
    let to: Vec<&str> = to.lines().filter(|line| !line.trim().is_empty()).collect();
    let head = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    let tail =
        from[head..].iter().rev().zip(to[head..].iter().rev()).take_while(|(a, b)| a == b).count();
    from.len() - head - tail
}

/// An edit that may be refused.
type Try<'e> = &'e dyn Fn(&mut Editor) -> Result<(), EditError>;

/// A node of a model has another name.
fn with_name(model: &Pipeline, old: &str, new: &str) -> Pipeline {
    fn moved<T: Clone>(map: &mut std::collections::BTreeMap<String, T>, old: &str, new: &str) {
        if let Some(value) = map.remove(old) {
            map.insert(new.to_owned(), value);
        }
    }
    let mut model = model.clone();
    moved(&mut model.sources, old, new);
    moved(&mut model.steps, old, new);
    moved(&mut model.sinks, old, new);
    moved(&mut model.calls, old, new);
    let rename = |input: &mut Input| {
        let arm = input.arm().map(|arm| format!(".{arm}")).unwrap_or_default();
        if input.node() == old {
            input.name = format!("{new}{arm}");
        }
    };
    model.steps.values_mut().flat_map(|step| &mut step.from).for_each(rename);
    model.sinks.values_mut().flat_map(|sink| &mut sink.from).for_each(rename);
    for call in model.calls.values_mut() {
        call.from.iter_mut().chain(call.inputs.values_mut().flatten()).for_each(rename);
    }
    if let Some(binding) = &mut model.binding {
        moved(&mut binding.sources, old, new);
        moved(&mut binding.sinks, old, new);
    }
    for test in model.tests.values_mut() {
        moved(&mut test.inputs, old, new);
        moved(&mut test.outputs, old, new);
        moved(&mut test.rejected, old, new);
    }
    model
}

/// A text with comments at lines where they change nothing.
fn sprinkled(text: &str, pipeline: &Pipeline, places: &[prop::sample::Index]) -> String {
    let mut text = text.to_owned();
    for (number, place) in places.iter().enumerate() {
        let mut lines: Vec<String> = text.split_inclusive('\n').map(str::to_owned).collect();
        let at = place.index(lines.len());
        let indent = lines[at].len() - lines[at].trim_start().len();
        match number % 2 {
            0 => lines.insert(at, format!("{}# sprinkled {number}\n", " ".repeat(indent))),
            _ => lines[at] = format!("{} # sprinkled {number}\n", lines[at].trim_end()),
        }
        let with: String = lines.concat();
        // Inside of a text of several lines it is none.
        if Editor::new(with.as_str()).is_ok() && model(&with).as_ref() == Some(pipeline) {
            text = with;
        }
    }
    text
}

fn comments_of(text: &str) -> usize {
    text.matches("# sprinkled").count()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_edit_of_any_text_does_that_and_nothing_else(seed in any::<u64>(), what in 0..4, at in any::<prop::sample::Index>()) {
        let mut random = Random::of(seed);
        let before = random.text.clone();
        let mut editor = Editor::new(before.as_str()).unwrap();
        prop_assert_eq!(editor.text(), &before);
        let (path, kind) = at.get(&random.paths).clone();
        let now = editor.get(&path).unwrap().unwrap();
        let alone = random.paths.iter().filter(|(path, _)| !path.contains(['.', '['])).count() == 1;
        let is_item = path.ends_with(']');
        match what {
            // The same value is no change; another one is there afterwards.
            0 => {
                editor.set(&path, &now).unwrap();
                prop_assert_eq!(editor.text(), &before);
                let value = random.value_of();
                let done = editor.set(&path, &value);
                prop_assert!(done.is_ok(), "{done:?} {path} {value:?}\n{before}");
                let is = editor.get(&path).unwrap().unwrap();
                prop_assert_eq!(&is, &value, "{}\n{}", path, before);
                let gone: Vec<String> = owners(&before).into_iter().filter(|o| !owners(editor.text()).contains(o)).collect();
                prop_assert!(gone.iter().all(|owner| is_inside(owner, &path)), "{gone:?} {path}\n{before}---\n{}", editor.text());
                if kind == 's' && !matches!(value, Value::List(_) | Value::Map(_)) && !before.contains('|') {
                    prop_assert!(lines_changed(&before, editor.text()) <= 1, "{path}\n{before}---\n{}", editor.text());
                    prop_assert_eq!(owners(&before), owners(editor.text()));
                }
            }
            1 if !alone || path.contains(['.', '[']) => {
                let done = editor.remove(&path);
                prop_assert!(done.is_ok(), "{done:?} {path}\n{before}");
                // Of a list the next one is there.
                prop_assert!(is_item || editor.get(&path).unwrap().is_none());
                let (were, are) = (owners(&before), owners(editor.text()));
                for owner in &were {
                    prop_assert_eq!(are.contains(owner), !is_inside(owner, &path), "{} {}\n{}---\n{}", path, owner, before, editor.text());
                }
                // Nothing new, but for a line that the rest of braces is on.
                prop_assert!(lines_changed(editor.text(), &before) <= 1, "{path}\n{before}---\n{}", editor.text());
            }
            2 if !is_item => {
                let done = editor.rename(&path, "another one");
                prop_assert!(done.is_ok(), "{done:?} {path}\n{before}");
                prop_assert_eq!(owners(&before), owners(editor.text()));
                prop_assert!(lines_changed(&before, editor.text()) <= 1);
            }
            3 => {
                let value = random.value_of();
                let new = match &now {
                    Value::Map(_) => format!("{path}.new"),
                    Value::List(items) => format!("{path}[{}]", items.len()),
                    _ => "new".to_owned(),
                };
                let done = editor.set(&new, &value);
                prop_assert!(done.is_ok(), "{done:?} {new} {value:?}\n{before}");
                prop_assert_eq!(editor.get(&new).unwrap().unwrap(), value);
                prop_assert_eq!(owners(&before), owners(editor.text()));
                prop_assert!(lines_changed(&before, editor.text()) <= 1, "{new}\n{before}---\n{}", editor.text());
                // And away with it again: the text is what it was, but for blank lines.
                if !matches!(&now, Value::Map(entries) if entries.is_empty()) && !matches!(&now, Value::List(items) if items.is_empty()) {
                    editor.remove(&new).unwrap();
                    let lines = |text: &str| text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect::<Vec<_>>();
                    prop_assert_eq!(lines(editor.text()), lines(&before));
                }
            }
            _ => {}
        }
    }

}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_name_is_changed_everywhere(
        which in any::<prop::sample::Index>(),
        node in any::<prop::sample::Index>(),
        places in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        static RIGHT: std::sync::LazyLock<Vec<(String, String, Pipeline)>> = std::sync::LazyLock::new(right);
        let (name, text, pipeline) = which.get(&RIGHT);
        let text = sprinkled(text, pipeline, &places);
        let nodes: Vec<&String> = pipeline.sources.keys().chain(pipeline.steps.keys()).chain(pipeline.calls.keys()).chain(pipeline.sinks.keys()).collect();
        let old = node.get(&nodes).as_str();
        let meant = with_name(pipeline, old, "quite-new");
        let mut editor = Editor::new(text.as_str()).unwrap();
        editor.rename_node(old, "quite-new").unwrap();
        let read = model(editor.text()).unwrap();
        prop_assert_eq!(&read, &meant, "{}", name);
        prop_assert_eq!(comments_of(editor.text()), comments_of(&text));
        prop_assert_eq!(editor.text().lines().count(), text.lines().count());

        // The same by way of the model.
        let mut by_model = Editor::new(text.as_str()).unwrap();
        by_model.apply(&meant).unwrap();
        prop_assert_eq!(model(by_model.text()).unwrap(), meant);
        prop_assert_eq!(comments_of(by_model.text()), comments_of(&text), "{}\n{}", text, by_model.text());
        editor.rename_node("quite-new", old).unwrap();
        prop_assert_eq!(editor.text(), text);
    }

}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Edits that need not be possible: they are done or refused.
    #[test]
    fn no_edit_panics(text in "[-a-c:{}\\[\\],#&*!|>'\"? \n\t~.1]{0,60}", path in "[a-c.\\[\\]01`]{0,8}", new in "[-a-c:{}\\[\\],# \n'\"1]{0,12}") {
        let Ok(editor) = Editor::new(text.as_str()) else { return Ok(()) };
        let value = new.parse().unwrap_or(Value::Text(new.clone()));
        let edits: [Try<'_>; 6] = [
            &|e| e.set(&path, &value),
            &|e| e.remove(&path),
            &|e| e.rename(&path, &new),
            &|e| e.insert(&path, None, &value),
            &|e| e.insert(&path, Some(0), &value),
            &|e| e.rename_node("a", "b"),
        ];
        for edit in edits {
            let mut edited = editor.clone();
            match edit(&mut edited) {
                Ok(()) => drop(Editor::new(edited.text()).unwrap()),
                Err(_) => prop_assert_eq!(edited.text(), editor.text()),
            }
        }
    }
}
