//! `[capabilities]` and `[packages]`: which interfaces a module asks for, of which packages, and the tables about single
//! ones, which these interfaces describe themselves.

use std::{collections::BTreeMap, fmt};

use nexum_host_ifaces::{
    capability::Capability,
    interfaces::{
        INTERFACES,
        package::HOST,
        packages,
        row::Interface,
        table::{Key, Tables},
    },
    library,
};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, MapAccess, Visitor},
};
use toml::Spanned;

use super::{ceilings, values::Finding};

const REQUIRED: &str = "required";
const OPTIONAL: &str = "optional";

/// A list of a table, as it is written.
type List = Vec<Spanned<String>>;

#[derive(Default)]
pub(super) struct Capabilities {
    pub required: Vec<Capability>,
    pub optional: Vec<Capability>,
    /// Where the two are written.
    listed: Vec<Spanned<Vec<Capability>>>,
    tables: Vec<(&'static Interface, Vec<(&'static Key, List)>)>,
}

/// Packages by name, with the version that is wanted of each.
pub(super) type Packages = BTreeMap<String, Spanned<String>>;

impl Capabilities {
    /// What the tables say.
    pub(super) fn tables(&self) -> Result<Tables, Finding> {
        let mut tables = Tables::default();
        for (interface, lists) in &self.tables {
            for (key, list) in lists {
                ceilings::texts(list, key.name, key.entries_max, key.entry_bytes_max)?;
                let read = |entry: &Spanned<String>| (key.read)(entry.get_ref()).map_err(|wrong| (entry.span(), wrong));
                let list = list.iter().map(read).collect::<Result<Vec<_>, _>>()?;
                tables = tables.with(interface.capability, key.name, list);
            }
        }
        Ok(tables)
    }

    /// Whether a library may ask for all that is listed.
    pub(super) fn check_library(&self) -> Result<(), Finding> {
        let allowed = library::grantable();
        for list in &self.listed {
            if let Some(asked) = list.get_ref().iter().find(|asked| !allowed.contains(asked)) {
                let allowed = allowed.map(Capability::name).join(", ");
                let message = format!("capability `{asked}` is not for a library: it may have {allowed}");
                return Err((list.span(), message));
            }
        }
        Ok(())
    }

    /// Whether every package is hosted, and every one that is needed is listed.
    pub(super) fn check_packages(&self, listed: &Packages) -> Result<(), Finding> {
        for (name, version) in listed {
            let hosted = packages();
            if !hosted.iter().any(|package| package.name == name && package.version == version.get_ref()) {
                let hosted: Vec<_> = hosted.iter().map(ToString::to_string).collect();
                let hosted = hosted.join(", ");
                let message =
                    format!("unknown package `{name}` or version `{}`; hosted are {hosted}", version.get_ref());
                return Err((version.span(), message));
            }
        }
        let rows = |capability: &Capability| INTERFACES.iter().find(|row| row.capability == *capability);
        for list in &self.listed {
            let needed = list.get_ref().iter().filter_map(rows).filter(|row| *row.package != HOST);
            if let Some(row) = { needed }.find(|row| !listed.contains_key(row.package.name)) {
                let (capability, package) = (row.capability, row.package);
                let message = format!(
                    "capability `{capability}` is of package `{}`: add \"{}\" = \"{}\" to [packages]",
                    package.name, package.name, package.version
                );
                return Err((list.span(), message));
            }
        }
        Ok(())
    }
}

/// One of some names, by its place among them. `message` is about a name that is not among them and what is.
struct OneOf<'a> {
    names: &'a [&'a str],
    message: fn(&str, &str) -> String,
}

impl OneOf<'_> {
    fn known(&self) -> String {
        self.names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
    }
}

impl<'de> DeserializeSeed<'de> for OneOf<'_> {
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<usize, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl Visitor<'_> for OneOf<'_> {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a key")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<usize, E> {
        let place = self.names.iter().position(|known| *known == name);
        place.ok_or_else(|| E::custom((self.message)(name, &self.known())))
    }
}

impl<'de> Deserialize<'de> for Capabilities {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(All)
    }
}

struct All;

impl<'de> Visitor<'de> for All {
    type Value = Capabilities;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table of capabilities")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Capabilities, A::Error> {
        let read: Vec<&'static Interface> = INTERFACES.iter().filter(|row| !row.table.is_empty()).collect();
        let names: Vec<&str> =
            [REQUIRED, OPTIONAL].into_iter().chain(read.iter().map(|row| row.capability.name())).collect();
        let mut found = Capabilities::default();
        let message = |name: &str, known: &str| {
            format!("nobody reads `[capabilities.{name}]`; known in [capabilities] are {known}")
        };
        while let Some(place) = map.next_key_seed(OneOf { names: &names, message })? {
            match read.get(place.wrapping_sub(2)) {
                Some(interface) => {
                    let lists = map.next_value_seed(TableOf(interface))?;
                    found.tables.push((interface, lists));
                }
                None => {
                    let list: Spanned<Vec<Capability>> = map.next_value()?;
                    let kept = if names[place] == REQUIRED { &mut found.required } else { &mut found.optional };
                    kept.clone_from(list.get_ref());
                    found.listed.push(list);
                }
            }
        }
        Ok(found)
    }
}

/// The table of one interface.
struct TableOf(&'static Interface);

impl<'de> DeserializeSeed<'de> for TableOf {
    type Value = Vec<(&'static Key, List)>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for TableOf {
    type Value = Vec<(&'static Key, List)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a table [capabilities.{}]", self.0.capability)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let keys = self.0.table;
        let names: Vec<&str> = keys.iter().map(|key| key.name).collect();
        let mut lists: Self::Value = Vec::new();
        let message = |name: &str, known: &str| {
            let one_of = if known.contains(',') { "one of " } else { "" };
            format!("unknown field `{name}`, expected {one_of}{known}")
        };
        while let Some(place) = map.next_key_seed(OneOf { names: &names, message })? {
            lists.push((&keys[place], map.next_value()?));
        }
        let is_there = |key: &Key| lists.iter().any(|(there, _)| there.name == key.name);
        match keys.iter().find(|key| key.is_required && !is_there(key)) {
            Some(missing) => Err(A::Error::custom(format!("missing field `{}`", missing.name))),
            None => Ok(lists),
        }
    }
}
