//! Chunks that were read, kept to be read again: whatever is under an address stays the same for ever.
//!
//! Invariant: no more bytes than the operator allows, what an entry itself takes included. The one that was not used for the
//! longest time goes first.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
};

use nexum_host_ifaces::sync::lock;
use nexum_swarm::{Chunk, ChunkAddress};

/// What an entry takes besides its payload, about, bytes.
const ENTRY_BYTES: usize = 256;

#[derive(Debug, Default)]
struct Kept {
    chunks: HashMap<ChunkAddress, (Arc<Chunk>, u64)>,
    /// When each was used last, by a counter.
    used: BTreeMap<u64, ChunkAddress>,
    bytes: usize,
    uses: u64,
}

#[derive(Debug)]
pub struct Cache {
    bytes_max: usize,
    kept: Mutex<Kept>,
}

fn taken(chunk: &Chunk) -> usize {
    chunk.payload.len() + ENTRY_BYTES
}

impl Cache {
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes_max, kept: Mutex::default() }
    }

    pub fn get(&self, address: &ChunkAddress) -> Option<Arc<Chunk>> {
        let mut kept = lock(&self.kept);
        let Kept { chunks, used, uses, .. } = &mut *kept;
        let (chunk, last) = chunks.get_mut(address)?;
        used.remove(last);
        *uses += 1;
        *last = *uses;
        used.insert(*uses, *address);
        Some(chunk.clone())
    }

    pub fn put(&self, chunk: &Arc<Chunk>) {
        if taken(chunk) > self.bytes_max {
            return;
        }
        let mut kept = lock(&self.kept);
        let Kept { chunks, used, bytes, uses } = &mut *kept;
        *uses += 1;
        if let Some((known, last)) = chunks.insert(chunk.address, (chunk.clone(), *uses)) {
            used.remove(&last);
            *bytes -= taken(&known);
        }
        used.insert(*uses, chunk.address);
        *bytes += taken(chunk);
        while *bytes > self.bytes_max
            && let Some((_, oldest)) = used.pop_first()
        {
            let Some((gone, _)) = chunks.remove(&oldest) else { unreachable!("used, and not there") };
            *bytes -= taken(&gone);
        }
    }

    pub fn bytes(&self) -> u64 {
        lock(&self.kept).bytes as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_used_for_the_longest_time_goes_first() {
        let chunk = |byte: u8| Arc::new(Chunk::new(1_000, vec![byte; 1_000]));
        let [a, b, c] = [1, 2, 3].map(chunk);
        let cache = Cache::new(2 * (1_000 + ENTRY_BYTES));
        cache.put(&a);
        cache.put(&b);
        assert_eq!(cache.get(&a.address), Some(a.clone()));
        cache.put(&c);
        assert_eq!((cache.get(&a.address), cache.get(&b.address)), (Some(a.clone()), None));
        cache.put(&a);
        assert_eq!(cache.bytes(), 2 * (1_000 + ENTRY_BYTES) as u64);
        let none = Cache::new(1_000);
        none.put(&a);
        assert_eq!((none.get(&a.address), none.bytes()), (None, 0));
    }
}
