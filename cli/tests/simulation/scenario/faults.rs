//! What goes wrong around the engine, drawn.

use super::ModulePlan;
use crate::chance::Chance;

/// The destinations of effects. Chances are of ten thousand requests.
#[derive(Debug, Clone)]
pub struct ReceiverPlan {
    /// Of the way there, and of the way back, at most.
    pub delay_ms_max: u64,
    /// Takes up to 45 s to arrive.
    pub slow: u64,
    /// Goes wrong in a good time.
    pub hiccups: u64,
    /// Begins a bad time.
    pub trouble: u64,
    /// How long an attempt may take.
    pub attempt_ms: u64,
    /// Ends of effects after which old ones are forgotten.
    pub prune_every: u32,
}

/// Chances are of ten thousand.
#[derive(Debug, Clone, Default)]
pub struct FaultPlan {
    pub crash_before_write: u64,
    pub crash_after_write: u64,
    pub write_error: u64,
    /// The write is there, but is said to have failed.
    pub acknowledgement_lost: u64,
    pub slow_write: u64,
    /// Mean time between, milliseconds; 0 is never.
    pub crash_every_ms: u64,
    pub kill_actor_every_ms: u64,
    pub jump_every_ms: u64,
    /// The operator pauses, resumes or restarts a module.
    pub order_every_ms: u64,
    /// The operator puts another version in the place of a module.
    pub upgrade_every_ms: u64,
    /// The operator puts a module onto a chain, whether or not it asks for that.
    pub resync_every_ms: u64,
    /// The operator has a dead letter delivered again.
    pub retry_every_ms: u64,
    /// Of a hundred deaths so many are by a loss of power.
    pub power_percent: u64,
    /// The power fails in the middle of a write.
    pub power_in_write: u64,
    pub crashes_max: u32,
    /// The engine dies at exactly this write, before or after it.
    pub crash_at: Option<(u64, When)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    Before,
    After,
    /// By a loss of power, in the middle of it.
    Within,
}

impl ReceiverPlan {
    pub(super) fn draw(chance: &mut Chance) -> Self {
        Self {
            delay_ms_max: *chance.pick(&[5, 200, 2_000]),
            slow: *chance.pick(&[0, 50, 300]),
            hiccups: *chance.pick(&[0, 100, 1_000]),
            trouble: *chance.pick(&[0, 50, 200]),
            attempt_ms: *chance.pick(&[3_000, 30_000]),
            prune_every: *chance.pick(&[4, 16, 512]),
        }
    }
}

impl FaultPlan {
    pub(super) fn draw(chance: &mut Chance) -> Self {
        Self {
            crash_before_write: *chance.pick(&[0, 30, 100]),
            crash_after_write: *chance.pick(&[0, 30, 100]),
            write_error: *chance.pick(&[0, 0, 30, 150]),
            acknowledgement_lost: *chance.pick(&[0, 0, 30, 100]),
            slow_write: *chance.pick(&[0, 50, 500]),
            crash_every_ms: *chance.pick(&[0, 30_000, 120_000]),
            kill_actor_every_ms: *chance.pick(&[0, 0, 30_000, 120_000]),
            jump_every_ms: *chance.pick(&[0, 0, 0, 60_000]),
            crashes_max: *chance.pick(&[0, 2, 5]) as u32,
            order_every_ms: 0,
            upgrade_every_ms: 0,
            resync_every_ms: 0,
            retry_every_ms: 0,
            power_percent: 0,
            power_in_write: 0,
            crash_at: None,
        }
    }

    /// Draws which modules have events that end the process. How often the process may die of one: more often than an event
    /// can be under way when it dies of something else, which is once when that is another event, because from then on it
    /// is tried alone, and once for each death by chance.
    pub(super) fn kill(&mut self, chance: &mut Chance, modules: &mut [ModulePlan]) -> u32 {
        if chance.percent(30) {
            // Each of them costs as many deaths as are allowed.
            self.crashes_max = self.crashes_max.min(2);
            for module in modules.iter_mut().filter(|module| !module.chains.is_empty()) {
                if chance.percent(50) {
                    module.deadly = *chance.pick(&[20, 60, 150]);
                }
            }
        }
        self.crashes_max + 2 + u32::from(chance.percent(50))
    }
}
