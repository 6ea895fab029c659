//! What the supervisor tells of its modules: tree nodes and health reports, read without asking any module's actor.

use std::{collections::BTreeMap, sync::atomic::Ordering};

use nexum_admin_api::{state::ServiceState, tree::SHOWN_WAIT_MS};
use nexum_host_ifaces::{
    capability::Capability,
    grants::{Grants, Library, Told},
};

use super::{
    State,
    slot::{Phase, Slot},
};
use crate::{
    admin::{Budget, GrantReport, ModuleFacts, ModuleHealthReport, ModuleWait, Node, NodeKind},
    begun::Wait,
};

impl State {
    pub(super) fn facts(&self) -> Vec<Node> {
        let (now_ns, now_ms) = (self.shared.clock.monotonic_ns(), self.shared.clock.now_ms());
        let mut waits = self.waits();
        self.slots.iter().map(|(name, slot)| node(name, slot, waits.remove(&**name), now_ns, now_ms)).collect()
    }

    pub(super) fn reports(&self) -> BTreeMap<String, ModuleHealthReport> {
        let now_ms = self.shared.clock.now_ms();
        let mut waits = self.waits();
        let mut report = |name: &str, slot: &Slot| ModuleHealthReport {
            state: slot.phase.report().to_owned(),
            reason: slot.reason().filter(|_| !matches!(slot.phase, Phase::Run)),
            last_event_age_seconds: age_ms(slot, now_ms).map(|age| age / 1000),
            expected_event_age_seconds: self.expected.since_ms(name).map(|since| now_ms.saturating_sub(since) / 1000),
            waits: waits.remove(name),
        };
        self.slots.iter().map(|(name, slot)| (name.to_string(), report(name, slot))).collect()
    }

    /// What modules wait for before they may begin something, by name.
    pub(super) fn waits(&self) -> BTreeMap<String, ModuleWait> {
        let now_ns = self.shared.clock.monotonic_ns();
        let wait = |wait: Wait| ModuleWait {
            reason: wait.reason.to_owned(),
            age_ms: now_ns.saturating_sub(wait.since_ns) / 1_000_000,
        };
        self.shared.begun.waits().into_iter().map(|(name, waiting)| (name, wait(waiting))).collect()
    }
}

fn age_ms(slot: &Slot, now_ms: u64) -> Option<u64> {
    match slot.status.last_event_ms.load(Ordering::Relaxed) {
        0 => None,
        at => Some(now_ms.saturating_sub(at)),
    }
}

fn grants(grants: &Grants) -> Vec<GrantReport> {
    let report = |(capability, told): (Capability, Told)| {
        let (grant, why) = match told {
            Told::Granted => (GrantReport::GRANTED, None),
            Told::NotProvided => ("stubbed", Some("optional in the manifest, and this engine has no such service")),
            Told::Denied => ("denied", Some("by the operator: `denied` in its [[modules]], or `module load --deny`")),
        };
        GrantReport { capability: capability.to_string(), grant: grant.to_owned(), why: why.map(str::to_owned) }
    };
    grants.told().into_iter().map(report).collect()
}

/// A library of a module, with what it may reach.
fn library(library: &Library) -> Node {
    let mut told = vec![format!("library {}, sha256:{}", library.version, hex::encode(library.component.0))];
    told.extend(library.grants.beyond(&Grants::default()));
    Node::new(&**library.name(), NodeKind::Library, ServiceState::Up, told.join(", "), Vec::new())
}

fn node(name: &str, slot: &Slot, waits: Option<ModuleWait>, now_ns: u64, now_ms: u64) -> Node {
    let status = &slot.status;
    let next_start_in_ms = match &slot.phase {
        Phase::Restart { at_ns, .. } => Some(at_ns.saturating_sub(now_ns) / 1_000_000),
        _ => None,
    };
    let manifest = slot.plan.as_ref().map(|plan| &plan.manifest);
    let max = manifest.map_or(0, |manifest| manifest.restart.max_consecutive_failures);
    let facts = ModuleFacts {
        version: manifest.map(|manifest| manifest.version.clone()).unwrap_or_default(),
        component: manifest.map(|m| format!("sha256:{}", hex::encode(m.component.0))).unwrap_or_default(),
        restarts: slot.health.restarts_total,
        budget: Budget { spent: status.consecutive_failures.load(Ordering::Relaxed), max },
        cursors: status.cursors(),
        state_bytes: status.state_bytes.load(Ordering::Relaxed),
        state_bytes_limit: slot.plan.as_ref().map_or(0, |plan| plan.limits.max_state_bytes),
        memory_bytes: status.memory_bytes.load(Ordering::Relaxed),
        fuel_p99: status.fuel_p99(),
        events_processed: status.processed.load(Ordering::Relaxed),
        events_failed: status.failed.load(Ordering::Relaxed),
        dead_letters: status.dead_letters.load(Ordering::Relaxed),
        // The outbox knows, and enters it.
        outbox_pending: 0,
        outbox_oldest_age_ms: None,
        last_event_age_ms: age_ms(slot, now_ms),
        next_start_in_ms,
        waits,
        last_error: slot.reason(),
        grants: slot.plan.as_ref().map_or_else(Vec::new, |plan| grants(&plan.grants)),
        chains: slot.plan.as_ref().map_or_else(Vec::new, |plan| plan.grants.chains().iter().copied().collect()),
    };
    let summary = match (&slot.phase, &facts.waits) {
        (Phase::Restart { reason, .. }, _) => format!("last: {reason}"),
        (Phase::Dead { reason }, _) => reason.clone(),
        (_, Some(wait)) if wait.age_ms >= SHOWN_WAIT_MS => wait.to_string(),
        _ => String::new(),
    };
    let state = slot.phase.name().to_owned();
    let libraries = slot.plan.iter().flat_map(|plan| plan.grants.libraries());
    let children = libraries.map(library).collect();
    Node { name: name.to_owned(), kind: NodeKind::Module, state, summary, module: Some(facts), children }
}
