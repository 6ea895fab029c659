//! The kernel's Prometheus metrics.

mod modules;

use std::sync::Arc;

pub use modules::ModuleMetrics;
use modules::Modules;
use nexum_host_ifaces::clock::Clock;
use prometheus::{
    IntCounterVec, IntGauge, Opts, Registry,
    core::{Collector, Desc},
    proto::MetricFamily,
};

#[derive(Clone)]
pub struct Metrics {
    pub modules_loaded: IntGauge,
    pub modules_dead: IntGauge,
    pub service_restarts: IntCounterVec,
    pub turn_wait: IntGauge,
    modules: Modules,
}

impl Metrics {
    /// Registers everything on `registry`; fails only when a name is taken. The uptime counts from now.
    /// `module_histograms`: each module has histograms of its own.
    pub fn register(registry: &Registry, clock: Arc<dyn Clock>, module_histograms: bool) -> prometheus::Result<Self> {
        registry.register(Box::new(Uptime::new(clock)?))?;
        let gauge = |name: &str, help: &str| keep(registry, IntGauge::new(name, help)?);
        let service_restarts = Opts::new("nexum_service_restarts_total", "Services that ended and were started again.");
        Ok(Self {
            modules_loaded: gauge("nexum_modules_loaded", "Modules that are loaded, whatever their state.")?,
            modules_dead: gauge("nexum_modules_dead", "Modules that are Dead.")?,
            service_restarts: keep(registry, IntCounterVec::new(service_restarts, &["service"])?)?,
            turn_wait: gauge(
                "nexum_turn_wait_seconds",
                "How long any module waits because something is tried alone that the process may have died of.",
            )?,
            modules: keep(registry, Modules::new(module_histograms)?)?,
        })
    }

    /// What is counted of a module, from now on if nothing was.
    pub fn module(&self, name: &Arc<str>) -> Arc<ModuleMetrics> {
        self.modules.of(name)
    }

    /// Forgets a module that was unloaded.
    pub fn forget(&self, module: &str) {
        self.modules.forget(module);
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
