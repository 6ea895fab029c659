//! The `outbox` interface: effects are collected while their event is handled, and become part of its unit.
//!
//! Invariant: nothing here leaves the event. A handler that fails takes its effects with it; `local-store.flush` makes
//! writes durable, never effects.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use super::{BlockPoint, Effect, Entry, effect_id};
use crate::{
    HostError, HostErrorKind,
    bindings::nexum::host::outbox::{self, Options},
    bounded::{NAME_BYTES_MAX, cut},
    effects,
    event::EventId,
    host::HostState,
};

/// One effect, everything about it: it is written twice and kept until it ends. Larger payloads belong behind a URL.
pub const EFFECT_BYTES_MAX: usize = 256 * 1024;
/// Effects of one event: one per log of a busy block, far below what a unit can carry.
pub const EVENT_EFFECTS_MAX: usize = 256;
/// Effects of one event together: the store's groups hold the units of every module.
pub const EVENT_BYTES_MAX: usize = 1024 * 1024;
/// Receivers commonly keep keys of up to 255 bytes.
pub const KEY_BYTES_MAX: usize = 255;
/// A lane is a name.
pub const LANE_BYTES_MAX: usize = 128;
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

    /// Whether there is room for one more effect beside those of the event so far.
    fn admit(&self, drafts: &Drafts, bytes: usize) -> Result<(), HostError> {
        let limit = |what: String| later(format!("{what} that have not ended yet, which is the limit"));
        if self.pending.load(Ordering::Relaxed) + drafts.entries.len() as u64 >= self.pending_max {
            return Err(limit(format!("this module has {} effects", self.pending_max)));
        }
        if self.bytes.load(Ordering::Relaxed) + (drafts.bytes + bytes) as u64 > PENDING_BYTES_MAX {
            return Err(limit(format!("this module has {PENDING_BYTES_MAX} bytes of effects")));
        }
        Ok(())
    }
}

/// The effects of the event at hand.
#[derive(Debug, Default)]
pub(crate) struct Drafts {
    entries: Vec<Entry>,
    bytes: usize,
}

impl Drafts {
    pub fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }

    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub fn take(&mut self) -> Vec<Entry> {
        self.bytes = 0;
        std::mem::take(&mut self.entries)
    }
}

fn error(kind: HostErrorKind, message: impl Into<String>) -> HostError {
    HostError::new("outbox", kind, message)
}

fn invalid(message: impl Into<String>) -> HostError {
    error(HostErrorKind::InvalidInput, message)
}

fn later(message: impl Into<String>) -> HostError {
    error(HostErrorKind::RateLimited, message)
}

fn check_options(options: &Options) -> Result<(), HostError> {
    if let Some(key) = &options.key
        && (key.is_empty() || key.len() > KEY_BYTES_MAX || !key.bytes().all(|byte| (0x21..0x7f).contains(&byte)))
    {
        let what = format!("expected 1 to {KEY_BYTES_MAX} visible ASCII characters");
        let named = cut(key, NAME_BYTES_MAX);
        return Err(invalid(format!("key `{named}`: {what}, because it is sent as a header")));
    }
    if let Some(lane) = &options.lane
        && (lane.is_empty() || lane.len() > LANE_BYTES_MAX)
    {
        return Err(invalid(format!("a lane of {} bytes: expected 1 to {LANE_BYTES_MAX}", lane.len())));
    }
    Ok(())
}

/// The block of an event, whose finality `release` speaks of.
fn block_of(event: &EventId) -> Option<BlockPoint> {
    match event {
        EventId::Block { chain_id, number, hash } | EventId::Logs { chain_id, number, hash } => {
            Some(BlockPoint { chain_id: *chain_id, number: *number, hash: *hash })
        }
        _ => None,
    }
}

impl outbox::Host for HostState {
    fn send(&mut self, effect: Effect, options: Options) -> Result<String, HostError> {
        let named = [&options.key, &options.lane].into_iter().flatten().map(String::len).sum::<usize>();
        let kind = effects::of(&effect);
        let bytes = kind.bytes();
        self.meter.take(bytes + kind.overhead() + named);
        self.count_host_call("outbox")?;
        let event = match &self.origin {
            None | Some(EventId::Init) => {
                let message = "init sends no effects: it runs at every start, before any event";
                return Err(error(HostErrorKind::Unsupported, message));
            }
            Some(event) => event.clone(),
        };
        check_options(&options)?;
        if bytes > EFFECT_BYTES_MAX {
            return Err(invalid(format!("an effect of {bytes} bytes, at most {EFFECT_BYTES_MAX}")));
        }
        let ordinal = self.drafts.entries.len();
        let id = effect_id(&self.module, &event, ordinal);
        let key = options.key.unwrap_or_else(|| id.clone());
        let allowed = kind.granted(&self.module, &self.grants).and_then(|()| kind.check(&key, &self.grants));
        allowed.map_err(|error| HostError { domain: "outbox".into(), ..error })?;
        if ordinal >= EVENT_EFFECTS_MAX {
            return Err(later(format!("more than {EVENT_EFFECTS_MAX} effects in one event")));
        }
        if self.drafts.bytes + bytes > EVENT_BYTES_MAX {
            return Err(later(format!("the effects of one event have more than {EVENT_BYTES_MAX} bytes")));
        }
        self.quota.admit(&self.drafts, bytes)?;
        self.drafts.bytes += bytes;
        self.drafts.entries.push(Entry {
            key,
            id: id.clone(),
            lane: options.lane,
            release: options.release,
            block: block_of(&event),
            sent_at_ms: self.clock.now_ms(),
            effect,
        });
        Ok(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_has_so_many_effects_and_so_many_bytes_of_them() {
        let quota = Quota::new(3);
        let drafts = Drafts { entries: Vec::new(), bytes: 100 };
        let refusal = |bytes| quota.admit(&drafts, bytes).err().map(|error| error.message);
        quota.set(2, PENDING_BYTES_MAX - 150);
        assert_eq!(refusal(50), None);
        assert!(refusal(51).unwrap().starts_with("this module has 16777216 bytes of effects that have not ended"));
        quota.set(3, 0);
        assert!(refusal(50).unwrap().starts_with("this module has 3 effects that have not ended"));
    }
}
