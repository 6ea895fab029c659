//! The name of an interface, as manifests and operators have it.

use std::fmt;

use serde::{Serialize, Serializer};

/// A host interface that a module can ask for. There is one for every row of the table of interfaces, and no other: texts
/// become capabilities by that table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Capability(&'static str);

impl Capability {
    pub(crate) const fn named(name: &'static str) -> Self {
        Self(name)
    }

    /// The name in manifests: that of the WIT interface, after `PACKAGE/` when its package is not `nexum:host`.
    pub const fn name(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Capability {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}
