//! What a module's configuration may hold: a schema, as JSON text in the component, and the one check of values against it.
//! The host checks before the module runs, and the module when it starts.
//!
//! Invariant: no message repeats a value, which may be a secret.

mod json_schema;
pub mod units;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    ops::Bound,
};

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

/// The custom section of a component that has the schema.
pub const SECTION: &str = "nexum:config";
/// A schema is about as long as what its author documents of it.
pub const SCHEMA_BYTES_MAX: usize = 256 * 1024;
/// A dotted key, in bytes: the longest that a configuration may have. A long name of a table would be in the key of each of its
/// fields.
pub const KEY_BYTES_MAX: usize = 256;
/// Items of a list, where its field says nothing.
pub const ITEMS_MAX: usize = 1024;
/// Words of a choice.
pub const CHOICES_MAX: usize = 1024;
/// The name of a secret, in bytes.
pub const SECRET_NAME_BYTES_MAX: usize = 64;

/// A value, as a manifest or an engine's configuration has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Text(String),
    Integer(i64),
    Boolean(bool),
    List(Vec<Value>),
}

/// A table: that of the whole configuration, or one within it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    pub fields: Vec<Field>,
    /// Keys that no field has are the module's to read.
    #[serde(default)]
    pub open: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Field {
    pub name: String,
    /// What it is for, in the words of the module's author.
    #[serde(default)]
    pub doc: String,
    #[serde(rename = "type")]
    pub kind: Kind,
    #[serde(default)]
    pub optional: bool,
    /// In place of a value that is not there.
    #[serde(default)]
    pub default: Option<Json>,
    /// The least and the most of a number, a duration or an amount, or of each in a list; written as a value would be.
    #[serde(default)]
    pub min: Option<Json>,
    #[serde(default)]
    pub max: Option<Json>,
    /// Of a list.
    #[serde(default)]
    pub max_items: Option<usize>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Kind {
    Text,
    /// Within what the module's type can hold.
    Integer {
        min: i64,
        max: i64,
    },
    /// A whole number of up to 256 bits, as text or as an integer.
    Unsigned,
    Boolean,
    /// Such as `"90s"` or `"1h30m"`.
    Duration,
    /// Such as `"64MiB"`, or a number.
    Bytes,
    /// Such as `"1.5 ether"` or `"30 gwei"`; a bare number is wei.
    Wei,
    /// 0x and 40 hex digits.
    Address,
    Choice {
        of: Vec<String>,
    },
    /// The name of a secret of the operator, which the module never sees.
    Secret,
    List {
        item: Box<Kind>,
    },
    Table(Table),
}

/// What is wrong, and with which key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub key: String,
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.message)
    }
}

impl Table {
    /// Reads the schema of a whole configuration.
    ///
    /// # Errors
    /// It is no schema, has a key or a choice that is too long, or one of its defaults or bounds is none of its own type.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > SCHEMA_BYTES_MAX {
            return Err(format!("a schema of {} bytes: expected at most {SCHEMA_BYTES_MAX}", text.len()));
        }
        let kind: Kind = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let Kind::Table(table) = kind else { return Err("its outermost type is no table".to_owned()) };
        table.check_keys(0)?;
        for (key, field) in table.flat() {
            field.check_own().map_err(|message| format!("{key}: {message}"))?;
        }
        Ok(table)
    }

    /// Checks that no key is too long, below one of so many bytes.
    fn check_keys(&self, above: usize) -> Result<(), String> {
        for field in &self.fields {
            let bytes = above + field.name.len();
            if bytes > KEY_BYTES_MAX {
                return Err(format!("a key of {bytes} bytes: expected at most {KEY_BYTES_MAX}"));
            }
            if let Kind::Table(table) = &field.kind {
                table.check_keys(bytes + 1)?;
            }
        }
        Ok(())
    }

    /// Every field that has a value, by its dotted key.
    pub fn flat(&self) -> Vec<(String, &Field)> {
        let mut found = Vec::new();
        self.collect("", &mut found);
        found
    }

    fn collect<'a>(&'a self, prefix: &str, found: &mut Vec<(String, &'a Field)>) {
        for field in &self.fields {
            let key = format!("{prefix}{}", field.name);
            match &field.kind {
                Kind::Table(table) => table.collect(&format!("{key}."), found),
                _ => found.push((key, field)),
            }
        }
    }

    /// Checks a configuration: nested tables are dotted keys.
    ///
    /// # Errors
    /// The first problem: an unknown key before a missing one, which may be the same misspelt.
    pub fn check(&self, values: &[(String, Value)]) -> Result<(), Problem> {
        let fields = self.flat();
        // The first one, where two have the same key.
        let by_key: BTreeMap<&str, &Field> = fields.iter().rev().map(|(key, field)| (key.as_str(), *field)).collect();
        for (key, value) in values {
            let problem = |message: String| Problem { key: key.clone(), message };
            match by_key.get(key.as_str()) {
                Some(field) => field.check(value).map_err(problem)?,
                None if self.is_open(key) => {}
                None => return Err(problem(unknown(key, &fields))),
            }
        }
        let present: BTreeSet<&str> = values.iter().map(|(key, _)| key.as_str()).collect();
        self.check_present("", &present)
    }

    /// Whether a key lies in a table that has others than its fields.
    fn is_open(&self, key: &str) -> bool {
        let nested = key.split_once('.').and_then(|(name, rest)| {
            let field = self.fields.iter().find(|field| field.name == name)?;
            match &field.kind {
                Kind::Table(table) => Some(table.is_open(rest)),
                _ => None,
            }
        });
        nested.unwrap_or(self.open)
    }

    fn check_present(&self, prefix: &str, present: &BTreeSet<&str>) -> Result<(), Problem> {
        let is_any = |below: &str| {
            let from = (Bound::Included(below), Bound::<&str>::Unbounded);
            present.range::<str, _>(from).next().is_some_and(|key| key.starts_with(below))
        };
        for field in &self.fields {
            let key = format!("{prefix}{}", field.name);
            let below = format!("{key}.");
            match &field.kind {
                Kind::Table(_) if field.optional && !is_any(&below) => {}
                Kind::Table(table) => table.check_present(&below, present)?,
                _ if field.optional || field.default.is_some() => {}
                _ if present.contains(key.as_str()) => {}
                _ => {
                    let message = format!("is missing: expected {}", field.expected());
                    return Err(Problem { key, message });
                }
            }
        }
        Ok(())
    }
}

fn unknown(key: &str, fields: &[(String, &Field)]) -> String {
    if let Some((_, field)) =
        fields.iter().find(|(name, _)| key.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with('.')))
    {
        return format!("lies in what is no table: expected {}", field.expected());
    }
    let below = format!("{key}.");
    if fields.iter().any(|(name, _)| name.starts_with(&below)) {
        return format!("is a table: write [config.{key}]");
    }
    let nearest = fields.iter().map(|(name, _)| (distance(key, name), name)).min();
    match nearest {
        // Half of its letters may be wrong.
        Some((apart, name)) if apart * 2 <= key.chars().count() + 1 => {
            format!("unknown key, did you mean `{name}`?")
        }
        _ if fields.is_empty() => "unknown key; this module has no configuration".to_owned(),
        _ => {
            let names: Vec<_> = fields.iter().map(|(name, _)| name.as_str()).collect();
            format!("unknown key; known are {}", names.join(", "))
        }
    }
}

/// How many letters have to be put in, taken out or changed to make one text of the other.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, letter) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = at + 1;
        for (column, known) in other.iter().enumerate() {
            let changed = diagonal + usize::from(letter != *known);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(row[column].min(row[column + 1]) + 1);
        }
    }
    row[other.len()]
}

impl Field {
    /// Checks a value of this field.
    ///
    /// # Errors
    /// What is expected instead.
    pub fn check(&self, value: &Value) -> Result<(), String> {
        let wrong = || format!("expected {}, not {}", self.expected(), value.name());
        match (&self.kind, value) {
            (Kind::List { item }, Value::List(items)) => {
                let most = self.max_items.unwrap_or(ITEMS_MAX);
                if items.len() > most {
                    return Err(format!("has {} items: expected at most {most}", items.len()));
                }
                let off = items.iter().position(|value| !self.is_within(item, value));
                off.map_or(Ok(()), |at| Err(format!("item {}: expected {}", at + 1, self.of_one(item))))
            }
            (kind, value) if self.is_within(kind, value) => Ok(()),
            // What is a text and no such one is told what to be alone.
            (Kind::Text | Kind::Boolean | Kind::List { .. }, _) | (_, Value::Boolean(_) | Value::List(_)) => {
                Err(wrong())
            }
            _ => Err(format!("expected {}", self.expected())),
        }
    }

    fn is_within(&self, kind: &Kind, value: &Value) -> bool {
        let Some(amount) = kind.amount(value) else { return false };
        let bound = |bound: &Option<Json>| bound.as_ref().and_then(from_json).and_then(|bound| kind.amount(&bound));
        bound(&self.min).is_none_or(|least| amount >= least) && bound(&self.max).is_none_or(|most| amount <= most)
    }

    /// Whether its default and its bounds are of its own type.
    fn check_own(&self) -> Result<(), String> {
        let kind: &Kind = match &self.kind {
            Kind::List { item } => item,
            kind => kind,
        };
        // Each item of a list is looked up among them.
        if let Kind::Choice { of } = kind
            && of.len() > CHOICES_MAX
        {
            return Err(format!("{} words to choose from: expected at most {CHOICES_MAX}", of.len()));
        }
        if let Some(default) = &self.default {
            let value = from_json(default).ok_or("its default has no form in a configuration")?;
            self.check(&value).map_err(|message| format!("its default: {message}"))?;
        }
        let is_bound = |bound: &Json| from_json(bound).is_some_and(|bound| kind.amount(&bound).is_some());
        match [&self.min, &self.max].into_iter().flatten().all(is_bound) {
            true => Ok(()),
            false => Err("one of its bounds is none of its type".to_owned()),
        }
    }

    /// What a value has to be, in words.
    pub fn expected(&self) -> String {
        match &self.kind {
            Kind::List { item } => format!("a list, each item {}", self.of_one(item)),
            kind => self.of_one(kind),
        }
    }

    fn of_one(&self, kind: &Kind) -> String {
        let mut words = kind.words();
        let shown = |bound: &Json| bound.as_str().map_or_else(|| bound.to_string(), str::to_owned);
        // A type's own bounds are those that nobody has narrowed.
        let (own_least, own_most) = match kind {
            Kind::Integer { min, max } => (Some(min.to_string()), Some(max.to_string()).filter(|_| *max != i64::MAX)),
            _ => (None, None),
        };
        let (least, most) = (self.min.as_ref().map(shown), self.max.as_ref().map(shown));
        match (least.or(own_least), most.or(own_most)) {
            (Some(least), Some(most)) => words += &format!(" from {least} to {most}"),
            (Some(least), None) if least != i64::MIN.to_string() => words += &format!(", at least {least}"),
            (None, Some(most)) => words += &format!(", at most {most}"),
            _ => {}
        }
        words
    }
}

impl Kind {
    /// How much a value of this type is; 0 for one that has no order. Nothing for what is none of this type.
    fn amount(&self, value: &Value) -> Option<Amount> {
        let unordered = |is: bool| is.then_some(Amount::default());
        match (self, value) {
            (Self::Text, Value::Text(_)) | (Self::Boolean, Value::Boolean(_)) => unordered(true),
            (Self::Integer { min, max }, Value::Integer(number)) => {
                (min..=max).contains(&number).then(|| Amount::of(i128::from(*number)))
            }
            (Self::Unsigned, Value::Integer(number)) => u64::try_from(*number).ok().map(|n| Amount::of(i128::from(n))),
            (Self::Unsigned, Value::Text(text)) => units::digits(text).map(Amount::digits),
            (Self::Duration, Value::Text(text)) => units::duration_ms(text).map(|ms| Amount::of(i128::from(ms))),
            (Self::Bytes, value) => units::bytes(value).map(|bytes| Amount::of(i128::from(bytes))),
            (Self::Wei, value) => units::wei(value).map(|wei| Amount::digits(&wei.to_string())),
            (Self::Address, Value::Text(text)) => unordered(units::is_address(text)),
            (Self::Choice { of }, Value::Text(text)) => unordered(of.contains(text)),
            (Self::Secret, Value::Text(text)) => unordered(units::is_secret_name(text)),
            _ => None,
        }
    }

    fn words(&self) -> String {
        match self {
            Self::Text => "text".to_owned(),
            Self::Integer { .. } => "a whole number".to_owned(),
            Self::Unsigned => "a whole number, in quotes where it is large".to_owned(),
            Self::Boolean => "true or false".to_owned(),
            Self::Duration => "a duration such as \"90s\" or \"1h30m\"".to_owned(),
            Self::Bytes => "a size such as \"64MiB\", or a number of bytes".to_owned(),
            Self::Wei => "an amount such as \"1.5 ether\", \"30 gwei\" or \"1000 wei\"".to_owned(),
            Self::Address => "an address: 0x and 40 hex digits".to_owned(),
            Self::Choice { of } => format!("one of {}", of.join(", ")),
            Self::Secret => format!(
                "the name of a secret: letters, digits, `-`, `_` and `.`, at most {SECRET_NAME_BYTES_MAX} of them"
            ),
            Self::List { item } => format!("a list, each item {}", item.words()),
            Self::Table(_) => "a table".to_owned(),
        }
    }
}

impl Value {
    fn name(&self) -> &'static str {
        match self {
            Self::Text(_) => "text",
            Self::Integer(_) => "a number",
            Self::Boolean(_) => "true or false",
            Self::List(_) => "a list",
        }
    }
}

/// A number that is compared: its sign, how many digits, and which.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Amount(i128, usize, String);

impl Amount {
    fn of(number: i128) -> Self {
        // Below nothing the numbers order themselves; from there on their digits do.
        if number < 0 { Self(number, 0, String::new()) } else { Self::digits(&number.to_string()) }
    }

    /// Digits alone.
    fn digits(text: &str) -> Self {
        let text = text.trim_start_matches('0');
        Self(0, text.len(), text.to_owned())
    }
}

/// A default or a bound, as a value would be written.
pub fn from_json(json: &Json) -> Option<Value> {
    Some(match json {
        Json::String(text) => Value::Text(text.clone()),
        Json::Bool(flag) => Value::Boolean(*flag),
        Json::Number(number) => Value::Integer(number.as_i64()?),
        Json::Array(items) => Value::List(items.iter().map(from_json).collect::<Option<_>>()?),
        Json::Null | Json::Object(_) => return None,
    })
}

#[cfg(test)]
mod tests;
