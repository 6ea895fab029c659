//! What the identity actor measures.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use nexum_host_ifaces::{Address, sync::lock};
use prometheus::{IntCounterVec, IntGauge, Opts, Registry};

/// Handles on the crate's metrics; they outlive the actor.
#[derive(Clone)]
pub struct IdentityMetrics {
    signatures: IntCounterVec,
    refusals: IntCounterVec,
    waiting: IntGauge,
    oldest: IntGauge,
    /// The series there are of each module.
    known: Arc<Mutex<BTreeSet<(String, String)>>>,
}

impl IdentityMetrics {
    /// Registers everything on `registry`; fails only when a name is taken.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let signatures = IntCounterVec::new(
            Opts::new("nexum_identity_sign_total", "Signatures, by the module that got them and the account."),
            &["module", "account"],
        )?;
        let refusals = IntCounterVec::new(
            Opts::new("nexum_identity_refusals_total", "Signatures that were not given, by the kind of the error."),
            &["module", "kind"],
        )?;
        let waiting =
            IntGauge::new("nexum_identity_approvals_waiting", "Requests that the operator has to decide on.")?;
        let oldest = IntGauge::new(
            "nexum_identity_oldest_approval_timestamp_seconds",
            "When the oldest request was made that the operator has to decide on; 0 when there is none.",
        )?;
        registry.register(Box::new(signatures.clone()))?;
        registry.register(Box::new(refusals.clone()))?;
        registry.register(Box::new(waiting.clone()))?;
        registry.register(Box::new(oldest.clone()))?;
        Ok(Self { signatures, refusals, waiting, oldest, known: Arc::default() })
    }

    pub(crate) fn signed(&self, module: &str, account: Address) {
        self.count(&self.signatures, module, &account.to_string());
    }

    pub(crate) fn refused(&self, module: &str, kind: &str) {
        self.count(&self.refusals, module, kind);
    }

    fn count(&self, counter: &IntCounterVec, module: &str, label: &str) {
        lock(&self.known).insert((module.to_owned(), label.to_owned()));
        counter.with_label_values(&[module, label]).inc();
    }

    /// How many requests wait, and since when the oldest.
    pub(crate) fn show_waiting(&self, (waiting, oldest_ms): (usize, Option<u64>)) {
        self.waiting.set(i64::try_from(waiting).unwrap_or(i64::MAX));
        self.oldest.set(i64::try_from(oldest_ms.unwrap_or(0) / 1_000).unwrap_or(i64::MAX));
    }

    /// Forgets a module that was unloaded.
    pub fn forget(&self, module: &str) {
        lock(&self.known).retain(|(known, label)| {
            if known == module {
                // Each is there once in one of the two.
                let _ = self.signatures.remove_label_values(&[module, label.as_str()]);
                let _ = self.refusals.remove_label_values(&[module, label.as_str()]);
            }
            known != module
        });
    }
}
