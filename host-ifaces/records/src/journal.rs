//! The journal beyond its entries: signed receipts, what a rewind leaves behind, and the parts of it that operators see.
//!
//! Invariant: a receipt states what was durable when it was written. A rewind takes nothing back: it leaves a signed
//! record of which units it undid, together with the receipts of those units, so that an earlier receipt is explained
//! by it and never contradicted.

use std::{fmt, sync::Arc};

use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

use crate::{Hash, PublicKey, Signature, effect::EffectSummary, entry::JournalEntry};

/// Units that a module's journal keeps however many bytes they take, the newest: on a chain with an event for each block
/// and one for its logs, 128 blocks, which is more than reorgs undo. What does not fit into them is refused to the module.
pub const REWIND_UNITS: u64 = 256;
/// A unit whose changes replaced no more than this is never refused, bytes: what a module needs to go on, its dead letters
/// among it.
pub const SMALL_UNIT_BYTES: u64 = 64 << 10;

/// Keep the two kinds of signed statements apart from each other and from everything else.
const RECEIPT_DOMAIN: &[u8] = b"nexum receipt 1\n";
const REWIND_DOMAIN: &[u8] = b"nexum rewind 1\n";

/// The engine's ed25519 key.
pub struct EngineKey(SigningKey);

impl fmt::Debug for EngineKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EngineKey({})", self.public())
    }
}

impl EngineKey {
    /// The key of a 32-byte secret.
    pub fn from_secret(secret: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(secret))
    }

    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    fn sign(&self, message: &[u8]) -> Signature {
        Signature(self.0.sign(message).to_bytes())
    }

    /// Signs that this entry stands in the module's journal.
    pub fn receipt(&self, module: &Arc<str>, place: Place) -> Receipt {
        let key = self.public();
        let signature = self.sign(&receipt_message(&key, module, place));
        let Place { seq, digest, component, at_ms } = place;
        Receipt { key, module: module.clone(), seq, digest, component, at_ms, signature }
    }

    /// Signs that the module was rewound.
    pub fn rewound(&self, module: &Arc<str>, rewound: &mut RewindRecord) {
        let key = self.public();
        rewound.signature = Some(self.sign(&rewound.message(&key, module)));
        rewound.key = Some(key);
    }
}

fn verified(key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
    let signature = ed25519_dalek::Signature::from_bytes(&signature.0);
    VerifyingKey::from_bytes(&key.0).is_ok_and(|key| key.verify_strict(message, &signature).is_ok())
}

/// A place in a journal, as a receipt states it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub seq: u64,
    /// Of the entry `seq`; through it of every entry before.
    pub digest: Hash,
    pub component: Hash,
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
}

/// `domain`, the key, the module's name behind its length, and the numbers; all integers big-endian.
fn receipt_message(key: &PublicKey, module: &str, place: Place) -> Vec<u8> {
    let Place { seq, digest, component, at_ms } = place;
    let mut message = named(RECEIPT_DOMAIN, key, module);
    message.extend_from_slice(&seq.to_be_bytes());
    message.extend_from_slice(&digest.0);
    message.extend_from_slice(&component.0);
    message.extend_from_slice(&at_ms.to_be_bytes());
    message
}

fn named(domain: &[u8], key: &PublicKey, module: &str) -> Vec<u8> {
    let mut message = Vec::with_capacity(domain.len() + 128 + module.len());
    message.extend_from_slice(domain);
    message.extend_from_slice(&key.0);
    message.extend_from_slice(&(module.len() as u32).to_be_bytes());
    message.extend_from_slice(module.as_bytes());
    message
}

/// The engine's signature under one entry of a module's journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    pub key: PublicKey,
    pub module: Arc<str>,
    pub seq: u64,
    pub digest: Hash,
    pub component: Hash,
    /// When the unit was made, milliseconds since the Unix epoch.
    pub at_ms: u64,
    pub signature: Signature,
}

impl Receipt {
    /// Whether the signature is right for the key that the receipt names.
    pub fn is_genuine(&self) -> bool {
        let Self { key, module, seq, digest, component, at_ms, signature } = self;
        let place = Place { seq: *seq, digest: *digest, component: *component, at_ms: *at_ms };
        verified(key, &receipt_message(key, module, place), signature)
    }
}

/// What a rewind leaves behind: the units `to_seq + 1` to `from_seq` were undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RewindRecord {
    /// Of the module, from 1 on.
    pub number: u64,
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// The last unit before the rewind, and the digest of its entry.
    pub from_seq: u64,
    pub from_digest: Hash,
    /// The last unit after it.
    pub to_seq: u64,
    pub to_digest: Hash,
    /// Absent when the engine has no key.
    pub key: Option<PublicKey>,
    pub signature: Option<Signature>,
    /// Receipts of units that were undone, oldest first.
    pub withdrawn: Vec<Receipt>,
}

impl RewindRecord {
    fn message(&self, key: &PublicKey, module: &str) -> Vec<u8> {
        let mut message = named(REWIND_DOMAIN, key, module);
        message.extend_from_slice(&self.number.to_be_bytes());
        message.extend_from_slice(&self.at_ms.to_be_bytes());
        for (seq, digest) in [(self.from_seq, self.from_digest), (self.to_seq, self.to_digest)] {
            message.extend_from_slice(&seq.to_be_bytes());
            message.extend_from_slice(&digest.0);
        }
        message
    }

    /// Whether the record is signed, and rightly so for the key that it names.
    pub fn is_genuine(&self, module: &str) -> bool {
        let (Some(key), Some(signature)) = (&self.key, &self.signature) else { return false };
        verified(key, &self.message(key, module), signature)
    }

    /// Whether the rewind undid this unit.
    pub fn undid(&self, seq: u64) -> bool {
        self.to_seq < seq && seq <= self.from_seq
    }
}

/// Where a page of a journal starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JournalStart {
    /// At this unit, or the oldest one kept after it.
    At(u64),
    /// So that the page ends with the newest unit.
    Newest,
}

/// Part of a module's journal, and where the whole stands at that moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JournalPage {
    /// Oldest first.
    pub entries: Vec<JournalEntry>,
    /// Those of these entries.
    pub receipts: Vec<Receipt>,
    /// The oldest entry kept; 0 when there is none.
    pub oldest: u64,
    /// What the kept entries take with what undoes them and their recordings, bytes.
    pub bytes: u64,
    /// The newest entry and its digest, as the module's record has them.
    pub newest: u64,
    pub digest: Hash,
    /// Number of the newest rewind; 0 when there was none.
    pub rewinds: u64,
    /// Who signs.
    pub key: Option<PublicKey>,
}

/// A key that a unit changed, with the sizes of its values; absent where there was or is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedKey {
    pub key: String,
    pub old_bytes: Option<u64>,
    pub new_bytes: Option<u64>,
}

/// One unit as the journal keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitDetail {
    pub entry: JournalEntry,
    pub changes: Vec<ChangedKey>,
    /// Keys plus values of the state before the unit, bytes.
    pub state_bytes_before: u64,
    /// A dead letter that the unit handled after all.
    pub resolved: Option<u64>,
    /// What it asked to send, in order.
    pub effects: Vec<EffectSummary>,
    /// The oldest receipt that covers the unit.
    pub receipt: Option<Receipt>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> EngineKey {
        EngineKey::from_secret(&[7; 32])
    }

    fn place() -> Place {
        Place { seq: 9, digest: Hash([1; 32]), component: Hash([2; 32]), at_ms: 1_700_000_000_000 }
    }

    #[test]
    fn a_receipt_is_genuine_until_any_part_of_it_changes() {
        let receipt = key().receipt(&"m".into(), place());
        assert!(receipt.is_genuine());
        let other = EngineKey::from_secret(&[8; 32]).public();
        for changed in [
            Receipt { module: "n".into(), ..receipt.clone() },
            Receipt { seq: 10, ..receipt.clone() },
            Receipt { digest: Hash([3; 32]), ..receipt.clone() },
            Receipt { component: Hash([3; 32]), ..receipt.clone() },
            Receipt { at_ms: 1, ..receipt.clone() },
            Receipt { key: other, ..receipt.clone() },
        ] {
            assert!(!changed.is_genuine(), "{changed:?}");
        }
        let text = serde_json::to_string(&receipt).unwrap();
        assert_eq!(serde_json::from_str::<Receipt>(&text).unwrap(), receipt);
    }

    #[test]
    fn a_rewind_is_signed_for_its_module_and_never_passes_for_a_receipt() {
        let mut rewound = RewindRecord {
            number: 1,
            at_ms: 5,
            from_seq: 9,
            from_digest: Hash([1; 32]),
            to_seq: 6,
            to_digest: Hash([2; 32]),
            key: None,
            signature: None,
            withdrawn: Vec::new(),
        };
        assert!(!rewound.is_genuine("m"));
        key().rewound(&"m".into(), &mut rewound);
        assert!(rewound.is_genuine("m") && !rewound.is_genuine("n"));
        assert!(!RewindRecord { to_seq: 7, ..rewound.clone() }.is_genuine("m"));
        assert_eq!([6, 7, 9, 10].map(|seq| rewound.undid(seq)), [false, true, true, false]);
        assert_ne!(RECEIPT_DOMAIN, REWIND_DOMAIN);
    }
}
