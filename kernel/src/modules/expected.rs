//! Events that modules should have handled by now: what `/health` holds against its threshold.
//!
//! An event is expected when a subscription should have fired: the head of a chain is past the module's position and it
//! wants blocks, or it has no position there yet; or a schedule's time has come. Its age counts from when the module last
//! moved in that source, so that one that catches up is not late, however much lies before it. Log subscriptions alone
//! expect nothing while the module runs: nobody knows whether a matching log exists. A paused module is not expected to do
//! anything.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures::future::join_all;
use nexum_host_ifaces::{
    chain::{Blocks, ChainMsg, Hold},
    cron::ScheduleNext,
    event::{Cursor, Part, SourceId},
};
use ractor::ActorRef;

use super::{
    Msg, State,
    slot::{Phase, Slot},
};
use crate::manifest::Source;

/// How often it is looked; thresholds are minutes.
pub(super) const LOOK: Duration = Duration::from_secs(2);
/// A chain that does not tell its head within this is looked at next time.
const HEAD_DEADLINE: Duration = Duration::from_secs(1);

/// One that handles nothing runs when it has stayed up for so long.
const STEADY_MS: u64 = 15_000;

/// What was found, and since when.
pub(super) struct Expected {
    next: ScheduleNext,
    /// Per module and source: the position it has not left although something is there.
    waits: HashMap<(Arc<str>, SourceId), Wait>,
    oldest_ms: BTreeMap<Arc<str>, u64>,
    starts: HashMap<Arc<str>, Start>,
}

/// How far a chain is.
#[derive(Debug, Clone, Copy)]
pub struct Heads {
    latest: u64,
    safe: Option<u64>,
    finalized: Option<u64>,
}

impl Heads {
    /// The newest block that a hold lets through.
    fn held(&self, hold: Hold) -> Option<u64> {
        match hold {
            Hold::Latest => Some(self.latest),
            Hold::Confirmations(confirmations) => self.latest.checked_sub(confirmations),
            Hold::Safe => self.safe,
            Hold::Finalized => self.finalized,
        }
    }
}

/// A module's newest start, and what it had handled when it was looked at last.
#[derive(Clone, Copy)]
struct Start {
    generation: u64,
    handled: u64,
    since_ms: u64,
}

#[derive(Clone)]
struct Wait {
    at: Option<Cursor>,
    since_ms: u64,
}

impl Expected {
    pub(super) fn new(next: ScheduleNext) -> Self {
        Self { next, waits: HashMap::new(), oldest_ms: BTreeMap::new(), starts: HashMap::new() }
    }

    /// When the oldest event came that the module should have handled; none when there is none.
    pub(super) fn since_ms(&self, module: &str) -> Option<u64> {
        self.oldest_ms.get(module).copied()
    }

    /// Whether a source has something past this position.
    fn due(&self, source: &Source, at: Option<&Cursor>, heads: &BTreeMap<u64, Heads>, now_ms: u64) -> bool {
        match source {
            Source::Chain { chain_id, interest, .. } => {
                let Some(head) = heads.get(chain_id).and_then(|heads| heads.held(interest.hold)) else {
                    return false;
                };
                match at {
                    // It is to be told where it begins.
                    None => interest.start_block.is_none_or(|start| start <= head),
                    Some(Cursor::Chain { number, part, .. }) => {
                        let behind = *number < head || (*number == head && *part == Part::Logs);
                        interest.blocks != Blocks::None && behind
                    }
                    Some(_) => unreachable!("a chain's position is a block"),
                }
            }
            Source::Cron { schedule, .. } => match at {
                Some(Cursor::Cron { fired_at }) => (self.next)(schedule, *fired_at).is_some_and(|next| next <= now_ms),
                _ => false,
            },
            // What waits there is the outbox's to say.
            Source::Outbox { .. } => false,
        }
    }

    /// The same, and whether a chain that did not say in time where it stands had something past this position before.
    fn is_waited_for(
        &self,
        module: &Arc<str>,
        source: &Source,
        at: Option<&Cursor>,
        heads: &BTreeMap<u64, Heads>,
        now_ms: u64,
    ) -> bool {
        match is_unheard(source, heads) {
            true => self.waits.get(&(module.clone(), source.id().clone())).is_some_and(|wait| wait.at.as_ref() == at),
            false => self.due(source, at, heads, now_ms),
        }
    }

    /// Whether a module runs, which is in that phase or not: one that has just been started anew has to show it.
    fn runs(&mut self, name: &Arc<str>, is_up: bool, now: Start) -> bool {
        let stopped = (name.clone(), SourceId::new(""));
        let start = self.starts.entry(name.clone()).or_insert(now);
        if now.handled != std::mem::replace(&mut start.handled, now.handled) {
            self.waits.remove(&stopped);
        }
        if start.generation != now.generation || !is_up {
            *start = now;
        }
        let steady = now.since_ms.saturating_sub(start.since_ms) >= STEADY_MS;
        is_up && (steady || !self.waits.contains_key(&stopped))
    }

    fn look(&mut self, slots: &BTreeMap<Arc<str>, Box<Slot>>, heads: &BTreeMap<u64, Heads>, now_ms: u64) {
        let (mut waits, mut oldest_ms) = (HashMap::new(), BTreeMap::new());
        self.starts.retain(|name, _| slots.contains_key(name));
        for (name, slot) in slots {
            let now = Start {
                generation: slot.generation,
                // One that was given up is behind it, too.
                handled: slot.status.processed.load(Ordering::Relaxed)
                    + slot.status.dead_letters.load(Ordering::Relaxed),
                since_ms: now_ms,
            };
            let runs = self.runs(name, slot.phase == Phase::Run, now);
            let Some(plan) = slot.plan.as_ref().filter(|_| slot.is_expected_to_work()) else { continue };
            // Not running at all is a wait of its own, for those whose sources cannot say what is due.
            let stopped = (!runs).then(|| (SourceId::new(""), None));
            let due = plan.manifest.sources.iter().filter_map(|source| {
                let at = slot.status.position(source.id());
                self.is_waited_for(name, source, at.as_ref(), heads, now_ms).then(|| (source.id().clone(), at))
            });
            for (source, at) in stopped.into_iter().chain(due) {
                let key = (name.clone(), source);
                let same = self.waits.get(&key).filter(|wait| wait.at == at).cloned();
                let wait = same.unwrap_or(Wait { at, since_ms: now_ms });
                let oldest = oldest_ms.entry(name.clone()).or_insert(wait.since_ms);
                *oldest = (*oldest).min(wait.since_ms);
                waits.insert(key, wait);
            }
        }
        (self.waits, self.oldest_ms) = (waits, oldest_ms);
    }
}

/// Whether a source's chain did not say in time where it stands.
fn is_unheard(source: &Source, heads: &BTreeMap<u64, Heads>) -> bool {
    matches!(source, Source::Chain { chain_id, .. } if !heads.contains_key(chain_id))
}

impl State {
    /// Asks the chains for their heads without waiting for them here.
    pub(super) fn ask_heads(&self, myself: &ActorRef<Msg>) {
        let (chains, myself) = (self.shared.loader.chains.clone(), myself.clone());
        let _asking: tokio::task::JoinHandle<_> = tokio::spawn(async move {
            let asked = chains.iter().map(|(id, port)| async move {
                let status = port.call(HEAD_DEADLINE, ChainMsg::Status).await.ok()?;
                let (safe, finalized) = (status.safe, status.finalized);
                Some((*id, Heads { latest: status.head?.0, safe, finalized }))
            });
            let heads = join_all(asked).await.into_iter().flatten().collect();
            // A supervisor that is gone has no use for them.
            let _ = myself.send_message(Msg::Heads(heads));
        });
    }

    pub(super) fn look(&mut self, heads: BTreeMap<u64, Heads>) {
        let now_ms = self.shared.clock.now_ms();
        self.expected.look(&self.slots, &heads, now_ms);
        let longest_ms = self.waits().values().map(|wait| wait.age_ms).max().unwrap_or_default();
        self.shared.metrics.turn_wait.set((longest_ms / 1000) as i64);
        for name in self.slots.keys() {
            let age_ms = self.expected.since_ms(name).map_or(0, |since| now_ms.saturating_sub(since));
            self.shared.metrics.module(name).expected_event_age.set(age_ms / 1000);
        }
    }
}

impl Slot {
    fn is_expected_to_work(&self) -> bool {
        matches!(self.phase, Phase::Load | Phase::Init | Phase::Run | Phase::Restart { .. } | Phase::Dead { .. })
    }
}

#[cfg(test)]
mod tests {
    use nexum_host_ifaces::{
        Hash,
        chain::Interest,
        cron::{Missed, Schedule},
    };

    use super::*;

    #[test]
    fn one_that_ends_as_often_as_it_is_started_does_not_run() {
        let mut expected = Expected::new(Arc::new(|_, _| None));
        let name: Arc<str> = "m".into();
        let stopped = (name.clone(), SourceId::new(""));
        let start = |generation, handled, since_ms| Start { generation, handled, since_ms };
        assert!(!expected.runs(&name, false, start(1, 0, 0)));
        expected.waits.insert(stopped.clone(), Wait { at: None, since_ms: 0 });
        for generation in 2..100 {
            let now_ms = generation * 30_000;
            assert!(!expected.runs(&name, true, start(generation, 0, now_ms)), "{generation}");
            assert!(!expected.runs(&name, true, start(generation, 0, now_ms + STEADY_MS - 1)), "{generation}");
            assert!(!expected.runs(&name, false, start(generation, 0, now_ms + STEADY_MS)), "{generation}");
        }
        assert!(!expected.runs(&name, true, start(100, 0, 3_000_000)));
        assert!(expected.runs(&name, true, start(101, 1, 3_000_001)), "it has handled something, whatever came then");
        expected.waits.insert(stopped.clone(), Wait { at: None, since_ms: 3_000_002 });
        assert!(!expected.runs(&name, true, start(102, 1, 4_000_000)));
        assert!(expected.runs(&name, true, start(102, 1, 4_000_000 + STEADY_MS)), "it has stayed up");
        expected.waits.remove(&stopped);
        assert!(expected.runs(&name, true, start(103, 1, 5_000_000)), "nothing was wrong with it");
    }

    fn chain(blocks: Blocks, hold: Hold) -> Source {
        source(Interest { blocks, logs: Vec::new(), start_block: None, hold })
    }

    fn source(interest: Interest) -> Source {
        Source::Chain { id: SourceId::new("chain:1"), chain_id: 1, interest: Arc::new(interest) }
    }

    fn beginning(start_block: Option<u64>) -> Source {
        source(Interest { blocks: Blocks::None, logs: Vec::new(), start_block, hold: Hold::Latest })
    }

    #[test]
    fn what_is_waited_for_is_waited_for_while_the_chain_does_not_say_where_it_stands() {
        let mut expected = Expected::new(Arc::new(|_, _| None));
        let (name, source): (Arc<str>, Source) = ("m".into(), chain(Blocks::All, Hold::Latest));
        let [at, later] = [9, 10].map(|number| Cursor::block(number, Hash::default()));
        let waited = |expected: &Expected, at: &Cursor, heads: &BTreeMap<u64, Heads>| {
            expected.is_waited_for(&name, &source, Some(at), heads, 0)
        };
        let heard = BTreeMap::from([(1, Heads { latest: 10, safe: None, finalized: None })]);
        let other = BTreeMap::from([(2, Heads { latest: 10, safe: None, finalized: None })]);
        assert!(!waited(&expected, &at, &other), "nothing was waited for");
        expected.waits.insert((name.clone(), source.id().clone()), Wait { at: Some(at.clone()), since_ms: 0 });
        assert!(waited(&expected, &at, &other) && waited(&expected, &at, &heard));
        assert!(!waited(&expected, &later, &other), "it has moved");
        assert!(!waited(&expected, &later, &heard), "it is where the chain is");
    }

    #[test]
    fn an_event_is_due_when_the_source_is_past_the_position() {
        let expected = Expected::new(Arc::new(|_, after| Some(after + 100)));
        let heads = BTreeMap::from([(1, Heads { latest: 10, safe: Some(8), finalized: None })]);
        let due = |source: &Source, at: Option<&Cursor>| expected.due(source, at, &heads, 1_000);
        let block = |number| Cursor::block(number, Hash::default());
        let all = chain(Blocks::All, Hold::Latest);
        assert!(due(&all, Some(&block(9))));
        assert!(!due(&all, Some(&block(10))));
        assert!(due(&all, None), "it is to be told where it starts");
        assert!(due(&beginning(Some(10)), None) && !due(&beginning(Some(11)), None));
        assert!(due(&all, Some(&Cursor::Chain { number: 10, hash: None, part: Part::Logs })));
        let held = chain(Blocks::All, Hold::Confirmations(3));
        assert!(!due(&held, Some(&block(7))));
        assert!(due(&held, Some(&block(6))));
        assert!(!due(&chain(Blocks::All, Hold::Confirmations(11)), Some(&block(0))));
        let safe = chain(Blocks::All, Hold::Safe);
        assert!(due(&safe, Some(&block(7))) && !due(&safe, Some(&block(8))));
        assert!(!due(&chain(Blocks::All, Hold::Finalized), Some(&block(1))), "nobody has told what is final");
        assert!(!due(&chain(Blocks::None, Hold::Latest), Some(&block(1))), "a matching log may not exist");

        let schedule = Arc::new(Schedule::Every { period_ms: 100 });
        let cron = Source::Cron { id: SourceId::new("cron:every=100ms"), schedule, missed: Missed::Skip };
        assert!(due(&cron, Some(&Cursor::Cron { fired_at: 900 })));
        assert!(!due(&cron, Some(&Cursor::Cron { fired_at: 901 })));
    }
}
