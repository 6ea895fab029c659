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
    cron::ScheduleNext,
    event::{Cursor, SourceId},
    interfaces::chain::port::ChainMsg,
};
use ractor::ActorRef;

use super::{
    Msg, State,
    slot::{Phase, Slot},
};
use crate::sources::{Due, Heads, Now, Source};

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

    /// Whether a source has something past this position; for one that cannot tell now, whether it had something before.
    fn is_waited_for(&self, module: &Arc<str>, source: &dyn Source, at: Option<&Cursor>, now: &Now<'_>) -> bool {
        match source.due(at, now) {
            Due::Yes => true,
            Due::No => false,
            Due::Unheard => {
                self.waits.get(&(module.clone(), source.id().clone())).is_some_and(|wait| wait.at.as_ref() == at)
            }
        }
    }

    /// Whether a module runs. One that has just been started anew has to show it: it handles something, or stays up for
    /// `STEADY_MS`.
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
        let next = self.next.clone();
        let told = Now { heads, next: &next, now_ms };
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
                let at = slot.status.position(&**source);
                self.is_waited_for(name, &**source, at.as_ref(), &told).then(|| (source.id().clone(), at))
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

impl State {
    /// Asks the chains for their heads without waiting for them here.
    pub(super) fn ask_heads(&self, myself: &ActorRef<Msg>) {
        let (ports, myself) = (self.shared.ports.clone(), myself.clone());
        let _asking: tokio::task::JoinHandle<_> = tokio::spawn(async move {
            let asked = ports.chains().iter().map(|(id, port)| async move {
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
        interfaces::chain::port::{Blocks, Hold, Interest},
    };

    use super::*;
    use crate::sources::ChainSource;

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

    #[test]
    fn what_is_waited_for_is_waited_for_while_the_chain_does_not_say_where_it_stands() {
        let mut expected = Expected::new(Arc::new(|_, _| None));
        let interest = Interest { blocks: Blocks::All, logs: Vec::new(), start_block: None, hold: Hold::Latest };
        let (name, source): (Arc<str>, _) = ("m".into(), ChainSource::new(1, interest));
        let [at, later] = [9, 10].map(|number| Cursor::block(number, Hash::default()));
        let waited = |expected: &Expected, at: &Cursor, heads: &BTreeMap<u64, Heads>| {
            expected.is_waited_for(&name, &source, Some(at), &Now { heads, next: &expected.next, now_ms: 0 })
        };
        let heard = BTreeMap::from([(1, Heads { latest: 10, safe: None, finalized: None })]);
        let other = BTreeMap::from([(2, Heads { latest: 10, safe: None, finalized: None })]);
        assert!(!waited(&expected, &at, &other), "nothing was waited for");
        expected.waits.insert((name.clone(), source.id().clone()), Wait { at: Some(at.clone()), since_ms: 0 });
        assert!(waited(&expected, &at, &other) && waited(&expected, &at, &heard));
        assert!(!waited(&expected, &later, &other), "it has moved");
        assert!(!waited(&expected, &later, &heard), "it is where the chain is");
    }
}
