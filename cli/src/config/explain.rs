//! Turns figment's error into one line that says where and what would be right.

use figment::{
    Error,
    error::{Actual, Kind},
};
use nexum_host_ifaces::secrets::{holds_secret, veiled};

use super::{
    ConfigError,
    environment::{ENVIRONMENT, variable},
    source::File,
};

/// How alike a key must be to be offered: a letter or two apart.
const ALIKE_MIN: f64 = 0.8;

pub(super) fn explain(file: &File, error: Error) -> ConfigError {
    // One error per line would be possible; the first one is the one to look at.
    let Some(error) = error.into_iter().next() else { return ConfigError("the configuration is wrong".to_owned()) };
    let mut path = error.path.clone();
    let from_environment = error.metadata.as_ref().is_some_and(|metadata| metadata.name == ENVIRONMENT);
    // Which of the environment's values are secret, nobody says.
    let hidden = from_environment || file.hides(&path);
    let sibling = |path: &[String], name: &str| {
        let mut sibling = path.to_vec();
        sibling.pop();
        sibling.push(name.to_owned());
        if from_environment { variable(&sibling) } else { name.to_owned() }
    };
    let message = match &error.kind {
        Kind::UnknownField(field, known) => {
            if path.last() != Some(field) {
                path.push(field.clone());
            }
            match alike(field, known) {
                Some(name) => format!("unknown key, did you mean {}?", sibling(&path, name)),
                None => format!("unknown key; known are {}", known.join(", ")),
            }
        }
        Kind::UnknownVariant(value, known) => match alike(value, known) {
            _ if hidden || holds_secret(value) => format!("unknown value; known are {}", known.join(", ")),
            Some(name) => format!("unknown value `{value}`, did you mean `{name}`?"),
            None => format!("unknown value `{value}`; known are {}", known.join(", ")),
        },
        Kind::MissingField(field) => format!("{field} is missing"),
        Kind::InvalidType(actual, expected) | Kind::InvalidValue(actual, expected) => {
            format!("expected {}, not {}", wanted(expected), found(actual, hidden))
        }
        other => veiled(&other.to_string(), hidden).into_owned(),
    };
    if from_environment {
        return ConfigError(format!("environment variable {}: {message}", variable(&path)));
    }
    ConfigError(file.located(&path, &message))
}

fn alike<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let scored = known.iter().map(|known| (strsim::jaro_winkler(name, known), *known));
    scored.filter(|(score, _)| *score >= ALIKE_MIN).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, known)| known)
}

/// What serde expects, in words that an operator knows.
fn wanted(expected: &str) -> &str {
    match expected {
        "u16" | "u32" | "u64" | "usize" => "a whole number",
        "path string" => "a path as a string",
        expected if expected.starts_with("struct ") || expected == "a map" => "a table",
        "a sequence" => "a list",
        expected => expected,
    }
}

/// What was there; of a value that may be secret only what kind of value it is.
fn found(actual: &Actual, hidden: bool) -> String {
    match actual {
        Actual::Str(text) if hidden || holds_secret(text) => "a string".to_owned(),
        Actual::Bool(_) | Actual::Unsigned(_) | Actual::Signed(_) | Actual::Float(_) if hidden => {
            "a number or a boolean".to_owned()
        }
        Actual::Str(text) => format!("the string {text:?}"),
        Actual::Bool(flag) => flag.to_string(),
        Actual::Unsigned(number) => number.to_string(),
        Actual::Signed(number) => number.to_string(),
        Actual::Float(number) => number.to_string(),
        Actual::Seq => "a list".to_owned(),
        Actual::Map => "a table".to_owned(),
        other if hidden => kind(other).to_owned(),
        other => other.to_string(),
    }
}

/// The kinds whose display has the value in it.
fn kind(actual: &Actual) -> &'static str {
    match actual {
        Actual::Char(_) | Actual::Bytes(_) => "a string",
        _ => "another kind of value",
    }
}
