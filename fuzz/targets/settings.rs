//! Any text as the settings of any connector: checking ends, and what has no fault is complete, once and for all.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use millrace_settings::registry::CONNECTORS;

fuzz_target!(|bytes: &[u8]| {
    let Some((which, rest)) = bytes.split_first() else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    let connector = &CONNECTORS[usize::from(which >> 1) % CONNECTORS.len()];
    let sink = connector.sink.as_ref().filter(|_| which & 1 == 1);
    let kind = sink.unwrap_or(&connector.source);
    let flat: BTreeMap<String, String> = text
        .split('\n')
        .filter_map(|line| line.split_once('='))
        .map(|(field, value)| (field.to_owned(), value.to_owned()))
        .collect();
    let faults = (kind.check)(&flat);
    match (kind.complete)(&flat) {
        Ok(complete) => {
            assert!(faults.is_empty(), "{faults:?}");
            assert_eq!(
                (kind.complete)(&complete).expect("what is complete has no fault"),
                complete
            );
        }
        Err(error) => assert!(!faults.is_empty(), "{error}"),
    }
});
