//! What is read from the chain: which reads to start, and what becomes of their results.

use std::{fmt, sync::Arc, time::Duration};

use nexum_host_ifaces::{Hash, chain::Hold, types::Log};

use crate::{
    backfill::Segment,
    filter::Union,
    header::Header,
    interests::Watch,
    tracker::{Effect, Tracker},
    window::Share,
};

/// Blocks kept below a fresh head: without them a fork right after the start would find no ancestor.
const ROOTS_BLOCKS: u64 = 64;
/// Reads of logs of single blocks at the same time.
const LOG_READS_MAX: usize = 16;
/// How far ahead of a reader that catches up single blocks' logs are read.
const LOG_READS_AHEAD: u64 = 8;
/// Longest wait before a failed read is tried again.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// A block that the chain itself calls old enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tag {
    Safe,
    Finalized,
}

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
    /// A block's logs that the union covers, read by the block's hash.
    Logs {
        header: Box<Header>,
        union: Arc<Union>,
        version: u64,
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
            Self::Logs { header, .. } => write!(f, "logs of block {}", header.number),
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
pub enum Found {
    Headers(Vec<Header>),
    Header(Option<Header>),
    Logs(Vec<Log>),
    /// Logs in order, and the hash of the segment's last block.
    Segment {
        logs: Vec<Log>,
        end_hash: Hash,
    },
}

/// Why a job brought nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The node would answer a smaller question.
    #[error("too large: {0}")]
    TooLarge(String),
    #[error("{0}")]
    Failed(String),
}

pub(super) const HEADERS: usize = 0;
const SEGMENTS: usize = 3;

/// Failures of one kind of read do not hold up another kind.
pub(super) fn kind(job: &Job) -> usize {
    match job {
        Job::Headers { .. } => HEADERS,
        Job::Header { .. } => 1,
        Job::Logs { .. } => 2,
        Job::Segment { .. } => SEGMENTS,
        Job::Tag(_) => 4,
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
        let Some((_, head)) = self.head() else { return };
        let reading = self.tags_reading.iter().any(|(reading, _)| *reading == tag);
        if !reading && self.tags_read[tag as usize] != Some(head) {
            self.tags_reading.push((tag, head));
            self.start(Job::Tag(tag));
        }
    }

    /// Starts reading the head's logs before anybody stumbles over them.
    pub(super) fn read_ahead(&mut self) {
        let Some(tip) = self.window.tip() else { return };
        let (number, bloom) = (tip.header.number, tip.header.bloom.as_deref());
        let wanted = self
            .interests
            .iter()
            .any(|watch| watch.interest.hold == Hold::Latest && watch.filters.possible_in(number, bloom));
        if wanted {
            self.read_logs(number);
        }
    }

    /// Reads the logs a reader needs now, and those it will need next.
    pub(super) fn read_logs_from(&mut self, watch: &Watch, number: u64, limit: u64) {
        self.read_logs(number);
        for number in number + 1..=limit.min(number + LOG_READS_AHEAD) {
            if matches!(self.window.get_mut(number).map(|block| block.share(watch)), Some(Share::Unread)) {
                self.read_logs(number);
            }
        }
    }

    pub(super) fn read_logs(&mut self, number: u64) {
        let (union, version) = self.interests.union();
        if self.log_reads.len() >= LOG_READS_MAX || self.log_reads.contains(&(number, version)) {
            return;
        }
        if let Some(block) = self.window.get(number) {
            let header = Box::new(block.header.clone());
            self.log_reads.push((number, version));
            self.start(Job::Logs { header, union, version });
        }
    }

    pub(super) fn extend_window(&mut self, down_to: u64) {
        let Some(base) = self.window.base() else { return };
        let to = base.header.number.saturating_sub(1);
        let from = down_to.max(self.window.floor()).max(to.saturating_sub(ROOTS_BLOCKS - 1));
        if !self.window_reading && from <= to && base.header.number > 0 {
            self.window_reading = true;
            self.start(Job::Headers { from, to, use_for: UseFor::Window });
        }
    }

    pub(super) fn start(&mut self, job: Job) {
        let after = match self.failures[kind(&job)] {
            0 => Duration::ZERO,
            failures => (Duration::from_millis(100) * 2_u32.saturating_pow(failures.min(10) - 1)).min(RETRY_MAX),
        };
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
    pub fn finished(&mut self, job: Job, result: Result<Found, Failure>) {
        let failures = &mut self.failures[kind(&job)];
        match &result {
            Ok(_) => *failures = 0,
            Err(Failure::TooLarge(_)) => {}
            Err(Failure::Failed(_)) => *failures = failures.saturating_add(1),
        }
        match (job, result) {
            (Job::Headers { use_for: UseFor::Branch, .. }, result) => self.branch_read(result),
            (Job::Header { use_for: UseFor::Branch, .. }, result) => self.branch_read(result),
            (Job::Headers { .. }, result) => {
                self.window_reading = false;
                if let Ok(Found::Headers(headers)) = result {
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
                    Ok(Found::Header(Some(header))) if header.hash == hash => self.canon.note(header.link()),
                    Ok(_) => self.canon.set_unknown(hash),
                    Err(_) => {}
                }
            }
            (Job::Logs { header, version, .. }, result) => {
                self.log_reads.retain(|read| *read != (header.number, version));
                if let Ok(Found::Logs(logs)) = result {
                    self.window.set_logs(header.number, header.hash, version, logs);
                }
            }
            (Job::Segment { flight, segment }, result) => self.segment_read(flight, &segment, result),
            (Job::Tag(tag), result) => {
                let asked = self.tags_reading.iter().position(|(reading, _)| *reading == tag);
                let head = asked.map(|index| self.tags_reading.swap_remove(index).1);
                if let Ok(Found::Header(header)) = result {
                    self.tags_read[tag as usize] = head;
                    let tagged = if tag == Tag::Safe { &mut self.safe } else { &mut self.finalized };
                    if let Some(header) = header {
                        tagged.tell(header.number, header.hash, &self.window);
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

    pub(super) fn segment_read(&mut self, flight: u64, segment: &Segment, result: Result<Found, Failure>) {
        if !self.backfill.landed(flight) {
            return;
        }
        match (segment, result) {
            (Segment::Headers { from, to }, Ok(Found::Headers(headers))) => {
                if !self.backfill.add_headers(*from, *to, headers) {
                    self.failures[SEGMENTS] += 1;
                }
            }
            (Segment::Check { .. }, Ok(Found::Headers(headers))) => self.backfill.add_checked(&headers),
            (Segment::Logs { from, to, watches, .. }, Ok(Found::Segment { logs, end_hash })) => {
                self.backfill.add_logs(*from, *to, watches, logs, end_hash);
            }
            (_, Ok(_)) => self.failures[SEGMENTS] += 1,
            (_, Err(Failure::TooLarge(_))) => self.backfill.too_large(segment),
            (_, Err(Failure::Failed(_))) => {}
        }
    }
}
