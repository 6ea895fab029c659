//! The manifest's `[config]`, typed. Nested tables arrive flattened, with dotted keys.

pub(crate) mod typed;

use std::fmt;
use std::str::FromStr;

use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use crate::bindings::nexum::host::types;
use crate::{Error, Result};

/// What `[config]` holds, in the manifest's order. Every refusal names the key and is of kind
/// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config(Vec<(String, Value)>);

/// One value of the configuration.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Scalar(Scalar),
    List(Vec<Scalar>),
}

/// A value that is not a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scalar {
    String(String),
    Integer(i64),
    Boolean(bool),
}

impl Config {
    /// The value of a key as it is.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    pub fn contains(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// # Errors
    /// The key is missing or not a string.
    pub fn string(&self, key: &str) -> Result<&str> {
        match self.need(key)? {
            Value::Scalar(Scalar::String(text)) => Ok(text),
            other => Err(mismatch(key, "a string", other)),
        }
    }

    /// # Errors
    /// The key is missing or not an integer.
    pub fn integer(&self, key: &str) -> Result<i64> {
        match self.need(key)? {
            Value::Scalar(Scalar::Integer(number)) => Ok(*number),
            other => Err(mismatch(key, "an integer", other)),
        }
    }

    /// # Errors
    /// The key is missing or not a boolean.
    pub fn boolean(&self, key: &str) -> Result<bool> {
        match self.need(key)? {
            Value::Scalar(Scalar::Boolean(flag)) => Ok(*flag),
            other => Err(mismatch(key, "a boolean", other)),
        }
    }

    /// # Errors
    /// The key is missing or not a list.
    pub fn list(&self, key: &str) -> Result<&[Scalar]> {
        match self.need(key)? {
            Value::List(items) => Ok(items),
            other => Err(mismatch(key, "a list", other)),
        }
    }

    /// Reads a string, an integer or a boolean as any type that parses from text: a `u64`, an `Address`, a `U256`.
    ///
    /// # Errors
    /// The key is missing or a list, or the value does not parse.
    pub fn parse<T: FromStr<Err: fmt::Display>>(&self, key: &str) -> Result<T> {
        match self.need(key)? {
            Value::Scalar(scalar) => parse(key, scalar),
            other => Err(mismatch(key, "one value", other)),
        }
    }

    /// As [`parse`](Self::parse), and `None` when the key is missing.
    pub fn parse_opt<T: FromStr<Err: fmt::Display>>(&self, key: &str) -> Result<Option<T>> {
        self.contains(key).then(|| self.parse(key)).transpose()
    }

    /// As [`parse`](Self::parse) for every item of a list.
    pub fn parse_list<T: FromStr<Err: fmt::Display>>(&self, key: &str) -> Result<Vec<T>> {
        self.list(key)?.iter().map(|item| parse(key, item)).collect()
    }

    /// Reads the whole configuration into a struct; dotted keys become nested structs. Put
    /// `#[serde(deny_unknown_fields)]` on it, so that a misspelt key is an error and not a default.
    ///
    /// # Errors
    /// What serde says: a missing, unknown or mistyped field.
    pub fn deserialize<T: DeserializeOwned>(&self) -> Result<T> {
        let mut root = serde_json::Map::new();
        for (key, value) in &self.0 {
            insert(&mut root, key, key, value)?;
        }
        let refused = |error: serde_json::Error| without_value(&error.to_string());
        serde_json::from_value(Json::Object(root))
            .map_err(|error| Error::invalid_input(format!("config: {}", refused(error))))
    }

    fn need(&self, key: &str) -> Result<&Value> {
        self.get(key).ok_or_else(|| Error::invalid_input(format!("config key `{key}` is missing")))
    }
}

fn insert(table: &mut serde_json::Map<String, Json>, rest: &str, key: &str, value: &Value) -> Result<()> {
    let Some((head, rest)) = rest.split_once('.') else {
        table.insert(rest.to_owned(), value.to_json());
        return Ok(());
    };
    match table.entry(head).or_insert_with(|| Json::Object(serde_json::Map::new())) {
        Json::Object(inner) => insert(inner, rest, key, value),
        _ => Err(Error::invalid_input(format!("config key `{key}`: `{head}` is a value and a table"))),
    }
}

fn parse<T: FromStr<Err: fmt::Display>>(key: &str, scalar: &Scalar) -> Result<T> {
    let text = scalar.to_string();
    text.parse().map_err(|error: T::Err| {
        // The engine shows errors to whoever looks, and the value may be a secret.
        let why = Some(error.to_string()).filter(|why| !why.contains(&text));
        let why = why.map(|why| format!(": {why}")).unwrap_or_default();
        Error::invalid_input(format!("config key `{key}` is not {}{why}", std::any::type_name::<T>()))
    })
}

/// serde's message without the value that it repeats, which may be a secret.
fn without_value(message: &str) -> String {
    const BEGINNINGS: [&str; 3] = ["invalid type: ", "invalid value: ", "unknown variant "];
    let begins = BEGINNINGS.iter().filter_map(|begin| message.find(begin).map(|at| at + begin.len())).min();
    let Some(value) = begins else { return message.to_owned() };
    let ends = message[value..].rfind(", expected ").map_or(message.len(), |end| value + end);
    let kind = message[value..ends].split(['"', '`']).next().unwrap_or_default();
    let begun = format!("{}{kind}", &message[..value]);
    format!("{}{}", begun.trim_end(), &message[ends..])
}

fn mismatch(key: &str, wanted: &str, found: &Value) -> Error {
    let found = match found {
        Value::Scalar(Scalar::String(_)) => "a string",
        Value::Scalar(Scalar::Integer(_)) => "an integer",
        Value::Scalar(Scalar::Boolean(_)) => "a boolean",
        Value::List(_) => "a list",
    };
    Error::invalid_input(format!("config key `{key}` must be {wanted}, it is {found}"))
}

impl Value {
    fn to_json(&self) -> Json {
        match self {
            Self::Scalar(scalar) => scalar.to_json(),
            Self::List(items) => items.iter().map(Scalar::to_json).collect(),
        }
    }
}

impl Scalar {
    fn to_json(&self) -> Json {
        match self {
            Self::String(text) => Json::from(text.as_str()),
            Self::Integer(number) => Json::from(*number),
            Self::Boolean(flag) => Json::from(*flag),
        }
    }
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::String(text) => text.fmt(f),
            Self::Integer(number) => number.fmt(f),
            Self::Boolean(flag) => flag.fmt(f),
        }
    }
}

impl From<types::Config> for Config {
    fn from(raw: types::Config) -> Self {
        raw.into_iter()
            .map(|(key, value)| {
                let value = match value {
                    types::ConfigValue::String(text) => text.into(),
                    types::ConfigValue::Integer(number) => number.into(),
                    types::ConfigValue::Boolean(flag) => flag.into(),
                    types::ConfigValue::List(items) => Value::List(
                        items
                            .into_iter()
                            .map(|item| match item {
                                types::ConfigScalar::String(text) => Scalar::String(text),
                                types::ConfigScalar::Integer(number) => Scalar::Integer(number),
                                types::ConfigScalar::Boolean(flag) => Scalar::Boolean(flag),
                            })
                            .collect(),
                    ),
                };
                (key, value)
            })
            .collect()
    }
}

impl<K: Into<String>> FromIterator<(K, Value)> for Config {
    fn from_iter<I: IntoIterator<Item = (K, Value)>>(entries: I) -> Self {
        Self(entries.into_iter().map(|(key, value)| (key.into(), value)).collect())
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Scalar(Scalar::String(text.to_owned()))
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Scalar(Scalar::String(text))
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Scalar(Scalar::Integer(number))
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Self::Scalar(Scalar::Boolean(flag))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    fn sample() -> Config {
        [
            ("url", Value::from("https://x")),
            ("every", Value::from(5)),
            ("strict", Value::from(true)),
            ("limits.low", Value::from(1)),
            ("limits.names", Value::List(vec![Scalar::String("a".into()), Scalar::String("b".into())])),
        ]
        .into_iter()
        .collect()
    }

    #[test]
    fn typed_access() {
        let config = sample();
        assert_eq!(config.string("url").unwrap(), "https://x");
        assert_eq!(config.integer("every").unwrap(), 5);
        assert_eq!(config.parse::<u8>("every").unwrap(), 5);
        assert_eq!(config.parse_opt::<u8>("absent").unwrap(), None);
        assert!(config.boolean("strict").unwrap());
        assert_eq!(config.parse_list::<String>("limits.names").unwrap(), ["a", "b"]);
    }

    #[test]
    fn refusals_name_the_key_and_both_types() {
        let config = sample();
        let text = |result: Result<&str>| result.unwrap_err().to_string();
        assert_eq!(text(config.string("every")), "config key `every` must be a string, it is an integer");
        assert_eq!(text(config.string("none")), "config key `none` is missing");
        let error = config.parse::<u8>("url").unwrap_err().to_string();
        assert_eq!(error, "config key `url` is not u8: invalid digit found in string");
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Settings {
        url: String,
        every: u64,
        strict: bool,
        limits: Limits,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    struct Limits {
        low: i64,
        names: Vec<String>,
    }

    #[test]
    fn a_struct_with_nested_tables() {
        let settings: Settings = sample().deserialize().unwrap();
        let limits = Limits { low: 1, names: vec!["a".into(), "b".into()] };
        assert_eq!(settings, Settings { url: "https://x".into(), every: 5, strict: true, limits });

        let error = [("url", Value::from("x")), ("evry", Value::from(5))]
            .into_iter()
            .collect::<Config>()
            .deserialize::<Settings>()
            .unwrap_err();
        assert!(error.to_string().contains("unknown field `evry`"), "{error}");
    }

    /// Errors are shown to whoever looks at the engine.
    #[test]
    fn no_refusal_repeats_a_value() {
        #[derive(Debug, Deserialize)]
        #[serde(rename_all = "lowercase")]
        enum Mode {
            Fast,
        }
        #[derive(Debug, Deserialize)]
        #[allow(dead_code, reason = "only what is refused matters")]
        struct Other {
            number: Option<u64>,
            mode: Option<Mode>,
        }

        /// Whose error repeats what it read, as many do.
        #[derive(Debug)]
        struct Loud;
        impl FromStr for Loud {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                Err(format!("`{text}` is too loud"))
            }
        }

        let config = |key: &str| [(key, Value::from("k3y, expected k3y"))].into_iter().collect::<Config>();
        let errors = [
            config("number").parse::<u64>("number").unwrap_err(),
            config("number").parse::<Loud>("number").unwrap_err(),
            config("number").deserialize::<Other>().unwrap_err(),
            config("mode").deserialize::<Other>().unwrap_err(),
        ];
        for error in errors.map(|error| error.to_string()) {
            assert!(!error.contains("k3y"), "{error}");
        }
        let typed = config("number").deserialize::<Other>().unwrap_err().to_string();
        assert_eq!(typed, "config: invalid type: string, expected u64");
    }
}
