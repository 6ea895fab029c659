//! What the state of every module must be in the end, worked out from the canonical chains alone.

use std::collections::{BTreeMap, BTreeSet};

use nexum_host_ifaces::{
    Hash,
    event::EventId,
    store::{DeadLetter, StateView},
};
use nexum_store::Store;

use crate::{
    block::{Block, Log},
    disk::{Begins, short},
    engine::Moved,
    periodic::Keys,
    receiver::Receivers,
    scenario::{Blocks, ChainSource, Hold, ModulePlan, Scenario},
    world::{Chain, World},
};

/// Differences told of one module.
const TOLD_MAX: usize = 6;

/// The guest's draw: see `fixtures/guests/simulated`.
fn one_in(count: u64, parts: &[&[u8]]) -> bool {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in parts.iter().copied().flatten() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    count > 0 && ((hash ^ (hash >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 16).is_multiple_of(count)
}

/// What is known outside of the engine when it is looked at.
#[derive(Clone, Copy)]
pub struct End<'a> {
    pub world: &'a World,
    pub receivers: &'a Receivers,
    pub begins: &'a Begins,
    pub moved: &'a Moved,
    /// Effects that were sent within what a loss of power took.
    pub lost: &'a Keys,
    /// How often the process dies of one event.
    pub deaths_max: u32,
    pub now_ms: u64,
}

/// Compares every module with what it must be; the error says what differs.
pub fn check(scenario: &Scenario, end: &End<'_>, store: &Store) -> Result<(), String> {
    let mut differences = Vec::new();
    for plan in &scenario.modules {
        match Found::read(store, plan, end.moved) {
            Ok(found) => differences.extend(found.check(end)),
            Err(error) => differences.push(format!("{}: {error}", plan.name)),
        }
    }
    if differences.is_empty() { Ok(()) } else { Err(differences.join("\n")) }
}

/// Whether a module records the same of the same chains whatever befalls it: it undoes what is retracted, is given every
/// block from one that it names on, and fails only at what always fails.
pub fn is_settled(plan: &ModulePlan, moved: &Moved) -> bool {
    let settled = |source: &ChainSource| source.blocks != Blocks::Latest && source.start.is_some();
    plan.rewinds && plan.flaky == 0 && moved.of(&plan.name).is_empty() && plan.chains.iter().all(settled)
}

/// Compares what two engines hold of the same chains.
pub fn same(scenario: &Scenario, moved: &Moved, ours: &Store, anew: &Store) -> Result<(), String> {
    let mut differences = Vec::new();
    for plan in scenario.modules.iter().filter(|plan| is_settled(plan, moved)) {
        let (ours, anew) = (of_chains(ours, plan, moved)?, of_chains(anew, plan, moved)?);
        let keys: BTreeSet<&String> = ours.keys().chain(anew.keys()).collect();
        let differ = keys.into_iter().filter(|key| ours.get(*key) != anew.get(*key)).take(TOLD_MAX);
        differences.extend(differ.map(|key| {
            let (ours, anew) = (ours.get(key), anew.get(key));
            format!("{}: {key} is {ours:?}; an engine that began anew has {anew:?}", plan.name)
        }));
    }
    if differences.is_empty() { Ok(()) } else { Err(differences.join("\n")) }
}

/// What a module recorded of its chains, and which of their events are dead letters.
fn of_chains(store: &Store, plan: &ModulePlan, moved: &Moved) -> Result<BTreeMap<String, String>, String> {
    let found = Found::read(store, plan, moved)?;
    let of_chain = |key: &&String| key.starts_with("b/") || key.starts_with("l/");
    let recorded = found.state.iter().filter(|(key, _)| of_chain(key));
    let what = |text: &str| record(text).map_or_else(|| text.to_owned(), |found| found.what.to_owned());
    let mut all: BTreeMap<String, String> = recorded.map(|(key, text)| (key.clone(), what(text))).collect();
    let of_chain = |letter: &DeadLetter| matches!(letter.id, EventId::Block { .. } | EventId::Logs { .. });
    let letters = found.letters.iter().filter(|(_, letter)| of_chain(letter));
    all.extend(letters.map(|(id, letter)| (format!("dead letter {id}"), letter.attempts.to_string())));
    Ok(all)
}

struct Record<'a> {
    what: &'a str,
    count: u64,
    seq: u64,
}

fn record(text: &str) -> Option<Record<'_>> {
    let mut parts = text.split(' ');
    Some(Record { what: parts.next()?, count: parts.next()?.parse().ok()?, seq: parts.next()?.parse().ok()? })
}

/// What one module left in the store.
pub struct Found<'a> {
    pub plan: &'a ModulePlan,
    pub state: BTreeMap<String, String>,
    pub letters: BTreeMap<String, DeadLetter>,
    /// Chains onto which it was put with its state, and the block after which it went on.
    moved: BTreeMap<u64, u64>,
    /// Chains on which it was ordered to go back.
    undone: BTreeSet<u64>,
    differences: Vec<String>,
}

impl<'a> Found<'a> {
    fn read(store: &Store, plan: &'a ModulePlan, moved: &Moved) -> Result<Self, String> {
        let id = store.id(&plan.name).map_err(|error| error.to_string())?;
        let entries = store.scan(id, "", None, usize::MAX).map_err(|error| error.to_string())?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let state = entries.into_iter().map(|(key, value)| (key, text(value))).collect();
        let letters = store.dead_letters(&plan.name).map_err(|error| error.to_string())?;
        let letters = letters.into_iter().map(|letter| (letter.id.to_string(), letter)).collect();
        let (undone, moved) = (moved.undone(&plan.name), moved.of(&plan.name));
        Ok(Self { plan, state, letters, moved, undone, differences: Vec::new() })
    }

    /// Whether its state holds nothing of what is retracted.
    pub fn is_undone(&self) -> bool {
        self.plan.rewinds && !self.is_moved()
    }

    /// Whether the operator has put it onto a chain with its state.
    pub fn is_moved(&self) -> bool {
        !self.moved.is_empty()
    }

    pub fn differs(&mut self, what: String) {
        self.differences.push(format!("{}: {what}", self.plan.name));
    }

    fn check(mut self, end: &End<'_>) -> Vec<String> {
        for (key, value) in self.state.range("wrong/".to_owned().."wrong0".to_owned()) {
            self.differences.push(format!("{}: {key}: {value}", self.plan.name));
        }
        let mut due = BTreeSet::new();
        for source in &self.plan.chains {
            let chain = &end.world.chains[source.chain];
            match self.start(source, chain.plan.id, end.begins) {
                Some(start) => {
                    let moved = self.moved.get(&chain.plan.id);
                    self.source(source, chain, moved.map_or(start, |block| start.max(block + 1)), &mut due);
                }
                None => self.differs(format!("{} has no position", source.id(chain.plan.id))),
            }
        }
        self.letters(&due, end.deaths_max);
        self.ticks(end.now_ms);
        if self.is_undone() {
            self.sequence();
        }
        self.effects(end);
        self.differences.truncate(TOLD_MAX);
        self.differences
    }

    /// The first block that concerns a source. One that names none begins after the block where it stood first; a reorg may
    /// have led it to before, and then it has everything from there on.
    fn start(&self, source: &ChainSource, chain_id: u64, begins: &Begins) -> Option<u64> {
        if source.start.is_some() {
            return source.start;
        }
        let begin = begins.get(&(self.plan.name.clone(), source.id(chain_id)))?;
        let kinds = ["b", "l"].map(|kind| format!("{kind}/{chain_id:020}/"));
        let given = kinds.iter().filter_map(|prefix| {
            let (key, _) = self.state.range(prefix.clone()..).next()?;
            key.strip_prefix(prefix)?.split('/').next()?.parse::<u64>().ok()
        });
        let failed = self.letters.values().filter_map(|letter| match letter.id {
            EventId::Block { chain_id: of, number, .. } | EventId::Logs { chain_id: of, number, .. } => {
                (of == chain_id).then_some(number)
            }
            _ => None,
        });
        let lowest = given.chain(failed).min().unwrap_or(u64::MAX);
        Some(lowest.clamp(begin.lowest + 1, begin.first + 1))
    }

    /// Everything of one chain from a block on. `due` collects the ids of all events that the module must have been given.
    fn source(&mut self, source: &ChainSource, chain: &Chain, start: u64, due: &mut BTreeSet<String>) {
        let head = chain.canon.len() as u64 - 1;
        let limit = match source.hold {
            Hold::Latest => Some(head),
            Hold::Confirmations(count) => head.checked_sub(count),
            Hold::Safe => Some(head.saturating_sub(chain.plan.safe_lag)),
            Hold::Finalized => Some(head.saturating_sub(chain.plan.finalized_lag)),
        };
        let (chain_id, mut expected) = (chain.plan.id, BTreeMap::new());
        for block in chain.canon.iter().filter(|block| block.number >= start && Some(block.number) <= limit) {
            let (number, hash) = (block.number, Hash(block.hash));
            let logs: Vec<&Log> = block.logs.iter().filter(|log| wanted(source, log)).collect();
            if !logs.is_empty() {
                let id = EventId::Logs { chain_id, number, hash };
                if !self.is_letter(&id, b"logs", block) {
                    for log in logs {
                        let key = format!("l/{chain_id:020}/{number:020}/{:06}", log.index);
                        expected.insert(key, hex::encode(log.transaction));
                    }
                }
                due.insert(id.to_string());
            }
            let key = format!("b/{chain_id:020}/{number:020}");
            // What stands there may be of a retracted block, when nothing is undone.
            let hashed = hex::encode(block.hash);
            let has = self.state.get(&key).is_some_and(|text| self.is_undone() || text.starts_with(&hashed));
            let skipped = source.blocks == Blocks::Latest && Some(number) != limit && !has;
            let id = EventId::Block { chain_id, number, hash };
            let skipped = skipped && !self.letters.contains_key(&id.to_string());
            if source.blocks != Blocks::None && !skipped {
                if !self.is_letter(&id, b"block", block) {
                    expected.insert(key, hex::encode(block.hash));
                }
                due.insert(id.to_string());
            }
        }
        self.compare(chain_id, &expected);
        let told = |text: &&String| text.split(' ').next() == Some(&chain_id.to_string());
        let retracted = self.state.range("r/".to_owned().."r0".to_owned()).map(|(_, text)| text).find(told).cloned();
        let ordered = self.moved.contains_key(&chain_id) || self.undone.contains(&chain_id);
        if let Some(text) = retracted.filter(|_| source.hold == Hold::Finalized && !ordered) {
            self.differs(format!("what was final was retracted: {text}"));
        }
    }

    fn compare(&mut self, chain_id: u64, expected: &BTreeMap<String, String>) {
        let (mut differences, undone) = (Vec::new(), self.is_undone());
        for (key, what) in expected {
            match self.state.get(key).map(|text| (text, record(text))) {
                None => differences.push(format!("lost: {key}")),
                Some((_, Some(found))) if found.what == what && (found.count == 1 || !undone) => {}
                Some((text, _)) => differences.push(format!("{key} is {text}, not {what}")),
            }
        }
        if undone {
            for kind in ["b", "l"] {
                let (from, to) = (format!("{kind}/{chain_id:020}/"), format!("{kind}/{chain_id:020}0"));
                for (key, text) in self.state.range(from..to).filter(|(key, _)| !expected.contains_key(*key)) {
                    differences.push(format!("not of the chain: {key} {text}"));
                }
            }
        }
        differences.into_iter().for_each(|difference| self.differs(difference));
    }

    /// Whether the event is a dead letter; one that is poisoned, or that ends the process, must be.
    fn is_letter(&mut self, id: &EventId, kind: &[u8], block: &Block) -> bool {
        let is = self.letters.contains_key(&id.to_string());
        if one_in(self.plan.poison, &[kind, &block.hash]) && !is {
            self.differs(format!("poisoned, but no dead letter: {}", short(id)));
        }
        if self.is_deadly(id) && !is {
            self.differs(format!("it ends the process, and is no dead letter: {}", short(id)));
        }
        is
    }

    /// Whether the process ends whenever the module is given this event.
    fn is_deadly(&self, id: &EventId) -> bool {
        match id {
            EventId::Block { hash, .. } => one_in(self.plan.deadly, &[b"deadly", b"block", &hash.0]),
            EventId::Logs { hash, .. } => one_in(self.plan.deadly, &[b"deadly", b"logs", &hash.0]),
            _ => false,
        }
    }

    /// Dead letters are of events that the module was given, failed as often as allowed, and could fail; or that the
    /// process died of as often as it may. Nobody else has one for that.
    fn letters(&mut self, due: &BTreeSet<String>, deaths_max: u32) {
        let mut differences = Vec::new();
        for (id, letter) in &self.letters {
            let of_chain = matches!(letter.id, EventId::Block { .. } | EventId::Logs { .. });
            if of_chain && self.is_undone() && !due.contains(id) {
                differences.push(format!("a dead letter that is not of the chain: {}", short(&letter.id)));
            }
            let is_deadly = self.is_deadly(&letter.id);
            if is_deadly || letter.error.starts_with("the process died") {
                let error = format!("the process died {deaths_max} times while it ran");
                if !is_deadly || letter.attempts != deaths_max || letter.error != error {
                    let (id, found) = (short(&letter.id), &letter.error);
                    differences.push(format!(
                        "dead letter {id} after {} attempts: {found}; deadly: {is_deadly}",
                        letter.attempts
                    ));
                }
                continue;
            }
            let poisoned = match &letter.id {
                EventId::Block { hash, .. } => one_in(self.plan.poison, &[b"block", &hash.0]),
                EventId::Logs { hash, .. } => one_in(self.plan.poison, &[b"logs", &hash.0]),
                _ => self.plan.poison > 0,
            };
            let attempts_max = self.plan.attempts_max;
            // Each retry by order that fails is one attempt more.
            let as_often = letter.attempts == attempts_max || (self.plan.retries && letter.attempts > attempts_max);
            if !as_often || (!poisoned && self.plan.flaky == 0) {
                let (id, error) = (short(&letter.id), &letter.error);
                differences.push(format!("dead letter {id} after {} attempts: {error}", letter.attempts));
            }
        }
        differences.into_iter().for_each(|difference| self.differs(difference));
    }

    fn ticks(&mut self, now_ms: u64) {
        let Some(cron) = &self.plan.cron else { return };
        let mut times = BTreeSet::new();
        let mut differences = Vec::new();
        for (key, text) in self.state.range("t/".to_owned().."t0".to_owned()) {
            if record(text).is_none_or(|found| found.count != 1) {
                differences.push(format!("{key} is {text}"));
            }
            times.extend(key[2..].parse::<u64>());
        }
        for letter in self.letters.values() {
            if let EventId::Tick { fired_at, .. } = letter.id {
                times.insert(fired_at);
            }
        }
        let last = times.last().copied().unwrap_or(0);
        if last + 2 * cron.period_ms < now_ms {
            differences.push(format!("the last tick was at {last}, now it is {now_ms}"));
        }
        let first = times.first().copied().unwrap_or(0);
        let all = (last - first) / cron.period_ms + 1;
        if cron.missed == "all" && all != times.len() as u64 {
            differences.push(format!("{} of {all} ticks", times.len()));
        }
        differences.into_iter().for_each(|difference| self.differs(difference));
    }

    /// Every event that the state counts is there, and those of a chain came in its order.
    fn sequence(&mut self) {
        let mut seqs = BTreeSet::new();
        let mut orders: BTreeMap<&str, Vec<(u64, u64, bool)>> = BTreeMap::new();
        for (key, text) in &self.state {
            let parts: Vec<&str> = key.split('/').collect();
            match (parts.as_slice(), record(text)) {
                (["r" | "o", seq], _) => seqs.extend(seq.parse::<u64>()),
                ([kind @ ("b" | "l"), chain, number, ..], Some(found)) => {
                    seqs.insert(found.seq);
                    orders.entry(chain).or_default().push((found.seq, number.parse().unwrap_or(0), *kind == "b"));
                }
                (["t", _], Some(found)) => {
                    seqs.insert(found.seq);
                }
                _ => {}
            }
        }
        let count = self.state.get("n").and_then(|text| text.parse().ok()).unwrap_or(0_u64);
        let mut differences = Vec::new();
        if !seqs.iter().copied().eq(1..=count) {
            let lost: Vec<u64> = (1..=count).filter(|seq| !seqs.contains(seq)).take(5).collect();
            differences.push(format!("{count} events were counted, {} are there; missing {lost:?}", seqs.len()));
        }
        // What was delivered again by order came when that was given.
        for (chain, mut order) in orders.into_iter().filter(|_| !self.plan.retries) {
            order.sort_unstable();
            if let Some(pair) = order.windows(2).find(|pair| (pair[0].1, pair[0].2) > (pair[1].1, pair[1].2)) {
                differences.push(format!("chain {chain}: out of order at {pair:?}"));
            }
        }
        differences.into_iter().for_each(|difference| self.differs(difference));
    }
}

pub fn wanted(source: &ChainSource, log: &Log) -> bool {
    source.logs.iter().any(|plan| {
        (plan.contracts.is_empty() || plan.contracts.contains(&log.contract))
            && (plan.signatures.is_empty() || plan.signatures.contains(&log.signature))
    })
}
