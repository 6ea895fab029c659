//! Connecting a new head to the window: which headers to fetch until it links, and where the branches part.
//!
//! Pure: says what is missing, is given it, and says when it is complete.

use std::collections::VecDeque;

use nexum_host_ifaces::Hash;

use crate::{header::Header, tracker::ROOTS_BLOCKS, window::Window};

/// Most headers asked for in one step.
const STEP_HEADERS_MAX: u64 = 64;

/// A chain of headers below a new head, not yet linked to the window.
#[derive(Debug)]
pub struct Branch {
    /// Ascending and linked; never empty.
    headers: VecDeque<Header>,
    /// Headers of the window that the next step down goes past, doubling.
    stride: u64,
    /// Numbers lead to another branch than the head's: ask by hash.
    by_hash: bool,
}

/// What connecting needs next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// The headers with these numbers.
    Numbers {
        from: u64,
        to: u64,
    },
    Hash {
        number: u64,
        hash: Hash,
    },
    /// The branch follows this block of the window.
    Links {
        ancestor: u64,
    },
    /// There is no window yet.
    First,
    /// It leaves the window below its base, or lies too far above it to be linked: what the endpoints have of the window
    /// decides.
    Apart,
}

impl Branch {
    pub fn new(head: Header) -> Self {
        Self { headers: VecDeque::from([head]), stride: 1, by_hash: false }
    }

    pub fn lowest(&self) -> &Header {
        &self.headers[0]
    }

    pub fn top(&self) -> &Header {
        &self.headers[self.headers.len() - 1]
    }

    pub fn into_headers(self) -> VecDeque<Header> {
        self.headers
    }

    /// Whether it leads over this block.
    pub fn holds(&self, header: &Header) -> bool {
        self.headers.iter().any(|held| held.hash == header.hash)
    }

    /// Takes a newer head when it directly follows.
    #[allow(clippy::result_large_err, reason = "the header goes on to wherever it belongs")]
    pub fn push(&mut self, head: Header) -> Result<(), Header> {
        if head.parent == self.top().hash && head.number == self.top().number + 1 {
            self.headers.push_back(head);
            return Ok(());
        }
        Err(head)
    }

    pub fn next(&mut self, window: &Window) -> Step {
        // Steps go past the fork: what the window has, too, does not belong to the branch.
        while self.headers.len() > 1 && window.hash_at(self.lowest().number) == Some(self.lowest().hash) {
            self.headers.pop_front();
        }
        let lowest = &self.headers[0];
        let (Some(tip), Some(base)) = (window.tip(), window.base()) else { return Step::First };
        let (tip, base) = (tip.header.number, base.header.number);
        let Some(below) = lowest.number.checked_sub(1) else { return Step::Apart };
        if window.hash_at(below) == Some(lowest.parent) {
            return Step::Links { ancestor: below };
        }
        if below < base {
            return Step::Apart;
        }
        if below.saturating_sub(tip) >= window.capacity() {
            // It takes the window's place only when it stands on something.
            let roots = self.headers.len() as u64 > ROOTS_BLOCKS;
            let from = (below + 1).saturating_sub(STEP_HEADERS_MAX);
            return if roots { Step::Apart } else { Step::Numbers { from, to: below } };
        }
        if self.by_hash {
            return Step::Hash { number: below, hash: lowest.parent };
        }
        let from = if below > tip {
            (tip + 1).max((below + 1).saturating_sub(STEP_HEADERS_MAX))
        } else {
            (below + 1).saturating_sub(self.stride).max(base)
        };
        Step::Numbers { from, to: below }
    }

    /// Takes what [`Branch::next`] asked for, ascending. False when it does not lead down from here: the chain moved
    /// on while it was read, or another node answered.
    pub fn add(&mut self, headers: Vec<Header>) -> bool {
        let mut added = 0;
        for header in headers.into_iter().rev() {
            let lowest = &self.headers[0];
            if header.hash != lowest.parent || header.number + 1 != lowest.number {
                break;
            }
            self.headers.push_front(header);
            added += 1;
        }
        let by_hash = added == 0;
        let gave_up = by_hash && self.by_hash;
        self.by_hash = by_hash;
        self.stride = (self.stride * 2).min(STEP_HEADERS_MAX);
        !gave_up
    }
}
