//! The key layout. Owns every byte of every key; nothing else in the crate builds one.
//!
//! Invariant: everything about a module lies under its number, big-endian, so that one `delete_range` per family drops
//! it and no key of another module is ever between. Numbers start at 1 and are never used again.

use nexum_host_ifaces::{Hash, outbox::Location, store::ModuleId};

/// Column family of module state: number ++ key.
pub(crate) const STATE: &str = "state";
/// Column family of the journal: number ++ sequence.
pub(crate) const EVENTS: &str = "events";
/// Column family of recordings: number, 0 ++ sequence of a handled event, or number, 1 ++ number of a crash.
pub(crate) const RECORDINGS: &str = "recordings";
/// Every column family besides `default`, which holds the records below.
pub(crate) const FAMILIES: [&str; 3] = [STATE, EVENTS, RECORDINGS];

/// Version of everything below, two bytes, big-endian.
pub(crate) const FORMAT: &[u8] = b"m/format";
/// The next module number, four bytes, big-endian.
pub(crate) const NEXT_ID: &[u8] = b"m/next-id";

/// First byte of a key in `default`. The compiler refuses two of the same.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Tag {
    /// What belongs to no module: the two keys above.
    #[expect(dead_code, reason = "keeps its byte from being given to another")]
    Meta = b'm',
    Name = b'n',
    Record = b'r',
    Health = b'h',
    Letter = b'd',
    /// Effects that have not ended: the unit that sent them, ordinal.
    Outbox = b'o',
    /// Effects that have ended, under the same key.
    Ended = b's',
    /// Released effects that have not ended and whose unit was undone: digest of the id.
    Retracted = b'k',
    /// What happened to an effect: digest of the id.
    Progress = b'p',
    /// Outcomes that wait for the module or were handled lately: number.
    Outcome = b'e',
    Receipt = b'y',
    Rewind = b'w',
    Replay = b'q',
    Header = b'c',
    /// How many reorgs a module was told of.
    Reorgs = b't',
}

/// Prefix of every name key.
pub(crate) const NAMES: &[u8] = &[Tag::Name as u8];
/// Prefix of every dead letter.
pub(crate) const LETTERS: &[u8] = &[Tag::Letter as u8];

fn tagged(tag: Tag, id: u32) -> [u8; 5] {
    let [a, b, c, d] = id.to_be_bytes();
    [tag as u8, a, b, c, d]
}

fn numbered(tag: Tag, id: ModuleId, seq: u64) -> [u8; 13] {
    let mut key = [0; 13];
    key[..5].copy_from_slice(&tagged(tag, id.0));
    key[5..].copy_from_slice(&seq.to_be_bytes());
    key
}

pub(crate) fn name(name: &str) -> Vec<u8> {
    [NAMES, name.as_bytes()].concat()
}

pub(crate) fn record(id: ModuleId) -> [u8; 5] {
    tagged(Tag::Record, id.0)
}

pub(crate) fn health(id: ModuleId) -> [u8; 5] {
    tagged(Tag::Health, id.0)
}

/// Not part of the record, which a rewind puts back.
pub(crate) fn reorgs(id: ModuleId) -> [u8; 5] {
    tagged(Tag::Reorgs, id.0)
}

pub(crate) fn letter(id: ModuleId, seq: u64) -> [u8; 13] {
    numbered(Tag::Letter, id, seq)
}

/// Module and sequence of a dead letter's key.
pub(crate) fn parse_letter(key: &[u8]) -> Option<(ModuleId, u64)> {
    let (id, seq) = key.strip_prefix(LETTERS)?.split_at_checked(4)?;
    Some((ModuleId(u32::from_be_bytes(id.try_into().ok()?)), u64::from_be_bytes(seq.try_into().ok()?)))
}

fn located(tag: Tag, id: ModuleId, at: Location) -> [u8; 17] {
    let mut key = [0; 17];
    key[..13].copy_from_slice(&numbered(tag, id, at.seq));
    key[13..].copy_from_slice(&at.ordinal.to_be_bytes());
    key
}

/// An item of a module's replay queue.
pub(crate) fn replay(id: ModuleId, position: u64) -> [u8; 13] {
    numbered(Tag::Replay, id, position)
}

/// A header of a chain: chain ++ number ++ hash, so that a chain's lie together, oldest first.
pub(crate) fn header(chain_id: u64, number: u64, hash: &Hash) -> [u8; 49] {
    let mut key = [0; 49];
    key[..9].copy_from_slice(&headers(chain_id));
    key[9..17].copy_from_slice(&number.to_be_bytes());
    key[17..].copy_from_slice(&hash.0);
    key
}

/// Prefix of every header of a chain.
pub(crate) fn headers(chain_id: u64) -> [u8; 9] {
    let mut key = [Tag::Header as u8; 9];
    key[1..].copy_from_slice(&chain_id.to_be_bytes());
    key
}

/// Number and hash of a header's key.
pub(crate) fn parse_header(key: &[u8]) -> Option<(u64, Hash)> {
    let (number, hash) = key.get(9..)?.split_at_checked(8)?;
    Some((u64::from_be_bytes(number.try_into().ok()?), Hash(hash.try_into().ok()?)))
}

fn named(tag: Tag, id: ModuleId, digest: Hash) -> [u8; 37] {
    let mut key = [0; 37];
    key[..5].copy_from_slice(&tagged(tag, id.0));
    key[5..].copy_from_slice(&digest.0);
    key
}

pub(crate) fn outbox(id: ModuleId, at: Location) -> [u8; 17] {
    located(Tag::Outbox, id, at)
}

pub(crate) fn ended(id: ModuleId, at: Location) -> [u8; 17] {
    located(Tag::Ended, id, at)
}

pub(crate) fn retracted(id: ModuleId, effect: Hash) -> [u8; 37] {
    named(Tag::Retracted, id, effect)
}

pub(crate) fn progress(id: ModuleId, effect: Hash) -> [u8; 37] {
    named(Tag::Progress, id, effect)
}

pub(crate) fn outcome(id: ModuleId, number: u64) -> [u8; 13] {
    numbered(Tag::Outcome, id, number)
}

/// Module and location of the key of an effect that has not ended.
pub(crate) fn parse_outbox(key: &[u8]) -> Option<(ModuleId, Location)> {
    let (id, rest) = key.split_at_checked(5)?;
    let (seq, ordinal) = rest.split_at_checked(8)?;
    let at = Location {
        seq: u64::from_be_bytes(seq.try_into().ok()?),
        ordinal: u32::from_be_bytes(ordinal.try_into().ok()?),
    };
    Some((ModuleId(u32::from_be_bytes(id[1..].try_into().ok()?)), at))
}

/// Module of the key of a retracted effect.
pub(crate) fn parse_retracted(key: &[u8]) -> Option<ModuleId> {
    Some(ModuleId(u32::from_be_bytes(key.get(1..5)?.try_into().ok()?)))
}

/// Digest of the effect's id in the key of its progress.
pub(crate) fn parse_progress(key: &[u8]) -> Option<Hash> {
    Some(Hash(key.get(5..)?.try_into().ok()?))
}

pub(crate) fn event(id: ModuleId, seq: u64) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&id.0.to_be_bytes());
    key[4..].copy_from_slice(&seq.to_be_bytes());
    key
}

/// A state key, into a buffer that is used again.
pub(crate) fn state<'a>(id: ModuleId, key: &str, buffer: &'a mut Vec<u8>) -> &'a [u8] {
    buffer.clear();
    buffer.extend_from_slice(&id.0.to_be_bytes());
    buffer.extend_from_slice(key.as_bytes());
    buffer
}

/// Half-open range of everything of one module in `state` and in `events`.
pub(crate) fn module(id: ModuleId) -> ([u8; 4], [u8; 4]) {
    (id.0.to_be_bytes(), (id.0 + 1).to_be_bytes())
}

/// Half-open range of a module's dead letters.
pub(crate) fn letters(id: ModuleId) -> ([u8; 5], [u8; 5]) {
    (tagged(Tag::Letter, id.0), tagged(Tag::Letter, id.0 + 1))
}

/// One kind of record about effects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shelf {
    Outbox,
    Ended,
    Retracted,
    Progress,
    Outcomes,
}

impl Shelf {
    pub const ALL: [Self; 5] = [Self::Outbox, Self::Ended, Self::Retracted, Self::Progress, Self::Outcomes];

    fn tag(self) -> Tag {
        match self {
            Self::Outbox => Tag::Outbox,
            Self::Ended => Tag::Ended,
            Self::Retracted => Tag::Retracted,
            Self::Progress => Tag::Progress,
            Self::Outcomes => Tag::Outcome,
        }
    }

    /// Half-open range of a module's records.
    pub fn of(self, id: ModuleId) -> ([u8; 5], [u8; 5]) {
        (tagged(self.tag(), id.0), tagged(self.tag(), id.0 + 1))
    }

    /// Half-open range of every module's records.
    pub fn all(self) -> ([u8; 1], [u8; 1]) {
        ([self.tag() as u8], [self.tag() as u8 + 1])
    }
}

fn recorded(id: ModuleId, crash: bool, number: u64) -> [u8; 13] {
    let mut key = [0; 13];
    key[..4].copy_from_slice(&id.0.to_be_bytes());
    key[4] = crash.into();
    key[5..].copy_from_slice(&number.to_be_bytes());
    key
}

/// The recording of a handled event.
pub(crate) fn recording(id: ModuleId, seq: u64) -> [u8; 13] {
    recorded(id, false, seq)
}

pub(crate) fn crash(id: ModuleId, number: u64) -> [u8; 13] {
    recorded(id, true, number)
}

/// Half-open range of a module's crashes.
pub(crate) fn crashes(id: ModuleId) -> ([u8; 13], [u8; 4]) {
    (crash(id, 0), module(id).1)
}

/// The number in the key of a recording.
pub(crate) fn parse_recording(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.get(5..)?.try_into().ok()?))
}

/// A receipt, by the unit it covers.
pub(crate) fn receipt(id: ModuleId, seq: u64) -> [u8; 13] {
    numbered(Tag::Receipt, id, seq)
}

/// Half-open range of a module's receipts.
pub(crate) fn receipts(id: ModuleId) -> ([u8; 5], [u8; 5]) {
    (tagged(Tag::Receipt, id.0), tagged(Tag::Receipt, id.0 + 1))
}

/// The record of a rewind.
pub(crate) fn rewind(id: ModuleId, number: u64) -> [u8; 13] {
    numbered(Tag::Rewind, id, number)
}

/// Half-open range of a module's rewinds.
pub(crate) fn rewinds(id: ModuleId) -> ([u8; 5], [u8; 5]) {
    (tagged(Tag::Rewind, id.0), tagged(Tag::Rewind, id.0 + 1))
}

/// Half-open range of a module's replay queue.
pub(crate) fn replays(id: ModuleId) -> ([u8; 5], [u8; 5]) {
    (tagged(Tag::Replay, id.0), tagged(Tag::Replay, id.0 + 1))
}

/// The least byte string greater than everything that starts with `prefix`; none when there is no such string.
pub(crate) fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_a_module_lie_together_in_order() {
        let (low, high) = module(ModuleId(7));
        let mut buffer = Vec::new();
        for key in ["", "a", "\u{10ffff}"] {
            let key = state(ModuleId(7), key, &mut buffer);
            assert!(key >= &low[..] && key < &high[..]);
        }
        assert!(event(ModuleId(7), 255) < event(ModuleId(7), 256));
        assert!(event(ModuleId(7), u64::MAX) < event(ModuleId(8), 0));
        let (low, high) = letters(ModuleId(7));
        assert!(letter(ModuleId(7), 0)[..] > low[..] && letter(ModuleId(7), u64::MAX)[..] < high[..]);
        assert_eq!(parse_letter(&letter(ModuleId(7), 9)), Some((ModuleId(7), 9)));
        assert_eq!(parse_letter(b"d123"), None);
        let hash = Hash([9; 32]);
        assert!(header(7, 255, &hash) < header(7, 256, &hash) && header(7, u64::MAX, &hash) < header(8, 0, &hash));
        assert_eq!(parse_header(&header(7, 5, &hash)), Some((5, hash)));
        assert_eq!(parse_header(&headers(7)), None);
        let at = Location { seq: u64::MAX, ordinal: 3 };
        let (low, high) = Shelf::Outbox.of(ModuleId(7));
        assert!(outbox(ModuleId(7), at)[..] > low[..] && outbox(ModuleId(7), at)[..] < high[..]);
        assert_eq!(parse_outbox(&outbox(ModuleId(7), at)), Some((ModuleId(7), at)));
        assert_eq!(parse_retracted(&retracted(ModuleId(7), Hash([9; 32]))), Some(ModuleId(7)));
        assert_eq!(parse_progress(&progress(ModuleId(7), Hash([9; 32]))), Some(Hash([9; 32])));
    }

    #[test]
    fn the_end_of_a_prefix_carries_over_full_bytes() {
        assert_eq!(after_prefix(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(after_prefix(&[1, 255, 255]), Some(vec![2]));
        assert_eq!(after_prefix(&[255]), None);
        assert_eq!(after_prefix(b""), None);
    }
}
