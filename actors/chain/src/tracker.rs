//! The whole of a chain actor without its input and output: facts go in, answers and reads come out.
//!
//! Owns the window, the waiting pulls and what is being read. Invariant: every pull is answered once, in the order of
//! the chain, and a cursor that is no longer canonical is told so before anything else. Leaves to others: how a header
//! or a log is read, which node says it, and when to try again.

mod heads;
mod reads;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, sync::Arc, time::Duration};

use nexum_host_ifaces::{
    Hash,
    chain::{AnswerSize, Hold, Interest},
    event::{Answer, Cursor, Part, Reorg, SourceId},
};

use crate::{
    backfill::Backfill,
    branch::Branch,
    canon::{Canon, Lookup},
    header::Header,
    history::History,
    interests::{Interests, Watch},
    scan::{Position, Scan, Stop},
    window::Window,
};
use reads::HEADERS;
pub use reads::{Failure, Found, Job, Tag, UseFor};

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
    /// How far back a cursor of a dead branch was followed. Its headers need not all be kept at once for that.
    back: Option<(u64, Hash)>,
    skipped: u64,
    size: AnswerSize,
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
    /// The last head told, when it lies below the window.
    head_below: Option<(Header, u64)>,
    window_reading: bool,
    log_reads: Vec<(u64, u64)>,
    orphan_reads: Vec<Hash>,
    /// What nodes call safe, and final.
    safe: Tagged,
    finalized: Tagged,
    /// Which head it was when they were asked for.
    tags_reading: Vec<(Tag, Hash)>,
    /// The same, of those known: safe, finalized.
    tags_read: [Option<Hash>; 2],
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
            head_below: None,
            window_reading: false,
            log_reads: Vec::new(),
            orphan_reads: Vec::new(),
            safe: Tagged::default(),
            finalized: Tagged::default(),
            tags_reading: Vec::new(),
            tags_read: [None; 2],
            failures: [0; 5],
            reorgs: 0,
            effects: Vec::new(),
        }
    }

    pub fn head(&self) -> Option<(u64, Hash)> {
        self.window.tip().map(|tip| (tip.header.number, tip.header.hash))
    }

    /// The block this far below the head.
    pub fn below_head(&self, depth: u64) -> Option<(u64, Hash)> {
        let number = self.window.tip()?.header.number.checked_sub(depth)?;
        Some((number, self.window.hash_at(number)?))
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
        size: AnswerSize,
    ) -> usize {
        let seat = self.seat(module, source, interest);
        let after = match after {
            Some(Cursor::Chain { number, hash, part }) => Some(Position { number: *number, hash: *hash, part: *part }),
            // The cursor of another kind of source is as good as none.
            Some(Cursor::Cron { .. } | Cursor::Outbox { .. }) | None => None,
        };
        let at = after.unwrap_or(Position { number: 0, hash: None, part: Part::Block });
        let waiting = Waiting { token, after, at, verified: false, back: None, skipped: 0, size, reading: false };
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
        // The next who sits there may wait with the same token.
        self.effects.retain(|effect| !matches!(effect, Effect::Answer { seat, .. } if indices.contains(seat)));
        indices
    }

    /// The newest block that a hold lets through.
    fn limit(&self, hold: Hold) -> Option<u64> {
        let tip = self.window.tip()?.header.number;
        match hold {
            Hold::Latest => Some(tip),
            Hold::Confirmations(blocks) => tip.checked_sub(blocks),
            Hold::Safe => self.safe.through(&self.window),
            Hold::Finalized => self.finalized.through(&self.window),
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
        let rooted = self.rooted();
        let Some(seat) = self.seats[index].as_mut() else { return };
        if !rooted {
            if let Some(waiting) = &mut seat.waiting {
                waiting.reading = true;
            }
            return;
        }
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

    /// What follows a cursor.
    fn follow(&mut self, watch: &Arc<Watch>, after: Position, waiting: &mut Waiting) -> Option<Answer> {
        let tip = self.head()?;
        if !waiting.verified {
            match self.verify(after, &mut waiting.back) {
                Verdict::Canonical => waiting.verified = true,
                Verdict::Ahead => return None,
                Verdict::Reading => {
                    waiting.reading = true;
                    return None;
                }
                // An endpoint that is behind, on a branch that is gone, knows nothing of what is final further up.
                Verdict::Orphan { .. } if self.unheard_of(watch.interest.hold, after.number) => {
                    self.read_tag(watch.interest.hold);
                    return None;
                }
                Verdict::Orphan { ancestor } => {
                    let hash = after.hash.unwrap_or_default();
                    let old_head = (after.number, hash);
                    return Some(Answer::Reorg(Reorg { chain_id: self.chain_id, ancestor, old_head, new_head: tip }));
                }
                Verdict::Lost { reason } => {
                    return Some(Answer::Stuck { reason: format!("chain {}: {reason}", self.chain_id) });
                }
            }
        }
        self.read_tag(watch.interest.hold);
        let limit = self.limit(watch.interest.hold)?;
        for _ in 0..2 {
            if let Some(answer) = self.scan(watch, after, waiting, limit) {
                return answer;
            }
        }
        None
    }

    /// Whether a block that was safe or final is above all that is so on the chain that is followed.
    fn unheard_of(&self, hold: Hold, number: u64) -> bool {
        let tagged = matches!(hold, Hold::Safe | Hold::Finalized);
        tagged && self.limit(hold).is_none_or(|limit| limit < number)
    }

    /// One walk from where the pull stands. `None` when what was read contradicts itself.
    fn scan(
        &mut self,
        watch: &Arc<Watch>,
        after: Position,
        waiting: &mut Waiting,
        limit: u64,
    ) -> Option<Option<Answer>> {
        // A reorg leads a cursor to the common ancestor, but what lies before the start is of no interest.
        if let Some(before) = watch.interest.start_block.map(|start| start.saturating_sub(1))
            && waiting.at.number < before
        {
            waiting.at = Position { number: before, hash: None, part: Part::Block };
        }
        let mut scan = Scan {
            chain_id: self.chain_id,
            window: &mut self.window,
            backfill: &mut self.backfill,
            limit,
            watch,
            max: waiting.size.deliveries_max.max(1),
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
                (waiting.at, waiting.verified, waiting.back, waiting.skipped) = (after, false, None, 0);
                waiting.reading = true;
                return None;
            }
            Stop::CaughtUp | Stop::Full | Stop::NeedsHistory => {}
        }
        waiting.reading = !matches!(stop, Stop::CaughtUp | Stop::Full);
        waiting.skipped = skipped;
        let blocks = waiting.at.number.saturating_sub(after.number);
        let moved = blocks >= waiting.size.blocks_min.max(1) && waiting.at.hash.is_some();
        if deliveries.is_empty() && !moved {
            return Some(None);
        }
        Some(Some(Answer::Events { deliveries, progress: Some(waiting.at.cursor()), skipped }))
    }

    fn verify(&mut self, after: Position, back: &mut Option<(u64, Hash)>) -> Verdict {
        let Some(hash) = after.hash else { return Verdict::Canonical };
        let mut at = back.unwrap_or((after.number, hash));
        loop {
            match self.canonical(at.0) {
                Lookup::Found(found) if found == at.1 && at == (after.number, hash) => return Verdict::Canonical,
                Lookup::Found(found) if found == at.1 => return Verdict::Orphan { ancestor: at },
                Lookup::BelowWindow => return Verdict::Reading,
                Lookup::AboveTip if !self.canon.is_known(&at.1) => return Verdict::Ahead,
                lookup => match self.canon.parent(at, after.number) {
                    Ok(parent) => {
                        at = parent;
                        // Nothing that stands on a block that is not canonical is, until the chain forks.
                        if matches!(lookup, Lookup::Found(_)) {
                            *back = Some(parent);
                        }
                    }
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
}

/// A block that nodes call old enough: as told last, and as told before that.
#[derive(Debug, Default)]
struct Tagged([Option<(u64, Hash)>; 2]);

impl Tagged {
    fn tell(&mut self, number: u64, hash: Hash, window: &Window) {
        let [told, before] = &mut self.0;
        if told.is_some_and(|told| leads_over(window, told)) {
            *before = *told;
        }
        *told = Some((number, hash));
    }

    /// The number through which the window's blocks are old enough. When the window follows a node that is behind, on a
    /// branch that is gone, then that branch's block of the number is not the one that is meant.
    fn through(&self, window: &Window) -> Option<u64> {
        self.0.iter().flatten().find(|told| leads_over(window, **told)).map(|(number, _)| *number)
    }
}

/// Whether the window's chain has this block, as far as it can be told.
fn leads_over(window: &Window, (number, hash): (u64, Hash)) -> bool {
    let reached = window.tip().is_some_and(|tip| tip.header.number >= number);
    reached && window.hash_at(number).is_none_or(|ours| ours == hash)
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
