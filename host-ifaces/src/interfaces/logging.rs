//! The interface `logging`.

pub mod guest;
