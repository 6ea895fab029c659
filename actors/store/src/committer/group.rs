//! A group: everything that shares one write, and who waits for it.

use std::sync::Arc;

use nexum_host_ifaces::{
    outbox::{EffectEntry, Location, PendingEffect, Released},
    store::{ModuleId, ModuleInfo, Records, Reply, StoreError},
};
use rocksdb::WriteBatch;

use crate::{
    store::Store,
    tables::{
        headers::PendingHeaders,
        letters,
        services::{self, Wanted},
    },
};

/// What waits for one write.
#[derive(Default)]
pub(crate) struct Group {
    pub batch: WriteBatch,
    pub units: u64,
    /// What becomes of the index when the write succeeds.
    pub named: Vec<(Arc<str>, ModuleId)>,
    pub letters: Vec<(ModuleId, LetterChange)>,
    /// Effects that the outbox actor hears of when the write succeeds.
    pub sent: Vec<(ModuleId, Location, EffectEntry)>,
    pub waiting: Vec<Waiting>,
    pub headers: PendingHeaders,
    /// Recordings that were too large to be kept with their units.
    pub left_out: u64,
    /// It is on the disk when it is answered, however durable units are to be.
    pub is_synced: bool,
}

pub(crate) enum LetterChange {
    Put { seq: u64, bytes: u64 },
    Removed(u64),
}

/// Who is answered when the group is written.
pub(crate) enum Waiting {
    Done(Reply<()>),
    Opened(ModuleId, Reply<ModuleInfo>),
    Released(Box<Released>, Reply<Released>),
    Reopened(Box<PendingEffect>, Reply<PendingEffect>),
    Records(Wanted, Reply<Records>),
}

impl Waiting {
    pub fn done((): (), reply: Reply<()>) -> Self {
        Self::Done(reply)
    }

    pub fn released(released: Released, reply: Reply<Released>) -> Self {
        Self::Released(Box::new(released), reply)
    }

    pub fn reopened(live: PendingEffect, reply: Reply<PendingEffect>) -> Self {
        Self::Reopened(Box::new(live), reply)
    }

    /// Says what became of the write. Nobody is told when the caller gave up.
    pub fn answer(self, store: &Store, written: Result<(), StoreError>) {
        match self {
            Self::Done(reply) => drop(reply.send(written)),
            Self::Opened(id, reply) => drop(reply.send(written.and_then(|()| store.info(id)))),
            Self::Released(released, reply) => drop(reply.send(written.map(|()| *released))),
            Self::Reopened(live, reply) => drop(reply.send(written.map(|()| *live))),
            Self::Records(wanted, reply) => {
                drop(reply.send(written.and_then(|()| services::read(&store.db, &wanted))));
            }
        }
    }
}

/// Buffers for encoding, used again for every unit.
#[derive(Default)]
pub(crate) struct Scratch {
    pub key: Vec<u8>,
    pub event: Vec<u8>,
    pub record: Vec<u8>,
}

impl Group {
    pub fn is_empty(&self) -> bool {
        self.batch.is_empty() && self.waiting.is_empty()
    }

    /// Adds an encoded dead letter.
    pub fn put_letter(&mut self, id: ModuleId, seq: u64, encoded: &[u8]) {
        letters::put(&mut self.batch, id, seq, encoded);
        self.letters.push((id, LetterChange::Put { seq, bytes: encoded.len() as u64 }));
    }

    pub fn remove_letter(&mut self, id: ModuleId, seq: u64) {
        letters::delete(&mut self.batch, id, seq);
        self.letters.push((id, LetterChange::Removed(seq)));
    }
}
