//! Units of one module on their way to the store: those that wait to be sent together, and those that were sent and are
//! not acknowledged.
//!
//! Owns their order. A module that catches up hands over what it made of several events in one message and waits for
//! the disk once. Nothing waits here while the guest does: whoever calls it sends them when it does not answer at once.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{
    port::{Pending, Port, PortError},
    state::StoreError,
    store::{EventUnit, StoreMsg},
};

/// Most units in one message.
const UNITS_MAX: usize = 16;

/// Why a unit may not be durable. Whoever made it must not go on from it.
#[derive(Debug, thiserror::Error)]
pub enum NotCommitted {
    #[error(transparent)]
    Port(#[from] PortError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

pub struct CommitQueue {
    store: Port<StoreMsg>,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<EventUnit>,
    sent: Vec<Pending<Result<(), StoreError>>>,
    /// What was refused on the way, for whoever settles.
    refused: Option<PortError>,
}

impl CommitQueue {
    pub fn new(store: Port<StoreMsg>) -> Self {
        Self { store, queue: Mutex::default() }
    }

    /// Adds the unit that follows the one before.
    pub fn push(&self, unit: EventUnit) {
        let mut queue = self.lock();
        // The event of a new block comes alone, a second one seldom.
        match queue.waiting.len() {
            0 => queue.waiting.reserve_exact(1),
            1 => queue.waiting.reserve_exact(UNITS_MAX - 1),
            _ => {}
        }
        queue.waiting.push(unit);
        if queue.waiting.len() >= UNITS_MAX {
            self.send(&mut queue);
        }
    }

    /// Sends what waits, without waiting for its acknowledgement.
    pub fn dispatch(&self) {
        self.send(&mut self.lock());
    }

    /// Sends what waits and waits until everything sent is durable, at most for `deadline`. After an error, or when the
    /// future is dropped, what is durable is a prefix of it that only the store knows.
    pub async fn settle(&self, deadline: Duration) -> Result<(), NotCommitted> {
        let sent = {
            let mut queue = self.lock();
            self.send(&mut queue);
            if let Some(refused) = queue.refused.take() {
                return Err(refused.into());
            }
            std::mem::take(&mut queue.sent)
        };
        let all = async {
            for units in sent {
                units.answer().await??;
            }
            Ok(())
        };
        let late = || PortError::Timeout(self.store.service());
        tokio::time::timeout(deadline, all).await.unwrap_or_else(|_| Err(late().into()))
    }

    fn send(&self, queue: &mut Queue) {
        if queue.waiting.is_empty() {
            return;
        }
        let units = std::mem::take(&mut queue.waiting);
        match self.store.ask(|reply| StoreMsg::Commit { units, reply }) {
            Ok(pending) => queue.sent.push(pending),
            Err(error) => queue.refused = Some(error),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
