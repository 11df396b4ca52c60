//! Types, byte orders and scaling.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::approx_constant,
    missing_docs
)]

use millrace_modbus::codec::{DecodeError, Scaling, Value, decode, encode};
use millrace_modbus::reading::{Decoder, Quality, Reading, rfc3339};
use millrace_settings::modbus::{Base, ByteOrder, DataType, Field};
use proptest::prelude::*;
use serde_json::json;

fn field(json: serde_json::Value) -> Field {
    serde_json::from_value(json).unwrap()
}

#[test]
fn every_type_from_known_registers() {
    use DataType as T;
    for (kind, words, value) in [
        (T::Int8L, vec![0x12FE], Value::Int(-2)),
        (T::Int8H, vec![0xFE12], Value::Int(-2)),
        (T::Uint8L, vec![0x12FE], Value::Uint(0xFE)),
        (T::Uint8H, vec![0xFE12], Value::Uint(0xFE)),
        (T::Int16, vec![0xFFFE], Value::Int(-2)),
        (T::Uint16, vec![0xFFFE], Value::Uint(65_534)),
        (T::Int32, vec![0xFFFF, 0xFFFE], Value::Int(-2)),
        (T::Uint32, vec![0x0001, 0x0002], Value::Uint(65_538)),
        (T::Int64, vec![0xFFFF, 0xFFFF, 0xFFFF, 0xFFFE], Value::Int(-2)),
        (T::Int64, vec![0x8000, 0, 0, 0], Value::Int(i64::MIN)),
        (T::Uint64, vec![0xFFFF; 4], Value::Uint(u64::MAX)),
        (T::Float16, vec![0x3E00], Value::Float(1.5)),
        (T::Float16, vec![0xC000], Value::Float(-2.0)),
        // 20.1, not 20.100000381469727.
        (T::Float32, vec![0x41A0, 0xCCCD], Value::Float(20.1)),
        (T::Float64, vec![0x4009, 0x21FB, 0x5444, 0x2D18], Value::Float(std::f64::consts::PI)),
        (T::Fixed(1), vec![0xFF9C], Value::Int(-100)),
        (T::Fixed(2), vec![0xFFFF, 0xFF9C], Value::Int(-100)),
        (T::Ufixed(2), vec![0xFFFF, 0xFF9C], Value::Uint(0xFFFF_FF9C)),
        (T::String(5), vec![0x5055, 0x4D50, 0x3100], Value::Text("PUMP1".into())),
        (T::String(6), vec![0x5055, 0x0050, 0x3100], Value::Text("PU".into())),
    ] {
        assert_eq!(decode(kind, None, ByteOrder::Abcd, &words), Ok(value), "{kind}");
    }
    for bit in 0..16 {
        let word = 1 << bit;
        let read = |word, bit| decode(T::Bit, Some(bit), ByteOrder::Abcd, &[word]).unwrap();
        assert_eq!(read(word, bit), Value::Bool(true));
        assert_eq!(read(!word, bit), Value::Bool(false));
    }
}

#[test]
fn every_byte_order() {
    // 0x0A0B0C0D as each order has it on the wire.
    for (order, words) in [
        (ByteOrder::Abcd, [0x0A0B, 0x0C0D]),
        (ByteOrder::Cdab, [0x0C0D, 0x0A0B]),
        (ByteOrder::Badc, [0x0B0A, 0x0D0C]),
        (ByteOrder::Dcba, [0x0D0C, 0x0B0A]),
    ] {
        let value = Value::Uint(0x0A0B_0C0D);
        assert_eq!(decode(DataType::Uint32, None, order, &words).unwrap(), value);
        assert_eq!(encode(DataType::Uint32, order, &value).unwrap(), words);
    }
    let long = [0x0102, 0x0304, 0x0506, 0x0708];
    for (order, value) in [
        (ByteOrder::Abcd, 0x0102_0304_0506_0708),
        (ByteOrder::Cdab, 0x0708_0506_0304_0102),
        (ByteOrder::Badc, 0x0201_0403_0605_0807),
        (ByteOrder::Dcba, 0x0807_0605_0403_0201),
    ] {
        assert_eq!(decode(DataType::Uint64, None, order, &long), Ok(Value::Uint(value)));
    }
    // One register: only its bytes can be swapped. Text: registers stay.
    let swapped = decode(DataType::Uint16, None, ByteOrder::Dcba, &[0x0102]);
    assert_eq!(swapped, Ok(Value::Uint(0x0201)));
    let low = decode(DataType::Uint8L, None, ByteOrder::Badc, &[0x0102]);
    assert_eq!(low, Ok(Value::Uint(0x01)));
    let text = decode(DataType::String(4), None, ByteOrder::Badc, &[0x5550, 0x504D]);
    assert_eq!(text, Ok(Value::Text("PUMP".into())));
}

#[test]
fn what_is_no_value() {
    for words in [[0x7FC0, 0], [0x7F80, 0], [0xFF80, 0]] {
        let error = decode(DataType::Float32, None, ByteOrder::Abcd, &words).unwrap_err();
        assert!(matches!(error, DecodeError::NotFinite(_)), "{error}");
    }
    let short = decode(DataType::Float64, None, ByteOrder::Abcd, &[1, 2, 3]);
    assert_eq!(short, Err(DecodeError::TooShort));
    let text = decode(DataType::String(2), None, ByteOrder::Abcd, &[0x41FF]).unwrap_err();
    assert_eq!(text, DecodeError::NotUtf8("A\u{FFFD}".into()));
}

#[test]
fn what_does_not_fit_is_refused() {
    use DataType as T;
    for (kind, value, why) in [
        (T::Uint16, Value::Int(-1), "does not fit into UINT16"),
        (T::Uint16, Value::Uint(65_536), "does not fit into UINT16"),
        (T::Int16, Value::Int(-32_769), "does not fit into INT16"),
        (T::Int16, Value::Float(2.5), "not a whole number"),
        (T::Int32, Value::Float(1e300), "does not fit into INT32"),
        (T::Uint64, Value::Int(-1), "does not fit into UINT64"),
        (T::Uint16, Value::Bool(true), "not a whole number"),
        (T::Uint16, Value::Text("1".into()), "not a whole number"),
        (T::Float16, Value::Float(1e6), "does not fit into FLOAT16"),
        (T::Float32, Value::Float(1e300), "does not fit into FLOAT32"),
        (T::Float32, Value::Text("x".into()), "not a number"),
        (T::String(3), Value::Text("PUMP".into()), "does not fit into STRING(3)"),
        (T::String(3), Value::Uint(1), "not text"),
        (T::Int8L, Value::Int(1), "part of a register"),
        (T::Bit, Value::Bool(true), "part of a register"),
    ] {
        let error = encode(kind, ByteOrder::Abcd, &value).unwrap_err().to_string();
        assert!(error.contains(why), "{kind} {value}: {error}");
    }
}

#[test]
fn scaling_gives_the_decimal_that_is_meant() {
    let scaling = |json| Scaling::of(&field(json)).unwrap();
    let tenth = scaling(json!({"address": "40001", "scale": 0.1}));
    assert_eq!(tenth.apply(Value::Int(234)), Ok(Value::Float(23.4)));
    assert_eq!(tenth.apply(Value::Int(-3)), Ok(Value::Float(-0.3)));
    let celsius = scaling(json!({"address": "40001", "scale": "0.5", "offset": -40}));
    assert_eq!(celsius.apply(Value::Uint(100)), Ok(Value::Float(10.0)));
    assert_eq!(celsius.invert(DataType::Int16, &Value::Int(10)), Ok(Value::Float(100.0)));
    // The nearest step of the register.
    assert_eq!(tenth.invert(DataType::Int16, &Value::Float(23.44)), Ok(Value::Float(234.0)));
    assert!(tenth.invert(DataType::Int16, &Value::Text("1".into())).is_err());
    assert!(Scaling::of(&field(json!({"address": "40001"}))).is_none());
}

#[test]
fn qualities() {
    let read = |json, words: &[u16]| {
        let field = field(json);
        let wire = field.wire(Base::Zero).unwrap();
        Decoder::of(&field, wire).read(words)
    };
    let limits = json!({"address": "40001", "scale": 0.1, "min": 0, "max": 100});
    assert_eq!(read(limits.clone(), &[500]).quality, Quality::Good);
    let above = read(limits, &[1_001]);
    assert_eq!((above.quality, above.value), (Quality::Uncertain, Some(Value::Float(100.1))));
    assert_eq!(above.reason.as_deref(), Some("above max, which is 100"));
    let text = read(json!({"address": "40001", "type": "STRING(2)"}), &[0xFF41]);
    assert_eq!(text.quality, Quality::Uncertain);
    let nan = read(json!({"address": "40001", "type": "FLOAT32"}), &[0x7FC0, 0]);
    assert_eq!((nan.quality, nan.value), (Quality::Bad, None));
}

#[test]
fn the_form_of_a_message() {
    let mut out = Vec::new();
    let good = Reading { value: Some(Value::Float(23.4)), quality: Quality::Good, reason: None };
    let time = rfc3339(1_700_000_000_123_456_789);
    good.write_json("\"level\"", &time, &mut out);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        r#"{"field":"level","value":23.4,"quality":"good","time":"2023-11-14T22:13:20.123Z"}"#
    );
    let mut out = Vec::new();
    Reading::bad("no \"answer\"".into()).write_json("\"a\\\"b\"", &time, &mut out);
    let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(json["field"], "a\"b");
    assert_eq!((&json["value"], &json["reason"]), (&json!(null), &json!("no \"answer\"")));
}

#[test]
fn change_and_dead_band() {
    let reading = |value| Reading { value: Some(value), quality: Quality::Good, reason: None };
    let at = |number| reading(Value::Float(number));
    assert!(!at(1.0).differs(&at(1.0), None));
    assert!(at(1.1).differs(&at(1.0), None));
    assert!(!at(1.5).differs(&at(1.0), Some(0.5)), "the band itself is not left");
    assert!(at(1.6).differs(&at(1.0), Some(0.5)));
    assert!(at(0.4).differs(&at(1.0), Some(0.5)));
    let bad = |why: &str| Reading::bad(why.into());
    assert!(bad("a").differs(&at(1.0), Some(100.0)), "quality is never banded");
    assert!(!bad("a").differs(&bad("a"), None));
    assert!(bad("a").differs(&bad("b"), None));
    assert!(reading(Value::Text("b".into())).differs(&reading(Value::Text("a".into())), Some(1.0)));
}

fn order() -> impl Strategy<Value = ByteOrder> {
    prop_oneof![
        Just(ByteOrder::Abcd),
        Just(ByteOrder::Dcba),
        Just(ByteOrder::Badc),
        Just(ByteOrder::Cdab)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn what_was_encoded_is_decoded(number in any::<i64>(), order in order()) {
        for (kind, bits) in [
            (DataType::Int16, 16), (DataType::Int32, 32), (DataType::Int64, 64),
            (DataType::Fixed(1), 16), (DataType::Fixed(2), 32), (DataType::Fixed(4), 64),
        ] {
            let value = Value::Int(number >> (64 - bits));
            let words = encode(kind, order, &value).unwrap();
            prop_assert_eq!(words.len(), usize::from(kind.count()));
            prop_assert_eq!(decode(kind, None, order, &words), Ok(value));
        }
        for (kind, bits) in [
            (DataType::Uint16, 16), (DataType::Uint32, 32), (DataType::Uint64, 64),
            (DataType::Ufixed(2), 32),
        ] {
            let value = Value::Uint(number.cast_unsigned() >> (64 - bits));
            let words = encode(kind, order, &value).unwrap();
            prop_assert_eq!(decode(kind, None, order, &words), Ok(value));
        }
    }

    #[test]
    fn floats_too(single in any::<f32>(), order in order()) {
        prop_assume!(single.is_finite());
        let words = encode(DataType::Float32, order, &Value::Float(f64::from(single))).unwrap();
        match decode(DataType::Float32, None, order, &words).unwrap() {
            #[allow(clippy::cast_possible_truncation)]
            Value::Float(number) => prop_assert_eq!((number as f32).to_bits(), single.to_bits()),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn text_too(text in "[ -~äöü°]{0,20}", order in order()) {
        let kind = DataType::String(60);
        let words = encode(kind, order, &Value::Text(text.clone())).unwrap();
        prop_assert_eq!(words.len(), 30);
        prop_assert_eq!(decode(kind, None, order, &words), Ok(Value::Text(text)));
    }

    #[test]
    fn no_registers_make_it_panic(
        words in prop::collection::vec(any::<u16>(), 0..130),
        bytes in 1_u16..=250, order in order(), bit in any::<u8>(),
    ) {
        for kind in [DataType::Bit, DataType::Float16, DataType::Float64, DataType::Int8H,
            DataType::Int64, DataType::String(bytes), DataType::Ufixed(4)]
        {
            let _ = decode(kind, Some(bit), order, &words);
        }
    }

    #[test]
    fn scaled_and_back(raw in any::<i16>(), scale in prop_oneof![
        Just(0.1), Just(0.01), Just(0.001), Just(0.5), Just(2.0), Just(0.3), Just(-0.25)
    ], offset in -100_i32..100) {
        let field = field(json!({"address": "40001", "scale": scale, "offset": offset}));
        let scaling = Scaling::of(&field).unwrap();
        let value = scaling.apply(Value::Int(i64::from(raw))).unwrap();
        let back = scaling.invert(DataType::Int16, &value).unwrap();
        prop_assert_eq!(back, Value::Float(f64::from(raw)));
    }
}
