//! Chunks and their addresses: a binary Merkle tree over 128 segments of 32 bytes, and the span before its root.

use alloy_primitives::keccak256;

use crate::Corrupt;

/// What a chunk carries at most.
pub const PAYLOAD_BYTES_MAX: usize = 4096;
/// The span: how many bytes of content are at and below a chunk, little-endian.
pub const SPAN_BYTES: usize = 8;
const SEGMENT_BYTES: usize = 32;

pub type ChunkAddress = [u8; 32];

/// A chunk whose address is known to be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    pub address: ChunkAddress,
    pub span: [u8; SPAN_BYTES],
    pub payload: Vec<u8>,
}

impl Chunk {
    /// A chunk of content.
    ///
    /// # Panics
    /// With more than `PAYLOAD_BYTES_MAX` bytes: whoever makes chunks cuts them.
    pub fn new(span: u64, payload: Vec<u8>) -> Self {
        let span = span.to_le_bytes();
        Self { address: address(&span, &payload), span, payload }
    }

    /// What a node sent for an address.
    ///
    /// # Errors
    /// That it is something else.
    pub fn read(wire: &[u8], expected: &ChunkAddress) -> Result<Self, Corrupt> {
        let chunk = Self::read_any(wire)?;
        if chunk.address == *expected { Ok(chunk) } else { Err(Corrupt::Address) }
    }

    /// A chunk with the address that its bytes have.
    pub(crate) fn read_any(wire: &[u8]) -> Result<Self, Corrupt> {
        let (span, payload) = wire.split_first_chunk::<SPAN_BYTES>().ok_or(Corrupt::Size(wire.len()))?;
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(Corrupt::Size(wire.len()));
        }
        Ok(Self { address: address(span, payload), span: *span, payload: payload.to_vec() })
    }

    /// How many bytes of content are at and below it.
    pub fn span(&self) -> u64 {
        u64::from_le_bytes(self.span)
    }

    /// As it goes over the wire.
    pub fn wire(&self) -> Vec<u8> {
        [&self.span[..], &self.payload].concat()
    }
}

/// The address of a chunk with this span and payload.
///
/// # Panics
/// With more than `PAYLOAD_BYTES_MAX` bytes.
pub fn address(span: &[u8; SPAN_BYTES], payload: &[u8]) -> ChunkAddress {
    assert!(payload.len() <= PAYLOAD_BYTES_MAX, "a chunk of {} bytes", payload.len());
    // What a payload does not fill counts as zeros.
    let mut level = [0; PAYLOAD_BYTES_MAX];
    level[..payload.len()].copy_from_slice(payload);
    let mut bytes = PAYLOAD_BYTES_MAX;
    while bytes > SEGMENT_BYTES {
        for at in (0..bytes).step_by(2 * SEGMENT_BYTES) {
            let hash = keccak256(&level[at..at + 2 * SEGMENT_BYTES]);
            level[at / 2..at / 2 + SEGMENT_BYTES].copy_from_slice(&hash[..]);
        }
        bytes /= 2;
    }
    let mut rooted = [0; SPAN_BYTES + SEGMENT_BYTES];
    rooted[..SPAN_BYTES].copy_from_slice(span);
    rooted[SPAN_BYTES..].copy_from_slice(&level[..SEGMENT_BYTES]);
    keccak256(rooted).0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_taken_for_its_own_address_alone() {
        let chunk = Chunk::new(5, b"hello".to_vec());
        assert_eq!(Chunk::read(&chunk.wire(), &chunk.address), Ok(chunk.clone()));
        for at in 0..chunk.wire().len() {
            let mut wire = chunk.wire();
            wire[at] ^= 1;
            assert_eq!(Chunk::read(&wire, &chunk.address), Err(Corrupt::Address), "byte {at}");
        }
        // Zeros at the end are not told apart by the tree, and the span does not change with them.
        let longer = [&chunk.wire()[..], &[0]].concat();
        assert!(Chunk::read(&longer, &chunk.address).is_ok());
        assert_eq!(Chunk::read(&[0; 7], &chunk.address), Err(Corrupt::Size(7)));
        assert_eq!(Chunk::read(&[0; 8 + 4097], &chunk.address), Err(Corrupt::Size(8 + 4097)));
    }
}
