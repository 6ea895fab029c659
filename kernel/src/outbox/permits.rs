//! Which modules' effects may go out: those that are loaded, within what they are granted now.
//!
//! Written by the supervisor of modules, read by the outbox actor; it outlives both actors.

use std::{
    collections::HashMap,
    sync::{Arc, RwLock},
};

use nexum_host_ifaces::{
    grants::Grant,
    interfaces::outbox::CAPABILITY,
    sync::{read, write},
};

use crate::load::Plan;

/// The plans of the loaded modules, by name.
#[derive(Clone, Default)]
pub struct Permits(Arc<RwLock<HashMap<Arc<str>, Arc<Plan>>>>);

impl Permits {
    pub fn set(&self, plan: &Arc<Plan>) {
        let mut plans = write(&self.0);
        plans.insert(plan.manifest.name.clone(), plan.clone());
    }

    pub fn remove(&self, module: &str) {
        write(&self.0).remove(module);
    }

    /// The plan of a module that is loaded and granted the outbox. Effects of any other wait.
    pub fn get(&self, module: &str) -> Option<Arc<Plan>> {
        let plans = read(&self.0);
        plans.get(module).filter(|plan| plan.grants.get(CAPABILITY) == Some(Grant::Served)).cloned()
    }

    pub fn all(&self) -> Vec<(Arc<str>, Arc<Plan>)> {
        let plans = read(&self.0);
        plans.iter().map(|(name, plan)| (name.clone(), plan.clone())).collect()
    }
}
