//! The interface `clock`.

pub mod guest;
