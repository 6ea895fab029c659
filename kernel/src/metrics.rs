//! The kernel's Prometheus metrics.

use std::sync::Arc;

use nexum_host_ifaces::clock::Clock;
use prometheus::{
    IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use crate::histogram::{Histogram, HistogramVec};

#[derive(Clone)]
pub struct Metrics {
    pub modules_loaded: IntGauge,
    pub modules_dead: IntGauge,
    pub dispatched: IntCounterVec,
    pub processed: IntCounterVec,
    pub failed: IntCounterVec,
    pub skipped: IntCounterVec,
    pub duration: HistogramVec,
    pub latency: HistogramVec,
    pub fuel: HistogramVec,
    pub restarts: IntCounterVec,
    pub service_restarts: IntCounterVec,
    pub consecutive_failures: IntGaugeVec,
    pub state_bytes_used: IntGaugeVec,
    pub state_bytes_limit: IntGaugeVec,
    pub memory_bytes_used: IntGaugeVec,
    pub expected_event_age: IntGaugeVec,
    pub turn_wait: IntGaugeVec,
    pub log_lines_dropped: IntCounterVec,
}

impl Metrics {
    /// Registers everything on `registry`; fails only when a name is taken. The uptime counts from now.
    pub fn register(registry: &Registry, clock: Arc<dyn Clock>) -> prometheus::Result<Self> {
        registry.register(Box::new(Uptime::new(clock)?))?;
        const MODULE: &[&str] = &["module"];
        const MODULE_EVENT: &[&str] = &["module", "event_type"];
        // From a tenth of a millisecond (a block handler) to the default event deadline.
        let seconds = vec![0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0];
        // Fine around the goals: a head reaches its guests within milliseconds.
        let latency = vec![
            0.0001, 0.0002, 0.0003, 0.0005, 0.00075, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02,
            0.03, 0.05, 0.1, 0.25, 1.0, 10.0,
        ];
        let fuel = vec![1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];
        let gauge = |name: &str, help: &str| keep(registry, IntGauge::new(name, help)?);
        let gauges = |name: &str, help: &str| keep(registry, IntGaugeVec::new(Opts::new(name, help), MODULE)?);
        let counters = |name: &str, help: &str, labels: &[&str]| {
            keep(registry, IntCounterVec::new(Opts::new(name, help), labels)?)
        };
        let histograms = |name: &str, help: &str, labels: &[&str], buckets: &[f64]| {
            keep(registry, HistogramVec::new(name, help, labels, buckets)?)
        };
        Ok(Self {
            modules_loaded: gauge("nexum_modules_loaded", "Modules that are loaded, whatever their state.")?,
            modules_dead: gauge("nexum_modules_dead", "Modules that are Dead.")?,
            dispatched: counters("nexum_events_dispatched_total", "Events handed to a guest.", MODULE_EVENT)?,
            processed: counters("nexum_events_processed_total", "Events handled and committed.", MODULE_EVENT)?,
            failed: counters("nexum_events_failed_total", "Failed attempts at events.", MODULE_EVENT)?,
            skipped: counters("nexum_events_skipped_total", "Events a subscription's `missed` rule left out.", MODULE)?,
            duration: histograms(
                "nexum_event_duration_seconds",
                "Guest and host calls of one event.",
                MODULE_EVENT,
                &seconds,
            )?,
            latency: histograms(
                "nexum_dispatch_latency_seconds",
                "From a source seeing an event to the guest's call.",
                MODULE_EVENT,
                &latency,
            )?,
            fuel: histograms("nexum_fuel_consumed", "Fuel per event.", MODULE, &fuel)?,
            restarts: counters("nexum_restarts_total", "Fresh instances after a failure.", MODULE)?,
            service_restarts: counters(
                "nexum_service_restarts_total",
                "Services that ended and were started again.",
                &["service"],
            )?,
            consecutive_failures: gauges(
                "nexum_consecutive_failures",
                "Failures in a row; a handled event resets it.",
            )?,
            state_bytes_used: gauges("nexum_state_bytes_used", "Keys plus values of the module's state.")?,
            state_bytes_limit: gauges("nexum_state_bytes_limit", "Quota of the module's state.")?,
            memory_bytes_used: gauges("nexum_memory_bytes_used", "Linear memory of the module's instance.")?,
            expected_event_age: gauges(
                "nexum_expected_event_age_seconds",
                "How long the oldest event waits that the module should have handled.",
            )?,
            turn_wait: gauges(
                "nexum_turn_wait_seconds",
                "How long the module waits because something is tried alone that the process may have died of.",
            )?,
            log_lines_dropped: counters("nexum_log_lines_dropped_total", "Log lines over the module's rate.", MODULE)?,
        })
    }

    /// Forgets a module that was unloaded.
    pub fn forget(&self, module: &str) {
        for kind in ["init", "block", "logs", "tick", "reorg", "outcome", "retry"] {
            let labels = [module, kind];
            // An event kind that the module never saw has no series.
            for vector in [&self.dispatched, &self.processed, &self.failed] {
                let _ = vector.remove_label_values(&labels);
            }
            for vector in [&self.duration, &self.latency] {
                vector.remove_label_values(&labels);
            }
        }
        let labels = [module];
        self.fuel.remove_label_values(&labels);
        for vector in [&self.skipped, &self.restarts, &self.log_lines_dropped] {
            let _ = vector.remove_label_values(&labels);
        }
        for vector in [
            &self.consecutive_failures,
            &self.state_bytes_used,
            &self.state_bytes_limit,
            &self.memory_bytes_used,
            &self.expected_event_age,
            &self.turn_wait,
        ] {
            let _ = vector.remove_label_values(&labels);
        }
    }
}

fn keep<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> prometheus::Result<C> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

/// The uptime, read when it is scraped.
struct Uptime {
    clock: Arc<dyn Clock>,
    started_ns: u64,
    seconds: IntGauge,
}

impl Uptime {
    fn new(clock: Arc<dyn Clock>) -> prometheus::Result<Self> {
        let started_ns = clock.monotonic_ns();
        let seconds = IntGauge::new("nexum_uptime_seconds", "Seconds since the engine started.")?;
        Ok(Self { clock, started_ns, seconds })
    }
}

impl Collector for Uptime {
    fn desc(&self) -> Vec<&Desc> {
        self.seconds.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let since_ns = self.clock.monotonic_ns().saturating_sub(self.started_ns);
        self.seconds.set((since_ns / 1_000_000_000) as i64);
        self.seconds.collect()
    }
}

/// The handles of one module, looked up once per event kind.
pub struct ModuleMetrics {
    all: Metrics,
    module: String,
    kinds: Vec<(&'static str, KindMetrics)>,
    pub fuel: Arc<Histogram>,
    pub skipped: IntCounter,
    pub state_bytes_used: IntGauge,
    pub memory_bytes_used: IntGauge,
    pub consecutive_failures: IntGauge,
    pub log_lines_dropped: IntCounter,
}

#[derive(Clone)]
pub struct KindMetrics {
    pub dispatched: IntCounter,
    pub processed: IntCounter,
    pub failed: IntCounter,
    pub duration: Arc<Histogram>,
    pub latency: Arc<Histogram>,
}

impl ModuleMetrics {
    pub fn new(all: &Metrics, module: &str) -> Self {
        let labels = [module];
        Self {
            all: all.clone(),
            module: module.to_owned(),
            kinds: Vec::new(),
            fuel: all.fuel.with_label_values(&labels),
            skipped: all.skipped.with_label_values(&labels),
            state_bytes_used: all.state_bytes_used.with_label_values(&labels),
            memory_bytes_used: all.memory_bytes_used.with_label_values(&labels),
            consecutive_failures: all.consecutive_failures.with_label_values(&labels),
            log_lines_dropped: all.log_lines_dropped.with_label_values(&labels),
        }
    }

    /// The handles for one event kind.
    pub fn kind(&mut self, kind: &'static str) -> &KindMetrics {
        let found = self.kinds.iter().position(|(known, _)| *known == kind);
        let index = found.unwrap_or_else(|| {
            let labels = [self.module.as_str(), kind];
            let handles = KindMetrics {
                dispatched: self.all.dispatched.with_label_values(&labels),
                processed: self.all.processed.with_label_values(&labels),
                failed: self.all.failed.with_label_values(&labels),
                duration: self.all.duration.with_label_values(&labels),
                latency: self.all.latency.with_label_values(&labels),
            };
            self.kinds.push((kind, handles));
            self.kinds.len() - 1
        });
        &self.kinds[index].1
    }
}
