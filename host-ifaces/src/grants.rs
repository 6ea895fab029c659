//! Grants: all that a module may reach: interfaces, chains, methods, hosts. Decided once, at load, from the manifest and
//! what the operator allows.
//!
//! Invariant: whatever leaves for a module is held against its grants, in a call now or in an effect later, and nothing
//! else decides. Interfaces are held against them at linking. `rpc` and `hosts`, in the folders of `chain` and `http`,
//! and `refused` answer for the rest.

use std::collections::BTreeSet;

use nexum_records::rpc::RpcBudget;

use crate::{
    capability::Capability,
    interfaces::{INTERFACES, table::Tables},
};

/// How a module reaches one capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Grant {
    /// The real interface.
    Served,
    /// Optional, and not to be had: calls answer `unsupported`.
    Stub,
    /// Granted, and out of reach while a query is answered: calls answer `denied`.
    NotInQuery,
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

/// What people are told of a capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    Granted,
    /// Optional, and the engine has no such service: calls answer `unsupported`.
    NotProvided,
    /// The operator withholds it: calls answer `unsupported`.
    Denied,
}

/// Everything that one module may reach.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Grants {
    interfaces: Interfaces,
    /// What the operator withholds, whether or not it was asked for.
    withheld: BTreeSet<Capability>,
    chains: BTreeSet<u64>,
    /// What its manifest says about interfaces, as far as the operator lets it.
    tables: Tables,
    /// How much it may ask of nodes.
    rpc_budget: RpcBudget,
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
pub struct AskedCapabilities<'a> {
    pub required: &'a [Capability],
    pub optional: &'a [Capability],
}

impl Grants {
    /// Decides every capability: `provided` is what the engine has actors for, `denied` what the operator withholds.
    pub fn decide(
        asked: AskedCapabilities<'_>,
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

    /// With what the manifest says about interfaces.
    pub fn with_tables(self, tables: Tables) -> Self {
        Self { tables, ..self }
    }

    /// With what the operator lets it ask of nodes.
    pub fn with_rpc_budget(self, rpc_budget: RpcBudget) -> Self {
        Self { rpc_budget, ..self }
    }

    /// What is left of these while the module answers a query: what reads, and no method beyond those that only read.
    pub fn in_query(&self) -> Self {
        let reads = |capability: Capability| INTERFACES.iter().any(|row| row.capability == capability && row.in_query);
        let asked = self.interfaces.0.iter().map(|&(capability, grant)| match grant {
            Grant::Served if !reads(capability) => (capability, Grant::NotInQuery),
            grant => (capability, grant),
        });
        let interfaces = Interfaces(asked.collect());
        Self { interfaces, ..self.clone() }.with_extra_methods([])
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

    pub fn rpc_budget(&self) -> RpcBudget {
        self.rpc_budget
    }

    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// Every capability that was asked for or is withheld: whether the module has it, and if not, who decided that.
    pub fn told(&self) -> Vec<(Capability, Told)> {
        let of = |capability: Capability, grant: Grant| match grant {
            Grant::Stub if self.withheld.contains(&capability) => Told::Denied,
            Grant::Stub => Told::NotProvided,
            Grant::Served | Grant::NotInQuery => Told::Granted,
        };
        let asked = self.interfaces.0.iter().map(|(capability, grant)| (*capability, of(*capability, *grant)));
        let unasked = self.withheld.iter().filter(|capability| self.get(**capability).is_none());
        asked.chain(unasked.map(|capability| (*capability, Told::Denied))).collect()
    }

    /// Capabilities that answer `unsupported`: stubs, and what the operator withholds besides.
    pub fn refused(&self) -> BTreeSet<Capability> {
        let stubs = self.interfaces.0.iter().filter(|(_, grant)| *grant == Grant::Stub);
        stubs.map(|(capability, _)| *capability).chain(self.withheld.iter().copied()).collect()
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

    const CHAIN: Capability = Capability::named("chain");
    const CLOCK: Capability = Capability::named("clock");
    const HTTP: Capability = Capability::named("http");
    const IDENTITY: Capability = Capability::named("identity");
    const LOGGING: Capability = Capability::named("logging");

    fn decide(required: &[Capability], optional: &[Capability], denied: &[Capability]) -> Result<Grants, GrantError> {
        let provided = BTreeSet::from([CHAIN, LOGGING]);
        Grants::decide(AskedCapabilities { required, optional }, &provided, &denied.iter().copied().collect())
    }

    #[test]
    fn in_a_query_what_reads_is_left() {
        let provided: BTreeSet<_> = Capability::all().collect();
        let required: Vec<_> = Capability::all().filter(|capability| *capability != HTTP).collect();
        let asked = AskedCapabilities { required: &required, optional: &[HTTP] };
        let grants = Grants::decide(asked, &provided, &BTreeSet::from([HTTP])).unwrap();
        let grants = grants.with_chains([1]).with_extra_methods(["eth_sendRawTransaction".to_owned()]);
        let left = grants.in_query();
        let of = |wanted: Grant| -> Vec<&'static str> {
            Capability::all().filter(|c| left.get(*c) == Some(wanted)).map(Capability::name).collect()
        };
        let reads = ["chain", "local-store", "logging", "clock", "random"];
        assert_eq!(of(Grant::Served), reads);
        assert_eq!(of(Grant::Stub), ["http"], "what is not granted is not granted here either");
        assert!(of(Grant::NotInQuery).contains(&"outbox") && left.get(IDENTITY) == Some(Grant::NotInQuery));
        assert!(left.rpc("m", 1, "eth_call").is_ok());
        assert!(grants.method("eth_sendRawTransaction").is_ok() && left.method("eth_sendRawTransaction").is_err());
    }

    #[test]
    fn required_must_be_had_and_optional_becomes_a_stub() {
        assert_eq!(decide(&[IDENTITY], &[], &[]), Err(GrantError::NotProvided(IDENTITY)));
        assert_eq!(decide(&[CHAIN], &[], &[CHAIN]), Err(GrantError::Denied(CHAIN)));
        let grants = decide(&[CHAIN], &[LOGGING, HTTP, CHAIN], &[LOGGING]).unwrap();
        assert_eq!(grants.get(CHAIN), Some(Grant::Served));
        assert_eq!(grants.get(LOGGING), Some(Grant::Stub));
        assert_eq!(grants.get(HTTP), Some(Grant::Stub));
        assert_eq!(grants.get(CLOCK), None);
        let told = [(CHAIN, Told::Granted), (HTTP, Told::NotProvided), (LOGGING, Told::Denied)];
        assert_eq!(grants.told(), told);
        assert_eq!(decide(&[CHAIN], &[], &[HTTP]).unwrap().told(), [(CHAIN, Told::Granted), (HTTP, Told::Denied)]);
    }
}
