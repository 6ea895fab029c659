//! Writes of the roster beside the supervisor, one at a time: a disk that stalls holds up whoever waits for the write, and
//! nobody else.
//!
//! Invariant: a write holds how things are when it begins, and who waits is answered by a write that began after what they
//! ordered was done. So writes never overtake each other, and however many wait, the next one is for all of them.

use std::sync::{Arc, Weak};

use ractor::{ActorCell, ActorProcessingErr, ActorRef};

use super::{Msg, State, answer, slot::Then, upgrade::Passing};
use crate::{
    admin::{AdminError, AdminReply},
    roster::{Owners, RosterChange},
};

/// Orders that wait for one write. More are answered at once, with an error.
const ORDERS_MAX: usize = 1_024;

/// Who waits for a write.
pub(super) enum Waiter {
    Loaded(String, AdminReply<String>),
    Unloaded(Arc<str>, AdminReply<()>),
    /// The new version of a module is the one to run once it is written.
    Upgrade(Arc<str>, Passing),
    /// What was in force before an upgrade of this module that failed after it was written, or may have been.
    TakeBack(Arc<str>),
    /// Nobody: the bundle of a module's state is another one.
    Owners,
}

/// How an actor ended.
type End = Result<Option<String>, ActorProcessingErr>;

#[derive(Default)]
pub(super) struct Writes {
    /// Who waits for the write under way, if there is one.
    under_way: Option<Vec<Waiter>>,
    next: Vec<Waiter>,
    /// The owners that are durable.
    owners: Owners,
    /// Actors that ended while it was being written that their new version is the one to run.
    ended: Vec<(ActorCell, End)>,
    /// Dropped with the supervisor: a write that has not begun by then is not made, since the next one would not know
    /// of it.
    alive: Arc<()>,
}

/// What became of a write.
#[derive(Debug)]
pub struct Written {
    changes: Result<(), String>,
    /// Absent when they were not to be written.
    owners: Option<Result<Owners, String>>,
}

impl Writes {
    pub(super) fn new(owners: Owners) -> Self {
        Self { owners, ..Self::default() }
    }

    /// What is gone with the supervisor, for who writes something else beside it.
    pub(super) fn alive(&self) -> Weak<()> {
        Arc::downgrade(&self.alive)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.under_way.is_none() && self.next.is_empty()
    }
}

impl State {
    /// Has what is in force now written. Whoever waits is answered after that.
    pub(super) fn write(&mut self, myself: &ActorRef<Msg>, waiter: Waiter) {
        let is_many = self.writes.next.len() >= ORDERS_MAX;
        match (waiter, is_many) {
            (Waiter::Loaded(name, reply), true) => answer(reply, Err(not_kept(&name, "too many orders wait for it"))),
            (Waiter::Unloaded(name, reply), true) => answer(reply, Err(not_kept(&name, "too many orders wait for it"))),
            (Waiter::Owners, _) if self.writes.next.iter().any(|next| matches!(next, Waiter::Owners)) => {}
            (waiter, _) => self.writes.next.push(waiter),
        }
        self.write_next(myself);
    }

    /// Answers an order that was carried out; one that changed which modules run, once that is durable.
    pub(super) fn conclude(
        &mut self,
        myself: &ActorRef<Msg>,
        name: &Arc<str>,
        then: Then,
        done: Result<(), AdminError>,
        reply: AdminReply<()>,
    ) {
        match (then, &done) {
            (Then::Forget, Ok(())) => self.write(myself, Waiter::Unloaded(name.clone(), reply)),
            _ => answer(reply, done),
        }
    }

    fn write_next(&mut self, myself: &ActorRef<Msg>) {
        if self.writes.under_way.is_some() || self.writes.next.is_empty() {
            return;
        }
        let waiters = std::mem::take(&mut self.writes.next);
        let is_changed = waiters.iter().any(|waiter| !matches!(waiter, Waiter::Owners));
        let changes = is_changed.then(|| self.changes());
        let owners = (self.owners != self.writes.owners).then(|| self.owners.clone());
        self.writes.under_way = Some(waiters);
        let (roster, blocking, myself) = (self.roster.clone(), self.shared.blocking, myself.clone());
        let alive = self.writes.alive();
        let _writing: tokio::task::JoinHandle<_> = tokio::spawn(async move {
            let written = blocking.run(move || {
                if alive.strong_count() == 0 {
                    return Written { changes: Err("the supervisor is gone".to_owned()), owners: None };
                }
                let changes = changes.map_or(Ok(()), |changes| roster.write(changes));
                let owners = owners.map(|owners| roster.note_owners(owners.clone()).map(|()| owners));
                Written { changes, owners }
            });
            let failed = |error: tokio::task::JoinError| Written { changes: Err(error.to_string()), owners: None };
            let written = written.await.unwrap_or_else(failed);
            // A supervisor that is gone dropped the replies of whoever waited.
            let _ = myself.send_message(Msg::Written(written));
        });
    }

    /// Which modules run, as far as that is not what the configuration says.
    fn changes(&self) -> Vec<RosterChange> {
        let unloaded = self.unloaded.iter().map(|spec| RosterChange { configured: Some(spec.clone()), running: None });
        let running = self.slots.values().map(|slot| (slot.configured.as_deref(), slot.spec_to_write()));
        let changed = running.filter(|(configured, spec)| *configured != Some(*spec));
        let changed = changed
            .map(|(configured, spec)| RosterChange { configured: configured.cloned(), running: Some(spec.clone()) });
        unloaded.chain(changed).collect()
    }

    /// A write is over: whoever waited for it is answered, and what happened meanwhile is written next.
    pub(super) async fn on_written(&mut self, myself: &ActorRef<Msg>, written: Written) {
        let Written { changes, owners } = written;
        match owners {
            Some(Ok(owners)) => self.writes.owners = owners,
            // Asked too little is all that comes of it; it is tried again with the next write.
            Some(Err(error)) => {
                tracing::error!("which bundle the state of each module comes from was not written: {error}");
            }
            None => {}
        }
        let kept = |name: &str| changes.clone().map_err(|error| not_kept(name, &error));
        // The next write begins when this one is through.
        let Some(waiters) = self.writes.under_way.as_mut().map(std::mem::take) else {
            unreachable!("a write of the roster is over, and none was under way")
        };
        // What they bring about is written together, once all of them are through.
        for waiter in waiters {
            match waiter {
                Waiter::Loaded(name, reply) => answer(reply, kept(&name).map(|()| name)),
                Waiter::Unloaded(name, reply) => answer(reply, kept(&name)),
                Waiter::Upgrade(name, passing) => self.upgrade_written(myself, &name, passing, &changes).await,
                Waiter::TakeBack(name) => {
                    if let Err(error) = &changes {
                        let what = "the version that was refused may start with the next engine";
                        tracing::error!(module = %name, "{what}: {error}");
                    }
                }
                Waiter::Owners => {}
            }
        }
        for (cell, end) in std::mem::take(&mut self.writes.ended) {
            self.on_ended(myself, &cell, end).await;
        }
        self.writes.under_way = None;
        self.write_next(myself);
        self.report_stopped();
    }

    /// Keeps the end of an actor for later while it is being written that its new version is the one to run: which version
    /// follows depends on that.
    pub(super) fn put_off(&mut self, cell: &ActorCell, end: End) -> Option<End> {
        let name = self.by_actor.get(&cell.get_id());
        match name.and_then(|name| self.slots.get(name)).is_some_and(|slot| slot.is_being_written()) {
            true => {
                self.writes.ended.push((cell.clone(), end));
                None
            }
            false => Some(end),
        }
    }
}

fn not_kept(name: &str, why: &str) -> AdminError {
    AdminError::Unavailable(format!("{name}: done, but not after the next start of the engine: {why}"))
}
