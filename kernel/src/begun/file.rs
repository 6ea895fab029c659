//! The bytes of the file of marks: a header, then one slot of a fixed size for each module. Numbers are little-endian.
//!
//! A slot is a name, what the module is at, whatever the process died of while the module was at it, and checksums: one of
//! each mark that is written with every event, one of the rest. They tell damage, not malice. A slot without a name is free.

use std::hash::Hasher;

const MAGIC: &[u8; 15] = b"nexum begun 2\n\0";
const HEADER_BYTES: usize = MAGIC.len() + 1;
const NAME_BYTES: usize = 64;
/// What the module is at: whether it is at anything, its key, and a checksum.
const MARK_BYTES: usize = 24;
/// What it is at itself, and what is loaded for it beside that.
pub(super) const MARKS: usize = 2;
/// A key, and a count of 4 bytes.
const SUSPECT_BYTES: usize = 12;
/// A module is at one thing or two when the process dies, so that there are more only when others of its sources came first.
const SUSPECTS_MAX: usize = 8;
const SUSPECTS_AT: usize = NAME_BYTES + MARKS * MARK_BYTES;
const SLOT_BYTES: usize = SUSPECTS_AT + SUSPECTS_MAX * SUSPECT_BYTES + 8;
/// More modules than a process has room for.
pub(super) const SLOTS_MAX: usize = 16_384;
pub(super) const BYTES_MAX: u64 = (HEADER_BYTES + SLOTS_MAX * SLOT_BYTES) as u64;

/// The marks of one module.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Slot {
    pub name: String,
    /// The keys of what it is at.
    pub begun: [Option<u64>; MARKS],
    pub suspects: Vec<Suspect>,
}

/// What a module was at when the process died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Suspect {
    pub key: u64,
    pub deaths: u32,
}

impl Slot {
    /// Counts that the process died. What the module was at.
    pub fn died(&mut self) -> Vec<u64> {
        let keys: Vec<u64> = std::mem::take(&mut self.begun).into_iter().flatten().collect();
        keys.iter().for_each(|key| self.suspect(*key));
        keys
    }

    fn suspect(&mut self, key: u64) {
        if let Some(suspect) = self.suspects.iter_mut().find(|suspect| suspect.key == key) {
            suspect.deaths = suspect.deaths.saturating_add(1);
            return;
        }
        if self.suspects.len() >= SUSPECTS_MAX
            && let Some(least) = (0..self.suspects.len()).min_by_key(|index| self.suspects[*index].deaths)
        {
            self.suspects.remove(least);
        }
        self.suspects.push(Suspect { key, deaths: 1 });
    }
}

/// What a file holds, once what nobody here wrote is left out.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Content {
    pub slots: Vec<Slot>,
    /// Slots that cannot be read.
    pub damaged: usize,
}

/// `closed`: what is under way counts for nothing.
pub(super) fn header(closed: bool) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[..MAGIC.len()].copy_from_slice(MAGIC);
    bytes[MAGIC.len()] = closed.into();
    bytes
}

pub(super) fn offset(index: usize) -> u64 {
    (HEADER_BYTES + index * SLOT_BYTES) as u64
}

pub(super) fn mark_offset(index: usize, nth: usize) -> u64 {
    offset(index) + (NAME_BYTES + nth * MARK_BYTES) as u64
}

/// Where that of a slot lies which [`suspects`] makes.
pub(super) fn suspects_offset(index: usize) -> u64 {
    offset(index) + SUSPECTS_AT as u64
}

/// What is written when suspects change: the marks beside them may be another's to write.
pub(super) fn suspects(slot: &Slot) -> [u8; SLOT_BYTES - SUSPECTS_AT] {
    let mut bytes = [0; SLOT_BYTES - SUSPECTS_AT];
    bytes.copy_from_slice(&encode(slot)[SUSPECTS_AT..]);
    bytes
}

pub(super) fn mark(begun: Option<u64>) -> [u8; MARK_BYTES] {
    let mut bytes = [0; MARK_BYTES];
    bytes[0] = begun.is_some().into();
    bytes[8..16].copy_from_slice(&begun.unwrap_or_default().to_le_bytes());
    let check = checksum(&[&bytes[..16]]);
    bytes[16..].copy_from_slice(&check.to_le_bytes());
    bytes
}

pub(super) fn encode(slot: &Slot) -> [u8; SLOT_BYTES] {
    let mut bytes = [0; SLOT_BYTES];
    let (name, rest) = bytes.split_at_mut(NAME_BYTES);
    let (marks, rest) = rest.split_at_mut(MARKS * MARK_BYTES);
    let (suspects, check) = rest.split_at_mut(SUSPECTS_MAX * SUSPECT_BYTES);
    assert!(slot.name.len() <= NAME_BYTES, "a module's name is checked when its manifest is read");
    name[..slot.name.len()].copy_from_slice(slot.name.as_bytes());
    for (bytes, begun) in marks.chunks_exact_mut(MARK_BYTES).zip(slot.begun) {
        bytes.copy_from_slice(&mark(begun));
    }
    for (bytes, suspect) in suspects.chunks_exact_mut(SUSPECT_BYTES).zip(&slot.suspects) {
        bytes[..8].copy_from_slice(&suspect.key.to_le_bytes());
        bytes[8..].copy_from_slice(&suspect.deaths.to_le_bytes());
    }
    check.copy_from_slice(&checksum(&[&*name, &*suspects]).to_le_bytes());
    bytes
}

/// # Errors
/// It is no file of marks.
pub(super) fn decode(bytes: &[u8]) -> Result<Content, &'static str> {
    if bytes.len() as u64 > BYTES_MAX {
        return Err("it is larger than an engine makes it");
    }
    let (closed, slots) = match bytes.strip_prefix(MAGIC) {
        Some([closed @ 0..=1, slots @ ..]) => (*closed == 1, slots),
        _ => return Err("it does not begin as this version of the engine begins it"),
    };
    let mut content = Content { slots: Vec::new(), damaged: usize::from(!slots.len().is_multiple_of(SLOT_BYTES)) };
    for bytes in slots.chunks_exact(SLOT_BYTES) {
        match decode_slot(bytes) {
            Some(slot) if slot.name.is_empty() => {}
            Some(slot) if closed => content.slots.push(Slot { begun: Default::default(), ..slot }),
            Some(slot) => content.slots.push(slot),
            None => content.damaged += 1,
        }
    }
    Ok(content)
}

fn decode_slot(bytes: &[u8]) -> Option<Slot> {
    let (name, rest) = bytes.split_at(NAME_BYTES);
    let (marks, rest) = rest.split_at(MARKS * MARK_BYTES);
    let (suspects, check) = rest.split_at(SUSPECTS_MAX * SUSPECT_BYTES);
    if number(check) != checksum(&[name, suspects]) {
        return None;
    }
    let name = std::str::from_utf8(name).ok()?.trim_end_matches('\0');
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if !name.bytes().all(allowed) {
        return None;
    }
    let mut begun = [None; MARKS];
    for (at, begun) in marks.chunks_exact(MARK_BYTES).zip(&mut begun) {
        if number(&at[16..]) != checksum(&[&at[..16]]) {
            return None;
        }
        *begun = (at[0] == 1).then(|| number(&at[8..16]));
    }
    let suspect = |bytes: &[u8]| {
        let deaths = u32::try_from(number(&bytes[8..])).unwrap_or(u32::MAX);
        Suspect { key: number(&bytes[..8]), deaths }
    };
    let suspects = suspects.chunks_exact(SUSPECT_BYTES).map(suspect).filter(|suspect| suspect.deaths > 0).collect();
    Some(Slot { name: name.to_owned(), begun, suspects })
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| (number << 8) | u64::from(*byte))
}

fn checksum(parts: &[&[u8]]) -> u64 {
    let mut hash = Fnv::default();
    parts.iter().for_each(|part| hash.write(part));
    hash.finish()
}

/// FNV-1a of 64 bits: the same in every process, and without an allocation.
pub(super) struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(name: &str, begun: Option<u64>) -> Slot {
        Slot { name: name.into(), begun: [begun, None], suspects: vec![Suspect { key: 9, deaths: 2 }] }
    }

    #[test]
    fn a_file_reads_as_it_was_written() {
        let slots =
            vec![slot("a", None), slot(&"b".repeat(64), Some(u64::MAX)), Slot { name: "c".into(), ..Slot::default() }];
        let file = |closed| {
            let mut bytes = header(closed).to_vec();
            slots.iter().for_each(|slot| bytes.extend(encode(slot)));
            bytes
        };
        assert_eq!(decode(&file(false)), Ok(Content { slots: slots.clone(), damaged: 0 }));
        let stopped = decode(&file(true)).unwrap();
        let nothing = |slot: &Slot| slot.begun == [None, None];
        assert!(stopped.slots.iter().all(nothing), "it was stopped in order: {stopped:?}");
        let mut bytes = file(false);
        for (nth, key) in [5, 6].into_iter().enumerate() {
            let at = usize::try_from(mark_offset(0, nth)).unwrap();
            bytes[at..at + MARK_BYTES].copy_from_slice(&mark(Some(key)));
        }
        let both = Slot { begun: [Some(5), Some(6)], ..slot("a", None) };
        assert_eq!(decode(&bytes).unwrap().slots[0], both, "marks alone");
        // Suspects go, and what the module is at stays.
        let cleared = suspects(&Slot { suspects: Vec::new(), ..slot("a", None) });
        let at = usize::try_from(suspects_offset(0)).unwrap();
        bytes[at..at + cleared.len()].copy_from_slice(&cleared);
        assert_eq!(decode(&bytes).unwrap().slots[0], Slot { suspects: Vec::new(), ..both });
    }

    #[test]
    fn a_free_slot_is_nobodys_and_no_damage() {
        let mut bytes = header(false).to_vec();
        bytes.extend(encode(&Slot::default()));
        bytes.extend(encode(&slot("a", None)));
        assert_eq!(decode(&bytes), Ok(Content { slots: vec![slot("a", None)], damaged: 0 }));
    }

    #[test]
    fn the_oldest_suspect_that_counts_least_makes_room() {
        let mut slot = slot("a", None);
        for key in 100..120 {
            slot.begun[0] = Some(key);
            assert_eq!(slot.died(), [key]);
        }
        assert!(slot.died().is_empty(), "it was at nothing");
        let keys: Vec<u64> = slot.suspects.iter().map(|suspect| suspect.key).collect();
        assert_eq!(keys, [9, 113, 114, 115, 116, 117, 118, 119]);
        slot.begun = [Some(9), Some(119)];
        assert_eq!(slot.died(), [9, 119]);
        assert_eq!((slot.suspects[0].deaths, slot.suspects[7].deaths), (3, 2));
    }
}
