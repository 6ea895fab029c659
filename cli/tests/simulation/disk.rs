//! The disk under the store: every write is a point where the engine may die or the write may fail, and after every write
//! what became durable is checked against what was.

mod checks;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, Weak, atomic::Ordering},
    time::Duration,
};

use futures::FutureExt;
use nexum_host_ifaces::{
    event::{Cursor, EventId, SourceId},
    store::ModuleRecord,
};
use nexum_kernel::roster::RosterChange;
use nexum_store::{Disk, Store, Syncs, Written};
use tokio::sync::Notify;

use crate::{
    chance::Chance,
    marks::MarksFile,
    periodic::{Keys, PERIODIC, Periodic},
    power::Power,
    scenario::{FaultPlan, ModulePlan, Scenario, When},
    trace::{Trace, lock},
};

pub struct SimDisk {
    trace: Trace,
    plan: FaultPlan,
    journal_entries: usize,
    /// Failures in a row and attempts at an event, by module.
    budgets: BTreeMap<String, (u32, u32)>,
    inner: Mutex<Inner>,
    /// Told when the engine has died.
    pub died: Notify,
}

/// Where a chain source of a module has stood, by what was durable: block numbers.
#[derive(Debug, Clone, Copy)]
pub struct Begin {
    /// At first.
    pub first: u64,
    /// At the least; a reorg leads a source back to below where it began.
    pub lowest: u64,
}

/// By module and source.
pub type Begins = BTreeMap<(String, String), Begin>;

/// What was durable, as it was looked at: records, where sources began, and which versions wrote the states.
type Looked = (BTreeMap<String, ModuleRecord>, Begins, BTreeMap<String, Option<String>>);

/// What the engine dies of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    Chance,
    /// It has given up, and says so in its file of marks.
    OwnWord,
    Event,
}

struct Inner {
    chance: Chance,
    power: Power,
    periodic: Option<Periodic<Looked>>,
    marks: MarksFile,
    store: Weak<Store>,
    calm: bool,
    dead: bool,
    writes: u64,
    /// Deaths that no event was the cause of.
    crashes: u32,
    /// Deaths by an event.
    deaths: u32,
    /// What the engine died of last.
    cause: Cause,
    seen: BTreeMap<String, ModuleRecord>,
    begins: Begins,
    /// Which version of a module starts with the next engine, where it is not the first.
    rostered: BTreeMap<String, String>,
    /// The version that last wrote its name into a module's state.
    versions: BTreeMap<String, Option<String>>,
    violations: Vec<String>,
}

impl SimDisk {
    pub fn new(seed: u64, scenario: &Scenario, trace: Trace, directory: &Path) -> Arc<Self> {
        let budget = |module: &ModulePlan| (module.name.clone(), (module.failures_max, module.attempts_max));
        let journal_entries = usize::try_from(scenario.journal_entries).unwrap_or(usize::MAX);
        let (plan, budgets) = (scenario.faults.clone(), scenario.modules.iter().map(budget).collect());
        let inner = Inner {
            chance: Chance::new(seed, "disk"),
            power: Power::new(seed, &plan),
            periodic: PERIODIC.load(Ordering::Relaxed).then(|| Periodic::new(seed)),
            marks: MarksFile::new(seed, directory.join("begun")),
            store: Weak::new(),
            calm: false,
            dead: false,
            writes: 0,
            crashes: 0,
            deaths: 0,
            cause: Cause::Chance,
            seen: BTreeMap::new(),
            begins: Begins::new(),
            rostered: BTreeMap::new(),
            versions: BTreeMap::new(),
            violations: Vec::new(),
        };
        Arc::new(Self { trace, plan, journal_entries, budgets, inner: Mutex::new(inner), died: Notify::new() })
    }

    /// An engine has opened the store; what it finds must be what was durable.
    pub fn opened(&self, store: &Arc<Store>) {
        {
            let mut inner = lock(&self.inner);
            inner.store = Arc::downgrade(store);
            inner.power.opened(store.directory());
        }
        self.look(Written::Group);
        self.keep(store);
        if let Some(periodic) = &mut lock(&self.inner).periodic {
            periodic.opened(store, self.budgets.keys());
        }
    }

    /// With periodic durability: how everything is after a write, for a loss of power that leaves no more.
    fn keep(&self, store: &Store) {
        let inner = &mut *lock(&self.inner);
        if let Some(periodic) = &mut inner.periodic {
            let looked = (inner.seen.clone(), inner.begins.clone(), inner.versions.clone());
            periodic.keep(self.trace.elapsed_ms(), store.directory(), looked);
        }
    }

    /// Effects that were sent within what a loss of power took.
    pub fn lost(&self) -> Keys {
        lock(&self.inner).periodic.as_ref().map_or_else(Keys::new, |periodic| periodic.lost.clone())
    }

    /// Counts the syncs of the store's log.
    pub fn syncs(&self) -> Syncs {
        lock(&self.inner).power.syncs.clone()
    }

    /// A new engine may write again, on what the one before has left: it is gone.
    pub fn revive(&self) {
        let mut inner = lock(&self.inner);
        inner.dead = false;
        let left = inner.power.take_away().and_then(|()| inner.marks.put_back());
        drop(inner);
        left.unwrap_or_else(|error| self.violated(format!("the simulation cannot take away what is lost: {error}")));
        // A death that nobody waited for.
        let _ = self.died.notified().now_or_never();
    }

    /// The engine dies now: nothing reaches the disk any more.
    pub fn die(&self, why: &str) {
        self.end(why, Cause::Chance);
    }

    /// The engine has given up.
    pub fn give_up(&self) {
        self.end("by its own word", Cause::OwnWord);
    }

    /// An event ends the process, which has nothing to do with the power.
    pub fn die_of(&self, event: &str) {
        self.end(&format!("by the event {event}"), Cause::Event);
    }

    fn end(&self, why: &str, cause: Cause) {
        let marks = {
            let inner = &mut *lock(&self.inner);
            if std::mem::replace(&mut inner.dead, true) {
                return;
            }
            inner.cause = cause;
            match cause {
                Cause::Event => inner.deaths += 1,
                Cause::Chance | Cause::OwnWord => inner.crashes += 1,
            }
            let store = inner.store.upgrade().filter(|_| cause != Cause::Event);
            let power = store.is_some_and(|store| match &mut inner.periodic {
                Some(periodic) => {
                    let left = periodic.lose(self.trace.elapsed_ms(), &store, self.budgets.keys());
                    if let Some((log, looked)) = left {
                        inner.power.fail_at(log.as_ref(), store.directory());
                        (inner.seen, inner.begins, inner.versions) = looked;
                    }
                    true
                }
                None => inner.power.fail(store.directory()),
            });
            let how = if power { "POWER FAILURE" } else { "CRASH" };
            self.trace.note(format_args!("{how} {why} (write {})", inner.writes));
            // One that has given up takes its time over its last word.
            if power && cause == Cause::Chance { inner.marks.lose() } else { inner.marks.stays().map(|()| "") }
        };
        self.left(marks);
        self.died.notify_one();
    }

    /// What the end has left of the marks.
    fn left(&self, marks: Result<&'static str, String>) {
        match marks {
            Ok("") => {}
            Ok(word) => self.trace.note(format_args!("the power leaves {word}")),
            Err(error) => self.violated(format!("the simulation cannot read the marks: {error}")),
        }
    }

    /// The power fails in the write that was just made: nobody is told of it, and it is there or not.
    fn torn(&self, store: &Store, what: Written) {
        let (is_there, marks) = {
            let mut inner = lock(&self.inner);
            inner.dead = true;
            inner.cause = Cause::Chance;
            inner.crashes += 1;
            let is_there = inner.power.fail_within(store.directory());
            let left = if is_there { "it is there" } else { "it is lost" };
            self.trace.note(format_args!("POWER FAILURE in a write, {left} (write {})", inner.writes));
            (is_there, inner.marks.lose())
        };
        self.left(marks);
        if is_there {
            self.look(what);
        }
        self.died.notify_one();
    }

    fn torn_due(&self) -> bool {
        let due = self.plan.crash_at == Some((self.writes(), When::Within));
        let drawn = lock(&self.inner).power.fails_within();
        (drawn || due) && self.may_crash()
    }

    pub fn calm_down(&self) {
        lock(&self.inner).calm = true;
    }

    pub fn is_dead(&self) -> bool {
        lock(&self.inner).dead
    }

    pub fn may_crash(&self) -> bool {
        let inner = lock(&self.inner);
        !inner.calm && inner.crashes < self.plan.crashes_max
    }

    pub fn writes(&self) -> u64 {
        lock(&self.inner).writes
    }

    /// Deaths that no event was the cause of.
    pub fn crashes(&self) -> u32 {
        lock(&self.inner).crashes
    }

    /// Deaths by an event.
    pub fn deaths(&self) -> u32 {
        lock(&self.inner).deaths
    }

    /// Whether the last death was by an event.
    pub fn died_of_event(&self) -> bool {
        lock(&self.inner).cause == Cause::Event
    }

    /// Where the engine marks what it is at.
    pub fn marks(&self) -> PathBuf {
        lock(&self.inner).marks.path().to_owned()
    }

    pub fn violations(&self) -> Vec<String> {
        lock(&self.inner).violations.clone()
    }

    pub fn begins(&self) -> Begins {
        lock(&self.inner).begins.clone()
    }

    fn stood(&self, module: &str, source: &SourceId, cursor: &Cursor) {
        let Cursor::Chain { number, .. } = cursor else { return };
        let key = (module.to_owned(), source.as_str().to_owned());
        let mut inner = lock(&self.inner);
        let begin = inner.begins.entry(key).or_insert(Begin { first: *number, lowest: *number });
        begin.lowest = begin.lowest.min(*number);
    }

    fn draw(&self, per_myriad: u64) -> bool {
        let mut inner = lock(&self.inner);
        let drawn = inner.chance.per_myriad(per_myriad);
        drawn && !inner.calm
    }

    fn crash_due(&self, when: When, per_myriad: u64) -> bool {
        let due = self.plan.crash_at == Some((self.writes(), when)) && self.may_crash();
        self.draw(per_myriad) && self.may_crash() || due
    }

    /// Compares the durable records with those before the write.
    fn look(&self, what: Written) {
        let Some(store) = lock(&self.inner).store.upgrade() else { return };
        let modules = match store.modules() {
            Ok(modules) => modules,
            Err(error) => return self.violated(format!("the store cannot be read: {error}")),
        };
        for module in modules {
            if let Err(violation) = self.in_budget(&module) {
                self.violated(format!("{}: {violation}", module.name));
            }
            let before = lock(&self.inner).seen.get(&module.name).cloned().unwrap_or_default();
            if before == module.record {
                continue;
            }
            let checked = match what {
                Written::Group | Written::Prune => self.advanced(&store, &module, &before),
                Written::Rewind | Written::Purge => self.rewound(&store, &module, &before),
            };
            let rewound = !matches!(what, Written::Group | Written::Prune);
            if let Err(violation) = checked.and_then(|()| self.in_force(&store, &module, rewound)) {
                self.violated(format!("{}: {violation}", module.name));
            }
            lock(&self.inner).seen.insert(module.name, module.record);
        }
    }

    pub fn violated(&self, what: String) {
        self.trace.note(format_args!("VIOLATED {what}"));
        lock(&self.inner).violations.push(what);
    }

    /// Which versions run with the next engine is durable.
    pub fn rostered(&self, changes: &[RosterChange]) {
        let running = changes.iter().filter_map(|change| change.running.as_ref());
        let versions = running.filter_map(|spec| {
            let (module, version) = spec.source.file_name()?.to_str()?.rsplit_once('-')?;
            Some((module.to_owned(), version.to_owned()))
        });
        let versions: BTreeMap<String, String> = versions.collect();
        self.trace.note(format_args!("roster {versions:?}"));
        lock(&self.inner).rostered = versions;
    }
}

/// An event's id with four bytes of each hash.
pub fn short(event: &EventId) -> String {
    let text = event.to_string();
    let parts = text.split(':').map(|part| match part.strip_prefix("0x") {
        Some(digits) if digits.len() == 64 => &digits[..8],
        _ => part,
    });
    parts.collect::<Vec<_>>().join(":")
}

impl Disk for SimDisk {
    fn latency(&self) -> Duration {
        let slow = self.draw(self.plan.slow_write);
        let mut inner = lock(&self.inner);
        match slow {
            // Once in a while longer than a module waits for its units.
            true if inner.chance.percent(10) => Duration::from_secs(35),
            true => Duration::from_millis(inner.chance.between(20, 3_000)),
            false => Duration::from_millis(inner.chance.below(3)),
        }
    }

    fn before(&self, _: Written) -> Result<(), String> {
        if self.is_dead() {
            return Err("the engine is dead".into());
        }
        let glanced = {
            let mut inner = lock(&self.inner);
            inner.writes += 1;
            if let Some(store) = inner.store.upgrade() {
                inner.power.begin(store.directory());
            }
            inner.marks.glance()
        };
        glanced?;
        if self.crash_due(When::Before, self.plan.crash_before_write) {
            self.die("before a write");
            return Err("the engine is dead".into());
        }
        if self.draw(self.plan.write_error) {
            self.trace.note(format_args!("FAULT a write fails"));
            return Err("injected: the disk failed".into());
        }
        Ok(())
    }

    fn after(&self, what: Written) -> Result<(), String> {
        let store = lock(&self.inner).store.upgrade();
        if let Some(store) = &store {
            if self.torn_due() {
                self.torn(store, what);
                return Err("the engine is dead".into());
            }
            lock(&self.inner).power.written(store.directory());
        }
        self.look(what);
        if let Some(store) = &store {
            self.keep(store);
        }
        drop(store);
        if self.crash_due(When::After, self.plan.crash_after_write) {
            self.die("after a write");
            return Err("the engine is dead".into());
        }
        if self.draw(self.plan.acknowledgement_lost) {
            self.trace.note(format_args!("FAULT a write is there, but is said to have failed"));
            return Err("injected: the disk failed after the write".into());
        }
        Ok(())
    }
}
