//! The libraries of an engine: which bundles the operator has for modules to use, and which of them one module gets.
//!
//! Invariant: a module gets the very component that its manifest names, with grants that are decided from the library's own
//! manifest and what the operator says about the library; nothing of either depends on the module.

use std::path::{Path, PathBuf};

use nexum_host_ifaces::grants::Library;

use crate::{
    load::{LibrarySpec, Terms, bundle, configuration},
    manifest::{Kind, LibraryReference, Manifest},
};

impl Terms<'_> {
    /// The library that a manifest names, and the file of its component.
    pub(crate) fn library(&self, wanted: &LibraryReference) -> Result<(Library, PathBuf), String> {
        let mut others = Vec::new();
        for spec in self.libraries {
            let manifest = match self.library_manifest(&spec.source) {
                Ok(manifest) => manifest,
                // It may be the one that is wanted.
                Err(error) => {
                    others.push(error);
                    continue;
                }
            };
            if manifest.name == wanted.name && manifest.component == wanted.component {
                return self.library_of(spec, &manifest, wanted);
            }
            let (name, version) = (&manifest.name, &manifest.version);
            let component = hex::encode(manifest.component.0);
            others.push(format!("{name} {version}, sha256:{component}, in {}", spec.source.display()));
        }
        let there = match others.is_empty() {
            true => {
                "[[libraries]] in the engine's configuration has none: add the source of its bundle there".to_owned()
            }
            false => format!("[[libraries]] in the engine's configuration has {}", others.join("; ")),
        };
        let (name, version, component) = (&wanted.name, &wanted.version, hex::encode(wanted.component.0));
        Err(format!("library `{name}` {version}, sha256:{component}, is not on this engine; {there}"))
    }

    /// The manifest of a bundle that the operator has as a library.
    pub fn library_manifest(&self, source: &Path) -> Result<Manifest, String> {
        let (at, _) = bundle(source);
        let manifest = Manifest::read(&at, self.schedule_check).map_err(|error| error.to_string())?;
        match manifest.kind {
            Kind::Library => Ok(manifest),
            Kind::Module => Err(format!("{}: is no library: list it in [[modules]]", at.display())),
        }
    }

    fn library_of(
        &self,
        spec: &LibrarySpec,
        manifest: &Manifest,
        wanted: &LibraryReference,
    ) -> Result<(Library, PathBuf), String> {
        let (at, file) = bundle(&spec.source);
        let located = |error: String| format!("library `{}`, {}: {error}", manifest.name, at.display());
        if manifest.version != wanted.version {
            let (found, version) = (&manifest.version, &wanted.version);
            return Err(located(format!(
                "its version is {found}, but the module's [libraries] says {version} for the same component"
            )));
        }
        let grants = self.grants(manifest, &spec.denied, &[]).map_err(located)?;
        let config = configuration(manifest, &spec.config).map_err(located)?;
        let (name, version) = (manifest.name.clone(), manifest.version.clone());
        Ok((Library::new(name, version, manifest.component, grants.into(), config.into()), file))
    }
}
