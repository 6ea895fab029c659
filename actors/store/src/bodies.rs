//! Bodies of effects that have ended: how long they are kept.
//!
//! Invariant: an entry stays for as long as what is known of its effect does, with or without its body.

use nexum_host_ifaces::{
    Hash,
    outbox::{Location, digest},
    store::{ModuleId, StoreError},
};

use crate::{
    db::Db,
    tables::{
        outbox::{self, Shelf, Shelved},
        progress,
    },
};

/// What entries that keep their body may take, per module: many thousands of the usual size, a few kilobytes, and a few
/// hundred of the greatest, and little enough that a module whose receiver refuses everything fills no disk.
const BODIES_BYTES_MAX: u64 = 64 << 20;

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
    /// The effect without its body, if it still lies there with one. The caller sees to it that it is still so when this
    /// is written.
    pub fn strip(&self, db: &Db, module: ModuleId) -> Result<Option<Shelved>, StoreError> {
        let found = match self.at {
            Some(at) => outbox::ended_at(db, module, at, self.name)?,
            None => outbox::retracted(db, module, self.name)?,
        };
        let Some(Shelved { entry, bare: false }) = found else { return Ok(None) };
        let ended = progress::get(db, module, &entry.id)?.is_some_and(|known| known.ended.is_some());
        Ok(ended.then(|| Shelved::bare(&entry)))
    }
}

/// The ended effects of a module that keep a body past the bound: those that ended first. Reads every ended entry once:
/// 65 ms for 10,000 of half a kilobyte.
pub(crate) fn excess(db: &Db, module: ModuleId) -> Result<Vec<Body>, StoreError> {
    let ended =
        outbox::entries(db, Shelf::Ended, module, 0).map(|item| item.map(|(at, of, bytes)| (Some(at), of, bytes)));
    let retracted = outbox::all_retracted(db, module).map(|item| item.map(|(of, bytes)| (None, of, bytes)));
    let mut kept = Vec::new();
    for item in ended.chain(retracted) {
        let (at, shelved, bytes) = item?;
        kept.extend(body(db, module, at, &shelved, bytes)?);
    }
    kept.sort_unstable();
    Ok(oldest_past(BODIES_BYTES_MAX, kept))
}

fn body(
    db: &Db,
    module: ModuleId,
    at: Option<Location>,
    Shelved { entry, bare }: &Shelved,
    bytes: u64,
) -> Result<Option<Body>, StoreError> {
    // What carries nothing loses nothing, and when it ended need not be looked up.
    if *bare || !Shelved::bare(entry).bare {
        return Ok(None);
    }
    let end = progress::get(db, module, &entry.id)?.and_then(|known| known.ended);
    Ok(end.map(|end| Body { ended_ms: end.at_ms, at, name: digest(&entry.id), bytes }))
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
