//! Encrypted chunks: each has a key of its own, which stands in the reference to it.
//!
//! Every 32 bytes are combined with `keccak256(keccak256(key ‖ counter))`, the counter little-endian in 4 bytes. That of the
//! payload begins at 0, that of the span where those of the payload's references would end. A payload is filled up to its
//! full size before it is encrypted, so that the span alone says how much of it is meant.

use alloy_primitives::keccak256;

use crate::{
    chunk::{Chunk, PAYLOAD_BYTES_MAX, SPAN_BYTES},
    reference::{Key, Reference},
};

/// The first counter of a span: a chunk has so many encrypted references.
const SPAN_COUNTER: u32 = 64;

/// Encrypts what is plain, and the other way round.
fn transform(key: &Key, first: u32, bytes: &mut [u8]) {
    for (counter, segment) in (first..).zip(bytes.chunks_mut(32)) {
        let mut seed = [0; 36];
        seed[..32].copy_from_slice(key);
        seed[32..].copy_from_slice(&counter.to_le_bytes());
        let mask = keccak256(keccak256(seed));
        segment.iter_mut().zip(mask.iter()).for_each(|(byte, mask)| *byte ^= mask);
    }
}

/// The span and the payload behind an encrypted chunk, the payload with what it was filled up with.
pub fn decrypt(chunk: &Chunk, key: &Key) -> ([u8; SPAN_BYTES], Vec<u8>) {
    let (mut span, mut payload) = (chunk.span, chunk.payload.clone());
    // Zeros at its end may have been left away.
    payload.resize(PAYLOAD_BYTES_MAX, 0);
    transform(key, SPAN_COUNTER, &mut span);
    transform(key, 0, &mut payload);
    (span, payload)
}

/// The encrypted chunk of a plain one and its reference. `filling` is what the payload is filled up with.
pub fn encrypt(plain: &Chunk, key: Key, filling: impl FnMut() -> u8) -> (Reference, Chunk) {
    let (mut span, mut payload) = (plain.span, plain.payload.clone());
    payload.resize_with(PAYLOAD_BYTES_MAX, filling);
    transform(&key, SPAN_COUNTER, &mut span);
    transform(&key, 0, &mut payload);
    let chunk = Chunk::new(u64::from_le_bytes(span), payload);
    (Reference { address: chunk.address, key: Some(key) }, chunk)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key and the first and last 32 bytes of what Bee's own test has for 4,096 zeros.
    #[test]
    fn zeros_become_what_bee_makes_of_them() {
        let mut key = [0; 32];
        hex::decode_to_slice("8abf1502f557f15026716030fb6384792583daf39608a3cd02ff2f47e9bc6e49", &mut key).unwrap();
        let plain = Chunk::new(4096, vec![0; 4096]);
        let (reference, chunk) = encrypt(&plain, key, || unreachable!("it is full"));
        assert_eq!(reference.key, Some(key));
        let hex = |at: usize| hex::encode(&chunk.payload[at..at + 32]);
        assert_eq!(hex(0), "352187af3a843decc63ceca6cb01ea39dbcf77caf0a8f705f5c30d557044ceec");
        assert_eq!(hex(32), "9392b94a79376f1e5c10cd0c0f2a98e5353bf22b3ea4fdac6677ee553dec192e");
        assert_eq!(hex(4064), "719f67da7bcc2fce073c01e87c62ea3cdbcd589cfc41281f2f4c757c742d6d1e");
        assert_eq!(decrypt(&chunk, &key), (plain.span, plain.payload));
    }
}
