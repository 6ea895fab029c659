//! `${secret:NAME}`: where it stands in a text, and how a secret is written in its place.
//!
//! What stands for a secret is read in the text as the module gave it. A module that encodes the texts of strangers, as a
//! query or a part of a path has to be, can take them for no placeholder: their `$`, `{` and `}` are encoded.

use std::borrow::Cow;

use nexum_host_ifaces::{HostError, HostErrorKind};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// How a placeholder begins.
pub(super) const OPENING: &str = "${secret:";
/// Of a name.
pub const NAME_BYTES_MAX: usize = 64;

/// What RFC 3986 leaves as it is in every part of a URL, but for letters and digits.
const IN_QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// The same in a path, with the slashes between its parts.
const IN_PATH: &AsciiSet = &IN_QUERY
    .remove(b'/')
    .remove(b':')
    .remove(b'@')
    .remove(b'!')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b'+')
    .remove(b',')
    .remove(b';')
    .remove(b'=');

/// A piece of a text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    Text(&'a str),
    /// A placeholder with this name.
    Secret(&'a str),
    /// The beginning of a placeholder that has no name, or no end.
    Broken,
}

struct Pieces<'a>(&'a str);

impl<'a> Iterator for Pieces<'a> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Piece<'a>> {
        if self.0.is_empty() {
            return None;
        }
        let Some(after) = self.0.strip_prefix(OPENING) else {
            let (text, rest) = self.0.split_at(self.0.find(OPENING).unwrap_or(self.0.len()));
            self.0 = rest;
            return Some(Piece::Text(text));
        };
        let end = after.bytes().take(NAME_BYTES_MAX + 1).position(|byte| byte == b'}');
        match end.filter(|end| is_name(&after.as_bytes()[..*end])) {
            Some(end) => {
                self.0 = &after[end + 1..];
                Some(Piece::Secret(&after[..end]))
            }
            None => {
                self.0 = after;
                Some(Piece::Broken)
            }
        }
    }
}

/// Whether a secret can have this name.
pub fn is_name(name: &[u8]) -> bool {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.iter().all(is_part)
}

/// Whether a placeholder, or the beginning of one, stands in a text.
pub(super) fn is_in(text: &str) -> bool {
    text.contains(OPENING)
}

/// The text with each of its pieces as `write` writes it.
///
/// # Errors
/// Those of `write`, and `invalid-input` for what gets larger than `bytes_max`, as soon as it does.
pub(super) fn filled<'a>(
    text: &'a str,
    bytes_max: usize,
    mut write: impl FnMut(&mut String, Piece<'a>) -> Result<(), HostError>,
) -> Result<String, HostError> {
    let mut filled = String::with_capacity(text.len());
    for piece in Pieces(text) {
        write(&mut filled, piece)?;
        if filled.len() > bytes_max {
            let message = format!("with its secrets it is larger than {bytes_max} bytes");
            return Err(HostError::new("http", HostErrorKind::InvalidInput, message));
        }
    }
    Ok(filled)
}

/// A secret as it is written into a URL. In a path its slashes stay, because secrets such as `T0/B0/x` are several parts of
/// one. In a query it is one value, whatever it has.
pub(super) fn encoded(value: &str, is_query: bool) -> Cow<'_, str> {
    utf8_percent_encode(value, if is_query { IN_QUERY } else { IN_PATH }).into()
}

pub(super) fn denied(message: impl Into<String>) -> HostError {
    HostError::new("http", HostErrorKind::Denied, message)
}

/// What is said of the beginning of a placeholder that is none.
pub(super) fn broken() -> HostError {
    denied("`${secret:` without a name and `}`: expected `${secret:NAME}`, NAME as an [[egress.credentials]] has it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_found_in_the_text_as_it_is_given() {
        let pieces = |text: &'static str| Pieces(text).collect::<Vec<_>>();
        let (text, secret) = (Piece::Text, Piece::Secret);
        assert_eq!(pieces(""), []);
        assert_eq!(pieces("a$b{c}"), [text("a$b{c}")]);
        assert_eq!(pieces("${secret:a}"), [secret("a")]);
        assert_eq!(
            pieces("x${secret:a-b_c.9}${secret:b}\u{fc}"),
            [text("x"), secret("a-b_c.9"), secret("b"), text("\u{fc}")]
        );
        for broken in ["${secret:}", "${secret:a b}", "${secret:a", "${secret:", "${secret:\u{fc}}"] {
            assert_eq!(Pieces(broken).next(), Some(Piece::Broken), "{broken}");
        }
        assert_eq!(pieces("${secret:${secret:a}"), [Piece::Broken, secret("a")]);
        let long = format!("${{secret:{}}}", "a".repeat(NAME_BYTES_MAX));
        assert_eq!(Pieces(&long).count(), 1);
        assert_eq!(Pieces(&long.replace('}', "a}")).next(), Some(Piece::Broken));
        // What is encoded, or another word, is a text.
        for plain in ["$%7Bsecret:a%7D", "%24{secret:a}", "${SECRET:a}", "${secret :a}", "$ {secret:a}"] {
            assert!(!is_in(plain), "{plain}");
        }
    }

    #[test]
    fn a_secret_is_written_as_the_place_needs_it() {
        for (value, path, query) in [
            ("T0/B0/x-Y_z~.9", "T0/B0/x-Y_z~.9", "T0%2FB0%2Fx-Y_z~.9"),
            ("123:AB", "123:AB", "123%3AAB"),
            ("a b?c#d%2F&e=f+g\\", "a%20b%3Fc%23d%252F&e=f+g%5C", "a%20b%3Fc%23d%252F%26e%3Df%2Bg%5C"),
            ("\u{fc}\"<{`", "%C3%BC%22%3C%7B%60", "%C3%BC%22%3C%7B%60"),
        ] {
            assert_eq!((&*encoded(value, false), &*encoded(value, true)), (path, query));
        }
    }

    #[test]
    fn what_grows_past_its_bound_is_refused_as_soon_as_it_does() {
        let text = "${secret:a}".repeat(1_000);
        let mut written = 0;
        let filled = filled(&text, 100, |out, _| {
            written += 1;
            out.push_str("0123456789");
            Ok(())
        });
        assert_eq!(filled.unwrap_err().message, "with its secrets it is larger than 100 bytes");
        assert_eq!(written, 11);
    }
}
