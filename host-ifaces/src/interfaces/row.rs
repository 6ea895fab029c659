//! What the engine has to know of an interface.

use wasmtime::component::Linker;

use crate::{
    capability::Capability,
    grants::Grants,
    host::HostState,
    interfaces::{
        package::{HOST, Package},
        table::Key,
    },
    ports::Ports,
};

/// Defines the functions of an interface.
pub type Link = fn(&mut Linker<HostState>) -> wasmtime::Result<()>;

/// A row of the table of interfaces.
pub struct Interface {
    /// The package that it is of.
    pub package: &'static Package,
    /// Its name there.
    pub name: &'static str,
    pub capability: Capability,
    /// How it gets into a linker; absent for one that has no actor yet.
    pub link: Option<Link>,
    /// Whether an engine with these ports provides it, as far as it can be linked.
    pub is_provided: fn(&Ports) -> bool,
    /// The keys of `[capabilities.NAME]`; a manifest with such a table is refused when there are none.
    pub table: &'static [Key],
    /// Whether a module may use it while it answers a query: because it only reads, or refuses the rest of itself then.
    pub in_query: bool,
    /// What of this interface the first grants reach and the second do not, in words.
    pub beyond: fn(&Grants, &Grants) -> Vec<String>,
}

impl Interface {
    /// An interface of the engine's own package that has no actor yet.
    pub const fn of(capability: Capability) -> Self {
        Self {
            package: &HOST,
            name: capability.name(),
            capability,
            link: None,
            is_provided: |_| true,
            table: &[],
            in_query: false,
            beyond: |_, _| Vec::new(),
        }
    }
}
