//! What the messaging actor measures.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// Handles on the crate's metrics; they outlive the actor.
#[derive(Clone)]
pub struct MessagingMetrics {
    pub(crate) requests: IntCounterVec,
    pub(crate) delivered: IntCounter,
    pub(crate) published: IntCounter,
    pub(crate) gaps: IntCounter,
    pub(crate) nodes_connected: IntGauge,
}

impl MessagingMetrics {
    /// Registers everything on `registry`; fails only when a name is taken.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let requests = IntCounterVec::new(
            Opts::new(
                "nexum_messaging_requests_total",
                "Requests to Waku nodes, by what for and by what came of them.",
            ),
            &["operation", "result"],
        )?;
        registry.register(Box::new(requests.clone()))?;
        let nodes_connected =
            IntGauge::new("nexum_messaging_nodes_connected", "Waku nodes that are not known to be away.")?;
        registry.register(Box::new(nodes_connected.clone()))?;
        Ok(Self {
            requests,
            delivered: counter("nexum_messaging_delivered_total", "Messages given to modules.")?,
            published: counter("nexum_messaging_published_total", "Messages that a Waku node took.")?,
            gaps: counter(
                "nexum_messaging_gaps_total",
                "How often a store no longer had what a module had not handled yet.",
            )?,
            nodes_connected,
        })
    }
}
