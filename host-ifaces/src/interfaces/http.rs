//! The interface `http`.

pub mod grant;
pub mod guest;
pub mod port;
