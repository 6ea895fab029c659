//! Encoding of what the engine itself has made, for digests and for comparing.

use std::any::type_name;

use serde::Serialize;

/// The bytes of a value, as the store keeps it.
///
/// # Panics
/// When the value cannot be encoded. That cannot be: it is plain data with derived encodings, whose lists know how long they
/// are. Nothing in the place of its bytes would make everything that cannot be encoded look the same, in digests that
/// engines compare and that receipts cover.
pub fn encoded<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    match postcard::to_stdvec(value) {
        Ok(bytes) => bytes,
        Err(error) => panic!("a value of type `{}` cannot be encoded: {error}", type_name::<T>()),
    }
}

#[cfg(test)]
mod tests {
    use serde::{Serializer, ser::Error as _};

    use super::*;

    struct Unencodable;

    impl Serialize for Unencodable {
        fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(S::Error::custom("it has no bytes"))
        }
    }

    #[test]
    #[should_panic(expected = "Unencodable` cannot be encoded")]
    fn what_cannot_be_encoded_is_not_taken_for_nothing() {
        encoded(&Unencodable);
    }
}
