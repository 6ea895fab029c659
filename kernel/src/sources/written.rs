//! A `[[subscription]]` as it is written.
//!
//! Which fields there are is told by whoever reads; what they mean is each kind's to say.

use std::{fmt, ops::Range};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error as _, MapAccess, Visitor},
};
use toml::Spanned;

use crate::manifest::values::Length;

/// The field that says what a subscription is.
const KIND: Field = Field::new("kind", Shape::Text);

/// A field that may be written in a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Field {
    pub name: &'static str,
    pub shape: Shape,
}

impl Field {
    pub const fn new(name: &'static str, shape: Shape) -> Self {
        Self { name, shape }
    }
}

/// What is written in a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Number,
    Text,
    /// One text, or a list of them.
    Texts,
    /// A list with a text or a list of texts at each position.
    Positions,
    /// A length of time.
    Length,
}

enum Value {
    Number(Spanned<u64>),
    Text(Spanned<String>),
    Texts(Spanned<OneOrMany>),
    Positions(Spanned<Vec<OneOrMany>>),
    Length(Spanned<Length>),
}

impl Value {
    fn read<'de, A: MapAccess<'de>>(shape: Shape, table: &mut A) -> Result<Self, A::Error> {
        Ok(match shape {
            Shape::Number => Self::Number(table.next_value()?),
            Shape::Text => Self::Text(table.next_value()?),
            Shape::Texts => Self::Texts(table.next_value()?),
            Shape::Positions => Self::Positions(table.next_value()?),
            Shape::Length => Self::Length(table.next_value()?),
        })
    }

    fn span(&self) -> Range<usize> {
        match self {
            Self::Number(value) => value.span(),
            Self::Text(value) => value.span(),
            Self::Texts(value) => value.span(),
            Self::Positions(value) => value.span(),
            Self::Length(value) => value.span(),
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    pub fn as_slice(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

/// One subscription. Its fields are asked for by name; to ask for one in another shape than it has is a mistake of ours.
pub(crate) struct Written {
    /// Where it is written.
    pub span: Range<usize>,
    kind: Spanned<String>,
    /// Every field that there is, in order, with what is written there.
    fields: Vec<(Field, Option<Value>)>,
}

impl Written {
    /// Reads a table with a kind and some of these fields.
    pub fn read<'de, D: Deserializer<'de>>(deserializer: D, fields: &[Field]) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Table(fields))
    }

    /// The kind as it is written.
    pub fn kind(&self) -> &Spanned<String> {
        &self.kind
    }

    /// Fields that are set, in order, and where.
    pub fn set_fields(&self) -> impl Iterator<Item = (&'static str, Range<usize>)> {
        self.fields.iter().filter_map(|(field, value)| Some((field.name, value.as_ref()?.span())))
    }

    pub fn number(&self, name: &str) -> Option<&Spanned<u64>> {
        self.value(name).map(|value| match value {
            Value::Number(value) => value,
            _ => unreachable!("`{name}` is no number"),
        })
    }

    pub fn text(&self, name: &str) -> Option<&Spanned<String>> {
        self.value(name).map(|value| match value {
            Value::Text(value) => value,
            _ => unreachable!("`{name}` is no text"),
        })
    }

    pub fn texts(&self, name: &str) -> Option<&Spanned<OneOrMany>> {
        self.value(name).map(|value| match value {
            Value::Texts(value) => value,
            _ => unreachable!("`{name}` is no text or list of texts"),
        })
    }

    pub fn positions(&self, name: &str) -> Option<&Spanned<Vec<OneOrMany>>> {
        self.value(name).map(|value| match value {
            Value::Positions(value) => value,
            _ => unreachable!("`{name}` is no list of positions"),
        })
    }

    pub fn length(&self, name: &str) -> Option<&Spanned<Length>> {
        self.value(name).map(|value| match value {
            Value::Length(value) => value,
            _ => unreachable!("`{name}` is no length of time"),
        })
    }

    fn value(&self, name: &str) -> Option<&Value> {
        self.fields.iter().find(|(field, _)| field.name == name).and_then(|(_, value)| value.as_ref())
    }
}

struct Table<'a>(&'a [Field]);

impl<'de> Visitor<'de> for Table<'_> {
    type Value = Written;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("struct Subscription")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut table: A) -> Result<Written, A::Error> {
        let mut kind = None;
        let mut fields: Vec<(Field, Option<Value>)> = self.0.iter().map(|field| (*field, None)).collect();
        while let Some(named) = table.next_key_seed(Key(self.0))? {
            match named {
                None => kind = Some(table.next_value()?),
                Some(index) => fields[index].1 = Some(Value::read(fields[index].0.shape, &mut table)?),
            }
        }
        let kind = kind.ok_or_else(|| A::Error::missing_field(KIND.name))?;
        Ok(Written { span: Range::default(), kind, fields })
    }
}

/// Which of the fields a key names; none when it is the kind.
struct Key<'a>(&'a [Field]);

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<usize>, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("field identifier")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<Option<usize>, E> {
        if key == KIND.name {
            return Ok(None);
        }
        let named = self.0.iter().position(|field| field.name == key);
        named.map(Some).ok_or_else(|| {
            let known: Vec<_> = [KIND].iter().chain(self.0).map(|field| format!("`{}`", field.name)).collect();
            E::custom(format_args!("unknown field `{key}`, expected one of {}", known.join(", ")))
        })
    }
}
