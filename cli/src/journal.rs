//! What can be said about a journal from its exported lines alone, and where the lines come from. Needs no engine.

pub mod diff;
pub mod source;
pub mod verify;
