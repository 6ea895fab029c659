//! The interface `random`.

pub mod guest;
