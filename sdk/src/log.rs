//! Logging into the module's own log, and its macros. The host limits the rate, and counts and reports what it drops.

use std::fmt;

pub use crate::bindings::nexum::host::logging::Level;

/// Writes one line. The macros call this.
#[doc(hidden)]
pub fn log(level: Level, message: fmt::Arguments<'_>) {
    match message.as_str() {
        Some(text) => crate::raw::logging::log(level, text),
        None => crate::raw::logging::log(level, &message.to_string()),
    }
}

/// Logs at level trace; takes what `format!` takes.
#[macro_export]
macro_rules! trace {
    ($($arg:tt)+) => { $crate::__private::log($crate::Level::Trace, ::core::format_args!($($arg)+)) };
}

/// Logs at level debug; takes what `format!` takes.
#[macro_export]
macro_rules! debug {
    ($($arg:tt)+) => { $crate::__private::log($crate::Level::Debug, ::core::format_args!($($arg)+)) };
}

/// Logs at level info; takes what `format!` takes.
#[macro_export]
macro_rules! info {
    ($($arg:tt)+) => { $crate::__private::log($crate::Level::Info, ::core::format_args!($($arg)+)) };
}

/// Logs at level warn; takes what `format!` takes.
#[macro_export]
macro_rules! warn {
    ($($arg:tt)+) => { $crate::__private::log($crate::Level::Warn, ::core::format_args!($($arg)+)) };
}

/// Logs at level error; takes what `format!` takes.
#[macro_export]
macro_rules! error {
    ($($arg:tt)+) => { $crate::__private::log($crate::Level::Error, ::core::format_args!($($arg)+)) };
}
