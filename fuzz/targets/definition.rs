//! Any bytes as a definition: read, lint, show, plan.
#![no_main]

use libfuzzer_sys::fuzz_target;
use millrace_pipeline::{Document, Options, load, load_with};

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let document = Document { file: "fuzz.yaml", text };
    let loaded = load(document, None, &Options::default());
    let shown = loaded.render(false);
    assert_eq!(shown.is_empty(), loaded.findings().is_empty());
    let bound = loaded.pipeline().is_some_and(|pipeline| pipeline.binding.is_some());
    assert_eq!(loaded.plan().is_ok(), bound && !loaded.has_errors());
    // The same text as everything that it calls.
    let called = load_with(document, None, &Options::default(), &|_| Ok(text.to_owned()));
    let _ = called.render(false);
    assert_eq!(called.plan().is_ok(), bound && !called.has_errors());
    // The same text as a binding of its own.
    let graph = Document {
        file: "graph.yaml",
        text: include_str!("../../pipeline/tests/golden/binding/pipeline.yaml"),
    };
    let _ = load(graph, Some(document), &Options::default()).render(true);
});
