//! From a message to a write, and what is refused.

use std::collections::BTreeMap;

use millrace_batch::Message;
use millrace_grants::Target as Written;
use millrace_kit::Held;
use millrace_kit::write::Unwritable;
use millrace_settings::FieldError;
use millrace_settings::modbus::{ByteOrder, DataType, Function, SinkSettings, Wire};

use crate::client::Order;
use crate::codec::{Scaling, Value, encode};

/// What may be written.
pub(crate) struct Granted {
    fields: BTreeMap<String, Target>,
    function: Function,
}

/// A field that may be written.
struct Target {
    /// Its number among the fields.
    number: usize,
    unit: u8,
    wire: Wire,
    kind: DataType,
    order: ByteOrder,
    scaling: Option<Scaling>,
    min: Option<f64>,
    max: Option<f64>,
}

/// One write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Command {
    /// The field's number.
    pub(crate) field: usize,
    pub(crate) unit: u8,
    pub(crate) order: Order,
    /// `pump (unit 1, coil 0x0000)`, for errors.
    pub(crate) what: String,
}

impl Granted {
    pub(crate) fn new(settings: &SinkSettings) -> Result<Self, FieldError> {
        let mut fields = BTreeMap::new();
        for (number, (name, field)) in settings.fields.iter().enumerate() {
            let wire = field.wire(settings.base)?;
            let target = Target {
                number,
                unit: u8::try_from(field.unit.get()).unwrap_or(u8::MAX),
                wire,
                kind: field.data_type(wire.register),
                order: field.byte_order,
                scaling: Scaling::of(field),
                min: field.min.map(|number| number.get()),
                max: field.max.map(|number| number.get()),
            };
            fields.insert(name.clone(), target);
        }
        Ok(Self { fields, function: settings.function })
    }

    /// The write a message asks for.
    ///
    /// # Errors
    ///
    /// Why it never will be written, or not for a step that it is of.
    pub(crate) fn command(
        &self,
        message: &Message<'_>,
        held: &Held<'_>,
    ) -> Result<Command, Unwritable> {
        let payload: serde_json::Value = serde_json::from_slice(message.payload)
            .map_err(|error| format!("the payload is no JSON: {error}"))?;
        let (name, value) = named(message.topic, &payload)?;
        let target =
            self.fields.get(name).ok_or_else(|| format!("field {name:?} is not granted"))?;
        let what = format!("{name} (unit {}, {})", target.unit, target.wire);
        let order =
            target.order(value, self.function).map_err(|error| format!("{what}: {error}"))?;
        held.check(target.written(name, &order))?;
        Ok(Command { field: target.number, unit: target.unit, order, what })
    }
}

/// The field's name and the value: `{"field":...,"value":...}`, or the topic
/// and the payload.
fn named<'a>(
    topic: &'a str,
    payload: &'a serde_json::Value,
) -> Result<(&'a str, &'a serde_json::Value), String> {
    let Some(object) = payload.as_object() else { return Ok((topic, payload)) };
    let value = object.get("value").ok_or("the payload has no \"value\"")?;
    let name = match object.get("field") {
        Some(name) => name.as_str().ok_or("\"field\" in the payload is no text")?,
        None => topic,
    };
    match object.get("quality").map(|quality| quality.as_str().unwrap_or("unknown")) {
        None | Some("good") => Ok((name, value)),
        Some(quality) => Err(format!("{name}: a value of quality {quality} is not written")),
    }
}

impl Target {
    fn order(&self, json: &serde_json::Value, function: Function) -> Result<Order, String> {
        let address = self.wire.address;
        if self.wire.register.is_bits() {
            let bit = match (json.as_bool(), json.as_u64()) {
                (Some(bit), _) => bit,
                (None, Some(0)) => false,
                (None, Some(1)) => true,
                _ => return Err(format!("{json} is neither true nor false")),
            };
            return Ok(match function {
                Function::Multiple => Order::Coils(address, vec![bit]),
                Function::Auto | Function::Single => Order::Coil(address, bit),
            });
        }
        let value = value_of(json)?;
        self.permits(&value)?;
        let raw = match &self.scaling {
            Some(scaling) => scaling.invert(self.kind, &value).map_err(|e| e.to_string())?,
            None => value,
        };
        let words = encode(self.kind, self.order, &raw).map_err(|e| e.to_string())?;
        Ok(match (words.as_slice(), function) {
            ([word], Function::Auto | Function::Single) => Order::Word(address, *word),
            _ => Order::Words(address, words),
        })
    }

    /// What an order writes, as grants have it.
    fn written<'a>(&self, field: &'a str, order: &Order) -> Written<'a> {
        let count = match order {
            Order::Coils(_, bits) => bits.len(),
            Order::Words(_, words) => words.len(),
            _ => 1,
        };
        let more = u16::try_from(count.saturating_sub(1)).unwrap_or(u16::MAX);
        Written::Modbus {
            field,
            coils: self.wire.register.is_bits(),
            first: self.wire.address,
            last: self.wire.address.saturating_add(more),
        }
    }

    fn permits(&self, value: &Value) -> Result<(), String> {
        let Some(number) = value.as_f64().filter(|_| self.kind.is_number()) else { return Ok(()) };
        match (self.min, self.max) {
            (Some(min), _) if number < min => Err(format!("{value} is below min, which is {min}")),
            (_, Some(max)) if number > max => Err(format!("{value} is above max, which is {max}")),
            _ => Ok(()),
        }
    }
}

fn value_of(json: &serde_json::Value) -> Result<Value, String> {
    match json {
        serde_json::Value::Bool(bit) => Ok(Value::Bool(*bit)),
        serde_json::Value::String(text) => Ok(Value::Text(text.clone())),
        serde_json::Value::Number(number) => number
            .as_i64()
            .map(Value::Int)
            .or_else(|| number.as_u64().map(Value::Uint))
            .or_else(|| number.as_f64().map(Value::Float))
            .ok_or_else(|| format!("{number} is no number a device can hold")),
        other => Err(format!("{other} is no value")),
    }
}
