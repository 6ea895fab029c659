//! Taking in heads: linking them to the window, and following forks.

use nexum_host_ifaces::chain::Hold;

use crate::{
    branch::{Branch, Step},
    header::Header,
    tracker::{Effect, Failure, Found, HEADERS, Job, Tracker, UseFor},
};

impl Tracker {
    /// The chain says that this is its head.
    pub fn head_seen(&mut self, header: Header, seen_ns: u64) {
        let below_window = self.window.base().is_some_and(|base| header.number < base.header.number);
        if below_window {
            // A node that lags says nothing new, however far behind it is. But see `base_refuted`.
            self.head_below = Some((header, seen_ns));
            return;
        }
        if self.window.hash_at(header.number) == Some(header.hash) {
            return;
        }
        self.head_below = None;
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
        if self.branch.is_none()
            && let Some((header, seen_ns)) = self.head_below.take()
        {
            self.branch = Some(Branch::new(header));
            self.branch_seen_ns = seen_ns;
            self.adopt(None);
        }
    }

    /// Goes on linking the new head to the window.
    pub(super) fn connect(&mut self) {
        while !self.branch_reading {
            let Some(branch) = &self.branch else {
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
                Step::Apart => self.adopt(None),
            }
        }
    }

    /// The branch becomes the chain.
    pub(super) fn adopt(&mut self, ancestor: Option<u64>) {
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
        for hold in [Hold::Safe, Hold::Finalized] {
            if self.interests.iter().any(|watch| watch.interest.hold == hold) {
                self.read_tag(hold);
            }
        }
        self.read_ahead();
        self.settle_all(false);
        self.plan();
    }

    pub(super) fn branch_read(&mut self, result: Result<Found, Failure>) {
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

    pub(super) fn branch_from_next_head(&mut self) {
        if let Some((header, seen_ns)) = self.next_head.take() {
            self.branch = Some(Branch::new(header));
            self.branch_seen_ns = seen_ns;
        }
    }
}
