//! The `config` of a step, from the tree to the texts that its component gets.

use std::collections::BTreeMap;

use crate::finding::Issue;
use crate::locate::{Part, Path, quoted};
use crate::read::Reader;
use crate::tree::{Node, Value};

/// Longest JSON text of one value, in bytes.
const JSON_MAX: usize = 64 * 1024;

impl Reader {
    /// Values for a component: single ones as the author wrote them, mappings and lists as JSON.
    pub(crate) fn config(&mut self, node: &Node, path: &Path) -> BTreeMap<String, String> {
        let Value::Map(entries) = &node.value else {
            self.wrong_type(node, path, "a mapping of names to values");
            return BTreeMap::new();
        };
        let mut config = BTreeMap::new();
        for entry in self.unique(entries, path).entries {
            let at = path.key(&entry.key);
            let text = match &entry.value.value {
                Value::Scalar(text) => text.clone(),
                Value::List(_) | Value::Map(_) => {
                    let mut text = String::new();
                    self.json_text(&entry.value, &at, &mut text);
                    text
                }
                Value::Null => {
                    let message = format!("the config value {} is nothing", quoted(&entry.key));
                    let issue = Issue::error("config-value", at, Part::Key, message);
                    let mend = "write \"\" for an empty string";
                    self.note(issue.mend(mend).at(entry.key_span.clone()));
                    continue;
                }
            };
            if text.len() > JSON_MAX {
                let message = format!(
                    "a config value is at most {JSON_MAX} bytes long, and {} has {}",
                    quoted(&entry.key),
                    text.len()
                );
                let issue = Issue::error("config-too-long", at, Part::Value, message);
                let mend = "leave out what the component does not need, or build it in";
                self.note(issue.mend(mend).at(entry.value.span.clone()));
                continue;
            }
            config.insert(entry.key.clone(), text);
        }
        config
    }

    /// A value as compact JSON, with its fields in the order in which they are written and its numbers as they are written.
    fn json_text(&mut self, node: &Node, path: &Path, text: &mut String) {
        match &node.value {
            Value::Null => text.push_str("null"),
            Value::Scalar(scalar) if node.plain && is_json(scalar) => text.push_str(scalar),
            Value::Scalar(scalar) => text.push_str(&string(scalar)),
            Value::List(items) => {
                text.push('[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        text.push(',');
                    }
                    self.json_text(item, &path.index(index), text);
                }
                text.push(']');
            }
            Value::Map(entries) => {
                text.push('{');
                for (index, entry) in self.unique(entries, path).entries.into_iter().enumerate() {
                    if index > 0 {
                        text.push(',');
                    }
                    text.push_str(&string(&entry.key));
                    text.push(':');
                    self.json_text(&entry.value, &path.key(&entry.key), text);
                }
                text.push('}');
            }
        }
    }
}

/// Whether JSON reads a text without quotes as a number, `true` or `false`.
fn is_json(text: &str) -> bool {
    matches!(text, "true" | "false") || serde_json::from_str::<serde_json::Number>(text).is_ok()
}

fn string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
