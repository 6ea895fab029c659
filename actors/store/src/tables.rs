//! The tables: what is kept, each with its keys, its codec, its reads and its writes.
//!
//! To add one: a file, and a tag in `table`, among those of modules if it is theirs (or a column family there, with its
//! options in `open`). What a rewind makes of it is said in `rewind`.

pub(crate) mod headers;
pub(crate) mod journal;
pub(crate) mod letters;
pub(crate) mod modules;
pub(crate) mod outbox;
pub(crate) mod outcomes;
pub(crate) mod progress;
pub(crate) mod receipts;
pub(crate) mod recordings;
pub(crate) mod redelivery;
pub(crate) mod rewinds;
pub(crate) mod services;
pub(crate) mod state;
pub(crate) mod table;
