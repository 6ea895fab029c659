//! The gateway: what people and machines see of a running engine over HTTP.
//!
//! Owns the listeners for health, metrics and the admin API, and the JSON shapes of the latter. It decides nothing: orders
//! go to the kernel through `Port<AdminMsg>`, questions about state to `Port<StoreMsg>`, each with a deadline.
//!
//! Invariant: nothing here keeps state that an operator's answer depends on; a restarted gateway answers the same.

mod actor;
mod admin;
pub mod api;
mod error;
mod listen;
mod logs;
mod probes;
mod serve;

pub use actor::{Addresses, AdminTcp, Args, Gateway, Msg, Token, spawn};
pub use listen::ListenError;
pub use logs::LogTap;
