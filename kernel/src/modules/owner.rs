//! Whose state lies under a name. A name that becomes free keeps its state, which the next module of that name would get,
//! whoever wrote it.
//!
//! The rule: the component that wrote the state may have it, and whatever comes from the bundle directory that the state
//! comes from, which is how a version in place is taken. Anything else asks the operator first.

use std::{path::PathBuf, sync::Arc};

use nexum_host_ifaces::{
    Hash,
    journal::JournalStart,
    port::Port,
    store::{StoreError, StoreMsg},
};
use ractor::ActorRef;

use super::{Msg, ORDER_DEADLINE, State, answer, slot::Slot, writes::Waiter};
use crate::{
    admin::{AdminReply, ModuleSpec},
    load::Plan,
};

/// Which component has written the newest of what lies under a name, if any has; or why that cannot be read.
pub struct Newest {
    name: Arc<str>,
    component: Result<Option<Hash>, String>,
}

impl Newest {
    async fn read(store: &Port<StoreMsg>, name: &Arc<str>) -> Self {
        let newest =
            |reply| StoreMsg::JournalPage { name: name.to_string(), start: JournalStart::Newest, limit: 1, reply };
        let component = match store.call(ORDER_DEADLINE, newest).await {
            Ok(Ok(page)) => Ok(page.entries.last().map(|entry| entry.component)),
            // Nothing is there to be handed over.
            Ok(Err(StoreError::UnknownModule(_))) => Ok(None),
            Ok(Err(error)) => Err(error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        Self { name: name.clone(), component }
    }
}

impl State {
    /// Loads a module by order. Where the store has to be asked whose state it would get, that is done beside the
    /// supervisor; `load_by_order` goes on.
    pub(super) async fn order_to_load(
        &mut self,
        myself: &ActorRef<Msg>,
        spec: Box<ModuleSpec>,
        reply: AdminReply<String>,
    ) {
        let spec = match self.pinned(*spec) {
            Ok(spec) => spec,
            Err(error) => return answer(reply, Err(error)),
        };
        // What is wrong with it is said when it is loaded.
        let planned = self.shared.loader.plan(&spec).ok();
        let doubted = planned.filter(|plan| self.other_owner(&spec, plan).is_some());
        let Some(name) = doubted.map(|plan| plan.manifest.name.clone()) else {
            return self.load_by_order(myself, spec, None, reply).await;
        };
        let (store, spec, myself) = (self.shared.ports.store(), Box::new(spec), myself.clone());
        let _reading: tokio::task::JoinHandle<_> = tokio::spawn(async move {
            let newest = Newest::read(&store, &name).await;
            // A supervisor that is gone drops the reply.
            let _ = myself.send_message(Msg::OwnerRead { spec, newest, reply });
        });
    }

    /// The bundle that the state under a module's name comes from, if that is another one and nobody has allowed it.
    fn other_owner(&self, spec: &ModuleSpec, plan: &Plan) -> Option<&PathBuf> {
        // Of a state whose origin was never noted nothing can be said.
        let owner = self.owners.get(&*plan.manifest.name);
        owner.filter(|owner| **owner != spec.source && !spec.adopt_state)
    }

    /// Whether a module that is to be loaded may have what lies under its name; if not, why, and what would be right.
    pub(super) async fn check_owner(
        &self,
        spec: &ModuleSpec,
        plan: &Plan,
        newest: Option<Newest>,
    ) -> Result<(), String> {
        let name = &plan.manifest.name;
        // It comes from where the state does, or somebody allowed it.
        let Some(owner) = self.other_owner(spec, plan) else { return Ok(()) };
        let newest = match newest.filter(|newest| newest.name == *name) {
            Some(newest) => newest,
            None => Newest::read(&self.shared.ports.store(), name).await,
        };
        match newest.component {
            Err(error) => Err(format!("whose state `{name}` has cannot be read: {error}")),
            Ok(Some(component)) if component != plan.manifest.component => Err(format!(
                "there is state of a module `{name}` already, written by sha256:{} from {}; {} is another component, \
                 sha256:{}: if it shall have that state, say adopt_state = true in its [[modules]], or `module load \
                 --adopt-state`; else give it another name, or remove the state with `nexumctl state purge {name}`",
                hex::encode(component.0),
                owner.display(),
                spec.source.display(),
                hex::encode(plan.manifest.component.0)
            )),
            Ok(_) => Ok(()),
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
