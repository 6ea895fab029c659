//! Lower-case hex without a prefix, for keys and log lines.

use crate::{Error, Result};

/// Two digits per byte, no `0x`.
pub fn encode(bytes: impl AsRef<[u8]>) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let bytes = bytes.as_ref();
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 0xf)]));
    }
    text
}

/// The bytes of a hex text, with or without `0x`, in either case.
///
/// # Errors
/// An odd number of digits, or a character that is none.
pub fn decode(text: &str) -> Result<Vec<u8>> {
    let digits = text.strip_prefix("0x").unwrap_or(text).as_bytes();
    if !digits.len().is_multiple_of(2) {
        return Err(Error::invalid_input(format!("`{text}` has an odd number of hex digits")));
    }
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|value| u8::try_from(value).ok())
            .ok_or_else(|| Error::invalid_input(format!("`{text}` is not hex")))
    };
    digits.chunks_exact(2).map(|pair| Ok(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        assert_eq!(encode([0x00, 0xab, 0xff]), "00abff");
        assert_eq!(decode("0x00ABff").unwrap(), [0x00, 0xab, 0xff]);
        assert_eq!(decode("").unwrap(), Vec::<u8>::new());
    }

    #[test]
    fn refusals() {
        assert!(decode("abc").is_err());
        assert!(decode("zz").is_err());
        assert!(decode("éé").is_err());
    }
}
