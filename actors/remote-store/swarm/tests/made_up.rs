//! What strangers may write: bytes that are nothing, and trees whose chunks are right and whose spans are not. Nothing panics,
//! and what is asked for has an end that the bound on content sets.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::collections::HashMap;

use nexum_swarm::{Chunk, ChunkAddress, Reference, join::Join, node, soc};

/// A small generator with a fixed seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.below(256) as u8).collect()
    }
}

#[test]
fn bytes_of_strangers_are_read_or_refused() {
    let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
    for _ in 0..300 {
        let count = chance.below(4_300) as usize;
        let bytes = chance.bytes(count);
        assert!(Chunk::read(&bytes, &[0; 32]).is_err());
        assert!(soc::read(&bytes, &[0; 32], &[0; 20]).is_err());
        let of_named = [&[0; 32][..], &bytes].concat();
        assert!(soc::read(&of_named, &[0; 32], &[0; 20]).is_err());
        assert!(node::message(&bytes).chars().count() <= 200);
        assert_eq!((node::uploaded(&bytes), node::Batch::read(&bytes)), (None, None));
    }
}

#[test]
fn whatever_spans_a_tree_claims_a_download_ends_within_its_bound() {
    const BYTES_MAX: usize = 40 * 4_096;
    let mut chance = Chance(0x2545_f491_4f6c_dd1d);
    let spans = [0, 1, 4_095, 4_096, 4_097, 8_192, 8_193, 3 * 4_096, 64 * 4_096, 1 << 40, u64::MAX, u64::MAX >> 1];
    let (mut read, mut refused) = (0, 0);
    for _ in 0..400 {
        let size = if chance.below(2) == 0 { 32 } else { 64 };
        let mut chunks: HashMap<ChunkAddress, Chunk> = HashMap::new();
        let mut references = vec![vec![7; size]];
        for _ in 0..12 {
            let count = chance.below(6) as usize;
            let payload: Vec<u8> = match chance.below(3) {
                0 => chance.bytes(count * 700),
                _ => {
                    let any = |_| references[chance.below(references.len() as u64) as usize].clone();
                    (0..count).flat_map(any).collect()
                }
            };
            let span = match chance.below(2) {
                0 => spans[chance.below(spans.len() as u64) as usize],
                _ => (payload.len() as u64 / 32).max(1) * 4_096 - chance.below(4_096),
            };
            let chunk = Chunk::new(span, payload);
            let key = (size == 64).then_some([0; 32]);
            references.push(Reference { address: chunk.address, key }.to_bytes());
            chunks.insert(chunk.address, chunk);
        }
        for reference in &references {
            let mut join = Join::new(Reference::of_bytes(reference).unwrap(), BYTES_MAX);
            let mut asked = 0;
            let ended = loop {
                let Some(address) = join.ask() else { break join.finish().is_some() };
                asked += 1;
                assert!(asked <= 200, "more than a tree of that size has");
                // A chunk that nobody has, as a node would say.
                let Some(chunk) = chunks.get(&address) else { break false };
                if join.take(chunk).is_err() {
                    break false;
                }
            };
            if ended { read += 1 } else { refused += 1 }
        }
    }
    assert!(read > 0 && refused > 0, "{read} read, {refused} refused");
}
