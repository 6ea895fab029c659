//! The interfaces of the host: a folder for each, and the one table of them.
//!
//! The folder of an interface has up to three files: the messages of its actor (`port`), what a guest calls of it
//! (`guest`), and what a grant of it decides (`grant`). Beside the folder is its row (see `row`), which stands in
//! [`INTERFACES`]. Everything else follows from that table: what can be asked for, what is served, what a manifest may
//! say about it, what is linked, and the texts of errors about all that. An interface without an actor has a row, and
//! neither `port` nor `guest`.

pub mod chain;
pub mod clock;
pub mod http;
pub mod identity;
pub mod local_store;
pub mod logging;
pub mod messaging;
pub mod outbox;
pub mod package;
pub mod random;
pub mod remote_store;
pub mod row;
pub mod table;

/// The example of docs/ARCHITECTURE.md, whose files would be here.
#[cfg(feature = "echo")]
#[path = "../../fixtures/echo/host-ifaces/src/interfaces"]
mod example {
    pub mod echo;
}
#[cfg(feature = "echo")]
pub use example::echo;

use std::{collections::BTreeSet, str::FromStr};

use serde::{Deserialize, Deserializer, de};

use self::{package::Package, row::Interface};
use crate::{
    bounded::{NAME_BYTES_MAX, cut},
    capability::Capability,
    grants::{Grant, Grants},
    ports::Ports,
};

/// The table: every interface, in the order in which lists for people have them.
pub const INTERFACES: &[Interface] = &[
    chain::INTERFACE,
    identity::INTERFACE,
    local_store::INTERFACE,
    remote_store::INTERFACE,
    messaging::INTERFACE,
    logging::INTERFACE,
    clock::INTERFACE,
    random::INTERFACE,
    http::INTERFACE,
    outbox::INTERFACE,
    #[cfg(feature = "echo")]
    echo::INTERFACE,
];

/// The capabilities that this version has actors for; an engine provides at most these.
pub fn servable() -> impl Iterator<Item = Capability> {
    INTERFACES.iter().filter(|row| row.link.is_some()).map(|row| row.capability)
}

/// The capabilities that an engine with these ports provides.
pub fn provided(ports: &Ports) -> BTreeSet<Capability> {
    let has = |row: &&Interface| row.link.is_some() && (row.is_provided)(ports);
    INTERFACES.iter().filter(has).map(|row| row.capability).collect()
}

/// The packages that are hosted, in the order of the table.
pub fn packages() -> Vec<&'static Package> {
    packages_of(INTERFACES)
}

pub(crate) fn packages_of(table: &[Interface]) -> Vec<&'static Package> {
    let mut packages: Vec<&Package> = Vec::new();
    for row in table {
        if !packages.contains(&row.package) {
            packages.push(row.package);
        }
    }
    packages
}

impl Capability {
    /// Every one that can be asked for.
    pub fn all() -> impl Iterator<Item = Self> {
        INTERFACES.iter().map(|row| row.capability)
    }
}

impl FromStr for Capability {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::all().find(|capability| capability.name() == name).ok_or_else(|| {
            let known: Vec<_> = Self::all().map(Self::name).collect();
            format!("unknown capability `{}`; known are {}", cut(name, NAME_BYTES_MAX), known.join(", "))
        })
    }
}

impl<'de> Deserialize<'de> for Capability {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl Grants {
    /// What is left of these while the module answers a query.
    pub fn in_query(&self) -> Self {
        self.within(&|capability| INTERFACES.iter().any(|row| row.capability == capability && row.in_query))
    }

    /// What these grants reach and others do not, in words.
    pub fn beyond(&self, other: &Self) -> Vec<String> {
        let served = |grants: &Self, capability| grants.get(capability) == Some(Grant::Served);
        let capabilities = Capability::all().filter(|c| served(self, *c) && !served(other, *c));
        let mut beyond: Vec<_> = capabilities.map(|capability| format!("capability `{capability}`")).collect();
        beyond.extend(self.chains().difference(other.chains()).map(|chain| format!("chain {chain}")));
        beyond.extend(INTERFACES.iter().flat_map(|row| (row.beyond)(self, other)));
        for library in self.libraries() {
            let (name, nothing) = (library.name(), Self::default());
            let known = other.libraries().iter().find(|known| known.name() == name);
            if known.is_none() {
                beyond.push(format!("library `{name}`"));
            }
            let reached = library.grants.beyond(known.map_or(&nothing, |known| &*known.grants));
            beyond.extend(reached.into_iter().map(|what| format!("{what} of library `{name}`")));
        }
        beyond
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capability_is_named_once_and_like_its_interface() {
        let names: BTreeSet<_> = Capability::all().map(Capability::name).collect();
        assert_eq!(names.len(), INTERFACES.len());
        for row in INTERFACES {
            assert_eq!(row.capability.name().parse(), Ok(row.capability));
            let is_own = row.package == &package::HOST;
            let expected = if is_own { row.name.to_owned() } else { format!("{}/{}", row.package.name, row.name) };
            assert_eq!(row.capability.name(), expected);
        }
        let unknown = "teleport".parse::<Capability>().unwrap_err();
        let known = "chain, identity, local-store, remote-store, messaging, logging, clock, random, http, outbox";
        assert_eq!(unknown, format!("unknown capability `teleport`; known are {known}"));
    }
}
