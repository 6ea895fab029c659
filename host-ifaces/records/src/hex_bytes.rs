//! Fixed-size byte strings that read and print as 0x-hex: hashes, addresses, keys and signatures.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

macro_rules! hex_bytes {
    ($(#[$doc:meta])* $name:ident, $len:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl Default for $name {
            fn default() -> Self {
                Self([0; $len])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "0x{}", hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                let digits = text.strip_prefix("0x").unwrap_or(text);
                let mut bytes = [0; $len];
                hex::decode_to_slice(digits, &mut bytes)
                    .map_err(|_| format!("`{text}` is not {}: expected 0x and {} hex digits", $what, $len * 2))?;
                Ok(Self(bytes))
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = String;

            fn try_from(bytes: &[u8]) -> Result<Self, String> {
                bytes.try_into().map(Self).map_err(|_| format!("{} bytes are not {}", bytes.len(), $what))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    serializer.serialize_bytes(&self.0)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                use serde::de::Error;
                if deserializer.is_human_readable() {
                    let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                    text.parse().map_err(D::Error::custom)
                } else {
                    struct Bytes;

                    impl serde::de::Visitor<'_> for Bytes {
                        type Value = $name;

                        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                            f.write_str($what)
                        }

                        fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<$name, E> {
                            $name::try_from(bytes).map_err(E::custom)
                        }
                    }

                    deserializer.deserialize_bytes(Bytes)
                }
            }
        }
    };
}

hex_bytes!(
    /// A 32-byte hash: of a block, a transaction, a component, a journal entry, or a log topic.
    Hash, 32, "a 32-byte hash");
hex_bytes!(
    /// A 20-byte account or contract address.
    Address, 20, "a 20-byte address");
hex_bytes!(
    /// An ed25519 public key: names an engine.
    PublicKey, 32, "a 32-byte public key");
hex_bytes!(
    /// An ed25519 signature.
    Signature, 64, "a 64-byte signature");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_prints_and_says_what_is_wrong() {
        let address: Address = "0x5FbDB2315678afecb367f032d93F642f64180aa3".parse().unwrap();
        assert_eq!(address.to_string(), "0x5fbdb2315678afecb367f032d93f642f64180aa3");
        let packed = postcard::to_stdvec(&address).unwrap();
        assert_eq!(postcard::from_bytes::<Address>(&packed).unwrap(), address);
        let error = "0x12".parse::<Hash>().unwrap_err();
        assert_eq!(error, "`0x12` is not a 32-byte hash: expected 0x and 64 hex digits");
    }
}
