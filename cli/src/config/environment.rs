//! Settings that come from the environment: `NEXUM_SECTION__KEY`.

use figment::{
    Error, Figment, Metadata, Profile, Provider,
    error::{Actual, Kind},
    providers::Serialized,
    value::{Dict, Map, Value},
};

use super::{Config, Variables, source::Layer};

/// The name of the environment's values in figment's errors.
pub(super) const ENVIRONMENT: &str = "environment";
const PREFIX: &str = "NEXUM_";

/// `NEXUM_SECTION__KEY`. The double underscore keeps apart what container platforms put into the environment for a
/// service named nexum, such as `NEXUM_SERVICE_HOST`.
pub(super) struct Environment<'a>(pub &'a Variables);

/// The variable that sets a path.
pub(super) fn variable(path: &[String]) -> String {
    format!("{PREFIX}{}", path.join("__").replace('-', "_").to_uppercase())
}

/// Section and key that a variable sets, in small letters. No name of a variable has a hyphen.
fn setting(name: &str) -> Option<(String, String)> {
    let (section, key) = name.strip_prefix(PREFIX)?.split_once("__")?;
    Some((section.to_lowercase().replace('_', "-"), key.to_lowercase()))
}

/// The variable that set what stands at a path, if any did.
pub(super) fn set_by<'a>(variables: &'a Variables, path: &[String]) -> Option<&'a str> {
    let [section, key, ..] = path else { return None };
    let sets = |name: &&String| setting(name).is_some_and(|set| (&set.0, &set.1) == (section, key));
    // The last one wins.
    variables.keys().rev().find(sets).map(String::as_str)
}

impl Provider for Environment<'_> {
    fn metadata(&self) -> Metadata {
        Metadata::named(ENVIRONMENT)
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        let mut root = Dict::new();
        for (name, text) in self.0 {
            let Some((section, key)) = setting(name) else { continue };
            // What reads as a number or a list is one, as in the file, but where text is wanted: a token may be all
            // digits. Everything else is a string without quotes.
            let plain = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
            let value = match text.parse::<Value>() {
                Ok(Value::String(..)) | Err(_) => Value::from(plain),
                Ok(_) if takes_text(&section, &key, plain) => Value::from(plain),
                Ok(value) => value,
            };
            let section = root.entry(section).or_insert_with(|| Value::from(Dict::new()));
            if let Value::Dict(_, keys) = section {
                keys.insert(key, value);
            }
        }
        Ok(Map::from([(Profile::Default, root)]))
    }
}

/// Whether a key wants text, be this one right or wrong.
fn takes_text(section: &str, key: &str, text: &str) -> bool {
    let keys = Dict::from([(key.to_owned(), Value::from(text))]);
    let values = Dict::from([(section.to_owned(), Value::from(keys))]);
    let tried = Figment::from(Serialized::defaults(Config::default())).merge(Layer { name: "text", values });
    match tried.extract::<Config>() {
        Ok(_) => true,
        Err(error) => !matches!(error.kind, Kind::InvalidType(Actual::Str(_), _)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{
        super::{Flags, load, model::LogFormat},
        *,
    };

    #[test]
    fn text_stays_text_where_text_is_wanted() {
        assert!(takes_text("observability", "admin_token", "1234567890123456"));
        assert!(takes_text("engine", "log_level", "3") && takes_text("engine", "shutdown_deadline", "20"));
        assert!(!takes_text("limits", "max_state_bytes", "7") && !takes_text("engine", "pin_threads", "true"));
        assert!(!takes_text("journal", "entries", "7"));
    }

    #[test]
    fn environment_wins_over_the_file_and_flags_over_both() {
        let directory = tempfile::TempDir::new().unwrap();
        let file = directory.path().join("nexum-engine.toml");
        fs::write(&file, "[engine]\nlog_level = \"warn\"\nstate_dir = \"state\"\nlog_format = \"json\"\n").unwrap();
        let set = |pairs: &[(&str, &str)]| -> Variables {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let environment = set(&[
            ("NEXUM_ENGINE__LOG_LEVEL", "debug"),
            ("NEXUM_LIMITS__MAX_STATE_BYTES", "7"),
            ("NEXUM_SERVICE_HOST", "10.0.0.1"),
        ]);
        let config = load(Some(&file), &environment, &Flags::default()).unwrap();
        assert_eq!(config.engine.log_level, "debug");
        assert_eq!(config.engine.log_format, LogFormat::Json);
        assert_eq!(config.limits.max_state_bytes, Some(7));
        assert_eq!(config.engine.state_dir, directory.path().join("state"));
        assert_eq!(config.observability.admin_socket, Some(directory.path().join("state/admin.sock")));

        let flags = Flags { log_level: Some("trace".to_owned()), ..Flags::default() };
        assert_eq!(load(Some(&file), &environment, &flags).unwrap().engine.log_level, "trace");

        let error = load(None, &set(&[("NEXUM_ENGINE__STAT_DIR", "x")]), &Flags::default()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "environment variable NEXUM_ENGINE__STAT_DIR: unknown key, did you mean NEXUM_ENGINE__STATE_DIR?"
        );
        let error = load(None, &set(&[("NEXUM_LIMITS__MAX_STATE_BYTES", "much")]), &Flags::default()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "environment variable NEXUM_LIMITS__MAX_STATE_BYTES: expected a whole number, not a string"
        );
    }
}
