//! The settings of the Modbus connector.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::collections::BTreeMap;

use millrace_settings::flat::{FieldErrorKind, check_flat, from_flat, to_flat};
use millrace_settings::modbus::{
    Address, ByteOrder, DataType, Emit, Function, Register, SinkSettings, SourceSettings, Write,
};
use millrace_settings::{FieldError, Settings, registry};
use proptest::prelude::*;

const FIELD: &str = r#"{"level":{"address":"40001"}}"#;

fn map(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
    let mut all = BTreeMap::from([
        ("url".to_owned(), "tcp://localhost".to_owned()),
        ("fields".to_owned(), FIELD.to_owned()),
    ]);
    all.extend(entries.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
    all
}

fn source(entries: &[(&str, &str)]) -> Result<SourceSettings, FieldError> {
    from_flat(&map(entries), &[])
}

fn sink(entries: &[(&str, &str)]) -> Result<SinkSettings, FieldError> {
    from_flat(&map(entries), &[])
}

#[test]
fn defaults_are_those_documented() {
    let settings = source(&[]).unwrap();
    assert_eq!(settings.url.to_string(), "tcp://localhost:502");
    assert_eq!((settings.interval.as_millis(), settings.timeout.as_millis()), (1_000, 1_000));
    assert_eq!((settings.max_registers.get(), settings.max_bits.get()), (125, 2_000));
    assert_eq!((settings.max_gap.get(), settings.busy_retries.get()), (0, 3));
    assert_eq!((settings.emit, settings.close_after_cycle), (Emit::Interval, false));
    let level = &settings.fields["level"];
    assert_eq!((level.unit.get(), level.byte_order), (1, ByteOrder::Abcd));
    assert_eq!(level.data_type(Register::Holding), DataType::Uint16);
    let settings = sink(&[]).unwrap();
    assert_eq!((settings.write, settings.function), (Write::Every, Function::Auto));
    assert_eq!((settings.rate, settings.timeout.as_millis()), (None, 1_000));
}

#[test]
fn settings_survive_their_flat_map() {
    let fields = r#"{
        "level": {"unit": "3", "address": "30010", "type": "FLOAT32", "byte-order": "CDAB",
                  "scale": "0.1", "offset": -40, "deadband": "0.5", "min": "0", "max": 100},
        "plant/press-1": {"address": "0x006B", "register": "holding", "type": "STRING(20)"},
        "running": {"address": "30011", "type": "bit", "bit": "7"},
        "valve": {"address": "00001"}
    }"#;
    let settings = source(&[
        ("url", "rtu:///dev/ttyUSB0"),
        ("fields", fields),
        ("emit", "change"),
        ("base", "one"),
        ("baud-rate", "9600"),
        ("parity", "none"),
        ("stop-bits", "2"),
        ("data-bits", "8"),
        ("max-gap", "10"),
    ])
    .unwrap();
    let level = &settings.fields["level"];
    assert_eq!((level.unit.get(), level.data_type), (3, Some(DataType::Float32)));
    assert_eq!(level.wire(settings.base).unwrap().to_string(), "input 0x0009");
    assert_eq!(
        settings.fields["plant/press-1"].wire(settings.base).unwrap().to_string(),
        "holding 0x006A",
        "a plain address counts from one here"
    );
    assert_eq!(settings.fields["running"].data_type, Some(DataType::Bit));
    let again: SourceSettings = from_flat(&to_flat(&settings).unwrap(), &[]).unwrap();
    assert_eq!(again, settings);

    let settings = sink(&[("rate", "5"), ("write", "latest"), ("function", "multiple")]).unwrap();
    let again: SinkSettings = from_flat(&to_flat(&settings).unwrap(), &[]).unwrap();
    assert_eq!(again, settings);
}

#[test]
fn a_wrong_setting_is_named() {
    for (field, value, message) in [
        ("url", "localhost:502", "must be tcp://host:502"),
        ("url", "rtu-over-tcp://localhost", "must have a port"),
        ("interval", "1ms", "from 10ms to 1d"),
        ("max-registers", "126", "from 1 to 125"),
        ("max-bits", "2001", "from 1 to 2000"),
        ("timeout", "5m", "from 10ms to 1m"),
        ("busy-retries", "11", "from 0 to 10"),
        ("emit", "always", "unknown variant"),
        ("baud-rate", "9600", "the url is not rtu://"),
        ("parity", "even", "the url is not rtu://"),
    ] {
        let error = source(&[(field, value)]).unwrap_err();
        assert_eq!(error.field, field, "{error}");
        assert!(error.message.contains(message), "{error}");
    }
    let line = [("url", "rtu:///dev/ttyS0"), ("data-bits", "7")];
    let error = source(&line).unwrap_err();
    assert_eq!(error.field, "data-bits");
    assert!(error.message.contains("must be 8"), "{error}");
    for (field, value) in [("rate", "0"), ("rate", "1001"), ("timeout", "4s"), ("write", "all")] {
        assert_eq!(sink(&[(field, value)]).unwrap_err().field, field);
    }
}

#[test]
fn a_wrong_field_is_named_with_the_way_to_it() {
    for (field, at, message) in [
        (r#"{}"#, "address", "is required"),
        (r#"{"address": "40001", "colour": 1}"#, "colour", "is not a setting here"),
        (r#"{"address": "10"}"#, "address", "does not say the table"),
        (
            r#"{"address": "40001", "register": "input"}"#,
            "register",
            "the address 40001 is holding",
        ),
        (r#"{"address": "40000"}"#, "address", "count from 1"),
        (r#"{"address": "40001", "unit": "256"}"#, "unit", "from 0 to 255"),
        (r#"{"address": "40001", "type": "INT24"}"#, "type", "must be BIT, INT8L"),
        (r#"{"address": "40001", "type": "STRING"}"#, "type", "STRING(20)"),
        (r#"{"address": "40001", "type": "STRING(251)"}"#, "type", "STRING(20)"),
        (r#"{"address": "40001", "type": "FIXED(3)"}"#, "type", "1, 2 or 4 registers"),
        (r#"{"address": "40001", "type": "FIXED"}"#, "type", "needs `scale`"),
        (r#"{"address": "40001", "type": "BIT"}"#, "type", "needs `bit`"),
        (r#"{"address": "40001", "bit": "3"}"#, "bit", "is for type BIT"),
        (r#"{"address": "40001", "bit": "16", "type": "BIT"}"#, "bit", "from 0 to 15"),
        (r#"{"address": "00001", "type": "INT16"}"#, "type", "must be BIT in a table"),
        (r#"{"address": "465536", "type": "INT32"}"#, "type", "beyond the last address"),
        (r#"{"address": "40001", "scale": "0"}"#, "scale", "must not be 0"),
        (r#"{"address": "40001", "scale": "much"}"#, "scale", "must be a number"),
        (r#"{"address": "40001", "scale": "NaN"}"#, "scale", "must be a number"),
        (r#"{"address": "00001", "scale": "2"}"#, "scale", "is for numbers"),
        (r#"{"address": "40001", "min": "2", "max": "1"}"#, "min", "above max"),
        (r#"{"address": "40001", "deadband": "1"}"#, "deadband", "emit: interval"),
        (r#"{"address": "40001", "byte-order": "ACBD"}"#, "byte-order", "unknown variant"),
    ] {
        let fields = format!(r#"{{"level": {field}}}"#);
        let error = source(&[("fields", &fields)]).unwrap_err();
        assert_eq!(error.field, format!("fields.level.{at}"), "{field}: {error}");
        assert!(error.message.contains(message), "{field}: {error}");
    }
    let negative = r#"{"level": {"address": "40001", "deadband": "-1"}}"#;
    let error = source(&[("emit", "change"), ("fields", negative)]).unwrap_err();
    assert!(error.message.contains("must not be negative"), "{error}");
    let large = r#"{"level": {"address": "40001", "type": "INT64"}}"#;
    let error = source(&[("max-registers", "3"), ("fields", large)]).unwrap_err();
    assert!(error.message.contains("max-registers is 3"), "{error}");
    let broadcast = r#"{"level": {"address": "40001", "unit": "0"}}"#;
    assert!(source(&[("fields", broadcast)]).is_ok(), "a device of its own on TCP");
    let error = source(&[("url", "rtu:///dev/ttyS0"), ("fields", broadcast)]).unwrap_err();
    assert_eq!(error.field, "fields.level.unit");
    for name in ["", "a.b", "7", "a\\u0007"] {
        let fields = format!(r#"{{"{name}": {{"address": "40001"}}}}"#);
        let error = source(&[("fields", &fields)]).unwrap_err();
        assert!(error.message.contains("a field's name"), "{name}: {error}");
    }
    assert_eq!(source(&[("fields", "{}")]).unwrap_err().field, "fields");
}

#[test]
fn what_a_sink_cannot_write_is_refused() {
    for (field, at, message) in [
        (r#"{"address": "30001"}"#, "address", "can only be read"),
        (r#"{"address": "10001"}"#, "address", "can only be read"),
        (r#"{"address": "40001", "type": "INT8L"}"#, "type", "a part of a register"),
        (r#"{"address": "40001", "type": "UINT8H"}"#, "type", "a part of a register"),
        (r#"{"address": "40001", "type": "BIT", "bit": "1"}"#, "type", "a part of a register"),
        (r#"{"address": "40001", "deadband": "1"}"#, "deadband", "no meaning in a sink"),
    ] {
        let fields = format!(r#"{{"pump": {field}}}"#);
        let error = sink(&[("fields", &fields)]).unwrap_err();
        assert_eq!(error.field, format!("fields.pump.{at}"), "{field}: {error}");
        assert!(error.message.contains(message), "{field}: {error}");
    }
    let two = r#"{"pump": {"address": "40001", "type": "INT32"}}"#;
    assert!(sink(&[("fields", two)]).is_ok());
    let error = sink(&[("fields", two), ("function", "single")]).unwrap_err();
    assert!(error.message.contains("function: single writes one"), "{error}");
}

#[test]
fn every_error_is_found_at_once() {
    let fields = r#"{"a": {"address": "10"}, "b": {"address": "40001", "bit": "3"}, "c": {}}"#;
    let wrong = map(&[("fields", fields), ("interval", "never"), ("colour", "red")]);
    let found: BTreeMap<String, FieldErrorKind> =
        check_flat::<SourceSettings>(&wrong, &[]).into_iter().map(|e| (e.field, e.kind)).collect();
    for field in ["fields.a.address", "fields.b.bit", "fields.c.address", "interval", "colour"] {
        assert!(found.contains_key(field), "{field}: {found:?}");
    }
    assert_eq!(found.len(), 5, "{found:?}");
}

#[test]
fn the_connector_is_registered() {
    let modbus = registry::connector("modbus").unwrap();
    assert!((modbus.source.structured)().contains("fields"));
    assert!((modbus.sink.unwrap().structured)().contains("fields"));
    let complete = (modbus.source.complete)(&map(&[])).unwrap();
    assert_eq!(complete["interval"], "1s");
    assert!((modbus.source.check)(&complete).is_empty());
}

proptest! {
    #[test]
    fn no_address_makes_it_panic(text in "[0-9xXa-fA-F.-]{0,9}") {
        if let Ok(address) = text.parse::<Address>() {
            prop_assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn no_type_makes_it_panic(text in "[A-Za-z0-9()]{0,12}") {
        if let Ok(kind) = text.parse::<DataType>() {
            prop_assert_eq!(kind.to_string().parse::<DataType>().unwrap(), kind);
            prop_assert!((1..=125).contains(&kind.count()));
        }
    }

    #[test]
    fn no_field_makes_check_panic(
        address in "[0-9]{1,6}", kind in "(INT16|BIT|FIXED|STRING\\(9\\)|INT64)",
        bit in prop::option::of(0_u64..16), unit in 0_u64..256,
    ) {
        let mut field = serde_json::json!({"address": address, "type": kind, "unit": unit});
        if let Some(bit) = bit {
            field["bit"] = bit.into();
        }
        let fields = serde_json::json!({"f": field}).to_string();
        if let Ok(settings) = source(&[("fields", &fields)]) {
            prop_assert!(settings.check().is_ok());
            let wire = settings.fields["f"].wire(settings.base).unwrap();
            let end = u32::from(wire.address)
                + u32::from(settings.fields["f"].data_type(wire.register).count());
            prop_assert!(end <= 65_536);
        }
    }
}
