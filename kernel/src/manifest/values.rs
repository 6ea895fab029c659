//! Values of a manifest that more than one of its tables has, and what a check of them finds.

use std::{fmt, ops::Range, time::Duration};

use nexum_host_ifaces::Hash;
use serde::{Deserialize, Deserializer, de};
use toml::Spanned;

/// What is wrong, at a byte range of the file.
pub(crate) type Finding = (Range<usize>, String);

/// A length of time as it is written; of its own type so that a bare number is told what to write instead.
pub(crate) struct Length(String);

impl<'de> Deserialize<'de> for Length {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl de::Visitor<'_> for Text {
            type Value = Length;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number with a unit, in quotes, such as \"5s\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Length, E> {
                Ok(Length(text.to_owned()))
            }
        }

        deserializer.deserialize_str(Text)
    }
}

pub(crate) fn duration(text: &Spanned<Length>) -> Result<Duration, Finding> {
    let written = &text.get_ref().0;
    humantime::parse_duration(written).map_err(|_| {
        let message =
            format!("`{written}` is not a duration: expected a number with a unit, such as \"10s\" or \"5m\"");
        (text.span(), message)
    })
}

pub(crate) fn positive<T: PartialEq + Default + Copy>(value: &Spanned<T>, what: &str) -> Result<T, Finding> {
    if *value.get_ref() == T::default() {
        return Err((value.span(), format!("{what} is 0: expected at least 1")));
    }
    Ok(*value.get_ref())
}

/// Whether a module or a library can have this name.
pub(super) fn is_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    // On a command line a name with `-` in front would be a flag.
    let at_end = name.starts_with('-') || name.ends_with('-');
    (1..=64).contains(&name.len()) && !at_end && name.chars().all(allowed)
}

pub(super) fn component(text: &Spanned<String>) -> Result<Hash, Finding> {
    let digits = text.get_ref().strip_prefix("sha256:").filter(|digits| digits.len() == 64);
    digits.and_then(|digits| digits.parse().ok()).ok_or_else(|| {
        let message = format!("component `{}`: expected \"sha256:\" and 64 hex digits", text.get_ref());
        (text.span(), message)
    })
}
