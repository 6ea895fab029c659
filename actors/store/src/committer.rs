//! Group commit: one thread that writes whatever queued while its last write went to the disk. A store that runs inline
//! has a task in the thread's place, and everything it does is done at once.
//!
//! Owns the queue between the actor and the thread, and each module's place in its sequence. Units are encoded into the
//! waiting group by the actor, so that the thread has nothing to do but write and answer. There is no timer: waiting to
//! collect more was measured to be slower at every load.
//!
//! Invariant: units of a module are written in the order of their sequence, without a gap. When a write fails, the group
//! and everything that queued behind it fails with it, and the sequences are read anew from the disk.

mod fence;
mod inline;
mod kept;
mod outbox;
mod write;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

pub(crate) use fence::Fence;
use nexum_host_ifaces::{
    Hash,
    blocking::Blocking,
    chain::Link,
    outbox::Progress,
    store::{DeadLetter, EventUnit, ModuleHealth, ModuleId, ModuleInfo, Reply, StoreError},
};
use rocksdb::WriteOptions;
use tokio::{sync::Notify, task::AbortHandle};

use crate::{
    group::{Gone, Group, Scratch, Waiting},
    headers::Owed,
    news::NewsDesk,
    open::Durability,
    receipts::Last,
    recordings::Kept,
    store::{Lease, Store, lock},
};

/// Most answers that one group may owe. A module has one unit in flight, so this is reached only when something asks
/// without waiting.
const WAITING_MAX: usize = 1 << 16;

/// Most bytes that may wait for the disk.
const WAITING_BYTES_MAX: usize = 256 << 20;

/// With periodic durability, how much a power failure may cost.
const SYNC_PERIOD: Duration = Duration::from_millis(100);

/// The actor's end of the queue. Dropping it writes what waits and joins the thread.
pub(crate) struct Committer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    task: Option<AbortHandle>,
}

pub(crate) struct Shared {
    store: Arc<Store>,
    queue: Mutex<Queue>,
    /// Something waits, or the thread shall stop.
    filled: Condvar,
    /// The same for the task.
    filled_task: Notify,
    /// A group was answered, or the thread is gone.
    settled: Condvar,
    lease: Mutex<Option<Arc<Lease>>>,
    /// What the outbox actor is told.
    pub(crate) news: NewsDesk,
}

#[derive(Default)]
struct Queue {
    waiting: Group,
    scratch: Scratch,
    /// Headers that go with the next group.
    owed: Owed,
    /// Number of the group that waits; every smaller one was taken.
    number: u64,
    /// Every group below this number was answered.
    answered: u64,
    /// Last unit written or waiting, of the modules that wrote since the actor started.
    sequence: HashMap<ModuleId, Last>,
    /// Number of the last crash, of the modules that had one since the actor started.
    crashes: HashMap<ModuleId, u64>,
    /// The crashes written or waiting, oldest first, of the modules that had one lately.
    kept: HashMap<ModuleId, Vec<Kept>>,
    /// Names given in groups that are not written yet.
    naming: HashMap<Arc<str>, ModuleId>,
    /// Number of the last outcome, of the modules whose effects ended since the actor started.
    outcomes: HashMap<ModuleId, u64>,
    /// What is known of effects, by module and digest, in groups that are not written yet; and the number of the group.
    progress: HashMap<(ModuleId, Hash), (u64, Progress)>,
    next_id: u32,
    /// Modules whose past is being replaced.
    fenced: HashSet<ModuleId>,
    /// The thread waits to be woken; waking costs a system call.
    sleeping: bool,
    stopping: bool,
    gone: bool,
    /// Why no more is written, once too many writes have failed.
    failed: Option<StoreError>,
}

impl Committer {
    /// Starts the thread, after stopping whoever wrote before: the actor that died may not have been dropped yet, because
    /// ractor hands its state to the supervisor. Blocks.
    pub fn start(store: Arc<Store>) -> Result<Self, StoreError> {
        let before = lock(&store.writer).upgrade();
        if let Some(before) = before {
            before.stop();
        }
        let lease = Arc::new(store.lease()?);
        let next_id = store.index().next_id;
        let shared = Arc::new(Shared {
            store,
            queue: Mutex::new(Queue { next_id, ..Queue::default() }),
            filled: Condvar::new(),
            filled_task: Notify::new(),
            settled: Condvar::new(),
            lease: Mutex::new(Some(lease.clone())),
            news: NewsDesk::default(),
        });
        *lock(&shared.store.writer) = Arc::downgrade(&shared);
        if shared.store.blocking == Blocking::Inline {
            drop(lease);
            let task = tokio::spawn(shared.clone().run_as_task());
            return Ok(Self { shared, thread: None, task: Some(task.abort_handle()) });
        }
        let thread = std::thread::Builder::new().name("nexum-commit".into()).spawn({
            let shared = shared.clone();
            move || {
                shared.run();
                drop(lease);
            }
        });
        let thread = thread.map_err(|error| StoreError::Failed(format!("cannot start the committer: {error}")))?;
        Ok(Self { shared, thread: Some(thread), task: None })
    }

    /// Takes nothing more. What waits is written before the thread ends.
    pub fn stop(&mut self) -> Option<JoinHandle<()>> {
        self.shared.stop();
        self.thread.take()
    }

    /// Why the thread has ended or is about to, if so: writes failed, a bug, or another actor that took over.
    pub fn gone(&self) -> Option<StoreError> {
        let queue = lock(&self.shared.queue);
        queue.failed.clone().or_else(|| queue.gone.then(stopped))
    }

    pub fn commit(&self, units: &[EventUnit], reply: Reply<()>) {
        let mut queue = lock(&self.shared.queue);
        match queue.add(&self.shared.store, units) {
            Ok(()) => self.shared.push(&mut queue, Waiting::Done(reply)),
            Err(error) => refuse(reply, error),
        }
    }

    /// Answers the module once everything before is written, so that units of an earlier instance are in it.
    pub fn open(&self, name: &Arc<str>, reply: Reply<ModuleInfo>) {
        let mut queue = lock(&self.shared.queue);
        match queue.open(&self.shared.store, name) {
            Ok(id) => self.shared.push(&mut queue, Waiting::Opened(id, reply)),
            Err(error) => refuse(reply, error),
        }
    }

    pub fn put_health(&self, module: ModuleId, health: &ModuleHealth, reply: Reply<()>) {
        let mut queue = lock(&self.shared.queue);
        let put = queue.admit(&self.shared.store, module).and_then(|()| queue.waiting.put_health(module, health));
        match put {
            Ok(()) => self.shared.push(&mut queue, Waiting::Done(reply)),
            Err(error) => refuse(reply, error),
        }
    }

    /// Wakes nobody: headers go with whatever is written next.
    pub fn put_headers(&self, chain_id: u64, anew: bool, headers: &[Link], dropped: &[Link]) {
        lock(&self.shared.queue).owed.add(chain_id, anew, headers, dropped);
    }

    pub fn drop_letter(&self, name: &str, seq: u64, reply: Reply<()>) {
        let mut queue = lock(&self.shared.queue);
        match queue.drop_letter(&self.shared.store, name, seq) {
            Ok(()) => self.shared.push(&mut queue, Waiting::Done(reply)),
            Err(error) => refuse(reply, error),
        }
    }

    pub fn put_letter(&self, module: ModuleId, letter: &DeadLetter, reply: Reply<()>) {
        let mut queue = lock(&self.shared.queue);
        match queue.put_letter(&self.shared.store, module, letter) {
            Ok(()) => self.shared.push(&mut queue, Waiting::Done(reply)),
            Err(error) => refuse(reply, error),
        }
    }

    /// Refuses units of the module from now on. Its past may be replaced after `Fence::settle`.
    pub fn fence(&self, module: ModuleId) -> Result<Fence, StoreError> {
        let mut queue = lock(&self.shared.queue);
        queue.admit(&self.shared.store, module)?;
        let lease = lock(&self.shared.lease).clone();
        let lease = lease.ok_or_else(|| StoreError::Failed("the committer has stopped".into()))?;
        queue.fenced.insert(module);
        let until = if queue.waiting.is_empty() { queue.number } else { queue.number + 1 };
        Ok(Fence { shared: self.shared.clone(), module, until, _lease: lease })
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        if let Some(Err(_)) = self.stop().map(JoinHandle::join) {
            tracing::error!("the committer thread panicked");
        }
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

fn stopped() -> StoreError {
    StoreError::Failed("the committer has stopped".into())
}

fn refuse<T>(reply: Reply<T>, error: StoreError) {
    // Nobody to tell when the caller gave up.
    let _ = reply.send(Err(error));
}

impl Queue {
    /// Whether anything may queue now.
    fn room(&self, store: &Store) -> Result<(), StoreError> {
        if self.gone || self.stopping || self.failed.is_some() {
            return Err(self.failed.clone().unwrap_or_else(stopped));
        }
        if self.waiting.waiting.len() >= WAITING_MAX || self.waiting.batch.size_in_bytes() >= WAITING_BYTES_MAX {
            store.metrics.rejected.inc();
            return Err(StoreError::Failed("too many writes wait for the disk".into()));
        }
        Ok(())
    }

    /// Whether something of the module may queue now.
    fn admit(&self, store: &Store, module: ModuleId) -> Result<(), StoreError> {
        self.room(store)?;
        if self.fenced.contains(&module) {
            return Err(StoreError::Failed(format!("module #{} is being rewound or purged", module.0)));
        }
        let known = self.sequence.contains_key(&module) || store.index().modules.contains_key(&module);
        // A module that was named in a group that waits has no units, but may be opened again.
        if known || self.naming.values().any(|id| *id == module) {
            Ok(())
        } else {
            Err(StoreError::UnknownModule(format!("#{}", module.0)))
        }
    }

    /// Adds units of one module up to the first one that is at fault, and the record of the last.
    fn add(&mut self, store: &Store, units: &[EventUnit]) -> Result<(), StoreError> {
        let failed = units.iter().enumerate().find_map(|(at, unit)| Some((at, self.add_unit(store, unit).err()?)));
        let (added, result) = match failed {
            Some((at, error)) => (&units[..at], Err(error)),
            None => (units, Ok(())),
        };
        if let Some(unit) = added.last() {
            self.waiting.put_record(unit, &mut self.scratch)?;
        }
        result
    }

    fn add_unit(&mut self, store: &Store, unit: &EventUnit) -> Result<(), StoreError> {
        self.admit(store, unit.module)?;
        let (mut last, first) = match self.sequence.get(&unit.module) {
            Some(last) => (*last, false),
            None => (Last::read(store, unit)?, true),
        };
        let stored = last.seq();
        let got = unit.entry.seq;
        if got != stored + 1 || unit.record.seq != got {
            return Err(StoreError::OutOfSequence { stored, got });
        }
        let (aged, past) = (last.aged(store, unit)?, last.past(store, unit)?);
        let gone = Gone { units: [aged, past.units], recordings: past.recordings };
        let span = self.waiting.add(store, unit, (first, last.end()), &gone, &mut self.scratch)?;
        last.grow(span);
        if let Some(receipt) = last.follow(store, unit) {
            self.waiting.put_receipt(unit.module, &receipt)?;
        }
        self.sequence.insert(unit.module, last);
        Ok(())
    }

    fn open(&mut self, store: &Store, name: &Arc<str>) -> Result<ModuleId, StoreError> {
        let known = store.index().by_name.get(name).copied().or_else(|| self.naming.get(name).copied());
        if let Some(id) = known {
            self.admit(store, id)?;
            return Ok(id);
        }
        // The end of the key range of the last number must be a number too.
        if self.next_id == u32::MAX {
            return Err(StoreError::Failed("every module number is taken".into()));
        }
        self.room(store)?;
        let id = ModuleId(self.next_id);
        self.waiting.add_module(name, id)?;
        self.naming.insert(name.clone(), id);
        self.next_id += 1;
        Ok(id)
    }

    fn drop_letter(&mut self, store: &Store, name: &str, seq: u64) -> Result<(), StoreError> {
        let id = store.id(name)?;
        self.admit(store, id)?;
        store.check_letter(id, seq)?;
        self.waiting.remove_letter(id, seq);
        Ok(())
    }

    fn put_letter(&mut self, store: &Store, id: ModuleId, letter: &DeadLetter) -> Result<(), StoreError> {
        self.admit(store, id)?;
        store.check_letter(id, letter.seq)?;
        self.waiting.put_letter(id, letter)
    }

    fn take(&mut self) -> Group {
        self.number += 1;
        Group { headers: std::mem::take(&mut self.owed), ..std::mem::take(&mut self.waiting) }
    }
}

impl Shared {
    fn push(&self, queue: &mut Queue, waiting: Waiting) {
        queue.waiting.waiting.push(waiting);
        self.wake(queue);
    }

    fn stop(&self) {
        let mut queue = lock(&self.queue);
        if !queue.stopping && !queue.gone {
            queue.sign_all(&self.store);
        }
        queue.stopping = true;
        self.wake(&mut queue);
        drop(queue);
        if self.store.blocking == Blocking::Inline {
            let _bye = Bye(self);
            self.drain();
        }
        *lock(&self.lease) = None;
    }

    fn wake(&self, queue: &mut Queue) {
        if std::mem::take(&mut queue.sleeping) {
            self.filled.notify_one();
            self.filled_task.notify_one();
        }
    }

    fn run(&self) {
        let _bye = Bye(self);
        let options = match self.store.durability {
            Durability::Sync => crate::open::synced(),
            Durability::Periodic => WriteOptions::default(),
        };
        // Since when something is written that may not be on the disk.
        let mut unsynced_ns = None;
        loop {
            match self.next(unsynced_ns) {
                Next::Write(group) => {
                    if self.store.durability == Durability::Periodic {
                        unsynced_ns = unsynced_ns.or_else(|| Some(self.store.clock.monotonic_ns()));
                    }
                    if !self.write(group, &options) {
                        return;
                    }
                }
                Next::Sync => {
                    self.sync();
                    unsynced_ns = None;
                }
                Next::Stop => break,
            }
        }
        if unsynced_ns.is_some() {
            self.sync();
        }
    }

    /// What to do next. What has not been synced since `unsynced_ns` is in time, also when writes never pause.
    fn next(&self, unsynced_ns: Option<u64>) -> Next {
        let mut queue = lock(&self.queue);
        loop {
            let left = unsynced_ns.map(|since_ns| {
                let waited_ns = self.store.clock.monotonic_ns().saturating_sub(since_ns);
                SYNC_PERIOD.saturating_sub(Duration::from_nanos(waited_ns))
            });
            if left == Some(Duration::ZERO) {
                return Next::Sync;
            }
            if !queue.waiting.is_empty() {
                return Next::Write(queue.take());
            }
            if queue.stopping && !queue.owed.is_empty() {
                return Next::Write(queue.take());
            }
            if queue.stopping {
                return Next::Stop;
            }
            queue.sleeping = true;
            queue = match left {
                Some(left) => self.filled.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0,
                None => self.filled.wait(queue).unwrap_or_else(PoisonError::into_inner),
            };
            queue.sleeping = false;
        }
    }

    fn sync(&self) {
        if let Err(error) = self.store.db.flush_wal(true) {
            tracing::error!(error = %self.store.failed(&error), "the log could not be synced");
        }
    }
}

enum Next {
    Write(Group),
    Sync,
    Stop,
}

/// Says that the thread is gone, also when it panicked, and fails what still waits.
struct Bye<'a>(&'a Shared);

impl Drop for Bye<'_> {
    fn drop(&mut self) {
        // Dropping the replies tells their callers.
        drop(lock(&self.0.queue).take());
        lock(&self.0.queue).gone = true;
        self.0.settle();
    }
}
