//! What the remote-store actor measures.

use prometheus::{IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry};

/// Handles on the crate's metrics; they outlive the actor.
#[derive(Clone)]
pub struct RemoteStoreMetrics {
    requests: IntCounterVec,
    chunks: IntCounterVec,
    pub(crate) sent_bytes: IntCounter,
    pub(crate) received_bytes: IntCounter,
    corrupt: IntCounterVec,
    node_up: IntGaugeVec,
    batch_used: IntGaugeVec,
    batch_ttl: IntGaugeVec,
}

impl RemoteStoreMetrics {
    /// Registers everything on `registry`; fails only when a name is taken.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let requests = IntCounterVec::new(
            Opts::new(
                "nexum_remote_store_requests_total",
                "Uploads, downloads, and reads and writes of feeds, by `ok` or the kind of the error.",
            ),
            &["operation", "result"],
        )?;
        let chunks = IntCounterVec::new(
            Opts::new("nexum_remote_store_chunks_total", "Chunks that were read, from a node or from the cache."),
            &["source"],
        )?;
        let sent_bytes = IntCounter::new("nexum_remote_store_sent_bytes_total", "Content that was uploaded.")?;
        let received_bytes =
            IntCounter::new("nexum_remote_store_received_bytes_total", "Content that was handed to modules.")?;
        let corrupt = IntCounterVec::new(
            Opts::new("nexum_remote_store_corrupt_total", "Answers of a node that were not what was asked for."),
            &["node"],
        )?;
        let gauge = |name: &str, help: &str| IntGaugeVec::new(Opts::new(name, help), &["node"]);
        let node_up = gauge("nexum_remote_store_node_up", "Whether a node was of use when it was asked last.")?;
        let batch_used = gauge(
            "nexum_remote_store_batch_used_percent",
            "How full the fullest bucket of a node's postage batch is; at 100 uploads begin to fail.",
        )?;
        let batch_ttl = gauge(
            "nexum_remote_store_batch_ttl_seconds",
            "How long a node's postage batch lasts at today's price; 0 when it is of no use.",
        )?;
        registry.register(Box::new(requests.clone()))?;
        registry.register(Box::new(chunks.clone()))?;
        registry.register(Box::new(sent_bytes.clone()))?;
        registry.register(Box::new(received_bytes.clone()))?;
        registry.register(Box::new(corrupt.clone()))?;
        registry.register(Box::new(node_up.clone()))?;
        registry.register(Box::new(batch_used.clone()))?;
        registry.register(Box::new(batch_ttl.clone()))?;
        Ok(Self { requests, chunks, sent_bytes, received_bytes, corrupt, node_up, batch_used, batch_ttl })
    }

    pub(crate) fn ended(&self, operation: &str, result: &str) {
        self.requests.with_label_values(&[operation, result]).inc();
    }

    pub(crate) fn chunk(&self, is_cached: bool) {
        self.chunks.with_label_values(&[if is_cached { "cache" } else { "node" }]).inc();
    }

    pub(crate) fn corrupt(&self, node: &str) {
        self.corrupt.with_label_values(&[node]).inc();
    }

    pub(crate) fn node_up(&self, node: &str, is_up: bool) {
        self.node_up.with_label_values(&[node]).set(i64::from(is_up));
    }

    pub(crate) fn batch(&self, node: &str, used_percent: u64, ttl_s: u64) {
        let shown = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.batch_used.with_label_values(&[node]).set(shown(used_percent));
        self.batch_ttl.with_label_values(&[node]).set(shown(ttl_s));
    }
}
