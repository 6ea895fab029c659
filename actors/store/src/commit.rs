//! What each message puts into the group that waits to be written. Everything is decided when it queues.

mod effects;
pub(crate) mod last;
mod module;
mod services;
pub(crate) mod unit;
