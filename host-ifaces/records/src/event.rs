//! How events and positions in their sources are named, for ever: in stores, journals and requests.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::Hash;

/// What a module calls one of its event streams; the key of its durable cursor. Stable across restarts and manifest
/// edits that keep the subscription: `chain:1`, `chain:1:confirmations=3`, `cron:*/5 * * * *`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SourceId(Arc<str>);

impl SourceId {
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How much of a block a module has handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// Its logs; the block event is still to come.
    Logs,
    /// All of it.
    Block,
}

/// A position in a source: everything up to and including it has been handled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cursor {
    Chain {
        number: u64,
        /// Absent only for a starting point that nobody has read yet (`start_block - 1`).
        hash: Option<Hash>,
        part: Part,
    },
    /// Milliseconds since the Unix epoch of the last scheduled time handled.
    Cron { fired_at: u64 },
    /// Of the last event handled, in a source that numbers its events, such as the outcomes of effects.
    Number { number: u64 },
    /// In a source whose events may come late, such as the messages of a topic. Everything before `time_ns` is done with, and
    /// what has that very time up to `hash`; of what is later, those that `handled` names.
    Message { time_ns: u64, hash: Option<Hash>, handled: Vec<HandledMessage> },
}

/// A message that was handled before all that are older than it were sure to be there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HandledMessage {
    pub time_ns: u64,
    pub hash: Hash,
}

impl Cursor {
    /// The cursor after a whole block.
    pub fn block(number: u64, hash: Hash) -> Self {
        Self::Chain { number, hash: Some(hash), part: Part::Block }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chain { number, part: Part::Block, .. } => write!(f, "{number}"),
            Self::Chain { number, part: Part::Logs, .. } => write!(f, "{number}/logs"),
            Self::Cron { fired_at } => write!(f, "{fired_at}"),
            Self::Number { number } => write!(f, "{number}"),
            Self::Message { time_ns, handled, .. } if handled.is_empty() => write!(f, "{time_ns}"),
            Self::Message { time_ns, handled, .. } => write!(f, "{time_ns}+{}", handled.len()),
        }
    }
}

/// Names one event for ever: the same event delivered again has the same id.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventId {
    Init,
    Block {
        chain_id: u64,
        number: u64,
        hash: Hash,
    },
    Logs {
        chain_id: u64,
        number: u64,
        hash: Hash,
    },
    Tick {
        source: SourceId,
        fired_at: u64,
    },
    /// A reorg that a module is told of. `nth` counts those of the module, from 1 on and over all chains: a chain may go
    /// back and forth between the same two heads, and what is sent because of the second time is another effect.
    Reorg {
        chain_id: u64,
        old_head: Hash,
        new_head: Hash,
        nth: u64,
    },
    /// What became of an effect. `effect` is the digest of its id; `round` counts how often it had ended before.
    Outcome {
        effect: Hash,
        round: u32,
    },
    /// No event: the source had nothing for the module up to its new cursor.
    Advance {
        source: SourceId,
    },
    /// A dead letter delivered again on the operator's word; `seq` is the letter's sequence number.
    Retry {
        seq: u64,
    },
    /// A message of a topic, by the hash that its network gives it.
    Message {
        source: SourceId,
        hash: Hash,
    },
}

impl EventId {
    /// Whether both are attempts at one event. A reorg is told with the head of the moment, which another attempt may find
    /// moved on; its number is the same.
    pub fn is_again(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Reorg { chain_id, nth, .. }, Self::Reorg { chain_id: other_chain_id, nth: other_nth, .. }) => {
                (chain_id, nth) == (other_chain_id, other_nth)
            }
            _ => self == other,
        }
    }

    /// The event's kind as metrics and logs name it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Init => "init",
            Self::Block { .. } => "block",
            Self::Logs { .. } => "logs",
            Self::Tick { .. } => "tick",
            Self::Reorg { .. } => "reorg",
            Self::Outcome { .. } => "outcome",
            Self::Advance { .. } => "advance",
            Self::Retry { .. } => "retry",
            Self::Message { .. } => "message",
        }
    }

    /// Chain and hash of the block that an event is of, for events of one block.
    pub fn block_hash(&self) -> Option<(u64, Hash)> {
        match self {
            Self::Block { chain_id, hash, .. } | Self::Logs { chain_id, hash, .. } => Some((*chain_id, *hash)),
            _ => None,
        }
    }

    /// Chain and block number, for events that have them.
    pub fn block(&self) -> Option<(u64, u64)> {
        match self {
            Self::Block { chain_id, number, .. } | Self::Logs { chain_id, number, .. } => Some((*chain_id, *number)),
            _ => None,
        }
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Init => f.write_str("init"),
            Self::Block { chain_id, number, hash } => write!(f, "block:{chain_id}:{number}:{hash}"),
            Self::Logs { chain_id, number, hash } => write!(f, "logs:{chain_id}:{number}:{hash}"),
            Self::Tick { source, fired_at } => write!(f, "tick:{source}:{fired_at}"),
            Self::Reorg { chain_id, old_head, new_head, nth } => {
                write!(f, "reorg:{chain_id}:{old_head}:{new_head}:{nth}")
            }
            Self::Outcome { effect, round } => write!(f, "outcome:{effect}:{round}"),
            Self::Advance { source } => write!(f, "advance:{source}"),
            Self::Retry { seq } => write!(f, "retry:{seq}"),
            // The source is `message:` and the topic.
            Self::Message { source, hash } => write!(f, "{source}:{hash}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoded::encoded;

    fn reorg() -> EventId {
        EventId::Reorg { chain_id: 1, old_head: Hash([1; 32]), new_head: Hash([2; 32]), nth: 3 }
    }

    #[test]
    fn a_reorg_and_a_number_read_as_operators_know_them() {
        let (old, new) = (Hash([1; 32]), Hash([2; 32]));
        assert_eq!(reorg().to_string(), format!("reorg:1:{old}:{new}:3"));
        assert_eq!(serde_json::to_value(reorg()).unwrap()["reorg"]["nth"], 3);
        let cursor = Cursor::Number { number: 5 };
        assert_eq!(cursor.to_string(), "5");
        assert_eq!(serde_json::to_string(&cursor).unwrap(), r#"{"number":{"number":5}}"#);
    }

    #[test]
    fn a_message_and_a_position_among_messages_read_as_operators_know_them() {
        let (source, hash) = (SourceId::new("message:/app/1/x/proto"), Hash([1; 32]));
        assert_eq!(EventId::Message { source, hash }.to_string(), format!("message:/app/1/x/proto:{hash}"));
        let at = |handled| Cursor::Message { time_ns: 7, hash: Some(hash), handled }.to_string();
        assert_eq!((at(Vec::new()), at(vec![HandledMessage { time_ns: 8, hash }])), ("7".into(), "7+1".into()));
    }

    /// Digests are computed from it.
    #[test]
    fn the_place_of_every_kind_stays_what_it_is() {
        let source = || SourceId::new("any");
        let (chain_id, number, hash) = (1, 2, Hash([3; 32]));
        let ids = [
            EventId::Init,
            EventId::Block { chain_id, number, hash },
            EventId::Logs { chain_id, number, hash },
            EventId::Tick { source: source(), fired_at: 4 },
            reorg(),
            EventId::Outcome { effect: hash, round: 5 },
            EventId::Advance { source: source() },
            EventId::Retry { seq: 6 },
            EventId::Message { source: source(), hash },
        ];
        assert_eq!(ids.map(|id| encoded(&id)[0]), [0, 1, 2, 3, 4, 5, 6, 7, 8]);
        let message = Cursor::Message { time_ns: 4, hash: None, handled: Vec::new() };
        let cursors = [Cursor::block(number, hash), Cursor::Cron { fired_at: 4 }, Cursor::Number { number }, message];
        assert_eq!(cursors.map(|cursor| encoded(&cursor)[0]), [0, 1, 2, 3]);
    }
}
