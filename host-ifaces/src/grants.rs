//! Grants: what a module may reach. Decided once, at load, from manifest and operator; there is no second check.

use std::{collections::BTreeSet, fmt, str::FromStr};

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

/// How a module reaches one capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Grant {
    /// The real interface.
    Served,
    /// Optional, and not to be had: calls answer `unsupported`.
    Stub,
}

/// The decision for every capability of one module. Two modules with equal grants and the same component share what is
/// linked.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Grants(Vec<(Capability, Grant)>);

/// Why a required capability is missing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    #[error("capability `{0}` is required but this engine provides no such service")]
    NotProvided(Capability),
    #[error("capability `{0}` is required but the operator denies it")]
    Denied(Capability),
}

/// What the manifest asks for.
#[derive(Debug, Clone, Default)]
pub struct Asked<'a> {
    pub required: &'a [Capability],
    pub optional: &'a [Capability],
}

impl Grants {
    /// Decides every capability: `provided` is what the engine has actors for, `denied` what the operator withholds.
    pub fn decide(
        asked: Asked<'_>,
        provided: &BTreeSet<Capability>,
        denied: &BTreeSet<Capability>,
    ) -> Result<Self, GrantError> {
        let mut grants = Vec::new();
        for &capability in asked.required {
            if denied.contains(&capability) {
                return Err(GrantError::Denied(capability));
            }
            if !provided.contains(&capability) {
                return Err(GrantError::NotProvided(capability));
            }
            grants.push((capability, Grant::Served));
        }
        for &capability in asked.optional {
            let served = provided.contains(&capability) && !denied.contains(&capability);
            grants.push((capability, if served { Grant::Served } else { Grant::Stub }));
        }
        grants.sort();
        grants.dedup_by_key(|(capability, _)| *capability);
        Ok(Self(grants))
    }

    /// The grant for a capability, if the manifest asked for it.
    pub fn get(&self, capability: Capability) -> Option<Grant> {
        self.0.iter().find(|(asked, _)| *asked == capability).map(|(_, grant)| *grant)
    }
}

impl PartialOrd for Grant {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Grant {
    /// `Served` first, so that a capability both required and optional is served.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (*self as u8).cmp(&(*other as u8))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decide(required: &[Capability], optional: &[Capability], denied: &[Capability]) -> Result<Grants, GrantError> {
        let provided = BTreeSet::from([Capability::Chain, Capability::Logging]);
        Grants::decide(Asked { required, optional }, &provided, &denied.iter().copied().collect())
    }

    #[test]
    fn required_must_be_had_and_optional_becomes_a_stub() {
        use Capability::*;
        assert_eq!(decide(&[Identity], &[], &[]), Err(GrantError::NotProvided(Identity)));
        assert_eq!(decide(&[Chain], &[], &[Chain]), Err(GrantError::Denied(Chain)));
        let grants = decide(&[Chain], &[Logging, Http, Chain], &[Logging]).unwrap();
        assert_eq!(grants.get(Chain), Some(Grant::Served));
        assert_eq!(grants.get(Logging), Some(Grant::Stub));
        assert_eq!(grants.get(Http), Some(Grant::Stub));
        assert_eq!(grants.get(Clock), None);
    }
}
