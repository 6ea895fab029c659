//! Which endpoint to use: by priority among those that are up, keep up with the others and answer truthfully.
//!
//! Pure; time is given.

use nexum_host_ifaces::chain::EndpointStatus;

/// An endpoint this many blocks behind the best one lags; a block or two is the network's doing.
const LAG_BLOCKS: u64 = 3;
/// After each failure in a row an endpoint has to stay up this long, doubling, before it is preferred again.
const PROBATION_NS: u64 = 1_000_000_000;
const PROBATION_NS_MAX: u64 = 30_000_000_000;
/// How long an endpoint must have been up for its earlier failures to be forgotten.
const FORGIVEN_AFTER_NS: u64 = 60_000_000_000;

#[derive(Debug, Default)]
struct Entry {
    name: String,
    priority: u32,
    up_since_ns: Option<u64>,
    refused: bool,
    head: Option<u64>,
    behind_since_ns: Option<u64>,
    failures: u32,
    avoided_until_ns: u64,
    last_error: Option<String>,
}

#[derive(Debug)]
pub struct Scoreboard {
    entries: Vec<Entry>,
    lag_ns: u64,
}

impl Scoreboard {
    /// Endpoints by name and priority; one may lag for `lag_ns` before it is left.
    pub fn new(endpoints: impl IntoIterator<Item = (String, u32)>, lag_ns: u64) -> Self {
        let entries =
            endpoints.into_iter().map(|(name, priority)| Entry { name, priority, ..Entry::default() }).collect();
        Self { entries, lag_ns }
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
        if let Some(since) = was_up {
            let forgiven = now_ns.saturating_sub(since) >= FORGIVEN_AFTER_NS;
            entry.failures = if forgiven { 1 } else { entry.failures.saturating_add(1) };
        }
        entry.behind_since_ns = None;
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

    /// Something it answered was wrong, or it did not answer a request in time: others are preferred for a while.
    pub fn avoid(&mut self, index: usize, now_ns: u64, for_ns: u64, reason: String) {
        let entry = &mut self.entries[index];
        entry.avoided_until_ns = entry.avoided_until_ns.max(now_ns + for_ns);
        entry.last_error = Some(reason);
    }

    pub fn note_error(&mut self, index: usize, error: String) {
        self.entries[index].last_error = Some(error);
    }

    /// The endpoint told its head.
    pub fn head(&mut self, index: usize, number: u64, now_ns: u64) {
        self.entries[index].head = Some(number);
        let best = self.best_head().unwrap_or(0);
        for entry in &mut self.entries {
            match entry.head {
                Some(head) if head + LAG_BLOCKS < best => {
                    entry.behind_since_ns.get_or_insert(now_ns);
                }
                _ => entry.behind_since_ns = None,
            }
        }
    }

    /// The highest head of any endpoint that is up, or was.
    pub fn best_head(&self) -> Option<u64> {
        let up = self.entries.iter().filter(|entry| entry.up_since_ns.is_some()).filter_map(|entry| entry.head).max();
        up.or_else(|| self.entries.iter().filter_map(|entry| entry.head).max())
    }

    /// All endpoints that may be used, best first. Those that are down come last: they may be back.
    pub fn order(&self, now_ns: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.entries.len()).filter(|index| !self.entries[*index].refused).collect();
        order.sort_by_key(|index| {
            let entry = &self.entries[*index];
            let lags = entry.behind_since_ns.is_some_and(|since| now_ns.saturating_sub(since) > self.lag_ns);
            (entry.up_since_ns.is_none(), now_ns < entry.avoided_until_ns, lags, entry.priority, *index)
        });
        order
    }

    /// The endpoint to follow.
    pub fn leader(&self, now_ns: u64) -> Option<usize> {
        self.order(now_ns).first().copied().filter(|index| self.entries[*index].up_since_ns.is_some())
    }

    pub fn status(&self, now_ns: u64) -> Vec<EndpointStatus> {
        let status = |entry: &Entry| EndpointStatus {
            name: entry.name.clone(),
            healthy: entry.up_since_ns.is_some() && now_ns >= entry.avoided_until_ns,
            last_error: entry.last_error.clone(),
        };
        self.entries.iter().map(status).collect()
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
        board.head(0, 104, 72 * S);
        assert_eq!(board.leader(72 * S), Some(0));
        assert_eq!(board.best_head(), Some(104));
    }

    #[test]
    fn a_liar_is_avoided_for_a_while_and_a_wrong_chain_for_good() {
        let mut board = board();
        board.avoid(0, S, 5 * S, "another block's logs".into());
        assert_eq!(board.leader(2 * S), Some(1));
        assert!(!board.status(2 * S)[0].healthy);
        assert_eq!(board.leader(6 * S), Some(0));
        assert!(board.refuse(0, "chain 5".into()));
        assert!(!board.refuse(0, "chain 5".into()));
        assert_eq!(board.order(60 * S), [1, 2]);
    }
}
