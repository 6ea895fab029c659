//! What the outbox measures.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex},
};

use nexum_host_ifaces::{outbox::Ended, sync::lock};
use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};

use super::schedule::Pending;

#[derive(Clone)]
pub struct OutboxMetrics {
    pending: IntGaugeVec,
    oldest: IntGaugeVec,
    ended: IntCounterVec,
    pub(super) attempts: IntCounterVec,
    /// Modules that have gauges.
    shown: Arc<Mutex<BTreeSet<String>>>,
}

impl OutboxMetrics {
    /// Registers everything on `registry`; fails only when a name is taken.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        const MODULE: &[&str] = &["module"];
        let pending = IntGaugeVec::new(Opts::new("nexum_outbox_pending", "Effects that have not ended."), MODULE)?;
        let oldest = IntGaugeVec::new(
            Opts::new(
                "nexum_outbox_oldest_timestamp_seconds",
                "When the oldest effect that has not ended was sent, seconds since the Unix epoch; 0 without one.",
            ),
            MODULE,
        )?;
        let ended = IntCounterVec::new(
            Opts::new("nexum_outbox_ended_total", "Effects that ended, by how: delivered, failed or cancelled."),
            &["module", "how"],
        )?;
        let attempts = IntCounterVec::new(
            Opts::new("nexum_outbox_attempts_total", "Attempts at effects, the first one included."),
            MODULE,
        )?;
        registry.register(Box::new(pending.clone()))?;
        registry.register(Box::new(oldest.clone()))?;
        registry.register(Box::new(ended.clone()))?;
        registry.register(Box::new(attempts.clone()))?;
        Ok(Self { pending, oldest, ended, attempts, shown: Arc::default() })
    }

    pub(super) fn ended(&self, module: &str, how: Ended) {
        self.ended.with_label_values(&[module, super::name(how)]).inc();
    }

    pub(super) fn show(&self, pending: &Pending) {
        let Pending { module, count, oldest_ms, .. } = pending;
        self.pending.with_label_values(&[module]).set(*count as i64);
        self.oldest.with_label_values(&[module]).set(oldest_ms.map_or(0, |ms| (ms / 1_000) as i64));
        lock(&self.shown).insert(module.clone());
    }

    /// Shows these, and zero for every other module that was shown before.
    pub(super) fn show_all(&self, all: &HashMap<String, Pending>) {
        let shown = lock(&self.shown).clone();
        for module in shown.into_iter().filter(|module| !all.contains_key(module)) {
            self.show(&Pending { module, ..Pending::default() });
        }
        all.values().for_each(|pending| self.show(pending));
    }

    /// Forgets a module that was unloaded.
    pub(crate) fn forget(&self, module: &str) {
        // What was never counted has no series.
        for how in [Ended::Delivered, Ended::Failed, Ended::Cancelled] {
            let _ = self.ended.remove_label_values(&[module, super::name(how)]);
        }
        let _ = self.attempts.remove_label_values(&[module]);
    }
}
