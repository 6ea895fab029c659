//! References: what content is asked for by.

use crate::chunk::ChunkAddress;

/// The key of one encrypted chunk.
pub type Key = [u8; 32];

/// The address of a tree's root, and the key of that chunk where the tree is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reference {
    pub address: ChunkAddress,
    pub key: Option<Key>,
}

impl Reference {
    pub const BYTES: usize = 32;
    pub const ENCRYPTED_BYTES: usize = 64;

    /// Of 32 bytes, or 64 with a key; none of others.
    pub fn of_bytes(bytes: &[u8]) -> Option<Self> {
        let (address, key) = bytes.split_first_chunk()?;
        match key.is_empty() {
            true => Some(Self { address: *address, key: None }),
            false => Some(Self { address: *address, key: Some(key.try_into().ok()?) }),
        }
    }

    pub fn to_bytes(self) -> Vec<u8> {
        let mut bytes = self.address.to_vec();
        bytes.extend(self.key.iter().flatten());
        bytes
    }

    /// What each of the references below has.
    pub(crate) fn size(&self) -> usize {
        if self.key.is_some() { Self::ENCRYPTED_BYTES } else { Self::BYTES }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_has_32_or_64_bytes() {
        for bytes in [0, 31, 33, 63, 65, 96] {
            assert_eq!(Reference::of_bytes(&vec![1; bytes]), None, "{bytes}");
        }
        for bytes in [32, 64] {
            let read = Reference::of_bytes(&vec![1; bytes]).unwrap();
            assert_eq!((read.to_bytes(), read.size()), (vec![1; bytes], bytes));
        }
    }
}
