//! What is counted of queries.

use nexum_host_ifaces::HostError;
use prometheus::{Histogram, HistogramOpts, IntCounterVec, IntGauge, Opts, Registry};

use crate::admin::AdminError;

/// From an instance that answers at once to the default deadline.
const SECONDS: [f64; 10] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0];

/// How a query ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Answered,
    /// The module said why it does not answer, or answers no queries.
    Refused,
    Failed,
    Late,
    /// There was no room for it.
    Busy,
}

impl Outcome {
    const ALL: [Self; 5] = [Self::Answered, Self::Refused, Self::Failed, Self::Late, Self::Busy];

    pub fn of(answer: &Result<Result<String, HostError>, AdminError>) -> Self {
        match answer {
            Ok(Ok(_)) => Self::Answered,
            Ok(Err(_)) | Err(AdminError::NoQueries(_)) => Self::Refused,
            Err(AdminError::LateAnswer { .. }) => Self::Late,
            Err(_) => Self::Failed,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Late => "late",
            Self::Busy => "busy",
        }
    }
}

#[derive(Clone)]
pub struct QueryMetrics {
    pub(crate) running: IntGauge,
    total: IntCounterVec,
    seconds: Histogram,
}

impl QueryMetrics {
    /// Registers everything on `registry`; fails only when a name is taken.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let total = Opts::new("nexum_queries_total", "Queries of modules, by how they ended.");
        let seconds =
            HistogramOpts::new("nexum_query_duration_seconds", "How long queries took that there was room for.");
        let metrics = Self {
            running: IntGauge::new("nexum_queries_running", "Queries that are being answered.")?,
            total: IntCounterVec::new(total, &["module", "outcome"])?,
            seconds: Histogram::with_opts(seconds.buckets(SECONDS.to_vec()))?,
        };
        registry.register(Box::new(metrics.running.clone()))?;
        registry.register(Box::new(metrics.total.clone()))?;
        registry.register(Box::new(metrics.seconds.clone()))?;
        Ok(metrics)
    }

    pub(crate) fn count(&self, module: &str, outcome: Outcome) {
        self.total.with_label_values(&[module, outcome.name()]).inc();
    }

    pub(crate) fn observe_ns(&self, ns: u64) {
        self.seconds.observe(ns as f64 / 1e9);
    }

    pub(crate) fn forget(&self, module: &str) {
        for outcome in Outcome::ALL {
            // There is none of most outcomes.
            let _ = self.total.remove_label_values(&[module, outcome.name()]);
        }
    }
}
