//! Grants: what a module may reach, all of it: interfaces, chains, methods, hosts. Decided once, at load, from manifest
//! and operator.
//!
//! Invariant: whatever leaves for a module is held against its grants, by a call now or by an effect later, and nothing
//! else decides. The interfaces among them are decided by linking; `rpc`, `hosts` and `refused` answer for the rest.

use std::{collections::BTreeSet, sync::Arc};

use crate::{capability::Capability, interfaces::http::grant::Allowlist};

/// How a module reaches one capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Grant {
    /// The real interface.
    Served,
    /// Optional, and not to be had: calls answer `unsupported`.
    Stub,
}

/// The decision for every interface that a module asked for. Modules with the same component and the same interfaces
/// share what is linked.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Interfaces(Vec<(Capability, Grant)>);

impl Interfaces {
    /// The grant for a capability, if the manifest asked for it.
    pub fn get(&self, capability: Capability) -> Option<Grant> {
        self.0.iter().find(|(asked, _)| *asked == capability).map(|(_, grant)| *grant)
    }

    pub fn has_stubs(&self) -> bool {
        self.0.iter().any(|(_, grant)| *grant == Grant::Stub)
    }
}

/// Everything that one module may reach.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Grants {
    interfaces: Interfaces,
    /// What the operator withholds, whether or not it was asked for.
    withheld: BTreeSet<Capability>,
    chains: BTreeSet<u64>,
    extra_methods: BTreeSet<String>,
    hosts: Arc<Allowlist>,
}

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
        let mut interfaces = Vec::new();
        for &capability in asked.required {
            if denied.contains(&capability) {
                return Err(GrantError::Denied(capability));
            }
            if !provided.contains(&capability) {
                return Err(GrantError::NotProvided(capability));
            }
            interfaces.push((capability, Grant::Served));
        }
        for &capability in asked.optional {
            let served = provided.contains(&capability) && !denied.contains(&capability);
            interfaces.push((capability, if served { Grant::Served } else { Grant::Stub }));
        }
        interfaces.sort();
        interfaces.dedup_by_key(|(capability, _)| *capability);
        Ok(Self { interfaces: Interfaces(interfaces), withheld: denied.clone(), ..Self::default() })
    }

    /// With the chains that are both asked for and served.
    pub fn with_chains(self, chains: impl IntoIterator<Item = u64>) -> Self {
        Self { chains: chains.into_iter().collect(), ..self }
    }

    /// With the methods beyond the standard ones that are both asked for and allowed.
    pub fn with_extra_methods(self, extra_methods: impl IntoIterator<Item = String>) -> Self {
        Self { extra_methods: extra_methods.into_iter().collect(), ..self }
    }

    /// With the hosts that the manifest names.
    pub fn with_hosts(self, hosts: Allowlist) -> Self {
        Self { hosts: Arc::new(hosts), ..self }
    }

    pub fn interfaces(&self) -> &Interfaces {
        &self.interfaces
    }

    /// The grant for a capability, if the manifest asked for it.
    pub fn get(&self, capability: Capability) -> Option<Grant> {
        self.interfaces.get(capability)
    }

    pub fn chains(&self) -> &BTreeSet<u64> {
        &self.chains
    }

    pub fn extra_methods(&self) -> &BTreeSet<String> {
        &self.extra_methods
    }

    pub fn hosts(&self) -> &Arc<Allowlist> {
        &self.hosts
    }

    /// Capabilities that answer `unsupported`: stubs, and what the operator withholds besides.
    pub fn refused(&self) -> BTreeSet<Capability> {
        let stubs = self.interfaces.0.iter().filter(|(_, grant)| *grant == Grant::Stub);
        stubs.map(|(capability, _)| *capability).chain(self.withheld.iter().copied()).collect()
    }

    /// What these grants reach and others do not, in words.
    pub fn beyond(&self, other: &Self) -> Vec<String> {
        let served = |grants: &Self, capability| grants.get(capability) == Some(Grant::Served);
        let capabilities = Capability::ALL.into_iter().filter(|c| served(self, *c) && !served(other, *c));
        let mut beyond: Vec<_> = capabilities.map(|capability| format!("capability `{capability}`")).collect();
        beyond.extend(self.chains.difference(&other.chains).map(|chain| format!("chain {chain}")));
        beyond.extend(self.extra_methods.difference(&other.extra_methods).map(|method| format!("method {method}")));
        beyond.extend(self.hosts.beyond(&other.hosts).into_iter().map(|host| format!("host `{host}`")));
        beyond
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
