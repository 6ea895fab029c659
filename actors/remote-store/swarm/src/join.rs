//! Content made out of its chunks, which may come in any order.
//!
//! Invariant: how much is asked for and kept follows from the root's span, which is held against a bound before anything is.
//! Every chunk below has to have the span that its place in the tree leaves for it.

use std::{borrow::Cow, collections::HashMap};

use crate::{
    Unreadable,
    chunk::{Chunk, ChunkAddress, PAYLOAD_BYTES_MAX, SPAN_BYTES},
    encryption,
    reference::Reference,
};

const LEAF_BYTES: u64 = PAYLOAD_BYTES_MAX as u64;

/// A chunk whose place is known.
#[derive(Debug, Clone, Copy)]
struct Place {
    reference: Reference,
    offset: usize,
    /// What it has to span; the root says it itself.
    bytes: Option<usize>,
}

/// Content of which some chunks are still to come.
#[derive(Debug)]
pub struct Join {
    bytes_max: usize,
    data: Vec<u8>,
    /// Not asked for yet. The last comes first: so what is open at once does not grow with the content.
    open: Vec<Place>,
    /// Asked for; the same chunk may stand in several places.
    asked: HashMap<ChunkAddress, Vec<Place>>,
}

impl Join {
    /// The content behind a reference, at most so many bytes.
    pub fn new(reference: Reference, bytes_max: usize) -> Self {
        let root = Place { reference, offset: 0, bytes: None };
        Self { bytes_max, data: Vec::new(), open: vec![root], asked: HashMap::new() }
    }

    /// The content below a chunk that is there already.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub fn below(root: &Chunk, bytes_max: usize) -> Result<Self, Unreadable> {
        let reference = Reference { address: root.address, key: None };
        let mut join = Self { bytes_max, data: Vec::new(), open: Vec::new(), asked: HashMap::new() };
        join.put(Place { reference, offset: 0, bytes: None }, root)?;
        Ok(join)
    }

    /// The next chunk to ask for, if there is any that has not been.
    pub fn ask(&mut self) -> Option<ChunkAddress> {
        loop {
            let place = self.open.pop()?;
            let address = place.reference.address;
            let places = self.asked.entry(address).or_default();
            places.push(place);
            if places.len() == 1 {
                return Some(address);
            }
        }
    }

    /// A chunk that was asked for has come.
    ///
    /// # Errors
    /// Why the content cannot be read.
    ///
    /// # Panics
    /// When nobody asked for it.
    pub fn take(&mut self, chunk: &Chunk) -> Result<(), Unreadable> {
        let places = self.asked.remove(&chunk.address);
        let Some(places) = places else { unreachable!("a chunk that nobody asked for") };
        places.into_iter().try_for_each(|place| self.put(place, chunk))
    }

    /// The content, once every chunk has come.
    pub fn finish(self) -> Option<Vec<u8>> {
        (self.open.is_empty() && self.asked.is_empty()).then_some(self.data)
    }

    fn put(&mut self, place: Place, chunk: &Chunk) -> Result<(), Unreadable> {
        let opened;
        let (span, payload) = match &place.reference.key {
            None => (chunk.span, chunk.payload.as_slice()),
            Some(key) => {
                opened = encryption::decrypt(chunk, key);
                (opened.0, opened.1.as_slice())
            }
        };
        let bytes = match place.bytes {
            Some(bytes) if u64::from_le_bytes(span) != bytes as u64 => return Err(Unreadable::NoTree),
            Some(bytes) => bytes,
            None => self.begin(span)?,
        };
        if bytes <= PAYLOAD_BYTES_MAX {
            let content = meant(payload, bytes, place.reference.key.is_some())?;
            self.data[place.offset..place.offset + bytes].copy_from_slice(&content);
            return Ok(());
        }
        self.branch(place, bytes, payload)
    }

    /// The root says how much there is.
    fn begin(&mut self, span: [u8; SPAN_BYTES]) -> Result<usize, Unreadable> {
        // A level of redundancy stands in the highest byte; no content is that large.
        if span[SPAN_BYTES - 1] & 0x80 != 0 {
            return Err(Unreadable::ErasureCodes);
        }
        let bytes = u64::from_le_bytes(span);
        let fits = usize::try_from(bytes).ok().filter(|fits| *fits <= self.bytes_max);
        let fits = fits.ok_or(Unreadable::TooLarge { bytes, bytes_max: self.bytes_max })?;
        self.data = vec![0; fits];
        Ok(fits)
    }

    fn branch(&mut self, place: Place, bytes: usize, payload: &[u8]) -> Result<(), Unreadable> {
        let size = place.reference.size();
        let child_max = child_bytes_max(bytes as u64, (PAYLOAD_BYTES_MAX / size) as u64);
        let child_max = usize::try_from(child_max).map_err(|_| Unreadable::NoTree)?;
        let listed = meant(payload, bytes.div_ceil(child_max) * size, place.reference.key.is_some())?;
        // The last first: it is the first to be popped from the end, and so on.
        for (number, reference) in listed.chunks(size).enumerate().rev() {
            let reference = Reference::of_bytes(reference).ok_or(Unreadable::NoTree)?;
            let before = number * child_max;
            let bytes = Some(child_max.min(bytes - before));
            self.open.push(Place { reference, offset: place.offset + before, bytes });
        }
        Ok(())
    }
}

/// The part of a payload that its span speaks of. Zeros at the end do not change an address: a node may leave them away, or add
/// some. An encrypted payload was filled up with anything.
fn meant(payload: &[u8], bytes: usize, is_filled_up: bool) -> Result<Cow<'_, [u8]>, Unreadable> {
    match payload.split_at_checked(bytes) {
        Some((meant, rest)) if is_filled_up || rest.iter().all(|byte| *byte == 0) => Ok(Cow::Borrowed(meant)),
        None if bytes <= PAYLOAD_BYTES_MAX => {
            let mut meant = payload.to_vec();
            meant.resize(bytes, 0);
            Ok(Cow::Owned(meant))
        }
        _ => Err(Unreadable::NoTree),
    }
}

/// What a full child spans of a chunk that spans more than one leaf.
fn child_bytes_max(bytes: u64, branches: u64) -> u64 {
    let mut child = LEAF_BYTES;
    while child.saturating_mul(branches) < bytes {
        child *= branches;
    }
    child
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        encryption::encrypt,
        split::{root, split},
    };

    fn data(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|at| (at * 7 + at / 4096 + at / 251) as u8).collect()
    }

    fn stored(data: &[u8], is_encrypted: bool) -> (Reference, HashMap<ChunkAddress, Chunk>) {
        let mut chunks = HashMap::new();
        let mut number = 0u8;
        let seal = |chunk: Chunk| match is_encrypted {
            false => (Reference { address: chunk.address, key: None }, chunk),
            true => {
                number = number.wrapping_add(1);
                encrypt(&chunk, [number; 32], || number)
            }
        };
        let reference = split(data, seal, |_, chunk| _ = chunks.insert(chunk.address, chunk.clone()));
        (reference, chunks)
    }

    /// Asks for `at_once` chunks and has the last asked for come first.
    fn joined(
        reference: Reference,
        chunks: &HashMap<ChunkAddress, Chunk>,
        bytes_max: usize,
        at_once: usize,
    ) -> Result<Vec<u8>, Unreadable> {
        let mut join = Join::new(reference, bytes_max);
        let (mut asked, mut most) = (Vec::new(), 0);
        loop {
            while asked.len() < at_once
                && let Some(address) = join.ask()
            {
                asked.push(address);
            }
            most = most.max(join.open.len());
            let Some(address) = asked.pop() else { break };
            join.take(&chunks[&address])?;
        }
        assert!(most < 1_000, "{most} places open");
        Ok(join.finish().unwrap())
    }

    #[test]
    fn what_is_split_is_joined_in_whatever_order_it_comes() {
        for is_encrypted in [false, true] {
            for bytes in [0, 1, 4096, 4097, 64 * 4096, 64 * 4096 + 1, 130 * 4096 + 9] {
                let data = data(bytes);
                let (reference, chunks) = stored(&data, is_encrypted);
                for at_once in [1, 7] {
                    assert_eq!(joined(reference, &chunks, bytes, at_once).as_ref(), Ok(&data), "{bytes}");
                }
                let larger = Err(Unreadable::TooLarge { bytes: bytes as u64, bytes_max: bytes.wrapping_sub(1) });
                if bytes > 0 {
                    assert_eq!(joined(reference, &chunks, bytes - 1, 1), larger);
                }
                if !is_encrypted {
                    let mut below = Join::below(&root(&data), bytes).unwrap();
                    while let Some(address) = below.ask() {
                        below.take(&chunks[&address]).unwrap();
                    }
                    assert_eq!(below.finish(), Some(data));
                }
            }
        }
    }

    #[test]
    fn a_chunk_that_stands_in_many_places_is_asked_for_once_at_a_time() {
        let data = vec![7; 100 * 4096];
        let (reference, chunks) = stored(&data, false);
        assert_eq!(chunks.len(), 2);
        let mut join = Join::new(reference, data.len());
        let root = join.ask().unwrap();
        join.take(&chunks[&root]).unwrap();
        let leaf = join.ask().unwrap();
        assert_eq!(join.ask(), None, "the other 99 are the same one");
        join.take(&chunks[&leaf]).unwrap();
        assert_eq!(join.finish(), Some(data));
    }

    #[test]
    fn what_is_no_tree_is_told() {
        let alone = |span: u64, payload: Vec<u8>| {
            let chunk = Chunk::new(span, payload);
            let reference = Reference { address: chunk.address, key: None };
            joined(reference, &HashMap::from([(chunk.address, chunk)]), 1 << 20, 1)
        };
        assert_eq!(alone(3, b"abc".to_vec()), Ok(b"abc".to_vec()));
        assert_eq!(alone(4, b"abc".to_vec()), Ok(b"abc\0".to_vec()), "of the same address");
        assert_eq!(alone(3, b"abc\0".to_vec()), Ok(b"abc".to_vec()), "of the same address");
        assert_eq!(alone(2, b"abc".to_vec()), Err(Unreadable::NoTree), "a leaf that spans less than it has");
        assert_eq!(alone(8192, vec![7; 96]), Err(Unreadable::NoTree), "two leaves, and three references");
        assert_eq!(alone(1 << 21, vec![0; 64]), Err(Unreadable::TooLarge { bytes: 1 << 21, bytes_max: 1 << 20 }));
        assert_eq!(alone(0x81 << 56 | 8192, vec![0; 96]), Err(Unreadable::ErasureCodes));
        // A child that spans something else than its place leaves for it.
        let child = Chunk::new(5, b"abcde".to_vec());
        let parent = Chunk::new(8192, [child.address, child.address].concat());
        let reference = Reference { address: parent.address, key: None };
        let chunks = HashMap::from([(child.address, child), (parent.address, parent)]);
        assert_eq!(joined(reference, &chunks, 1 << 20, 1), Err(Unreadable::NoTree));
    }
}
