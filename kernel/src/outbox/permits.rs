//! Which modules' effects may go out: those that are loaded, within what they are granted now.
//!
//! Written by the supervisor of modules, read by the outbox actor; it outlives both actors.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use nexum_host_ifaces::{grants::Grant, interfaces::outbox::CAPABILITY};

use crate::load::Plan;

/// The plans of the loaded modules, by name.
#[derive(Clone, Default)]
pub struct Permits(Arc<RwLock<HashMap<Arc<str>, Arc<Plan>>>>);

impl Permits {
    pub fn set(&self, plan: &Arc<Plan>) {
        let mut plans = self.0.write().unwrap_or_else(PoisonError::into_inner);
        plans.insert(plan.manifest.name.clone(), plan.clone());
    }

    pub fn remove(&self, module: &str) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(module);
    }

    /// The plan of a module that is loaded and granted the outbox. Effects of any other wait.
    pub fn get(&self, module: &str) -> Option<Arc<Plan>> {
        let plans = self.0.read().unwrap_or_else(PoisonError::into_inner);
        plans.get(module).filter(|plan| plan.grants.get(CAPABILITY) == Some(Grant::Served)).cloned()
    }

    pub fn all(&self) -> Vec<(Arc<str>, Arc<Plan>)> {
        let plans = self.0.read().unwrap_or_else(PoisonError::into_inner);
        plans.iter().map(|(name, plan)| (name.clone(), plan.clone())).collect()
    }
}
