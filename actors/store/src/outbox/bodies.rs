//! Bodies of effects that have ended: how long they are kept, and how one that is gone is told from one that was empty.
//!
//! Invariant: an entry stays for as long as what is known of its effect does, with or without its body.

use nexum_host_ifaces::{
    Hash,
    outbox::{Ended, Entry, Listed, Location, Progress, digest},
    store::{ModuleId, StoreError},
};

use super::{ENTRY, misplaced, progress, retracted, scan};
use crate::{
    codec,
    keys::{self, Shelf},
    store::Store,
};

/// What entries that keep their body may take, per module: many thousands of the usual size, a few kilobytes, and a few
/// hundred of the greatest, and little enough that a module whose receiver refuses everything fills no disk.
const BODIES_BYTES_MAX: u64 = 64 << 20;

/// Follows an entry that has lost what it carried. An entry that has not ends without it, as every entry did before
/// bodies were bounded, and such a version reads no further.
const BARE: u8 = 1;

/// An entry as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shelved {
    pub entry: Entry,
    /// It carried something that is not kept any more.
    pub bare: bool,
}

impl Shelved {
    /// The entry without what only a further attempt would need.
    pub fn bare(entry: &Entry) -> Self {
        let stripped = entry.stripped();
        Self { bare: stripped != *entry, entry: stripped }
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        let (entry, rest) = codec::decode_first(bytes, ENTRY)?;
        Ok(Self { entry, bare: rest == [BARE] })
    }

    pub fn encode(&self) -> Result<Vec<u8>, StoreError> {
        let mut bytes = codec::encode_vec(&self.entry)?;
        if self.bare {
            bytes.push(BARE);
        }
        Ok(bytes)
    }

    /// The same for a list.
    pub fn brief(&self) -> Self {
        Self { entry: self.entry.stripped(), bare: self.bare }
    }

    pub fn listed(self, progress: Progress, retracted: bool) -> Listed {
        // Earlier versions dropped the body of a delivered effect, and did not mark it.
        let delivered = progress.ended.as_ref().is_some_and(|end| end.how == Ended::Delivered);
        Listed { body_kept: !self.bare && !delivered, entry: self.entry, progress, retracted }
    }
}

/// An ended effect that keeps its body, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Body {
    /// When it ended. First, so that the order is that of the ends.
    ended_ms: u64,
    /// Absent when the unit that sent it was undone.
    pub at: Option<Location>,
    /// Digest of the effect's id.
    pub name: Hash,
    /// Of the whole entry.
    bytes: u64,
}

impl Body {
    /// The effect without its body and the key for it, if it still lies there with one. The caller sees to it that it is
    /// still so when this is written.
    pub fn strip(&self, store: &Store, module: ModuleId) -> Result<Option<(Vec<u8>, Shelved)>, StoreError> {
        let (key, found) = match self.at {
            Some(at) => (keys::ended(module, at).to_vec(), super::ended_at(store, module, at, self.name)?),
            None => (keys::retracted(module, self.name).to_vec(), retracted(store, module, self.name)?),
        };
        let Some(Shelved { entry, bare: false }) = found else { return Ok(None) };
        let ended = progress(store, module, &entry.id)?.is_some_and(|known| known.ended.is_some());
        Ok(ended.then(|| (key, Shelved::bare(&entry))))
    }
}

/// The ended effects of a module that keep a body past the bound: those that ended first. Reads every ended entry once:
/// 65 ms for 10,000 of half a kilobyte.
pub(crate) fn excess(store: &Store, module: ModuleId) -> Result<Vec<Body>, StoreError> {
    let mut kept = Vec::new();
    for shelf in [Shelf::Ended, Shelf::Retracted] {
        let (from, to) = shelf.of(module);
        for item in scan(store, &from, &to)? {
            let (key, bytes) = item?;
            let at = match shelf {
                Shelf::Ended => Some(keys::parse_outbox(&key).ok_or_else(misplaced)?.1),
                _ => None,
            };
            kept.extend(body(store, module, at, &bytes)?);
        }
    }
    kept.sort_unstable();
    Ok(oldest_past(BODIES_BYTES_MAX, kept))
}

fn body(store: &Store, module: ModuleId, at: Option<Location>, bytes: &[u8]) -> Result<Option<Body>, StoreError> {
    let Shelved { entry, bare } = Shelved::decode(bytes)?;
    // What carries nothing loses nothing, and when it ended need not be looked up.
    if bare || !Shelved::bare(&entry).bare {
        return Ok(None);
    }
    let end = progress(store, module, &entry.id)?.and_then(|known| known.ended);
    Ok(end.map(|end| Body { ended_ms: end.at_ms, at, name: digest(&entry.id), bytes: bytes.len() as u64 }))
}

/// Of bodies in the order of their ends, the first ones until the others fit.
fn oldest_past(bytes_max: u64, mut bodies: Vec<Body>) -> Vec<Body> {
    let mut bytes = 0;
    let fitting = bodies.iter().rev().take_while(|body| {
        bytes += body.bytes;
        bytes <= bytes_max
    });
    let fitting = fitting.count();
    bodies.truncate(bodies.len() - fitting);
    bodies
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_bodies_that_fit_are_kept() {
        let bodies = |sizes: &[u64]| -> Vec<Body> {
            (1..)
                .zip(sizes)
                .map(|(ended_ms, bytes)| Body { ended_ms, at: None, name: Hash::default(), bytes: *bytes })
                .collect()
        };
        let check = |sizes: &[u64], gone: usize| {
            assert_eq!(oldest_past(10, bodies(sizes)), bodies(&sizes[..gone]), "{sizes:?}");
        };
        check(&[], 0);
        check(&[10], 0);
        check(&[5, 5], 0);
        check(&[1, 5, 5], 1);
        // What is older than one that does not fit goes, too, small as it may be.
        check(&[1, 9, 5], 2);
        check(&[1, 11], 2);
    }
}
