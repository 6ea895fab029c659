//! Whether the engine is honest about how it is: what has had to wait for long is said to be unhealthy.

use std::collections::BTreeMap;

use nexum_host_ifaces::event::{Cursor, SourceId};
use nexum_kernel::admin::Health;
use nexum_store::Store;

use crate::{
    oracle::wanted,
    scenario::{Blocks, ChainSource, Hold, ModulePlan, Scenario},
    world::{Chain, World},
};

/// How often it is looked, milliseconds.
pub const LOOK_MS: u64 = 10_000;
/// How long the engine may take to notice that something is to be waited for: it leaves a node that tells nothing new
/// after thirty seconds, and asks the others every ten. Milliseconds.
const SLACK_MS: u64 = 90_000;

/// Since when things have stood as they do, in one life of the engine.
pub struct Watch {
    since_ms: u64,
    /// Until when a module is busy with an order.
    ordered: BTreeMap<String, u64>,
    positions: BTreeMap<(String, String), (Option<Cursor>, u64)>,
    /// All positions of a module together: nobody knows whether there is anything for one that wants logs alone, so that
    /// it only has to move.
    moved: BTreeMap<String, (BTreeMap<SourceId, Cursor>, u64)>,
    /// Whether it ran and whether it was paused, by module.
    states: BTreeMap<String, ((bool, bool), u64)>,
}

impl Watch {
    pub fn new(now_ms: u64) -> Self {
        Self {
            since_ms: now_ms,
            ordered: BTreeMap::new(),
            positions: BTreeMap::new(),
            moved: BTreeMap::new(),
            states: BTreeMap::new(),
        }
    }

    /// Something began anew for all.
    pub fn anew(&mut self, now_ms: u64) {
        self.since_ms = now_ms;
    }

    /// The operator ordered something about a module.
    pub fn ordered(&mut self, module: &str, now_ms: u64) {
        self.ordered.insert(module.to_owned(), now_ms + 35_000);
    }

    /// Why the engine's word of its health is not true, if it is not.
    pub fn check(
        &mut self,
        scenario: &Scenario,
        world: &World,
        store: &Store,
        health: &Health,
        now_ms: u64,
    ) -> Result<(), String> {
        let modules = store.modules().map_err(|error| error.to_string())?;
        let mut late = Vec::new();
        for plan in &scenario.modules {
            let Some(report) = health.modules.get(&plan.name) else { continue };
            let seen = (report.state == "running", report.state == "paused");
            let state = self.states.entry(plan.name.clone()).or_insert((seen, now_ms));
            if state.0 != seen {
                *state = (seen, now_ms);
            }
            let ordered = self.ordered.get(&plan.name).copied().unwrap_or(0);
            let stands = state.1.max(self.since_ms).max(ordered);
            let cursors = modules.iter().find(|module| module.name == plan.name).map(|module| &module.record.cursors);
            let all = cursors.cloned().unwrap_or_default();
            let moved = self.moved.entry(plan.name.clone()).or_insert_with(|| (all.clone(), now_ms));
            if moved.0 != all {
                *moved = (all, now_ms);
            }
            let moved_ms = moved.1;
            for source in &plan.chains {
                let chain = &world.chains[source.chain];
                let id = source.id(chain.plan.id);
                let at = cursors.and_then(|cursors| cursors.get(&SourceId::new(id.as_str()))).cloned();
                let key = (plan.name.clone(), id.clone());
                let position = self.positions.entry(key).or_insert_with(|| (at.clone(), now_ms));
                if position.0 != at {
                    *position = (at.clone(), now_ms);
                }
                let is_known = source.blocks != Blocks::None || position.0.is_none();
                let stands = stands.max(if is_known { position.1 } else { moved_ms });
                if report.state == "paused" {
                    continue;
                }
                if let Some((number, due_ms)) = due(plan, source, chain, at.as_ref()) {
                    let waited_ms = now_ms.saturating_sub(stands.max(due_ms));
                    if waited_ms > scenario.event_age_ms + SLACK_MS {
                        late.push(format!(
                            "{} has waited {} s for block {number} of {id}",
                            plan.name,
                            waited_ms / 1_000
                        ));
                    }
                }
            }
        }
        match late.is_empty() || health.status != "healthy" {
            true => Ok(()),
            false => Err(format!("the engine says that it is healthy, and {}", late.join(", "))),
        }
    }
}

/// The first block past a position that a module should have something of, and since when a node that is well has had
/// what it takes to know that.
fn due(_: &ModulePlan, source: &ChainSource, chain: &Chain, at: Option<&Cursor>) -> Option<(u64, u64)> {
    let lag = match source.hold {
        Hold::Latest => 0,
        Hold::Confirmations(count) => count,
        Hold::Safe => chain.plan.safe_lag,
        Hold::Finalized => chain.plan.finalized_lag,
    };
    let from = match at {
        Some(Cursor::Chain { number, .. }) => number + 1,
        _ => source.start.unwrap_or(0),
    };
    let concerns =
        |logs: &[crate::block::Log]| source.blocks != Blocks::None || logs.iter().any(|log| wanted(source, log));
    // One that has no position yet is to be told where it begins.
    let block =
        chain.canon.iter().skip(usize::try_from(from).ok()?).find(|block| at.is_none() || concerns(&block.logs))?;
    let lets_through = chain.canon.get(usize::try_from(block.number + lag).ok()?)?;
    let tells = chain.nodes.iter().filter_map(|node| {
        let well_since = node.well_since_ms?;
        let knows_tags = node.plan.ways.tags || matches!(source.hold, Hold::Latest | Hold::Confirmations(_));
        knows_tags.then_some(well_since.max(lets_through.born_ms + node.plan.lag_ms_max))
    });
    Some((block.number, tells.min()?))
}

/// What is wrong with its health although everything is as it must be. That no block comes any more is true, and that none is
/// made final then.
pub fn unfounded(health: &Health) -> Option<String> {
    let founded = |reason: &String| {
        ["waits for a new block;", "waits for a block that is ", "waits for a newer block that is "]
            .iter()
            .any(|known| reason.contains(known))
    };
    let unhealthy = health.status != "healthy";
    (unhealthy && !health.reasons.iter().any(founded)).then(|| format!("everything is right, and {health:?}"))
}
