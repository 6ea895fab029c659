//! `[libraries]`: which libraries a module uses, each by name, version and the hash of its component.

use std::collections::BTreeMap;

use nexum_host_ifaces::grants::LIBRARIES_MAX;
use serde::Deserialize;
use toml::Spanned;

use super::{
    LibraryReference, ceilings,
    values::{Finding, component, is_name},
};

/// Libraries by name.
pub(super) type Libraries = BTreeMap<String, Spanned<Reference>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Reference {
    version: Spanned<String>,
    component: Spanned<String>,
}

pub(super) fn check(libraries: Libraries) -> Result<Vec<LibraryReference>, Finding> {
    let count = libraries.len();
    let mut found = Vec::with_capacity(count.min(LIBRARIES_MAX));
    for (name, reference) in libraries {
        ceilings::list(|| reference.span(), "libraries", count, LIBRARIES_MAX)?;
        if !is_name(&name) {
            let message = format!("library name `{name}`: expected 1 to 64 of a-z, 0-9 and -, with - at neither end");
            return Err((reference.span(), message));
        }
        let Reference { version, component: named } = reference.into_inner();
        ceilings::text(&version, "version", ceilings::VERSION_BYTES_MAX)?;
        let component = component(&named)?;
        found.push(LibraryReference { name: name.into(), version: version.into_inner(), component });
    }
    Ok(found)
}
