//! What can be said about a journal from its exported lines alone, and where the lines come from. Needs no engine.

pub mod source;

pub use nexum_admin_api::journal::{diff, verify};
