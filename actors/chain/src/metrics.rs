//! The numbers a chain actor reports; one registration serves every chain.

use prometheus::{
    HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, core::Collector as _,
};

/// Methods that metrics name; whatever else a module may be allowed to call is `other`, so that labels stay few.
const METHODS: &[&str] = &[
    "eth_blockNumber",
    "eth_call",
    "eth_chainId",
    "eth_estimateGas",
    "eth_feeHistory",
    "eth_gasPrice",
    "eth_getBalance",
    "eth_getBlockByHash",
    "eth_getBlockByNumber",
    "eth_getBlockReceipts",
    "eth_getCode",
    "eth_getLogs",
    "eth_getProof",
    "eth_getStorageAt",
    "eth_getTransactionByHash",
    "eth_getTransactionCount",
    "eth_getTransactionReceipt",
    "eth_maxPriorityFeePerGas",
    "eth_sendRawTransaction",
    "eth_subscribe",
    "eth_syncing",
    "eth_unsubscribe",
    "net_version",
];

/// From a node on the same machine to one that is given up.
const DURATION_BUCKETS: &[f64] = &[0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// Counters of all chains, by `chain_id`.
#[derive(Debug, Clone)]
pub struct ChainMetrics {
    pub rpc_requests: IntCounterVec,
    pub rpc_errors: IntCounterVec,
    pub rpc_duration: HistogramVec,
    pub rpc_fallbacks: IntCounterVec,
    pub rpc_confirmations: IntCounterVec,
    pub endpoint_errors: IntCounterVec,
    pub endpoint_demotions: IntCounterVec,
    pub endpoint_requests: IntCounterVec,
    pub module_requests: IntCounterVec,
    pub module_units: IntCounterVec,
    pub module_refused: IntCounterVec,
    pub rpc_shared: IntCounterVec,
    pub wait_seconds: IntGaugeVec,
    pub waits: IntGaugeVec,
    pub endpoint_lag: IntGaugeVec,
    pub endpoint_score: IntGaugeVec,
    pub reconnects: IntCounterVec,
    pub reorgs: IntCounterVec,
    pub blocks_behind: IntGaugeVec,
    /// Of all chains together.
    pub dns_lookups: IntGauge,
}

impl ChainMetrics {
    /// Creates the metrics and registers them. Fails when they are registered already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str, labels: &[&str]| -> Result<IntCounterVec, prometheus::Error> {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let chain = ["chain_id"];
        let histogram = HistogramOpts::new("nexum_rpc_duration_seconds", "Time one JSON-RPC exchange took.");
        let rpc_duration = HistogramVec::new(histogram.buckets(DURATION_BUCKETS.to_vec()), &["chain_id", "method"])?;
        registry.register(Box::new(rpc_duration.clone()))?;
        let gauge = |name: &str, help: &str, labels: &[&str]| -> Result<IntGaugeVec, prometheus::Error> {
            let gauge = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let dns_lookups = IntGauge::new("nexum_chain_dns_lookups", "DNS lookups of endpoints that have not ended.")?;
        registry.register(Box::new(dns_lookups.clone()))?;
        let endpoint = ["chain_id", "endpoint"];
        Ok(Self {
            rpc_requests: counter("nexum_rpc_requests_total", "JSON-RPC requests sent.", &["chain_id", "method"])?,
            rpc_errors: counter(
                "nexum_rpc_errors_total",
                "JSON-RPC requests that an endpoint did not answer well.",
                &["chain_id", "method", "endpoint"],
            )?,
            rpc_duration,
            rpc_fallbacks: counter(
                "nexum_rpc_fallbacks_total",
                "Requests and subscriptions moved to another endpoint.",
                &chain,
            )?,
            reconnects: counter(
                "nexum_subscription_reconnects_total",
                "Times the subscription to heads was made anew.",
                &chain,
            )?,
            reorgs: counter("nexum_reorgs_total", "Forks followed.", &chain)?,
            rpc_confirmations: counter(
                "nexum_rpc_confirmations_total",
                "Answers that were doubtful, for which another endpoint was asked.",
                &chain,
            )?,
            endpoint_errors: counter(
                "nexum_endpoint_errors_total",
                "Exchanges that failed, by what went wrong.",
                &["chain_id", "endpoint", "kind"],
            )?,
            endpoint_demotions: counter(
                "nexum_endpoint_demotions_total",
                "Times others were preferred to an endpoint because of what it did.",
                &["chain_id", "endpoint", "reason"],
            )?,
            endpoint_requests: counter(
                "nexum_endpoint_requests_total",
                "JSON-RPC requests sent to an endpoint, each of a batch counted, by what they were for.",
                &["chain_id", "endpoint", "purpose"],
            )?,
            module_requests: counter(
                "nexum_module_rpc_requests_total",
                "JSON-RPC requests that a module asked of a chain, its outbox included.",
                &["chain_id", "module"],
            )?,
            module_units: counter(
                "nexum_module_rpc_units_total",
                "Compute units of the requests that were sent for a module.",
                &["chain_id", "module"],
            )?,
            module_refused: counter(
                "nexum_module_rpc_refused_total",
                "Calls of a module that were refused because it had used up its budget.",
                &["module"],
            )?,
            rpc_shared: counter(
                "nexum_rpc_shared_total",
                "Reads that were answered by what another request for the same brought.",
                &["chain_id", "method"],
            )?,
            wait_seconds: gauge(
                "nexum_chain_wait_seconds",
                "Age of the oldest thing that a chain or a module that reads it waits for besides new blocks.",
                &chain,
            )?,
            waits: gauge(
                "nexum_chain_waits",
                "Things that a chain and its modules wait for besides new blocks.",
                &chain,
            )?,
            endpoint_lag: gauge(
                "nexum_endpoint_lag_blocks",
                "Blocks between the best head any endpoint told and this one's.",
                &endpoint,
            )?,
            endpoint_score: gauge(
                "nexum_endpoint_score",
                "How much of what it was asked lately an endpoint answered, 0 to 100.",
                &endpoint,
            )?,
            blocks_behind: gauge(
                "nexum_blocks_behind",
                "Blocks between the best head any endpoint told and the newest one read.",
                &chain,
            )?,
            dns_lookups,
        })
    }

    /// Forgets a module that was unloaded.
    pub fn forget(&self, module: &str) {
        for counter in [&self.module_requests, &self.module_units] {
            let families = counter.collect();
            let labels = families.iter().flat_map(|family| family.get_metric()).map(|metric| metric.get_label());
            for labels in labels {
                let value = |name: &str| labels.iter().find(|label| label.name() == name).map(|label| label.value());
                if let (Some(chain), Some(counted)) = (value("chain_id"), value("module"))
                    && counted == module
                {
                    // It is there: nobody else removes it.
                    let _ = counter.remove_label_values(&[chain, module]);
                }
            }
        }
        // Of most modules there is none.
        let _ = self.module_refused.remove_label_values(&[module]);
    }

    /// The label of a method.
    pub fn method(method: &str) -> &'static str {
        METHODS.iter().find(|known| **known == method).copied().unwrap_or("other")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_that_was_unloaded_has_no_series() {
        let metrics = ChainMetrics::register(&Registry::new()).unwrap();
        for (chain, module) in [("1", "stays"), ("1", "goes"), ("10", "goes")] {
            metrics.module_requests.with_label_values(&[chain, module]).inc();
        }
        metrics.forget("goes");
        metrics.forget("nobody");
        let left: Vec<usize> =
            metrics.module_requests.collect().iter().map(|family| family.get_metric().len()).collect();
        assert_eq!(left, [1]);
        assert_eq!(metrics.module_requests.with_label_values(&["1", "stays"]).get(), 1);
    }
}
