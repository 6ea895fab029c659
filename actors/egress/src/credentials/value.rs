//! A secret as it is held in memory: overwritten when it is dropped, and shown by nobody.

use std::fmt;

use zeroize::Zeroizing;

/// Of a secret. The longest that are in use are signed tokens with a few dozen claims.
pub const VALUE_BYTES_MAX: usize = 4096;

/// A secret: a text that fits into a header and a URL, or the bytes of a key.
#[derive(Clone)]
pub struct Value(Zeroizing<Vec<u8>>);

impl Value {
    /// A text that a header can have.
    ///
    /// # Errors
    /// What is wrong with it, without it.
    pub fn text(bytes: Vec<u8>) -> Result<Self, String> {
        let value = Self::key(bytes)?;
        let text = std::str::from_utf8(&value.0).map_err(|_| "is no UTF-8: expected text".to_owned())?;
        if text.chars().any(char::is_control) {
            return Err("has a control character, such as the end of a line: neither a header nor a URL can".to_owned());
        }
        if text.trim() != text {
            return Err("begins or ends with a blank, which no header keeps and no secret has: leave it out".to_owned());
        }
        Ok(value)
    }

    /// Any bytes, as the key of a signature may be.
    ///
    /// # Errors
    /// What is wrong with them, without them.
    pub fn key(bytes: Vec<u8>) -> Result<Self, String> {
        let bytes = Zeroizing::new(bytes);
        match bytes.len() {
            0 => Err("is empty: expected a secret".to_owned()),
            1..=VALUE_BYTES_MAX => Ok(Self(bytes)),
            _ => Err(format!("has more than {VALUE_BYTES_MAX} bytes: expected at most as many")),
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The text that it was made of; none for the key of a signature that is no text.
    pub(super) fn as_text(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_header_can_have_is_refused_and_never_repeated() {
        let text = |text: &str| Value::text(text.as_bytes().to_vec()).map(|value| format!("{value:?}"));
        assert_eq!(text("Bearer k3y \u{fc}"), Ok("***".to_owned()));
        for (wrong, said) in [("", "is empty"), ("k3y\r\nHost: b", "control character"), ("k3y\0", "control character")]
        {
            let error = text(wrong).unwrap_err();
            assert!(error.contains(said) && !error.contains("k3y"), "{error}");
        }
        for wrong in [" k3y", "k3y ", "k3y\u{a0}", " "] {
            let error = text(wrong).unwrap_err();
            assert!(error.starts_with("begins or ends with a blank") && !error.contains("k3y"), "{error}");
        }
        assert!(Value::text(vec![b'k', 0xff]).unwrap_err().starts_with("is no UTF-8"));
        assert!(Value::text(vec![b'k'; VALUE_BYTES_MAX]).is_ok());
        assert!(Value::key(vec![b'k'; VALUE_BYTES_MAX + 1]).unwrap_err().starts_with("has more than 4096 bytes"));
        assert!(Value::key(vec![0, 0xff, b'\n']).is_ok());
    }
}
