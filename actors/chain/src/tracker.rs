//! The whole of a chain actor without its input and output: facts go in, answers and reads come out.
//!
//! Owns the window, the waiting pulls and what is being read. Invariant: every pull is answered once, in the order of
//! the chain, and a cursor that is no longer canonical is told so before anything else. Leaves to others: how a header
//! or a log is read, which node says it, and when to try again.

mod cursors;
mod heads;
mod reads;
#[cfg(test)]
mod simulation;
mod subscriptions;
#[cfg(test)]
mod tests;
mod waits;

use std::{collections::HashMap, sync::Arc, time::Duration};

use nexum_host_ifaces::{
    Hash,
    event::{Answer, Part, Reorg, SourceId},
    interfaces::chain::port::{AnswerSize, Hold, Interest},
};

use crate::{
    backend::Bounds,
    backfill::Backfill,
    branch::Branch,
    canon::{Canon, Lookup},
    header::Header,
    history::History,
    interests::{Interests, Watch},
    scan::{Position, Scan, Stop},
    window::Window,
};
use cursors::{CursorCheck, Refuted};
pub use reads::{Failure, Job, ROOTS_BLOCKS, ReadResult, Tag, UseFor};
use reads::{HEADERS, KINDS, LOGS, SEGMENTS, SURVEY, TAGS};
use waits::{Tagged, Why};

#[derive(Debug)]
pub enum Effect {
    Answer { subscription: usize, token: u64, answer: Answer },
    Start { job: Job, after: Duration },
    Reorged { depth: u64, ancestor: u64 },
}

/// A request for what follows a cursor, without its return address.
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
    /// Why it is not answered, if there is anything to wait for besides a new head, and since when.
    why: Option<Why>,
    why_since_ns: u64,
}

impl Waiting {
    /// Notes why it is not answered. As long as that stays the same it is one wait.
    fn says(&mut self, why: Option<Why>, now_ns: u64) {
        if self.why != why {
            (self.why, self.why_since_ns) = (why, now_ns);
        }
    }
}

#[derive(Debug)]
struct Subscription {
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
    subscriptions: Vec<Option<Subscription>>,
    subscription_of: HashMap<(Arc<str>, SourceId), usize>,
    free: Vec<usize>,
    waiting: usize,
    branch: Option<Branch>,
    branch_seen_ns: u64,
    branch_since_ns: u64,
    branch_reading: bool,
    next_head: Option<(Header, u64)>,
    /// The last head told, when it lies below the window, and since when such heads are told.
    head_below: Option<(Header, u64)>,
    below_since_ns: Option<u64>,
    /// What the endpoints have of the window is being asked, and how often it was in a row.
    surveying: bool,
    surveys: u32,
    contradicted_since_ns: Option<u64>,
    /// How long the endpoints must contradict what was read before it is given up.
    patience_ns: u64,
    /// Blocks of cursors in whose place others were read, and how many there have been.
    refuted: Vec<Refuted>,
    refuted_ever: u64,
    /// Why the last head was not followed.
    why_apart: Option<(String, u64)>,
    genesis: Option<Hash>,
    window_reading: bool,
    /// Number and version of each block whose logs are being read, and in how many reads.
    log_reads: Vec<(u64, u64)>,
    log_jobs: usize,
    orphan_reads: Vec<Hash>,
    /// What nodes call safe, and final.
    safe: Tagged,
    finalized: Tagged,
    /// Which head it was when they were asked for.
    tags_reading: Vec<(Tag, Hash)>,
    /// The same, of those known: safe, finalized.
    tags_read: [Option<Hash>; 2],
    /// In a row, by kind of job, and the last of them.
    failures: [u32; KINDS],
    failed: [Option<String>; KINDS],
    bounds: Bounds,
    /// Somebody waits for what other endpoints have.
    wants_vouched: bool,
    now_ns: u64,
    began_ns: Option<u64>,
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
            subscriptions: Vec::new(),
            subscription_of: HashMap::new(),
            free: Vec::new(),
            waiting: 0,
            branch: None,
            branch_seen_ns: 0,
            branch_since_ns: 0,
            branch_reading: false,
            next_head: None,
            head_below: None,
            below_since_ns: None,
            surveying: false,
            surveys: 0,
            contradicted_since_ns: None,
            patience_ns: 0,
            refuted: Vec::new(),
            refuted_ever: 0,
            why_apart: None,
            genesis: None,
            window_reading: false,
            log_reads: Vec::new(),
            log_jobs: 0,
            orphan_reads: Vec::new(),
            safe: Tagged::default(),
            finalized: Tagged::default(),
            tags_reading: Vec::new(),
            tags_read: [None; 2],
            failures: [0; KINDS],
            failed: [const { None }; KINDS],
            bounds: Bounds::default(),
            wants_vouched: false,
            now_ns: 0,
            began_ns: None,
            reorgs: 0,
            effects: Vec::new(),
        }
    }

    pub fn head(&self) -> Option<(u64, Hash)> {
        self.window.tip().map(|tip| (tip.header.number, tip.header.hash))
    }

    /// How long the endpoints must contradict what was read before it is given up, nanoseconds.
    pub fn patient(mut self, patience_ns: u64) -> Self {
        self.patience_ns = patience_ns;
        self
    }

    /// What time it is from here on, monotonic nanoseconds.
    pub fn at(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
        self.began_ns.get_or_insert(now_ns);
    }

    /// The header of a block of the window.
    pub fn header_at(&self, number: u64) -> Option<Header> {
        self.window.get(number).map(|block| block.header.clone())
    }

    /// The hash at a number of the chain that is followed, as far as its headers are kept.
    pub fn followed(&self, number: u64) -> Option<Hash> {
        match self.canon.hash_at(number, &self.window, &self.backfill) {
            Lookup::Found(hash) => Some(hash),
            Lookup::AboveTip => None,
            Lookup::BelowWindow => {
                let base = self.window.base()?.header.link();
                self.canon.ancestor(base, number).map(|(_, hash)| hash)
            }
        }
    }

    /// How far the others' word reaches from here on. Whoever waited for it goes on.
    pub fn bound(&mut self, bounds: Bounds) {
        if self.bounds != bounds {
            self.bounds = bounds;
            self.settle_all(false);
            self.plan();
        }
    }

    /// The blooms of what was read say no more what is not there.
    pub fn distrust_blooms(&mut self) {
        self.window.distrust_blooms();
        self.backfill.distrust_blooms();
        self.settle_all(false);
        self.plan();
    }

    /// Whether somebody waits for what other endpoints have.
    pub fn wants_vouched(&mut self) -> bool {
        std::mem::take(&mut self.wants_vouched)
    }

    /// The number of the oldest block of the window.
    pub fn base(&self) -> Option<u64> {
        self.window.base().map(|base| base.header.number)
    }

    /// The block this far below the head.
    pub fn below_head(&self, depth: u64) -> Option<(u64, Hash)> {
        let number = self.window.tip()?.header.number.checked_sub(depth)?;
        Some((number, self.window.hash_at(number)?))
    }

    /// The newest blocks that are safe and final, as told last.
    pub fn tagged(&self) -> (Option<u64>, Option<u64>) {
        (self.safe.through(&self.window), self.finalized.through(&self.window))
    }

    pub fn reorgs(&self) -> u64 {
        self.reorgs
    }

    /// What has to be done by now, in order.
    pub fn effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    fn settle_all(&mut self, only_reading: bool) {
        for index in 0..self.subscriptions.len() {
            let waiting = self.subscriptions[index].as_ref().and_then(|subscription| subscription.waiting.as_ref());
            if waiting.is_some_and(|waiting| waiting.reading || !only_reading) {
                self.settle(index);
            }
        }
    }

    /// Answers one pull if there is something to answer.
    fn settle(&mut self, index: usize) {
        let rooted = self.rooted();
        // Only a subscription with a waiting pull is settled, so the subscription is there.
        let Some(subscription) = self.subscriptions[index].as_mut() else {
            unreachable!("subscription {index} is settled, and nobody has it")
        };
        if !rooted {
            if let Some(waiting) = &mut subscription.waiting {
                waiting.reading = true;
                waiting.says(Some(Why::Roots), self.now_ns);
            }
            return;
        }
        let Some(mut waiting) = subscription.waiting.take() else {
            unreachable!("subscription {index} is settled, and waits for nothing")
        };
        let watch = subscription.watch.clone();
        waiting.reading = false;
        let mut why = None;
        let answer = match waiting.after {
            None => self.first_cursor(&watch, &mut waiting, &mut why),
            Some(after) => self.follow(&watch, after, &mut waiting, &mut why),
        };
        self.wants_vouched |= answer.is_none() && matches!(why, Some(Why::Unconfirmed { .. }));
        waiting.says(why, self.now_ns);
        match answer {
            Some(answer) => {
                let Some(left) = self.waiting.checked_sub(1) else { unreachable!("more pulls are answered than wait") };
                self.waiting = left;
                self.effects.push(Effect::Answer { subscription: index, token: waiting.token, answer });
            }
            None => {
                // No subscription is removed while its answer is looked for. The pull must be put back: without it the module
                // would wait for ever.
                let Some(subscription) = self.subscriptions[index].as_mut() else {
                    unreachable!("subscription {index} is gone with its pull")
                };
                subscription.waiting = Some(waiting);
            }
        }
    }

    /// The starting point of a module that has no cursor yet.
    fn first_cursor(&mut self, watch: &Arc<Watch>, waiting: &mut Waiting, why: &mut Option<Why>) -> Option<Answer> {
        let start = match watch.interest.start_block {
            Some(start) => Position { number: start.saturating_sub(1), hash: None, part: Part::Block },
            None => {
                let hold = watch.interest.hold;
                let number = match self.limit(hold) {
                    Ok((number, held_back)) if self.may_begin_at(hold, number, held_back.as_ref()) => number,
                    // Where it starts is decided once, and not while somebody is waited for.
                    Ok((_, held_back)) => {
                        *why = held_back;
                        return None;
                    }
                    Err(missing) => {
                        self.read_tag(hold);
                        *why = Some(missing.unwrap_or(Why::Head));
                        return None;
                    }
                };
                match self.canonical(number) {
                    Lookup::Found(hash) => Position { number, hash: Some(hash), part: Part::Block },
                    _ => {
                        waiting.reading = true;
                        *why = Some(Why::Cursor { number });
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
    fn follow(
        &mut self,
        watch: &Arc<Watch>,
        after: Position,
        waiting: &mut Waiting,
        why: &mut Option<Why>,
    ) -> Option<Answer> {
        let Some(tip) = self.head() else {
            *why = Some(Why::Head);
            return None;
        };
        if !waiting.verified {
            match self.verify(after, &mut waiting.back) {
                CursorCheck::Canonical => waiting.verified = true,
                CursorCheck::Ahead => {
                    *why = Some(Why::Ahead { number: after.number });
                    return None;
                }
                CursorCheck::Reading => {
                    waiting.reading = true;
                    *why = Some(Why::Cursor { number: after.number });
                    return None;
                }
                // An endpoint that is behind, on a branch that is gone, knows nothing of what is final further up.
                CursorCheck::Orphan { .. } if self.unheard_of(watch.interest.hold, after.number) => {
                    self.read_tag(watch.interest.hold);
                    *why = Some(Why::Tag { hold: watch.interest.hold });
                    return None;
                }
                CursorCheck::Orphan { ancestor } => {
                    // A position without a hash fits every chain, so that it is never an orphan.
                    let Some(hash) = after.hash else {
                        unreachable!("a position without a hash was left by its chain")
                    };
                    let old_head = (after.number, hash);
                    return Some(Answer::Reorg(Reorg { chain_id: self.chain_id, ancestor, old_head, new_head: tip }));
                }
                CursorCheck::Lost { reason } => {
                    return Some(Answer::Stuck { reason: format!("chain {}: {reason}", self.chain_id) });
                }
            }
        }
        self.read_tag(watch.interest.hold);
        let (limit, held_back) = match self.limit(watch.interest.hold) {
            Ok(limit) => limit,
            Err(missing) => {
                *why = missing;
                return None;
            }
        };
        for _ in 0..2 {
            if let Some(answer) = self.scan(watch, after, waiting, limit, why) {
                if answer.is_none() && why.is_none() {
                    *why = held_back;
                }
                return answer;
            }
        }
        *why = Some(Why::Contradiction);
        None
    }

    /// Whether a block that was safe or final is above all that is so on the chain that is followed.
    fn unheard_of(&mut self, hold: Hold, number: u64) -> bool {
        let tagged = matches!(hold, Hold::Safe | Hold::Finalized);
        tagged && !self.limit(hold).is_ok_and(|(limit, _)| limit >= number)
    }

    /// One walk from where the pull stands. `None` when what was read contradicts itself.
    fn scan(
        &mut self,
        watch: &Arc<Watch>,
        after: Position,
        waiting: &mut Waiting,
        limit: u64,
        why: &mut Option<Why>,
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
            Stop::NeedsLogs { number } => {
                *why = Some(Why::Logs { number });
                self.read_logs_from(watch, number, limit);
            }
            Stop::NeedsWindow { number } => {
                *why = Some(Why::Window { number });
                self.extend_window(number);
            }
            Stop::NeedsHistory => *why = Some(Why::History { number: waiting.at.number + 1 }),
            Stop::Broken => {
                // What was read contradicts itself: look at the cursor again, from what is read afresh.
                self.backfill.forget(waiting.at.number);
                self.backfill.forget(waiting.at.number.saturating_add(1));
                (waiting.at, waiting.verified, waiting.back, waiting.skipped) = (after, false, None, 0);
                waiting.reading = true;
                return None;
            }
            Stop::CaughtUp | Stop::Full => {}
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
}
