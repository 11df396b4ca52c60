//! A field's reading, and its form in a message.

use std::sync::Arc;

use chrono::{DateTime, SecondsFormat, Utc};
use millrace_settings::modbus::{ByteOrder, DataType, Field, Wire};

use crate::codec::{DecodeError, Scaling, Value, decode};

/// How far a value can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quality {
    /// The device answered, and the value is what it should be.
    Good,
    /// There is a value, and a doubt, which the reason names.
    Uncertain,
    /// There is no value; the reason says why.
    Bad,
}

impl Quality {
    /// The word in a message.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Uncertain => "uncertain",
            Self::Bad => "bad",
        }
    }
}

/// What was read of a field.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// The value, unless the quality is bad.
    pub value: Option<Value>,
    /// How good it is.
    pub quality: Quality,
    /// Why it is not good.
    pub reason: Option<Arc<str>>,
}

impl Reading {
    /// A reading without a value.
    #[must_use]
    pub const fn bad(reason: Arc<str>) -> Self {
        Self { value: None, quality: Quality::Bad, reason: Some(reason) }
    }

    /// Whether it has to be sent after `last`: another quality, another reason,
    /// or a value further away than the dead-band.
    #[must_use]
    pub fn differs(&self, last: &Self, deadband: Option<f64>) -> bool {
        if self.quality != last.quality || self.reason != last.reason {
            return true;
        }
        let number = |reading: &Self| reading.value.as_ref().and_then(Value::as_f64);
        match (deadband, number(self), number(last)) {
            (Some(band), Some(new), Some(old)) => (new - old).abs() > band,
            _ => self.value != last.value,
        }
    }

    /// Appends the payload: `{"field":...,"value":...,"quality":...,"time":...}`
    /// and, unless the quality is good, `"reason"` before the time. `name` is
    /// the field's name as a JSON string.
    pub fn write_json(&self, name: &str, time: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"field\":");
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b",\"value\":");
        match &self.value {
            Some(value) => value.write_json(out),
            None => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(b",\"quality\":\"");
        out.extend_from_slice(self.quality.name().as_bytes());
        out.push(b'"');
        if let Some(reason) = &self.reason {
            out.extend_from_slice(b",\"reason\":");
            // Writing to memory does not fail.
            let _ = serde_json::to_writer(&mut *out, &**reason);
        }
        out.extend_from_slice(b",\"time\":\"");
        out.extend_from_slice(time.as_bytes());
        out.extend_from_slice(b"\"}");
    }
}

/// How a field's registers become its reading.
#[derive(Debug, Clone)]
pub struct Decoder {
    kind: DataType,
    bit: Option<u8>,
    order: ByteOrder,
    scaling: Option<Scaling>,
    min: Option<f64>,
    max: Option<f64>,
}

impl Decoder {
    /// The decoder of a field that lies at `wire`.
    #[must_use]
    pub fn of(field: &Field, wire: Wire) -> Self {
        Self {
            kind: field.data_type(wire.register),
            bit: field.bit.and_then(|bit| u8::try_from(bit.get()).ok()),
            order: field.byte_order,
            scaling: Scaling::of(field),
            min: field.min.map(|number| number.get()),
            max: field.max.map(|number| number.get()),
        }
    }

    /// How many registers or bits it takes.
    #[must_use]
    pub const fn count(&self) -> u16 {
        self.kind.count()
    }

    /// The reading of a coil or discrete input.
    #[must_use]
    pub const fn bit(bit: bool) -> Reading {
        Reading { value: Some(Value::Bool(bit)), quality: Quality::Good, reason: None }
    }

    /// The reading of registers.
    #[must_use]
    pub fn read(&self, words: &[u16]) -> Reading {
        let scaled = decode(self.kind, self.bit, self.order, words)
            .and_then(|raw| self.scaling.map_or(Ok(raw.clone()), |scaling| scaling.apply(raw)));
        match scaled {
            Ok(value) => match self.beyond(&value) {
                None => Reading { value: Some(value), quality: Quality::Good, reason: None },
                Some(reason) => Reading {
                    value: Some(value),
                    quality: Quality::Uncertain,
                    reason: Some(reason),
                },
            },
            Err(DecodeError::NotUtf8(text)) => Reading {
                value: Some(Value::Text(text)),
                quality: Quality::Uncertain,
                reason: Some("the text is not UTF-8".into()),
            },
            Err(error) => Reading::bad(error.to_string().into()),
        }
    }

    fn beyond(&self, value: &Value) -> Option<Arc<str>> {
        if self.min.is_none() && self.max.is_none() {
            return None;
        }
        let number = value.as_f64()?;
        match (self.min, self.max) {
            (Some(min), _) if number < min => Some(format!("below min, which is {min}").into()),
            (_, Some(max)) if number > max => Some(format!("above max, which is {max}").into()),
            _ => None,
        }
    }
}

/// A time in nanoseconds since the Unix epoch as RFC 3339, to the millisecond.
#[must_use]
pub fn rfc3339(ns: u64) -> String {
    let time: DateTime<Utc> = DateTime::from_timestamp_nanos(i64::try_from(ns).unwrap_or(i64::MAX));
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}
