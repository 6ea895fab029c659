//! The ports of an engine, handed on as a whole. A service of which there is one is found by the type of its messages
//! (`Service`), so that a new one needs no field in whatever is between it and its callers. Chains are found by their
//! ids.

use std::{
    any::{Any, TypeId},
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use ractor::Message;

use crate::{
    interfaces::chain::port::ChainMsg,
    port::Port,
    state::{NoState, StateView},
};

/// A message of a service that an engine has one of.
pub trait Service: Message {
    /// The service, as errors name it.
    const NAME: &'static str;
}

/// The ways to the shared actors; bound by whoever supervises these.
pub struct Ports {
    pub view: Arc<dyn StateView>,
    chains: BTreeMap<u64, Port<ChainMsg>>,
    /// Each by the type of its messages; made when it is first asked for.
    services: Mutex<HashMap<TypeId, Box<dyn Any + Send>>>,
    /// Those that not every engine has and this one does, by the types of their messages.
    optional: Mutex<HashSet<TypeId>>,
}

impl Ports {
    /// Ports of an engine with these chains and no state, none of which is bound.
    pub fn unbound(chains: impl IntoIterator<Item = u64>) -> Arc<Self> {
        Self::new(Arc::new(NoState), chains)
    }

    /// Ports of an engine with this state and these chains, none of which is bound.
    pub fn new(view: Arc<dyn StateView>, chains: impl IntoIterator<Item = u64>) -> Arc<Self> {
        Arc::new(Self {
            view,
            chains: chains.into_iter().map(|chain| (chain, Port::new("chain"))).collect(),
            services: Mutex::default(),
            optional: Mutex::default(),
        })
    }

    /// The way to a chain, if this engine serves it.
    pub fn chain(&self, chain_id: u64) -> Option<&Port<ChainMsg>> {
        self.chains.get(&chain_id)
    }

    pub fn chains(&self) -> &BTreeMap<u64, Port<ChainMsg>> {
        &self.chains
    }

    /// The way to the service that takes these messages.
    pub fn of<M: Service>(&self) -> Port<M> {
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        let made = services.entry(TypeId::of::<M>()).or_insert_with(|| Box::new(Port::<M>::new(M::NAME)));
        let Some(port) = made.downcast_ref::<Port<M>>() else { unreachable!("a port of another type's messages") };
        port.clone()
    }

    /// Says that this engine has the service that takes these messages, which not every engine has. Before modules load.
    pub fn with<M: Service>(&self) -> Port<M> {
        self.optional.lock().unwrap_or_else(PoisonError::into_inner).insert(TypeId::of::<M>());
        self.of()
    }

    /// Whether this engine has the service that takes these messages, which not every engine has.
    pub fn has<M: Service>(&self) -> bool {
        self.optional.lock().unwrap_or_else(PoisonError::into_inner).contains(&TypeId::of::<M>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{interfaces::identity::port::IdentityMsg, transactions::TransactionsMsg};

    #[test]
    fn a_service_that_not_every_engine_has_is_there_when_it_was_said() {
        let ports = Ports::unbound([]);
        // Asking for the way says nothing of whether there is anybody.
        assert_eq!(ports.of::<IdentityMsg>().service(), "identity");
        assert!(!ports.has::<IdentityMsg>());
        ports.with::<IdentityMsg>();
        assert!(ports.has::<IdentityMsg>() && !ports.has::<TransactionsMsg>());
    }
}
