//! The interface `outbox`.

pub mod guest;
