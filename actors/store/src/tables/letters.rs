//! Dead letters, by the unit that quarantined the event.

use nexum_host_ifaces::store::{DeadLetter, ModuleId, StoreError};
use rocksdb::WriteBatch;

use super::table::{DEFAULT, Tag};
use crate::{
    codec,
    db::{Db, Read},
    open::OpenError,
};

fn parse_key(key: &[u8]) -> Option<(ModuleId, u64)> {
    let (id, seq) = key.strip_prefix(&[Tag::Letter as u8])?.split_at_checked(4)?;
    Some((ModuleId(u32::from_be_bytes(id.try_into().ok()?)), u64::from_be_bytes(seq.try_into().ok()?)))
}

/// Module, number and size of every letter, for who opens the store.
pub(crate) fn sizes(db: &Db) -> impl Iterator<Item = Result<(ModuleId, u64, u64), OpenError>> {
    db.prefixed(&Tag::Letter.all().0).filter_map(|row| {
        let known = row.map(|(key, letter)| Some((parse_key(&key)?, letter.len() as u64)));
        known.map(|known| known.map(|((id, seq), bytes)| (id, seq, bytes))).transpose()
    })
}

/// Those of a module, oldest first.
pub(crate) fn all(from: &impl Read, id: ModuleId) -> Result<Vec<DeadLetter>, StoreError> {
    from.rows(DEFAULT, Tag::Letter.range(id)).read("a dead letter").collect()
}

/// One as it is encoded.
pub(crate) fn encoded(from: &impl Read, id: ModuleId, seq: u64) -> Result<Option<Vec<u8>>, StoreError> {
    Ok(from.get(DEFAULT, Tag::Letter.numbered(id, seq))?.map(|bytes| bytes.to_vec()))
}

pub(crate) fn encode(letter: &DeadLetter) -> Result<Vec<u8>, StoreError> {
    codec::encode_vec(letter)
}

pub(crate) fn put(batch: &mut WriteBatch, id: ModuleId, seq: u64, encoded: &[u8]) {
    batch.put(Tag::Letter.numbered(id, seq), encoded);
}

pub(crate) fn delete(batch: &mut WriteBatch, id: ModuleId, seq: u64) {
    batch.delete(Tag::Letter.numbered(id, seq));
}

/// Removes those of units after `seq`.
pub(crate) fn delete_after(batch: &mut WriteBatch, id: ModuleId, seq: u64) {
    batch.delete_range(&Tag::Letter.numbered(id, seq + 1)[..], &Tag::Letter.range(id).1[..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_says_whose_it_is() {
        let (low, high) = Tag::Letter.range(ModuleId(7));
        let key = |seq| Tag::Letter.numbered(ModuleId(7), seq);
        assert!(key(0)[..] > low[..] && key(u64::MAX)[..] < high[..]);
        assert_eq!(parse_key(&key(9)), Some((ModuleId(7), 9)));
        assert_eq!(parse_key(b"d123"), None);
    }
}
