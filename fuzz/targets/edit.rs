//! Any text and any edits of it: done or refused, and what is done can be read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use millrace_pipeline::edit::{Editor, Value};

// The text, and behind a line `%%` one edit in each line: what, path and value, with blanks between.
fuzz_target!(|bytes: &[u8]| {
    let Ok(input) = std::str::from_utf8(bytes) else { return };
    let (text, edits) =
        input.split_once("%%\n").unwrap_or((input, "rename a b\nremove a\nset a.b [c]\n"));
    let Ok(mut editor) = Editor::new(text) else { return };
    assert_eq!(editor.text(), text);
    for line in edits.lines().take(8) {
        let mut words = line.splitn(3, ' ');
        let (what, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let rest = words.next().unwrap_or_default();
        let value = rest.parse().unwrap_or_else(|_| Value::Text(rest.to_owned()));
        let before = editor.text().to_owned();
        let done = match what {
            "set" => editor.set(path, &value),
            "remove" => editor.remove(path),
            "name" => editor.rename(path, rest),
            "insert" => editor.insert(path, None, &value),
            "first" => editor.insert(path, Some(0), &value),
            "rename" => editor.rename_node(path, rest),
            "drop" => editor.remove_node(path),
            "source" => editor.add_source(path, None),
            "step" => editor.add_step(path, &value),
            "sink" => editor.add_sink(path, &value, Some(&value)),
            "connect" => editor.connect(path, rest),
            "disconnect" => editor.disconnect(path, rest),
            "durable" => editor.set_durable(path, rest, Some(&Value::Literal("true".to_owned()))),
            "volatile" => editor.set_durable(path, rest, None),
            "bind" => editor.set_binding(path, &value),
            _ => editor.model().map_or(Ok(()), |model| editor.apply(&model)),
        };
        match done {
            Ok(()) => drop(Editor::new(editor.text()).expect("an edited text can be read")),
            Err(error) => {
                assert!(!error.to_string().is_empty());
                assert_eq!(editor.text(), before);
            }
        }
    }
});
