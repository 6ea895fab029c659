//! The outbox: effects that leave the host only once their event is committed.
//!
//! Owns what the store keeps of an effect, and the questions that the outbox actor asks the store. An effect has one
//! name for ever, its id: the same event delivered again sends the same ids. What happened to an effect (`Progress`) is
//! kept by its id, apart from the unit that sent it (`Entry`), so that a rewind can undo the sending and not the past.
//!
//! Invariant: `Progress::released` is durable before the first attempt leaves, so that a rewind knows what may have left.

use std::sync::Arc;

pub use nexum_records::effect::EffectSummary;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use crate::bindings::nexum::host::outbox::{Effect, HttpEffect, Release, RpcEffect};
use crate::{
    Hash, effects,
    event::{EventId, SourceId},
    state::{ModuleId, Reply},
    types::{Outcome, OutcomeStatus},
};

/// An event id longer than this goes into effect ids as its digest: receivers commonly take keys of at most 255 bytes.
const EVENT_TEXT_BYTES_MAX: usize = 150;

/// What stands before the ordinal of what was sent in a call.
const CALL: &str = "call-";

/// The source of a module's outcomes.
pub const SOURCE: &str = "outbox";

/// The block that an effect's event belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockPoint {
    pub chain_id: u64,
    pub number: u64,
    pub hash: Hash,
}

/// One effect as its event sent it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EffectEntry {
    pub id: String,
    /// The idempotency key; the id unless the module chose one.
    pub key: String,
    pub lane: Option<String>,
    pub release: Release,
    /// Absent for events without a block.
    pub block: Option<BlockPoint>,
    /// Milliseconds since the Unix epoch.
    pub sent_at_ms: u64,
    pub effect: Effect,
}

impl EffectEntry {
    /// Where it goes, for limits and lists. Never a path, which may hold a secret.
    pub fn destination(&self) -> String {
        effects::of(&self.effect).destination()
    }

    /// What it is and where it goes, for lists.
    pub fn brief(&self) -> EffectSummary {
        let release = match self.release {
            Release::Committed => "committed",
            Release::Safe => "safe",
            Release::Finalized => "finalized",
        };
        EffectSummary {
            id: self.id.clone(),
            key: self.key.clone(),
            kind: effects::of(&self.effect).name().to_owned(),
            destination: self.destination(),
            lane: self.lane.clone(),
            release: release.to_owned(),
        }
    }

    /// SHA-256 over what it is and how it goes, but not when it was sent.
    pub fn digest(&self) -> Hash {
        let Self { id, key, lane, release, effect, block: _, sent_at_ms: _ } = self;
        Hash(Sha256::digest(nexum_records::encoded::encoded(&(id, key, lane, release, effect))).into())
    }

    /// The same without what only a further attempt would need.
    pub fn stripped(&self) -> Self {
        Self { effect: effects::of(&self.effect).stripped(), ..self.clone() }
    }
}

/// The id of the effect that a module's event sent as its `ordinal`-th.
pub fn effect_id(module: &str, event: &EventId, ordinal: usize) -> String {
    format!("{}/{ordinal}", prefix(module, event))
}

/// The name of the transaction that a module's event sent in a call as its `ordinal`-th; no effect has one like it.
pub fn call_id(module: &str, event: &EventId, ordinal: usize) -> String {
    format!("{}/{CALL}{ordinal}", prefix(module, event))
}

/// Whether a name is of something that was sent in a call, so that nobody waits for what becomes of it.
pub fn is_of_call(id: &str) -> bool {
    id.rsplit('/').next().is_some_and(|last| last.starts_with(CALL))
}

fn prefix(module: &str, event: &EventId) -> String {
    let mut event = event.to_string();
    if event.len() > EVENT_TEXT_BYTES_MAX {
        event = Hash(Sha256::digest(&event).into()).to_string();
    }
    format!("{module}/{event}")
}

/// The fixed-length name of an effect in keys of the store.
pub fn digest(effect_id: &str) -> Hash {
    Hash(Sha256::digest(effect_id).into())
}

/// Where the store keeps an entry: the unit that sent it, and which of its effects it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Location {
    pub seq: u64,
    pub ordinal: u32,
}

/// What became of an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ended {
    Delivered,
    Failed,
    /// By the operator.
    Cancelled,
    /// The block of its event was retracted before it was released.
    Retracted,
}

/// How far an effect has come.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Progress {
    /// Where it was sent last.
    pub at: Option<Location>,
    /// It may have left the host.
    pub released: bool,
    pub attempts: u32,
    /// Milliseconds since the Unix epoch.
    pub first_attempt_ms: u64,
    /// Not before; milliseconds since the Unix epoch.
    pub next_attempt_ms: u64,
    pub last_error: Option<String>,
    /// Times that it was ended and taken up again by the operator.
    pub round: u32,
    pub ended: Option<End>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    pub how: Ended,
    pub at_ms: u64,
    /// Number of the outcome that told the module.
    pub outcome: u64,
}

/// An outcome event as it waits for its module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutcomeRecord {
    /// Ascending per module; the position of the module's `outbox` source.
    pub number: u64,
    pub at_ms: u64,
    pub round: u32,
    pub outcome: Outcome,
}

/// What is known of a pending effect, without its body.
#[derive(Debug, Clone, PartialEq)]
pub struct PendingEffect {
    pub module: ModuleId,
    pub name: Arc<str>,
    /// Absent when the unit that sent it was undone after it was released.
    pub at: Option<Location>,
    pub id: String,
    pub key: String,
    pub lane: Option<String>,
    pub release: Release,
    pub block: Option<BlockPoint>,
    pub destination: String,
    /// What its module's quota counts.
    pub bytes: u64,
    pub sent_at_ms: u64,
    pub progress: Progress,
}

impl PendingEffect {
    pub fn new(
        module: ModuleId,
        name: Arc<str>,
        at: Option<Location>,
        entry: &EffectEntry,
        progress: Progress,
    ) -> Self {
        Self {
            module,
            name,
            at,
            id: entry.id.clone(),
            key: entry.key.clone(),
            lane: entry.lane.clone(),
            release: entry.release,
            block: entry.block,
            destination: entry.destination(),
            bytes: effects::of(&entry.effect).bytes() as u64,
            sent_at_ms: entry.sent_at_ms,
            progress,
        }
    }
}

/// What changed in the store's outbox, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum OutboxChange {
    /// A unit sent an effect; it is durable.
    Sent(PendingEffect),
    /// Units after `to_seq` were undone, and so was what they sent and had not been released.
    Rewound { module: ModuleId, to_seq: u64 },
    /// Everything about the module was removed.
    Purged { module: ModuleId },
}

/// Changes since the last answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Changes {
    Known(Vec<OutboxChange>),
    /// More changed than is kept: read everything again.
    Lost,
}

/// The answer to `OutboxRequest::Release`.
#[derive(Debug, Clone, PartialEq)]
pub enum Released {
    /// It may go out now. `again` says that it was marked before, so that an earlier attempt may have arrived.
    Now { entry: Box<EffectEntry>, progress: Progress, again: bool },
    /// It had ended in an earlier history, so that it does not go out again.
    Ended,
    /// It is not there any more.
    Gone,
}

/// One effect for people, pending or ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Listed {
    pub entry: EffectEntry,
    pub progress: Progress,
    /// The unit that sent it was undone.
    pub retracted: bool,
    /// False when what the effect carried is gone, as far as it carried anything.
    pub body_kept: bool,
}

/// An effect that had been released when a rewind undid its sending.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleasedEffect {
    pub id: String,
    pub key: String,
}

/// What the outbox actor asks of the store. Every request must be answered; writes after the sync.
#[derive(Debug)]
pub enum OutboxRequest {
    /// Every pending effect of every module. `Changes` go on from there.
    Pending { reply: Reply<Vec<PendingEffect>> },
    /// The change feed: answers when something changed, once; replaces an earlier request.
    Changes { reply: Reply<Changes> },
    /// How many changes were told or wait to be told since the last `Pending`; the greatest number when nobody has asked for
    /// it, or it has to be asked for again. What is durable when this is asked is among them.
    Told { reply: Reply<u64> },
    /// Marks an effect as released, durably, and hands out its body.
    Release { module: ModuleId, id: String, at: Option<Location>, now_ms: u64, reply: Reply<Released> },
    /// Replaces what is known of a pending effect after a failed attempt.
    Attempted { module: ModuleId, id: String, progress: Progress, reply: Reply<()> },
    /// Ends an effect: its outcome waits for the module from now on.
    End { end: Box<EndEffect>, reply: Reply<()> },
    /// Outcomes with a number above `after`, in order, at most `limit`.
    Outcomes { name: String, after: u64, limit: usize, reply: Reply<Vec<OutcomeRecord>> },
    /// Takes up an effect that failed or was cancelled: it is pending again, and the answer.
    Reopen { name: String, id: String, now_ms: u64, reply: Reply<PendingEffect> },
    /// Effects of a module, oldest first, pending ones before ended ones, at most `limit`; bodies stay out.
    List { name: String, limit: usize, reply: Reply<Vec<Listed>> },
    /// One effect with its body as far as it is kept.
    Show { name: String, id: String, reply: Reply<Listed> },
    /// Released effects of a source's events above the last block of a chain that stands, but for those that an earlier
    /// reorg named.
    ReleasedAbove { module: ModuleId, source: SourceId, block: (u64, u64), reply: Reply<Vec<ReleasedEffect>> },
    /// Forgets what no rewind can reach any more, and of what has ended the bodies past a bound.
    Prune { module: ModuleId, reply: Reply<()> },
}

/// How an effect ended.
#[derive(Debug, Clone, PartialEq)]
pub struct EndEffect {
    pub module: ModuleId,
    pub id: String,
    pub key: String,
    pub at: Option<Location>,
    pub progress: Progress,
    pub how: Ended,
    pub now_ms: u64,
    pub status: OutcomeStatus,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_effect_id_is_stable_readable_and_short_enough_for_a_header() {
        let block = EventId::Block { chain_id: 1, number: 5, hash: Hash([0xab; 32]) };
        let id = effect_id("alerts", &block, 2);
        assert_eq!(id, format!("alerts/block:1:5:0x{}/2", "ab".repeat(32)));
        assert_eq!(id, effect_id("alerts", &block, 2));
        let of_call = call_id("alerts", &block, 2);
        assert!(is_of_call(&of_call) && !is_of_call(&id) && !is_of_call("call-1/block/2"), "{of_call}");
        let long = EventId::Tick { source: SourceId::new(format!("cron:{}", "1,".repeat(200))), fired_at: 7 };
        let id = effect_id(&"m".repeat(64), &long, 63);
        assert!(id.len() <= 255 && id.contains("/0x"), "{id}");
    }
}
