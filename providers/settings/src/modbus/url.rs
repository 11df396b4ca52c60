//! Where Modbus devices are.

use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Deserializer;
use serde::{Deserialize, Serialize, Serializer};

use super::text;

/// The port of Modbus TCP (Modbus Messaging on TCP/IP 1.0b, section 4.3.1).
const PORT: u16 = 502;

/// How requests are framed and carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Modbus TCP.
    Tcp,
    /// RTU frames over a TCP connection, as serial device servers carry them.
    RtuOverTcp,
    /// RTU on a serial line.
    Rtu,
}

/// Address of a device, gateway or serial line: `tcp://host:502`,
/// `rtu-over-tcp://host:port`, or `rtu:///dev/ttyUSB0`. The port of `tcp` may
/// be left out (502).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModbusUrl {
    scheme: Scheme,
    /// Host, or path of the serial line.
    place: String,
    port: u16,
}

impl ModbusUrl {
    /// How requests are carried.
    #[must_use]
    pub const fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Whether the frames are those of RTU.
    #[must_use]
    pub fn is_rtu(&self) -> bool {
        self.scheme != Scheme::Tcp
    }

    /// Host name or address, an IPv6 address without its brackets; empty for a
    /// serial line.
    #[must_use]
    pub fn host(&self) -> &str {
        match self.scheme {
            Scheme::Rtu => "",
            Scheme::Tcp | Scheme::RtuOverTcp => {
                self.place.trim_start_matches('[').trim_end_matches(']')
            }
        }
    }

    /// TCP port; 0 for a serial line.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Path of the serial line; empty for the others.
    #[must_use]
    pub fn path(&self) -> &str {
        match self.scheme {
            Scheme::Rtu => &self.place,
            Scheme::Tcp | Scheme::RtuOverTcp => "",
        }
    }
}

impl FromStr for ModbusUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "must be tcp://host:502, rtu-over-tcp://host:port or rtu:///dev/ttyUSB0";
        let (scheme, rest) = text.split_once("://").ok_or(FORM)?;
        let scheme = match scheme {
            "tcp" => Scheme::Tcp,
            "rtu-over-tcp" => Scheme::RtuOverTcp,
            "rtu" => {
                let plain = rest.starts_with('/') && rest.len() > 1;
                return if plain && !rest.contains(['?', '#']) && !rest.contains(char::is_control) {
                    Ok(Self { scheme: Scheme::Rtu, place: rest.to_owned(), port: 0 })
                } else {
                    Err("must be rtu:// and the path of a serial line: rtu:///dev/ttyUSB0"
                        .to_owned())
                };
            }
            _ => return Err(FORM.to_owned()),
        };
        // A known scheme would hide its default port from `Url`.
        let url = url::Url::parse(&format!("modbus://{rest}")).map_err(|_| FORM)?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err("must not contain a user or password: Modbus has none".to_owned());
        }
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or(FORM)?;
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return Err("must end after the port".to_owned());
        }
        let port = match (url.port(), scheme) {
            (Some(port), _) if port > 0 => port,
            (None, Scheme::Tcp) => PORT,
            _ => return Err("must have a port from 1 to 65535".to_owned()),
        };
        Ok(Self { scheme, place: host.to_owned(), port })
    }
}

impl fmt::Display for ModbusUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scheme {
            Scheme::Tcp => write!(f, "tcp://{}:{}", self.place, self.port),
            Scheme::RtuOverTcp => write!(f, "rtu-over-tcp://{}:{}", self.place, self.port),
            Scheme::Rtu => write!(f, "rtu://{}", self.place),
        }
    }
}

impl<'de> Deserialize<'de> for ModbusUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text::parse(deserializer, "the address of a Modbus device")
    }
}

impl Serialize for ModbusUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for ModbusUrl {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ModbusUrl".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "title": "Modbus address",
            "type": "string",
            "pattern": "^((tcp|rtu-over-tcp)://[^/?#@]+/?|rtu:///[^?#]+)$",
            "examples": ["tcp://localhost:502", "rtu-over-tcp://localhost:4001", "rtu:///dev/ttyUSB0"],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_forms() {
        let url = |text: &str| text.parse::<ModbusUrl>();
        let tcp = url("tcp://plc.hall-3").unwrap();
        assert_eq!((tcp.scheme(), tcp.host(), tcp.port()), (Scheme::Tcp, "plc.hall-3", 502));
        let six = url("tcp://[::1]:1502").unwrap();
        assert_eq!(
            (six.host(), six.port(), six.to_string().as_str()),
            ("::1", 1502, "tcp://[::1]:1502")
        );
        let over = url("rtu-over-tcp://10.0.0.9:4001").unwrap();
        assert_eq!(
            (over.scheme(), over.host(), over.port()),
            (Scheme::RtuOverTcp, "10.0.0.9", 4001)
        );
        let line = url("rtu:///dev/ttyUSB0").unwrap();
        assert_eq!((line.scheme(), line.path()), (Scheme::Rtu, "/dev/ttyUSB0"));
        for text in ["tcp://plc:502", "rtu-over-tcp://a:4001", "rtu:///dev/serial/by-id/usb-1"] {
            assert_eq!(url(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_refused() {
        for (text, why) in [
            ("plc:502", "must be tcp"),
            ("http://plc:502", "must be tcp"),
            ("tcp://", "must be tcp"),
            ("tcp://plc:0", "must have a port"),
            ("tcp://plc:70000", "must be tcp"),
            ("rtu-over-tcp://plc", "must have a port"),
            ("tcp://plc:502/unit", "must end after"),
            ("tcp://me:secret@plc", "must not contain"),
            ("rtu://ttyUSB0", "must be rtu:// and the path"),
            ("rtu:///", "must be rtu:// and the path"),
        ] {
            let error = text.parse::<ModbusUrl>().unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
