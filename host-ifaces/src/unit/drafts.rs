//! The effects of the event at hand, and how many a module may have.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crate::{HostError, HostErrorKind, event::EventId, outbox::EffectEntry};

/// Effects of one module that have not ended, unless the operator says otherwise. Each costs some 300 bytes of memory.
pub const PENDING_MAX: u64 = 10_000;

/// Effects of one module that have not ended, together: what a list or a rewind reads, and a receiver that is down for
/// long may leave on the disk. Ten thousand of 1.6 KiB.
pub const PENDING_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// What a module may have in its outbox, and what it has.
#[derive(Debug)]
pub struct Quota {
    /// Effects that have not ended, as the outbox actor last counted them: what a module handles before they are
    /// counted may go past the limits, by one pull at most.
    pending: AtomicU64,
    /// Their bytes.
    bytes: AtomicU64,
    pending_max: u64,
}

impl Quota {
    pub fn new(pending_max: u64) -> Arc<Self> {
        Arc::new(Self { pending: AtomicU64::new(0), bytes: AtomicU64::new(0), pending_max })
    }

    /// Takes over how many effects have not ended, and how many bytes they have.
    pub fn set(&self, pending: u64, bytes: u64) {
        self.pending.store(pending, Ordering::Relaxed);
        self.bytes.store(bytes, Ordering::Relaxed);
    }
}

/// The effects of the event at hand.
#[derive(Debug)]
pub(crate) struct Drafts {
    entries: Vec<EffectEntry>,
    bytes: usize,
    quota: Arc<Quota>,
    /// The event that effects are named after: the one at hand, or the one that a retried dead letter holds.
    origin: Option<EventId>,
}

impl Drafts {
    pub(crate) fn new(quota: &Arc<Quota>) -> Self {
        Self { entries: Vec::new(), bytes: 0, quota: quota.clone(), origin: None }
    }

    /// Begins the next event.
    pub(crate) fn begin(&mut self, id: &EventId) {
        self.origin = Some(id.clone());
        self.entries.clear();
        self.bytes = 0;
    }

    /// The effects from now on are named after this event.
    pub(crate) fn stand_for(&mut self, origin: &EventId) {
        self.origin = Some(origin.clone());
    }

    pub(crate) fn origin(&self) -> Option<&EventId> {
        self.origin.as_ref()
    }

    pub(crate) fn entries(&self) -> &[EffectEntry] {
        &self.entries
    }

    /// Bytes of the effects so far.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there is room for one more effect beside those of the event so far.
    pub(crate) fn admit(&self, bytes: usize) -> Result<(), HostError> {
        let Self { entries, quota, .. } = self;
        let limit = |what: String| {
            let message = format!("{what} that have not ended yet, which is the limit");
            HostError::new("outbox", HostErrorKind::RateLimited, message)
        };
        if quota.pending.load(Ordering::Relaxed) + entries.len() as u64 >= quota.pending_max {
            return Err(limit(format!("this module has {} effects", quota.pending_max)));
        }
        if quota.bytes.load(Ordering::Relaxed) + (self.bytes + bytes) as u64 > PENDING_BYTES_MAX {
            return Err(limit(format!("this module has {PENDING_BYTES_MAX} bytes of effects")));
        }
        Ok(())
    }

    /// Adds an effect of so many bytes.
    pub(crate) fn push(&mut self, entry: EffectEntry, bytes: usize) {
        self.bytes += bytes;
        self.entries.push(entry);
    }

    /// Takes the effects for the unit that ends the event.
    pub(crate) fn take(&mut self) -> Vec<EffectEntry> {
        self.bytes = 0;
        std::mem::take(&mut self.entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_has_so_many_effects_and_so_many_bytes_of_them() {
        let quota = Quota::new(3);
        let drafts = Drafts { bytes: 100, ..Drafts::new(&quota) };
        let refusal = |bytes| drafts.admit(bytes).err().map(|error| error.message);
        quota.set(2, PENDING_BYTES_MAX - 150);
        assert_eq!(refusal(50), None);
        assert!(refusal(51).unwrap().starts_with("this module has 16777216 bytes of effects that have not ended"));
        quota.set(3, 0);
        assert!(refusal(50).unwrap().starts_with("this module has 3 effects that have not ended"));
    }
}
