//! Where a module may come to stand so that only the operator helps it on.
//!
//! A loss may show as a module that stands still. So the simulation's operator helps only where it is the world's doing;
//! anywhere else the module finds its way by itself, or is not what it must be in the end.

use std::collections::BTreeSet;

use nexum_chain::KEPT_HEADERS;
use nexum_kernel::admin::Node;

use crate::scenario::{ChainPlan, Scenario};

/// What the engine says where the operator has to choose.
pub const ASKS: &str = "`nexumctl module resync";

/// Whether a module may have to be put onto this chain, for the reason that the engine gives.
pub fn is_due(scenario: &Scenario, chain: &ChainPlan, reason: &str) -> bool {
    // A fork is longer than what is kept of the chain, or the module was away while its branch was forgotten.
    let forgotten = chain.kept_headers < KEPT_HEADERS;
    // A node that deceives has made blocks up, and one of them was the module's position.
    let deceived = chain.guard.is_some();
    // What would have to be undone is no longer in a journal that keeps little.
    let short = scenario.journal_entries < 10_000 && reason.contains("below the kept journal");
    forgotten || deceived || short
}

/// Whether a dead module may be dead of what it says, so that the operator starts it again. It may have failed by itself too
/// often. A death of the process is a failure of a module that alone was at something, which it can only have been when the
/// process died of one of its own events, or by chance.
pub fn may_be_dead(scenario: &Scenario, crashes: u32, module: &Node) -> bool {
    let deadly = || scenario.modules.iter().any(|plan| plan.name == module.name && plan.deadly > 0);
    let of_deaths = module.summary.contains("the process died");
    // Nobody dies of starting.
    !of_deaths || (module.summary.starts_with("budget spent ") && (deadly() || crashes > 0))
}

/// What the operator has done to modules, as far as something may come of it that nothing else may lead to.
#[derive(Default)]
pub struct Done {
    paused: BTreeSet<String>,
}

impl Done {
    pub fn paused(&mut self, module: &str) {
        self.paused.insert(module.to_owned());
    }

    /// Whether a module may be paused: only an order makes it so.
    pub fn may_be_paused(&self, module: &str) -> bool {
        self.paused.contains(module)
    }
}
