//! A nonce that has a record, with what only this process knows of it.

use std::collections::BTreeSet;

use nexum_host_ifaces::interfaces::identity::port::UnsignedTransaction;

use crate::{fees::Kind, record::Slot};

/// How often one endpoint alone has to say something, each time at another head, before it counts.
const ALONE_TIMES: usize = 3;

/// Heads at which one endpoint alone said the same.
#[derive(Debug, Default)]
pub(super) struct Heads(BTreeSet<u64>);

impl Heads {
    /// Notes that it said so again; whether that is often enough.
    pub(super) fn note(&mut self, head: u64) -> bool {
        // More of them say no more.
        if self.0.len() < ALONE_TIMES {
            self.0.insert(head);
        }
        self.0.len() >= ALONE_TIMES
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// A nonce with what only this process knows of it.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) slot: Slot,
    /// Variants that are durable.
    pub(super) written: usize,
    /// The queue's change that made it: writes from before are of another record of this nonce.
    pub(super) born: u64,
    /// Its newest change, and which one is durable.
    pub(super) changes: u64,
    pub(super) durable: u64,
    pub(super) sending: bool,
    pub(super) sent: bool,
    /// A node may have its bytes although none said so.
    pub(super) doubtful: bool,
    pub(super) send_ms: u64,
    /// What the endpoints said last, or why it is not replaced.
    pub(super) what: String,
    /// Being signed anew, and what.
    pub(super) draft: Option<(u64, Kind)>,
    pub(super) replacement: Option<UnsignedTransaction>,
    /// Wanted with higher fees before its time.
    pub(super) bump: bool,
    /// Not to be replaced before.
    pub(super) hold_ms: u64,
    /// The policy's, and when it was asked for.
    pub(super) ceiling: Option<(Option<u128>, u64)>,
    pub(super) asking_ceiling: bool,
    pub(super) asking: bool,
    /// The facts that receipts were asked for after.
    pub(super) asked_at: u64,
    /// Since when its nonce is used and no receipt was found; not before that time are more endpoints asked.
    pub(super) doubt_ms: Option<u64>,
    pub(super) doubting: bool,
    /// Heads at which the only endpoint there is spoke against it, and at which one alone told its receipt.
    pub(super) alone: Heads,
    pub(super) told_alone: Heads,
    /// Not before is it asked again whether a second endpoint has its receipt.
    pub(super) agree_ms: u64,
    /// This process has seen its nonce unused.
    pub(super) watched: bool,
}

impl Live {
    /// What it came to is durable; once it was told, only the note of that may not be.
    pub(super) fn is_settled(&self) -> bool {
        self.durable == self.changes || self.slot.told
    }

    pub(super) fn new(slot: Slot, written: usize, doubtful: bool) -> Self {
        Self {
            slot,
            written,
            born: 0,
            changes: 0,
            durable: 0,
            sending: false,
            sent: false,
            doubtful,
            send_ms: 0,
            what: String::new(),
            draft: None,
            replacement: None,
            bump: false,
            hold_ms: 0,
            ceiling: None,
            asking_ceiling: false,
            asking: false,
            asked_at: 0,
            doubt_ms: None,
            doubting: false,
            alone: Heads::default(),
            told_alone: Heads::default(),
            agree_ms: 0,
            watched: false,
        }
    }

    /// What is not to happen any more is not sent again: an intent that was withdrawn, or has gone on to another nonce.
    pub(super) fn is_given_up(&self) -> bool {
        self.slot.is_open() && self.slot.withdrawn.is_some() && !self.slot.newest().empty
    }
}
