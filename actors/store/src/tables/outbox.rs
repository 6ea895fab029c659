//! Effects, on one of three shelves.
//!
//! Invariant: an effect that has not ended is on `Pending`, or, when its unit was undone after it was released, on
//! `Retracted`; never on both. One that has ended is on `Ended` for as long as its unit can be undone; when that was
//! undone, one that failed or was cancelled is on `Retracted`, so that it can be taken up again. An effect that has ended
//! may have lost its body (`bodies`), one that has not ended never.
//!
//! Entries have bodies: whoever reads many keeps one at a time.

use nexum_host_ifaces::{
    Hash,
    outbox::{EffectEntry, EffectSummary, Ended, Listed, Location, Progress, digest},
    store::{ModuleId, StoreError},
};
use rocksdb::WriteBatch;
use serde::{Deserialize, Serialize};

use super::table::{DEFAULT, Tag, parse_module};
use crate::{
    codec,
    db::{Read, Row},
};

const ENTRY: &str = "an outbox entry";

/// Where entries have their place by the unit that sent them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EffectTable {
    Pending,
    Ended,
}

impl EffectTable {
    pub const BOTH: [Self; 2] = [Self::Pending, Self::Ended];

    fn tag(self) -> Tag {
        match self {
            Self::Pending => Tag::Outbox,
            Self::Ended => Tag::Ended,
        }
    }
}

fn parse_at(key: &[u8]) -> Result<Location, StoreError> {
    let at = key.get(5..).and_then(|rest| rest.split_at_checked(8)).and_then(|(seq, ordinal)| {
        let seq = u64::from_be_bytes(seq.try_into().ok()?);
        Some(Location { seq, ordinal: u32::from_be_bytes(ordinal.try_into().ok()?) })
    });
    at.ok_or_else(misplaced)
}

fn misplaced() -> StoreError {
    StoreError::Failed("a key of the outbox is damaged".into())
}

/// An entry as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredEffect {
    pub entry: EffectEntry,
    /// It carried something that is not kept any more.
    pub bare: bool,
}

impl StoredEffect {
    /// The entry without what only a further attempt would need.
    pub fn bare(entry: &EffectEntry) -> Self {
        let stripped = entry.stripped();
        Self { bare: stripped != *entry, entry: stripped }
    }

    /// The same for a list.
    pub fn brief(&self) -> Self {
        Self { entry: self.entry.stripped(), bare: self.bare }
    }

    pub fn listed(self, progress: Progress, retracted: bool) -> Listed {
        Listed { body_kept: !self.bare, entry: self.entry, progress, retracted }
    }
}

/// The pending entry at a location, if it is that effect's: the number of an undone unit is used again.
pub(crate) fn live_at(
    from: &impl Read,
    id: ModuleId,
    at: Location,
    effect: &str,
) -> Result<Option<EffectEntry>, StoreError> {
    let found: Option<StoredEffect> = from.read(Tag::Outbox.located(id, at), ENTRY)?;
    Ok(found.map(|shelved| shelved.entry).filter(|entry| entry.id == effect))
}

/// The ended entry at a location, if it is the effect with that name.
pub(crate) fn ended_at(
    from: &impl Read,
    id: ModuleId,
    at: Location,
    name: Hash,
) -> Result<Option<StoredEffect>, StoreError> {
    let found: Option<StoredEffect> = from.read(Tag::Ended.located(id, at), ENTRY)?;
    Ok(found.filter(|shelved| digest(&shelved.entry.id) == name))
}

pub(crate) fn retracted(from: &impl Read, id: ModuleId, name: Hash) -> Result<Option<StoredEffect>, StoreError> {
    from.read(Tag::Retracted.named(id, name), ENTRY)
}

/// Everything of a module that was retracted, with the bytes that each takes.
pub(crate) fn all_retracted(
    from: &impl Read,
    id: ModuleId,
) -> impl Iterator<Item = Result<(StoredEffect, u64), StoreError>> {
    from.rows(DEFAULT, Tag::Retracted.range(id)).map(|row| {
        let (_, bytes) = row?;
        Ok((codec::decode(&bytes, ENTRY)?, bytes.len() as u64))
    })
}

/// The entries of one table from a unit on, with their place and the bytes that each takes.
pub(crate) fn entries(
    from: &impl Read,
    shelf: EffectTable,
    id: ModuleId,
    seq: u64,
) -> impl Iterator<Item = Result<(Location, StoredEffect, u64), StoreError>> {
    let tag = shelf.tag();
    let first = tag.located(id, Location { seq, ordinal: 0 });
    from.rows(DEFAULT, (first, tag.range(id).1)).map(located)
}

fn located(row: Result<Row, StoreError>) -> Result<(Location, StoredEffect, u64), StoreError> {
    let (key, bytes) = row?;
    Ok((parse_at(&key)?, codec::decode(&bytes, ENTRY)?, bytes.len() as u64))
}

/// Of every module what was retracted, ended or not, which has no place, then what has not ended.
pub(crate) fn every(
    from: &impl Read,
) -> impl Iterator<Item = Result<(ModuleId, Option<Location>, EffectEntry), StoreError>> {
    [Tag::Retracted, Tag::Outbox].into_iter().flat_map(move |tag| {
        from.rows(DEFAULT, tag.all()).map(move |row| {
            let (key, bytes) = row?;
            let module = parse_module(&key).ok_or_else(misplaced)?;
            let at = if tag == Tag::Outbox { Some(parse_at(&key)?) } else { None };
            Ok((module, at, codec::decode::<StoredEffect>(&bytes, ENTRY)?.entry))
        })
    })
}

/// Whether something still lies where an entry was found.
pub(crate) fn is_there(from: &impl Read, id: ModuleId, at: Option<Location>, effect: &str) -> Result<bool, StoreError> {
    let found = match at {
        Some(at) => from.get(DEFAULT, Tag::Outbox.located(id, at))?,
        None => from.get(DEFAULT, Tag::Retracted.named(id, digest(effect)))?,
    };
    Ok(found.is_some())
}

/// What one unit asked to send, in order.
pub(crate) fn sent_by(from: &impl Read, id: ModuleId, seq: u64) -> Result<Vec<EffectSummary>, StoreError> {
    let place = |shelf: EffectTable, seq| shelf.tag().located(id, Location { seq, ordinal: 0 });
    let mut found = Vec::new();
    for shelf in EffectTable::BOTH {
        for row in from.rows(DEFAULT, (place(shelf, seq), place(shelf, seq + 1))) {
            let (at, shelved, _) = located(row)?;
            found.push((at, shelved.entry.brief()));
        }
    }
    found.sort_by_key(|(at, _)| *at);
    Ok(found.into_iter().map(|(_, sent)| sent).collect())
}

/// Whether the operator can take it up again.
pub(crate) fn is_reopenable(how: Ended) -> bool {
    matches!(how, Ended::Failed | Ended::Cancelled)
}

/// An entry with all that it carries, as it is kept.
pub(crate) fn encode(entry: &EffectEntry) -> Result<Vec<u8>, StoreError> {
    codec::encode_vec(&(entry, false))
}

/// Adds an encoded pending entry.
pub(crate) fn put_live(batch: &mut WriteBatch, id: ModuleId, at: Location, encoded: &[u8]) {
    batch.put(Tag::Outbox.located(id, at), encoded);
}

pub(crate) fn put_ended(
    batch: &mut WriteBatch,
    id: ModuleId,
    at: Location,
    shelved: &StoredEffect,
) -> Result<(), StoreError> {
    batch.put(Tag::Ended.located(id, at), codec::encode_vec(shelved)?);
    Ok(())
}

pub(crate) fn put_retracted(batch: &mut WriteBatch, id: ModuleId, shelved: &StoredEffect) -> Result<(), StoreError> {
    batch.put(Tag::Retracted.named(id, digest(&shelved.entry.id)), codec::encode_vec(shelved)?);
    Ok(())
}

pub(crate) fn delete(batch: &mut WriteBatch, shelf: EffectTable, id: ModuleId, at: Location) {
    batch.delete(shelf.tag().located(id, at));
}

pub(crate) fn delete_retracted(batch: &mut WriteBatch, id: ModuleId, name: Hash) {
    batch.delete(Tag::Retracted.named(id, name));
}

#[cfg(test)]
mod tests {
    use nexum_host_ifaces::outbox::{Effect, HttpEffect, Release};

    use super::*;

    #[test]
    fn an_entry_says_whether_it_has_lost_what_it_carried() {
        let effect =
            HttpEffect { method: "POST".into(), url: "https://a".into(), headers: Vec::new(), body: Some(vec![7]) };
        let entry = EffectEntry {
            id: "x".into(),
            key: "x".into(),
            lane: None,
            release: Release::Committed,
            block: None,
            sent_at_ms: 1,
            effect: Effect::Http(effect),
        };
        let whole: StoredEffect = codec::decode(&encode(&entry).unwrap(), ENTRY).unwrap();
        assert_eq!(whole, StoredEffect { entry: entry.clone(), bare: false });
        let bare = StoredEffect::bare(&entry);
        assert!(bare.bare && bare.entry == entry.stripped() && bare.entry != entry);
        assert_eq!(codec::decode::<StoredEffect>(&codec::encode_vec(&bare).unwrap(), ENTRY).unwrap(), bare);
        let nothing = StoredEffect::bare(&bare.entry);
        assert!(!nothing.bare, "what carried nothing has lost nothing");
        let is_kept = |shelved: StoredEffect| shelved.listed(Progress::default(), false).body_kept;
        assert_eq!([whole, bare, nothing].map(is_kept), [true, false, true]);
    }

    #[test]
    fn a_key_says_which_place_it_is() {
        let at = Location { seq: u64::MAX, ordinal: 3 };
        let key = Tag::Outbox.located(ModuleId(7), at);
        assert_eq!((parse_module(&key), parse_at(&key).unwrap()), (Some(ModuleId(7)), at));
        assert!(parse_at(&key[..16]).is_err());
    }
}
