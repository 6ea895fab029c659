//! What is durable of one nonce of one account: the intent that uses it, everything that was signed for it, and where it
//! stands.
//!
//! Invariant: nonce, intent, bytes and hash are one record, written before the bytes leave. There is no counter beside the
//! records.

use std::sync::Arc;

use nexum_host_ifaces::{
    Address, Hash,
    interfaces::identity::port::Fees,
    store::RECORD_BYTES_MAX,
    transactions::{FailureKind, Intent},
};
use serde::{Deserialize, Serialize};

/// The service that the records are of.
pub const SERVICE: &str = "transactions";
/// What every key begins with.
pub const PREFIX: &[u8] = b"nonce/";
/// What the key of every intent begins with that was given up before it had a nonce.
pub const GIVEN_UP: &[u8] = b"given-up/";
/// The form that records are written in.
const FORM: u8 = 1;
/// What of a record is left to what is not bytes of transactions.
const ROOM: usize = 4 * 1024;

/// One account on one chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueKey {
    pub chain_id: u64,
    pub account: Address,
}

/// One signed transaction of a nonce.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Variant {
    /// Empty once nobody needs it any more: of each kind the newest has it.
    pub raw: Arc<[u8]>,
    pub hash: Hash,
    pub fees: Fees,
    pub gas_limit: u64,
    /// When it was signed, milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// A transfer of nothing instead of what was asked for.
    pub empty: bool,
}

/// A variant in a block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mined {
    pub hash: Hash,
    pub block_number: u64,
    pub block_hash: Hash,
    pub succeeded: bool,
    pub gas_used: u64,
    pub effective_gas_price: u128,
    pub contract: Option<Address>,
}

/// Where a nonce stands. Each is a fact of its own: what is signed may not have been accepted, and what was accepted may
/// be forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// Signed. Whether a node has it is not known.
    Signed,
    /// A node said that it has one of the variants.
    Accepted,
    /// In a block that may go.
    Mined(Mined),
    /// In a block as deep as was asked for.
    Final(Mined),
    /// Used by a transaction that this engine did not make.
    Foreign,
    /// Nobody has it or can take it: the nonce is free.
    Void,
}

/// Everything about one nonce.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    pub nonce: u64,
    /// Within whose policy it was signed.
    pub module: Arc<str>,
    /// Absent of a transfer of nothing that closes a gap, and once the intent has gone on to another nonce.
    pub intent: Option<Box<Intent>>,
    /// Oldest first.
    pub variants: Vec<Variant>,
    pub standing: Standing,
    /// The end of the intent when a transfer of nothing is mined in its stead, or when nothing is.
    pub withdrawn: Option<(FailureKind, String)>,
    /// Whoever asked has been told the end.
    pub told: bool,
    pub at_ms: u64,
}

impl Slot {
    /// Neither final, nor foreign, nor void.
    pub fn is_live(&self) -> bool {
        matches!(self.standing, Standing::Signed | Standing::Accepted | Standing::Mined(_))
    }

    /// Live, and in no block.
    pub fn is_open(&self) -> bool {
        matches!(self.standing, Standing::Signed | Standing::Accepted)
    }

    /// What was signed last. A nonce without a signature has no record.
    pub fn newest(&self) -> &Variant {
        let Some(newest) = self.variants.last() else { unreachable!("nonce {} was never signed", self.nonce) };
        newest
    }

    /// Blocks that make it final, its own included.
    pub fn confirmations(&self) -> u64 {
        self.intent.as_ref().map_or(1, |intent| u64::from(intent.confirmations.max(1)))
    }

    /// What goes out again where a final variant's block went: that one, or the newest of its kind.
    pub fn bytes_of(&self, mined: &Mined) -> &Variant {
        let found = self.variants.iter().find(|variant| variant.hash == mined.hash);
        let Some(found) = found else { unreachable!("{} was not signed with nonce {}", mined.hash, self.nonce) };
        let mut alike = self.variants.iter().rev().filter(|variant| variant.empty == found.empty);
        if found.raw.is_empty() { alike.next().unwrap_or(found) } else { found }
    }

    /// Ended by a revert, as whoever asked was told: where its block went it must not happen after all.
    pub fn has_reverted(&self) -> bool {
        matches!(&self.standing, Standing::Final(mined) if !mined.succeeded && !self.bytes_of(mined).empty)
    }

    /// Adds what was signed last. Of each kind only the newest bytes are ever sent again; of the others the hashes stay, for
    /// any of them may be mined.
    pub fn push(&mut self, variant: Variant) {
        for older in self.variants.iter_mut().filter(|older| older.empty == variant.empty) {
            older.raw = Arc::default();
        }
        self.variants.push(variant);
    }

    /// Whether one more variant with so many bytes fits into the record.
    pub fn has_room_for(&self, bytes: usize) -> bool {
        let signed: usize = self.variants.iter().map(|variant| variant.raw.len() + 160).sum();
        let asked = self.intent.as_ref().map_or(0, |intent| {
            let list: usize = intent.request.access_list.iter().map(|(_, keys)| 24 + 34 * keys.len()).sum();
            intent.request.data.len() + list + intent.id.len()
        });
        signed + asked + bytes + ROOM <= RECORD_BYTES_MAX
    }

    /// Drops what is only needed to send it again.
    pub fn strip(&mut self) {
        for variant in &mut self.variants {
            variant.raw = Arc::default();
        }
        if let Some(intent) = &mut self.intent {
            intent.request.data = Vec::new();
            intent.request.access_list = Vec::new();
        }
    }

    pub fn is_stripped(&self) -> bool {
        self.variants.iter().all(|variant| variant.raw.is_empty())
    }

    pub fn encode(&self) -> Vec<u8> {
        match postcard::to_extend(self, vec![FORM]) {
            Ok(bytes) => bytes,
            Err(error) => unreachable!("a record that cannot be encoded: {error}"),
        }
    }

    /// # Errors
    /// Says what is wrong with the record.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let Some((&FORM, body)) = bytes.split_first() else {
            return Err("it is of another version of nexum".to_owned());
        };
        let slot: Self = postcard::from_bytes(body).map_err(|error| error.to_string())?;
        if slot.variants.is_empty() {
            return Err("it has no signed bytes".to_owned());
        }
        Ok(slot)
    }
}

/// The key of a nonce's record: in their order, those of one account are together and ascend.
pub fn key(queue: &QueueKey, nonce: u64) -> Vec<u8> {
    [PREFIX, &queue.chain_id.to_be_bytes(), &queue.account.0, &nonce.to_be_bytes()].concat()
}

/// The account and the nonce that a key is of.
pub fn of_key(key: &[u8]) -> Option<(QueueKey, u64)> {
    let rest = key.strip_prefix(PREFIX)?;
    let (chain, rest) = rest.split_first_chunk::<8>()?;
    let (account, rest) = rest.split_first_chunk::<20>()?;
    let nonce = <[u8; 8]>::try_from(rest).ok()?;
    let queue = QueueKey { chain_id: u64::from_be_bytes(*chain), account: Address(*account) };
    Some((queue, u64::from_be_bytes(nonce)))
}

/// The key that says that an intent was given up before it had a nonce.
pub fn given_up_key(queue: &QueueKey, intent: &str) -> Vec<u8> {
    [GIVEN_UP, &queue.chain_id.to_be_bytes(), &queue.account.0, intent.as_bytes()].concat()
}

/// That an intent was given up is all there is to say.
pub fn given_up() -> Vec<u8> {
    vec![FORM]
}

/// The account and the intent that such a key is of.
pub fn of_given_up(key: &[u8]) -> Option<(QueueKey, String)> {
    let rest = key.strip_prefix(GIVEN_UP)?;
    let (chain, rest) = rest.split_first_chunk::<8>()?;
    let (account, intent) = rest.split_first_chunk::<20>()?;
    let queue = QueueKey { chain_id: u64::from_be_bytes(*chain), account: Address(*account) };
    Some((queue, String::from_utf8(intent.to_vec()).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written_and_another_form_is_refused() {
        let variant = Variant {
            raw: Arc::from([2, 3]),
            hash: Hash([1; 32]),
            fees: Fees::Legacy { gas_price: 7 },
            gas_limit: 21_000,
            at_ms: 5,
            empty: true,
        };
        let slot = Slot {
            nonce: 9,
            module: "keeper".into(),
            intent: None,
            variants: vec![variant],
            standing: Standing::Signed,
            withdrawn: Some((FailureKind::Cancelled, "why".into())),
            told: false,
            at_ms: 4,
        };
        let mut bytes = slot.encode();
        assert_eq!(Slot::decode(&bytes), Ok(slot.clone()));
        bytes[0] = 9;
        assert_eq!(Slot::decode(&bytes), Err("it is of another version of nexum".to_owned()));
        assert!(Slot::decode(&[]).is_err());
        let unsigned = Slot { variants: Vec::new(), ..slot.clone() };
        assert_eq!(Slot::decode(&unsigned.encode()), Err("it has no signed bytes".to_owned()));
        assert!(slot.has_room_for(900_000) && !slot.has_room_for(RECORD_BYTES_MAX));
        // The newest bytes of each kind are kept, and every hash.
        let mut many = slot;
        for number in 0..40u8 {
            let newest = Variant { hash: Hash([number; 32]), empty: number % 8 == 0, ..many.newest().clone() };
            many.push(Variant { raw: Arc::from([number]), ..newest });
        }
        let kept: Vec<u8> = many.variants.iter().filter_map(|variant| variant.raw.first().copied()).collect();
        assert_eq!((many.variants.len(), kept), (41, vec![32, 39]));
    }

    #[test]
    fn keys_ascend_by_nonce_and_say_what_they_are_of() {
        let queue = QueueKey { chain_id: 10, account: Address([7; 20]) };
        let [low, high] = [255, 256].map(|nonce| key(&queue, nonce));
        assert!(low < high);
        assert_eq!(of_key(&high), Some((queue, 256)));
        assert_eq!(of_key(b"nonce/1"), None);
        let given_up = given_up_key(&queue, "m/block:7/0");
        assert_eq!(of_given_up(&given_up), Some((queue, "m/block:7/0".to_owned())));
        assert_eq!((of_key(&given_up), of_given_up(&high)), (None, None));
    }
}
