//! What a pull waits for: how far a hold lets it go, and why it is not answered.
//!
//! Invariant: whatever is not answered, and not for want of a new block alone, has a reason and an age.

use std::sync::Arc;

use nexum_host_ifaces::{Hash, interfaces::chain::port::Hold};

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
    Overdue { hold: Hold },
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

/// A tag that has not moved for this many times its pace is overdue, at the earliest after so long. One whose pace is not
/// known is given longer: on Ethereum blocks become final every six minutes.
const OVERDUE_PACES: u64 = 8;
const OVERDUE_NS_MIN: u64 = 60_000_000_000;
const OVERDUE_NS_UNKNOWN: u64 = 1_200_000_000_000;

/// A block that nodes call old enough: as told last, and as told before that.
#[derive(Debug, Default)]
pub(super) struct Tagged {
    told: [Option<(u64, Hash)>; 2],
    /// When it was last told to be further than before, and how long that takes on average.
    moved_ns: Option<u64>,
    pace_ns: Option<u64>,
}

impl Tagged {
    pub(super) fn tell(&mut self, number: u64, hash: Hash, window: &Window, now_ns: u64) {
        let [told, before] = &mut self.told;
        if told.is_none_or(|(last, _)| number > last) {
            if let Some(moved_ns) = self.moved_ns {
                let took_ns = now_ns.saturating_sub(moved_ns);
                self.pace_ns = Some(self.pace_ns.map_or(took_ns, |pace_ns| pace_ns - pace_ns / 4 + took_ns / 4));
            }
            self.moved_ns = Some(now_ns);
        }
        if told.is_some_and(|told| leads_over(window, told)) {
            *before = *told;
        }
        *told = Some((number, hash));
    }

    /// Whether it had not moved for longer than its pace explains when the newest head came. Without heads nothing becomes
    /// final.
    fn is_overdue(&self, head_ns: u64) -> bool {
        let borne_ns = self.pace_ns.map_or(OVERDUE_NS_UNKNOWN, |pace_ns| pace_ns.saturating_mul(OVERDUE_PACES));
        self.moved_ns.is_some_and(|moved_ns| head_ns.saturating_sub(moved_ns) > borne_ns.max(OVERDUE_NS_MIN))
    }

    /// The number through which the window's blocks are old enough. When the window follows a node that is behind, on a
    /// branch that is gone, then that branch's block of the number is not the one that is meant.
    pub(super) fn through(&self, window: &Window) -> Option<u64> {
        self.told.iter().flatten().find(|told| leads_over(window, **told)).map(|(number, _)| *number)
    }
}

/// A hold as nodes name it.
fn named(hold: Hold) -> String {
    format!("{hold:?}").to_lowercase()
}

/// Whether the window's chain has this block, as far as it can be told.
fn leads_over(window: &Window, (number, hash): (u64, Hash)) -> bool {
    let reached = window.tip().is_some_and(|tip| tip.header.number >= number);
    reached && window.hash_at(number).is_none_or(|ours| ours == hash)
}

impl Tracker {
    /// The newest block that a hold lets through, and what keeps it from going further, if anything does. An error when it
    /// lets nothing through at all, with what is missing: nothing but blocks, on a chain that has only begun.
    pub(super) fn limit(&mut self, hold: Hold) -> Result<(u64, Option<Why>), Option<Why>> {
        let Some((tip, head_ns)) = self.window.tip().map(|tip| (tip.header.number, tip.seen_ns)) else {
            return Err(Some(Why::Head));
        };
        let (mut limit, mut why) = match hold {
            Hold::Latest => (tip, None),
            Hold::Confirmations(blocks) => {
                // Only blocks that another endpoint has, too, confirm anything, if there is one that has a say.
                let vouched = self.bounds.vouched.filter(|vouched| *vouched < tip);
                let why = vouched.map(|vouched| Why::Unconfirmed { number: vouched + 1 });
                match vouched.unwrap_or(tip).checked_sub(blocks) {
                    Some(limit) => (limit, why),
                    None => return Err(why),
                }
            }
            Hold::Safe | Hold::Finalized => {
                let tagged = if hold == Hold::Safe { &self.safe } else { &self.finalized };
                let through = tagged.through(&self.window).ok_or(Some(Why::Tag { hold }))?;
                (through, tagged.is_overdue(head_ns).then_some(Why::Overdue { hold }))
            }
        };
        if let Some((number, _)) = &self.bounds.disputed
            && *number <= limit
        {
            (limit, why) = (number.saturating_sub(1), Some(Why::Disputed { number: *number }));
        }
        Ok((limit, why))
    }

    /// Whether a module may begin at this block, which a hold lets through, though it could let through more. The others
    /// are a little behind at any moment.
    pub(super) fn may_begin_at(&self, hold: Hold, limit: u64, why: Option<&Why>) -> bool {
        match (why, hold, self.window.tip()) {
            (None | Some(Why::Overdue { .. }), ..) => true,
            (Some(Why::Unconfirmed { .. }), Hold::Confirmations(blocks), Some(tip)) => {
                limit.saturating_add(blocks.saturating_mul(2)) >= tip.header.number
            }
            _ => false,
        }
    }

    /// Whether anybody waits for what another endpoint has.
    pub fn is_unconfirmed(&self) -> bool {
        let mut waiting = self.subscriptions.iter().flatten().filter_map(|subscription| subscription.waiting.as_ref());
        waiting.any(|waiting| matches!(waiting.why, Some(Why::Unconfirmed { .. })))
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
        for subscription in self.subscriptions.iter().flatten() {
            let Some((waiting, why)) =
                subscription.waiting.as_ref().and_then(|waiting| Some((waiting, waiting.why.as_ref()?)))
            else {
                continue;
            };
            let reason = self.reason(why, waiting);
            waits.push(Waits {
                module: Some(subscription.module.clone()),
                reason,
                age_ns: age_ns(waiting.why_since_ns),
            });
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
            Why::Cursor { number } => match self.told_of_cursor(*number) {
                Some(told) => format!("what became of block {number} of its position: {told}"),
                None => format!("what became of block {number} of its position{}", after(SEGMENTS)),
            },
            Why::Ahead { number } => {
                let tip = self.head().map_or(0, |(tip, _)| tip);
                format!(
                    "the chain to reach its position, block {number}, which is above the head of every endpoint, {tip}; if the \
                     chain began anew, or an endpoint made blocks up, `nexumctl module resync` sets it back"
                )
            }
            Why::Tag { hold } => format!("a block that is {}{}", named(*hold), after(TAGS)),
            Why::Overdue { hold } => format!("a newer block that is {}{}", named(*hold), after(TAGS)),
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
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    #[test]
    fn a_tag_that_stands_still_is_overdue() {
        let (mut tagged, window) = (Tagged::default(), Window::new(1, 64));
        let mut tell = |number: u64, at_s: u64| {
            tagged.tell(number, Hash::default(), &window, at_s * S);
            [10, 70, 400, 1_300].map(|after_s| tagged.is_overdue((at_s + after_s) * S))
        };
        assert_eq!(tell(10, 0), [false, false, false, true], "its pace is not known");
        assert_eq!(tell(12, 4), [false, true, true, true]);
        for at_s in [8, 12, 16] {
            tell(13 + at_s, at_s);
        }
        assert_eq!(tell(29, 30), [false, true, true, true], "the same again, 14 s after it moved");
        let mut slow = Tagged::default();
        (0..10).for_each(|epoch| slow.tell(epoch * 32, Hash::default(), &window, epoch * 384 * S));
        assert!(!slow.is_overdue((9 * 384 + 2_000) * S) && slow.is_overdue((9 * 384 + 4_000) * S));
    }
}
