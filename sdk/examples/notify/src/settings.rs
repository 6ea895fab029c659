//! The tables of the configuration, read so that whatever is wrong is said with the rule or channel that has it.

use std::collections::BTreeMap;

use nexum_sdk::{Config, Error, Result, Scalar, Value};

/// Tables of one kind: rules, or channels.
const TABLES_MAX: usize = 128;
/// Bytes of the name of a table; two of them and a hash are a key of the outbox.
const NAME_BYTES_MAX: usize = 48;

/// One table `[config.rules.NAME]` or `[config.channels.NAME]`.
pub struct Table<'a> {
    what: String,
    pub name: &'a str,
    entries: BTreeMap<&'a str, &'a Value>,
    asked: Vec<&'static str>,
}

impl<'a> Table<'a> {
    /// Every table below `section`, such as `rules`, by name; `what` is one of them, such as `rule`.
    pub fn all(config: &'a Config, section: &str, what: &str) -> Result<Vec<Self>> {
        let mut tables: BTreeMap<&str, Self> = BTreeMap::new();
        for (key, value) in config.iter() {
            let Some(rest) = key.strip_prefix(section).and_then(|rest| rest.strip_prefix('.')) else { continue };
            let Some((name, key)) = rest.split_once('.') else {
                return Err(Error::invalid_input(format!("`{key}` is a table: [config.{key}]")));
            };
            let is_name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(is_name) {
                let wanted = format!("1 to {NAME_BYTES_MAX} letters, digits, `-` and `_`");
                return Err(Error::invalid_input(format!("{what} `{name}`: a name has {wanted}")));
            }
            let new = || Self { what: format!("{what} `{name}`"), name, entries: BTreeMap::new(), asked: Vec::new() };
            tables.entry(name).or_insert_with(new).entries.insert(key, value);
        }
        if tables.len() > TABLES_MAX {
            return Err(Error::invalid_input(format!("{} {what}s, more than {TABLES_MAX}", tables.len())));
        }
        Ok(tables.into_values().collect())
    }

    pub fn wrong(&self, message: impl std::fmt::Display) -> Error {
        Error::invalid_input(format!("{}: {message}", self.what))
    }

    fn take(&mut self, key: &'static str) -> Option<&'a Value> {
        self.asked.push(key);
        self.entries.remove(key)
    }

    fn mismatch<T>(&self, key: &str, wanted: &str) -> Result<T> {
        Err(self.wrong(format!("`{key}` must be {wanted}")))
    }

    pub fn text(&mut self, key: &'static str) -> Result<Option<&'a str>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Scalar(Scalar::String(text))) => Ok(Some(text.as_str())),
            Some(_) => self.mismatch(key, "text"),
        }
    }

    pub fn needed_text(&mut self, key: &'static str) -> Result<&'a str> {
        self.text(key)?.ok_or_else(|| self.wrong(format!("`{key}` is missing")))
    }

    /// One text, or a list of them.
    pub fn texts(&mut self, key: &'static str) -> Result<Option<Vec<&'a str>>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Scalar(Scalar::String(text))) => Ok(Some(vec![text.as_str()])),
            Some(Value::List(items)) => {
                let text = |item: &'a Scalar| match item {
                    Scalar::String(text) => Some(text.as_str()),
                    _ => None,
                };
                let texts: Option<Vec<_>> = items.iter().map(text).collect();
                texts.map_or_else(|| self.mismatch(key, "text, or a list of text"), |texts| Ok(Some(texts)))
            }
            Some(_) => self.mismatch(key, "text, or a list of text"),
        }
    }

    pub fn number(&mut self, key: &'static str) -> Result<Option<u64>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Scalar(Scalar::Integer(number))) => {
                u64::try_from(*number).map(Some).or_else(|_| self.mismatch(key, "a number that is not negative"))
            }
            Some(_) => self.mismatch(key, "a number"),
        }
    }

    /// Text such as `"30s"`, `"10m"`, `"2h"` or `"1d"`, in milliseconds.
    pub fn duration_ms(&mut self, key: &'static str) -> Result<Option<u64>> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        let units = [("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
        let read = units.iter().find_map(|(unit, ms)| text.strip_suffix(unit)?.parse::<u64>().ok()?.checked_mul(*ms));
        read.map_or_else(|| self.mismatch(key, "a time such as \"30s\", \"10m\", \"2h\" or \"1d\""), |ms| Ok(Some(ms)))
    }

    /// The text entries of the table `prefix` within this one.
    pub fn below(&mut self, prefix: &'static str) -> Result<Vec<(&'a str, &'a str)>> {
        let inner = |key: &&'a str| key.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('.'));
        let keys: Vec<&'a str> = self.entries.keys().copied().filter(inner).collect();
        let mut found = Vec::new();
        for key in keys {
            match self.entries.remove(key) {
                Some(Value::Scalar(Scalar::String(text))) => found.push((&key[prefix.len() + 1..], text.as_str())),
                _ => return self.mismatch(key, "text"),
            }
        }
        Ok(found)
    }

    /// Refuses what nobody asked for.
    pub fn end(self) -> Result<()> {
        match self.entries.keys().next() {
            None => Ok(()),
            Some(key) => Err(self.wrong(format!("`{key}` is not known here; known are {}", self.asked.join(", ")))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(key: &str, value: Value, read: impl Fn(&mut Table<'_>) -> Result<()>) -> String {
        let config: Config = [(key, value)].into_iter().collect();
        let read = |mut table: Table<'_>| read(&mut table).and_then(|()| table.end());
        let refused = Table::all(&config, "rules", "rule").and_then(|tables| tables.into_iter().try_for_each(read));
        refused.unwrap_err().to_string()
    }

    #[test]
    fn what_is_wrong_names_the_table() {
        let cooldown = |table: &mut Table<'_>| table.duration_ms("cooldown").map(drop);
        for (key, value, expected) in [
            ("rules.a.cooldwn", "1m".into(), "rule `a`: `cooldwn` is not known here; known are cooldown"),
            ("rules.a.cooldown", 5.into(), "rule `a`: `cooldown` must be text"),
            (
                "rules.a.cooldown",
                "5 minutes".into(),
                "rule `a`: `cooldown` must be a time such as \"30s\", \"10m\", \"2h\" or \"1d\"",
            ),
            ("rules.a", "x".into(), "`rules.a` is a table: [config.rules.a]"),
            ("rules.a b.when", "x".into(), "rule `a b`: a name has 1 to 48 letters, digits, `-` and `_`"),
        ] {
            assert_eq!(refusal(key, value, cooldown), expected);
        }
        let needed = refusal("rules.a.x", "y".into(), |table| table.needed_text("event").map(drop));
        assert_eq!(needed, "rule `a`: `event` is missing");
    }

    #[test]
    fn values_are_read_as_what_they_are() {
        let names = Value::List(vec![Scalar::String("a".into()), Scalar::String("b".into())]);
        let config: Config = [
            ("channels.x.cooldown", Value::from("2h")),
            ("channels.x.names", names),
            ("channels.x.one", "c".into()),
            ("channels.x.headers.Authorization", "t".into()),
            ("channels.x.chain_id", 5.into()),
            ("rules.y.z", "other".into()),
        ]
        .into_iter()
        .collect();
        let mut table = Table::all(&config, "channels", "channel").unwrap().remove(0);
        assert_eq!((table.name, table.duration_ms("cooldown").unwrap()), ("x", Some(7_200_000)));
        assert_eq!(table.texts("names").unwrap().unwrap(), ["a", "b"]);
        assert_eq!(table.texts("one").unwrap().unwrap(), ["c"]);
        assert_eq!(table.number("chain_id").unwrap(), Some(5));
        assert_eq!(table.below("headers").unwrap(), [("Authorization", "t")]);
        assert_eq!(table.text("absent").unwrap(), None);
        table.end().unwrap();
    }
}
