//! Whose state lies under a name. A name that becomes free keeps its state, which the next module of that name would get,
//! whoever wrote it.
//!
//! The rule: the component that wrote the state may have it, and whatever comes from the bundle directory that the state
//! comes from, which is how a version in place is taken. Anything else asks the operator first.

use nexum_host_ifaces::{
    journal::JournalStart,
    store::{StoreError, StoreMsg},
};

use ractor::ActorRef;

use super::{Msg, ORDER_DEADLINE, State, slot::Slot, writes::Waiter};
use crate::{admin::ModuleSpec, load::Plan};

impl State {
    /// Whether a module that is to be loaded may have what lies under its name; if not, why, and what would be right.
    pub(super) async fn check_owner(&self, spec: &ModuleSpec, plan: &Plan) -> Result<(), String> {
        let name = &plan.manifest.name;
        // Of a state whose origin was never noted nothing can be said.
        let Some(owner) = self.owners.get(&**name).filter(|owner| **owner != spec.source && !spec.adopt_state) else {
            return Ok(());
        };
        let newest =
            |reply| StoreMsg::JournalPage { name: name.to_string(), start: JournalStart::Newest, limit: 1, reply };
        let page = match self.shared.ports.store().call(ORDER_DEADLINE, newest).await {
            Ok(Ok(page)) => page,
            // Nothing is there to be handed over.
            Ok(Err(StoreError::UnknownModule(_))) => return Ok(()),
            Ok(Err(error)) => return Err(format!("whose state `{name}` has cannot be read: {error}")),
            Err(error) => return Err(format!("whose state `{name}` has cannot be read: {error}")),
        };
        match page.entries.last() {
            Some(entry) if entry.component != plan.manifest.component => Err(format!(
                "there is state of a module `{name}` already, written by sha256:{} from {}; {} is another component, \
                 sha256:{}: if it shall have that state, say adopt_state = true in its [[modules]], or `module load \
                 --adopt-state`; else give it another name, or remove the state with `nexumctl state purge {name}`",
                hex::encode(entry.component.0),
                owner.display(),
                spec.source.display(),
                hex::encode(plan.manifest.component.0)
            )),
            _ => Ok(()),
        }
    }

    /// Whether a module that runs comes from another bundle than its state did so far.
    pub(super) fn is_new_owner(&self, name: &str) -> bool {
        self.slots.get(name).is_some_and(|slot| self.owners.get(name) != Some(&slot.spec.source))
    }

    /// Remembers the bundle of every module whose component is linked by now, and of those of which nothing is known yet. A
    /// manifest that only claims to have the component of another module gets nothing by that.
    pub(super) fn note_owners(&mut self, myself: &ActorRef<Msg>) {
        let is_linked = |name: &str, slot: &Slot| slot.prepared.is_some() || !self.owners.contains_key(name);
        let loaded = self.slots.iter().filter(|(name, slot)| slot.plan.is_some() && is_linked(name, slot));
        let loaded = loaded.map(|(name, slot)| (name.to_string(), slot.spec.source.clone()));
        let mut owners = self.owners.clone();
        owners.extend(loaded);
        if owners != self.owners {
            self.owners = owners;
            self.write(myself, Waiter::Owners);
        }
    }
}
