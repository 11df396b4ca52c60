//! Addresses of coils and registers as people write them.

use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Deserializer;
use serde::{Deserialize, Serialize, Serializer};

use super::text;

/// The four tables of a device (Modbus Application Protocol 1.1b3, 4.3).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum Register {
    /// A bit that can be written; 0xxxx.
    Coil,
    /// A bit that can only be read; 1xxxx.
    Discrete,
    /// A register that can only be read; 3xxxx.
    Input,
    /// A register that can be written; 4xxxx.
    Holding,
}

impl Register {
    /// Whether the table is one of bits.
    #[must_use]
    pub const fn is_bits(self) -> bool {
        matches!(self, Self::Coil | Self::Discrete)
    }

    /// The function code that reads it.
    #[must_use]
    pub const fn read_function(self) -> u8 {
        match self {
            Self::Coil => 1,
            Self::Discrete => 2,
            Self::Holding => 3,
            Self::Input => 4,
        }
    }

    const fn of_digit(digit: char) -> Option<Self> {
        match digit {
            '0' => Some(Self::Coil),
            '1' => Some(Self::Discrete),
            '3' => Some(Self::Input),
            '4' => Some(Self::Holding),
            _ => None,
        }
    }
}

impl fmt::Display for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Coil => "coil",
            Self::Discrete => "discrete",
            Self::Input => "input",
            Self::Holding => "holding",
        })
    }
}

/// From where plain addresses count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum Base {
    /// From 0: what is written is what goes over the wire.
    #[default]
    Zero,
    /// From 1: one less goes over the wire.
    One,
}

/// A table and the address that goes over the wire, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wire {
    /// The table.
    pub register: Register,
    /// The address in it.
    pub address: u16,
}

impl fmt::Display for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} 0x{:04X}", self.register, self.address)
    }
}

/// An address in one of the forms people write.
///
/// | form | means |
/// |---|---|
/// | `40001`, `400001` | five or six digits of which the first is 0, 1, 3 or 4: the table, and a number from 1 |
/// | `4x0001` | the same, the table apart from the number |
/// | `0x006B` | hexadecimal; the table is said elsewhere |
/// | `107` | any other number; the table is said elsewhere |
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    written: String,
    form: Form,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Says its table; the number counts from 1.
    Entity(Register, u32),
    /// Says a number only.
    Plain(u32),
}

impl Address {
    /// The table, when the address says it.
    #[must_use]
    pub const fn register(&self) -> Option<Register> {
        match self.form {
            Form::Entity(register, _) => Some(register),
            Form::Plain(_) => None,
        }
    }

    /// What goes over the wire, from 0.
    ///
    /// # Errors
    ///
    /// When a plain address counts from one and is 0, or is beyond 65536.
    pub fn wire(&self, base: Base) -> Result<u16, String> {
        let counted = match (self.form, base) {
            (Form::Entity(_, number), _) | (Form::Plain(number), Base::One) => {
                number.checked_sub(1).ok_or("counts from one, so there is no 0")?
            }
            (Form::Plain(number), Base::Zero) => number,
        };
        u16::try_from(counted).map_err(|_| "is beyond the last address, 0xFFFF".to_owned())
    }
}

/// Decimal digits only, few enough not to overflow.
fn digits(text: &str) -> Option<u32> {
    let plain = (1..=6).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "must be an address such as 40001, 4x0001, 0x006B or 107";
        let address = |form| Ok(Self { written: text.to_owned(), form });
        if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
            let plain = (1..=5).contains(&hex.len()) && hex.bytes().all(|b| b.is_ascii_hexdigit());
            let number = plain.then(|| u32::from_str_radix(hex, 16).ok()).flatten();
            return address(Form::Plain(number.ok_or(FORM)?));
        }
        let entity = |table: char, number: &str| {
            let register = Register::of_digit(table).ok_or(
                "must begin with 0, 1, 3 or 4 before the x: coil, discrete, input, holding",
            )?;
            let number = digits(number).ok_or(FORM)?;
            match number {
                0 => Err(format!(
                    "has number 0, and numbers of this form count from 1; for the plain address \
                     {} write it in hexadecimal and say the register",
                    text.replace(['x', 'X'], "")
                )),
                1..=65_536 => address(Form::Entity(register, number)),
                _ => Err("has a number beyond 65536".to_owned()),
            }
        };
        if let Some((table, number)) = text.split_once(['x', 'X']) {
            let mut table = table.chars();
            return match (table.next(), table.next()) {
                (Some(table), None) => entity(table, number),
                _ => Err(FORM.to_owned()),
            };
        }
        let number = digits(text).ok_or(FORM)?;
        let first = text.chars().next().unwrap_or_default();
        match (text.len(), text.split_at_checked(1)) {
            (5 | 6, Some((_, rest))) if Register::of_digit(first).is_some() => entity(first, rest),
            _ => address(Form::Plain(number)),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text::parse(deserializer, "an address such as 40001")
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for Address {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Address".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "title": "address",
            "anyOf": [
                { "type": "string", "pattern": "^([0-9]{1,6}|[0134][xX][0-9]{1,6}|0[xX][0-9a-fA-F]{1,5})$" },
                { "type": "integer", "minimum": 0, "maximum": 465_536 },
            ],
            "examples": ["40001", "4x0001", "0x006B", 107],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, base: Base) -> (Option<Register>, Result<u16, String>) {
        let address: Address = text.parse().unwrap();
        assert_eq!(address.to_string(), text);
        (address.register(), address.wire(base))
    }

    #[test]
    fn every_form_in_both_bases() {
        for (text, register, zero, one) in [
            ("40001", Some(Register::Holding), 0, Some(0)),
            ("40108", Some(Register::Holding), 107, Some(107)),
            ("49999", Some(Register::Holding), 9_998, Some(9_998)),
            ("400001", Some(Register::Holding), 0, Some(0)),
            ("465536", Some(Register::Holding), 65_535, Some(65_535)),
            ("30010", Some(Register::Input), 9, Some(9)),
            ("10001", Some(Register::Discrete), 0, Some(0)),
            ("00001", Some(Register::Coil), 0, Some(0)),
            ("4x0001", Some(Register::Holding), 0, Some(0)),
            ("1X16", Some(Register::Discrete), 15, Some(15)),
            ("3x65536", Some(Register::Input), 65_535, Some(65_535)),
            ("0x0000", None, 0, None),
            ("0x006B", None, 107, Some(106)),
            ("0xFFFF", None, 65_535, Some(65_534)),
            ("0", None, 0, None),
            ("107", None, 107, Some(106)),
            ("9999", None, 9_999, Some(9_998)),
            ("20000", None, 20_000, Some(19_999)),
            ("65535", None, 65_535, Some(65_534)),
        ] {
            assert_eq!(read(text, Base::Zero), (register, Ok(zero)), "{text}");
            assert_eq!(read(text, Base::One).1.ok(), one, "{text}");
        }
        assert_eq!(read("65536", Base::One).1, Ok(65_535));
        assert!(read("65536", Base::Zero).1.unwrap_err().contains("0xFFFF"));
        assert!(read("0x10000", Base::Zero).1.unwrap_err().contains("0xFFFF"));
        assert!(read("0", Base::One).1.unwrap_err().contains("no 0"));
    }

    #[test]
    fn what_is_no_address() {
        for text in [
            "", "x", "4x", "x1", "44x1", "2x0001", "5x1", "40001.3", "-1", "4 0001", "0x", "0xG1",
            "10000", "40000", "4x0", "4x65537", "465537", "1000000", "40001x", "0x123456",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
