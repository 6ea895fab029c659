//! What a guest calls of `outbox`: effects are collected while their event is handled, and become part of its unit.
//!
//! Invariant: nothing here leaves the event. A handler that fails takes its effects with it.

use wasmtime::component::{HasData, Linker};

use crate::{
    HostError, HostErrorKind,
    bindings::nexum::host::outbox::{self, Effect, Options},
    bounded::{NAME_BYTES_MAX, cut},
    call::Call,
    effects,
    event::EventId,
    host::HostState,
    outbox::{BlockPoint, EffectEntry, effect_id},
    unit::drafts::Drafts,
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

/// What `outbox` sees of a module's Store.
pub(crate) struct View<'a> {
    pub call: &'a mut Call,
    pub drafts: &'a mut Drafts,
}

struct HasView;

impl HasData for HasView {
    type Data<'a> = View<'a>;
}

/// The interface for a linker.
pub(crate) fn link(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    outbox::add_to_linker::<_, HasView>(linker, |state| View::of(state))
}

impl<'a> View<'a> {
    pub(crate) fn of(state: &'a mut HostState) -> Self {
        let (call, drafts) = state.call_and_drafts();
        Self { call, drafts }
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

impl outbox::Host for View<'_> {
    fn send(&mut self, effect: Effect, options: Options) -> Result<String, HostError> {
        let Self { call, drafts } = self;
        let named = [&options.key, &options.lane].into_iter().flatten().map(String::len).sum::<usize>();
        let kind = effects::of(&effect);
        let bytes = kind.bytes();
        call.take(bytes + kind.overhead() + named);
        call.count("outbox")?;
        let event = match drafts.origin() {
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
        let ordinal = drafts.entries().len();
        let id = effect_id(call.module(), &event, ordinal);
        let key = options.key.unwrap_or_else(|| id.clone());
        let grants = call.grants();
        let allowed = kind.granted(call.module(), grants).and_then(|()| kind.check(&key, grants));
        allowed.map_err(|error| HostError { domain: "outbox".into(), ..error })?;
        if ordinal >= EVENT_EFFECTS_MAX {
            return Err(later(format!("more than {EVENT_EFFECTS_MAX} effects in one event")));
        }
        if drafts.bytes() + bytes > EVENT_BYTES_MAX {
            return Err(later(format!("the effects of one event have more than {EVENT_BYTES_MAX} bytes")));
        }
        drafts.admit(bytes)?;
        let entry = EffectEntry {
            key,
            id: id.clone(),
            lane: options.lane,
            release: options.release,
            block: block_of(&event),
            sent_at_ms: call.clock().now_ms(),
            effect,
        };
        drafts.push(entry, bytes);
        Ok(id)
    }
}
