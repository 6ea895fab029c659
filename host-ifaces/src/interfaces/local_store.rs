//! The interface `local-store`.

pub mod guest;
