//! What a manifest says about an interface: its table `[capabilities.NAME]`, in which every key is a list of texts.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::capability::Capability;

/// One key of the table of an interface.
#[derive(Debug)]
pub struct Key {
    pub name: &'static str,
    pub is_required: bool,
    /// The tables are kept in memory and with every recording.
    pub entries_max: usize,
    pub entry_bytes_max: usize,
    /// An entry as it is kept, or what is wrong with it.
    pub read: fn(&str) -> Result<String, String>,
}

/// The tables of one module, as they were read.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Tables(BTreeMap<Capability, BTreeMap<String, Arc<[String]>>>);

impl Tables {
    /// The same with this list in place of the one there was.
    pub fn with(mut self, capability: Capability, key: &str, list: impl IntoIterator<Item = String>) -> Self {
        self.0.entry(capability).or_default().insert(key.to_owned(), list.into_iter().collect());
        self
    }

    /// A list as far as there is one.
    pub fn list(&self, capability: Capability, key: &str) -> Option<&Arc<[String]>> {
        self.0.get(&capability)?.get(key)
    }
}
