//! What registers mean: values from registers, and registers from values.
//!
//! Pure functions, also for whoever plays a device: a simulator encodes what a
//! source decodes.

use std::fmt;
use std::io::Write as _;

use half::f16;
use millrace_settings::modbus::{ByteOrder, DataType, Field};

/// A field's value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A bit.
    Bool(bool),
    /// A whole number with sign.
    Int(i64),
    /// A whole number without sign.
    Uint(u64),
    /// Any other number; finite.
    Float(f64),
    /// Text.
    Text(String),
}

impl Value {
    /// The value as a number; true is 1.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "beyond 2^53 the nearest is meant")]
    pub const fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Bool(bit) => Some(if *bit { 1.0 } else { 0.0 }),
            Self::Int(number) => Some(*number as f64),
            Self::Uint(number) => Some(*number as f64),
            Self::Float(number) => Some(*number),
            Self::Text(_) => None,
        }
    }

    /// Appends the value as JSON.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        // Writing to memory does not fail; a float is finite.
        let _ = match self {
            Self::Bool(bit) => write!(out, "{bit}"),
            Self::Int(number) => write!(out, "{number}"),
            Self::Uint(number) => write!(out, "{number}"),
            Self::Float(number) => serde_json::to_writer(out, number).map_err(std::io::Error::from),
            Self::Text(text) => serde_json::to_writer(out, text).map_err(std::io::Error::from),
        };
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(bit) => bit.fmt(f),
            Self::Int(number) => number.fmt(f),
            Self::Uint(number) => number.fmt(f),
            Self::Float(number) => number.fmt(f),
            Self::Text(text) => write!(f, "{text:?}"),
        }
    }
}

/// Why registers are no value.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum DecodeError {
    /// Fewer registers than the type takes.
    #[error("the answer has too few registers")]
    TooShort,
    /// NaN or an infinity, which many devices send for "no measurement".
    #[error("the device sends {0}, which is no number")]
    NotFinite(f64),
    /// Text that is not UTF-8; here with replacement characters.
    #[error("the text is not UTF-8")]
    NotUtf8(String),
}

/// Why a value cannot be put into registers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The value is of another kind.
    #[error("{value} is not {wanted}")]
    Kind {
        /// What was given.
        value: String,
        /// What the field needs.
        wanted: &'static str,
    },
    /// The number does not fit.
    #[error("{value} does not fit into {kind}")]
    Range {
        /// What was given.
        value: String,
        /// The type.
        kind: String,
    },
}

/// Puts registers into the order in which the most significant byte comes
/// first, or back: doing it twice changes nothing.
fn reorder(order: ByteOrder, words: &mut [u16]) {
    if matches!(order, ByteOrder::Badc | ByteOrder::Dcba) {
        for word in words.iter_mut() {
            *word = word.swap_bytes();
        }
    }
    if matches!(order, ByteOrder::Cdab | ByteOrder::Dcba) {
        words.reverse();
    }
}

/// Text has no most significant register: only its bytes may be swapped.
fn reorder_text(order: ByteOrder, words: &mut [u16]) {
    if matches!(order, ByteOrder::Badc | ByteOrder::Dcba) {
        for word in words.iter_mut() {
            *word = word.swap_bytes();
        }
    }
}

/// Decodes registers. `bit` is the bit of a register for [`DataType::Bit`].
///
/// # Errors
///
/// See [`DecodeError`].
pub fn decode(
    kind: DataType,
    bit: Option<u8>,
    order: ByteOrder,
    words: &[u16],
) -> Result<Value, DecodeError> {
    let count = usize::from(kind.count());
    let words = words.get(..count).ok_or(DecodeError::TooShort)?;
    if let DataType::String(bytes) = kind {
        return decode_text(bytes, order, words);
    }
    let mut ordered = [0_u16; 4];
    let ordered = ordered.get_mut(..count).ok_or(DecodeError::TooShort)?;
    ordered.copy_from_slice(words);
    reorder(order, ordered);
    let raw = ordered.iter().fold(0_u64, |raw, word| (raw << 16) | u64::from(*word));
    let signed = |registers: u8| {
        let unused = 64_u32.saturating_sub(16 * u32::from(registers));
        raw.cast_signed().wrapping_shl(unused).wrapping_shr(unused)
    };
    #[allow(clippy::cast_possible_truncation, reason = "the part of the register that is meant")]
    let value = match kind {
        DataType::Bit => Value::Bool((raw >> bit.unwrap_or(0).min(15)) & 1 == 1),
        DataType::Int8L => Value::Int(i64::from((raw as u8).cast_signed())),
        DataType::Int8H => Value::Int(i64::from(((raw >> 8) as u8).cast_signed())),
        DataType::Uint8L => Value::Uint(raw & 0xFF),
        DataType::Uint8H => Value::Uint((raw >> 8) & 0xFF),
        DataType::Int16 => Value::Int(signed(1)),
        DataType::Int32 => Value::Int(signed(2)),
        DataType::Int64 => Value::Int(signed(4)),
        DataType::Fixed(registers) => Value::Int(signed(registers)),
        DataType::Uint16 | DataType::Uint32 | DataType::Uint64 | DataType::Ufixed(_) => {
            Value::Uint(raw)
        }
        DataType::Float16 => Value::Float(f16::from_bits(raw as u16).to_f64()),
        // Printed as short as the single it was: 20.1, not 20.100000381469727.
        DataType::Float32 => Value::Float(widen(f32::from_bits(raw as u32))),
        DataType::Float64 => Value::Float(f64::from_bits(raw)),
        DataType::String(_) => return Err(DecodeError::TooShort),
    };
    match value {
        Value::Float(number) if !number.is_finite() => Err(DecodeError::NotFinite(number)),
        value => Ok(value),
    }
}

/// The double that is written with the same digits as the single.
fn widen(single: f32) -> f64 {
    single.to_string().parse().unwrap_or_else(|_| f64::from(single))
}

fn decode_text(bytes: u16, order: ByteOrder, words: &[u16]) -> Result<Value, DecodeError> {
    let mut words = words.to_vec();
    reorder_text(order, &mut words);
    let mut text: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
    text.truncate(usize::from(bytes));
    if let Some(end) = text.iter().position(|byte| *byte == 0) {
        text.truncate(end);
    }
    match String::from_utf8(text) {
        Ok(text) => Ok(Value::Text(text)),
        Err(error) => Err(DecodeError::NotUtf8(String::from_utf8_lossy(error.as_bytes()).into())),
    }
}

/// Encodes a value into the registers of a type that takes whole registers.
///
/// # Errors
///
/// When the value is of another kind, does not fit, or the type is a part of
/// a register.
pub fn encode(kind: DataType, order: ByteOrder, value: &Value) -> Result<Vec<u16>, EncodeError> {
    if let DataType::String(bytes) = kind {
        return encode_text(bytes, order, value);
    }
    let whole = |min: i128, max: i128| -> Result<u64, EncodeError> {
        let number = whole_number(value)?;
        if (min..=max).contains(&number) {
            // The low bits of a negative number are what goes into registers.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            return Ok(number as u64);
        }
        Err(EncodeError::Range { value: value.to_string(), kind: kind.to_string() })
    };
    let signed = |bits: u32| whole(-(1_i128 << (bits - 1)), (1_i128 << (bits - 1)) - 1);
    let unsigned = |bits: u32| whole(0, (1_i128 << bits) - 1);
    let raw = match kind {
        DataType::Int16 => signed(16)?,
        DataType::Int32 => signed(32)?,
        DataType::Int64 => signed(64)?,
        DataType::Uint16 => unsigned(16)?,
        DataType::Uint32 => unsigned(32)?,
        DataType::Uint64 => unsigned(64)?,
        DataType::Fixed(registers) => signed(16 * u32::from(registers))?,
        DataType::Ufixed(registers) => unsigned(16 * u32::from(registers))?,
        DataType::Float16 | DataType::Float32 | DataType::Float64 => encode_float(kind, value)?,
        DataType::Bit
        | DataType::Int8L
        | DataType::Int8H
        | DataType::Uint8L
        | DataType::Uint8H
        | DataType::String(_) => {
            return Err(EncodeError::Kind {
                value: value.to_string(),
                wanted: "writable: the type is a part of a register",
            });
        }
    };
    let count = kind.count();
    #[allow(clippy::cast_possible_truncation, reason = "one register of it")]
    let mut words: Vec<u16> =
        (0..count).rev().map(|place| (raw >> (16 * u32::from(place))) as u16).collect();
    reorder(order, &mut words);
    Ok(words)
}

fn whole_number(value: &Value) -> Result<i128, EncodeError> {
    match value {
        Value::Int(number) => Ok(i128::from(*number)),
        Value::Uint(number) => Ok(i128::from(*number)),
        // Saturates beyond the range, which is then refused.
        #[allow(clippy::cast_possible_truncation)]
        Value::Float(number) if number.fract() == 0.0 => Ok(*number as i128),
        _ => Err(EncodeError::Kind { value: value.to_string(), wanted: "a whole number" }),
    }
}

fn encode_float(kind: DataType, value: &Value) -> Result<u64, EncodeError> {
    let number = match value {
        Value::Bool(_) | Value::Text(_) => None,
        number => number.as_f64(),
    };
    let number =
        number.ok_or_else(|| EncodeError::Kind { value: value.to_string(), wanted: "a number" })?;
    #[allow(clippy::cast_possible_truncation, reason = "the nearest of less precision")]
    let (raw, finite) = match kind {
        DataType::Float16 => {
            let half = f16::from_f64(number);
            (u64::from(half.to_bits()), half.is_finite())
        }
        DataType::Float32 => {
            let single = number as f32;
            (u64::from(single.to_bits()), single.is_finite())
        }
        _ => (number.to_bits(), number.is_finite()),
    };
    if finite {
        Ok(raw)
    } else {
        Err(EncodeError::Range { value: value.to_string(), kind: kind.to_string() })
    }
}

fn encode_text(bytes: u16, order: ByteOrder, value: &Value) -> Result<Vec<u16>, EncodeError> {
    let Value::Text(text) = value else {
        return Err(EncodeError::Kind { value: value.to_string(), wanted: "text" });
    };
    if text.len() > usize::from(bytes) {
        let kind = DataType::String(bytes).to_string();
        return Err(EncodeError::Range { value: value.to_string(), kind });
    }
    let mut padded = text.as_bytes().to_vec();
    padded.resize(usize::from(bytes.div_ceil(2)) * 2, 0);
    let pair = |pair: &[u8]| {
        let (high, low) = (pair.first().copied(), pair.get(1).copied());
        u16::from_be_bytes([high.unwrap_or(0), low.unwrap_or(0)])
    };
    let mut words: Vec<u16> = padded.chunks(2).map(pair).collect();
    reorder_text(order, &mut words);
    Ok(words)
}

/// `value = raw * scale + offset`, and back.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scaling {
    scale: f64,
    /// One over the scale, where that is a whole number: dividing by 10 gives
    /// 23.4 where multiplying by 0.1 gives 23.400000000000002.
    divisor: Option<f64>,
    offset: f64,
}

impl Scaling {
    /// The scaling of a field; none when it has neither scale nor offset.
    #[must_use]
    pub fn of(field: &Field) -> Option<Self> {
        let scale = field.scale.map(|number| number.get());
        let offset = field.offset.map(|number| number.get());
        if scale.is_none() && offset.is_none() {
            return None;
        }
        let scale = scale.unwrap_or(1.0);
        let inverse = (1.0 / scale).round();
        let exact = inverse.is_finite() && inverse != 0.0 && 1.0 / inverse == scale;
        Some(Self { scale, divisor: exact.then_some(inverse), offset: offset.unwrap_or(0.0) })
    }

    /// From what registers hold to the value.
    ///
    /// # Errors
    ///
    /// When the result is not finite.
    pub fn apply(&self, raw: Value) -> Result<Value, DecodeError> {
        let number = match &raw {
            Value::Bool(_) | Value::Text(_) => return Ok(raw),
            number => number.as_f64().unwrap_or_default(),
        };
        let scaled = self.divisor.map_or(number * self.scale, |divisor| number / divisor);
        let value = scaled + self.offset;
        if value.is_finite() { Ok(Value::Float(value)) } else { Err(DecodeError::NotFinite(value)) }
    }

    /// From the value to what registers of this type hold: for whole numbers
    /// the nearest.
    ///
    /// # Errors
    ///
    /// When the value is no number.
    pub fn invert(&self, kind: DataType, value: &Value) -> Result<Value, EncodeError> {
        let number = match value {
            Value::Bool(_) | Value::Text(_) => None,
            number => number.as_f64(),
        };
        let number = number
            .ok_or_else(|| EncodeError::Kind { value: value.to_string(), wanted: "a number" })?;
        let less = number - self.offset;
        let raw = self.divisor.map_or(less / self.scale, |divisor| less * divisor);
        let float = matches!(kind, DataType::Float16 | DataType::Float32 | DataType::Float64);
        Ok(Value::Float(if float { raw } else { raw.round() }))
    }
}
