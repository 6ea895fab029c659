//! How the outbox is, for the tree.

use std::collections::BTreeMap;

use nexum_admin_api::tree::age;

use crate::service::Status;

/// State of the outbox, for the tree.
#[derive(Debug, Clone, Default)]
pub struct OutboxStatus {
    pub in_flight: usize,
    /// Effects that have not ended, and when the oldest of them was sent, by module.
    pub pending: BTreeMap<String, (u64, Option<u64>)>,
}

impl OutboxStatus {
    pub(crate) fn shown(self, now_ms: u64) -> Status {
        let pending: u64 = self.pending.values().map(|(count, _)| count).sum();
        let oldest = self.pending.values().filter_map(|(_, oldest)| *oldest).min();
        let oldest = oldest.map_or_else(String::new, |at| format!(", oldest {}", age(now_ms.saturating_sub(at))));
        let summary = format!("{pending} pending{oldest}, {} under way", self.in_flight);
        Status::up(summary).with_modules(move |module, facts| {
            if let Some((count, oldest)) = self.pending.get(module) {
                facts.outbox_pending = *count;
                facts.outbox_oldest_age_ms = oldest.map(|at| now_ms.saturating_sub(at));
            }
        })
    }
}
