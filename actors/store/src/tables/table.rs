//! Where the records of every kind lie, and what their keys begin with. Each table builds its own keys out of this;
//! nothing outside of the tables builds one.
//!
//! Invariant: everything about a module lies under its number, big-endian, so that one `delete_range` per table drops it
//! and no key of another module is ever between. Numbers start at 1 and are never used again.

use nexum_host_ifaces::{Hash, outbox::Location, store::ModuleId};

/// Column family of everything that has no other: tag ++ number, then what the table says.
pub(crate) const DEFAULT: &str = "default";
/// Column family of module state.
pub(crate) const STATE: &str = "state";
/// Column family of the journal.
pub(crate) const EVENTS: &str = "events";
/// Column family of recordings.
pub(crate) const RECORDINGS: &str = "recordings";
/// Every column family besides `default`.
pub(crate) const FAMILIES: [&str; 3] = [STATE, EVENTS, RECORDINGS];

/// First byte of a key in `default`. The compiler refuses two of the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Tag {
    /// What belongs to no module: the version of the format, the next module number.
    #[expect(dead_code, reason = "keeps its byte from being given to another")]
    Meta = b'm',
    Name = b'n',
    Record = b'r',
    Health = b'h',
    /// How many reorgs a module was told of.
    Reorgs = b't',
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
    Redelivery = b'q',
    Header = b'c',
    /// What services keep, by their names.
    Service = b'v',
}

impl Tag {
    /// Of everything that holds records of modules, under their numbers: a purge empties it.
    pub const OF_MODULES: [Self; 12] = [
        Self::Record,
        Self::Health,
        Self::Reorgs,
        Self::Letter,
        Self::Outbox,
        Self::Ended,
        Self::Retracted,
        Self::Progress,
        Self::Outcome,
        Self::Receipt,
        Self::Rewind,
        Self::Redelivery,
    ];

    /// The key of what a module has one of, and the prefix of what it has several of.
    pub fn of(self, id: ModuleId) -> [u8; 5] {
        self.under(id.0)
    }

    fn under(self, id: u32) -> [u8; 5] {
        let [a, b, c, d] = id.to_be_bytes();
        [self as u8, a, b, c, d]
    }

    pub fn numbered(self, id: ModuleId, number: u64) -> [u8; 13] {
        let mut key = [0; 13];
        key[..5].copy_from_slice(&self.of(id));
        key[5..].copy_from_slice(&number.to_be_bytes());
        key
    }

    pub fn located(self, id: ModuleId, at: Location) -> [u8; 17] {
        let mut key = [0; 17];
        key[..13].copy_from_slice(&self.numbered(id, at.seq));
        key[13..].copy_from_slice(&at.ordinal.to_be_bytes());
        key
    }

    pub fn named(self, id: ModuleId, name: Hash) -> [u8; 37] {
        let mut key = [0; 37];
        key[..5].copy_from_slice(&self.of(id));
        key[5..].copy_from_slice(&name.0);
        key
    }

    /// Half-open range of a module's records.
    pub fn range(self, id: ModuleId) -> ([u8; 5], [u8; 5]) {
        (self.under(id.0), self.under(id.0 + 1))
    }

    /// Half-open range of every module's records.
    pub fn all(self) -> ([u8; 1], [u8; 1]) {
        ([self as u8], [self as u8 + 1])
    }
}

/// The module of a key in `default`.
pub(crate) fn parse_module(key: &[u8]) -> Option<ModuleId> {
    Some(ModuleId(u32::from_be_bytes(key.get(1..5)?.try_into().ok()?)))
}

/// Half-open range of everything of one module in a family of its own.
pub(crate) fn module(id: ModuleId) -> ([u8; 4], [u8; 4]) {
    (id.0.to_be_bytes(), (id.0 + 1).to_be_bytes())
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
        let (low, high) = Tag::Outbox.range(ModuleId(7));
        let at = Location { seq: u64::MAX, ordinal: 3 };
        let keys = [&Tag::Outbox.located(ModuleId(7), at)[..], &Tag::Outbox.numbered(ModuleId(7), 0)];
        for key in keys.into_iter().chain([&Tag::Outbox.named(ModuleId(7), Hash([255; 32]))[..]]) {
            assert!(key > &low[..] && key < &high[..]);
            assert_eq!(parse_module(key), Some(ModuleId(7)));
        }
        assert!(Tag::Letter.numbered(ModuleId(7), 255) < Tag::Letter.numbered(ModuleId(7), 256));
        assert_eq!(parse_module(b"d123"), None);
    }

    #[test]
    fn the_end_of_a_prefix_carries_over_full_bytes() {
        assert_eq!(after_prefix(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(after_prefix(&[1, 255, 255]), Some(vec![2]));
        assert_eq!(after_prefix(&[255]), None);
        assert_eq!(after_prefix(b""), None);
    }
}
