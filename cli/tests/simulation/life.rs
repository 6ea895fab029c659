//! When what befalls the engine in a seed, and how far its end has come.

use std::time::Duration;

use crate::{chance::Chance, choice::Done, run::FIRST_LOOK_MS, scenario::Scenario};

/// When what befalls the engine, over all its incarnations.
pub struct Life {
    pub chance: Chance,
    pub upgrades: Chance,
    pub resyncs: Chance,
    pub retries: Chance,
    pub deaths: Chance,
    pub calm_at: u64,
    pub crash_at: u64,
    pub kill_at: u64,
    pub jump_at: u64,
    pub order_at: u64,
    pub upgrade_at: u64,
    pub resync_at: u64,
    pub retry_at: u64,
    pub look_at: u64,
    /// Of the calm, or of the last order after it.
    pub calm_since: u64,
    pub looks: u64,
    pub restarts: u64,
    pub done: Done,
    pub right_since: Option<u64>,
    pub last_difference: String,
}

impl Life {
    pub fn new(seed: u64, scenario: &Scenario) -> Self {
        let faults = &scenario.faults;
        let mut chance = Chance::new(seed, "life");
        let [crash_at, kill_at, jump_at, order_at] =
            [faults.crash_every_ms, faults.kill_actor_every_ms, faults.jump_every_ms, faults.order_every_ms]
                .map(|mean| after(&mut chance, 0, mean));
        let mut upgrades = Chance::new(seed, "upgrades of modules");
        let upgrade_at = after(&mut upgrades, 0, faults.upgrade_every_ms);
        let mut resyncs = Chance::new(seed, "resyncs by order");
        let resync_at = after(&mut resyncs, 0, faults.resync_every_ms);
        let mut retries = Chance::new(seed, "retries by order");
        let retry_at = after(&mut retries, 0, faults.retry_every_ms);
        let deaths = Chance::new(seed, "after deaths by events");
        let never = Self::never(chance, upgrades, resyncs, retries, deaths);
        let calm_at = scenario.live_ms;
        Self { calm_at, crash_at, kill_at, jump_at, order_at, upgrade_at, resync_at, retry_at, ..never }
    }

    /// Nothing befalls it any more; it is only looked at.
    pub fn calm(seed: u64, now_ms: u64) -> Self {
        let [chance, upgrades, resyncs, retries, deaths] = [(); 5].map(|()| Chance::new(seed, "afresh"));
        let never = Self::never(chance, upgrades, resyncs, retries, deaths);
        Self { look_at: now_ms + FIRST_LOOK_MS, calm_since: now_ms, ..never }
    }

    fn never(chance: Chance, upgrades: Chance, resyncs: Chance, retries: Chance, deaths: Chance) -> Self {
        let [calm_at, crash_at, kill_at, jump_at, order_at, upgrade_at, resync_at, retry_at, look_at] = [u64::MAX; 9];
        Self {
            chance,
            upgrades,
            resyncs,
            retries,
            deaths,
            calm_at,
            crash_at,
            kill_at,
            jump_at,
            order_at,
            upgrade_at,
            resync_at,
            retry_at,
            look_at,
            calm_since: 0,
            looks: 0,
            restarts: 0,
            done: Done::default(),
            right_since: None,
            last_difference: String::new(),
        }
    }

    /// `by_event`: it died of an event, of which there are many, and whoever starts it again is prompt.
    pub fn downtime(&mut self, by_event: bool) -> Duration {
        if by_event {
            return Duration::from_millis(self.deaths.below(5_000));
        }
        let ms = match self.chance.below(10) {
            0..=5 => self.chance.below(2_000),
            6..=8 => self.chance.between(2_000, 30_000),
            _ => self.chance.between(30_000, 300_000),
        };
        Duration::from_millis(ms)
    }
}

/// The next time something happens that happens every so often.
pub fn after(chance: &mut Chance, now_ms: u64, mean_ms: u64) -> u64 {
    if mean_ms == 0 { u64::MAX } else { now_ms + chance.between(mean_ms / 4, mean_ms * 7 / 4) }
}
