//! Grants: all that a module may reach: interfaces, chains, methods, hosts. Decided once, at load, from the manifest and
//! what the operator allows.
//!
//! Invariant: whatever leaves for a module is held against its grants, in a call now or in an effect later, and nothing
//! else decides. Interfaces are held against them at linking. `rpc` and `hosts`, in the folders of `chain` and `http`,
//! and `refused` answer for the rest.

use std::{collections::BTreeSet, sync::Arc};

use nexum_records::rpc::RpcBudget;

use crate::{Hash, capability::Capability, interfaces::table::Tables, types::ConfigValue};

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
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Grants {
    interfaces: Interfaces,
    /// What the operator withholds, whether or not it was asked for.
    withheld: BTreeSet<Capability>,
    chains: BTreeSet<u64>,
    /// What its manifest says about interfaces, as far as the operator lets it.
    tables: Tables,
    /// How much it may ask of nodes.
    rpc_budget: RpcBudget,
    /// What it may call besides the host, each with grants of its own.
    libraries: Arc<[Library]>,
}

/// Libraries of one module: each is a component more to be instantiated with every start of it.
pub const LIBRARIES_MAX: usize = 8;
/// What keys of libraries begin with in the state of their module: no other key comes after them, and no module has one.
pub(crate) const LIBRARY_STATE: char = '\u{10ffff}';

/// A library that a module uses, and what that library may reach.
#[derive(Debug, Clone, PartialEq)]
pub struct Library {
    name: Arc<str>,
    /// Whom the operator's credentials are for.
    principal: Arc<str>,
    /// What its keys begin with.
    prefix: String,
    pub version: String,
    pub component: Hash,
    pub grants: Arc<Grants>,
    pub config: Arc<Vec<(String, ConfigValue)>>,
}

impl Library {
    pub fn new(
        name: Arc<str>,
        version: String,
        component: Hash,
        grants: Arc<Grants>,
        config: Arc<Vec<(String, ConfigValue)>>,
    ) -> Self {
        let (principal, prefix) = (principal(&name).into(), format!("{LIBRARY_STATE}lib/{name}/"));
        Self { name, principal, prefix, version, component, grants, config }
    }

    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub(crate) fn principal(&self) -> &Arc<str> {
        &self.principal
    }

    /// What its keys of the state begin with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }
}

/// What the operator's credentials for a library name instead of a module.
pub fn principal(library: &str) -> String {
    format!("library:{library}")
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

    /// Those that a recording was made with.
    pub fn recorded(
        (served, stubs): (&[Capability], &[Capability]),
        chains: &[u64],
        tables: &Tables,
    ) -> Result<Self, GrantError> {
        let provided = served.iter().copied().collect();
        let asked = AskedCapabilities { required: served, optional: stubs };
        let grants = Self::decide(asked, &provided, &BTreeSet::new())?;
        Ok(grants.with_chains(chains.iter().copied()).with_tables(tables.clone()))
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
        // What a library asks of nodes is paid from its module's budget.
        let of_module = |library: &Library| {
            let grants = Arc::new(library.grants.as_ref().clone().with_rpc_budget(rpc_budget));
            Library { grants, ..library.clone() }
        };
        let libraries = self.libraries.iter().map(of_module).collect();
        Self { rpc_budget, libraries, ..self }
    }

    /// What is left of these where only some capabilities are within reach, and no method beyond those that only read.
    pub(crate) fn within(&self, reads: &dyn Fn(Capability) -> bool) -> Self {
        let asked = self.interfaces.0.iter().map(|&(capability, grant)| match grant {
            Grant::Served if !reads(capability) => (capability, Grant::NotInQuery),
            grant => (capability, grant),
        });
        let interfaces = Interfaces(asked.collect());
        let libraries = self.libraries.iter().map(|library| {
            let grants = Arc::new(library.grants.within(reads));
            Library { grants, ..library.clone() }
        });
        let libraries = libraries.collect();
        Self { interfaces, libraries, ..self.clone() }.with_extra_methods([])
    }

    /// With the libraries that it uses.
    pub fn with_libraries(self, libraries: impl IntoIterator<Item = Library>) -> Self {
        Self { libraries: libraries.into_iter().collect(), ..self }
    }

    pub fn libraries(&self) -> &[Library] {
        &self.libraries
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

    /// Capabilities that are served, in the order in which lists for people have them.
    pub fn served(&self) -> Vec<Capability> {
        Capability::all().filter(|capability| self.get(*capability) == Some(Grant::Served)).collect()
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
