//! Taking in heads: linking them to the window, and following forks.

use nexum_host_ifaces::{Hash, interfaces::chain::port::Hold};

use crate::{
    backend::{SETTLED_DEPTH, Survey},
    branch::{Branch, Step},
    header::Header,
    tracker::{Effect, Failure, HEADERS, Job, ReadResult, SURVEY, Tracker, UseFor},
};

/// When every endpoint has been below what was read for so long, they are followed from where they are.
const NOBODY_HAS_IT_NS: u64 = 10_000_000_000;

impl Tracker {
    /// The chain says that this is its head.
    pub fn head_seen(&mut self, header: Header, seen_ns: u64) {
        let below_window = self.window.base().is_some_and(|base| header.number < base.header.number);
        if below_window {
            // A node that lags says nothing new, however far behind it is; but the chain may have begun anew.
            self.head_below = Some((header, seen_ns));
            self.below_since_ns.get_or_insert(self.now_ns);
            return self.survey();
        }
        (self.head_below, self.below_since_ns) = (None, None);
        if self.window.hash_at(header.number) == Some(header.hash) {
            self.why_apart = None;
            return;
        }
        // A node can make up a header of any number, with the hash of what it says. `Branch` refuses such a one.
        if self.branch.is_none() && self.window.tip().is_some_and(|tip| header.follows(&tip.header)) {
            self.why_apart = None;
            self.canon.note(header.link());
            self.window.push(header, seen_ns);
            self.head_moved();
            return;
        }
        match &mut self.branch {
            None => {
                self.branch = Some(Branch::new(header));
                (self.branch_seen_ns, self.branch_since_ns) = (seen_ns, self.now_ns);
                self.connect();
            }
            Some(branch) => match branch.push(header) {
                // Told again, or late: nothing new.
                Err(header) if branch.holds(&header) => {}
                Err(header) if self.next_head.as_ref().is_some_and(|(next, _)| next.parent == header.hash) => {}
                Ok(()) => {}
                Err(header) => self.next_head = Some((header, seen_ns)),
            },
        }
    }

    /// The node's blocks below the window do not lead to it. A head below the window was then no lagging node's, but
    /// that of a shorter branch, which left ours before its base.
    pub(super) fn base_refuted(&mut self) {
        if self.branch.is_none() && self.head_below.is_some() {
            self.survey();
        }
    }

    /// Goes on linking the new head to the window.
    pub(super) fn connect(&mut self) {
        while !self.branch_reading {
            let Some(branch) = &mut self.branch else {
                // What was told meanwhile.
                let Some((header, seen_ns)) = self.next_head.take() else { return };
                self.head_seen(header, seen_ns);
                continue;
            };
            match branch.next(&self.window) {
                Step::Numbers { from, to } => {
                    self.branch_reading = true;
                    self.start(Job::Headers { from, to, use_for: UseFor::Branch });
                }
                Step::Hash { hash, .. } => {
                    self.branch_reading = true;
                    self.start(Job::Header { hash, use_for: UseFor::Branch });
                }
                Step::Links { ancestor } => self.adopt(Some(ancestor)),
                Step::First => {
                    self.adopt(None);
                    // Whether the chain begins anew one day shows by its first block.
                    if self.genesis.is_none() {
                        self.backfill.want_check(0);
                    }
                }
                Step::Apart => return self.survey(),
            }
        }
    }

    /// Asks what the endpoints have of the window, before it is given up for anything.
    pub(super) fn survey(&mut self) {
        if std::mem::replace(&mut self.surveying, true) {
            return;
        }
        let below = self.head_below.as_ref().map(|(header, _)| header.number);
        let tip = self.head().map_or(0, |(number, _)| number);
        let mut known: Vec<(u64, Hash)> = self.genesis.map(|hash| (0, hash)).into_iter().collect();
        let base = self.window.base().map(|base| base.header.link());
        known.extend(base.zip(below).and_then(|(base, number)| self.canon.ancestor(base, number)));
        known.extend(self.window.base().map(|base| (base.header.number, base.header.hash)));
        known.extend(self.below_head(SETTLED_DEPTH.min(tip)));
        known.sort_unstable_by_key(|(number, _)| *number);
        known.dedup_by_key(|(number, _)| *number);
        // The first one at once, those that follow with growing pauses.
        self.failures[SURVEY] = self.surveys;
        self.surveys = self.surveys.saturating_add(1);
        self.start(Job::Survey { known });
    }

    /// What the endpoints have of the window is known: it stays as long as one of them has it, unless more of them have
    /// other blocks in its place.
    pub(super) fn surveyed(&mut self, survey: Survey) {
        self.weigh(survey);
        // What was told meanwhile.
        self.connect();
    }

    fn weigh(&mut self, survey: Survey) {
        let Survey { have, ahead_have, contradict, lack, silent } = survey;
        // What is contradicted for a moment is the endpoints' doing, and not the chain's.
        let contradicted = contradict > have + ahead_have;
        match contradicted {
            true => drop(self.contradicted_since_ns.get_or_insert(self.now_ns)),
            false => self.contradicted_since_ns = None,
        }
        let since_ns = self.contradicted_since_ns.filter(|_| contradicted);
        let replaced = since_ns.is_some_and(|since_ns| self.now_ns.saturating_sub(since_ns) >= self.patience_ns);
        let above =
            self.branch.as_ref().is_some_and(|branch| self.head().is_some_and(|(tip, _)| branch.lowest().number > tip));
        let long = self.below_since_ns.is_some_and(|since| self.now_ns.saturating_sub(since) > NOBODY_HAS_IT_NS);
        if replaced {
            (self.surveys, self.contradicted_since_ns) = (0, None);
            if self.branch.is_none() {
                self.branch_from_below();
            }
            return self.adopt(None);
        }
        match &self.branch {
            // The gap is too wide to be read, and the chain is the same one.
            Some(_) if above && have > 0 => {
                self.surveys = 0;
                self.adopt(None);
            }
            // Somebody goes on where we are: what does not link to that is no head.
            Some(_) if have > 0 => {
                self.is_apart(format!(
                    "a head is told that shares nothing with the last {} blocks, which {have} endpoints have",
                    self.window.capacity()
                ));
                self.branch = None;
                self.branch_from_next_head();
            }
            Some(_) => {
                self.is_apart(format!(
                    "a head is told that does not lead to what was read, and nobody says what became of that \
                     ({lack} endpoints lack it, {silent} do not answer)"
                ));
                self.branch_from_next_head();
            }
            // Everybody has been below what was read for long: they are followed from where they are. What was delivered
            // beyond is waited for.
            None if have == 0 && lack > 0 && (long || ahead_have > 0) => {
                self.branch_from_below();
                self.adopt(None);
            }
            // It is asked again until it is known.
            None if contradicted => self.survey(),
            None => {}
        }
    }

    /// Why the head that is told is not followed. It counts from the first of these until a head is.
    fn is_apart(&mut self, why: String) {
        let since_ns = self.why_apart.as_ref().map_or(self.now_ns, |(_, since_ns)| *since_ns);
        self.why_apart = Some((why, since_ns));
    }

    fn branch_from_below(&mut self) {
        if let Some((header, seen_ns)) = self.head_below.take() {
            self.branch = Some(Branch::new(header));
            self.branch_seen_ns = seen_ns;
        }
        self.below_since_ns = None;
    }

    /// The branch becomes the chain.
    pub(super) fn adopt(&mut self, ancestor: Option<u64>) {
        // The head below the window, which was to be followed, has been told otherwise meanwhile.
        let Some(branch) = self.branch.take() else { return };
        self.why_apart = None;
        let tip = self.head();
        // Another chain may have what this one did not.
        self.refuted.clear();
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
            for waiting in
                self.subscriptions.iter_mut().flatten().filter_map(|subscription| subscription.waiting.as_mut())
            {
                if let Some(after) = waiting.after {
                    (waiting.at, waiting.verified, waiting.back, waiting.skipped) = (after, false, None, 0);
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

    pub(super) fn head_moved(&mut self) {
        self.surveys = 0;
        for hold in [Hold::Safe, Hold::Finalized] {
            if self.interests.iter().any(|watch| watch.interest.hold == hold) {
                self.read_tag(hold);
            }
        }
        self.read_ahead();
        self.settle_all(false);
        self.plan();
    }

    pub(super) fn branch_read(&mut self, result: Result<ReadResult, Failure>) {
        self.branch_reading = false;
        let headers = match result {
            Ok(ReadResult::Headers(headers)) => headers,
            Ok(ReadResult::Header(Some(header))) => vec![header],
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

    pub(super) fn branch_from_next_head(&mut self) {
        if let Some((header, seen_ns)) = self.next_head.take() {
            self.branch = Some(Branch::new(header));
            self.branch_seen_ns = seen_ns;
        }
    }
}
