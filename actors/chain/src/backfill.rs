//! History below the window: which segments to read, and a bounded memory of those that were read.
//!
//! Invariant: a segment serves everybody who stands in it, so modules at the same cursor cost one read. Every segment
//! ended below the window's base when it was read; a reorg that deep clears everything.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    sync::Arc,
};

use nexum_host_ifaces::{
    Hash,
    types::{Event, Log},
};

use crate::{
    filter::Union,
    header::Header,
    interests::Watch,
    range::AdaptiveRange,
    window::{log_bytes, share_of},
};

/// Segments read at the same time.
const FLIGHTS_MAX: usize = 6;
/// How many segments a reader's next ones are read ahead of it.
const AHEAD_SEGMENTS: usize = 4;
/// Headers asked for in one JSON-RPC batch; public endpoints refuse longer ones.
const HEADERS_PER_READ_MAX: u64 = 100;
/// Memory of all segments together.
const BYTES_MAX: usize = 64 << 20;
/// Hashes remembered for checking cursors, in each of two generations: far more than is read ahead of all readers, so
/// that a cursor is looked at before its hash is forgotten.
const CHECKED_MAX: usize = 16_384;

/// The logs of one block that one interest wants.
#[derive(Debug, Clone)]
pub struct Hit {
    pub number: u64,
    pub hash: Hash,
    pub event: Arc<Event>,
}

#[derive(Debug)]
struct LogSegment {
    to: u64,
    end_hash: Hash,
    hits: Vec<Hit>,
    bytes: usize,
    used: u64,
}

#[derive(Debug)]
struct HeaderSegment {
    blocks: Vec<(Header, Arc<Event>)>,
    used: u64,
}

impl HeaderSegment {
    fn bytes(&self) -> usize {
        self.blocks.len() * 700
    }
}

/// What lies ahead for a reader of logs alone.
#[derive(Debug, Clone)]
pub struct Stretch {
    /// The next block with wanted logs.
    pub hit: Option<Hit>,
    /// Without a hit: nothing is wanted up to and including this block.
    pub to: u64,
    pub end_hash: Hash,
}

/// One read of history.
#[derive(Debug, Clone)]
pub enum Segment {
    Headers {
        from: u64,
        to: u64,
    },
    /// Single headers, to check cursors with.
    Check {
        numbers: Vec<u64>,
    },
    /// The logs for these interests, and the header of `to`. An empty union reads the header alone.
    Logs {
        from: u64,
        to: u64,
        union: Arc<Union>,
        watches: Vec<Arc<Watch>>,
        /// Headers of these blocks that were read before, ascending.
        known: Arc<Vec<Header>>,
    },
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Headers { from, to } => write!(f, "headers {from} to {to} of the history"),
            Self::Check { numbers } => write!(f, "{} headers to check cursors with", numbers.len()),
            Self::Logs { from, to, .. } => write!(f, "logs of blocks {from} to {to}"),
        }
    }
}

impl Segment {
    fn range(&self) -> (u64, u64) {
        match self {
            Self::Headers { from, to } | Self::Logs { from, to, .. } => (*from, *to),
            Self::Check { .. } => (1, 0),
        }
    }

    fn covers(&self, watch: Option<u64>, number: u64) -> Option<u64> {
        let (from, to) = self.range();
        let concerns = match (self, watch) {
            (Self::Headers { .. }, None) => true,
            (Self::Logs { watches, .. }, Some(id)) => watches.iter().any(|watch| watch.id == id),
            _ => false,
        };
        (concerns && (from..=to).contains(&number)).then_some(to)
    }
}

/// Hashes by number, the newest added: when one generation is full, the one before it is forgotten.
#[derive(Debug, Default)]
struct Checked {
    young: HashMap<u64, Hash>,
    old: HashMap<u64, Hash>,
}

impl Checked {
    fn add(&mut self, number: u64, hash: Hash) {
        self.old.remove(&number);
        self.young.insert(number, hash);
        if self.young.len() >= CHECKED_MAX {
            self.old = std::mem::take(&mut self.young);
        }
    }

    fn get(&self, number: u64) -> Option<Hash> {
        self.young.get(&number).or_else(|| self.old.get(&number)).copied()
    }

    fn remove(&mut self, number: u64) {
        self.young.remove(&number);
        self.old.remove(&number);
    }
}

#[derive(Debug)]
pub struct Backfill {
    chain_id: u64,
    logs: BTreeMap<(u64, u64), LogSegment>,
    headers: BTreeMap<u64, HeaderSegment>,
    checked: Checked,
    flights: Vec<(u64, Segment)>,
    next_flight: u64,
    checks: BTreeSet<u64>,
    /// Wanted and not in flight: (first block, last block that may be read, interest).
    wishes: Vec<(u64, u64, Option<Arc<Watch>>)>,
    log_range: AdaptiveRange,
    header_range: AdaptiveRange,
    bytes: usize,
    tick: u64,
}

impl Backfill {
    pub fn new(chain_id: u64, max_log_range: u64) -> Self {
        Self {
            chain_id,
            logs: BTreeMap::new(),
            headers: BTreeMap::new(),
            checked: Checked::default(),
            flights: Vec::new(),
            next_flight: 0,
            checks: BTreeSet::new(),
            wishes: Vec::new(),
            log_range: AdaptiveRange::new(max_log_range),
            header_range: AdaptiveRange::new(HEADERS_PER_READ_MAX),
            bytes: 0,
            tick: 0,
        }
    }

    /// Forgets everything read: the chain has changed below the window.
    pub fn clear(&mut self) {
        self.logs.clear();
        self.headers.clear();
        self.checked = Checked::default();
        self.flights.clear();
        self.bytes = 0;
    }

    /// The canonical hash at a number, when it has been read.
    pub fn hash_at(&self, number: u64) -> Option<Hash> {
        self.checked.get(number)
    }

    pub fn header(&mut self, number: u64) -> Option<(&Header, Arc<Event>)> {
        self.tick += 1;
        let tick = self.tick;
        let (from, segment) = self.headers.range_mut(..=number).next_back()?;
        segment.used = tick;
        let index = usize::try_from(number - from).ok()?;
        segment.blocks.get(index).map(|(header, event)| (header, event.clone()))
    }

    pub fn logs_from(&mut self, watch: &Watch, number: u64) -> Option<Stretch> {
        self.tick += 1;
        let tick = self.tick;
        let ((id, _), segment) = self.logs.range_mut(..=(watch.id, number)).next_back()?;
        if *id != watch.id || segment.to < number {
            return None;
        }
        segment.used = tick;
        let next = segment.hits.partition_point(|hit| hit.number < number);
        Some(Stretch { hit: segment.hits.get(next).cloned(), to: segment.to, end_hash: segment.end_hash })
    }

    /// Notes that a reader stands at `number` and may read up to `end`: what it lacks there and a little ahead is
    /// wished for. `watch` is absent for headers.
    pub fn want(&mut self, watch: Option<&Arc<Watch>>, number: u64, end: u64) {
        let mut next = number;
        for _ in 0..AHEAD_SEGMENTS {
            if next > end {
                return;
            }
            next = match self.covered_to(watch.map(|watch| watch.id), next) {
                Some(to) => to + 1,
                None => {
                    let to = self.span(watch.map(|watch| &**watch), next, end);
                    self.wishes.push((next, end, watch.cloned()));
                    to + 1
                }
            };
        }
    }

    fn covered_to(&self, watch: Option<u64>, number: u64) -> Option<u64> {
        let read = match watch {
            Some(id) => {
                let segment = self.logs.range((id, 0)..=(id, number)).next_back();
                segment.map(|(_, segment)| segment.to)
            }
            None => {
                let segment = self.headers.range(..=number).next_back();
                segment.map(|(from, segment)| from + segment.blocks.len() as u64 - 1)
            }
        };
        read.filter(|to| *to >= number)
            .or_else(|| self.flights.iter().find_map(|(_, flight)| flight.covers(watch, number)))
    }

    /// The headers of these blocks that have been read, ascending.
    fn known(&self, from: u64, to: u64) -> Vec<Header> {
        let first = self.headers.range(..=from).next_back().map_or(from, |(first, _)| *first);
        let segments = self.headers.range(first..=to).flat_map(|(_, segment)| &segment.blocks);
        let within = segments.map(|(header, _)| header).filter(|header| (from..=to).contains(&header.number));
        within.cloned().collect()
    }

    /// The last of the blocks from `number` on whose headers have been read without a gap, up to `end`.
    pub fn known_to(&self, number: u64, end: u64) -> Option<u64> {
        let mut last = None;
        let mut next = number;
        while next <= end {
            let Some((from, segment)) = self.headers.range(..=next).next_back() else { break };
            let to = from + segment.blocks.len() as u64 - 1;
            if to < next {
                break;
            }
            last = Some(to.min(end));
            next = to + 1;
        }
        last
    }

    /// The blooms of what was read say no more what is not there.
    pub fn distrust_blooms(&mut self) {
        let headers = self.headers.values_mut().flat_map(|segment| &mut segment.blocks);
        headers.for_each(|(header, _)| header.distrust_bloom());
    }

    /// Notes that somebody has to know the canonical hash at `number`.
    pub fn want_check(&mut self, number: u64) {
        self.checks.insert(number);
    }

    /// The last block of a read that starts at `from`; it ends where something else has been read.
    fn span(&self, watch: Option<&Watch>, from: u64, end: u64) -> u64 {
        let next = match watch {
            Some(watch) => {
                let after = (watch.id, from)..=(watch.id, end);
                self.logs.range(after).next().map(|((_, next), _)| *next)
            }
            None => self.headers.range(from..=end).next().map(|(next, _)| *next),
        };
        let end = next.map_or(end, |next| next.saturating_sub(1).max(from));
        let to = match watch {
            // Nothing can be wanted before the first block of any filter: one header leads past it.
            Some(watch) if from < watch.filters.first_block() => watch.filters.first_block() - 1,
            Some(_) => from.saturating_add(self.log_range.current() - 1),
            None => from.saturating_add(self.header_range.current() - 1),
        };
        to.min(end)
    }

    /// Turns wishes into reads, as many as may fly. What does not fit is wished for again when a flight has landed.
    pub fn plan(&mut self) -> Vec<(u64, Segment)> {
        let mut started = Vec::new();
        if !self.checks.is_empty() && self.flights.len() < FLIGHTS_MAX {
            let checking = self.flights.iter().any(|(_, flight)| matches!(flight, Segment::Check { .. }));
            let numbers = std::mem::take(&mut self.checks).into_iter().take(HEADERS_PER_READ_MAX as usize);
            if !checking {
                started.push(self.launch(Segment::Check { numbers: numbers.collect() }));
            }
        }
        let mut wishes = std::mem::take(&mut self.wishes);
        wishes.sort_by_key(|(from, _, watch)| (*from, watch.as_ref().map(|watch| watch.id)));
        let mut index = 0;
        while index < wishes.len() && self.flights.len() < FLIGHTS_MAX {
            let (from, end, watch) = wishes[index].clone();
            index += 1;
            if self.covered_to(watch.as_ref().map(|watch| watch.id), from).is_some() {
                continue;
            }
            let to = self.span(watch.as_deref(), from, end);
            let segment = match watch {
                None => Segment::Headers { from, to },
                Some(watch) => {
                    let reads_logs = from >= watch.filters.first_block();
                    let mut watches = vec![watch];
                    while reads_logs && index < wishes.len() && wishes[index].0 == from && wishes[index].1 >= to {
                        let (_, _, Some(other)) = &wishes[index] else { break };
                        if other.filters.first_block() <= from && watches.iter().all(|watch| watch.id != other.id) {
                            let narrow = |watch: &Watch| watch.interest.logs.iter().all(|f| !f.addresses.is_empty());
                            if !narrow(other) || !watches.iter().all(|watch| narrow(watch)) {
                                break;
                            }
                            watches.push(other.clone());
                        }
                        index += 1;
                    }
                    let filters = watches.iter().flat_map(|watch| &watch.interest.logs);
                    let union = if reads_logs { Union::of(filters) } else { Union::default() };
                    let known = if reads_logs { self.known(from, to) } else { Vec::new() };
                    Segment::Logs { from, to, union: Arc::new(union), watches, known: Arc::new(known) }
                }
            };
            started.push(self.launch(segment));
        }
        started
    }

    fn launch(&mut self, segment: Segment) -> (u64, Segment) {
        self.next_flight += 1;
        self.flights.push((self.next_flight, segment.clone()));
        (self.next_flight, segment)
    }

    /// A read has ended, with or without success. False when nobody wants its result any more.
    pub fn landed(&mut self, flight: u64) -> bool {
        let index = self.flights.iter().position(|(id, _)| *id == flight);
        index.map(|index| self.flights.swap_remove(index)).is_some()
    }

    /// Keeps headers that were read, ascending. False when they are not a chain.
    pub fn add_headers(&mut self, from: u64, to: u64, headers: Vec<Header>) -> bool {
        let linked = headers.windows(2).all(|pair| pair[1].parent == pair[0].hash);
        let complete = headers.iter().map(|header| header.number).eq(from..=to);
        if !linked || !complete {
            return false;
        }
        self.header_range.accepted(to - from + 1);
        self.tick += 1;
        for header in &headers {
            self.checked.add(header.number, header.hash);
        }
        let blocks = headers.into_iter().map(|header| {
            let event = Arc::new(header.event(self.chain_id));
            (header, event)
        });
        let segment = HeaderSegment { blocks: blocks.collect(), used: self.tick };
        self.bytes += segment.bytes();
        if let Some(old) = self.headers.insert(from, segment) {
            self.bytes -= old.bytes();
        }
        self.evict();
        true
    }

    /// Keeps the hash of a single block.
    pub fn add_checked(&mut self, (number, hash): (u64, Hash)) {
        self.checked.add(number, hash);
    }

    /// Keeps logs that were read, in order, with the hash of the last block. Of `wanted` blocks the read reached `to`.
    pub fn add_logs(
        &mut self,
        from: u64,
        to: u64,
        wanted: u64,
        watches: &[Arc<Watch>],
        logs: Vec<Log>,
        end_hash: Hash,
    ) {
        self.log_range.answered(wanted, to - from + 1);
        self.tick += 1;
        self.checked.add(to, end_hash);
        let mut blocks: Vec<(u64, Hash, Arc<Event>, usize)> = Vec::new();
        let mut logs = logs.into_iter().peekable();
        while let Some(first) = logs.next() {
            let number = first.block_number;
            #[allow(clippy::expect_used, reason = "the reader of a node's answer makes it of 32 bytes")]
            let hash = Hash::try_from(first.block_hash.as_slice()).expect("a log names its block by 32 bytes");
            let mut of_block = vec![first];
            while let Some(log) = logs.next_if(|log| log.block_number == number) {
                of_block.push(log);
            }
            let bytes = of_block.iter().map(log_bytes).sum();
            self.checked.add(number, hash);
            blocks.push((number, hash, Arc::new(Event::Logs(of_block)), bytes));
        }
        for watch in watches {
            let mut segment = LogSegment { to, end_hash, hits: Vec::new(), bytes: 200, used: self.tick };
            for (number, hash, event, bytes) in &blocks {
                if let Some(event) = share_of(event, watch) {
                    segment.bytes += bytes;
                    segment.hits.push(Hit { number: *number, hash: *hash, event });
                }
            }
            self.bytes += segment.bytes;
            if let Some(old) = self.logs.insert((watch.id, from), segment) {
                self.bytes -= old.bytes;
            }
        }
        self.evict();
    }

    /// Forgets what was read at a block where two reads contradict each other.
    pub fn forget(&mut self, number: u64) {
        self.checked.remove(number);
        let header_froms: Vec<u64> =
            self.headers.range(..=number).next_back().map(|(from, _)| *from).into_iter().collect();
        for from in header_froms {
            if let Some(segment) = self.headers.remove(&from) {
                self.bytes -= segment.bytes();
            }
        }
        let mut freed = 0;
        self.logs.retain(|(_, from), segment| {
            let stays = !(*from..=segment.to).contains(&number);
            freed += if stays { 0 } else { segment.bytes };
            stays
        });
        self.bytes -= freed;
    }

    fn evict(&mut self) {
        while self.bytes > BYTES_MAX && self.logs.len() + self.headers.len() > 1 {
            let log = self.logs.iter().min_by_key(|(_, segment)| segment.used).map(|(key, s)| (*key, s.used));
            let header = self.headers.iter().min_by_key(|(_, segment)| segment.used).map(|(key, s)| (*key, s.used));
            match (log, header) {
                (Some((key, used)), header) if header.is_none_or(|(_, other)| used <= other) => {
                    self.bytes -= self.logs.remove(&key).map_or(0, |segment| segment.bytes);
                }
                (_, Some((key, _))) => {
                    self.bytes -= self.headers.remove(&key).map_or(0, |segment| segment.bytes());
                }
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_below_everything_that_was_checked_is_known_once_it_is_checked() {
        let mut backfill = Backfill::new(1, 1_000);
        let hash = |number: u64| Hash([number as u8; 32]);
        let add = |backfill: &mut Backfill, number| backfill.checked.add(number, hash(number));
        (1_000..1_000 + 3 * CHECKED_MAX as u64).for_each(|number| add(&mut backfill, number));
        assert_eq!(backfill.hash_at(1_000), None, "it is bounded");
        add(&mut backfill, 7);
        (100_000..100_000 + CHECKED_MAX as u64 - 1).for_each(|number| add(&mut backfill, number));
        assert_eq!(backfill.hash_at(7), Some(hash(7)), "what is read ahead does not drive it out");
    }
}
