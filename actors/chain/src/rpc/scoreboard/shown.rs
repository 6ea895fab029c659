//! What is shown of endpoints, now and of late.

use nexum_host_ifaces::interfaces::chain::port::EndpointStatus;

use super::{Entry, Scoreboard};

const MINUTE_NS: u64 = 60_000_000_000;
/// So far back losses are counted.
const MINUTES: usize = 10;

/// How often an endpoint was lost in each of the last minutes. One that comes and goes looks well at most moments.
#[derive(Debug, Default)]
pub(super) struct Losses {
    /// By the minute since the clock began, in turn.
    counts: [u32; MINUTES],
    /// The newest minute that is counted in.
    minute: u64,
}

impl Losses {
    pub fn add(&mut self, now_ns: u64) {
        let minute = now_ns / MINUTE_NS;
        let passed = minute.saturating_sub(self.minute).min(MINUTES as u64);
        for nth in 0..passed {
            self.counts[place(minute - nth)] = 0;
        }
        self.minute = self.minute.max(minute);
        let count = &mut self.counts[place(self.minute)];
        *count = count.saturating_add(1);
    }

    /// Those of the last ten minutes, this one included.
    pub fn count(&self, now_ns: u64) -> u32 {
        let minute = now_ns / MINUTE_NS;
        let kept = (0..MINUTES as u64).filter_map(|nth| self.minute.checked_sub(nth));
        let recent = kept.filter(|counted| minute.saturating_sub(*counted) < MINUTES as u64);
        recent.fold(0, |sum, counted| sum.saturating_add(self.counts[place(counted)]))
    }
}

fn place(minute: u64) -> usize {
    (minute % MINUTES as u64) as usize
}

impl Entry {
    /// Out of a hundred. One that cannot be reached answers nothing.
    fn shown_score(&self) -> u32 {
        if self.up_since_ns.is_some() { self.score / 10 } else { 0 }
    }
}

impl Scoreboard {
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
            let mut latencies: Vec<u64> = entry.latencies_ns.iter().copied().collect();
            latencies.sort_unstable();
            EndpointStatus {
                name: entry.name.clone(),
                connected: entry.up_since_ns.is_some(),
                since_ms: entry.up_since_ns.or(entry.lost_ns).map(|since| now_ns.saturating_sub(since) / 1_000_000),
                losses: entry.losses.count(now_ns),
                healthy: entry.up_since_ns.is_some() && !self.is_demoted(entry, now_ns),
                leads: leader == Some(index),
                score: entry.shown_score(),
                head: entry.head,
                lag: self.lag(entry),
                latency_p50_ms: latencies.get(latencies.len() / 2).map(|ns| *ns as f64 / 1e6),
                demotions: entry.demotions,
                last_error: entry.last_error.clone(),
                learnt: Vec::new(),
            }
        };
        self.entries.iter().enumerate().map(status).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    #[test]
    fn losses_are_counted_for_ten_minutes() {
        let mut losses = Losses::default();
        assert_eq!(losses.count(0), 0);
        // One each second for two minutes.
        for second in 0..120 {
            losses.add(second * S);
        }
        assert_eq!(losses.count(120 * S), 120);
        assert_eq!(losses.count(10 * MINUTE_NS - 1), 120);
        assert_eq!(losses.count(10 * MINUTE_NS), 60, "the first minute is over");
        losses.add(10 * MINUTE_NS);
        assert_eq!(losses.count(10 * MINUTE_NS), 61);
        losses.add(1_000 * MINUTE_NS);
        assert_eq!((losses.count(1_000 * MINUTE_NS), losses.count(1_010 * MINUTE_NS)), (1, 0));
    }

    #[test]
    fn one_that_comes_and_goes_is_shown_as_such_while_it_is_up() {
        let mut board = Scoreboard::new([("a".to_owned(), 0)], 10 * S);
        assert_eq!((board.status(S)[0].since_ms, board.status(S)[0].losses), (None, 0));
        for second in 1..=14 {
            board.up(0, 2 * second * S);
            board.down(0, (2 * second + 1) * S, "gone".into());
            // What fails while it is down is no loss.
            board.down(0, (2 * second + 1) * S, "still gone".into());
        }
        let down = &board.status(32 * S)[0];
        assert_eq!((down.connected, down.since_ms, down.losses), (false, Some(3_000), 14));
        board.up(0, 40 * S);
        let up = &board.status(41 * S)[0];
        assert_eq!((up.connected, up.since_ms, up.losses), (true, Some(1_000), 14));
    }
}
