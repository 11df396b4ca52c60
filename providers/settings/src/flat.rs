//! Settings to and from a flat map of strings.
//!
//! A link's configuration in the lattice is a map of strings and nothing else.
//! These functions go through serde, so that the fields, defaults and bounds
//! are those of the struct, and an error names the field it is about.
//!
//! A field that is a list or a mapping (the fields of a Modbus device, say) is
//! one value: its JSON text. An error inside one names the way to it with dots:
//! `fields.level.address`, `lines.2.offset`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;
use serde::de::{
    self, DeserializeSeed, IntoDeserializer, MapAccess, Visitor, value::StrDeserializer,
};

use crate::Settings;
use crate::nested::{Nested, remove};

/// Most errors that one look at settings gives.
const ERRORS_MAX: usize = 100;

/// How much of a wrong value an error repeats, in characters.
const VALUE_SHOWN: usize = 100;

/// Settings as a link's configuration carries them: field to value.
pub type Flat = BTreeMap<String, String>;

/// One setting that is missing, unknown or has a value that is not allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct FieldError {
    /// The field's name as the author writes it; empty when the error is
    /// about the settings as a whole.
    pub field: String,
    /// The value that was refused, shortened and without credentials; absent
    /// for missing and unknown fields.
    pub value: Option<String>,
    /// What is wrong and what is allowed.
    pub message: String,
    /// Which of the ways of being wrong it is.
    pub kind: FieldErrorKind,
}

/// The ways in which a field can be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FieldErrorKind {
    /// A required field is absent.
    Missing,
    /// There is no field of this name.
    Unknown,
    /// The value is of the wrong form or out of range.
    Invalid,
}

impl FieldError {
    /// An error about a field's value.
    #[must_use]
    pub fn invalid(field: &str, value: &str, message: impl fmt::Display) -> Self {
        Self {
            field: field.to_owned(),
            value: Some(shown(value)),
            message: message.to_string(),
            kind: FieldErrorKind::Invalid,
        }
    }

    /// Puts `prefix` in front of the field's name: for settings that are a
    /// part of a larger map.
    #[must_use]
    pub fn prefixed(mut self, prefix: &str) -> Self {
        self.field.insert_str(0, prefix);
        self
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)?;
        match &self.value {
            Some(value) => write!(f, " (found \"{value}\")"),
            None => Ok(()),
        }
    }
}

/// A value short enough for an error, and without what may be a password:
/// everything between `://` and the last `@` after it.
fn shown(value: &str) -> String {
    let masked = match (value.find("://"), value.rfind('@')) {
        (Some(start), Some(end)) if end > start => {
            let head = value.get(..start + 3).unwrap_or_default();
            let tail = value.get(end..).unwrap_or_default();
            format!("{head}***{tail}")
        }
        _ => value.to_owned(),
    };
    match masked.char_indices().nth(VALUE_SHOWN) {
        Some((at, _)) => format!("{}...", masked.get(..at).unwrap_or_default()),
        None => masked,
    }
}

/// Writes settings as a flat map. Fields that are absent are left out;
/// defaults are written out, so that a later change of a default does not
/// change what is already deployed.
///
/// # Errors
///
/// When the settings are not a struct, which none of this crate is.
pub fn to_flat<T: Serialize>(settings: &T) -> Result<BTreeMap<String, String>, FieldError> {
    let value = serde_json::to_value(settings).map_err(|e| whole(e.to_string()))?;
    let serde_json::Value::Object(fields) = value else {
        return Err(whole("settings are a struct".to_owned()));
    };
    let mut flat = BTreeMap::new();
    for (field, value) in fields {
        let text = match value {
            serde_json::Value::Null => continue,
            serde_json::Value::Bool(b) => b.to_string(),
            serde_json::Value::Number(n) => n.to_string(),
            serde_json::Value::String(s) => s,
            nested => nested.to_string(),
        };
        flat.insert(field, text);
    }
    Ok(flat)
}

/// Reads settings from a flat map (`&HashMap<String, String>` or `&BTreeMap`).
/// Keys in `also` are allowed beside the fields and not looked at.
///
/// # Errors
///
/// The first field that is unknown, missing or not allowed.
pub fn from_flat<'a, T, I>(map: I, also: &[&str]) -> Result<T, FieldError>
where
    T: Settings,
    I: IntoIterator<Item = (&'a String, &'a String)>,
{
    // Sorted, so that of several errors it is always the same one.
    let entries: BTreeMap<&str, &str> = map
        .into_iter()
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .filter(|(key, _)| !also.contains(key))
        .collect();
    let access = Entries { entries: entries.into_iter(), current: None };
    let settings = T::deserialize(Reader(access)).map_err(|Error(e)| e)?;
    settings.check()?;
    Ok(settings)
}

/// Everything that is wrong with a flat map as settings of type `T`: where
/// [`from_flat`] stops at the first error, this goes on, for lint.
pub fn check_flat<T: Settings>(map: &BTreeMap<String, String>, also: &[&str]) -> Vec<FieldError> {
    let mut rest: BTreeMap<String, String> = map
        .iter()
        .filter(|(k, _)| !also.contains(&k.as_str()))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    let mut errors = missing::<T>(&rest);
    let mut taken_out = BTreeSet::new();
    // Each turn takes out the field it found wrong, so it ends.
    while let Err(error) = from_flat::<T, _>(&rest, &[]) {
        let around = error.field.rsplit_once('.').map(|(around, _)| around);
        let way = match (error.kind, around) {
            // Those at the top are all known already.
            (FieldErrorKind::Missing, None) => break,
            (FieldErrorKind::Missing, Some(around)) => around,
            _ => &error.field,
        };
        let removed = remove(&mut rest, way);
        // One that is missing because an earlier turn took it out has been told.
        if taken_out.insert(error.field.clone()) {
            errors.push(error);
        }
        if !removed || errors.len() >= ERRORS_MAX {
            break;
        }
    }
    errors
}

/// The required fields that are absent, each as an error.
fn missing<T: Settings>(map: &BTreeMap<String, String>) -> Vec<FieldError> {
    let schema = schemars::schema_for!(T);
    let required = schema.get("required").and_then(|r| r.as_array()).cloned().unwrap_or_default();
    required
        .iter()
        .filter_map(|field| field.as_str())
        .filter(|field| !map.contains_key(*field))
        .map(missing_field)
        .collect()
}

fn missing_field(field: &str) -> FieldError {
    FieldError {
        field: field.to_owned(),
        value: None,
        message: "is required".to_owned(),
        kind: FieldErrorKind::Missing,
    }
}

/// The entries of `map` whose keys start with `prefix`, without it.
pub fn under<'a, I>(map: I, prefix: &str) -> BTreeMap<String, String>
where
    I: IntoIterator<Item = (&'a String, &'a String)>,
{
    map.into_iter()
        .filter_map(|(key, value)| Some((key.strip_prefix(prefix)?.to_owned(), value.clone())))
        .collect()
}

/// The names of the fields that are lists or mappings.
#[must_use]
pub fn structured_names<T: Settings>() -> BTreeSet<String> {
    let schema = schemars::schema_for!(T).to_value();
    let properties = schema.get("properties").and_then(|p| p.as_object()).into_iter().flatten();
    properties
        .filter(|(_, field)| is_structured(field, &schema))
        .map(|(name, _)| name.clone())
        .collect()
}

/// Whether a schema allows lists or mappings: by its type, behind a reference,
/// or as one of several choices.
fn is_structured(field: &serde_json::Value, root: &serde_json::Value) -> bool {
    let is = |name: &serde_json::Value| matches!(name.as_str(), Some("array" | "object"));
    let by_type = match field.get("type") {
        Some(serde_json::Value::Array(types)) => types.iter().any(is),
        Some(name) => is(name),
        None => false,
    };
    let referred = || {
        let pointer = field.get("$ref")?.as_str()?.strip_prefix('#')?;
        root.pointer(pointer).map(|target| is_structured(target, root))
    };
    let choices =
        ["anyOf", "oneOf", "allOf"].into_iter().filter_map(|key| field.get(key)?.as_array());
    by_type
        || referred().unwrap_or(false)
        || choices.flatten().any(|choice| is_structured(choice, root))
}

/// The names of a settings struct's fields, as the author writes them.
#[must_use]
pub fn field_names<T: Settings>() -> &'static [&'static str] {
    let mut names: &'static [&'static str] = &[];
    // Asked to deserialise, a struct says its fields first; this deserialiser
    // notes them and refuses to go on.
    let _ = T::deserialize(FieldNames(&mut names));
    names
}

fn whole(message: String) -> FieldError {
    FieldError { field: String::new(), value: None, message, kind: FieldErrorKind::Invalid }
}

/// serde's error, with the field kept apart from the text.
#[derive(Debug)]
pub(crate) struct Error(pub(crate) FieldError);

impl Error {
    /// The same error, known to be within `part`, whose value is `value`.
    pub(crate) fn within(self, part: &str, value: &str) -> Self {
        let Self(mut error) = self;
        if error.field.is_empty() && error.kind == FieldErrorKind::Invalid && error.value.is_none()
        {
            return Self(FieldError::invalid(part, value, error.message));
        }
        let dot = if error.field.is_empty() { "" } else { "." };
        error.field.insert_str(0, &format!("{part}{dot}"));
        Self(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<M: fmt::Display>(message: M) -> Self {
        Self(whole(message.to_string()))
    }

    fn missing_field(field: &'static str) -> Self {
        Self(missing_field(field))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        // The value is left out: a key nobody knows may hold a secret.
        Self(FieldError {
            field: field.to_owned(),
            value: None,
            message: format!("is not a setting here; known are {}", expected.join(", ")),
            kind: FieldErrorKind::Unknown,
        })
    }
}

/// Hands a struct its fields from the map.
struct Reader<'a, I: Iterator<Item = (&'a str, &'a str)>>(Entries<'a, I>);

struct Entries<'a, I: Iterator<Item = (&'a str, &'a str)>> {
    entries: I,
    current: Option<(&'a str, &'a str)>,
}

impl<'de, 'a, I: Iterator<Item = (&'a str, &'a str)>> de::Deserializer<'de> for Reader<'a, I> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_map(self.0)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        option unit unit_struct newtype_struct seq tuple tuple_struct map struct enum
        identifier ignored_any
    }
}

impl<'de, 'a, I: Iterator<Item = (&'a str, &'a str)>> MapAccess<'de> for Entries<'a, I> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        self.current = self.entries.next();
        match self.current {
            Some((key, _)) => {
                let key: StrDeserializer<'_, Error> = key.into_deserializer();
                seed.deserialize(key).map(Some)
            }
            None => Ok(None),
        }
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        let (field, value) = self.current.unwrap_or_default();
        seed.deserialize(Scalar(value)).map_err(|error| error.within(field, value))
    }
}

/// One value: a string that becomes whatever type the field asks for.
pub(crate) struct Scalar<'a>(pub(crate) &'a str);

/// Reads the text as JSON for a field that is a list or a mapping.
macro_rules! structured {
    ($($method:ident($($name:ident: $type:ty),*);)*) => {$(
        fn $method<V: Visitor<'de>>(self, $($name: $type,)* visitor: V) -> Result<V::Value, Error> {
            let value: serde_json::Value =
                serde_json::from_str(self.0).map_err(|_| de::Error::custom(NOT_STRUCTURED))?;
            Nested(&value).$method($($name,)* visitor)
        }
    )*};
}

/// What a value is that has to be a list or a mapping and is neither.
const NOT_STRUCTURED: &str = "must be a list or a mapping, not a single value";

/// Reads a number or truth value from the text and gives it to the visitor.
macro_rules! parsed {
    ($($method:ident $visit:ident $type:ty, $wanted:literal;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            match self.0.parse::<$type>() {
                Ok(value) => visitor.$visit(value),
                Err(_) => Err(de::Error::custom($wanted)),
            }
        }
    )*};
}

impl<'de> de::Deserializer<'de> for Scalar<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_str(self.0)
    }

    parsed! {
        deserialize_bool visit_bool bool, "must be true or false";
        deserialize_i64 visit_i64 i64, "must be a whole number";
        deserialize_u64 visit_u64 u64, "must be a whole number, not negative";
        deserialize_f64 visit_f64 f64, "must be a number";
    }

    structured! {
        deserialize_seq();
        deserialize_map();
        deserialize_struct(name: &'static str, fields: &'static [&'static str]);
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let variant: StrDeserializer<'_, Error> = self.0.into_deserializer();
        visitor.visit_enum(variant)
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i32 i128 u8 u16 u32 u128 f32 char str string bytes byte_buf unit unit_struct
        tuple tuple_struct identifier ignored_any
    }
}

struct FieldNames<'a>(&'a mut &'static [&'static str]);

impl<'de> de::Deserializer<'de> for FieldNames<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(de::Error::custom("not a struct"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Error> {
        *self.0 = fields;
        Err(de::Error::custom("only the names were wanted"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        option unit unit_struct newtype_struct seq tuple tuple_struct map enum
        identifier ignored_any
    }
}
