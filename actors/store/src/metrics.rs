//! What the store measures: histograms and gauges for Prometheus, and the recent commit times for the tree.

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry};

/// How many commits the p99 of the status looks back on.
const WINDOW: usize = 1000;

/// Why a write failed.
pub(crate) const DISK_FULL: &str = "disk-full";
pub(crate) const OTHER: &str = "other";

/// The crate's metrics, on the registry they were given.
#[derive(Clone)]
pub(crate) struct Metrics {
    pub commit_duration: Histogram,
    pub batch_size: Histogram,
    pub dead_letters: IntGaugeVec,
    pub rejected: IntCounter,
    pub failed: IntCounterVec,
    pub recordings_left_out: IntCounter,
}

impl Metrics {
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let commit_duration = Histogram::with_opts(
            HistogramOpts::new("nexum_commit_duration_seconds", "Time of one synced write of a group of event units.")
                // From 50 µs, a fifth of a fast disk's sync, to 13 s.
                .buckets(prometheus::exponential_buckets(0.000_05, 2.0, 19)?),
        )?;
        let batch_size = Histogram::with_opts(
            HistogramOpts::new("nexum_commit_batch_size", "Event units in one synced write.")
                .buckets(prometheus::exponential_buckets(1.0, 4.0, 9)?),
        )?;
        let dead_letters = IntGaugeVec::new(
            Opts::new("nexum_dead_letters", "Events that a module could not handle and that wait for the operator."),
            &["module"],
        )?;
        let rejected = IntCounter::new(
            "nexum_commit_rejected_total",
            "Event units refused because too many waited for the disk; they were not written.",
        )?;
        let failed = IntCounterVec::new(
            Opts::new(
                "nexum_commit_failed_total",
                "Writes of groups of event units that the disk did not take, by reason.",
            ),
            &["reason"],
        )?;
        // The first one is an increase.
        for reason in [DISK_FULL, OTHER] {
            failed.with_label_values(&[reason]);
        }
        let recordings_left_out = IntCounter::new(
            "nexum_recordings_left_out_total",
            "Recordings of handled events that were too large to be kept with their units.",
        )?;
        registry.register(Box::new(commit_duration.clone()))?;
        registry.register(Box::new(batch_size.clone()))?;
        registry.register(Box::new(dead_letters.clone()))?;
        registry.register(Box::new(rejected.clone()))?;
        registry.register(Box::new(failed.clone()))?;
        registry.register(Box::new(recordings_left_out.clone()))?;
        Ok(Self { commit_duration, batch_size, dead_letters, rejected, failed, recordings_left_out })
    }
}

/// The last commit durations.
#[derive(Default)]
pub(crate) struct Window {
    recent_ns: Vec<u64>,
    next: usize,
}

impl Window {
    pub fn push(&mut self, duration_ns: u64) {
        if self.recent_ns.len() < WINDOW {
            self.recent_ns.push(duration_ns);
        } else {
            self.recent_ns[self.next] = duration_ns;
        }
        self.next = (self.next + 1) % WINDOW;
    }

    /// 0 when nothing was measured.
    pub fn p99_ns(&self) -> u64 {
        let mut sorted = self.recent_ns.clone();
        sorted.sort_unstable();
        sorted.get((sorted.len() * 99).div_ceil(100).saturating_sub(1)).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_forgets_what_is_old() {
        let mut window = Window::default();
        assert_eq!(window.p99_ns(), 0);
        window.push(7);
        assert_eq!(window.p99_ns(), 7);
        (1..=1000).for_each(|ns| window.push(ns));
        assert_eq!(window.p99_ns(), 990);
        (0..1000).for_each(|_| window.push(3));
        assert_eq!(window.p99_ns(), 3);
    }
}
