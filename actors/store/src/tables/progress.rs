//! What is known of effects, by the digest of their ids; nothing before one was released.

use nexum_host_ifaces::{
    Hash,
    outbox::{Progress, digest},
    store::{ModuleId, StoreError},
};
use rocksdb::WriteBatch;

use super::table::{DEFAULT, Tag};
use crate::{codec, db::Read};

const PROGRESS: &str = "the progress of an effect";

fn parse_key(key: &[u8]) -> Option<Hash> {
    Some(Hash(key.get(5..)?.try_into().ok()?))
}

pub(crate) fn get(from: &impl Read, id: ModuleId, effect: &str) -> Result<Option<Progress>, StoreError> {
    from.read(Tag::Progress.named(id, digest(effect)), PROGRESS)
}

/// That of every effect of a module, with the effect's name.
pub(crate) fn all(from: &impl Read, id: ModuleId) -> impl Iterator<Item = Result<(Hash, Progress), StoreError>> {
    from.rows(DEFAULT, Tag::Progress.range(id)).map(|row| {
        let (key, bytes) = row?;
        let known = codec::decode(&bytes, PROGRESS)?;
        let name = parse_key(&key).ok_or_else(|| StoreError::Failed("a key of the outbox is damaged".into()))?;
        Ok((name, known))
    })
}

pub(crate) fn put(batch: &mut WriteBatch, id: ModuleId, name: Hash, progress: &Progress) -> Result<(), StoreError> {
    batch.put(Tag::Progress.named(id, name), codec::encode_vec(progress)?);
    Ok(())
}

pub(crate) fn delete(batch: &mut WriteBatch, id: ModuleId, name: Hash) {
    batch.delete(Tag::Progress.named(id, name));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_says_which_effect_it_is() {
        assert_eq!(parse_key(&Tag::Progress.named(ModuleId(7), Hash([9; 32]))), Some(Hash([9; 32])));
    }
}
