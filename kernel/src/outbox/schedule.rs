//! Which effect goes out next. Pure: what is pending, what is due, what is under way.
//!
//! Invariants: effects of a module with the same lane start one after another, in the order they were sent, each only
//! when the one before has ended. Never more than the bounds are under way. Modules take turns.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use nexum_host_ifaces::{
    outbox::{Location, PendingEffect, Progress, Release},
    store::ModuleId,
};

use super::finality::Heads;
use crate::admin::Outstanding;

/// How much may be under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Concurrency {
    pub all: usize,
    pub per_module: usize,
    /// Per module and destination: an origin, or a chain.
    pub per_destination: usize,
}

impl Default for Concurrency {
    fn default() -> Self {
        Self { all: 64, per_module: 8, per_destination: 4 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Behind another one of its lane.
    Behind,
    /// Waits for its block to be final.
    Held,
    /// In `due`, under this time.
    Due(u64),
    Flying,
}

/// What an effect waits for, other than its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// The end of the attempt under way.
    Flying,
    /// Its block to be final.
    Held,
    /// Those before it in its lane.
    Behind,
}

#[derive(Debug)]
struct Item {
    live: PendingEffect,
    /// Units before the one in `live` that sent it, too, oldest first: what a module is given twice it sends twice.
    earlier: Vec<Location>,
    state: State,
    is_final: bool,
    /// Its destination has taken it on: what it waits for there.
    underway: Option<String>,
}

impl Item {
    /// Units after `to_seq` were undone. Whether one of those was the last that sent it.
    fn is_undone(&mut self, to_seq: u64) -> bool {
        if self.live.at.is_none_or(|at| at.seq <= to_seq) {
            return false;
        }
        self.earlier.retain(|earlier| earlier.seq <= to_seq);
        self.live.at = self.earlier.pop();
        self.live.at.is_none()
    }
}

#[derive(Debug, Default)]
struct Queue {
    name: String,
    items: BTreeMap<u64, Item>,
    places: HashMap<String, u64>,
    lanes: HashMap<String, BTreeSet<u64>>,
    /// By destination: one that is slow must not hide the others.
    due: BTreeMap<String, BTreeSet<(u64, u64)>>,
    held: BTreeSet<u64>,
    /// Of all items together.
    bytes: u64,
    flying: usize,
    destinations: HashMap<String, usize>,
}

#[derive(Debug)]
pub(super) struct Schedule {
    bounds: Concurrency,
    /// Nothing waits longer for its next attempt.
    wait_max: Duration,
    queues: BTreeMap<ModuleId, Queue>,
    flying: usize,
    next_place: u64,
    /// The module that started an effect last.
    turn: ModuleId,
}

impl Queue {
    /// Decides where an item stands that is neither under way nor placed.
    fn place(&mut self, place: u64) {
        let Some(item) = self.items.get_mut(&place) else { return };
        let first = |lane: &String| self.lanes.get(lane).and_then(|lane| lane.first()) == Some(&place);
        let live = &item.live;
        let waits = live.release != Release::Committed && live.block.is_some();
        item.state = match () {
            () if !live.lane.as_ref().is_none_or(first) => State::Behind,
            // What may have left once is not held back again.
            () if waits && !item.is_final && !live.progress.released => State::Held,
            () => State::Due(live.progress.next_attempt_ms),
        };
        match item.state {
            State::Due(at) => {
                self.due.entry(live.destination.clone()).or_default().insert((at, place));
            }
            State::Held => drop(self.held.insert(place)),
            State::Behind | State::Flying => {}
        }
    }

    fn unplace(&mut self, place: u64) {
        let Some(item) = self.items.get(&place) else { return };
        match item.state {
            State::Due(at) => {
                if let Some(due) = self.due.get_mut(&item.live.destination) {
                    due.remove(&(at, place));
                    if due.is_empty() {
                        self.due.remove(&item.live.destination);
                    }
                }
            }
            State::Held => drop(self.held.remove(&place)),
            State::Behind | State::Flying => {}
        }
    }

    fn remove(&mut self, place: u64) {
        self.unplace(place);
        let Some(item) = self.items.remove(&place) else { return };
        self.places.remove(&item.live.id);
        self.bytes -= item.live.bytes;
        let Some(name) = item.live.lane else { return };
        let Some(lane) = self.lanes.get_mut(&name) else { return };
        lane.remove(&place);
        match lane.first().copied() {
            Some(next) => {
                if self.items.get(&next).is_some_and(|item| item.state == State::Behind) {
                    self.place(next);
                }
            }
            None => {
                self.lanes.remove(&name);
            }
        }
    }

    /// Whether anything could go out, or an attempt at it is under way. What its destination has taken on goes on there, and
    /// is only asked after. What is behind another one of its lane waits as that does.
    fn is_busy(&self) -> bool {
        let is_busy = |item: &Item| matches!(item.state, State::Due(_) | State::Flying) && item.underway.is_none();
        (self.flying > 0 || !self.due.is_empty()) && self.items.values().any(is_busy)
    }

    fn outstanding(&self) -> Outstanding {
        let mut found = Outstanding::default();
        for item in self.items.values() {
            let lane = item.live.lane.as_ref().filter(|_| item.state == State::Behind);
            let first = lane.and_then(|lane| self.lanes.get(lane)?.first()).and_then(|first| self.items.get(first));
            let first = first.unwrap_or(item);
            let (count, oldest_ms) = match first.state {
                State::Held => (&mut found.held, &mut found.oldest_held_ms),
                _ if first.underway.is_some() => (&mut found.underway, &mut found.oldest_underway_ms),
                _ => (&mut found.unsettled, &mut found.oldest_unsettled_ms),
            };
            *count += 1;
            let sent_ms = item.live.sent_at_ms;
            *oldest_ms = Some(oldest_ms.map_or(sent_ms, |oldest| oldest.min(sent_ms)));
        }
        found
    }

    /// The first due item that a destination has room for. What is due after `latest_ms` has waited for a clock that has
    /// been set back since.
    fn startable(&self, now_ms: u64, latest_ms: u64, bounds: &Concurrency) -> Option<u64> {
        if self.flying >= bounds.per_module {
            return None;
        }
        let room =
            |destination: &String| self.destinations.get(destination).copied().unwrap_or(0) < bounds.per_destination;
        let open = || self.due.iter().filter(|(destination, _)| room(destination)).map(|(_, due)| due);
        let first = open().filter_map(BTreeSet::first).min().filter(|(at_ms, _)| *at_ms <= now_ms);
        let stale = || open().filter_map(|due| due.range((latest_ms.saturating_add(1), 0)..).next()).min();
        first.or_else(stale).map(|(_, place)| *place)
    }

    fn pending(&self) -> Pending {
        Pending {
            module: self.name.clone(),
            count: self.items.len() as u64,
            bytes: self.bytes,
            oldest_ms: self.items.values().next().map(|item| item.live.sent_at_ms),
        }
    }

    /// When what is not due yet becomes due first.
    fn next_due_ms(&self, now_ms: u64) -> Option<u64> {
        let next = |due: &BTreeSet<(u64, u64)>| due.range((now_ms.saturating_add(1), 0)..).next().map(|(at, _)| *at);
        self.due.values().filter_map(next).min()
    }
}

/// A module's effects that have not ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Pending {
    pub module: String,
    pub count: u64,
    pub bytes: u64,
    /// Milliseconds since the Unix epoch.
    pub oldest_ms: Option<u64>,
}

impl Schedule {
    pub fn new(bounds: Concurrency, wait_max: Duration) -> Self {
        Self { bounds, wait_max, queues: BTreeMap::new(), flying: 0, next_place: 1, turn: ModuleId(0) }
    }

    /// Takes what is pending now in place of what was known; what is under way stays so.
    pub fn replace(&mut self, all: Vec<PendingEffect>) {
        let known: BTreeSet<(ModuleId, &str)> = all.iter().map(|live| (live.module, &*live.id)).collect();
        let mut gone = Vec::new();
        for (module, queue) in &self.queues {
            let missing = queue
                .items
                .iter()
                .filter(|(_, item)| item.state != State::Flying && !known.contains(&(*module, item.live.id.as_str())));
            gone.extend(missing.map(|(place, _)| (*module, *place)));
        }
        for (module, place) in gone {
            self.queues.entry(module).or_default().remove(place);
        }
        for item in self.queues.values_mut().flat_map(|queue| queue.items.values_mut()) {
            item.earlier.clear();
        }
        all.into_iter().for_each(|live| self.add(live));
        self.sweep();
    }

    /// A new effect; or one that was known, sent again by the same event after a rewind.
    pub fn add(&mut self, live: PendingEffect) {
        let queue = self.queues.entry(live.module).or_default();
        queue.name = live.name.to_string();
        if let Some(item) = queue.places.get(&live.id).and_then(|place| queue.items.get_mut(place)) {
            if let Some(at) = live.at {
                item.earlier.extend(item.live.at.replace(at).filter(|earlier| *earlier < at));
            }
            return;
        }
        let place = self.next_place;
        self.next_place += 1;
        queue.places.insert(live.id.clone(), place);
        if let Some(lane) = &live.lane {
            queue.lanes.entry(lane.clone()).or_default().insert(place);
        }
        queue.bytes += live.bytes;
        let item = Item { live, earlier: Vec::new(), state: State::Behind, is_final: false, underway: None };
        queue.items.insert(place, item);
        queue.place(place);
    }

    /// Units after `to_seq` were undone: what had not been released is gone with them.
    pub fn rewound(&mut self, module: ModuleId, to_seq: u64) {
        let Some(queue) = self.queues.get_mut(&module) else { return };
        let undone = queue.items.iter_mut().filter_map(|(place, item)| {
            // Whether one under way was marked in time is for its attempt to find out.
            let stays = |item: &Item| item.live.progress.released || item.state == State::Flying;
            (item.is_undone(to_seq) && !stays(item)).then_some(*place)
        });
        let undone: Vec<u64> = undone.collect();
        undone.into_iter().for_each(|place| queue.remove(place));
        self.sweep();
    }

    pub fn purged(&mut self, module: ModuleId) {
        if let Some(queue) = self.queues.remove(&module) {
            self.flying -= queue.flying;
        }
    }

    /// The next effect that may start now, which is under way from now on.
    pub fn start(&mut self, now_ms: u64, permitted: impl Fn(&str) -> bool) -> Option<PendingEffect> {
        if self.flying >= self.bounds.all {
            return None;
        }
        let wait_max_ms = u64::try_from(self.wait_max.as_millis()).unwrap_or(u64::MAX);
        let latest_ms = now_ms.saturating_add(wait_max_ms);
        let next = ModuleId(self.turn.0.wrapping_add(1));
        let after = self.queues.range(next..).chain(self.queues.range(..next));
        let mut found = after.filter_map(|(module, queue)| {
            let place = queue.startable(now_ms, latest_ms, &self.bounds)?;
            permitted(&queue.name).then_some((*module, place))
        });
        let (module, place) = found.next()?;
        self.turn = module;
        self.fly(module, place)
    }

    fn fly(&mut self, module: ModuleId, place: u64) -> Option<PendingEffect> {
        let queue = self.queues.get_mut(&module)?;
        queue.unplace(place);
        let item = queue.items.get_mut(&place)?;
        item.state = State::Flying;
        queue.flying += 1;
        *queue.destinations.entry(item.live.destination.clone()).or_default() += 1;
        self.flying += 1;
        Some(item.live.clone())
    }

    /// Takes an effect out of turn, such as to cancel it. None when it is not there; `Err` when it is under way, with what it
    /// waits for where its destination has taken it on.
    pub fn seize(&mut self, module: &str, id: &str) -> Option<Result<PendingEffect, Option<String>>> {
        let (module, place) = self.find(module, id)?;
        let item = self.queues.get(&module)?.items.get(&place)?;
        if item.state == State::Flying || item.underway.is_some() {
            return Some(Err(item.underway.clone()));
        }
        self.fly(module, place).map(Ok)
    }

    /// Makes an effect that waits for its time due at once. None when it is not there; `Err` when it waits for something
    /// else, which no order brings on.
    pub fn hurry(&mut self, module: &str, id: &str) -> Option<Result<(), Obstacle>> {
        let (module, place) = self.find(module, id)?;
        let queue = self.queues.get_mut(&module)?;
        let item = queue.items.get(&place)?;
        let obstacle = match item.state {
            State::Due(_) => None,
            State::Flying => Some(Obstacle::Flying),
            State::Held => Some(Obstacle::Held),
            State::Behind => Some(Obstacle::Behind),
        };
        if let Some(obstacle) = obstacle {
            return Some(Err(obstacle));
        }
        queue.unplace(place);
        queue.items.get_mut(&place)?.live.progress.next_attempt_ms = 0;
        queue.place(place);
        Some(Ok(()))
    }

    fn find(&self, module: &str, id: &str) -> Option<(ModuleId, u64)> {
        let (module, queue) = self.queues.iter().find(|(_, queue)| queue.name == module)?;
        queue.places.get(id).map(|place| (*module, *place))
    }

    /// The effect under way that was known as `live` ended, or is gone.
    pub fn ended(&mut self, module: ModuleId, id: &str, at: Option<Location>) {
        if let Some(place) = self.landed(module, id)
            && let Some(queue) = self.queues.get_mut(&module)
        {
            let moved = queue.items.get(&place).is_some_and(|item| item.live.at.is_some() && item.live.at != at);
            if moved {
                // Sent again meanwhile, after a rewind: the store is still to be told that it has ended there too.
                queue.place(place);
            } else {
                queue.remove(place);
            }
        }
        self.sweep();
    }

    /// An effect under way needs another attempt; its progress says when.
    pub fn again(&mut self, module: ModuleId, id: &str, progress: Progress) {
        self.land(module, id, progress, None);
    }

    /// Nothing was learnt of an effect under way: it is tried again, and whoever has it has it still.
    pub fn postponed(&mut self, module: ModuleId, id: &str, progress: Progress) {
        let queue = self.queues.get(&module);
        let item = queue.and_then(|queue| queue.items.get(queue.places.get(id)?));
        let underway = item.and_then(|item| item.underway.clone());
        self.land(module, id, progress, underway);
    }

    /// The destination of an effect has taken it on, and waits for this; it is asked again when its progress says.
    pub fn underway(&mut self, module: ModuleId, id: &str, progress: Progress, what: String) {
        self.land(module, id, progress, Some(what));
    }

    /// What those of a module that their destinations have taken on wait for, by id.
    pub fn waits(&self, module: &str) -> BTreeMap<String, String> {
        let items = self.queues.values().filter(|queue| queue.name == module).flat_map(|queue| queue.items.values());
        items.filter_map(|item| Some((item.live.id.clone(), item.underway.clone()?))).collect()
    }

    fn land(&mut self, module: ModuleId, id: &str, progress: Progress, underway: Option<String>) {
        if let Some(place) = self.landed(module, id)
            && let Some(queue) = self.queues.get_mut(&module)
            && let Some(item) = queue.items.get_mut(&place)
        {
            item.live.progress = progress;
            item.underway = underway;
            queue.place(place);
        }
    }

    fn landed(&mut self, module: ModuleId, id: &str) -> Option<u64> {
        let queue = self.queues.get_mut(&module)?;
        let place = *queue.places.get(id)?;
        let item = queue.items.get_mut(&place)?;
        if item.state != State::Flying {
            return None;
        }
        item.state = State::Behind;
        queue.flying -= 1;
        self.flying -= 1;
        if let Some(count) = queue.destinations.get_mut(&item.live.destination) {
            *count -= 1;
            if *count == 0 {
                queue.destinations.remove(&item.live.destination);
            }
        }
        Some(place)
    }

    /// Effects that wait for their block to be final.
    pub fn held(&self) -> impl Iterator<Item = &PendingEffect> {
        let held = self.queues.values().flat_map(|queue| queue.held.iter().filter_map(|place| queue.items.get(place)));
        held.map(|item| &item.live)
    }

    /// At most `max` held effects of a chain whose block is as far back as they wait for.
    pub fn held_within(&self, chain_id: u64, heads: &Heads, max: usize) -> Vec<PendingEffect> {
        let of_chain = |live: &&PendingEffect| live.block.is_some_and(|block| block.chain_id == chain_id);
        self.held().filter(of_chain).filter(|live| heads.reach(live)).take(max).cloned().collect()
    }

    /// The block of a held effect is as final as was asked for.
    pub fn finalized(&mut self, module: ModuleId, id: &str) {
        if let Some(queue) = self.queues.get_mut(&module)
            && let Some(place) = queue.places.get(id).copied()
            && let Some(item) = queue.items.get_mut(&place)
        {
            item.is_final = true;
            if item.state == State::Held {
                queue.unplace(place);
                queue.place(place);
            }
        }
    }

    /// When the next effect becomes due. What is due already waits for room, which the end of another one makes.
    pub fn next_due_ms(&self, now_ms: u64, permitted: impl Fn(&str) -> bool) -> Option<u64> {
        let open = self.queues.values().filter(|queue| permitted(&queue.name));
        open.filter_map(|queue| queue.next_due_ms(now_ms)).min()
    }

    /// What of a module has not ended.
    pub fn pending_of(&self, module: ModuleId, name: &str) -> Pending {
        let none = || Pending { module: name.to_owned(), ..Pending::default() };
        self.queues.get(&module).map_or_else(none, Queue::pending)
    }

    pub fn pending(&self) -> impl Iterator<Item = Pending> {
        self.queues.values().map(Queue::pending)
    }

    /// Whether nothing of these modules could go out.
    pub fn is_settled(&self, of: impl Fn(&str) -> bool) -> bool {
        !self.queues.values().any(|queue| queue.is_busy() && of(&queue.name))
    }

    /// What has not ended, by module: what could go out or is under way, what its destination has taken on, and what waits
    /// for a block to be final, itself or the first of its lane.
    pub fn outstanding(&self) -> impl Iterator<Item = (String, Outstanding)> {
        self.queues.values().map(|queue| (queue.name.clone(), queue.outstanding()))
    }

    pub fn flying(&self) -> usize {
        self.flying
    }

    fn sweep(&mut self) {
        self.queues.retain(|_, queue| !queue.items.is_empty());
    }
}

#[cfg(test)]
mod tests;
