//! Transactions: the actor that sends them and follows what becomes of them.
//!
//! `queue` decides for one account on one chain, from `record`s, and is pure, as are `classify` (what a node's answer means),
//! `voices` (what several say) and `fees`. `questions` asks the chain, `task` carries out what a queue wants, and `actor` holds the queues.
//!
//! Deliberately absent: keys and policies, which are the identity actor's; and any knowledge of a chain library: questions
//! are JSON text, and bytes are whatever the identity actor signed.

mod actor;
pub mod classify;
pub mod fees;
mod metrics;
mod questions;
pub mod queue;
pub mod record;
mod task;
pub mod voices;

pub use actor::{Args, TransactionsActor, spawn};
pub use metrics::TransactionsMetrics;
pub use queue::ChainSettings;
pub use record::SERVICE;
