//! What is read from the chain: which reads to start, and what becomes of their results.

use std::{fmt, sync::Arc, time::Duration};

pub use nexum_host_ifaces::interfaces::chain::port::Tag;
use nexum_host_ifaces::{Hash, interfaces::chain::port::Hold, types::Log};

use crate::{
    backend::{Ranged, SETTLED_DEPTH, Survey},
    backfill::Segment,
    filter::Union,
    header::Header,
    interests::Watch,
    tracker::{Effect, Tracker},
    window::Share,
};

/// Blocks kept below a fresh head: without them a fork right after the start would find no ancestor.
pub const ROOTS_BLOCKS: u64 = 64;
/// Reads of logs of single blocks at the same time.
const LOG_READS_MAX: usize = 16;
/// Longest wait before a failed read is tried again.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Something to read from the chain.
#[derive(Debug, Clone)]
pub enum Job {
    /// Headers by number, ascending and complete.
    Headers {
        from: u64,
        to: u64,
        use_for: UseFor,
    },
    /// A header by hash; it may be unknown.
    Header {
        hash: Hash,
        use_for: UseFor,
    },
    /// The logs of consecutive blocks that the union covers, of exactly these blocks.
    Logs {
        headers: Arc<Vec<Header>>,
        union: Arc<Union>,
        version: u64,
    },
    /// What the endpoints say of blocks that were read, ascending.
    Survey {
        known: Vec<(u64, Hash)>,
    },
    /// What they say of the block of a cursor.
    Cursor {
        at: (u64, Hash),
        /// Which refutation it belongs to.
        nth: u64,
    },
    Segment {
        flight: u64,
        segment: Segment,
    },
    Tag(Tag),
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Headers { from, to, .. } => write!(f, "headers {from} to {to}"),
            Self::Header { hash, .. } => write!(f, "header {hash}"),
            Self::Logs { headers, .. } => match &***headers {
                [only] => write!(f, "logs of block {}", only.number),
                [first, .., last] => write!(f, "logs of blocks {} to {}", first.number, last.number),
                [] => f.write_str("logs of no block"),
            },
            Self::Survey { known } => write!(f, "what the endpoints have of {} blocks", known.len()),
            Self::Cursor { at: (number, _), .. } => write!(f, "what the endpoints have of block {number} of a cursor"),
            Self::Segment { segment, .. } => segment.fmt(f),
            Self::Tag(tag) => write!(f, "the {tag:?} block"),
        }
    }
}

/// What a header is read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UseFor {
    /// To link a new head.
    Branch,
    /// To extend the window downwards.
    Window,
    /// To lead an orphan back to the chain.
    Orphan,
}

/// What a job brought.
#[derive(Debug)]
pub enum ReadResult {
    Headers(Vec<Header>),
    Header(Option<Header>),
    /// Of each of the first blocks that were asked for, in order.
    Logs(Vec<Vec<Log>>),
    /// Logs as far as they were read.
    Segment(Ranged),
    Survey(Survey),
}

/// Why a job brought nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("{0}")]
    Failed(String),
}

pub(super) const HEADERS: usize = 0;
pub(super) const LOGS: usize = 2;
pub(super) const SEGMENTS: usize = 3;
pub(super) const TAGS: usize = 4;
pub(super) const SURVEY: usize = 5;
const CURSORS: usize = 6;
/// Kinds of jobs.
pub(super) const KINDS: usize = 7;
/// Most blocks whose logs are read by one range of the window.
const LOGS_TOGETHER_MAX: u64 = 256;

/// Failures of one kind of read do not hold up another kind.
pub(super) fn kind(job: &Job) -> usize {
    match job {
        Job::Headers { .. } => HEADERS,
        Job::Header { .. } => 1,
        Job::Logs { .. } => LOGS,
        Job::Segment { .. } => SEGMENTS,
        Job::Tag(_) => TAGS,
        Job::Survey { .. } => SURVEY,
        Job::Cursor { .. } => CURSORS,
    }
}

/// How long to wait after so many failures in a row.
pub(super) fn retry_after(failures: u32) -> Duration {
    match failures {
        0 => Duration::ZERO,
        failures => (Duration::from_millis(100) * 2_u32.saturating_pow(failures.min(10) - 1)).min(RETRY_MAX),
    }
}

impl Tracker {
    /// Asks for the block that a hold waits for, unless it was asked for since the newest head.
    pub(super) fn read_tag(&mut self, hold: Hold) {
        let tag = match hold {
            Hold::Safe => Tag::Safe,
            Hold::Finalized => Tag::Finalized,
            Hold::Latest | Hold::Confirmations(_) => return,
        };
        // Nothing is safe or final before there is a head; the first one asks.
        let Some((_, head)) = self.head() else { return };
        let reading = self.tags_reading.iter().any(|(reading, _)| *reading == tag);
        if !reading && self.tags_read[tag as usize] != Some(head) {
            self.tags_reading.push((tag, head));
            self.start(Job::Tag(tag));
        }
    }

    /// Starts reading the head's logs before anybody stumbles over them.
    pub(super) fn read_ahead(&mut self) {
        // Between two chains there is no head; the first one of the next reads ahead.
        let Some(tip) = self.window.tip() else { return };
        let (number, bloom) = (tip.header.number, tip.header.bloom.as_deref());
        // Whoever begins at the first head begins after it.
        if self.window.base().is_some_and(|base| base.header.number == number) {
            return;
        }
        let wanted = self
            .interests
            .iter()
            .any(|watch| watch.interest.hold == Hold::Latest && watch.filters.possible_in(number, bloom));
        if wanted {
            self.read_logs(number, number);
        }
    }

    /// Reads the logs a reader needs now, and those it will need next: far below the head by ranges, near it one by one.
    pub(super) fn read_logs_from(&mut self, watch: &Watch, number: u64, limit: u64) {
        let settled = self.window.tip().map_or(0, |tip| tip.header.number.saturating_sub(SETTLED_DEPTH));
        let (_, version) = self.interests.union();
        let unread = |tracker: &mut Self, number: u64| {
            !tracker.log_reads.contains(&(number, version)) && !tracker.window.has_logs(number, version)
        };
        let last = limit.min(settled).min(number + LOGS_TOGETHER_MAX - 1);
        let mut end = number;
        while end < last && unread(self, end + 1) {
            end += 1;
        }
        // What nobody wants at the end need not be asked for.
        let wanted = |tracker: &mut Self, number: u64| {
            matches!(tracker.window.get_mut(number).map(|block| block.share(watch)), Some(Share::Unread))
        };
        while end > number && !wanted(self, end) {
            end -= 1;
        }
        self.read_logs(number, end);
        // Whoever follows closely needs the next ones at once.
        for number in end + 1..=limit.min(end + SETTLED_DEPTH) {
            if wanted(self, number) {
                self.read_logs(number, number);
            }
        }
    }

    pub(super) fn read_logs(&mut self, from: u64, to: u64) {
        let (union, version) = self.interests.union();
        if self.log_jobs >= LOG_READS_MAX || self.log_reads.contains(&(from, version)) {
            return;
        }
        let headers: Vec<Header> =
            (from..=to).map_while(|number| self.window.get(number)).map(|block| block.header.clone()).collect();
        if headers.is_empty() {
            return;
        }
        self.log_jobs += 1;
        self.log_reads.extend(headers.iter().map(|header| (header.number, version)));
        self.start(Job::Logs { headers: Arc::new(headers), union, version });
    }

    pub(super) fn extend_window(&mut self, down_to: u64) {
        // Before the first head there is nothing to extend.
        let Some(base) = self.window.base() else { return };
        let to = base.header.number.saturating_sub(1);
        let from = down_to.max(self.window.floor()).max(to.saturating_sub(ROOTS_BLOCKS - 1));
        if !self.window_reading && from <= to && base.header.number > 0 {
            self.window_reading = true;
            self.start(Job::Headers { from, to, use_for: UseFor::Window });
        }
    }

    pub(super) fn start(&mut self, job: Job) {
        let after = retry_after(self.failures[kind(&job)]);
        self.effects.push(Effect::Start { job, after });
    }

    /// The block down to which the window must reach.
    fn roots(&self) -> u64 {
        let tip = self.window.tip().map_or(0, |tip| tip.header.number);
        tip.saturating_sub(ROOTS_BLOCKS).max(self.window.floor())
    }

    /// Whether enough is known below the head to follow a fork of it. Before that nothing is delivered: a module whose
    /// very first block is retracted while the engine is down must be led back, too.
    pub(super) fn rooted(&self) -> bool {
        self.window.base().is_none_or(|base| base.header.number <= self.roots())
    }

    /// Hands reads of history to whoever carries them out.
    pub(super) fn plan(&mut self) {
        if !self.rooted() {
            self.extend_window(self.roots());
        }
        for (flight, segment) in self.backfill.plan() {
            self.start(Job::Segment { flight, segment });
        }
    }

    /// A job has ended.
    pub fn finished(&mut self, job: Job, result: Result<ReadResult, Failure>) {
        let kind = kind(&job);
        match &result {
            Ok(_) => (self.failures[kind], self.failed[kind]) = (0, None),
            Err(Failure::Failed(why)) => {
                self.failures[kind] = self.failures[kind].saturating_add(1);
                self.failed[kind] = Some(format!("{job}: {why}"));
            }
        }
        match (job, result) {
            (Job::Headers { use_for: UseFor::Branch, .. }, result) => self.branch_read(result),
            (Job::Header { use_for: UseFor::Branch, .. }, result) => self.branch_read(result),
            (Job::Headers { .. }, result) => {
                self.window_reading = false;
                if let Ok(ReadResult::Headers(headers)) = result {
                    for header in &headers {
                        self.canon.note(header.link());
                    }
                    if !self.window.extend_down(headers) {
                        self.failures[HEADERS] += 1;
                        self.base_refuted();
                    }
                }
            }
            (Job::Header { hash, .. }, result) => {
                self.orphan_reads.retain(|read| *read != hash);
                match result {
                    Ok(ReadResult::Header(Some(header))) if header.hash == hash => self.canon.note(header.link()),
                    Ok(_) => self.canon.set_unknown(hash),
                    Err(_) => {}
                }
            }
            (Job::Logs { headers, version, .. }, result) => {
                let Some(left) = self.log_jobs.checked_sub(1) else {
                    unreachable!("more reads of logs end than were begun")
                };
                self.log_jobs = left;
                let read = |number: u64| headers.iter().any(|header| header.number == number);
                self.log_reads.retain(|(number, of)| *of != version || !read(*number));
                if let Ok(ReadResult::Logs(lists)) = result {
                    assert!(
                        !lists.is_empty() && lists.len() <= headers.len(),
                        "a read of logs brings some of its blocks"
                    );
                    for (header, logs) in headers.iter().zip(lists) {
                        self.window.set_logs(header.number, header.hash, version, logs);
                    }
                }
            }
            (Job::Survey { .. }, result) => {
                self.surveying = false;
                match result {
                    Ok(ReadResult::Survey(survey)) => self.surveyed(survey),
                    _ if self.head_below.is_some() => self.survey(),
                    _ => self.connect(),
                }
            }
            (Job::Cursor { at, nth }, result) => self.cursor_surveyed(at, nth, result),
            (Job::Segment { flight, segment }, result) => self.segment_read(flight, &segment, result),
            (Job::Tag(tag), result) => {
                let asked = self.tags_reading.iter().position(|(reading, _)| *reading == tag);
                let head = asked.map(|index| self.tags_reading.swap_remove(index).1);
                if let Ok(ReadResult::Header(header)) = result {
                    self.tags_read[tag as usize] = head;
                    let tagged = if tag == Tag::Safe { &mut self.safe } else { &mut self.finalized };
                    if let Some(header) = header {
                        tagged.tell(header.number, header.hash, &self.window, self.now_ns);
                    }
                    self.settle_all(false);
                }
                // The head moved on meanwhile, or nobody answered.
                let hold = if tag == Tag::Safe { Hold::Safe } else { Hold::Finalized };
                if self.interests.iter().any(|watch| watch.interest.hold == hold) {
                    self.read_tag(hold);
                }
            }
        }
        self.settle_all(true);
        self.plan();
    }

    pub(super) fn segment_read(&mut self, flight: u64, segment: &Segment, result: Result<ReadResult, Failure>) {
        if !self.backfill.landed(flight) {
            return;
        }
        match (segment, result) {
            (Segment::Headers { from, to }, Ok(ReadResult::Headers(headers))) => {
                if !self.backfill.add_headers(*from, *to, headers) {
                    self.failures[SEGMENTS] += 1;
                }
            }
            (Segment::Check { .. }, Ok(ReadResult::Headers(headers))) => {
                headers.iter().for_each(|header| self.backfill.add_checked((header.number, header.hash)));
                self.genesis = headers.iter().find(|header| header.number == 0).map(|h| h.hash).or(self.genesis);
            }
            (Segment::Logs { from, to, watches, .. }, Ok(ReadResult::Segment(read))) => {
                assert!((*from..=*to).contains(&read.to), "a read of a range ends within it");
                self.backfill.add_logs(*from, read.to, to - from + 1, watches, read.logs, read.end_hash);
            }
            (_, Ok(_)) => self.failures[SEGMENTS] += 1,
            (_, Err(Failure::Failed(_))) => {}
        }
    }
}
