//! What the egress actor measures.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use prometheus::{Histogram, HistogramOpts, IntCounterVec, IntGauge, Opts, Registry};

/// A module of which requests were counted.
#[derive(Default)]
struct Known {
    /// Gone once it was unloaded: what was under way then counts no more.
    loaded: Arc<()>,
    /// What its series are named.
    results: BTreeSet<String>,
}

/// A request that is to be counted once it has ended.
pub(crate) struct Counted {
    module: Arc<str>,
    loaded: Weak<()>,
}

/// Handles on the crate's metrics; they outlive the actor.
#[derive(Clone)]
pub struct EgressMetrics {
    requests: IntCounterVec,
    known: Arc<Mutex<HashMap<Arc<str>, Known>>>,
    pub(crate) duration: Histogram,
    pub(crate) in_flight: IntGauge,
    pub(crate) lookups: IntGauge,
}

impl EgressMetrics {
    /// Registers everything on `registry`; fails only when a name is taken.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let requests = IntCounterVec::new(
            Opts::new(
                "nexum_egress_requests_total",
                "HTTP requests of modules, by the class of the status or the kind of the error.",
            ),
            &["module", "result"],
        )?;
        let duration = Histogram::with_opts(
            HistogramOpts::new("nexum_egress_duration_seconds", "From sending a request to the end of its answer.")
                .buckets(vec![0.001, 0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0]),
        )?;
        let in_flight = IntGauge::new("nexum_egress_in_flight", "HTTP requests that wait for their answer.")?;
        let lookups = IntGauge::new("nexum_egress_dns_lookups", "DNS lookups for modules that have not ended.")?;
        registry.register(Box::new(requests.clone()))?;
        registry.register(Box::new(duration.clone()))?;
        registry.register(Box::new(in_flight.clone()))?;
        registry.register(Box::new(lookups.clone()))?;
        Ok(Self { requests, known: Arc::default(), duration, in_flight, lookups })
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Arc<str>, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request of a module begins.
    pub(crate) fn begin(&self, module: &Arc<str>) -> Counted {
        let loaded = Arc::downgrade(&self.known().entry(module.clone()).or_default().loaded);
        Counted { module: module.clone(), loaded }
    }

    /// It has ended like this.
    pub(crate) fn end(&self, Counted { module, loaded }: &Counted, result: &str) {
        let mut known = self.known();
        // Nobody forgets it meanwhile.
        let Some(known) = known.get_mut(module).filter(|_| loaded.strong_count() > 0) else { return };
        if !known.results.contains(result) {
            known.results.insert(result.to_owned());
        }
        self.requests.with_label_values(&[&**module, result]).inc();
    }

    /// Forgets a module that was unloaded.
    pub fn forget(&self, module: &str) {
        let mut known = self.known();
        for result in known.remove(module).iter().flat_map(|known| &known.results) {
            // Each was counted at least once.
            let _ = self.requests.remove_label_values(&[module, result.as_str()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_that_was_unloaded_has_no_series_and_gets_none() {
        let metrics = EgressMetrics::register(&Registry::new()).unwrap();
        let series = || {
            let families = prometheus::core::Collector::collect(&metrics.requests);
            families.iter().map(|family| family.get_metric().len()).sum::<usize>()
        };
        let [stays, goes] = ["stays", "goes"].map(Arc::<str>::from);
        for module in [&stays, &goes] {
            for result in ["2xx", "timeout", "2xx"] {
                metrics.end(&metrics.begin(module), result);
            }
        }
        let under_way = metrics.begin(&goes);
        assert_eq!(series(), 4);
        metrics.forget("goes");
        metrics.forget("nobody");
        assert_eq!(series(), 2);
        metrics.end(&under_way, "2xx");
        assert_eq!(series(), 2, "what ends later counts no more");
        // Loaded again.
        metrics.end(&metrics.begin(&goes), "5xx");
        metrics.end(&under_way, "2xx");
        assert_eq!(series(), 3);
    }
}
