//! The interfaces of the host by name.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A host interface that a module can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Capability {
    Chain,
    Identity,
    LocalStore,
    RemoteStore,
    Messaging,
    Logging,
    Clock,
    Random,
    Http,
    Outbox,
}

impl Capability {
    pub const ALL: [Self; 10] = [
        Self::Chain,
        Self::Identity,
        Self::LocalStore,
        Self::RemoteStore,
        Self::Messaging,
        Self::Logging,
        Self::Clock,
        Self::Random,
        Self::Http,
        Self::Outbox,
    ];

    /// The name in manifests, which is the name of the WIT interface.
    pub fn name(self) -> &'static str {
        match self {
            Self::Chain => "chain",
            Self::Identity => "identity",
            Self::LocalStore => "local-store",
            Self::RemoteStore => "remote-store",
            Self::Messaging => "messaging",
            Self::Logging => "logging",
            Self::Clock => "clock",
            Self::Random => "random",
            Self::Http => "http",
            Self::Outbox => "outbox",
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Capability {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|capability| capability.name() == name).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|capability| capability.name()).collect();
            format!("unknown capability `{name}`; known are {}", known.join(", "))
        })
    }
}

impl Serialize for Capability {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Capability {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
