//! Settings of the Modbus connector: TCP, RTU, and RTU over TCP.

mod address;
mod field;
mod text;
mod url;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use address::{Address, Base, Register, Wire};
pub use field::{ByteOrder, DataType, Field};
pub use text::Number;
pub use url::{ModbusUrl, Scheme};

use crate::Settings;
use crate::flat::FieldError;
use crate::values::{Count, Duration};

/// Most fields of one source or sink.
pub const FIELDS_MAX: usize = 10_000;

/// Longest name of a field, in bytes: it is the topic of messages.
const NAME_MAX: usize = 200;

/// Most registers of one read (Modbus Application Protocol 1.1b3, 6.3).
pub type MaxRegisters = Count<1, 125>;

/// Most bits of one read (Modbus Application Protocol 1.1b3, 6.1).
pub type MaxBits = Count<1, 2_000>;

/// When a source sends a reading on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum Emit {
    /// Every field at every interval.
    #[default]
    Interval,
    /// A field only when its value, its quality or the reason has changed.
    Change,
}

/// Which function codes a sink writes with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum Function {
    /// 5 for a coil, 6 for one register, 16 for several.
    #[default]
    Auto,
    /// Only 5 and 6.
    Single,
    /// Only 15 and 16.
    Multiple,
}

/// Which values of a field a sink writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum Write {
    /// Every value, in order.
    #[default]
    Every,
    /// Only the newest value that waits.
    Latest,
}

/// Parity of a serial line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum Parity {
    /// No parity bit.
    None,
    /// Odd parity.
    Odd,
    /// Even parity.
    Even,
}

/// Asks Modbus devices for fields at an interval. A device that does not answer
/// gives readings of bad quality, not silence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SourceSettings {
    /// Where the devices are: `tcp://host:502`, `rtu-over-tcp://host:port`, or
    /// a serial line, `rtu:///dev/ttyUSB0`.
    pub url: ModbusUrl,
    /// How often the fields are read, from 10ms to 1d.
    #[serde(default = "interval")]
    pub interval: Duration<10, 86_400_000>,
    /// What to read, by name; 1 to 10000 fields.
    pub fields: BTreeMap<String, Field>,
    /// Whether plain addresses count from `zero` or from `one`. Addresses such
    /// as 40001 and 4x0001 always count from one.
    #[serde(default)]
    pub base: Base,
    /// `interval` sends every reading on, `change` only those that differ from
    /// the last one sent.
    #[serde(default)]
    pub emit: Emit,
    /// Most registers asked for at once, for devices that take fewer than 125.
    #[serde(default = "max_registers")]
    pub max_registers: MaxRegisters,
    /// Most coils or inputs asked for at once, for devices that take fewer than
    /// 2000.
    #[serde(default = "max_bits")]
    pub max_bits: MaxBits,
    /// How many registers (or bits) between two fields may be read along with
    /// them. More makes fewer requests; a device may refuse registers that it
    /// does not have.
    #[serde(default = "no_gap")]
    pub max_gap: Gap,
    /// How long a device may take to answer, from 10ms to 1m.
    #[serde(default = "timeout")]
    pub timeout: Duration<10, 60_000>,
    /// Pause between connecting and the first request, from 0ms to 1m.
    #[serde(default = "no_pause")]
    pub pause_after_connect: Pause,
    /// Pause between an answer and the next request, from 0ms to 1m. A serial
    /// line has at least the silence that RTU asks for.
    #[serde(default = "no_pause")]
    pub pause_between_requests: Pause,
    /// Whether the connection is closed after every cycle, for devices that
    /// allow only one.
    #[serde(default)]
    pub close_after_cycle: bool,
    /// How often a request is made again, 100 ms later each time, when the
    /// device answers that it is busy (exception 6).
    #[serde(default = "busy_retries")]
    pub busy_retries: Count<0, 10>,
    /// Baud rate of a serial line; 19200 when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub baud_rate: Option<BaudRate>,
    /// Parity of a serial line, `none`, `odd` or `even`; even when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parity: Option<Parity>,
    /// Data bits of a serial line: 8, which is what RTU needs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_bits: Option<Count<5, 8>>,
    /// Stop bits of a serial line; when left out 1, without parity 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_bits: Option<Count<1, 2>>,
}

/// Writes fields of Modbus devices. The stage before it goes on only when the
/// device has answered. Only the fields named here are written, only within
/// their limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SinkSettings {
    /// Where the devices are: `tcp://host:502`, `rtu-over-tcp://host:port`, or
    /// a serial line, `rtu:///dev/ttyUSB0`.
    pub url: ModbusUrl,
    /// What may be written, by name, and within which `min` and `max`.
    pub fields: BTreeMap<String, Field>,
    /// Whether plain addresses count from `zero` or from `one`. Addresses such
    /// as 40001 and 4x0001 always count from one.
    #[serde(default)]
    pub base: Base,
    /// `every` value is written in order, or only the `latest` one that waits
    /// for a field, for a device slower than its values.
    #[serde(default)]
    pub write: Write,
    /// Most writes a second, all fields together, from 1 to 1000. No limit
    /// when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Count<1, 1_000>>,
    /// `auto` writes a coil with function 5, one register with 6, several with
    /// 16. `single` uses only 5 and 6, `multiple` only 15 and 16.
    #[serde(default)]
    pub function: Function,
    /// How long a device may take to answer, from 10ms to 3s: the stage that
    /// writes waits for it.
    #[serde(default = "write_timeout")]
    pub timeout: Duration<10, 3_000>,
    /// Pause between connecting and the first request, from 0ms to 1s.
    #[serde(default = "no_short_pause")]
    pub pause_after_connect: ShortPause,
    /// Pause between an answer and the next request, from 0ms to 1s. A serial
    /// line has at least the silence that RTU asks for.
    #[serde(default = "no_short_pause")]
    pub pause_between_requests: ShortPause,
    /// Whether the connection is closed after every batch, for devices that
    /// allow only one.
    #[serde(default)]
    pub close_after_write: bool,
    /// How often a request is made again, 100 ms later each time, when the
    /// device answers that it is busy (exception 6).
    #[serde(default = "busy_retries")]
    pub busy_retries: Count<0, 10>,
    /// Baud rate of a serial line; 19200 when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub baud_rate: Option<BaudRate>,
    /// Parity of a serial line, `none`, `odd` or `even`; even when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parity: Option<Parity>,
    /// Data bits of a serial line: 8, which is what RTU needs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_bits: Option<Count<5, 8>>,
    /// Stop bits of a serial line; when left out 1, without parity 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_bits: Option<Count<1, 2>>,
}

/// Registers or bits that may be read and thrown away between two fields.
pub type Gap = Count<0, 1_999>;

/// A pause of a source.
pub type Pause = Duration<0, 60_000>;
/// A pause of a sink, which has to answer within seconds.
pub type ShortPause = Duration<0, 1_000>;
/// Bits a second on a serial line.
pub type BaudRate = Count<110, 4_000_000>;

const fn interval() -> Duration<10, 86_400_000> {
    Duration::from_millis(1_000)
}

const fn max_registers() -> MaxRegisters {
    Count::clamped(125)
}

const fn max_bits() -> MaxBits {
    Count::clamped(2_000)
}

const fn no_gap() -> Gap {
    Count::clamped(0)
}

const fn timeout() -> Duration<10, 60_000> {
    Duration::from_millis(1_000)
}

const fn write_timeout() -> Duration<10, 3_000> {
    Duration::from_millis(1_000)
}

const fn no_pause() -> Pause {
    Duration::from_millis(0)
}

const fn no_short_pause() -> ShortPause {
    Duration::from_millis(0)
}

const fn busy_retries() -> Count<0, 10> {
    Count::clamped(3)
}

impl Settings for SourceSettings {
    fn check(&self) -> Result<(), FieldError> {
        let given = [
            ("baud-rate", self.baud_rate.is_some()),
            ("parity", self.parity.is_some()),
            ("data-bits", self.data_bits.is_some()),
            ("stop-bits", self.stop_bits.is_some()),
        ];
        check_line(&self.url, given, self.data_bits)?;
        check_fields(&self.fields, |name, field| {
            let wire = field.check(&self.url, self.base)?;
            let (most, setting) = if wire.register.is_bits() {
                (self.max_bits.get(), "max-bits")
            } else {
                (self.max_registers.get(), "max-registers")
            };
            let needs = u64::from(field.data_type(wire.register).count());
            if needs > most {
                let text = format!("needs {needs} registers at once, and {setting} is {most}");
                return Err(FieldError::invalid("type", &field.type_text(), text));
            }
            match (&field.deadband, self.emit) {
                (Some(band), Emit::Interval) => Err(FieldError::invalid(
                    "deadband",
                    &band.to_string(),
                    format!("has no meaning with emit: interval, which sends all of {name}"),
                )),
                _ => Ok(()),
            }
        })
    }
}

impl Settings for SinkSettings {
    fn check(&self) -> Result<(), FieldError> {
        let given = [
            ("baud-rate", self.baud_rate.is_some()),
            ("parity", self.parity.is_some()),
            ("data-bits", self.data_bits.is_some()),
            ("stop-bits", self.stop_bits.is_some()),
        ];
        check_line(&self.url, given, self.data_bits)?;
        check_fields(&self.fields, |_, field| {
            field.check(&self.url, self.base)?;
            field.check_writable(self.base, self.function)
        })
    }
}

/// What concerns the serial line. `given` are its settings and whether they
/// are there.
fn check_line(
    url: &ModbusUrl,
    given: [(&str, bool); 4],
    data_bits: Option<Count<5, 8>>,
) -> Result<(), FieldError> {
    if url.scheme() != Scheme::Rtu {
        return match given.iter().find(|(_, given)| *given) {
            Some((name, _)) => Err(FieldError::invalid(
                name,
                &url.to_string(),
                "belongs to a serial line, and the url is not rtu://",
            )),
            None => Ok(()),
        };
    }
    match data_bits.map(Count::get) {
        // Modbus over Serial Line 1.02, section 2.5.1.
        Some(bits) if bits != 8 => Err(FieldError::invalid(
            "data-bits",
            &bits.to_string(),
            "must be 8: RTU sends whole bytes",
        )),
        _ => Ok(()),
    }
}

/// Checks every field, and puts its name into the error.
fn check_fields(
    fields: &BTreeMap<String, Field>,
    check: impl Fn(&str, &Field) -> Result<(), FieldError>,
) -> Result<(), FieldError> {
    if fields.is_empty() || fields.len() > FIELDS_MAX {
        let text = format!("must have 1 to {FIELDS_MAX} fields");
        return Err(FieldError::invalid("fields", &fields.len().to_string(), text));
    }
    for (name, field) in fields {
        // Dots and numbers are how errors name the way to a setting.
        let plain = !name.contains('.') && !name.contains(char::is_control);
        let number = name.bytes().all(|b| b.is_ascii_digit());
        if name.is_empty() || name.len() > NAME_MAX || !plain || number {
            let text = format!(
                "a field's name must be 1 to {NAME_MAX} bytes without a dot, and not a number"
            );
            return Err(FieldError::invalid("fields", name, text));
        }
        check(name, field).map_err(|error| error.prefixed(&format!("fields.{name}.")))?;
    }
    Ok(())
}
