//! Events as the kernel moves them: identity, cursors, deliveries, and how a module pulls them from a source.
//!
//! Invariant: a source never pushes. A module asks for what follows its cursor, one outstanding pull per source, and the
//! source answers with one bounded reply when there is something. So there is no queue that can grow.

use std::sync::Arc;

pub use nexum_records::event::{Cursor, EventId, HandledMessage, Part, SourceId};
use ractor::DerivedActorRef;

use crate::{Hash, types::Event};

/// One event on its way to one module. Cheap to clone: the payload is shared by every subscriber.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub id: EventId,
    pub event: Arc<Event>,
    /// Where the source's cursor stands once this event is handled.
    pub cursor: Cursor,
    /// Monotonic nanoseconds at which the source saw the event; 0 when it is history.
    pub seen_ns: u64,
}

/// A source's answer to one pull.
#[derive(Debug)]
pub struct SourceReply {
    pub source: SourceId,
    /// Copied from the pull; the module ignores answers to pulls it has given up.
    pub token: u64,
    pub answer: Answer,
}

#[derive(Debug)]
pub enum Answer {
    /// In order. `progress` is where the cursor stands after all of them, past whatever did not concern the module; it
    /// is set even when `deliveries` is empty.
    Events { deliveries: Vec<Delivery>, progress: Option<Cursor>, skipped: u64 },
    /// The block at the module's cursor is no longer canonical.
    Reorg(Reorg),
    /// The source cannot serve this cursor and will not without the operator, such as a fork deeper than the history.
    Stuck { reason: String },
}

/// A change of the canonical chain below a module's cursor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reorg {
    pub chain_id: u64,
    /// Number and hash of the last block that both branches share.
    pub ancestor: (u64, Hash),
    pub old_head: (u64, Hash),
    pub new_head: (u64, Hash),
}

/// Where a source sends its answers.
pub type Subscriber = DerivedActorRef<SourceReply>;
