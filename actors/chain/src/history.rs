//! Headers seen lately, canonical or not: how an orphaned cursor is led back to the chain.
//!
//! Deliberately knows nothing of what is canonical. Shared with the composition root, which reads it from the store and
//! hands it to a restarted actor; remembers what the store has not been given yet.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use nexum_host_ifaces::{Hash, interfaces::chain::port::Link};

/// Half a day of Ethereum; 300 KiB in memory, 400 KiB on the disk.
pub const KEPT_HEADERS: usize = 4_096;

#[derive(Debug)]
struct Links {
    by_hash: HashMap<Hash, Link>,
    order: VecDeque<Hash>,
    max: usize,
    /// So many of the newest in `order` were not handed over.
    fresh: usize,
    /// Were handed over, and are no longer here.
    dropped: Vec<Link>,
}

/// A bounded memory of headers. Clones share it.
#[derive(Debug, Clone)]
pub struct History(Arc<Mutex<Links>>);

impl Default for History {
    fn default() -> Self {
        Self::new(KEPT_HEADERS, [])
    }
}

impl History {
    /// Starts from what an earlier run kept, oldest first. Of more than `max` the oldest go.
    pub fn new(max: usize, links: impl IntoIterator<Item = Link>) -> Self {
        let (by_hash, order, dropped) = (HashMap::new(), VecDeque::new(), Vec::new());
        let history = Self(Arc::new(Mutex::new(Links { by_hash, order, max: max.max(1), fresh: 0, dropped })));
        for link in links {
            history.add(link);
            history.links().fresh = 0;
        }
        history
    }

    fn links(&self) -> MutexGuard<'_, Links> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn add(&self, link: Link) {
        let mut links = self.links();
        let links = &mut *links;
        if links.by_hash.insert(link.hash, link).is_some() {
            return;
        }
        links.order.push_back(link.hash);
        links.fresh += 1;
        if links.order.len() > links.max
            && let Some(oldest) = links.order.pop_front()
            && let Some(oldest) = links.by_hash.remove(&oldest)
        {
            if links.fresh > links.order.len() {
                links.fresh = links.order.len();
            } else {
                links.dropped.push(oldest);
            }
        }
    }

    pub fn get(&self, hash: &Hash) -> Option<Link> {
        self.links().by_hash.get(hash).copied()
    }

    /// How many it holds at most, and how deep a fork can be followed with it at most.
    pub fn capacity(&self) -> usize {
        self.links().max
    }

    /// Everything kept, oldest first.
    pub fn headers(&self) -> Vec<Link> {
        let links = self.links();
        links.order.iter().filter_map(|hash| links.by_hash.get(hash).copied()).collect()
    }

    /// Hands over what came and what was dropped since the last time, if anything did. What `take` refuses is handed
    /// over again.
    pub fn hand_over<E>(&self, take: impl FnOnce(Vec<Link>, Vec<Link>) -> Result<(), E>) -> Result<(), E> {
        let mut links = self.links();
        if links.fresh == 0 && links.dropped.is_empty() {
            return Ok(());
        }
        let fresh = links.order.range(links.order.len() - links.fresh..);
        let fresh = fresh.filter_map(|hash| links.by_hash.get(hash).copied()).collect();
        take(fresh, links.dropped.clone())?;
        links.fresh = 0;
        links.dropped.clear();
        Ok(())
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

    fn numbers(links: &[Link]) -> Vec<u64> {
        links.iter().map(|link| link.number).collect()
    }

    #[test]
    fn the_oldest_header_goes_first_and_a_restored_history_is_the_same() {
        let history = History::new(100, (0..102).map(link));
        assert_eq!(history.get(&link(1).hash), None);
        assert_eq!(history.get(&link(2).hash), Some(link(2)));
        let restored = History::new(100, history.headers());
        assert_eq!(restored.headers(), history.headers());
        assert_eq!(restored.headers().len(), 100);
    }

    #[test]
    fn what_is_refused_is_handed_over_again_and_a_copy_stays_equal() {
        let history = History::new(4, (0..5).map(link));
        let mut copy: Vec<u64> = (0..5).collect();
        let mut hand_over = |refuse: bool| {
            let mut handed = None;
            let taken = history.hand_over(|fresh, dropped| {
                handed = Some((numbers(&fresh), numbers(&dropped)));
                if refuse { Err(()) } else { Ok(()) }
            });
            if let (Ok(()), Some((fresh, dropped))) = (taken, &handed) {
                copy.extend(fresh);
                copy.retain(|number| !dropped.contains(number));
                assert_eq!(copy, numbers(&history.headers()));
            }
            handed
        };
        assert_eq!(hand_over(false), Some((vec![], vec![0])), "more was read than is kept");
        assert_eq!(hand_over(false), None);
        history.add(link(5));
        history.add(link(5));
        assert_eq!(hand_over(true), Some((vec![5], vec![1])));
        history.add(link(6));
        assert_eq!(hand_over(false), Some((vec![5, 6], vec![1, 2])));
        (7..20).for_each(|number| history.add(link(number)));
        assert_eq!(hand_over(false), Some((vec![16, 17, 18, 19], vec![3, 4, 5, 6])), "the others never left");
    }
}
