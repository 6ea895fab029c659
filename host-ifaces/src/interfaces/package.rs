//! WIT packages that are hosted.

use std::fmt;

/// A package in the one version of it that is hosted.
#[derive(Debug, PartialEq, Eq)]
pub struct Package {
    pub name: &'static str,
    pub version: &'static str,
}

/// The engine's own package. Its interfaces are capabilities by their bare names, and no manifest has to list it.
pub const HOST: Package = Package { name: "nexum:host", version: "0.3.0" };

impl fmt::Display for Package {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.version)
    }
}
