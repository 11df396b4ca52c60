//! Settings inside a setting: lists and mappings.
//!
//! Their scalars may be typed (`5`) or text (`"5"`), because the text of a
//! definition does not say which an author meant; the field's own type does.

use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeSeed, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use crate::flat::{Error, Flat, Scalar};

/// A value inside a setting.
pub(crate) struct Nested<'a>(pub(crate) &'a Value);

/// A scalar as an author would write it; `None` for lists and mappings.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::Bool(b) => Some(b.to_string()),
        Value::Number(n) => Some(n.to_string()),
        Value::String(s) => Some(s.clone()),
        Value::Null => Some(String::new()),
        Value::Array(_) | Value::Object(_) => None,
    }
}

/// A value as an error shows it.
fn shown(value: &Value) -> String {
    scalar(value).unwrap_or_else(|| value.to_string())
}

/// Reads a scalar as the top level does, from its text.
macro_rules! as_text {
    ($($method:ident($($name:ident: $type:ty),*);)*) => {$(
        fn $method<V: Visitor<'de>>(self, $($name: $type,)* visitor: V) -> Result<V::Value, Error> {
            match scalar(self.0) {
                Some(text) => Scalar(&text).$method($($name,)* visitor),
                None => Err(de::Error::custom("must be a single value")),
            }
        }
    )*};
}

impl<'de> de::Deserializer<'de> for Nested<'_> {
    type Error = Error;

    as_text! {
        deserialize_bool();
        deserialize_i8(); deserialize_i16(); deserialize_i32(); deserialize_i64(); deserialize_i128();
        deserialize_u8(); deserialize_u16(); deserialize_u32(); deserialize_u64(); deserialize_u128();
        deserialize_f32(); deserialize_f64();
        deserialize_char(); deserialize_str(); deserialize_string();
        deserialize_bytes(); deserialize_byte_buf();
        deserialize_unit(); deserialize_unit_struct(name: &'static str);
        deserialize_identifier();
        deserialize_enum(name: &'static str, variants: &'static [&'static str]);
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Array(_) => self.deserialize_seq(visitor),
            Value::Object(_) => self.deserialize_map(visitor),
            value => Scalar(&shown(value)).deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Array(items) => visitor.visit_seq(Items(items.iter().enumerate())),
            _ => Err(de::Error::custom("must be a list")),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Object(fields) => {
                visitor.visit_map(Fields { rest: fields.iter(), current: None })
            }
            _ => Err(de::Error::custom("must be a mapping")),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_map(visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }
}

struct Items<'a>(std::iter::Enumerate<std::slice::Iter<'a, Value>>);

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        let Some((index, item)) = self.0.next() else { return Ok(None) };
        let read = seed.deserialize(Nested(item));
        read.map(Some).map_err(|error| error.within(&index.to_string(), &shown(item)))
    }
}

struct Fields<'a> {
    rest: serde_json::map::Iter<'a>,
    current: Option<(&'a String, &'a Value)>,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        self.current = self.rest.next();
        let Some((key, value)) = self.current else { return Ok(None) };
        let name: StrDeserializer<'_, Error> = key.as_str().into_deserializer();
        // A key that is refused is the fault of its own place, unless it says another.
        seed.deserialize(name).map(Some).map_err(|error| match error.0.field.is_empty() {
            true => error.within(key, &shown(value)),
            false => error,
        })
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        let Some((key, value)) = self.current else {
            return Err(de::Error::custom("a value without a name"));
        };
        seed.deserialize(Nested(value)).map_err(|error| error.within(key, &shown(value)))
    }
}

/// Takes out what a dotted way leads to; of a list the whole, because what
/// follows would be called by other numbers. False when nothing is there.
pub(crate) fn remove(settings: &mut Flat, way: &str) -> bool {
    if settings.remove(way).is_some() {
        return true;
    }
    let Some((field, inside)) = way.split_once('.') else { return false };
    let Some(text) = settings.get_mut(field) else { return false };
    let Ok(mut value) = serde_json::from_str::<Value>(text) else { return false };
    let (around, last) = inside.rsplit_once('.').unwrap_or(("", inside));
    let mut parts = around.split('.').filter(|part| !part.is_empty());
    let place = parts.try_fold(&mut value, |value, part| match value {
        Value::Object(fields) => fields.get_mut(part),
        _ => None,
    });
    let found = match place {
        Some(Value::Object(fields)) => fields.remove(last).is_some(),
        _ => false,
    };
    if found {
        *text = value.to_string();
        return true;
    }
    settings.remove(field).is_some()
}
