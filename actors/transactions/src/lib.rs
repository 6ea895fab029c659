//! Transactions: the actor that sends them and follows what becomes of them.
//!
//! `lane` decides for one account on one chain, from `record`s, and is pure, as are `classify` (what a node's answer means),
//! `voices` (what several say) and `fees`. `questions` asks the chain, `task` carries out what a lane wants, and `actor` holds the lanes.
//!
//! Deliberately absent: keys and policies, which are the identity actor's; and any knowledge of a chain library: questions
//! are JSON text, and bytes are whatever the identity actor signed.

mod actor;
pub mod classify;
pub mod fees;
pub mod lane;
mod metrics;
mod questions;
pub mod record;
mod task;
pub mod voices;

pub use actor::{Args, TransactionsActor, spawn};
pub use lane::ChainSettings;
pub use metrics::TransactionsMetrics;
pub use record::SERVICE;
