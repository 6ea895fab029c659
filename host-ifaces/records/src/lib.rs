//! What an engine keeps and tells of modules, as plain data: names of events and effects, journals and their receipts,
//! limits.
//!
//! Owns: how these are encoded, in stores and in JSON. Invariant: nothing here needs an engine, so that a client of one is
//! small; `nexum-host-ifaces` shows all of it at the places where an engine looks for it.

pub mod crash;
pub mod effect;
pub mod encoded;
pub mod entry;
pub mod event;
pub mod file;
mod hex_bytes;
pub mod journal;
pub mod limits;
pub mod rpc;
pub mod wait;

pub use hex_bytes::{Address, Hash, PublicKey, Signature};
