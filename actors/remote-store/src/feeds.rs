//! What is known of feeds: the newest update that was seen of each, and whose turn it is to write one.
//!
//! A search begins at what was seen, so that no node takes an update back. It is forgotten with the actor: it saves requests
//! and catches lies, and nothing depends on it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use nexum_host_ifaces::sync::lock;
use nexum_swarm::{feed::Topic, soc::Owner};
use tokio::sync::OwnedMutexGuard;

/// Feeds that are remembered: modules can ask for any number of them.
const SEEN_MAX: usize = 4_096;

/// Whose feed, and under which topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Feed {
    pub owner: Owner,
    pub topic: Topic,
}

#[derive(Debug, Default)]
pub struct Feeds {
    seen: Mutex<HashMap<Feed, u64>>,
    turns: Mutex<HashMap<Feed, Arc<tokio::sync::Mutex<()>>>>,
}

impl Feeds {
    /// The newest update that was seen.
    pub fn seen(&self, feed: &Feed) -> Option<u64> {
        lock(&self.seen).get(feed).copied()
    }

    /// An update was seen.
    pub fn see(&self, feed: Feed, index: u64) {
        let mut seen = lock(&self.seen);
        if seen.len() >= SEEN_MAX && !seen.contains_key(&feed) {
            // Any of them: it is searched for from its beginning the next time.
            if let Some(any) = seen.keys().next().copied() {
                seen.remove(&any);
            }
        }
        let newest = seen.entry(feed).or_insert(index);
        *newest = index.max(*newest);
    }

    /// Waits until nobody else writes this feed.
    pub async fn turn(&self, feed: Feed) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = lock(&self.turns);
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            turns.entry(feed).or_default().clone()
        };
        turn.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_feeds_are_remembered_as_there_is_room_for() {
        let feeds = Feeds::default();
        let feed = |number: u64| {
            let mut topic = [0; 32];
            topic[..8].copy_from_slice(&number.to_le_bytes());
            Feed { owner: [1; 20], topic }
        };
        let first = feed(0);
        assert_eq!(feeds.seen(&first), None);
        feeds.see(first, 7);
        feeds.see(first, 5);
        assert_eq!(feeds.seen(&first), Some(7), "no update is taken back");
        (0..2 * SEEN_MAX as u64).for_each(|number| feeds.see(feed(number), number));
        assert_eq!(lock(&feeds.seen).len(), SEEN_MAX);
        assert_eq!(feeds.seen(&feed(2 * SEEN_MAX as u64 - 1)), Some(2 * SEEN_MAX as u64 - 1));
    }
}
