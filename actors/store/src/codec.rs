//! How records become bytes: postcard behind one format byte, so that a later layout can be told apart.

use nexum_host_ifaces::store::StoreError;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const LAYOUT: u8 = 1;

/// Bytes that postcard copies as a whole; a `Vec<u8>` it would write one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Raw<'a>(pub &'a [u8]);

impl Serialize for Raw<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Raw<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <&'a [u8]>::deserialize(deserializer).map(Self)
    }
}

/// Encodes into a buffer that is used again.
pub(crate) fn encode<'a, T: Serialize>(value: &T, buffer: &'a mut Vec<u8>) -> Result<&'a [u8], StoreError> {
    let mut taken = std::mem::take(buffer);
    taken.clear();
    taken.push(LAYOUT);
    *buffer =
        postcard::to_extend(value, taken).map_err(|error| StoreError::Failed(format!("cannot encode: {error}")))?;
    Ok(buffer)
}

pub(crate) fn encode_vec<T: Serialize>(value: &T) -> Result<Vec<u8>, StoreError> {
    let mut buffer = Vec::new();
    encode(value, &mut buffer)?;
    Ok(buffer)
}

fn body<'a>(bytes: &'a [u8], what: &str) -> Result<&'a [u8], StoreError> {
    match bytes.split_first() {
        Some((&LAYOUT, body)) => Ok(body),
        Some((other, _)) => Err(StoreError::Failed(format!("{what} has layout {other}, known is {LAYOUT}"))),
        None => Err(StoreError::Failed(format!("{what} is empty"))),
    }
}

/// A record, or what it begins with, which may borrow from the bytes. `what` names the record in errors.
pub(crate) fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8], what: &str) -> Result<T, StoreError> {
    let damaged = |error| StoreError::Failed(format!("{what} cannot be read: {error}"));
    postcard::from_bytes(body(bytes, what)?).map_err(damaged)
}

#[cfg(test)]
mod tests {
    use nexum_host_ifaces::store::ModuleRecord;

    use super::*;

    #[test]
    fn unknown_layouts_and_cut_records_are_refused_by_name() {
        let mut bytes = encode_vec(&ModuleRecord::default()).unwrap();
        assert_eq!(decode::<ModuleRecord>(&bytes, "x").unwrap(), ModuleRecord::default());
        let cut = decode::<ModuleRecord>(&bytes[..3], "the record of `m`").unwrap_err();
        assert!(cut.to_string().starts_with("store: the record of `m` cannot be read"), "{cut}");
        bytes[0] = 9;
        let newer = decode::<ModuleRecord>(&bytes, "x").unwrap_err();
        assert_eq!(newer.to_string(), "store: x has layout 9, known is 1");
        assert!(decode::<ModuleRecord>(&[], "x").is_err());
    }
}
