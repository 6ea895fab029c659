//! The interfaces of the host.

pub mod chain;
pub mod clock;
pub mod http;
pub mod local_store;
pub mod logging;
pub mod outbox;
pub mod random;
