//! A template and a message's own topic, key and header: what comes of them is a topic one can publish to, or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use millrace_settings::{TopicFilter, TopicTemplate};

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut parts = text.split('\n');
    let mut next = || parts.next().unwrap_or_default();
    let (template, topic, key, value) = (next(), next(), next(), next());
    if let Ok(filter) = template.parse::<TopicFilter>() {
        assert_eq!(filter.to_string(), template);
    }
    let Ok(parsed) = template.parse::<TopicTemplate>() else { return };
    assert_eq!(parsed.to_string().parse::<TopicTemplate>().as_ref(), Ok(&parsed));
    let key = (!key.is_empty()).then_some(key);
    let header = |name: &str| (name.len() % 2 == 0).then_some(value);
    if let Ok(topic) = parsed.render(topic, key, header) {
        assert!(!topic.is_empty() && topic.len() <= 65_535);
        assert!(!topic.contains(['+', '#', '\0']), "{topic:?}");
    }
});
