//! What a module goes through again after a rewind: the reorg, then the undone events of its other sources in their
//! original order, one source at a time; only then do all sources go on.
//!
//! Invariant: the queue is durable since the rewind, and an item leaves it with the unit that handled it. Items whose
//! block is no longer canonical are void: their source delivers what stands instead. What a void reorg said of effects
//! that had left is told all the same, where the source stands.

use std::collections::VecDeque;

use nexum_host_ifaces::{
    event::{Cursor, Delivery, EventId, Part, SourceId},
    store::{RedeliveryItem, UnitKind, add_released},
    types::BlockRef,
};

use super::{Args, Exit, Running};
use crate::{
    sources::{Source, known},
    status::RunState,
};

/// The queue in memory, in order, and the positions that go with the next unit.
#[derive(Default)]
pub(super) struct Redelivery {
    items: VecDeque<RedeliveryItem>,
    done: Vec<u64>,
}

/// How a delivery of a source stands to the item that waits for it.
#[derive(Debug, PartialEq, Eq)]
enum Match {
    Same,
    /// Before the item: one that the module had skipped, such as a head.
    Before,
    /// The item is not there any more.
    Gone,
}

impl Redelivery {
    pub(super) fn new(items: Vec<RedeliveryItem>) -> Self {
        Self { items: items.into(), done: Vec::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Positions that the unit at hand makes durable as done.
    pub(super) fn take_done(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.done)
    }

    /// What a source has to deliver next. Nothing, when another source's item or one that needs no source comes first.
    fn head_of(&self, source: &SourceId) -> Option<&RedeliveryItem> {
        self.items.front().filter(|item| item.source == *source && known(item).is_none())
    }

    fn pop(&mut self) {
        if let Some(item) = self.items.pop_front() {
            self.done.push(item.position);
        }
    }

    /// Drops what waits for a source. What is left to say of it is one reorg, which names every effect that had left
    /// according to those that are dropped.
    pub(super) fn forget(&mut self, source: &SourceId) -> Option<RedeliveryItem> {
        let (of_source, others): (Vec<_>, Vec<_>) = self.items.drain(..).partition(|item| item.source == *source);
        self.items = others.into();
        self.done.extend(of_source.iter().map(|item| item.position));
        let reorgs = of_source.into_iter().filter(names_effects);
        reorgs.reduce(|mut first, next| {
            if let (Some(first), Some(next)) = (&mut first.told, next.told) {
                add_released(first, next.released_effects);
            }
            first
        })
    }
}

/// Makes a reorg lead to where its source stands: it has not come to where that reorg led it once.
fn lead_to(item: &mut RedeliveryItem, here: Cursor) {
    if let (Some(told), Cursor::Chain { number, hash: Some(hash), part: Part::Block }) = (&mut item.told, &here) {
        told.common_ancestor = BlockRef { number: *number, hash: hash.0.to_vec() };
    }
    item.cursor = here;
}

fn names_effects(item: &RedeliveryItem) -> bool {
    item.told.as_ref().is_some_and(|told| !told.released_effects.is_empty())
}

impl Match {
    /// A source delivers before the item only what it skips when the module catches up. Anything else there the module
    /// would have been given before the item, so that something else stands there now.
    fn of(item: &RedeliveryItem, delivery: &Delivery, source: &dyn Source) -> Self {
        let is_before = source.position(&delivery.cursor) < source.position(&item.cursor);
        match (item.event == delivery.id, is_before) {
            (true, _) => Self::Same,
            (false, true) if source.skips(&delivery.id) => Self::Before,
            (false, _) => Self::Gone,
        }
    }
}

impl Running {
    /// Asks one source for what follows, unless there is something to deliver again first.
    pub(super) async fn go_on(&mut self, args: &Args, index: usize) -> Result<(), Exit> {
        match self.redelivery.is_empty() {
            true => Ok(self.feeds.pull(args, index)?),
            false => self.go_on_with_all(args).await,
        }
    }

    /// Delivers again what can be now; when nothing is left, asks every source.
    pub(super) async fn go_on_with_all(&mut self, args: &Args) -> Result<(), Exit> {
        while let Some(item) = self.redelivery.items.front() {
            if args.status.run_state() == RunState::Hold {
                return self.settle(args).await;
            }
            let Some(index) = self.feeds.served(args, &item.source) else {
                // The manifest has dropped the subscription, or the engine no longer serves it.
                let source = item.source.clone();
                self.redelivery.forget(&source);
                continue;
            };
            if matches!(item.event, EventId::Advance { .. }) {
                let start = item.cursor.clone();
                self.redelivery.pop();
                if self.feeds.position(index).is_none() {
                    self.advance(args, index, start);
                }
                continue;
            }
            let Some(delivery) = known(item) else {
                self.settle(args).await?;
                return Ok(self.feeds.pull_every_event(args, index)?);
            };
            self.redelivery.pop();
            self.deliver(args, index, delivery).await?;
        }
        self.close_replay(args);
        self.settle(args).await?;
        Ok(self.feeds.pull_all(args)?)
    }

    /// Takes a source's answer while its events are delivered again.
    pub(super) async fn replay_from(
        &mut self,
        args: &Args,
        index: usize,
        deliveries: Vec<Delivery>,
        progress: Option<Cursor>,
    ) -> Result<(), Exit> {
        let source = self.feeds.source(index).clone();
        for delivery in deliveries {
            // The next item is not for this source to deliver: what else is in the answer is asked for again in its turn.
            let Some(item) = self.redelivery.head_of(source.id()) else { return Ok(()) };
            if args.status.run_state() == RunState::Hold {
                return Ok(());
            }
            match Match::of(item, &delivery, &*source) {
                Match::Same => {
                    self.redelivery.pop();
                    self.deliver(args, index, delivery).await?;
                }
                Match::Before => self.feeds.progress(index, delivery.cursor),
                Match::Gone => {
                    let (module, source) = (args.name(), source.id());
                    tracing::info!(%module, %source, event = %item.event, "no longer canonical: not delivered again");
                    return self.void(args, index).await;
                }
            }
        }
        if let (Some(item), Some(progress)) = (self.redelivery.head_of(source.id()), progress) {
            match source.position(&progress) < source.position(&item.cursor) {
                true => self.feeds.progress(index, progress),
                // The source has nothing there any more.
                false => return self.void(args, index).await,
            }
        }
        Ok(())
    }

    /// Drops what waits for a source, of whose chain something else stands by now.
    async fn void(&mut self, args: &Args, index: usize) -> Result<(), Exit> {
        // None of what is dropped is a reorg that named effects: there is nothing to tell.
        let Some(mut item) = self.redelivery.forget(self.feeds.id(index)) else { return Ok(()) };
        if let Some(here) = self.feeds.cursor(index) {
            lead_to(&mut item, here);
        }
        match known(&item) {
            Some(delivery) => self.deliver(args, index, delivery).await,
            None => Ok(()),
        }
    }

    /// Makes it durable that what was void is done, when no event is left to do it.
    fn close_replay(&mut self, args: &Args) {
        if self.redelivery.done.is_empty() {
            return;
        }
        let host = self.instance.host();
        host.begin(&EventId::Advance { source: SourceId::new("replay") });
        let unit = host.seal(UnitKind::Advanced, None, 0);
        self.send(args, unit);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use nexum_host_ifaces::{
        Hash,
        interfaces::chain::port::{Blocks, Hold, Interest},
        types::{self, Event, Tick},
    };

    use super::*;
    use crate::sources::ChainSource;

    fn item(position: u64, source: &str, number: u64, hash: u8) -> RedeliveryItem {
        let hash = Hash([hash; 32]);
        RedeliveryItem {
            position,
            source: SourceId::new(source),
            event: EventId::Block { chain_id: 2, number, hash },
            cursor: Cursor::block(number, hash),
            told: None,
        }
    }

    fn delivery(number: u64, hash: u8) -> Delivery {
        let item = item(0, "chain:2", number, hash);
        let event = Arc::new(Event::Tick(Tick { fired_at: 0 }));
        Delivery { id: item.event, event, cursor: item.cursor, seen_ns: 0 }
    }

    #[test]
    fn a_delivery_is_the_item_or_a_skipped_head_before_it_or_shows_that_it_is_gone() {
        let waiting = item(0, "chain:2", 7, 1);
        let source =
            |blocks| ChainSource::new(2, Interest { blocks, logs: Vec::new(), start_block: None, hold: Hold::Latest });
        let (skipping, every) = (source(Blocks::Latest), source(Blocks::All));
        for source in [&skipping, &every] {
            assert_eq!(Match::of(&waiting, &delivery(7, 1), source), Match::Same);
            assert_eq!(Match::of(&waiting, &delivery(7, 2), source), Match::Gone);
            assert_eq!(Match::of(&waiting, &delivery(8, 1), source), Match::Gone);
            // Of a retracted block the module may have been given no logs, and of the one that took its place it is.
            let hash = Hash([2; 32]);
            for number in [6, 7] {
                let id = EventId::Logs { chain_id: 2, number, hash };
                let cursor = Cursor::Chain { number, hash: Some(hash), part: Part::Logs };
                let logs = Delivery { id, cursor, ..delivery(number, 2) };
                assert_eq!(Match::of(&waiting, &logs, source), Match::Gone, "logs of block {number}");
            }
        }
        assert_eq!(Match::of(&waiting, &delivery(6, 1), &skipping), Match::Before);
        assert_eq!(Match::of(&waiting, &delivery(6, 1), &every), Match::Gone);
    }

    #[test]
    fn a_reorg_in_the_queue_is_told_before_its_source_goes_on() {
        let block = |number| types::BlockRef { number, hash: vec![1; 32] };
        let told = types::Reorg {
            chain_id: 2,
            common_ancestor: block(6),
            old_head: block(7),
            new_head: block(8),
            released_effects: Vec::new(),
        };
        let event = EventId::Reorg { chain_id: 2, old_head: Hash([1; 32]), new_head: Hash([2; 32]), nth: 1 };
        let reorg = RedeliveryItem { event, told: Some(Box::new(told)), ..item(1, "chain:2", 6, 1) };
        let mut redelivery = Redelivery::new(vec![item(0, "chain:2", 6, 1), reorg, item(2, "chain:2", 7, 2)]);
        let source = SourceId::new("chain:2");
        assert_eq!(redelivery.head_of(&source).map(|item| item.position), Some(0));
        redelivery.pop();
        assert_eq!(redelivery.head_of(&source), None, "what follows it is not compared with it");
        redelivery.pop();
        assert_eq!(redelivery.head_of(&source).map(|item| item.position), Some(2));
    }

    #[test]
    fn a_void_reorg_leaves_what_it_said_of_effects_that_had_left() {
        let told = |keys: &[&str]| {
            let block = types::BlockRef { number: 6, hash: vec![1; 32] };
            let released = keys.iter().map(|key| types::ReleasedEffect { id: (*key).into(), key: (*key).into() });
            let (common_ancestor, old_head, new_head) = (block.clone(), block.clone(), block);
            let released_effects = released.collect();
            Some(Box::new(types::Reorg { chain_id: 2, common_ancestor, old_head, new_head, released_effects }))
        };
        let reorg = |position, keys: &[&str]| RedeliveryItem { told: told(keys), ..item(position, "chain:2", 6, 1) };
        let items = vec![item(0, "chain:2", 7, 1), reorg(1, &["x"]), item(2, "cron:x", 8, 1), reorg(3, &[])];
        let mut redelivery = Redelivery::new(items.into_iter().chain([reorg(4, &["x", "y"])]).collect());
        let mut left = redelivery.forget(&SourceId::new("chain:2")).unwrap();
        lead_to(&mut left, Cursor::block(5, Hash([5; 32])));
        assert_eq!(left.cursor, Cursor::block(5, Hash([5; 32])));
        let left = left.told.unwrap();
        assert_eq!(left.common_ancestor, types::BlockRef { number: 5, hash: vec![5; 32] });
        let keys: Vec<_> = left.released_effects.iter().map(|effect| &*effect.key).collect();
        assert_eq!(keys, ["x", "y"]);
        assert_eq!(redelivery.take_done(), [0, 1, 3, 4]);
        assert_eq!(redelivery.forget(&SourceId::new("chain:2")), None);
    }

    #[test]
    fn what_is_void_is_done_with_the_next_unit() {
        let mut redelivery =
            Redelivery::new(vec![item(0, "chain:2", 7, 1), item(1, "cron:x", 8, 1), item(2, "chain:2", 8, 1)]);
        assert!(redelivery.head_of(&SourceId::new("cron:x")).is_none());
        redelivery.forget(&SourceId::new("chain:2"));
        assert_eq!(redelivery.head_of(&SourceId::new("cron:x")).map(|item| item.position), Some(1));
        redelivery.pop();
        assert!(redelivery.is_empty());
        assert_eq!(redelivery.take_done(), [0, 2, 1]);
        assert!(redelivery.take_done().is_empty());
    }
}
