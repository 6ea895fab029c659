//! Headers seen lately, canonical or not: how an orphaned cursor is led back to the chain.
//!
//! Deliberately knows nothing of what is canonical. Shared with whoever persists it, and handed to a restarted actor.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use nexum_host_ifaces::Hash;

use crate::header::Link;

/// Half a day of Ethereum; 300 KiB.
const LINKS_MAX: usize = 4_096;

#[derive(Debug, Default)]
struct Links {
    by_hash: HashMap<Hash, Link>,
    order: VecDeque<Hash>,
}

/// A bounded memory of headers. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct History(Arc<Mutex<Links>>);

impl History {
    /// Starts from what an earlier run kept, oldest first.
    pub fn new(links: impl IntoIterator<Item = Link>) -> Self {
        let history = Self::default();
        for link in links {
            history.add(link);
        }
        history
    }

    fn links(&self) -> MutexGuard<'_, Links> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn add(&self, link: Link) {
        let mut links = self.links();
        if links.by_hash.insert(link.hash, link).is_none() {
            links.order.push_back(link.hash);
            if links.order.len() > LINKS_MAX
                && let Some(oldest) = links.order.pop_front()
            {
                links.by_hash.remove(&oldest);
            }
        }
    }

    pub fn get(&self, hash: &Hash) -> Option<Link> {
        self.links().by_hash.get(hash).copied()
    }

    /// Everything kept, oldest first: what to persist.
    pub fn headers(&self) -> Vec<Link> {
        let links = self.links();
        links.order.iter().filter_map(|hash| links.by_hash.get(hash).copied()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(n: u64) -> Link {
        let hash = |n: u64| {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&n.to_be_bytes());
            Hash(bytes)
        };
        Link { number: n, hash: hash(n), parent: hash(n.wrapping_sub(1)) }
    }

    #[test]
    fn the_oldest_header_goes_first_and_a_restored_history_is_the_same() {
        let history = History::new((0..LINKS_MAX as u64 + 2).map(link));
        assert_eq!(history.get(&link(1).hash), None);
        assert_eq!(history.get(&link(2).hash), Some(link(2)));
        let restored = History::new(history.headers());
        assert_eq!(restored.headers(), history.headers());
        assert_eq!(restored.headers().len(), LINKS_MAX);
    }
}
