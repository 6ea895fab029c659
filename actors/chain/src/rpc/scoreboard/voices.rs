//! Who has a say about how far a chain is, and how far one endpoint is believed about it.

use super::{Demotion, Entry, LAG_BLOCKS, OVER_GRACE_NS, Scoreboard};

/// One that was lost is tried again within half of this.
const BACK_SOON_NS: u64 = 10_000_000_000;

impl Scoreboard {
    /// One that has to be heard before another one, which alone is up, says what is final: it was there a moment ago, or has
    /// not been tried yet.
    pub fn awaited(&self, now_ns: u64) -> Option<usize> {
        let up = self.entries.iter().filter(|entry| entry.up_since_ns.is_some()).count();
        let soon = |lost_ns: u64| now_ns.saturating_sub(lost_ns) < BACK_SOON_NS;
        let comes = |entry: &Entry| !entry.refused && (!entry.tried || entry.lost_ns.is_some_and(soon));
        let mut away = self.entries.iter().enumerate().filter(|(_, entry)| entry.up_since_ns.is_none());
        away.find(|(_, entry)| up == 1 && comes(entry)).map(|(index, _)| index)
    }

    /// Whether it has told nothing new for as long as an endpoint may.
    fn stands_still(&self, entry: &Entry, now_ns: u64) -> bool {
        now_ns.saturating_sub(entry.moved_ns) > self.lag_ns
    }

    /// The others that have something to say about how far the chain is. Those that stand still have no say, unless
    /// several stand at one block: then the chain may.
    fn voices(&self, index: usize, now_ns: u64) -> impl Iterator<Item = (&Entry, u64)> {
        let (admitted_since_ns, lag_ns) = (self.entries[index].admitted_since_ns, self.lag_ns);
        let told = move |(other, entry): (usize, &'_ Entry)| {
            let speaks =
                other != index && entry.up_since_ns.is_some() && !entry.syncing && entry.over_since_ns.is_none();
            // One that comes back behind what is followed may only be behind: it shows that by going on.
            let came_later =
                admitted_since_ns.is_some_and(|since_ns| entry.up_since_ns.is_some_and(|up| up > since_ns));
            let is_new = came_later
                && entry.up_since_ns.is_some_and(|up| entry.moved_ns <= up && now_ns.saturating_sub(up) <= lag_ns);
            entry.head.filter(|_| speaks && !is_new)
        };
        let heads: Vec<Option<u64>> = self.entries.iter().enumerate().map(told).collect();
        let up = |entry: &&Entry| entry.up_since_ns.is_some();
        let together = |at: u64| self.entries.iter().filter(up).filter(|entry| entry.head == Some(at)).count() > 1;
        let speaking: Vec<(usize, u64)> = heads
            .into_iter()
            .enumerate()
            .filter_map(|(other, head)| head.map(|head| (other, head)))
            .filter(|(other, head)| !self.stands_still(&self.entries[*other], now_ns) || together(*head))
            .collect();
        speaking.into_iter().map(|(other, head)| (&self.entries[other], head))
    }

    /// Whether an endpoint has a say about the chain that another one tells.
    pub fn speaks(&self, index: usize, to: usize, now_ns: u64) -> bool {
        self.voices(to, now_ns).any(|(entry, _)| std::ptr::eq(entry, &raw const self.entries[index]))
    }

    /// The highest block that this endpoint is believed about; none when nobody else has a say.
    pub fn ceiling(&self, index: usize, now_ns: u64) -> Option<u64> {
        let lead = self.entries[index].believed.filter(|(_, until_ns)| now_ns < *until_ns).map_or(0, |(lead, _)| lead);
        let reach = |(entry, head): (&Entry, u64)| {
            // Standbys are asked now and then. Meanwhile they go on as they did.
            let since_ns = now_ns.saturating_sub(entry.moved_ns).min(self.lag_ns);
            let meanwhile = entry.interval_ns.map_or(0, |each_ns| since_ns.saturating_mul(3) / each_ns.max(1) / 2);
            head.saturating_add(meanwhile).saturating_add(LAG_BLOCKS).saturating_add(lead)
        };
        self.voices(index, now_ns).map(reach).max()
    }

    /// Decides whether an endpoint is ahead of what it is believed about. True when it is not.
    pub(super) fn weigh(&mut self, index: usize, now_ns: u64) -> bool {
        let ceiling = self.ceiling(index, now_ns);
        let over = self.entries[index].head.zip(ceiling).is_some_and(|(head, ceiling)| head > ceiling);
        let since_ns = over.then(|| self.entries[index].over_since_ns.unwrap_or(now_ns));
        self.entries[index].over_since_ns = since_ns;
        let ahead = since_ns.is_some_and(|since_ns| now_ns.saturating_sub(since_ns) >= OVER_GRACE_NS);
        let before = std::mem::replace(&mut self.entries[index].ahead, ahead);
        if ahead && !before {
            let (head, ceiling) = (self.entries[index].head.unwrap_or(0), ceiling.unwrap_or(0));
            let error = format!(
                "its head {head} is far above that of the other endpoints ({})",
                ceiling.saturating_sub(LAG_BLOCKS)
            );
            self.entries[index].last_error = Some(error);
            self.demote(index, Demotion::Ahead);
        }
        !over
    }

    /// Whether a head that an endpoint tells may be followed. At the start everybody is heard first, within `grace_ns`.
    pub fn admits(&mut self, index: usize, number: u64, now_ns: u64, grace_ns: u64) -> bool {
        let heard = now_ns >= grace_ns || self.entries.iter().all(|entry| entry.tried);
        self.head(index, number, now_ns);
        let admitted = self.entries[index].over_since_ns.is_none() && heard;
        if admitted {
            self.entries[index].admitted_since_ns.get_or_insert(now_ns);
        }
        admitted
    }

    /// Whether its head is above what it is believed about, for however short a time.
    pub fn is_over(&self, index: usize) -> bool {
        self.entries[index].over_since_ns.is_some()
    }

    pub fn is_ahead(&self, index: usize) -> bool {
        self.entries[index].ahead
    }

    /// Whether there is anybody else who could confirm what this endpoint says.
    pub fn others_confirm(&self, index: usize, now_ns: u64) -> bool {
        let could = |entry: &Entry| entry.up_since_ns.is_some() && !entry.syncing && !self.lags(entry, now_ns);
        let others = self.entries.iter().enumerate().filter(|(other, _)| *other != index);
        others.into_iter().any(|(_, entry)| could(entry) && entry.over_since_ns.is_none())
    }

    /// Whether anybody but this endpoint is up.
    pub fn others_are_up(&self, index: usize) -> bool {
        let others = self.entries.iter().enumerate().filter(|(other, _)| *other != index);
        others.into_iter().any(|(_, entry)| entry.up_since_ns.is_some())
    }
}
