//! `[[libraries]]`: what modules may call besides the host.

use std::{collections::BTreeMap, fmt};

use nexum_host_ifaces::capability::Capability;
use nexum_kernel::load::LibrarySpec;
use serde::{Deserialize, Serialize};

#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Library {
    /// A bundle directory.
    pub source: String,
    /// Capabilities that the operator withholds from it, whatever module uses it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub denied: Vec<Capability>,
    /// Values that replace or add to those of its manifest.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub config: BTreeMap<String, toml::Value>,
}

impl fmt::Debug for Library {
    /// Without the values of its configuration, of which some may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<_> = self.config.keys().collect();
        f.debug_struct("Library").field("source", &self.source).field("config", &keys).finish_non_exhaustive()
    }
}

impl Library {
    /// As the kernel takes it.
    pub fn spec(&self) -> LibrarySpec {
        LibrarySpec {
            source: self.source.clone().into(),
            denied: self.denied.iter().map(ToString::to_string).collect(),
            config: self.config.clone(),
        }
    }
}
