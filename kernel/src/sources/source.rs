//! What every source is to the rest of the kernel.

use std::{any::Any, collections::BTreeMap, fmt, sync::Arc};

use nexum_host_ifaces::{
    cron::ScheduleNext,
    event::{Cursor, EventId, Part, SourceId, Subscriber},
    grants::Grants,
    port::PortError,
    ports::Ports,
};

/// One stream of events with a cursor of its own: the subscriptions that must stay in order with each other.
pub trait Source: Any + fmt::Debug + Send + Sync {
    /// The key of its durable cursor. It stays the same for as long as the manifest keeps the subscription.
    fn id(&self) -> &SourceId;

    /// Whether this engine serves it to this module.
    fn is_served(&self, reach: &Reach<'_>) -> bool;

    /// Asks for what follows a cursor. One that is not served never answers.
    fn pull(&self, reach: &Reach<'_>, pull: Pull) -> Result<(), PortError>;

    /// Withdraws what the module waits for.
    fn forget(&self, reach: &Reach<'_>, module: Arc<str>) -> Result<(), PortError>;

    /// Orders the positions of this source.
    fn position(&self, cursor: &Cursor) -> (u64, Part);

    /// Whether a cursor that no event moved is worth a write, when the first of the two is durable.
    fn is_worth_keeping(&self, _kept: &Cursor, _cursor: &Cursor) -> bool {
        false
    }

    /// Whether something is there past a position.
    fn due(&self, at: Option<&Cursor>, now: &Now<'_>) -> Due;

    /// What it tells the module of, in words, one for each subscription.
    fn shown(&self, calendar: &Calendar<'_>) -> Vec<Shown>;

    /// Whether what is left of an answer may be asked for again later, and is the same then.
    fn may_end_early(&self) -> bool {
        false
    }

    /// Whether it leaves out an event like this when the module catches up.
    fn skips(&self, _event: &EventId) -> bool {
        false
    }

    /// The chain whose blocks its positions are.
    fn chain_id(&self) -> Option<u64> {
        None
    }
}

/// The ways to whatever serves the sources of one module.
pub struct Reach<'a> {
    pub ports: &'a Ports,
    pub grants: &'a Grants,
    pub outcomes: &'a dyn Outcomes,
}

/// The way to what becomes of effects.
pub trait Outcomes {
    /// Asks for the outcomes past the one with number `after`.
    fn pull(&self, source: SourceId, after: u64, pull: Pull) -> Result<(), PortError>;

    fn forget(&self, module: Arc<str>) -> Result<(), PortError>;
}

/// A module's request for what follows its cursor in one source.
pub struct Pull {
    pub module: Arc<str>,
    /// Comes back with the answer.
    pub token: u64,
    /// `None` on the very first pull.
    pub after: Option<Cursor>,
    /// Also those that the module would leave out when it catches up, and a position for each.
    pub every_event: bool,
    pub deliveries_max: usize,
    pub to: Subscriber,
}

/// Whether a source has something past a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    Yes,
    No,
    /// What could tell has not said in time where it stands.
    Unheard,
}

/// What there is to tell whether something is due.
pub struct Now<'a> {
    /// Of the chains that said in time where they stand.
    pub heads: &'a BTreeMap<u64, Heads>,
    pub next: &'a ScheduleNext,
    pub now_ms: u64,
}

/// How far a chain is.
#[derive(Debug, Clone, Copy)]
pub struct Heads {
    pub latest: u64,
    pub safe: Option<u64>,
    pub finalized: Option<u64>,
}

/// What there is to tell when something fires next.
pub struct Calendar<'a> {
    pub next: &'a ScheduleNext,
    pub now_ms: u64,
    /// Times that are told of one schedule, at most.
    pub times: usize,
}

/// One thing that a module is told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// The subscription in words.
    pub what: String,
    /// When it fires next, milliseconds since the Unix epoch: fewer than asked for when it then fires no more. Absent
    /// where nobody can tell.
    pub next_ms: Option<Vec<u64>>,
}
