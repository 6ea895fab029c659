//! What is counted of the connections to the gateway's listeners.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

/// Handles on the crate's metrics; they outlive the actor.
#[derive(Clone)]
pub struct GatewayMetrics {
    open: IntGaugeVec,
    waited: IntCounterVec,
}

impl GatewayMetrics {
    /// Registers everything on `registry`; fails only when a name is taken.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let open = IntGaugeVec::new(
            Opts::new("nexum_gateway_connections", "Open connections, by listener; 256 at most."),
            &["listener"],
        )?;
        let waited = IntCounterVec::new(
            Opts::new("nexum_gateway_connections_waited_total", "Connections that came when every place was taken."),
            &["listener"],
        )?;
        registry.register(Box::new(open.clone()))?;
        registry.register(Box::new(waited.clone()))?;
        Ok(Self { open, waited })
    }

    pub(crate) fn of(&self, listener: &str) -> Connections {
        let names = [listener];
        Connections { open: self.open.with_label_values(&names), waited: self.waited.with_label_values(&names) }
    }
}

/// Those of one listener.
#[derive(Clone)]
pub(crate) struct Connections {
    open: IntGauge,
    waited: IntCounter,
}

/// A connection that counts as open until it is dropped.
pub(crate) struct Open(IntGauge);

impl Connections {
    pub fn open(&self) -> Open {
        self.open.inc();
        Open(self.open.clone())
    }

    /// One has to wait for a place.
    pub fn wait(&self) {
        self.waited.inc();
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}
