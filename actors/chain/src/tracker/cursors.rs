//! What became of the block of a cursor: whether it is of the followed chain, and where a dead branch left that.
//!
//! Invariant: a block below the window is of the chain when the headers that were read lead down to it, whatever is read in
//! its place. Where they do not reach so far it is given up when most endpoints say for a while that they have another one.

use std::time::Duration;

use nexum_host_ifaces::Hash;

use super::{Effect, Failure, Job, ReadResult, Tracker, reads::retry_after};
use crate::{backend::Survey, canon::Lookup, scan::Position};

/// Refuted blocks that are remembered.
const REFUTED_MAX: usize = 1_024;

/// What is known about a cursor.
pub(super) enum CursorCheck {
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

/// A block of a cursor, below the window, in whose place another one was read.
#[derive(Debug)]
pub(super) struct Refuted {
    at: (u64, Hash),
    /// What is asked for an earlier one is of no use.
    nth: u64,
    /// What the endpoints said last, and how often they were asked.
    told: Survey,
    asked: u32,
    /// Since when most of them have another block.
    since_ns: Option<u64>,
    given_up: bool,
}

impl Tracker {
    pub(super) fn verify(&mut self, after: Position, back: &mut Option<(u64, Hash)>) -> CursorCheck {
        let Some(hash) = after.hash else { return CursorCheck::Canonical };
        let cursor = (after.number, hash);
        let mut at = back.unwrap_or(cursor);
        loop {
            if at == cursor && self.is_on_chain(at) {
                self.refuted.retain(|refuted| refuted.at != at);
                return CursorCheck::Canonical;
            }
            let lookup = if at == cursor { self.looked_up(at.0) } else { self.canonical(at.0) };
            match lookup {
                Lookup::Found(found) if found == at.1 => return CursorCheck::Orphan { ancestor: at },
                Lookup::Found(_) if at == cursor && !self.is_given_up(at) => return CursorCheck::Reading,
                Lookup::BelowWindow => return CursorCheck::Reading,
                Lookup::AboveTip if !self.canon.is_known(&at.1) => return CursorCheck::Ahead,
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
                            self.start(Job::Header { hash: at.1, use_for: super::UseFor::Orphan });
                        }
                        return CursorCheck::Reading;
                    }
                    Err(Some(reason)) => return CursorCheck::Lost { reason },
                },
            }
            // A cursor above the tip of its own branch is only ahead of what this node has seen.
            if after.number > self.head().map_or(0, |(tip, _)| tip)
                && self.window.hash_at(at.0) == Some(at.1)
                && self.head().is_some_and(|tip| tip == at)
            {
                return CursorCheck::Ahead;
            }
        }
    }

    /// The canonical hash at a number, of which that alone is asked for when it is not known.
    fn looked_up(&mut self, number: u64) -> Lookup {
        let lookup = self.canon.hash_at(number, &self.window, &self.backfill);
        if lookup == Lookup::BelowWindow {
            self.backfill.want_check(number);
        }
        lookup
    }

    /// Whether a block is of the chain by what is known without asking: it was read, or the headers that were read lead from
    /// the window down to it.
    fn is_on_chain(&self, at: (u64, Hash)) -> bool {
        if self.canon.hash_at(at.0, &self.window, &self.backfill) == Lookup::Found(at.1) {
            return true;
        }
        let Some(base) = self.window.base().map(|base| base.header.link()) else { return false };
        at.0 < base.number && self.canon.is_known(&at.1) && self.canon.ancestor(base, at.0) == Some(at)
    }

    /// Whether a block in whose place another one was read is of the chain no more. What the window has is followed anyway.
    fn is_given_up(&mut self, at: (u64, Hash)) -> bool {
        if self.patience_ns == 0 || self.window.hash_at(at.0).is_some() {
            return true;
        }
        if let Some(refuted) = self.refuted.iter().find(|refuted| refuted.at == at) {
            return refuted.given_up;
        }
        if self.refuted.len() == REFUTED_MAX {
            self.refuted.remove(0);
        }
        self.refuted_ever += 1;
        let nth = self.refuted_ever;
        self.refuted.push(Refuted { at, nth, told: Survey::default(), asked: 0, since_ns: None, given_up: false });
        self.effects.push(Effect::Start { job: Job::Cursor { at, nth }, after: Duration::ZERO });
        false
    }

    /// The endpoints have said what they have in the place of a cursor's block.
    pub(super) fn cursor_surveyed(&mut self, at: (u64, Hash), nth: u64, result: Result<ReadResult, Failure>) {
        // The chain may have been reorganized meanwhile, or the block found to be of it.
        let Some(index) = self.refuted.iter().position(|refuted| refuted.nth == nth) else { return };
        let waits =
            |after: Option<Position>| after.is_some_and(|after| (after.number, after.hash) == (at.0, Some(at.1)));
        let mut waiting = self.subscriptions.iter().flatten().filter_map(|subscription| subscription.waiting.as_ref());
        if !waiting.any(|waiting| waits(waiting.after)) {
            // Nobody stands there any more.
            self.refuted.remove(index);
            return;
        }
        let now_ns = self.now_ns;
        let refuted = &mut self.refuted[index];
        refuted.told = match result {
            Ok(ReadResult::Survey(survey)) => survey,
            _ => Survey::default(),
        };
        refuted.asked = refuted.asked.saturating_add(1);
        let Survey { have, contradict, .. } = refuted.told;
        match contradict > have {
            true => drop(refuted.since_ns.get_or_insert(now_ns)),
            false => refuted.since_ns = None,
        }
        if have > 0 && have >= contradict {
            // Whoever told another block was wrong.
            self.refuted.remove(index);
            self.backfill.forget(at.0);
            self.backfill.add_checked(at);
            return;
        }
        refuted.given_up = refuted.since_ns.is_some_and(|since| now_ns.saturating_sub(since) >= self.patience_ns);
        if !refuted.given_up {
            let after = retry_after(refuted.asked);
            self.effects.push(Effect::Start { job: Job::Cursor { at, nth }, after });
        }
    }

    /// What the endpoints say in the place of a cursor's block, while that is asked.
    pub(super) fn told_of_cursor(&self, number: u64) -> Option<String> {
        let refuted = self.refuted.iter().find(|refuted| refuted.at.0 == number && !refuted.given_up)?;
        let Survey { have, contradict, lack, silent, .. } = refuted.told;
        Some(format!(
            "another block was read in its place; {contradict} endpoints have another one, {have} have it, {lack} lack it, \
             {silent} do not answer"
        ))
    }
}
