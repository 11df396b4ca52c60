//! An editor with YAML support completes and checks a definition with the published schema: the language server that most
//! of them use is asked, as they ask it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use millrace_pipeline::Kind;
use serde_json::{Value, json};

fn root() -> PathBuf {
    fs::canonicalize(Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).unwrap()
}

/// The language server, where scripts/setup puts it.
fn server() -> PathBuf {
    let given = std::env::var_os("MILLRACE_CACHE").map(PathBuf::from);
    let cache = given.unwrap_or_else(|| {
        let base =
            std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
        let home = || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache");
        base.unwrap_or_else(home).join("millrace")
    });
    let server = cache.join("editor/node_modules/yaml-language-server/bin/yaml-language-server");
    assert!(server.is_file(), "{} is not there: run `scripts/setup editor`", server.display());
    server
}

/// An editor with one language server.
struct Editor {
    server: Child,
    input: ChildStdin,
    messages: Receiver<Value>,
    requests: i64,
    documents: i64,
}

impl Drop for Editor {
    fn drop(&mut self) {
        drop(self.server.kill());
        drop(self.server.wait());
    }
}

impl Editor {
    fn start() -> Self {
        let mut server = Command::new("node")
            .arg(server())
            .arg("--stdio")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(server.stdout.take().unwrap());
        let (sender, messages) = channel();
        std::thread::spawn(move || {
            loop {
                let mut length = 0;
                let mut line = String::new();
                while output.read_line(&mut line).is_ok_and(|read| read > 0)
                    && !line.trim().is_empty()
                {
                    if let Some(text) = line.trim().strip_prefix("Content-Length: ") {
                        length = text.parse().unwrap();
                    }
                    line.clear();
                }
                let mut body = vec![0; length];
                if length == 0 || output.read_exact(&mut body).is_err() {
                    return;
                }
                if sender.send(serde_json::from_slice(&body).unwrap()).is_err() {
                    return;
                }
            }
        });
        let input = server.stdin.take().unwrap();
        let mut editor = Self { server, input, messages, requests: 0, documents: 0 };
        let capabilities = json!({
            "workspace": { "configuration": true },
            "textDocument": {
                "completion": { "completionItem": { "snippetSupport": true } },
                "publishDiagnostics": {},
            },
        });
        editor.ask(
            "initialize",
            json!({ "processId": null, "rootUri": null, "capabilities": capabilities }),
        );
        editor.tell("initialized", json!({}));
        editor.tell("workspace/didChangeConfiguration", json!({ "settings": settings() }));
        editor
    }

    fn send(&mut self, mut message: Value) {
        message["jsonrpc"] = json!("2.0");
        let body = message.to_string();
        write!(self.input, "Content-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        self.input.flush().unwrap();
    }

    fn tell(&mut self, method: &str, params: Value) {
        self.send(json!({ "method": method, "params": params }));
    }

    fn ask(&mut self, method: &str, params: Value) -> Value {
        self.requests += 1;
        let id = self.requests;
        self.send(json!({ "id": id, "method": method, "params": params }));
        let answer = self.until(|message| message["id"] == id && message.get("method").is_none());
        assert!(answer.get("error").is_none(), "{answer}");
        answer["result"].clone()
    }

    /// The next message of this kind; what the server asks on the way is answered.
    fn until(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let message = self.messages.recv_timeout(left).expect("the language server answers");
            if wanted(&message) {
                return message;
            }
            if message.get("method").is_some() && message.get("id").is_some() {
                let result = match message["method"].as_str().unwrap() {
                    "workspace/configuration" => {
                        let items = message["params"]["items"].as_array().unwrap();
                        let section = |item: &Value| {
                            settings()[item["section"].as_str().unwrap_or_default()].clone()
                        };
                        items.iter().map(section).collect()
                    }
                    _ => Value::Null,
                };
                self.send(json!({ "id": message["id"], "result": result }));
            }
        }
    }

    /// Opens a text; answers its address.
    fn open(&mut self, text: &str) -> String {
        self.documents += 1;
        let address = format!("file:///definitions/{}.yaml", self.documents);
        self.open_as(&address, text);
        address
    }

    fn open_as(&mut self, address: &str, text: &str) {
        let document = json!({ "uri": address, "languageId": "yaml", "version": 1, "text": text });
        self.tell("textDocument/didOpen", json!({ "textDocument": document }));
    }

    /// What is shown as wrong, each with its line, from 1.
    fn mistakes(&mut self, address: &str) -> Vec<(u64, String)> {
        let shown = self.until(|message| {
            message["method"] == "textDocument/publishDiagnostics"
                && message["params"]["uri"] == address
        });
        let mistakes = shown["params"]["diagnostics"].as_array().unwrap();
        mistakes
            .iter()
            .map(|one| {
                let line = one["range"]["start"]["line"].as_u64().unwrap() + 1;
                (line, one["message"].as_str().unwrap().to_owned())
            })
            .collect()
    }

    /// What is offered where `|` stands in a text.
    fn offered(&mut self, text: &str) -> BTreeSet<String> {
        let (before, after) = text.split_once('|').unwrap();
        let address = self.open(&format!("{before}{after}"));
        // By then it has read the schema.
        self.mistakes(&address);
        let line = before.matches('\n').count();
        let character = before.rsplit('\n').next().unwrap().len();
        let place = json!({ "line": line, "character": character });
        let result = self.ask(
            "textDocument/completion",
            json!({ "textDocument": { "uri": address }, "position": place }),
        );
        let items = if result.is_array() { &result } else { &result["items"] };
        items
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["label"].as_str().unwrap().to_owned())
            .collect()
    }
}

fn settings() -> Value {
    let schema = format!("file://{}", root().join("docs/pipeline.schema.json").display());
    json!({
        "yaml": {
            "schemas": { schema: "*.yaml" },
            "schemaStore": { "enable": false, "url": "" },
            "validate": true,
            "completion": true,
            "hover": true,
        },
        "http": {},
        "editor": {},
        "files": {},
    })
}

const HEAD: &str = "millrace: v1alpha1\npipeline: alerts\nversion: 0.1.0\nsources: [machine]\n";

#[test]
fn an_editor_completes_a_definition() {
    let mut editor = Editor::start();
    let check = |offered: BTreeSet<String>, wanted: &[&str]| {
        for name in wanted {
            assert!(offered.contains(*name), "{name} is not offered among {offered:?}");
        }
    };
    check(
        editor.offered("millrace: v1alpha1\n|\n"),
        &["pipeline", "version", "sources", "steps", "sinks", "binding", "tests"],
    );
    let kinds = Kind::ALL.map(Kind::as_str);
    check(editor.offered(&format!("{HEAD}steps:\n  celsius:\n    from: machine\n    |\n")), &kinds);
    check(
        editor.offered(&format!("{HEAD}steps:\n  celsius:\n    from: machine\n    |\n")),
        &["config", "grants", "memory", "window"],
    );
    check(
        editor.offered(&format!("{HEAD}binding:\n  |\n")),
        &["sources", "sinks", "components", "hosts", "parameters"],
    );
    check(editor.offered(&format!("{HEAD}binding:\n  hosts: |\n")), &["one", "every"]);
    check(
        editor.offered(&format!("{HEAD}binding:\n  sources:\n    machine:\n      |\n")),
        &["mqtt", "kafka", "modbus", "gpio", "http", "delivery"],
    );
    check(
        editor.offered(&format!(
            "{HEAD}binding:\n  sources:\n    machine:\n      mqtt:\n        |\n"
        )),
        &["url", "topic", "qos", "password-file"],
    );
    check(
        editor.offered(&format!(
            "{HEAD}binding:\n  sources:\n    machine:\n      mqtt:\n        version: |\n"
        )),
        &["5"],
    );
    check(
        editor.offered(&format!("{HEAD}rollout:\n  |\n")),
        &["watch", "max-failures", "rollback"],
    );
}

#[test]
fn an_editor_shows_what_is_wrong() {
    let mut editor = Editor::start();
    let cases = [
        (
            format!(
                "{HEAD}steps:\n  s: {{ map: m, from: machine }}\nsinks: {{ out: {{ from: s }} }}\n"
            ),
            None,
        ),
        (format!("{HEAD}sinks:\n  out: {{ form: machine }}\n"), Some((6, "from"))),
        (
            format!("{HEAD}sinks: {{ out: {{ from: machine }} }}\ncolour: red\n"),
            Some((6, "colour")),
        ),
        (
            format!("{HEAD}sinks: {{ out: {{ from: machine }} }}\nbinding:\n  hosts: some\n"),
            Some((7, "every")),
        ),
        (
            format!(
                "{HEAD}sinks: {{ out: {{ from: machine }} }}\nrollout:\n  min-messages: many\n"
            ),
            Some((7, "")),
        ),
        (format!("{HEAD}sinks:\n  out: [machine]\n"), Some((6, "Sink"))),
        (
            "millrace: v1alpha1\npipeline: alerts\nsources: [a]\nsinks: { b: { from: a } }\n"
                .to_owned(),
            Some((1, "version")),
        ),
    ];
    for (text, wanted) in cases {
        let address = editor.open(&text);
        let mistakes = editor.mistakes(&address);
        match wanted {
            None => assert!(mistakes.is_empty(), "{text}{mistakes:?}"),
            Some((line, word)) => {
                let found =
                    mistakes.iter().any(|(at, message)| *at == line && message.contains(word));
                assert!(found, "{text}{mistakes:?}");
            }
        }
    }
}

/// The samples name the schema in their first line, as a user's definition may.
#[test]
fn an_editor_has_nothing_to_say_of_the_samples() {
    fn definitions(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("build") && !path.ends_with("node_modules") {
                definitions(&path, found);
            } else if path.extension().is_some_and(|e| e == "yaml") {
                found.push(path);
            }
        }
    }
    let mut files = Vec::new();
    definitions(&root().join("samples"), &mut files);
    let mut editor = Editor::start();
    let mut compared = 0;
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        if !text.starts_with("# yaml-language-server: $schema=")
            || text.contains("binding.schema.json")
        {
            continue;
        }
        let address = format!("file://{}", file.display());
        editor.open_as(&address, &text);
        let mistakes = editor.mistakes(&address);
        assert!(mistakes.is_empty(), "{}: {mistakes:?}", file.display());
        compared += 1;
    }
    assert!(compared >= 15, "{compared}");
}
