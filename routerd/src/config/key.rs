//! A value of the file together with the place where it is written.

use std::borrow::Cow;
use std::ops::Range;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Deserialize;
use serde::de::Deserializer;
use toml::Spanned;

/// A key's value if it was written, and where.
#[derive(Clone, Debug)]
pub struct Key<T>(Option<Spanned<T>>);

/// A text of a list, and where it is written.
#[derive(Clone, Debug, Deserialize)]
#[serde(transparent)]
pub struct Text(Spanned<String>);

impl<T> Key<T> {
    /// The value, if it was written.
    pub fn value(&self) -> Option<&T> {
        self.0.as_ref().map(Spanned::get_ref)
    }

    /// Where the value stands, if it was written.
    pub fn span(&self) -> Option<Range<usize>> {
        self.0.as_ref().map(Spanned::span)
    }
}

impl<T: Copy> Key<T> {
    /// The value as written, or the default.
    pub fn or(&self, default: T) -> T {
        self.value().copied().unwrap_or(default)
    }
}

impl Text {
    /// The text.
    pub fn as_str(&self) -> &str {
        self.0.get_ref()
    }

    /// Where it stands.
    pub fn span(&self) -> Range<usize> {
        self.0.span()
    }
}

impl<T> Default for Key<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Key<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Spanned::deserialize(deserializer).map(|value| Self(Some(value)))
    }
}

/// The schema is that of the value: a place in the file is no part of it.
impl<T: JsonSchema> JsonSchema for Key<T> {
    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

impl JsonSchema for Text {
    fn schema_name() -> Cow<'static, str> {
        String::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        String::json_schema(generator)
    }
}
