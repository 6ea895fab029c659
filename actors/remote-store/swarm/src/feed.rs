//! Feeds: updates of an owner under a topic, numbered from 0 without a gap.
//!
//! The newest is searched for: ahead in steps that double until one is missing, then in halves between the last that is there
//! and the first that is missing. What is missing cannot be proved, so a node can hide updates; it cannot take back one that
//! was seen before, from where the next search goes on.

use alloy_primitives::keccak256;

use crate::soc::Identifier;

pub type Topic = [u8; 32];

/// No feed has as many updates, so a search ends.
const UPDATES_MAX: u64 = 1 << 40;

/// The name of one update of a feed.
pub fn identifier(topic: &Topic, index: u64) -> Identifier {
    keccak256([&topic[..], &index.to_be_bytes()].concat()).0
}

/// The search for the newest update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Search {
    /// The newest that is known to be there.
    found: Option<u64>,
    /// The oldest that is known to be missing.
    missing: Option<u64>,
    /// How far ahead of the last that is there is looked next, while none is known to be missing.
    step: u64,
}

impl Search {
    /// From an update that is known to be there, if any is.
    pub fn from(found: Option<u64>) -> Self {
        Self { found, missing: None, step: 1 }
    }

    /// The next update to look for; none once the newest is known.
    pub fn next(&self) -> Option<u64> {
        let first = self.found.map_or(0, |found| found + 1);
        match self.missing {
            Some(missing) if first < missing => Some(first + (missing - first) / 2),
            Some(_) => None,
            None => Some(first + (self.step - 1)),
        }
    }

    /// Whether that one is there.
    pub fn answer(&mut self, index: u64, is_there: bool) {
        match is_there {
            true if index >= UPDATES_MAX => (self.found, self.missing) = (Some(index), Some(index + 1)),
            true => {
                self.found = Some(index);
                self.step = self.step.saturating_mul(2).min(UPDATES_MAX);
            }
            false => self.missing = Some(index),
        }
    }

    /// The newest, as far as it is known.
    pub fn found(&self) -> Option<u64> {
        self.found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(known: Option<u64>, updates: u64) -> (Option<u64>, u32) {
        let (mut search, mut asked) = (Search::from(known), 0);
        while let Some(index) = search.next() {
            search.answer(index, index < updates);
            asked += 1;
            assert!(asked < 200);
        }
        (search.found(), asked)
    }

    #[test]
    fn the_newest_update_is_found_in_few_questions() {
        for updates in (0..300).chain([1_000, 65_535, 65_536, 65_537, 1 << 33]) {
            let (found, asked) = search(None, updates);
            assert_eq!(found, updates.checked_sub(1));
            let most = 2 * (64 - updates.leading_zeros()) + 2;
            assert!(asked <= most, "{updates} updates: {asked} questions, at most {most}");
            for known in [updates / 2, updates.saturating_sub(1)] {
                if known < updates {
                    assert_eq!(search(Some(known), updates).0, updates.checked_sub(1));
                }
            }
        }
        assert_eq!(search(Some(41), 42), (Some(41), 1), "nothing new is one question");
        assert_eq!(search(None, u64::MAX).0, Some((1 << 41) - 2), "whoever says yes to everything gets an end");
    }
}
