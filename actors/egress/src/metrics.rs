//! What the egress actor measures.

use prometheus::{Histogram, HistogramOpts, IntCounterVec, IntGauge, Opts, Registry};

/// Handles on the crate's metrics; they outlive the actor.
#[derive(Clone)]
pub struct EgressMetrics {
    pub(crate) requests: IntCounterVec,
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
        Ok(Self { requests, duration, in_flight, lookups })
    }
}
