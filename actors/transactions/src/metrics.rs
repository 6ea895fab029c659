//! What the transactions actor measures.

use nexum_host_ifaces::transactions::{QueueStatus, WaitKind};
use prometheus::{GaugeVec, IntCounterVec, IntGaugeVec, Opts, Registry};

use crate::{queue::Note, record::QueueKey};

/// Handles on the crate's metrics; they outlive the actor.
#[derive(Clone)]
pub struct TransactionsMetrics {
    ended: IntCounterVec,
    replacements: IntCounterVec,
    foreign: IntCounterVec,
    gaps: IntCounterVec,
    reorgs: IntCounterVec,
    contradicted: IntCounterVec,
    waits: GaugeVec,
    in_flight: IntGaugeVec,
    waiting: IntGaugeVec,
    stopped: IntGaugeVec,
    oldest: GaugeVec,
}

const QUEUE: [&str; 2] = ["chain_id", "account"];

impl TransactionsMetrics {
    /// Registers everything on `registry`; fails only when a name is taken.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGaugeVec::new(Opts::new(name, help), &QUEUE)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let oldest = GaugeVec::new(
            Opts::new("nexum_transactions_oldest_age_seconds", "Age of the oldest transaction that has not ended."),
            &QUEUE,
        )?;
        registry.register(Box::new(oldest.clone()))?;
        let waits = GaugeVec::new(
            Opts::new(
                "nexum_transaction_wait_age_seconds",
                "For how long the oldest transaction has waited for the same thing, by what that is; 0 when none does.",
            ),
            &["chain_id", "account", "reason"],
        )?;
        registry.register(Box::new(waits.clone()))?;
        Ok(Self {
            ended: counter(
                "nexum_transactions_total",
                "Transactions that ended, by how.",
                &["chain_id", "account", "result"],
            )?,
            replacements: counter(
                "nexum_transaction_replacements_total",
                "Signatures of a nonce that was signed before.",
                &QUEUE,
            )?,
            foreign: counter(
                "nexum_transaction_foreign_nonces_total",
                "Nonces used by transactions that are not of this engine.",
                &QUEUE,
            )?,
            gaps: counter("nexum_transaction_gaps_filled_total", "Transfers of nothing that closed a gap.", &QUEUE)?,
            reorgs: counter(
                "nexum_transaction_reorgs_total",
                "Transactions whose block was taken back before they were final.",
                &QUEUE,
            )?,
            contradicted: counter(
                "nexum_transaction_contradicted_receipts_total",
                "Receipts that an endpoint had of a block that is not of the chain that is followed.",
                &QUEUE,
            )?,
            waits,
            in_flight: gauge("nexum_transactions_in_flight", "Signed transactions that are in no block.")?,
            waiting: gauge("nexum_transactions_waiting", "Transactions that wait for a nonce.")?,
            stopped: gauge("nexum_transaction_queue_stopped", "1 while an account stands still on a chain, else 0.")?,
            oldest,
        })
    }

    pub(crate) fn note(&self, queue: &QueueKey, notes: &[Note]) {
        // Mostly nothing happened.
        if notes.is_empty() {
            return;
        }
        let (chain, account) = (queue.chain_id.to_string(), queue.account.to_string());
        let of = [chain.as_str(), account.as_str()];
        for note in notes {
            match note {
                Note::Ended(result) => self.ended.with_label_values(&[of[0], of[1], result]).inc(),
                Note::Replaced => self.replacements.with_label_values(&of).inc(),
                Note::Foreign(count) => self.foreign.with_label_values(&of).inc_by(*count),
                Note::GapFilled => self.gaps.with_label_values(&of).inc(),
                Note::Reorged => self.reorgs.with_label_values(&of).inc(),
                Note::Contradicted => self.contradicted.with_label_values(&of).inc(),
            }
        }
    }

    pub(crate) fn show(&self, status: &QueueStatus) {
        let chain = status.chain_id.to_string();
        let of = [chain.as_str(), status.account.as_str()];
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.in_flight.with_label_values(&of).set(count(status.in_flight));
        self.waiting.with_label_values(&of).set(count(status.waiting));
        self.stopped.with_label_values(&of).set(i64::from(status.stopped.is_some()));
        self.oldest.with_label_values(&of).set(status.oldest_age_ms.unwrap_or(0) as f64 / 1e3);
        for kind in WaitKind::ALL {
            let age_ms = status.oldest_waits.get(&kind).copied().unwrap_or(0);
            self.waits.with_label_values(&[of[0], of[1], kind.name()]).set(age_ms as f64 / 1e3);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use nexum_host_ifaces::Address;

    use super::*;

    #[test]
    fn what_happens_is_counted_by_account() {
        let metrics = TransactionsMetrics::register(&Registry::new()).unwrap();
        let queue = QueueKey { chain_id: 1, account: Address([1; 20]) };
        metrics.note(&queue, &[Note::Ended("mined"), Note::Foreign(3), Note::Replaced, Note::GapFilled, Note::Reorged]);
        let account = queue.account.to_string();
        let of = ["1", account.as_str()];
        assert_eq!(metrics.ended.with_label_values(&["1", account.as_str(), "mined"]).get(), 1);
        assert_eq!(metrics.foreign.with_label_values(&of).get(), 3);
        let mut status = QueueStatus {
            chain_id: 1,
            account: account.clone(),
            next_nonce: None,
            in_flight: 2,
            waiting: 1,
            stopped: Some("no balance".into()),
            oldest_age_ms: Some(1_500),
            foreign_nonces: 3,
            stopped_age_ms: Some(1_000),
            waits: Vec::new(),
            more_waits: 0,
            oldest_waits: BTreeMap::from([(WaitKind::Balance, 2_500)]),
        };
        metrics.show(&status);
        assert_eq!(
            (metrics.in_flight.with_label_values(&of).get(), metrics.stopped.with_label_values(&of).get()),
            (2, 1)
        );
        let waits = |reason: &str| metrics.waits.with_label_values(&["1", account.as_str(), reason]).get();
        assert_eq!((waits("balance"), waits("fees")), (2.5, 0.0));
        status.stopped = None;
        metrics.show(&status);
        assert_eq!(metrics.stopped.with_label_values(&of).get(), 0);
    }
}
