//! Which endpoint to use: by priority among those that are up, keep up with the others, answer truthfully and mostly
//! answer at all.
//!
//! Pure; time is given. A demotion lasts until its cause is gone; an endpoint that is demoted again and again is avoided
//! for longer and longer.

use std::collections::VecDeque;

use nexum_host_ifaces::chain::EndpointStatus;

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
/// Durations kept for the median.
const LATENCIES: usize = 64;

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
        }
    }
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
    failures: u32,
    avoided_until_ns: u64,
    /// Modules' requests go elsewhere until then.
    spared_until_ns: u64,
    /// How often it was avoided of late.
    avoidances: u32,
    score: u32,
    failing: bool,
    demotions: u64,
    latencies_ns: VecDeque<u64>,
    last_error: Option<String>,
}

impl Entry {
    /// Out of a hundred. One that cannot be reached answers nothing.
    fn shown_score(&self) -> u32 {
        if self.up_since_ns.is_some() { self.score / 10 } else { 0 }
    }
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
            failures: 0,
            avoided_until_ns: 0,
            spared_until_ns: 0,
            avoidances: 0,
            score: SCORE_MAX,
            failing: false,
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
        entry.refused = false;
        if entry.failures > 0 {
            let probation = PROBATION_NS.saturating_mul(1 << (entry.failures - 1).min(10)).min(PROBATION_NS_MAX);
            entry.avoided_until_ns = entry.avoided_until_ns.max(now_ns + probation);
        }
    }

    /// The endpoint does not answer. True when it did before.
    pub fn down(&mut self, index: usize, now_ns: u64, error: String) -> bool {
        let entry = &mut self.entries[index];
        let was_up = entry.up_since_ns.take();
        if was_up.is_some_and(|since| now_ns.saturating_sub(since) > FORGIVEN_AFTER_NS) {
            entry.failures = 0;
        }
        if was_up.is_some() {
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
        entry.head = None;
        entry.last_error = Some(reason);
        !std::mem::replace(&mut entry.refused, true)
    }

    /// Others are preferred for a while, for at least `at_least_ns`.
    pub fn avoid(&mut self, index: usize, now_ns: u64, why: Demotion, at_least_ns: u64, reason: String) {
        let entry = &mut self.entries[index];
        entry.last_error = Some(reason);
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
    pub fn failed(&mut self, index: usize) {
        let entry = &mut self.entries[index];
        entry.score -= entry.score / 8;
        if entry.score < SCORE_DEMOTED && !std::mem::replace(&mut entry.failing, true) {
            self.demote(index, Demotion::Failing);
        }
    }

    /// The endpoint told its head.
    pub fn head(&mut self, index: usize, number: u64, now_ns: u64) {
        self.entries[index].head = Some(number);
        let best = self.best_head().unwrap_or(0);
        self.entries[index].lag = Some(best.saturating_sub(number));
        for index in 0..self.entries.len() {
            let entry = &mut self.entries[index];
            match entry.head.filter(|_| entry.up_since_ns.is_some()) {
                Some(head) if head + LAG_BLOCKS < best => {
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

    /// The head that an endpoint told last.
    pub fn head_of(&self, index: usize) -> Option<u64> {
        self.entries[index].head
    }

    /// The highest head of any endpoint that is up, or was.
    pub fn best_head(&self) -> Option<u64> {
        let up = self.entries.iter().filter(|entry| entry.up_since_ns.is_some()).filter_map(|entry| entry.head).max();
        up.or_else(|| self.entries.iter().filter_map(|entry| entry.head).max())
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
            (entry.up_since_ns.is_none(), avoided, self.lags(entry, now_ns), entry.failing, entry.priority, *index)
        });
        order
    }

    /// The endpoint to follow.
    pub fn leader(&self, now_ns: u64) -> Option<usize> {
        self.order(now_ns).first().copied().filter(|index| self.entries[*index].up_since_ns.is_some())
    }

    /// Lag in blocks, and the score out of a hundred.
    pub fn figures(&self, index: usize) -> (u64, u32) {
        let entry = &self.entries[index];
        (self.lag(entry).unwrap_or(0), entry.shown_score())
    }

    /// One that lags is so far behind now; any other was, when it was asked.
    fn lag(&self, entry: &Entry) -> Option<u64> {
        let now = || entry.head.map(|head| self.best_head().unwrap_or(0).saturating_sub(head));
        if entry.lagging || entry.up_since_ns.is_none() { now() } else { entry.lag }
    }

    pub fn status(&self, now_ns: u64) -> Vec<EndpointStatus> {
        let leader = self.leader(now_ns);
        let status = |(index, entry): (usize, &Entry)| {
            let demoted = now_ns < entry.avoided_until_ns || self.lags(entry, now_ns) || entry.failing;
            let mut latencies: Vec<u64> = entry.latencies_ns.iter().copied().collect();
            latencies.sort_unstable();
            EndpointStatus {
                name: entry.name.clone(),
                connected: entry.up_since_ns.is_some(),
                healthy: entry.up_since_ns.is_some() && !demoted,
                leads: leader == Some(index),
                score: entry.shown_score(),
                head: entry.head,
                lag: self.lag(entry),
                latency_p50_ms: latencies.get(latencies.len() / 2).map(|ns| *ns as f64 / 1e6),
                demotions: entry.demotions,
                last_error: entry.last_error.clone(),
            }
        };
        self.entries.iter().enumerate().map(status).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn board() -> Scoreboard {
        let mut board = Scoreboard::new([("a".to_owned(), 0), ("b".to_owned(), 1), ("c".to_owned(), 1)], 10 * S);
        assert_eq!(board.leader(0), None);
        (0..3).for_each(|index| board.up(index, 0));
        board
    }

    #[test]
    fn priority_decides_among_those_that_are_up() {
        let mut board = board();
        assert_eq!(board.order(S), [0, 1, 2]);
        assert!(board.down(0, S, "gone".into()));
        assert!(!board.down(0, S, "still gone".into()));
        assert_eq!(board.order(S), [1, 2, 0]);
        assert_eq!(board.status(S)[0].last_error.as_deref(), Some("still gone"));
        assert!(board.status(S)[1].leads);
    }

    #[test]
    fn one_that_failed_is_on_probation_when_it_returns() {
        let mut board = board();
        board.down(0, S, "gone".into());
        board.up(0, 2 * S);
        assert_eq!(board.leader(2 * S), Some(1));
        assert_eq!(board.leader(3 * S), Some(0));
        board.down(0, 4 * S, "again".into());
        board.up(0, 5 * S);
        assert_eq!(board.leader(6 * S), Some(1), "the second time it takes longer");
        assert_eq!(board.leader(7 * S), Some(0));
        (1..3).for_each(|index| {
            board.down(index, 7 * S, "gone".into());
        });
        assert_eq!(board.leader(7 * S), Some(0), "who is alone is used, probation or not");
    }

    #[test]
    fn one_that_lags_for_long_is_left_until_it_caught_up() {
        let mut board = board();
        board.head(0, 100, 0);
        board.head(1, 103, 0);
        assert_eq!(board.leader(60 * S), Some(0), "three blocks are no lag");
        board.head(1, 104, 60 * S);
        assert_eq!(board.leader(70 * S), Some(0));
        assert_eq!(board.leader(71 * S), Some(1));
        board.head(1, 105, 71 * S);
        assert_eq!(board.status(71 * S)[2].lag, None, "it has not told anything");
        assert_eq!(board.take_demoted(), [(0, Demotion::Lagging)]);
        assert_eq!((board.status(71 * S)[0].lag, board.status(71 * S)[0].healthy), (Some(5), false));
        board.head(0, 105, 72 * S);
        assert_eq!(board.leader(72 * S), Some(0));
        assert_eq!(board.best_head(), Some(105));
    }

    #[test]
    fn a_liar_is_avoided_longer_each_time_and_a_wrong_chain_for_good() {
        let mut board = board();
        let lie = |board: &mut Scoreboard, at_ns| board.avoid(0, at_ns, Demotion::Wrong, 0, "another block's".into());
        lie(&mut board, S);
        lie(&mut board, S);
        assert_eq!(board.take_demoted(), [(0, Demotion::Wrong)], "what was under way together counts once");
        assert_eq!(board.leader(2 * S), Some(1));
        assert!(!board.status(2 * S)[0].healthy && board.status(2 * S)[0].connected);
        let again = board.entries[0].avoided_until_ns;
        assert_eq!(board.leader(again), Some(0));
        lie(&mut board, again);
        assert_eq!(board.leader(again + 9 * S), Some(1));
        assert_eq!(board.leader(again + 10 * S), Some(0));
        let later = again + 200 * S;
        lie(&mut board, later);
        assert_eq!(board.leader(later + 5 * S), Some(0), "forgotten by then");
        assert!(board.refuse(0, "chain 5".into()));
        assert!(!board.refuse(0, "chain 5".into()));
        assert_eq!(board.order(later + 60 * S), [1, 2]);
    }

    #[test]
    fn what_a_module_asks_too_much_of_is_spared_its_requests_alone() {
        let mut board = board();
        board.spare(0, S, 0, "no answer in time".into());
        assert_eq!((board.order(2 * S), board.order_for_modules(2 * S)), (vec![0, 1, 2], vec![1, 2, 0]));
        assert_eq!(board.order_for_modules(3 * S), [0, 1, 2]);
        let status = &board.status(2 * S)[0];
        assert!(status.healthy && status.demotions == 0 && status.score == 100, "{status:?}");
    }

    #[test]
    fn who_is_asked_to_wait_is_left_for_as_long() {
        let mut board = board();
        board.avoid(0, S, Demotion::RateLimited, 30 * S, "429".into());
        assert_eq!(board.leader(30 * S), Some(1));
        assert_eq!(board.leader(31 * S), Some(0));
    }

    #[test]
    fn one_that_fails_more_than_a_third_is_demoted_until_it_answers_again() {
        let mut board = board();
        for nth in 0..300 {
            if nth % 4 == 0 { board.failed(0) } else { board.answered(0, 5_000_000) }
        }
        assert_eq!(board.leader(S), Some(0), "a quarter is borne");
        for nth in 0..300 {
            if nth % 2 == 0 { board.failed(0) } else { board.answered(0, 5_000_000) }
        }
        assert_eq!(board.leader(S), Some(1));
        assert_eq!(board.take_demoted(), [(0, Demotion::Failing)]);
        let status = &board.status(S)[0];
        assert!(status.score < 50 && !status.healthy && status.latency_p50_ms == Some(5.0), "{status:?}");
        (0..30).for_each(|_| board.answered(0, 1));
        assert_eq!(board.leader(S), Some(0));
    }
}
