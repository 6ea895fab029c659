//! What can be said about a journal from its exported lines alone, and lines from a store that no engine need run on.

pub mod source;

#[cfg(test)]
pub use nexum_admin_api::journal::{diff, verify};
