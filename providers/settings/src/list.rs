//! Settings that are several texts: a list, or one text with commas.

use std::fmt;

use serde::de;

use crate::values::{ValueError, refuse};

/// Most items of one setting.
pub(crate) const LIST_MAX: usize = 1_000;

/// Text in a flat map, in YAML text or a list: both are read.
macro_rules! text_or_list {
    ($type:ident, $wanted:literal, $schema:expr) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(Items($wanted))?.parse().map_err(de::Error::custom)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                $schema
            }
        }
    };
}

pub(crate) use text_or_list;

/// Reads text, a number, or a list of them as the text of a setting.
pub(crate) struct Items(pub(crate) &'static str);

impl<'de> de::Visitor<'de> for Items {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<String, E> {
        Ok(number.to_string())
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<String, A::Error> {
        let mut items: Vec<serde_json::Value> = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(serde_json::Value::Array(items).to_string())
    }
}

/// The items of a list as it is written in one string: separated by commas, or
/// a JSON list.
pub(crate) fn items(text: &str) -> Result<Vec<String>, ValueError> {
    // What is no JSON may still be an IPv6 address in brackets.
    let list: Option<Vec<serde_json::Value>> = serde_json::from_str(text).ok();
    let items: Vec<String> = match list {
        Some(list) => list
            .into_iter()
            .map(|item| match item {
                serde_json::Value::String(text) => Ok(text.trim().to_owned()),
                serde_json::Value::Number(number) => Ok(number.to_string()),
                _ => refuse("must be a list of texts"),
            })
            .collect::<Result<_, _>>()?,
        None => text.split(',').map(|item| item.trim().to_owned()).collect(),
    };
    if items.is_empty() {
        return refuse("must name at least one");
    }
    if items.len() > LIST_MAX {
        return refuse(format!("must name at most {LIST_MAX}"));
    }
    Ok(items)
}
