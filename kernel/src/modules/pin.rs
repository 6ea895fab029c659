//! The component that the configuration wants of a module. An order to load it is held to that too: unloading a module
//! must not be a way around what the operator has written down.

use std::path::Path;

use nexum_host_ifaces::Hash;

use super::State;
use crate::{
    admin::{AdminError, ModuleSpec},
    load::bundle,
};

impl State {
    /// What an order wants loaded, with the component that the configuration wants there.
    pub(super) fn pinned(&self, mut spec: ModuleSpec) -> Result<ModuleSpec, AdminError> {
        match (self.pin(&spec), spec.component) {
            (Some(pin), Some(asked)) if pin != asked => Err(AdminError::Load(format!(
                "sha256:{} is asked for, but the [[modules]] of the configuration wants sha256:{} and no other",
                hex::encode(asked.0),
                hex::encode(pin.0)
            ))),
            (Some(pin), _) => {
                spec.component = Some(pin);
                Ok(spec)
            }
            (None, _) => Ok(spec),
        }
    }

    /// Whether what was loaded at run time is another component than the configuration wants there by now.
    pub(super) fn is_pinned_away(&self, spec: &ModuleSpec) -> bool {
        let Some(pin) = self.pin(spec) else { return false };
        self.shared.loader.plan(spec).is_ok_and(|plan| plan.manifest.component != pin)
    }

    /// The component that the configuration wants of a bundle, or of whatever has the name of a module that it has.
    fn pin(&self, spec: &ModuleSpec) -> Option<Hash> {
        let loaded = self.slots.values().filter_map(|slot| slot.configured.as_deref());
        let configured = self.unloaded.iter().chain(loaded);
        let pins: Vec<_> = configured.filter_map(|configured| Some((configured, configured.component?))).collect();
        if let Some((_, pin)) = pins.iter().find(|(configured, _)| is_same(&configured.source, &spec.source)) {
            return Some(*pin);
        }
        if pins.is_empty() {
            return None;
        }
        let loader = &self.shared.loader;
        // What cannot be planned is refused for that.
        let name = loader.plan(spec).ok()?.manifest.name;
        let has_name = |configured: &ModuleSpec| {
            self.owners.get(&*name) == Some(&configured.source)
                || loader.plan(configured).is_ok_and(|plan| plan.manifest.name == name)
        };
        pins.iter().find(|(configured, _)| has_name(configured)).map(|(_, pin)| *pin)
    }
}

/// Whether two sources are one bundle, be it by a link or by its manifest.
fn is_same(one: &Path, other: &Path) -> bool {
    let manifest = |source: &Path| bundle(source).0.canonicalize().ok();
    one == other || manifest(one).is_some_and(|found| manifest(other) == Some(found))
}
