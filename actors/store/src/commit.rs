//! What each message puts into the group that waits to be written. Everything is decided when it queues.

pub(crate) mod crashes;
pub(crate) mod dead_letters;
pub(crate) mod effects;
pub(crate) mod last;
pub(crate) mod module;
pub(crate) mod unit;
