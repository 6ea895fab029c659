//! Headers of chains: on their way to the disk, and read back.
//!
//! Invariant: they are written with the first group that is taken after they came, so that no unit is durable before the
//! headers that were there when it was sent; a group that could not be written gives them back.

use std::collections::BTreeMap;

use nexum_host_ifaces::{Hash, interfaces::chain::port::Link, store::StoreError};
use rocksdb::WriteBatch;

use super::table::{DEFAULT, Tag, after_prefix};
use crate::db::{Read, Row};

/// The chain, its header's number and hash, so that a chain's lie together, oldest first.
fn key(chain_id: u64, number: u64, hash: &Hash) -> [u8; 49] {
    let mut key = [0; 49];
    key[..9].copy_from_slice(&prefix(chain_id));
    key[9..17].copy_from_slice(&number.to_be_bytes());
    key[17..].copy_from_slice(&hash.0);
    key
}

/// Prefix of every header of a chain.
fn prefix(chain_id: u64) -> [u8; 9] {
    let mut key = [Tag::Header as u8; 9];
    key[1..].copy_from_slice(&chain_id.to_be_bytes());
    key
}

/// Half-open range of a chain's headers.
fn range(chain_id: u64) -> ([u8; 9], Vec<u8>) {
    let from = prefix(chain_id);
    // The tag is less than 255, so that there is an end.
    (from, after_prefix(&from).unwrap_or_default())
}

/// Number and hash of a header's key.
fn parse_key(key: &[u8]) -> Option<(u64, Hash)> {
    let (number, hash) = key.get(9..)?.split_at_checked(8)?;
    Some((u64::from_be_bytes(number.try_into().ok()?), Hash(hash.try_into().ok()?)))
}

/// What waits of one chain. Bounded by what its actor keeps: a header that is dropped before it was written is
/// forgotten.
#[derive(Debug, Default)]
struct ChainHeaders {
    /// Nothing of what the disk has stays.
    anew: bool,
    /// The parent to write, or nothing to delete, by number and hash.
    changes: BTreeMap<(u64, Hash), Option<Hash>>,
}

/// What waits for the next group.
#[derive(Debug, Default)]
pub(crate) struct PendingHeaders(BTreeMap<u64, ChainHeaders>);

impl PendingHeaders {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn add(&mut self, chain_id: u64, anew: bool, headers: &[Link], dropped: &[Link]) {
        let chain = self.0.entry(chain_id).or_default();
        if anew {
            *chain = ChainHeaders { anew: true, changes: BTreeMap::new() };
        }
        for link in headers {
            chain.changes.insert((link.number, link.hash), Some(link.parent));
        }
        for link in dropped {
            let place = (link.number, link.hash);
            // What is deleted anyway, or was never written, need not be deleted.
            if !matches!(chain.changes.remove(&place), Some(Some(_))) && !chain.anew {
                chain.changes.insert(place, None);
            }
        }
    }

    /// What was not written goes before what came since.
    pub fn put_back(&mut self, failed: Self) {
        let newer = std::mem::replace(self, failed);
        for (chain_id, newer) in newer.0 {
            let chain = self.0.entry(chain_id).or_default();
            if newer.anew {
                *chain = newer;
            } else {
                chain.changes.extend(newer.changes);
            }
        }
    }

    pub fn write(&self, batch: &mut WriteBatch) {
        for (chain_id, chain) in &self.0 {
            if chain.anew {
                let (from, end) = range(*chain_id);
                batch.delete_range(&from[..], &end);
            }
            for ((number, hash), parent) in &chain.changes {
                let key = key(*chain_id, *number, hash);
                match parent {
                    Some(parent) => batch.put(key, parent.0),
                    None => batch.delete(key),
                }
            }
        }
    }
}

/// The headers that are kept of a chain, by number.
pub(crate) fn all(from: &impl Read, chain_id: u64) -> Result<Vec<Link>, StoreError> {
    let link = |row: Result<Row, StoreError>| {
        let (key, parent) = row?;
        let place = parse_key(&key).zip(parent[..].try_into().ok());
        let ((number, hash), parent) =
            place.ok_or_else(|| StoreError::Failed(format!("a header of chain {chain_id} is malformed")))?;
        Ok(Link { number, hash, parent: Hash(parent) })
    };
    from.rows(DEFAULT, range(chain_id)).map(link).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(number: u64) -> Link {
        let hash = |number: u64| Hash([number as u8; 32]);
        Link { number, hash: hash(number), parent: hash(number.wrapping_sub(1)) }
    }

    fn places(owed: &PendingHeaders) -> Vec<(u64, bool)> {
        owed.0
            .values()
            .flat_map(|chain| &chain.changes)
            .map(|((number, _), parent)| (*number, parent.is_some()))
            .collect()
    }

    #[test]
    fn keys_of_a_chain_lie_together_in_order() {
        let hash = Hash([9; 32]);
        assert!(key(7, 255, &hash) < key(7, 256, &hash) && key(7, u64::MAX, &hash) < key(8, 0, &hash));
        assert_eq!(parse_key(&key(7, 5, &hash)), Some((5, hash)));
        assert_eq!(parse_key(&prefix(7)), None);
    }

    #[test]
    fn what_failed_comes_before_what_is_newer_and_what_never_was_is_not_deleted() {
        let mut failed = PendingHeaders::default();
        failed.add(1, false, &[link(5), link(6)], &[link(1)]);
        let mut owed = PendingHeaders::default();
        owed.add(1, false, &[link(7)], &[link(2)]);
        owed.put_back(failed);
        assert_eq!(places(&owed), [(1, false), (2, false), (5, true), (6, true), (7, true)]);
        owed.add(1, false, &[], &[link(5)]);
        assert_eq!(places(&owed), [(1, false), (2, false), (6, true), (7, true)]);

        let mut older = PendingHeaders::default();
        older.add(1, false, &[link(3)], &[]);
        let mut anew = PendingHeaders::default();
        anew.add(1, true, &[link(9)], &[link(8)]);
        anew.put_back(older);
        assert_eq!(places(&anew), [(9, true)]);
        let mut batch = WriteBatch::new();
        anew.write(&mut batch);
        assert_eq!(batch.len(), 2, "one range deleted, one header written");
    }
}
