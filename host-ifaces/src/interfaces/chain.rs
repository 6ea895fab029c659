//! The interface `chain`.

pub mod grant;
pub mod guest;
pub mod port;
