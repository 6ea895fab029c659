//! What is waited for, for whoever watches: each with a reason and an age.

use std::collections::BTreeMap;

use nexum_host_ifaces::transactions::{TransactionWait, WaitKind};

use super::{Live, Queue, answers::what};
use crate::record::Standing;

/// Waits that are told at once.
const WAITS_MAX: usize = 32;

/// What a signed transaction waits for; none of one that is in a block and only has to grow old there.
fn kind(live: &Live) -> Option<WaitKind> {
    let is_mined = matches!(live.slot.standing, Standing::Mined(_));
    match (live.what.is_empty(), is_mined) {
        _ if live.written < live.slot.variants.len() => Some(WaitKind::Store),
        (true, true) => None,
        (false, true) => Some(WaitKind::Agreement),
        _ if live.doubt_ms.is_some() => Some(WaitKind::Agreement),
        (true, false) => Some(WaitKind::Block),
        (false, false) => Some(WaitKind::Broadcast),
    }
}

impl Queue {
    /// What is waited for, the oldest first, how many others wait besides, and the oldest of each kind.
    pub(super) fn waits(&self, now: u64) -> (Vec<TransactionWait>, usize, BTreeMap<WaitKind, u64>) {
        let waiting = self.waiting.values().map(|waiting| TransactionWait {
            module: waiting.intent.module.to_string(),
            which: waiting.intent.id.clone(),
            kind: waiting.kind,
            reason: waiting.what.clone(),
            age_ms: now.saturating_sub(waiting.since_ms),
        });
        let signed = self.live.iter().filter_map(|nonce| {
            let live = &self.slots[nonce];
            let intent = live.slot.intent.as_ref();
            Some(TransactionWait {
                module: live.slot.module.to_string(),
                which: intent.map_or_else(|| format!("nonce {nonce}"), |intent| intent.id.clone()),
                kind: kind(live)?,
                reason: what(live),
                age_ms: now.saturating_sub(live.slot.at_ms),
            })
        });
        let mut waits: Vec<TransactionWait> = waiting.chain(signed).collect();
        waits.sort_by(|a, b| b.age_ms.cmp(&a.age_ms).then_with(|| a.which.cmp(&b.which)));
        let mut oldest = BTreeMap::new();
        for wait in &waits {
            oldest.entry(wait.kind).or_insert(wait.age_ms);
        }
        let more = waits.len().saturating_sub(WAITS_MAX);
        waits.truncate(WAITS_MAX);
        (waits, more, oldest)
    }
}
