//! A configuration as a struct: what `#[derive(NexumConfig)]` writes, and the types that its fields may have.
//!
//! The schema of a field's type is JSON text, put together by constants, so that the whole of it can lie in the component.

use std::{fmt, str::FromStr, time::Duration};

use nexum_config_schema::{Table, from_json, units};

use super::{Config, Scalar, Value};
use crate::{Error, Result};

/// What a field of a configuration may be.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no type of a configuration's field",
    note = "a type that parses from text is one with `#[config(parse)]`, a struct or an enum with `#[derive(NexumConfig)]`"
)]
pub trait ConfigType: Sized {
    /// Its JSON in a schema.
    const SCHEMA: &'static str;

    /// The value of one key, which is of this type as far as the schema says it.
    ///
    /// # Errors
    /// What is expected instead.
    fn from_value(value: &Value) -> Result<Self, String>;

    /// Whether there is anything of it under this key.
    fn is_in(config: &Config, key: &str) -> bool {
        config.contains(key)
    }

    /// The value under a key, or its default, which is JSON text.
    ///
    /// # Errors
    /// There is neither, or it is none of this type.
    fn read(config: &Config, key: &str, default: Option<&str>) -> Result<Self> {
        let value = value_or_default(config, key, default)?;
        Self::from_value(&value).map_err(|wanted| wrong(key, &wanted))
    }
}

/// What `#[init]` may take: the configuration as it is, or as a struct.
pub trait FromConfig: Sized {
    /// # Errors
    /// The key that is wrong, and what is expected.
    fn from_config(config: Config) -> Result<Self>;
}

impl FromConfig for Config {
    fn from_config(config: Config) -> Result<Self> {
        Ok(config)
    }
}

impl<T: ConfigType> FromConfig for T {
    fn from_config(config: Config) -> Result<Self> {
        config.typed()
    }
}

fn wrong(key: &str, message: &str) -> Error {
    Error::invalid_input(format!("config key `{key}`: {message}"))
}

fn value_or_default(config: &Config, key: &str, default: Option<&str>) -> Result<Value> {
    if let Some(value) = config.get(key) {
        return Ok(value.clone());
    }
    let default = default.ok_or_else(|| wrong(key, "is missing"))?;
    let json = serde_json::from_str(default)?;
    let value = from_json(&json).ok_or_else(|| wrong(key, "its default has no form in a configuration"))?;
    Value::from_schema(value).ok_or_else(|| wrong(key, "its default has no form in a configuration"))
}

impl Config {
    /// Reads all of it into a struct with `#[derive(NexumConfig)]`, by the check that the host has made before.
    ///
    /// ```
    /// use nexum_sdk::{Config, NexumConfig};
    ///
    /// #[derive(NexumConfig)]
    /// struct Settings {
    ///     /// Blocks between two lines of the log.
    ///     #[config(default = 10, min = 1)]
    ///     every: u64,
    /// }
    ///
    /// let settings: Settings = Config::default().typed()?;
    /// assert_eq!(settings.every, 10);
    /// # Ok::<(), nexum_sdk::Error>(())
    /// ```
    ///
    /// A type that is none of a configuration's does not compile:
    ///
    /// ```compile_fail
    /// #[derive(nexum_sdk::NexumConfig)]
    /// struct Settings {
    ///     every: std::collections::BTreeMap<String, u64>,
    /// }
    /// ```
    ///
    /// # Errors
    /// The first key that is wrong, unknown or missing, and what is expected.
    pub fn typed<T: ConfigType>(&self) -> Result<T> {
        let schema =
            Table::parse(T::SCHEMA).map_err(|error| Error::msg(format!("the configuration's schema: {error}")))?;
        let values: Vec<_> = self.iter().map(|(key, value)| (key.to_owned(), value.to_schema())).collect();
        schema.check(&values).map_err(|problem| wrong(&problem.key, &problem.message))?;
        T::read(self, "", None)
    }
}

impl Value {
    fn to_schema(&self) -> nexum_config_schema::Value {
        match self {
            Self::Scalar(scalar) => scalar.to_schema(),
            Self::List(items) => nexum_config_schema::Value::List(items.iter().map(Scalar::to_schema).collect()),
        }
    }

    fn from_schema(value: nexum_config_schema::Value) -> Option<Self> {
        use nexum_config_schema::Value as Given;
        let scalar = |value| match value {
            Given::Text(text) => Some(Scalar::String(text)),
            Given::Integer(number) => Some(Scalar::Integer(number)),
            Given::Boolean(flag) => Some(Scalar::Boolean(flag)),
            Given::List(_) => None,
        };
        match value {
            Given::List(items) => items.into_iter().map(scalar).collect::<Option<_>>().map(Self::List),
            other => scalar(other).map(Self::Scalar),
        }
    }
}

impl Scalar {
    fn to_schema(&self) -> nexum_config_schema::Value {
        use nexum_config_schema::Value as Given;
        match self {
            Self::String(text) => Given::Text(text.clone()),
            Self::Integer(number) => Given::Integer(*number),
            Self::Boolean(flag) => Given::Boolean(*flag),
        }
    }
}

/// The items of a list under a key, or of its default.
///
/// # Errors
/// There is neither, or an item is none of its type.
pub fn read_list<T: ConfigType>(config: &Config, key: &str, default: Option<&str>) -> Result<Vec<T>> {
    let Value::List(items) = value_or_default(config, key, default)? else { return Err(wrong(key, "expected a list")) };
    let item = |item: Scalar| T::from_value(&Value::Scalar(item)).map_err(|wanted| wrong(key, &wanted));
    items.into_iter().map(item).collect()
}

/// The key of a field in the table under another key.
pub fn below(table: &str, name: &str) -> String {
    if table.is_empty() { name.to_owned() } else { format!("{table}.{name}") }
}

/// Whether there is anything in the table under a key.
pub fn has_table(config: &Config, table: &str) -> bool {
    let below = below(table, "");
    config.iter().any(|(key, _)| key.starts_with(&below))
}

/// A text under a key, or its default, as what it parses to.
///
/// # Errors
/// There is neither, or it does not parse.
pub fn read_parsed<T: FromStr<Err: fmt::Display>>(config: &Config, key: &str, default: Option<&str>) -> Result<T> {
    parsed(&String::read(config, key, default)?).map_err(|wanted| wrong(key, &wanted))
}

/// The same for each item of a list.
///
/// # Errors
/// There is none, or an item does not parse.
pub fn read_parsed_list<T: FromStr<Err: fmt::Display>>(
    config: &Config,
    key: &str,
    default: Option<&str>,
) -> Result<Vec<T>> {
    let texts = read_list::<String>(config, key, default)?;
    texts.iter().map(|text| parsed(text).map_err(|wanted| wrong(key, &wanted))).collect()
}

/// What a type makes of a text, by its own parsing.
///
/// # Errors
/// It is none of this type. The reason is told as far as it does not repeat the text, which may be a secret.
fn parsed<T: FromStr<Err: fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| {
        let why = Some(error.to_string()).filter(|why| text.is_empty() || !why.contains(text));
        format!("is not {}{}", std::any::type_name::<T>(), why.map(|why| format!(": {why}")).unwrap_or_default())
    })
}

fn text(value: &Value) -> Result<&str, String> {
    match value {
        Value::Scalar(Scalar::String(text)) => Ok(text),
        _ => Err("expected text".to_owned()),
    }
}

impl ConfigType for String {
    const SCHEMA: &'static str = r#"{"kind":"text"}"#;

    fn from_value(value: &Value) -> Result<Self, String> {
        text(value).map(str::to_owned)
    }
}

impl ConfigType for bool {
    const SCHEMA: &'static str = r#"{"kind":"boolean"}"#;

    fn from_value(value: &Value) -> Result<Self, String> {
        match value {
            Value::Scalar(Scalar::Boolean(flag)) => Ok(*flag),
            _ => Err("expected true or false".to_owned()),
        }
    }
}

macro_rules! integers {
    ($($integer:ty, $min:literal, $max:literal;)*) => {
        $(impl ConfigType for $integer {
            const SCHEMA: &'static str = concat!(r#"{"kind":"integer","min":"#, $min, r#","max":"#, $max, "}");

            fn from_value(value: &Value) -> Result<Self, String> {
                match value {
                    Value::Scalar(Scalar::Integer(number)) => {
                        Self::try_from(i128::from(*number)).map_err(|_| "expected a smaller whole number".to_owned())
                    }
                    _ => Err("expected a whole number".to_owned()),
                }
            }
        })*
    };
}

integers! {
    u8, "0", "255";
    u16, "0", "65535";
    u32, "0", "4294967295";
    u64, "0", "9223372036854775807";
    usize, "0", "4294967295";
    i8, "-128", "127";
    i16, "-32768", "32767";
    i32, "-2147483648", "2147483647";
    i64, "-9223372036854775808", "9223372036854775807";
}

impl ConfigType for Duration {
    const SCHEMA: &'static str = r#"{"kind":"duration"}"#;

    fn from_value(value: &Value) -> Result<Self, String> {
        let wanted = || "expected a duration such as \"90s\"".to_owned();
        units::duration_ms(text(value)?).map(Self::from_millis).ok_or_else(wanted)
    }
}

/// A size, written as `"64MiB"` or as a number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

impl ConfigType for Bytes {
    const SCHEMA: &'static str = r#"{"kind":"bytes"}"#;

    fn from_value(value: &Value) -> Result<Self, String> {
        units::bytes(&value.to_schema()).map(Self).ok_or_else(|| "expected a size such as \"64MiB\"".to_owned())
    }
}

/// An amount of a chain's own coin, written as `"1.5 ether"`, `"30 gwei"` or as wei.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wei(pub u128);

impl ConfigType for Wei {
    const SCHEMA: &'static str = r#"{"kind":"wei"}"#;

    fn from_value(value: &Value) -> Result<Self, String> {
        units::wei(&value.to_schema()).map(Self).ok_or_else(|| "expected an amount such as \"1.5 ether\"".to_owned())
    }
}

#[cfg(feature = "alloy")]
impl From<Wei> for alloy_primitives::U256 {
    fn from(Wei(wei): Wei) -> Self {
        Self::from(wei)
    }
}

/// The name of a secret of the operator. What it stands for goes into a request by [`placeholder`](Self::placeholder), and
/// never into the module.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretName(String);

impl SecretName {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands for the secret in a URL, a header or a body; see [`http::secret`](crate::http::secret).
    pub fn placeholder(&self) -> String {
        crate::http::secret(&self.0)
    }
}

impl ConfigType for SecretName {
    const SCHEMA: &'static str = r#"{"kind":"secret"}"#;

    fn from_value(value: &Value) -> Result<Self, String> {
        let name = text(value)?;
        units::is_secret_name(name).then(|| Self(name.to_owned())).ok_or_else(|| "expected a secret's name".to_owned())
    }
}

#[cfg(feature = "alloy")]
impl ConfigType for alloy_primitives::Address {
    const SCHEMA: &'static str = r#"{"kind":"address"}"#;

    fn from_value(value: &Value) -> Result<Self, String> {
        parsed(text(value)?)
    }
}

#[cfg(feature = "alloy")]
impl ConfigType for alloy_primitives::U256 {
    const SCHEMA: &'static str = r#"{"kind":"unsigned"}"#;

    fn from_value(value: &Value) -> Result<Self, String> {
        match value {
            Value::Scalar(Scalar::Integer(number)) => {
                u64::try_from(*number).map(Self::from).map_err(|_| "expected no negative number".to_owned())
            }
            // Whatever its own parsing takes besides digits.
            other => parsed(units::digits(text(other)?).ok_or("expected a whole number")?),
        }
    }
}

/// How long texts are together.
pub const fn length(parts: &[&str]) -> usize {
    let (mut sum, mut part) = (0, 0);
    while part < parts.len() {
        sum += parts[part].len();
        part += 1;
    }
    sum
}

/// Texts, one after the other.
///
/// # Panics
/// When they are not as long as said, which does not compile where this is a constant.
pub const fn joined<const LENGTH: usize>(parts: &[&str]) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    let (mut at, mut part) = (0, 0);
    while part < parts.len() {
        let text = parts[part].as_bytes();
        let mut byte = 0;
        while byte < text.len() {
            bytes[at] = text[byte];
            (at, byte) = (at + 1, byte + 1);
        }
        part += 1;
    }
    assert!(at == LENGTH, "the texts are shorter than said");
    bytes
}

/// Bytes that are text.
///
/// # Panics
/// When they are not, which does not compile where this is a constant.
pub const fn utf8(bytes: &'static [u8]) -> &'static str {
    match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(_) => panic!("texts put together are no text"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NexumConfig;

    #[derive(Debug, PartialEq, NexumConfig)]
    #[config(crate = crate)]
    struct Settings {
        /// Whom to ask.
        url: String,
        #[config(default = 10, min = 1, max = 100)]
        every: u64,
        #[config(default = "5s", max = "1h")]
        wait: Duration,
        #[config(default = "0.5 ether")]
        floor: Wei,
        #[config(default = "1MiB")]
        room: Bytes,
        #[config(default = "safe")]
        mode: Mode,
        #[config(default = [1, 2], max = 9)]
        levels: Vec<u8>,
        strict: Option<bool>,
        hook: Option<SecretName>,
        #[config(parse)]
        ratio: Option<f64>,
        limits: Limits,
        night: Option<Night>,
    }

    #[derive(Debug, PartialEq, NexumConfig)]
    #[config(crate = crate)]
    enum Mode {
        Safe,
        FastOnly,
    }

    #[derive(Debug, PartialEq, NexumConfig)]
    #[config(crate = crate)]
    struct Limits {
        #[config(default = -1)]
        low: i64,
    }

    #[derive(Debug, PartialEq, NexumConfig)]
    #[config(crate = crate)]
    struct Night {
        from: u8,
    }

    fn typed(entries: &[(&str, Value)]) -> Result<Settings, String> {
        let entries = entries.iter().map(|(key, value)| (*key, value.clone()));
        let url = [("url", Value::from("u"))].into_iter();
        url.chain(entries).collect::<Config>().typed().map_err(|error: Error| error.to_string())
    }

    #[test]
    fn what_is_not_there_is_the_default() {
        let settings = typed(&[]).unwrap();
        let expected = Settings {
            url: "u".to_owned(),
            every: 10,
            wait: Duration::from_secs(5),
            floor: Wei(500_000_000_000_000_000),
            room: Bytes(1 << 20),
            mode: Mode::Safe,
            levels: vec![1, 2],
            strict: None,
            hook: None,
            ratio: None,
            limits: Limits { low: -1 },
            night: None,
        };
        assert_eq!(settings, expected);
    }

    #[test]
    fn what_is_there_is_read_by_its_type() {
        let settings = typed(&[
            ("every", Value::from(100)),
            ("wait", Value::from("1m30s")),
            ("mode", Value::from("fast-only")),
            ("strict", Value::from(true)),
            ("hook", Value::from("slack")),
            ("ratio", Value::from("1.5")),
            ("levels", Value::List(vec![Scalar::Integer(9)])),
            ("limits.low", Value::from(3)),
            ("night.from", Value::from(22)),
        ]);
        let settings = settings.unwrap();
        assert_eq!((settings.every, settings.wait, settings.mode), (100, Duration::from_secs(90), Mode::FastOnly));
        assert_eq!(settings.hook.unwrap().placeholder(), "${secret:slack}");
        assert_eq!((settings.ratio, settings.levels, settings.limits.low), (Some(1.5), vec![9], 3));
        assert_eq!(settings.night, Some(Night { from: 22 }));
    }

    #[test]
    fn what_does_not_fit_is_refused_by_the_check_that_the_host_makes() {
        let refusal = |key: &str, value: Value| typed(&[(key, value)]).unwrap_err();
        assert_eq!(refusal("every", 0.into()), "config key `every`: expected a whole number from 1 to 100");
        assert_eq!(refusal("evry", 1.into()), "config key `evry`: unknown key, did you mean `every`?");
        assert_eq!(refusal("mode", "k3y".into()), "config key `mode`: expected one of safe, fast-only");
        let ratio = refusal("ratio", "k3y".into());
        assert!(ratio.starts_with("config key `ratio`: is not f64") && !ratio.contains("k3y"), "{ratio}");
        assert!(refusal("night.form", 1.into()).contains("did you mean `night.from`?"));
    }
}
