//! What a pull waits for: how far a hold lets it go, and why it is not answered.
//!
//! Invariant: whatever is not answered, and not for want of a new block alone, has a reason and an age.

use std::sync::Arc;

use nexum_host_ifaces::{Hash, chain::Hold};

use super::{HEADERS, LOGS, SEGMENTS, TAGS, Tracker, Waiting};
use crate::window::Window;

/// What a pull waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Why {
    Head,
    Roots,
    Cursor { number: u64 },
    Ahead { number: u64 },
    Tag { hold: Hold },
    Logs { number: u64 },
    Window { number: u64 },
    History { number: u64 },
    Unconfirmed { number: u64 },
    Disputed { number: u64 },
    Contradiction,
}

/// Something that is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waits {
    /// Who waits; none when everybody does.
    pub module: Option<Arc<str>>,
    pub reason: String,
    pub age_ns: u64,
}

/// Waits that are told at once.
const WAITS_MAX: usize = 32;

/// A block that nodes call old enough: as told last, and as told before that.
#[derive(Debug, Default)]
pub(super) struct Tagged([Option<(u64, Hash)>; 2]);

impl Tagged {
    pub(super) fn tell(&mut self, number: u64, hash: Hash, window: &Window) {
        let [told, before] = &mut self.0;
        if told.is_some_and(|told| leads_over(window, told)) {
            *before = *told;
        }
        *told = Some((number, hash));
    }

    /// The number through which the window's blocks are old enough. When the window follows a node that is behind, on a
    /// branch that is gone, then that branch's block of the number is not the one that is meant.
    pub(super) fn through(&self, window: &Window) -> Option<u64> {
        self.0.iter().flatten().find(|told| leads_over(window, **told)).map(|(number, _)| *number)
    }
}

/// Whether the window's chain has this block, as far as it can be told.
fn leads_over(window: &Window, (number, hash): (u64, Hash)) -> bool {
    let reached = window.tip().is_some_and(|tip| tip.header.number >= number);
    reached && window.hash_at(number).is_none_or(|ours| ours == hash)
}

impl Tracker {
    /// The newest block that a hold lets through, and what keeps it from going further, if anything does.
    pub(super) fn limit(&mut self, hold: Hold) -> Option<(u64, Option<Why>)> {
        let tip = self.window.tip()?.header.number;
        let held = match hold {
            Hold::Latest => Some(tip),
            Hold::Confirmations(blocks) => tip.checked_sub(blocks),
            Hold::Safe => self.safe.through(&self.window),
            Hold::Finalized => self.finalized.through(&self.window),
        }?;
        let (mut limit, mut why) = (held, None);
        // What is to be confirmed another endpoint must have, if there is one that has a say.
        if let (Hold::Confirmations(_), Some(vouched)) = (hold, self.bounds.vouched)
            && vouched < limit
        {
            (limit, why, self.wants_vouched) = (vouched, Some(Why::Unconfirmed { number: vouched + 1 }), true);
        }
        if let Some((number, _)) = &self.bounds.disputed
            && *number <= limit
        {
            (limit, why) = (number.saturating_sub(1), Some(Why::Disputed { number: *number }));
        }
        Some((limit, why))
    }

    /// What is waited for, the oldest first, and how many others wait besides.
    pub fn waits(&self) -> (Vec<Waits>, usize) {
        let mut waits = Vec::new();
        let age_ns = |since_ns: u64| self.now_ns.saturating_sub(since_ns);
        if self.window.tip().is_none() {
            let reason = self.failed[HEADERS].clone().unwrap_or_else(|| "no endpoint has told a head".to_owned());
            waits.push(Waits { module: None, reason, age_ns: age_ns(self.began_ns.unwrap_or(self.now_ns)) });
        }
        if let (Some((header, _)), Some(since)) = (&self.head_below, self.below_since_ns) {
            let tip = self.head().map_or(0, |(tip, _)| tip);
            let reason = format!("the endpoints' head is {}, below block {tip}, which was read before", header.number);
            waits.push(Waits { module: None, reason, age_ns: age_ns(since) });
        }
        match (&self.why_apart, &self.branch) {
            (Some((reason, since_ns)), _) => {
                waits.push(Waits { module: None, reason: reason.clone(), age_ns: age_ns(*since_ns) });
            }
            (None, Some(_)) => {
                let failed = self.failed[HEADERS].clone();
                let reason = failed.unwrap_or_else(|| "a new head is being linked to what was read".to_owned());
                waits.push(Waits { module: None, reason, age_ns: age_ns(self.branch_since_ns) });
            }
            (None, None) => {}
        }
        for seat in self.seats.iter().flatten() {
            let Some((waiting, why)) = seat.waiting.as_ref().and_then(|waiting| Some((waiting, waiting.why.as_ref()?)))
            else {
                continue;
            };
            let reason = self.reason(why, waiting);
            waits.push(Waits { module: Some(seat.module.clone()), reason, age_ns: age_ns(waiting.why_since_ns) });
        }
        waits.sort_by(|a, b| b.age_ns.cmp(&a.age_ns).then_with(|| a.module.cmp(&b.module)));
        let more = waits.len().saturating_sub(WAITS_MAX);
        waits.truncate(WAITS_MAX);
        (waits, more)
    }

    fn reason(&self, why: &Why, waiting: &Waiting) -> String {
        let after = |kind: usize| match &self.failed[kind] {
            Some(failed) => format!("; {failed}"),
            None => String::new(),
        };
        match why {
            Why::Head => "the first head".to_owned(),
            Why::Roots => format!("the blocks below the head{}", after(HEADERS)),
            Why::Cursor { number } => format!("what became of block {number} of its position{}", after(SEGMENTS)),
            Why::Ahead { number } => {
                let tip = self.head().map_or(0, |(tip, _)| tip);
                format!(
                    "the chain to reach its position, block {number}, which is above the head of every endpoint, {tip}; if the \
                     chain began anew, or an endpoint made blocks up, `nexumctl module resync` sets it back"
                )
            }
            Why::Tag { hold } => format!("a block that is {hold:?}{}", after(TAGS)),
            Why::Logs { number } => format!("logs of block {number}{}", after(LOGS)),
            Why::Window { number } => format!("header {number}{}", after(HEADERS)),
            Why::History { number } => format!("history from block {number}{}", after(SEGMENTS)),
            Why::Unconfirmed { number } => format!("another endpoint to have block {number}, which one alone has told"),
            Why::Disputed { number } => {
                let by = self.bounds.disputed.as_ref().map_or("", |(_, by)| by);
                format!("the endpoints to agree on block {number}, of which {by} has another one")
            }
            Why::Contradiction => format!("what was read to be read anew, at block {}", waiting.at.number),
        }
    }

    /// What is missing while a hold lets nothing through at all.
    pub(super) fn no_limit(&self, hold: Hold) -> Why {
        match hold {
            Hold::Safe | Hold::Finalized if self.head().is_some() => Why::Tag { hold },
            _ => Why::Head,
        }
    }
}
