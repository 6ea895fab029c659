//! The whole of a chain actor without its input and output: facts go in, answers and reads come out.
//!
//! Owns the window, the waiting pulls and what is being read. Invariant: every pull is answered once, in the order of
//! the chain, and a cursor that is no longer canonical is told so before anything else. Leaves to others: how a header
//! or a log is read, which node says it, and when to try again.

use std::{collections::HashMap, sync::Arc, time::Duration};

use nexum_host_ifaces::{
    Hash,
    chain::{Hold, Interest},
    event::{Answer, Cursor, Part, Reorg, SourceId},
    types::Log,
};

use crate::{
    backfill::{Backfill, Segment},
    branch::{Branch, Step},
    canon::{Canon, Lookup},
    filter::Union,
    header::Header,
    history::History,
    interests::{Interests, Watch},
    scan::{Position, Scan, Stop},
    window::{Share, Window},
};

/// An idle cursor that fell this far behind is told where it stands, so that it can be made durable.
const PROGRESS_BLOCKS: u64 = 64;
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

#[derive(Debug)]
pub enum Effect {
    Answer { seat: usize, token: u64, answer: Answer },
    Start { job: Job, after: Duration },
    Reorged { depth: u64, ancestor: u64 },
}

/// A wish for what follows a cursor, without its return address.
#[derive(Debug)]
struct Waiting {
    token: u64,
    after: Option<Position>,
    /// How far nothing concerned it.
    at: Position,
    verified: bool,
    skipped: u64,
    max: usize,
    /// A read must end before it can go on.
    reading: bool,
}

#[derive(Debug)]
struct Seat {
    module: Arc<str>,
    source: SourceId,
    interest: Arc<Interest>,
    watch: Arc<Watch>,
    waiting: Option<Waiting>,
}

#[derive(Debug)]
pub struct Tracker {
    chain_id: u64,
    window: Window,
    backfill: Backfill,
    canon: Canon,
    interests: Interests,
    seats: Vec<Option<Seat>>,
    seat_of: HashMap<(Arc<str>, SourceId), usize>,
    free: Vec<usize>,
    waiting: usize,
    branch: Option<Branch>,
    branch_seen_ns: u64,
    branch_reading: bool,
    next_head: Option<(Header, u64)>,
    window_reading: bool,
    log_reads: Vec<(u64, u64)>,
    orphan_reads: Vec<Hash>,
    safe: Option<u64>,
    finalized: Option<u64>,
    tags_reading: Vec<Tag>,
    /// In a row, by kind of job.
    failures: [u32; 5],
    reorgs: u64,
    effects: Vec<Effect>,
}

impl Tracker {
    pub fn new(chain_id: u64, window_blocks: usize, max_log_range: u64, history: History) -> Self {
        Self {
            chain_id,
            window: Window::new(chain_id, window_blocks),
            backfill: Backfill::new(chain_id, max_log_range),
            canon: Canon::new(history),
            interests: Interests::default(),
            seats: Vec::new(),
            seat_of: HashMap::new(),
            free: Vec::new(),
            waiting: 0,
            branch: None,
            branch_seen_ns: 0,
            branch_reading: false,
            next_head: None,
            window_reading: false,
            log_reads: Vec::new(),
            orphan_reads: Vec::new(),
            safe: None,
            finalized: None,
            tags_reading: Vec::new(),
            failures: [0; 5],
            reorgs: 0,
            effects: Vec::new(),
        }
    }

    pub fn head(&self) -> Option<(u64, Hash)> {
        self.window.tip().map(|tip| (tip.header.number, tip.header.hash))
    }

    pub fn waiting(&self) -> usize {
        self.waiting
    }

    pub fn reorgs(&self) -> u64 {
        self.reorgs
    }

    /// What has to be done by now, in order.
    pub fn effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// Takes a pull. Returns the seat that its answer will name.
    pub fn pull(
        &mut self,
        module: Arc<str>,
        source: SourceId,
        token: u64,
        after: Option<&Cursor>,
        interest: &Arc<Interest>,
        max: usize,
    ) -> usize {
        let seat = self.seat(module, source, interest);
        let after = match after {
            Some(Cursor::Chain { number, hash, part }) => Some(Position { number: *number, hash: *hash, part: *part }),
            // The cursor of another kind of source is as good as none.
            Some(Cursor::Cron { .. }) | None => None,
        };
        let at = after.unwrap_or(Position { number: 0, hash: None, part: Part::Block });
        let waiting = Waiting { token, after, at, verified: false, skipped: 0, max: max.max(1), reading: false };
        if let Some(seat) = self.seats[seat].as_mut()
            && seat.waiting.replace(waiting).is_none()
        {
            self.waiting += 1;
        }
        self.settle(seat);
        self.plan();
        seat
    }

    fn seat(&mut self, module: Arc<str>, source: SourceId, interest: &Arc<Interest>) -> usize {
        let key = (module, source);
        if let Some(index) = self.seat_of.get(&key) {
            let index = *index;
            if let Some(seat) = self.seats[index].as_mut()
                && !Arc::ptr_eq(&seat.interest, interest)
            {
                let watch = self.interests.add(interest);
                self.interests.remove(&seat.watch);
                seat.interest = interest.clone();
                seat.watch = watch;
            }
            return index;
        }
        let watch = self.interests.add(interest);
        let seat =
            Seat { module: key.0.clone(), source: key.1.clone(), interest: interest.clone(), watch, waiting: None };
        let index = match self.free.pop() {
            Some(index) => {
                self.seats[index] = Some(seat);
                index
            }
            None => {
                self.seats.push(Some(seat));
                self.seats.len() - 1
            }
        };
        self.seat_of.insert(key, index);
        index
    }

    /// Drops a module's seats; returns them.
    pub fn forget(&mut self, module: &str) -> Vec<usize> {
        let indices: Vec<usize> = self
            .seats
            .iter()
            .enumerate()
            .filter(|(_, seat)| seat.as_ref().is_some_and(|seat| &*seat.module == module))
            .map(|(index, _)| index)
            .collect();
        for index in &indices {
            if let Some(seat) = self.seats[*index].take() {
                self.waiting -= usize::from(seat.waiting.is_some());
                self.interests.remove(&seat.watch);
                self.seat_of.remove(&(seat.module, seat.source));
                self.free.push(*index);
            }
        }
        indices
    }

    /// The chain says that this is its head.
    pub fn head_seen(&mut self, header: Header, seen_ns: u64) {
        let below_window = self.window.base().is_some_and(|base| header.number < base.header.number);
        // A node that lags says nothing new, however far behind it is.
        if below_window || self.window.hash_at(header.number) == Some(header.hash) {
            return;
        }
        if self.branch.is_none() && self.window.tip().is_some_and(|tip| tip.header.hash == header.parent) {
            self.canon.note(header.link());
            self.window.push(header, seen_ns);
            self.head_moved();
            return;
        }
        match &mut self.branch {
            None => {
                self.branch = Some(Branch::new(header));
                self.branch_seen_ns = seen_ns;
                self.connect();
            }
            Some(branch) => match branch.push(header) {
                Ok(()) => {}
                Err(header) => self.next_head = Some((header, seen_ns)),
            },
        }
    }

    /// Goes on linking the new head to the window.
    fn connect(&mut self) {
        while let Some(branch) = self.branch.as_ref().filter(|_| !self.branch_reading) {
            match branch.next(&self.window) {
                Step::Numbers { from, to } => {
                    self.branch_reading = true;
                    return self.start(Job::Headers { from, to, use_for: UseFor::Branch });
                }
                Step::Hash { hash, .. } => {
                    self.branch_reading = true;
                    return self.start(Job::Header { hash, use_for: UseFor::Branch });
                }
                Step::Links { ancestor } => self.adopt(Some(ancestor)),
                Step::Apart => self.adopt(None),
            }
            if let Some((header, seen_ns)) = self.next_head.take() {
                self.head_seen(header, seen_ns);
            }
        }
    }

    /// The branch becomes the chain.
    fn adopt(&mut self, ancestor: Option<u64>) {
        let Some(branch) = self.branch.take() else { return };
        let tip = self.head();
        let forked = match (ancestor, tip) {
            (Some(ancestor), Some((tip, _))) => ancestor < tip,
            (None, Some((tip, _))) => branch.lowest().number <= tip,
            (_, None) => false,
        };
        match ancestor {
            Some(ancestor) => self.window.rewind_to(ancestor),
            None => {
                self.window.clear();
                self.backfill.clear();
            }
        }
        if forked {
            let (tip, ancestor) = (tip.map_or(0, |(number, _)| number), ancestor.unwrap_or(branch.lowest().number));
            self.reorgs += 1;
            self.effects.push(Effect::Reorged { depth: tip.saturating_sub(ancestor), ancestor });
        }
        if forked || ancestor.is_none() {
            for waiting in self.seats.iter_mut().flatten().filter_map(|seat| seat.waiting.as_mut()) {
                if let Some(after) = waiting.after {
                    (waiting.at, waiting.verified, waiting.skipped) = (after, false, 0);
                }
            }
        }
        let seen_ns = self.branch_seen_ns;
        for header in branch.into_headers() {
            self.canon.note(header.link());
            self.window.push(header, seen_ns);
        }
        self.head_moved();
    }

    fn head_moved(&mut self) {
        for hold in [Hold::Safe, Hold::Finalized] {
            if self.interests.iter().any(|watch| watch.interest.hold == hold) {
                self.read_tag(hold);
            }
        }
        self.read_ahead();
        self.settle_all(false);
        self.plan();
    }

    fn read_tag(&mut self, hold: Hold) {
        let tag = match hold {
            Hold::Safe => Tag::Safe,
            Hold::Finalized => Tag::Finalized,
            Hold::Latest | Hold::Confirmations(_) => return,
        };
        if !self.window.is_empty() && !self.tags_reading.contains(&tag) {
            self.tags_reading.push(tag);
            self.start(Job::Tag(tag));
        }
    }

    /// Starts reading the head's logs before anybody stumbles over them.
    fn read_ahead(&mut self) {
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
    fn read_logs_from(&mut self, watch: &Watch, number: u64, limit: u64) {
        self.read_logs(number);
        for number in number + 1..=limit.min(number + LOG_READS_AHEAD) {
            if matches!(self.window.get_mut(number).map(|block| block.share(watch)), Some(Share::Unread)) {
                self.read_logs(number);
            }
        }
    }

    fn read_logs(&mut self, number: u64) {
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

    fn start(&mut self, job: Job) {
        let after = match self.failures[kind(&job)] {
            0 => Duration::ZERO,
            failures => (Duration::from_millis(100) * 2_u32.saturating_pow(failures.min(10) - 1)).min(RETRY_MAX),
        };
        self.effects.push(Effect::Start { job, after });
    }

    /// The newest block that a hold lets through.
    fn limit(&self, hold: Hold) -> Option<u64> {
        let tip = self.window.tip()?.header.number;
        match hold {
            Hold::Latest => Some(tip),
            Hold::Confirmations(blocks) => tip.checked_sub(blocks),
            Hold::Safe => self.safe.map(|number| number.min(tip)),
            Hold::Finalized => self.finalized.map(|number| number.min(tip)),
        }
    }

    fn settle_all(&mut self, only_reading: bool) {
        for index in 0..self.seats.len() {
            let waiting = self.seats[index].as_ref().and_then(|seat| seat.waiting.as_ref());
            if waiting.is_some_and(|waiting| waiting.reading || !only_reading) {
                self.settle(index);
            }
        }
    }

    /// Answers one pull if there is something to answer.
    fn settle(&mut self, index: usize) {
        let Some(seat) = self.seats[index].as_mut() else { return };
        let Some(mut waiting) = seat.waiting.take() else { return };
        let watch = seat.watch.clone();
        waiting.reading = false;
        let answer = match waiting.after {
            None => self.first_cursor(&watch, &mut waiting),
            Some(after) => self.follow(&watch, after, &mut waiting),
        };
        match answer {
            Some(answer) => {
                self.waiting -= 1;
                self.effects.push(Effect::Answer { seat: index, token: waiting.token, answer });
            }
            None => {
                if let Some(seat) = self.seats[index].as_mut() {
                    seat.waiting = Some(waiting);
                }
            }
        }
    }

    /// The starting point of a module that has no cursor yet.
    fn first_cursor(&mut self, watch: &Arc<Watch>, waiting: &mut Waiting) -> Option<Answer> {
        let start = match watch.interest.start_block {
            Some(start) => Position { number: start.saturating_sub(1), hash: None, part: Part::Block },
            None => {
                let Some(number) = self.limit(watch.interest.hold) else {
                    self.read_tag(watch.interest.hold);
                    return None;
                };
                match self.canonical(number) {
                    Lookup::Found(hash) => Position { number, hash: Some(hash), part: Part::Block },
                    _ => {
                        waiting.reading = true;
                        return None;
                    }
                }
            }
        };
        Some(Answer::Events { deliveries: vec![], progress: Some(start.cursor()), skipped: 0 })
    }

    /// The canonical hash at a number; asks for it when it is not known.
    fn canonical(&mut self, number: u64) -> Lookup {
        let floor = self.window.floor();
        let lookup = self.canon.hash_at(number, &self.window, &self.backfill);
        match lookup {
            Lookup::BelowWindow if number >= floor => self.extend_window(number),
            Lookup::BelowWindow => self.backfill.want_check(number),
            _ => {}
        }
        lookup
    }

    fn extend_window(&mut self, down_to: u64) {
        let Some(base) = self.window.base() else { return };
        let to = base.header.number.saturating_sub(1);
        let from = down_to.max(self.window.floor()).max(to.saturating_sub(ROOTS_BLOCKS - 1));
        if !self.window_reading && from <= to && base.header.number > 0 {
            self.window_reading = true;
            self.start(Job::Headers { from, to, use_for: UseFor::Window });
        }
    }

    /// What follows a cursor.
    fn follow(&mut self, watch: &Arc<Watch>, after: Position, waiting: &mut Waiting) -> Option<Answer> {
        let tip = self.head()?;
        if !waiting.verified {
            match self.verify(after) {
                Verdict::Canonical => waiting.verified = true,
                Verdict::Ahead => return None,
                Verdict::Reading => {
                    waiting.reading = true;
                    return None;
                }
                Verdict::Orphan { ancestor } => {
                    let hash = after.hash.unwrap_or_default();
                    let old_head = (after.number, hash);
                    return Some(Answer::Reorg(Reorg { chain_id: self.chain_id, ancestor, old_head, new_head: tip }));
                }
                Verdict::Lost { reason } => return Some(Answer::Stuck { reason }),
            }
        }
        let Some(limit) = self.limit(watch.interest.hold) else {
            self.read_tag(watch.interest.hold);
            return None;
        };
        for _ in 0..2 {
            if let Some(answer) = self.scan(watch, after, waiting, limit) {
                return answer;
            }
        }
        None
    }

    /// One walk from where the pull stands. `None` when what was read contradicts itself.
    fn scan(
        &mut self,
        watch: &Arc<Watch>,
        after: Position,
        waiting: &mut Waiting,
        limit: u64,
    ) -> Option<Option<Answer>> {
        let mut scan = Scan {
            chain_id: self.chain_id,
            window: &mut self.window,
            backfill: &mut self.backfill,
            limit,
            watch,
            max: waiting.max,
            deliveries: Vec::new(),
            skipped: waiting.skipped,
        };
        let stop = scan.run(&mut waiting.at);
        let (deliveries, skipped) = (scan.deliveries, scan.skipped);
        match stop {
            Stop::NeedsLogs { number } => self.read_logs_from(watch, number, limit),
            Stop::NeedsWindow { number } => self.extend_window(number),
            Stop::Broken => {
                // What was read contradicts itself: look at the cursor again, from what is read afresh.
                self.backfill.forget(waiting.at.number);
                self.backfill.forget(waiting.at.number.saturating_add(1));
                (waiting.at, waiting.verified, waiting.skipped) = (after, false, 0);
                waiting.reading = true;
                return None;
            }
            Stop::CaughtUp | Stop::Full | Stop::NeedsHistory => {}
        }
        waiting.reading = !matches!(stop, Stop::CaughtUp | Stop::Full);
        waiting.skipped = skipped;
        let moved = waiting.at.number.saturating_sub(after.number) >= PROGRESS_BLOCKS && waiting.at.hash.is_some();
        if deliveries.is_empty() && !moved {
            return Some(None);
        }
        Some(Some(Answer::Events { deliveries, progress: Some(waiting.at.cursor()), skipped }))
    }

    fn verify(&mut self, after: Position) -> Verdict {
        let Some(hash) = after.hash else { return Verdict::Canonical };
        let mut at = (after.number, hash);
        loop {
            match self.canonical(at.0) {
                Lookup::Found(found) if found == at.1 && at == (after.number, hash) => return Verdict::Canonical,
                Lookup::Found(found) if found == at.1 => return Verdict::Orphan { ancestor: at },
                Lookup::BelowWindow => return Verdict::Reading,
                Lookup::AboveTip if !self.canon.is_known(&at.1) => return Verdict::Ahead,
                Lookup::Found(_) | Lookup::AboveTip => match self.canon.parent(at, after.number) {
                    Ok(parent) => at = parent,
                    Err(None) => {
                        if !self.orphan_reads.contains(&at.1) {
                            self.orphan_reads.push(at.1);
                            self.start(Job::Header { hash: at.1, use_for: UseFor::Orphan });
                        }
                        return Verdict::Reading;
                    }
                    Err(Some(reason)) => return Verdict::Lost { reason },
                },
            }
            // A cursor above the tip of its own branch is only ahead of what this node has seen.
            if after.number > self.head().map_or(0, |(tip, _)| tip)
                && self.window.hash_at(at.0) == Some(at.1)
                && self.head().is_some_and(|tip| tip == at)
            {
                return Verdict::Ahead;
            }
        }
    }

    /// Hands reads of history to whoever carries them out.
    fn plan(&mut self) {
        let base = self.window.base().map_or(0, |base| base.header.number);
        let tip = self.window.tip().map_or(0, |tip| tip.header.number);
        let roots = tip.saturating_sub(ROOTS_BLOCKS).max(self.window.floor());
        if base > roots {
            self.extend_window(roots);
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
                self.tags_reading.retain(|reading| *reading != tag);
                if let Ok(Found::Header(Some(header))) = result {
                    match tag {
                        Tag::Safe => self.safe = Some(header.number),
                        Tag::Finalized => self.finalized = Some(header.number),
                    }
                    self.settle_all(false);
                }
            }
        }
        self.settle_all(true);
        self.plan();
    }

    fn branch_read(&mut self, result: Result<Found, Failure>) {
        self.branch_reading = false;
        let headers = match result {
            Ok(Found::Headers(headers)) => headers,
            Ok(Found::Header(Some(header))) => vec![header],
            Ok(_) => vec![],
            Err(_) => {
                self.branch_from_next_head();
                return self.connect();
            }
        };
        if self.branch.as_mut().is_some_and(|branch| !branch.add(headers)) {
            // No node knows what the head stands on. A newer head may know better.
            self.failures[HEADERS] += 1;
            self.branch_from_next_head();
        }
        self.connect();
    }

    fn branch_from_next_head(&mut self) {
        if let Some((header, seen_ns)) = self.next_head.take() {
            self.branch = Some(Branch::new(header));
            self.branch_seen_ns = seen_ns;
        }
    }

    fn segment_read(&mut self, flight: u64, segment: &Segment, result: Result<Found, Failure>) {
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

const HEADERS: usize = 0;
const SEGMENTS: usize = 3;

/// Failures of one kind of read do not hold up another kind.
fn kind(job: &Job) -> usize {
    match job {
        Job::Headers { .. } => HEADERS,
        Job::Header { .. } => 1,
        Job::Logs { .. } => 2,
        Job::Segment { .. } => SEGMENTS,
        Job::Tag(_) => 4,
    }
}

/// What is known about a cursor.
enum Verdict {
    Canonical,
    /// Above the newest block seen.
    Ahead,
    Reading,
    Orphan {
        ancestor: (u64, Hash),
    },
    Lost {
        reason: String,
    },
}
