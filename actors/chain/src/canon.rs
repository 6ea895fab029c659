//! What is canonical, and how a block that is not leads back to one that is.

use std::collections::HashSet;

use nexum_host_ifaces::{Hash, interfaces::chain::port::Link};

use crate::{backfill::Backfill, history::History, window::Window};

/// The canonical hash at a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    Found(Hash),
    AboveTip,
    /// Not read yet.
    BelowWindow,
}

#[derive(Debug)]
pub struct Canon {
    history: History,
    /// Hashes that no node could tell the parent of.
    unknown: HashSet<Hash>,
}

impl Canon {
    pub fn new(history: History) -> Self {
        Self { history, unknown: HashSet::new() }
    }

    pub fn note(&mut self, link: Link) {
        self.history.add(link);
    }

    pub fn is_known(&self, hash: &Hash) -> bool {
        self.history.get(hash).is_some()
    }

    /// The block of this number below another one, as far as its headers were seen.
    pub fn ancestor(&self, mut link: Link, number: u64) -> Option<(u64, Hash)> {
        while link.number > number {
            link = self.history.get(&link.parent)?;
        }
        (link.number == number).then_some((number, link.hash))
    }

    /// No node knows this hash.
    pub fn set_unknown(&mut self, hash: Hash) {
        self.unknown.insert(hash);
    }

    pub fn hash_at(&self, number: u64, window: &Window, backfill: &Backfill) -> Lookup {
        let Some(tip) = window.tip() else { return Lookup::AboveTip };
        if number > tip.header.number {
            return Lookup::AboveTip;
        }
        let found = window.hash_at(number).or_else(|| backfill.hash_at(number));
        found.map_or(Lookup::BelowWindow, Lookup::Found)
    }

    /// The parent of a block of a dead branch that began at `from_number`. `Err(None)`: a node has to be asked.
    pub fn parent(&mut self, at: (u64, Hash), from_number: u64) -> Result<(u64, Hash), Option<String>> {
        let depth = from_number - at.0 + 1;
        let depth_max = self.history.capacity() as u64;
        if depth > depth_max {
            return Err(Some(format!(
                "block {from_number} of the cursor is on a dead branch more than {depth_max} blocks long"
            )));
        }
        if at.0 == 0 {
            return Err(Some(format!(
                "block {from_number} of the cursor descends from another genesis block ({}) than the endpoint's chain: \
                 the endpoint serves another chain under the same id, or a chain that began anew",
                at.1
            )));
        }
        match self.history.get(&at.1) {
            Some(link) => Ok((at.0.saturating_sub(1), link.parent)),
            // Forgotten once said, so that the operator's retry asks again.
            None if self.unknown.remove(&at.1) => Err(Some(format!(
                "block {from_number} of the cursor is on a dead branch; its block {} ({}), {depth} deep, is neither in \
                 the kept history nor known to any endpoint, so the common ancestor cannot be found",
                at.0, at.1
            ))),
            None => Err(None),
        }
    }
}
