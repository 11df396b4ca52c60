//! The `tests` of a definition, from the tree to the model.

use std::collections::BTreeMap;

use crate::finding::Issue;
use crate::locate::{Part, Path, quoted};
use crate::read::{Fields, Reader, found};
use crate::test::{Hex, Payload, Test, TestMessage, TestReject, TestResponse};
use crate::tree::{Entry, Node, Value};

/// The fields that say what a message contains.
const PAYLOAD: [&str; 3] = ["payload", "hex", "file"];

impl Reader {
    /// A file that holds only tests: the language's version, optionally the
    /// pipeline they are for, and the tests. Gives the tests and the
    /// pipeline's name.
    pub(crate) fn tests_file(
        &mut self,
        root: &Node,
    ) -> Option<(BTreeMap<String, Test>, Option<String>)> {
        let (fields, pipeline) = self.file_beside(root, "tests")?;
        Some((self.tests(&fields), pipeline))
    }

    pub(crate) fn tests(&mut self, fields: &Fields<'_>) -> BTreeMap<String, Test> {
        self.named(fields, "tests", &Path::of(["tests"]), Self::test)
    }

    fn test(&mut self, entry: &Entry, path: &Path) -> Test {
        const KNOWN: &[&str] = &[
            "description",
            "time",
            "until",
            "kv",
            "http",
            "inputs",
            "outputs",
            "rejected",
            "order",
            "ignore",
            "select",
            "tolerance",
        ];
        let Some(fields) = self.known_fields(&entry.value, path, KNOWN) else {
            return Test::default();
        };
        self.require(&fields, path, entry.key_span.clone(), &["inputs"]);
        let mut texts = |field: &str| {
            let entry = fields.get(field);
            entry.map(|e| self.texts(&e.value, &path.key(field))).unwrap_or_default()
        };
        let (ignore, select) = (texts("ignore"), texts("select"));
        Test {
            description: self.text_field(&fields, path, "description"),
            time: self.value_field(&fields, path, "time"),
            until: self.value_field(&fields, path, "until"),
            kv: self.named(&fields, "kv", &path.key("kv"), |reader, entry, path| {
                reader.config(&entry.value, path)
            }),
            http: self.named(&fields, "http", &path.key("http"), Self::response),
            inputs: self.named(&fields, "inputs", &path.key("inputs"), Self::given),
            outputs: self.named(&fields, "outputs", &path.key("outputs"), Self::expected),
            rejected: self.named(&fields, "rejected", &path.key("rejected"), Self::rejects),
            order: self.value_field(&fields, path, "order").unwrap_or_default(),
            ignore,
            select,
            tolerance: self.value_field(&fields, path, "tolerance"),
        }
    }

    fn response(&mut self, entry: &Entry, path: &Path) -> TestResponse {
        const KNOWN: [&str; 4] = ["status", "payload", "hex", "headers"];
        let Some(fields) = self.known_fields(&entry.value, path, &KNOWN) else {
            return TestResponse::default();
        };
        let headers = fields.get("headers");
        TestResponse {
            status: self.value_field(&fields, path, "status"),
            payload: self.payload(&fields, path),
            headers: headers
                .map(|e| self.header_values(&e.value, &path.key("headers")))
                .unwrap_or_default(),
        }
    }

    fn given(&mut self, entry: &Entry, path: &Path) -> Vec<TestMessage> {
        self.each(entry, path, |reader, item, path| {
            let fields = reader.message_fields(item, path, &[])?;
            if PAYLOAD.iter().all(|field| fields.get(field).is_none()) && fields.meant.is_empty() {
                let message = "the message has no payload";
                let issue = Issue::error("missing-field", path.clone(), Part::Value, message);
                let mend = "add `payload`, `hex` or `file`; `payload: \"\"` is an empty one";
                reader.note(issue.mend(mend).at(item.span.clone()));
            }
            Some(reader.message(&fields, path))
        })
    }

    fn expected(&mut self, entry: &Entry, path: &Path) -> Vec<TestMessage> {
        self.each(entry, path, |reader, item, path| {
            let fields = reader.message_fields(item, path, &[])?;
            Some(reader.message(&fields, path))
        })
    }

    fn rejects(&mut self, entry: &Entry, path: &Path) -> Vec<TestReject> {
        self.each(entry, path, |reader, item, path| {
            let fields = reader.message_fields(item, path, &["kind", "text"])?;
            Some(TestReject {
                kind: reader.value_field(&fields, path, "kind"),
                text: reader.text_field(&fields, path, "text"),
                message: reader.message(&fields, path),
            })
        })
    }

    /// Every item of the list under a name.
    fn each<T>(
        &mut self,
        entry: &Entry,
        path: &Path,
        read: impl Fn(&mut Self, &Node, &Path) -> Option<T>,
    ) -> Vec<T> {
        let Value::List(items) = &entry.value.value else {
            self.wrong_type(&entry.value, path, "a list of messages");
            return Vec::new();
        };
        let read = |(at, item)| read(self, item, &path.index(at));
        items.iter().enumerate().filter_map(read).collect()
    }

    fn message_fields<'t>(
        &mut self,
        node: &'t Node,
        path: &Path,
        also: &[&str],
    ) -> Option<Fields<'t>> {
        let own = ["topic", "key", "headers", "content-type", "timestamp"];
        let known: Vec<&str> = PAYLOAD.iter().chain(also).chain(&own).copied().collect();
        self.known_fields(node, path, &known)
    }

    fn message(&mut self, fields: &Fields<'_>, path: &Path) -> TestMessage {
        TestMessage {
            payload: self.payload(fields, path),
            topic: self.text_field(fields, path, "topic"),
            key: self.text_field(fields, path, "key"),
            headers: fields
                .get("headers")
                .map(|e| self.header_values(&e.value, &path.key("headers")))
                .unwrap_or_default(),
            content_type: self.text_field(fields, path, "content-type"),
            timestamp: self.value_field(fields, path, "timestamp"),
        }
    }

    fn payload(&mut self, fields: &Fields<'_>, path: &Path) -> Option<Payload> {
        let mut named = PAYLOAD.iter().filter_map(|field| fields.get(field));
        let first = named.next()?;
        for other in named {
            let message = format!("a message has one content: this one has `{}`", first.key);
            let issue = Issue::error("duplicate", path.key(&other.key), Part::Key, message);
            self.note(issue.mend("remove one of the two").at(other.key_span.clone()));
        }
        let at = path.key(&first.key);
        match (first.key.as_str(), &first.value.value) {
            ("hex", _) => self.value_field::<Hex>(fields, path, "hex").map(Payload::Hex),
            ("file", _) => self.text(&first.value, &at).map(Payload::File),
            (_, Value::Scalar(text)) => Some(Payload::Text(text.clone())),
            (_, Value::List(_) | Value::Map(_)) => {
                Some(Payload::Json(self.json(&first.value, &at, scalar)))
            }
            (_, Value::Null) => {
                let message = "`payload` has no value";
                let issue = Issue::error("missing-field", at, Part::Key, message);
                let mend = "write \"\" for an empty one, and \"null\" for the JSON value";
                self.note(issue.mend(mend).at(first.key_span.clone()));
                None
            }
        }
    }

    fn header_values(&mut self, node: &Node, path: &Path) -> BTreeMap<String, String> {
        self.scalars(node, path, |entry, path| {
            let message =
                format!("a header is text, and {} is {}", quoted(&entry.key), found(&entry.value));
            Issue::error("wrong-type", path, Part::Key, message)
                .mend("write its value in quotes: \"\" for an empty one")
        })
    }
}

/// Without quotes `true`, `false` and what JSON takes for a number are that,
/// and everything else is text.
fn scalar(node: &Node, text: &str) -> serde_json::Value {
    match text {
        _ if !node.plain => text.into(),
        "true" => true.into(),
        "false" => false.into(),
        _ => match serde_json::from_str::<serde_json::Number>(text) {
            Ok(number) => number.into(),
            Err(_) => text.into(),
        },
    }
}
