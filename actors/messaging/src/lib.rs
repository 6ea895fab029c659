//! The messaging actor: messages on the topics of Waku, through the REST API of the operator's nodes (nwaku).
//!
//! `scan` decides what of a node's stored messages a module is still to be given, and is pure, as is `wire`, which knows how
//! nodes write things. `nodes` asks one node after the other. On top of them `pulls` waits for what a module has not handled yet,
//! `live` hears that there is something new, and `service` publishes and answers queries. `actor` is the mailbox.
//!
//! Invariant: a message comes from the store alone, and never from what is heard live: that only says when to look. So a
//! restart misses nothing that the node still has, and what it no longer has is told as a gap.

mod actor;
mod live;
mod metrics;
mod nodes;
mod pulls;
mod scan;
mod service;
mod settings;
#[cfg(any(test, feature = "fuzzing"))]
mod torture;
mod wire;

pub use actor::{Args, MessagingActor, spawn};
pub use metrics::MessagingMetrics;
pub use settings::{PAGE_SIZE_MAX, PublishBy, Settings};

#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod readers {
    pub use crate::torture::page;
}
