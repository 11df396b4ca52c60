//! One field: where it is in a device, and what its registers mean.

use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Deserializer;
use serde::{Deserialize, Serialize, Serializer};

use super::address::{Address, Base, Register, Wire};
use super::text::{self, Number};
use super::url::ModbusUrl;
use super::{Count, FieldError, Function};

/// Longest text, in bytes: what fits into 125 registers.
const STRING_MAX: u16 = 250;

/// What a field's registers hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataType {
    /// True or false: a coil, an input, or one bit of a register.
    Bit,
    /// The low byte of a register, with sign.
    Int8L,
    /// The high byte of a register, with sign.
    Int8H,
    /// The low byte of a register.
    Uint8L,
    /// The high byte of a register.
    Uint8H,
    /// One register, with sign.
    Int16,
    /// Two registers, with sign.
    Int32,
    /// Four registers, with sign.
    Int64,
    /// One register.
    Uint16,
    /// Two registers.
    Uint32,
    /// Four registers.
    Uint64,
    /// IEEE 754 half precision.
    Float16,
    /// IEEE 754 single precision.
    Float32,
    /// IEEE 754 double precision.
    Float64,
    /// Fixed point with sign in so many registers (1, 2 or 4); `scale` says
    /// where the point is.
    Fixed(u8),
    /// Fixed point without sign.
    Ufixed(u8),
    /// Text of so many bytes, two in a register, ending at the first zero.
    String(u16),
}

impl DataType {
    /// How many registers (or, for a bit, bits) it takes.
    #[must_use]
    pub const fn count(self) -> u16 {
        match self {
            Self::Bit
            | Self::Int8L
            | Self::Int8H
            | Self::Uint8L
            | Self::Uint8H
            | Self::Int16
            | Self::Uint16
            | Self::Float16 => 1,
            Self::Int32 | Self::Uint32 | Self::Float32 => 2,
            Self::Int64 | Self::Uint64 | Self::Float64 => 4,
            Self::Fixed(registers) | Self::Ufixed(registers) => registers as u16,
            Self::String(bytes) => bytes.div_ceil(2),
        }
    }

    /// Whether its values are numbers.
    #[must_use]
    pub const fn is_number(self) -> bool {
        !matches!(self, Self::Bit | Self::String(_))
    }
}

/// The types without a length, with their names.
const NAMES: [(&str, DataType); 14] = [
    ("BIT", DataType::Bit),
    ("INT8L", DataType::Int8L),
    ("INT8H", DataType::Int8H),
    ("UINT8L", DataType::Uint8L),
    ("UINT8H", DataType::Uint8H),
    ("INT16", DataType::Int16),
    ("INT32", DataType::Int32),
    ("INT64", DataType::Int64),
    ("UINT16", DataType::Uint16),
    ("UINT32", DataType::Uint32),
    ("UINT64", DataType::Uint64),
    ("FLOAT16", DataType::Float16),
    ("FLOAT32", DataType::Float32),
    ("FLOAT64", DataType::Float64),
];

impl FromStr for DataType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "must be BIT, INT8L, INT8H, UINT8L, UINT8H, INT16, INT32, INT64, \
             UINT16, UINT32, UINT64, FLOAT16, FLOAT32, FLOAT64, FIXED, UFIXED or STRING(n)";
        let upper = text.to_ascii_uppercase();
        if let Some((_, simple)) = NAMES.iter().find(|(name, _)| *name == upper) {
            return Ok(*simple);
        }
        let (name, length) = match upper.split_once('(') {
            Some((name, rest)) => {
                let digits = rest.strip_suffix(')').ok_or(FORM)?;
                (name, Some(digits.parse::<u16>().map_err(|_| FORM)?))
            }
            None => (upper.as_str(), None),
        };
        let registers = || match length {
            None => Ok(1),
            Some(1) => Ok(1),
            Some(2) => Ok(2),
            Some(4) => Ok(4),
            Some(_) => Err("must have 1, 2 or 4 registers: FIXED, FIXED(2), FIXED(4)".to_owned()),
        };
        match (name, length) {
            ("FIXED", _) => Ok(Self::Fixed(registers()?)),
            ("UFIXED", _) => Ok(Self::Ufixed(registers()?)),
            ("STRING", Some(bytes)) if (1..=STRING_MAX).contains(&bytes) => Ok(Self::String(bytes)),
            ("STRING", _) => {
                Err(format!("must say its length in bytes, 1 to {STRING_MAX}: STRING(20)"))
            }
            _ => Err(FORM.to_owned()),
        }
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(1) => f.write_str("FIXED"),
            Self::Fixed(registers) => write!(f, "FIXED({registers})"),
            Self::Ufixed(1) => f.write_str("UFIXED"),
            Self::Ufixed(registers) => write!(f, "UFIXED({registers})"),
            Self::String(bytes) => write!(f, "STRING({bytes})"),
            simple => {
                let name = NAMES.iter().find(|(_, kind)| kind == simple).map_or("", |(n, _)| n);
                f.write_str(name)
            }
        }
    }
}

impl<'de> Deserialize<'de> for DataType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text::parse(deserializer, "a type such as INT16")
    }
}

impl Serialize for DataType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for DataType {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "DataType".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "title": "type", "anyOf": [
            { "enum": ["BIT", "INT8L", "INT8H", "UINT8L", "UINT8H", "INT16", "INT32", "INT64",
                "UINT16", "UINT32", "UINT64", "FLOAT16", "FLOAT32", "FLOAT64", "FIXED", "UFIXED"] },
            { "type": "string", "pattern": "^([uU]?[fF][iI][xX][eE][dD](\\([124]\\))?|[sS][tT][rR][iI][nN][gG]\\([0-9]{1,3}\\)|[a-zA-Z]+[0-9]*[a-zA-Z]?)$" },
        ] })
    }
}

/// In which order a value's bytes are in its registers, A being the most
/// significant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum ByteOrder {
    /// Most significant byte first, as the protocol has it.
    #[default]
    #[serde(rename = "ABCD")]
    Abcd,
    /// Least significant byte first.
    #[serde(rename = "DCBA")]
    Dcba,
    /// Most significant register first, its bytes swapped.
    #[serde(rename = "BADC")]
    Badc,
    /// Least significant register first.
    #[serde(rename = "CDAB")]
    Cdab,
}

/// A field of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Field {
    /// The device: its unit identifier (slave address), 0 to 255, with RTU 1 to
    /// 247.
    #[serde(default = "unit")]
    pub unit: Count<0, 255>,
    /// Where it begins: 40001, 4x0001, 0x006B or 107.
    pub address: Address,
    /// The table, when the address does not say it: `coil`, `discrete`,
    /// `input` or `holding`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub register: Option<Register>,
    /// What it holds; when left out BIT for coils and discrete inputs, UINT16
    /// for registers.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub data_type: Option<DataType>,
    /// Which bit of the register, for BIT in a register; 0 is the lowest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bit: Option<Count<0, 15>>,
    /// The order of bytes: ABCD, DCBA, BADC or CDAB.
    #[serde(default)]
    pub byte_order: ByteOrder,
    /// The value is what the registers hold, times this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<Number>,
    /// Added after `scale`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<Number>,
    /// With `emit: change`: how far a value has to be from the last one sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadband: Option<Number>,
    /// Lowest value. A source gives lower ones the quality uncertain, a sink
    /// does not write them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<Number>,
    /// Highest value. A source gives higher ones the quality uncertain, a sink
    /// does not write them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<Number>,
}

const fn unit() -> Count<0, 255> {
    Count::clamped(1)
}

impl Field {
    /// The table and the address on the wire.
    ///
    /// # Errors
    ///
    /// When the table is not said, said twice in different ways, or the
    /// address is not one.
    pub fn wire(&self, base: Base) -> Result<Wire, FieldError> {
        let address = self.address.to_string();
        let register = match (self.address.register(), self.register) {
            (Some(said), Some(also)) if said != also => {
                let text = format!("is {also}, and the address {address} is {said}");
                return Err(FieldError::invalid("register", &also.to_string(), text));
            }
            (Some(register), _) | (None, Some(register)) => register,
            (None, None) => {
                let text = "does not say the table: say register: coil, discrete, input or \
                     holding, or write it as 40001";
                return Err(FieldError::invalid("address", &address, text));
            }
        };
        let wire = self.address.wire(base);
        let wire = wire.map_err(|text| FieldError::invalid("address", &address, text))?;
        Ok(Wire { register, address: wire })
    }

    /// What it holds, in a table of this kind.
    #[must_use]
    pub fn data_type(&self, register: Register) -> DataType {
        let default = if register.is_bits() { DataType::Bit } else { DataType::Uint16 };
        self.data_type.unwrap_or(default)
    }

    pub(super) fn type_text(&self) -> String {
        self.data_type.map(|kind| kind.to_string()).unwrap_or_default()
    }

    /// Everything about the field by itself. Returns where it is.
    pub(super) fn check(&self, url: &ModbusUrl, base: Base) -> Result<Wire, FieldError> {
        let wire = self.wire(base)?;
        // Modbus over Serial Line 1.02, section 2.2: 0 is the broadcast, which
        // nobody answers.
        if url.is_rtu() && !(1..=247).contains(&self.unit.get()) {
            let text = "must be 1 to 247 with RTU";
            return Err(FieldError::invalid("unit", &self.unit.get().to_string(), text));
        }
        let kind = self.data_type(wire.register);
        let refuse = |text: &str| Err(FieldError::invalid("type", &kind.to_string(), text));
        if wire.register.is_bits() && kind != DataType::Bit {
            return refuse("must be BIT in a table of coils or discrete inputs");
        }
        if u32::from(wire.address) + u32::from(kind.count()) > 65_536 {
            return refuse("reaches beyond the last address, 0xFFFF");
        }
        let bit_of_register = kind == DataType::Bit && !wire.register.is_bits();
        match self.bit {
            None if bit_of_register => {
                return refuse("needs `bit` in a register: which of its 16 bits");
            }
            Some(bit) if !bit_of_register => {
                let text = "is for type BIT in an input or holding register";
                return Err(FieldError::invalid("bit", &bit.get().to_string(), text));
            }
            _ => {}
        }
        self.check_numbers(kind)?;
        Ok(wire)
    }

    fn check_numbers(&self, kind: DataType) -> Result<(), FieldError> {
        let numbers = [
            ("scale", self.scale),
            ("offset", self.offset),
            ("deadband", self.deadband),
            ("min", self.min),
            ("max", self.max),
        ];
        for (name, number) in numbers {
            if let Some(number) = number
                && !kind.is_number()
            {
                let text = format!("is for numbers, and the type is {kind}");
                return Err(FieldError::invalid(name, &number.to_string(), text));
            }
        }
        match (kind, self.scale.map(Number::get)) {
            (_, Some(0.0)) => {
                return Err(FieldError::invalid("scale", "0", "must not be 0"));
            }
            (DataType::Fixed(_) | DataType::Ufixed(_), None) => {
                let text = "needs `scale`, which says where the point is: 0.01";
                return Err(FieldError::invalid("type", &kind.to_string(), text));
            }
            _ => {}
        }
        if let Some(band) = self.deadband
            && band.get() < 0.0
        {
            return Err(FieldError::invalid("deadband", &band.to_string(), "must not be negative"));
        }
        match (self.min, self.max) {
            (Some(min), Some(max)) if min > max => Err(FieldError::invalid(
                "min",
                &min.to_string(),
                format!("must not be above max, which is {max}"),
            )),
            _ => Ok(()),
        }
    }

    /// Whether a sink can write it.
    pub(super) fn check_writable(&self, base: Base, function: Function) -> Result<(), FieldError> {
        let wire = self.wire(base)?;
        let kind = self.data_type(wire.register);
        let refuse = |text: &str| Err(FieldError::invalid("type", &kind.to_string(), text));
        if matches!(wire.register, Register::Discrete | Register::Input) {
            let text = format!("is in the table {}, which can only be read", wire.register);
            return Err(FieldError::invalid("address", &self.address.to_string(), text));
        }
        let part =
            matches!(kind, DataType::Int8L | DataType::Int8H | DataType::Uint8L | DataType::Uint8H);
        if part || (kind == DataType::Bit && wire.register == Register::Holding) {
            return refuse("is a part of a register, and a write would change all of it");
        }
        if function == Function::Single && kind.count() > 1 {
            return refuse("takes several registers, and function: single writes one");
        }
        match self.deadband {
            Some(band) => {
                Err(FieldError::invalid("deadband", &band.to_string(), "has no meaning in a sink"))
            }
            None => Ok(()),
        }
    }
}
