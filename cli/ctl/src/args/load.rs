//! What `module load` takes, and how the values of `--set` are read.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use clap::{Args, ValueHint};
use nexum_admin_api::text::too_deep;
use nexum_records::Hash;
use toml::Value;

use crate::exit::Failure;

#[derive(Debug, Args)]
pub struct Load {
    /// The bundle: a directory with nexum.toml and module.wasm
    #[arg(value_hint = ValueHint::DirPath)]
    pub bundle: PathBuf,
    /// Withhold a capability, such as http; may be repeated
    #[arg(long, value_name = "CAPABILITY")]
    pub deny: Vec<String>,
    /// Set a value of the module's [config]: of the type that the manifest has there, else as TOML or a string; may be
    /// repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<Setting>,
    /// Allow a chain method that the manifest asks for beyond the standard ones; may be repeated
    #[arg(long, value_name = "METHOD")]
    pub extra_method: Vec<String>,
    /// The component that is wanted, whatever the bundle names
    #[arg(long, value_name = "sha256:DIGEST", value_parser = component)]
    pub component: Option<Hash>,
    /// Let it have the state that another module of its name left
    #[arg(long)]
    pub adopt_state: bool,
}

fn component(text: &str) -> Result<Hash, String> {
    let mut digest = [0; 32];
    match text.strip_prefix("sha256:").map(|digits| hex::decode_to_slice(digits, &mut digest)) {
        Some(Ok(())) => Ok(Hash(digest)),
        _ => Err("expected sha256: and 64 hex digits".to_owned()),
    }
}

/// What follows `--set`. Checked later: clap repeats what it refuses, and a value may be a secret.
#[derive(Clone)]
pub struct Setting(String);

impl From<String> for Setting {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.split_once('=').map_or("", |(key, _)| key))
    }
}

impl Setting {
    fn key_value(&self) -> Result<(&str, &str), Failure> {
        let parts = self.0.split_once('=').map(|(key, value)| (key.trim(), value));
        let (key, value) = parts.ok_or_else(|| Failure::usage("--set: expected KEY=VALUE, such as interval=30"))?;
        // What is refused is not repeated: whoever mixes up the sides has a secret in the key.
        if key.split('.').any(|part| part.trim().is_empty()) {
            return Err(Failure::usage("--set: nothing stands where the key belongs: expected KEY=VALUE"));
        }
        if key.contains(['"', '\'']) || key.contains(char::is_control) {
            let message =
                "--set: the key has quotes or control characters: expected it as it is, such as relay.limit=3";
            return Err(Failure::usage(message));
        }
        Ok((key, value))
    }
}

impl Load {
    /// The values of `--set`. They have the types that `manifest`, if it can be read, has under their keys. Where it has a
    /// string, text is taken as it is: an account number or a token may be all digits.
    ///
    /// # Errors
    /// One that is no key with a value, or whose value is of another type.
    pub fn values(&self, manifest: Option<&str>) -> Result<BTreeMap<String, Value>, Failure> {
        let manifest = manifest.and_then(table).unwrap_or_default();
        let config = manifest.get("config");
        let present = |key: &str| {
            let found = key.split('.').fold(config, |value, part| value.and_then(|value| value.get(part)));
            found.or_else(|| config?.get(key))
        };
        let value = |key: &str, text: &str| match present(key) {
            Some(Value::String(_)) => Ok(Value::String(text.to_owned())),
            Some(other) => single(text).filter(|value| value.same_type(other)).ok_or_else(|| {
                let wanted = other.type_str();
                Failure::usage(format!(
                    "--set {key}: the manifest has a value of type {wanted} there: expected one too"
                ))
            }),
            None => Ok(single(text).unwrap_or_else(|| Value::String(text.to_owned()))),
        };
        let set = self.set.iter().map(Setting::key_value);
        set.map(|set| set.and_then(|(key, text)| Ok((key.to_owned(), value(key, text)?)))).collect()
    }
}

fn table(text: &str) -> Option<toml::Table> {
    match too_deep(text) {
        Some(_) => None,
        None => toml::from_str(text).ok(),
    }
}

/// The one TOML value that a text is, from its first character to its last.
fn single(text: &str) -> Option<Value> {
    let text = text.trim();
    let mut alone = table(&format!("value = {text}"))?;
    // A comment behind the value would swallow the bracket, and another line is no element of a list.
    let listed = table(&format!("value = [{text}]"))?;
    let value = alone.remove("value").filter(|_| alone.is_empty())?;
    let is_one = listed.get("value").and_then(Value::as_array).is_some_and(|items| items.len() == 1);
    (is_one && listed.len() == 1 && is_finite(&value)).then_some(value)
}

/// `nan` and `inf` are no numbers for a module, and rather words.
fn is_finite(value: &Value) -> bool {
    match value {
        Value::Float(number) => number.is_finite(),
        Value::Array(items) => items.iter().all(is_finite),
        Value::Table(table) => table.values().all(is_finite),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = "[config]\nid = \"7\"\nnum = 1\nlist = [1]\nrelay = { token = \"t\", limit = 3 }\n";

    fn read(text: &str) -> Result<(String, Value), Failure> {
        let load = Load {
            bundle: PathBuf::new(),
            deny: Vec::new(),
            set: vec![Setting::from(text.to_owned())],
            extra_method: Vec::new(),
            component: None,
            adopt_state: false,
        };
        load.values(Some(MANIFEST)).map(|values| values.into_iter().next().unwrap())
    }

    fn value(text: &str) -> (String, Value) {
        read(text).unwrap()
    }

    fn string(text: &str) -> Value {
        Value::String(text.to_owned())
    }

    #[test]
    fn values_are_toml_or_else_strings() {
        assert_eq!(value("n=3"), ("n".to_owned(), Value::Integer(3)));
        assert_eq!(value("n= 3 ").1, Value::Integer(3));
        assert_eq!(value("flag=true").1, Value::Boolean(true));
        assert_eq!(value("url=https://a.b/?c=d").1, string("https://a.b/?c=d"));
        assert_eq!(value("text=\"3\"").1, string("3"));
        assert_eq!(value("text=\"# no comment\"").1, string("# no comment"));
        assert_eq!(value("l=[1, 2]").1, Value::Array(vec![Value::Integer(1), Value::Integer(2)]));
        assert_eq!(value("relay.limit=12").1, Value::Integer(12));
        assert_eq!(format!("{:?}", Setting::from("key=k3y".to_owned())), "key");
    }

    #[test]
    fn what_is_more_than_one_value_is_text() {
        for text in [
            "1\nmode=\"trap\"",
            "1 # c",
            "1 # c\n# d",
            "1,",
            "1, 2",
            "1]\nx = [2",
            "# c\n1",
            "\"a\" \"b\"",
            "",
            "nan",
            "-inf",
            "+nan",
            "[1.5, inf]",
            "{ a = nan }",
        ] {
            assert_eq!(value(&format!("new={text}")), ("new".to_owned(), string(text)));
        }
    }

    #[test]
    fn a_key_of_the_manifest_keeps_its_type() {
        for text in ["0012", "12", "\"12\"", " 1 ", "'q'", "a # b", "", "nan"] {
            assert_eq!(value(&format!("id={text}")).1, string(text));
        }
        assert_eq!(value("relay.token=12"), ("relay.token".to_owned(), string("12")));
        assert_eq!(value("num=-7").1, Value::Integer(-7));
        for (set, wanted) in [
            ("num=k3y", "--set num: the manifest has a value of type integer there"),
            ("num=\"7\"", "--set num: "),
            ("num=1.5", "--set num: "),
            ("num=", "--set num: "),
            ("list=1", "--set list: the manifest has a value of type array there"),
            ("relay=k3y", "--set relay: the manifest has a value of type table there"),
            ("relay.limit=true", "--set relay.limit: the manifest has a value of type integer there"),
        ] {
            let refused = read(set).unwrap_err();
            assert!(refused.code == 2 && refused.message.starts_with(wanted), "{refused}");
            assert!(!refused.message.contains("k3y"), "{refused}");
        }
    }

    #[test]
    fn a_key_is_there_and_has_no_quotes() {
        let refused = |text: &str| {
            let refused = read(text).unwrap_err();
            assert!(refused.code == 2 && !refused.message.contains("k3y"), "{refused}");
            refused.message
        };
        assert_eq!(refused("k3y"), "--set: expected KEY=VALUE, such as interval=30");
        for text in ["=1", " =1", "a.=k3y", ".k3y=1", "k3y..b=1"] {
            assert!(refused(text).starts_with("--set: nothing stands where the key belongs"), "{text}");
        }
        for text in ["\"k3y.ted\"=5", "'k3y'=1", "k3y\nb=1"] {
            assert!(refused(text).starts_with("--set: the key has quotes or control characters"), "{text}");
        }
    }

    #[test]
    fn a_component_is_a_digest() {
        let digits = "1f".repeat(32);
        assert_eq!(component(&format!("sha256:{digits}")), Ok(Hash([0x1f; 32])));
        for wrong in [&*digits, "sha256:1f", ""] {
            assert_eq!(component(wrong), Err("expected sha256: and 64 hex digits".to_owned()));
        }
    }
}
