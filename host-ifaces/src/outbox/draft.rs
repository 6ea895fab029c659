//! The `outbox` interface: effects are collected while their event is handled, and become part of its unit.
//!
//! Invariant: nothing here leaves the event. A handler that fails takes its effects with it; `local-store.flush` makes
//! writes durable, never effects.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use super::{BlockPoint, Effect, Entry, HttpEffect, effect_id};
use crate::{
    HostError, HostErrorKind,
    bindings::nexum::host::outbox::{self, Options},
    bounded::{NAME_BYTES_MAX, cut},
    event::EventId,
    host::HostState,
    http::{self, Allowlist, HEADERS_MAX, Header, KEY_HEADER},
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

pub(super) fn size(effect: &Effect) -> usize {
    match effect {
        Effect::Http(effect) => {
            let headers: usize = effect.headers.iter().map(|header| header.name.len() + header.value.len()).sum();
            effect.method.len() + effect.url.len() + headers + effect.body.as_ref().map_or(0, Vec::len)
        }
        Effect::Rpc(effect) => effect.method.len() + effect.params.len(),
        Effect::Transaction(effect) => effect.data.len(),
        Effect::Message(effect) => effect.content_topic.len() + effect.payload.len(),
    }
}

/// What the parts of an effect take besides their bytes: headers without a character take something, too.
fn parts(effect: &Effect) -> usize {
    match effect {
        Effect::Http(effect) => size_of_val(effect.headers.as_slice()),
        Effect::Rpc(_) | Effect::Transaction(_) | Effect::Message(_) => 0,
    }
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

/// The request as it will leave, with the header of its key: what is refused then could never go out.
fn check_http(effect: &HttpEffect, key: &str, allow: &Allowlist) -> Result<(), HostError> {
    // Before any of them is copied.
    if effect.headers.len() > HEADERS_MAX {
        return Err(invalid(format!("{} headers, at most {HEADERS_MAX}", effect.headers.len())));
    }
    if effect.headers.iter().any(|header| header.name.eq_ignore_ascii_case(KEY_HEADER)) {
        return Err(invalid("header `idempotency-key` is the host's to set: give the key as an option"));
    }
    let mut headers = effect.headers.clone();
    headers.push(Header { name: KEY_HEADER.into(), value: key.to_owned() });
    http::check(&effect.method, &effect.url, &headers, effect.body.as_deref(), allow).map(drop)
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

impl HostState {
    fn check_effect(&self, effect: &Effect, key: &str) -> Result<(), HostError> {
        let moved = |mut error: HostError| {
            error.domain = "outbox".into();
            error
        };
        self.grants.effect(&self.module, effect).map_err(moved)?;
        let none =
            |what: &str| error(HostErrorKind::Unsupported, format!("{what}: this engine has no actor for them yet"));
        match effect {
            Effect::Http(effect) => check_http(effect, key, self.grants.hosts()).map_err(moved),
            Effect::Rpc(effect) => match serde_json::from_str::<serde_json::Value>(&effect.params) {
                Ok(params) if params.is_array() => Ok(()),
                _ => Err(invalid("`params` is not the JSON text of an array")),
            },
            Effect::Transaction(_) => Err(none("transaction effects")),
            Effect::Message(_) => Err(none("message effects")),
        }
    }
}

impl outbox::Host for HostState {
    fn send(&mut self, effect: Effect, options: Options) -> Result<String, HostError> {
        let named = [&options.key, &options.lane].into_iter().flatten().map(String::len).sum::<usize>();
        self.meter.take(size(&effect) + parts(&effect) + named);
        self.count_host_call("outbox")?;
        let event = match &self.origin {
            None | Some(EventId::Init) => {
                let message = "init sends no effects: it runs at every start, before any event";
                return Err(error(HostErrorKind::Unsupported, message));
            }
            Some(event) => event.clone(),
        };
        check_options(&options)?;
        let bytes = size(&effect);
        if bytes > EFFECT_BYTES_MAX {
            return Err(invalid(format!("an effect of {bytes} bytes, at most {EFFECT_BYTES_MAX}")));
        }
        let ordinal = self.drafts.entries.len();
        let id = effect_id(&self.module, &event, ordinal);
        let key = options.key.unwrap_or_else(|| id.clone());
        self.check_effect(&effect, &key)?;
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

    #[test]
    fn what_send_takes_has_room_for_the_key() {
        let allow = Allowlist::new(["a.org".to_owned()]);
        let refusal = |count: usize, value: usize, key: &str| {
            let header = |n: usize| Header { name: format!("x-{n}"), value: "v".repeat(value) };
            let headers = (0..count).map(header).collect();
            let effect = HttpEffect { method: "POST".into(), url: "https://a.org".into(), headers, body: None };
            check_http(&effect, key, &allow).err().map(|error| error.message)
        };
        let max = http::HEADERS_MAX;
        assert_eq!(refusal(max - 1, 1, "k"), None);
        assert_eq!(refusal(max, 1, "k").unwrap(), format!("{} headers, at most {max}", max + 1));
        assert_eq!(refusal(100_000, 0, "k").unwrap(), format!("100000 headers, at most {max}"));
        let room = http::HEADER_BYTES_MAX - KEY_HEADER.len() - "x-0".len();
        assert_eq!(refusal(1, room - 9, &"k".repeat(9)), None);
        assert!(refusal(1, room - 9, &"k".repeat(10)).unwrap().starts_with("headers of "));
    }
}
