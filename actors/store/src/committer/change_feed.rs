//! What the outbox actor is told of: effects that units sent, and rewinds.
//!
//! Invariant: in the order of the writes, and never more than `CHANGES_MAX` at once. When more gathers, all of it is
//! dropped and the listener is told to read everything again; and so it is after a write that failed, for the disk may
//! have taken it all the same.

use std::sync::Mutex;

use nexum_host_ifaces::{
    outbox::{Changes, EffectEntry, Location, OutboxChange, PendingEffect, Progress},
    store::{ModuleId, Reply},
};

use crate::store::{Store, lock};

/// Changes that wait for the outbox actor: some 20 MiB at most, and more than it ever lags while it lives.
const CHANGES_MAX: usize = 1 << 16;

#[derive(Default)]
pub(crate) struct ChangeFeed(Mutex<Feed>);

#[derive(Default)]
struct Feed {
    /// Somebody has read what there was, and wants what follows.
    begun: bool,
    lost: bool,
    changes: Vec<OutboxChange>,
    /// Changes since it was begun, told or not.
    told: u64,
    asking: Option<Reply<Changes>>,
}

impl ChangeFeed {
    /// What is written from now on is told.
    pub fn begin(&self) {
        *lock(&self.0) = Feed { begun: true, ..Feed::default() };
    }

    pub fn ask(&self, reply: Reply<Changes>) {
        let mut desk = lock(&self.0);
        desk.asking = Some(reply);
        // An actor that started after the listener knows nothing of what it has heard.
        desk.lost |= !desk.begun;
        desk.tell();
    }

    pub fn told(&self) -> u64 {
        let desk = lock(&self.0);
        if desk.begun && !desk.lost { desk.told } else { u64::MAX }
    }

    pub fn push(&self, changes: Vec<OutboxChange>) {
        let mut desk = lock(&self.0);
        if !desk.begun || changes.is_empty() {
            return;
        }
        desk.told += changes.len() as u64;
        desk.changes.extend(changes);
        if desk.changes.len() > CHANGES_MAX {
            desk.changes = Vec::new();
            desk.lost = true;
        }
        desk.tell();
    }

    /// Something was written, or was not: nobody can tell.
    pub fn lose(&self) {
        let mut desk = lock(&self.0);
        desk.lost |= desk.begun;
        desk.tell();
    }

    /// Effects that are durable now.
    pub fn sent(&self, store: &Store, sent: Vec<(ModuleId, Location, EffectEntry)>) {
        if sent.is_empty() {
            return;
        }
        let mut index = store.index();
        let live = sent.into_iter().map(|(id, at, entry)| {
            OutboxChange::Sent(PendingEffect::new(
                id,
                index.written(id).name.clone(),
                Some(at),
                &entry,
                Progress::default(),
            ))
        });
        let changes = live.collect();
        drop(index);
        self.push(changes);
    }
}

impl Feed {
    fn tell(&mut self) {
        if !self.lost && self.changes.is_empty() {
            return;
        }
        let Some(reply) = self.asking.take() else { return };
        let news = match self.lost {
            true => Changes::Lost,
            false => Changes::Known(std::mem::take(&mut self.changes)),
        };
        // A listener that is gone begins anew.
        let _ = reply.send(Ok(news));
    }
}
