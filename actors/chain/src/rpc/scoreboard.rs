//! Which endpoint to use: by priority among those that are up, keep up with the others, answer truthfully and mostly
//! answer at all.
//!
//! Pure; time is given. A demotion lasts until its cause is gone; an endpoint that is demoted again and again is avoided
//! for longer and longer.
//!
//! Invariant: the head of one endpoint alone moves nobody further than a few blocks above what the others have, unless
//! they stand still, or have confirmed that it was right about what lay ahead of them.

mod shown;
#[cfg(test)]
mod tests;
mod voices;

use std::collections::VecDeque;

use nexum_host_ifaces::Hash;
use shown::Losses;

/// An endpoint this many blocks behind the best one lags; a block or two is the network's doing.
const LAG_BLOCKS: u64 = 3;
/// After each failure in a row an endpoint has to stay up this long, doubling, before it is preferred again.
const PROBATION_NS: u64 = 1_000_000_000;
const PROBATION_NS_MAX: u64 = 30_000_000_000;
/// How long an endpoint must have behaved for its earlier failures to be forgotten.
const FORGIVEN_AFTER_NS: u64 = 60_000_000_000;
/// How long one that did not answer in time, or asked for fewer requests, is not the first choice; doubles.
const SLOW_AVOIDED_NS: u64 = 2_000_000_000;
/// The same for one that answered what cannot be.
const WRONG_AVOIDED_NS: u64 = 5_000_000_000;
/// A node that is slow may be well again soon; one that lies is not trusted so easily.
const SLOW_AVOIDED_NS_MAX: u64 = 30_000_000_000;
const WRONG_AVOIDED_NS_MAX: u64 = 600_000_000_000;
/// The score of an endpoint that answers everything.
const SCORE_MAX: u32 = 1_000;
/// Below this it is demoted: more than a third of its answers failed.
const SCORE_DEMOTED: u32 = 500;
/// From here on it is as good as any again.
const SCORE_RESTORED: u32 = 800;
/// One that let nothing down for so long is as good as any again, however little it was asked meanwhile.
const FAILING_FORGIVEN_AFTER_NS: u64 = 30_000_000_000;
/// Durations kept for the median.
const LATENCIES: usize = 64;
/// So long the others are given to be where an endpoint says that the chain is, before that one is demoted.
const OVER_GRACE_NS: u64 = 500_000_000;
/// How long an endpoint that was right about what lay ahead of the others is believed about it, in times of `lag_ns`.
const BELIEVED_LAGS: u64 = 10;

/// Why an endpoint is not the first choice although it is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demotion {
    /// No answer in time.
    Slow,
    RateLimited,
    /// It answered what cannot be.
    Wrong,
    Lagging,
    /// Too many of its answers failed.
    Failing,
    /// It told a head far above the others'.
    Ahead,
}

impl Demotion {
    /// The label in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Slow => "slow",
            Self::RateLimited => "rate-limited",
            Self::Wrong => "wrong",
            Self::Lagging => "lagging",
            Self::Failing => "failing",
            Self::Ahead => "ahead",
        }
    }
}

/// A block that lay above what an endpoint was believed about.
#[derive(Debug, Clone, Copy)]
struct Promise {
    number: u64,
    hash: Hash,
    /// How far above.
    over: u64,
}

#[derive(Debug)]
struct Entry {
    name: String,
    priority: u32,
    up_since_ns: Option<u64>,
    refused: bool,
    head: Option<u64>,
    /// Blocks behind the best when it told its head: one that stands by is seldom asked.
    lag: Option<u64>,
    behind_since_ns: Option<u64>,
    lagging: bool,
    /// Whether it was heard of at all: it came up, or failed.
    tried: bool,
    lost_ns: Option<u64>,
    losses: Losses,
    /// It says itself that it does not have the chain yet.
    syncing: bool,
    /// When its head last rose.
    moved_ns: u64,
    /// Mean time between its blocks.
    interval_ns: Option<u64>,
    /// Since when its head is above what it is believed about. It is not followed there meanwhile.
    over_since_ns: Option<u64>,
    /// The others were heard since, and it still is.
    ahead: bool,
    /// A block that it told while it was ahead.
    promise: Option<Promise>,
    /// So many blocks above what the others bear out it is believed, and until when: as it was right about as many.
    believed: Option<(u64, u64)>,
    /// Since when its heads are followed, or could be.
    admitted_since_ns: Option<u64>,
    failures: u32,
    avoided_until_ns: u64,
    /// Modules' requests go elsewhere until then.
    spared_until_ns: u64,
    /// How often it was avoided of late.
    avoidances: u32,
    score: u32,
    failing: bool,
    failed_ns: u64,
    demotions: u64,
    latencies_ns: VecDeque<u64>,
    last_error: Option<String>,
}

#[derive(Debug)]
pub struct Scoreboard {
    entries: Vec<Entry>,
    lag_ns: u64,
    /// Since they were last taken.
    demoted: Vec<(usize, Demotion)>,
}

impl Scoreboard {
    /// Endpoints by name and priority; one may lag for `lag_ns` before it is left.
    pub fn new(endpoints: impl IntoIterator<Item = (String, u32)>, lag_ns: u64) -> Self {
        let entry = |(name, priority)| Entry {
            name,
            priority,
            up_since_ns: None,
            refused: false,
            head: None,
            lag: None,
            behind_since_ns: None,
            lagging: false,
            tried: false,
            lost_ns: None,
            losses: Losses::default(),
            syncing: false,
            moved_ns: 0,
            interval_ns: None,
            over_since_ns: None,
            ahead: false,
            promise: None,
            believed: None,
            admitted_since_ns: None,
            failures: 0,
            avoided_until_ns: 0,
            spared_until_ns: 0,
            avoidances: 0,
            score: SCORE_MAX,
            failing: false,
            failed_ns: 0,
            demotions: 0,
            latencies_ns: VecDeque::new(),
            last_error: None,
        };
        Self { entries: endpoints.into_iter().map(entry).collect(), lag_ns, demoted: Vec::new() }
    }

    /// What was demoted since the last time.
    pub fn take_demoted(&mut self) -> Vec<(usize, Demotion)> {
        std::mem::take(&mut self.demoted)
    }

    fn demote(&mut self, index: usize, why: Demotion) {
        self.entries[index].demotions += 1;
        self.demoted.push((index, why));
    }

    /// The endpoint answers and serves the right chain.
    pub fn up(&mut self, index: usize, now_ns: u64) {
        let entry = &mut self.entries[index];
        entry.up_since_ns = Some(now_ns);
        (entry.refused, entry.tried) = (false, true);
        if entry.failures > 0 {
            let probation = PROBATION_NS.saturating_mul(1 << (entry.failures - 1).min(10)).min(PROBATION_NS_MAX);
            entry.avoided_until_ns = entry.avoided_until_ns.max(now_ns + probation);
        }
    }

    /// The endpoint does not answer. True when it did before.
    pub fn down(&mut self, index: usize, now_ns: u64, error: String) -> bool {
        let entry = &mut self.entries[index];
        let was_up = entry.up_since_ns.take();
        entry.tried = true;
        (entry.ahead, entry.over_since_ns, entry.promise) = (false, None, None);
        entry.admitted_since_ns = None;
        if was_up.is_some_and(|since| now_ns.saturating_sub(since) > FORGIVEN_AFTER_NS) {
            entry.failures = 0;
        }
        if was_up.is_some() {
            entry.lost_ns = Some(now_ns);
            entry.losses.add(now_ns);
            entry.failures = entry.failures.saturating_add(1);
        }
        (entry.behind_since_ns, entry.lagging) = (None, false);
        entry.last_error = Some(error);
        was_up.is_some()
    }

    /// The endpoint must not be used at all. True when that is news.
    pub fn refuse(&mut self, index: usize, reason: String) -> bool {
        let entry = &mut self.entries[index];
        entry.up_since_ns = None;
        (entry.head, entry.ahead, entry.over_since_ns) = (None, false, None);
        (entry.promise, entry.tried) = (None, true);
        entry.last_error = Some(reason);
        !std::mem::replace(&mut entry.refused, true)
    }

    /// Others are preferred for a while, for at least `at_least_ns`.
    pub fn avoid(&mut self, index: usize, now_ns: u64, why: Demotion, at_least_ns: u64, reason: String) {
        let entry = &mut self.entries[index];
        entry.last_error = Some(reason);
        if why == Demotion::Wrong {
            // Nor is it believed about what the others cannot know yet.
            (entry.believed, entry.promise) = (None, None);
        }
        // Who is down is the last choice anyway, and shall not be kept waiting for it when it is back.
        if entry.up_since_ns.is_none() {
            return;
        }
        if now_ns.saturating_sub(entry.avoided_until_ns) > FORGIVEN_AFTER_NS {
            entry.avoidances = 0;
        }
        let (first, most) = match why {
            Demotion::Wrong => (WRONG_AVOIDED_NS, WRONG_AVOIDED_NS_MAX),
            _ => (SLOW_AVOIDED_NS, SLOW_AVOIDED_NS_MAX),
        };
        let doubled = first.saturating_mul(1 << entry.avoidances.min(10)).min(most);
        let avoided = doubled.max(at_least_ns.min(WRONG_AVOIDED_NS_MAX));
        let already = now_ns < entry.avoided_until_ns;
        entry.avoided_until_ns = entry.avoided_until_ns.max(now_ns + avoided);
        // Requests that were under way together fail together.
        if !already {
            entry.avoidances += 1;
            self.demote(index, why);
        }
    }

    /// Modules' requests go elsewhere for a while, for at least `at_least_ns`: what one of them asks for may be too much
    /// of it, and no reason to follow the chain elsewhere.
    pub fn spare(&mut self, index: usize, now_ns: u64, at_least_ns: u64, reason: String) {
        let entry = &mut self.entries[index];
        entry.last_error = Some(reason);
        let spared = at_least_ns.clamp(SLOW_AVOIDED_NS, SLOW_AVOIDED_NS_MAX);
        entry.spared_until_ns = entry.spared_until_ns.max(now_ns + spared);
    }

    pub fn note_error(&mut self, index: usize, error: String) {
        self.entries[index].last_error = Some(error);
    }

    /// It answered, after so long.
    pub fn answered(&mut self, index: usize, took_ns: u64) {
        let entry = &mut self.entries[index];
        if entry.latencies_ns.len() == LATENCIES {
            entry.latencies_ns.pop_front();
        }
        entry.latencies_ns.push_back(took_ns);
        entry.score += (SCORE_MAX - entry.score).div_ceil(16);
        if entry.score >= SCORE_RESTORED {
            entry.failing = false;
        }
    }

    /// It did not answer as a node of this chain should.
    pub fn failed(&mut self, index: usize, now_ns: u64) {
        let entry = &mut self.entries[index];
        entry.failed_ns = now_ns;
        entry.score -= entry.score / 8;
        if entry.score < SCORE_DEMOTED && !std::mem::replace(&mut entry.failing, true) {
            self.demote(index, Demotion::Failing);
        }
    }

    /// The endpoint told its head.
    pub fn head(&mut self, index: usize, number: u64, now_ns: u64) {
        let entry = &mut self.entries[index];
        match entry.head.replace(number) {
            Some(before) if number > before => {
                let each_ns = now_ns.saturating_sub(entry.moved_ns) / (number - before);
                entry.interval_ns = Some(entry.interval_ns.map_or(each_ns, |mean| mean - mean / 4 + each_ns / 4));
                entry.moved_ns = now_ns;
            }
            Some(_) => {}
            None => entry.moved_ns = now_ns,
        }
        for other in 0..self.entries.len() {
            if other == index || self.entries[other].over_since_ns.is_some() {
                self.weigh(other, now_ns);
            }
        }
        let best = self.best_head().unwrap_or(0);
        self.entries[index].lag = Some(best.saturating_sub(number));
        for index in 0..self.entries.len() {
            let entry = &mut self.entries[index];
            match entry.head.filter(|_| entry.up_since_ns.is_some()) {
                Some(head) if head.saturating_add(LAG_BLOCKS) < best => {
                    let since = *entry.behind_since_ns.get_or_insert(now_ns);
                    if now_ns.saturating_sub(since) > self.lag_ns && !std::mem::replace(&mut entry.lagging, true) {
                        entry.last_error = Some(format!("{} blocks behind", best - head));
                        self.demote(index, Demotion::Lagging);
                    }
                }
                _ => (entry.behind_since_ns, entry.lagging) = (None, false),
            }
        }
    }

    pub fn is_syncing(&self, index: usize) -> bool {
        self.entries[index].syncing
    }

    pub fn syncing(&mut self, index: usize, syncing: bool) {
        self.entries[index].syncing = syncing;
    }

    /// Keeps a block that an endpoint which is ahead told, unless there is one already.
    pub fn promise(&mut self, index: usize, number: u64, hash: Hash, now_ns: u64) {
        let ceiling = self.ceiling(index, now_ns);
        let entry = &mut self.entries[index];
        if entry.over_since_ns.is_some() && entry.promise.is_none() {
            let over = number.saturating_sub(ceiling.unwrap_or(number));
            entry.promise = Some(Promise { number, hash, over });
        }
    }

    /// Compares what was promised with the chain that is followed, which reaches up to `tip`. Who was right is believed
    /// further: twice as far above the others as it was right about.
    pub fn redeem(&mut self, tip: u64, hash_at: &dyn Fn(u64) -> Option<Hash>, now_ns: u64) {
        let until_ns = now_ns.saturating_add(self.lag_ns.saturating_mul(BELIEVED_LAGS));
        for index in 0..self.entries.len() {
            let Some(promise) = self.entries[index].promise.filter(|promise| promise.number <= tip) else {
                continue;
            };
            self.entries[index].promise = None;
            if hash_at(promise.number) == Some(promise.hash) {
                let before =
                    self.entries[index].believed.filter(|(_, until)| now_ns < *until).map_or(0, |(lead, _)| lead);
                let lead = before.saturating_add(promise.over).saturating_mul(2).max(LAG_BLOCKS);
                self.entries[index].believed = Some((lead, until_ns));
                self.weigh(index, now_ns);
            }
        }
    }

    /// The head that an endpoint told last.
    pub fn head_of(&self, index: usize) -> Option<u64> {
        self.entries[index].head
    }

    /// The highest head of any endpoint that is up and believed, or was.
    pub fn best_head(&self) -> Option<u64> {
        let believed = || self.entries.iter().filter(|entry| entry.over_since_ns.is_none());
        let up = believed().filter(|entry| entry.up_since_ns.is_some()).filter_map(|entry| entry.head).max();
        up.or_else(|| believed().filter_map(|entry| entry.head).max())
    }

    fn lags(&self, entry: &Entry, now_ns: u64) -> bool {
        entry.behind_since_ns.is_some_and(|since| now_ns.saturating_sub(since) > self.lag_ns)
    }

    pub fn is_up(&self, index: usize) -> bool {
        self.entries[index].up_since_ns.is_some()
    }

    /// All endpoints that may be used, best first. Those that are down come last: they may be back.
    pub fn order(&self, now_ns: u64) -> Vec<usize> {
        self.order_by(now_ns, |entry| entry.avoided_until_ns)
    }

    /// The same for what a module asks.
    pub fn order_for_modules(&self, now_ns: u64) -> Vec<usize> {
        self.order_by(now_ns, |entry| entry.avoided_until_ns.max(entry.spared_until_ns))
    }

    fn order_by(&self, now_ns: u64, avoided_until_ns: impl Fn(&Entry) -> u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.entries.len()).filter(|index| !self.entries[*index].refused).collect();
        order.sort_by_key(|index| {
            let entry = &self.entries[*index];
            let avoided = now_ns < avoided_until_ns(entry);
            let behind = self.is_behind(entry, now_ns);
            (
                entry.up_since_ns.is_none(),
                entry.ahead,
                avoided,
                behind,
                is_failing(entry, now_ns),
                entry.priority,
                *index,
            )
        });
        order
    }

    /// The endpoints whose word about how far the chain is final counts: those that are up and where the chain is, or else
    /// those that are up, or else all. One that only answers badly counts: alone without it another one could say anything. For
    /// the same reason one that is ahead counts beside a single other: it may be that one which is behind.
    pub fn on_chain(&self, now_ns: u64) -> Vec<usize> {
        let order = self.order(now_ns);
        let up = |index: &&usize| self.entries[**index].up_since_ns.is_some();
        let there = |index: &&usize| up(index) && !self.is_elsewhere(&self.entries[**index], now_ns);
        let not_behind = |index: &&usize| up(index) && !self.is_behind(&self.entries[**index], now_ns);
        let mut there: Vec<usize> = order.iter().filter(there).copied().collect();
        if there.len() == 1 {
            there = order.iter().filter(|index| there.contains(index) || not_behind(index)).copied().collect();
        }
        let all: [Vec<usize>; 3] = [there, order.iter().filter(up).copied().collect(), order.clone()];
        all.into_iter().find(|some| !some.is_empty()).unwrap_or_default()
    }

    /// The endpoints that can say what is in a block of the chain: those that are up and not behind, or else those that are
    /// up; best first. One that tells too high a head counts: it may be the others that are elsewhere.
    pub fn witnesses(&self, now_ns: u64) -> Vec<usize> {
        let mut up = self.order(now_ns);
        up.retain(|index| self.is_up(*index));
        let reaches = |index: &&usize| !self.is_behind(&self.entries[**index], now_ns);
        let reach: Vec<usize> = up.iter().filter(reaches).copied().collect();
        if reach.is_empty() { up } else { reach }
    }

    fn is_elsewhere(&self, entry: &Entry, now_ns: u64) -> bool {
        entry.ahead || self.is_behind(entry, now_ns)
    }

    fn is_behind(&self, entry: &Entry, now_ns: u64) -> bool {
        entry.syncing || self.lags(entry, now_ns)
    }

    fn is_demoted(&self, entry: &Entry, now_ns: u64) -> bool {
        now_ns < entry.avoided_until_ns || is_failing(entry, now_ns) || self.is_elsewhere(entry, now_ns)
    }

    /// The endpoint to follow.
    pub fn leader(&self, now_ns: u64) -> Option<usize> {
        self.order(now_ns).first().copied().filter(|index| self.entries[*index].up_since_ns.is_some())
    }
}

/// Whether too many of its answers failed of late.
fn is_failing(entry: &Entry, now_ns: u64) -> bool {
    entry.failing && now_ns.saturating_sub(entry.failed_ns) < FAILING_FORGIVEN_AFTER_NS
}
