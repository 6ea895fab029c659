//! What a module's actor lets others see while it works: read by the tree and by health, without asking the actor.

use std::{
    collections::{BTreeMap, VecDeque},
    pin::pin,
    sync::{
        Mutex,
        atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering},
    },
};

use nexum_host_ifaces::{
    event::{Cursor, SourceId},
    sync::lock,
};

use tokio::sync::Notify;

use crate::{lane::Pace, sources::Source};

/// Fuel figures kept for the percentile: enough for a p99, small for a thousand modules.
const FUEL_SAMPLES: usize = 128;

/// What the operator wants of a module's actor; seen between two events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunState {
    Run,
    /// Finish the event in flight and pull no more.
    Hold,
}

/// Counters and positions of one module. Written by its actor alone.
#[derive(Debug, Default)]
pub struct ModuleStatus {
    run_state: AtomicU8,
    /// It is wanted to hold.
    held: Notify,
    pub processed: AtomicU64,
    pub failed: AtomicU64,
    pub dead_letters: AtomicU64,
    pub consecutive_failures: AtomicU32,
    pub memory_bytes: AtomicU64,
    pub state_bytes: AtomicU64,
    /// Milliseconds since the Unix epoch; 0 before the first event.
    pub last_event_ms: AtomicU64,
    pub pace: Pace,
    cursors: Mutex<BTreeMap<SourceId, Cursor>>,
    /// Positions past what is durable: nothing concerned the module up to there.
    seen: Mutex<BTreeMap<SourceId, Cursor>>,
    fuel: Mutex<VecDeque<u64>>,
}

impl ModuleStatus {
    /// Events that were tried, well or badly.
    pub fn tried(&self) -> u64 {
        self.processed.load(Ordering::Relaxed) + self.failed.load(Ordering::Relaxed)
    }

    pub fn run_state(&self) -> RunState {
        if self.run_state.load(Ordering::Acquire) == 0 { RunState::Run } else { RunState::Hold }
    }

    pub fn set_run_state(&self, run_state: RunState) {
        self.run_state.store((run_state == RunState::Hold).into(), Ordering::Release);
        if run_state == RunState::Hold {
            self.held.notify_waiters();
        }
    }

    /// Waits until it is wanted to hold.
    pub async fn held(&self) {
        let mut held = pin!(self.held.notified());
        // Before the look: what is wanted after that is heard.
        held.as_mut().enable();
        if self.run_state() == RunState::Run {
            held.await;
        }
    }

    pub fn set_cursor(&self, source: &SourceId, cursor: &Cursor) {
        let mut cursors = lock(&self.cursors);
        match cursors.get_mut(source) {
            Some(known) => known.clone_from(cursor),
            None => {
                cursors.insert(source.clone(), cursor.clone());
            }
        }
    }

    /// Notes a position that was not worth a write.
    pub fn set_seen(&self, source: &SourceId, cursor: Cursor) {
        lock(&self.seen).insert(source.clone(), cursor);
    }

    /// How far the module has come in a source, durable or not.
    pub fn position(&self, source: &dyn Source) -> Option<Cursor> {
        let durable = lock(&self.cursors).get(source.id()).cloned();
        let seen = lock(&self.seen).get(source.id()).cloned();
        match (&durable, &seen) {
            (Some(kept), Some(past)) if source.position(past).0 > source.position(kept).0 => seen,
            _ => durable,
        }
    }

    pub fn set_cursors(&self, all: BTreeMap<SourceId, Cursor>) {
        *lock(&self.cursors) = all;
        lock(&self.seen).clear();
    }

    pub fn cursors(&self) -> BTreeMap<String, String> {
        let cursors = lock(&self.cursors);
        cursors.iter().map(|(source, cursor)| (source.to_string(), cursor.to_string())).collect()
    }

    pub fn add_fuel(&self, fuel: u64) {
        let mut samples = lock(&self.fuel);
        if samples.len() == FUEL_SAMPLES {
            samples.pop_front();
        }
        samples.push_back(fuel);
    }

    /// 99th percentile of the newest samples; 0 without any.
    pub fn fuel_p99(&self) -> u64 {
        let samples = lock(&self.fuel);
        let mut sorted: Vec<u64> = samples.iter().copied().collect();
        sorted.sort_unstable();
        let index = (sorted.len() * 99).div_ceil(100).saturating_sub(1);
        sorted.get(index).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn whoever_waits_for_the_wish_to_hold_hears_of_it_whenever_it_comes() {
        let status = ModuleStatus::default();
        let mut held = pin!(status.held());
        assert!(held.as_mut().now_or_never().is_none());
        status.set_run_state(RunState::Hold);
        assert!(held.now_or_never().is_some() && status.held().now_or_never().is_some());
        status.set_run_state(RunState::Run);
        assert!(status.held().now_or_never().is_none());
    }

    #[test]
    fn the_percentile_is_over_the_newest_samples() {
        let status = ModuleStatus::default();
        assert_eq!(status.fuel_p99(), 0);
        for fuel in 1..=1000 {
            status.add_fuel(fuel);
        }
        assert_eq!(status.fuel_p99(), 999);
    }
}
