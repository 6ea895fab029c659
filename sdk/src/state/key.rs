//! How typed map keys become text whose byte order is the order of the keys.

use crate::{Error, Result};

/// A key of a [`Map`](super::Map). The text must not contain `/` unless nothing follows the key in a tuple.
pub trait Key: Sized {
    fn to_key(&self) -> String;

    /// # Errors
    /// `text` was not written by [`to_key`](Self::to_key).
    fn from_key(text: &str) -> Result<Self>;
}

impl Key for String {
    fn to_key(&self) -> String {
        self.clone()
    }

    fn from_key(text: &str) -> Result<Self> {
        Ok(text.to_owned())
    }
}

/// Zero-padded decimal, so that byte order is numeric order.
impl Key for u64 {
    fn to_key(&self) -> String {
        format!("{self:020}")
    }

    fn from_key(text: &str) -> Result<Self> {
        text.parse().map_err(|_| bad(text))
    }
}

/// Zero-padded decimal, so that byte order is numeric order.
impl Key for u32 {
    fn to_key(&self) -> String {
        format!("{self:010}")
    }

    fn from_key(text: &str) -> Result<Self> {
        text.parse().map_err(|_| bad(text))
    }
}

/// Lower-case hex without a prefix.
#[cfg(feature = "alloy")]
impl<const N: usize> Key for alloy_primitives::FixedBytes<N> {
    fn to_key(&self) -> String {
        crate::hex::encode(self)
    }

    fn from_key(text: &str) -> Result<Self> {
        Self::try_from(crate::hex::decode(text)?.as_slice()).map_err(|_| bad(text))
    }
}

/// Lower-case hex without a prefix or checksum.
#[cfg(feature = "alloy")]
impl Key for alloy_primitives::Address {
    fn to_key(&self) -> String {
        self.0.to_key()
    }

    fn from_key(text: &str) -> Result<Self> {
        Key::from_key(text).map(Self)
    }
}

impl<A: Key, B: Key> Key for (A, B) {
    fn to_key(&self) -> String {
        format!("{}/{}", self.0.to_key(), self.1.to_key())
    }

    fn from_key(text: &str) -> Result<Self> {
        let (first, second) = text.split_once('/').ok_or_else(|| bad(text))?;
        Ok((A::from_key(first)?, B::from_key(second)?))
    }
}

fn bad(text: &str) -> Error {
    Error::invalid_input(format!("`{text}` is not a key of this map"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_sort_as_numbers() {
        let mut keys = [u64::MAX, 10, 9, 100].map(|n| n.to_key());
        keys.sort();
        assert_eq!(keys.map(|key| u64::from_key(&key).unwrap()), [9, 10, 100, u64::MAX]);
    }

    #[test]
    fn tuples_round_trip() {
        let key = (7u64, "a/b".to_owned());
        assert_eq!(<(u64, String)>::from_key(&key.to_key()).unwrap(), key);
        assert!(<(u64, u32)>::from_key("12").is_err());
    }

    #[cfg(feature = "alloy")]
    #[test]
    fn addresses_round_trip() {
        use alloy_primitives::{Address, address};
        let token = address!("5FbDB2315678afecb367f032d93F642f64180aa3");
        assert_eq!(token.to_key(), "5fbdb2315678afecb367f032d93f642f64180aa3");
        assert_eq!(Address::from_key(&token.to_key()).unwrap(), token);
        assert!(Address::from_key("5fbd").is_err());
    }
}
