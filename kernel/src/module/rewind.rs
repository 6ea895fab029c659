//! What a module does when blocks it handled are no longer canonical: undo to before them, or be told.

use std::sync::Arc;

use nexum_host_ifaces::{
    event::{Cursor, Delivery, EventId, Reorg},
    outbox::OutboxRequest,
    store::{Fork, StoreError, StoreMsg, add_released},
    types,
};

use super::{Args, Exit, Running, STORE_DEADLINE, redelivery::Redelivery};
use crate::manifest::OnReorg;

impl Running {
    /// Takes in that the block at the module's position is not canonical. What it never handled is nothing to undo and
    /// nothing to tell.
    pub(super) async fn on_reorg(&mut self, args: &Args, index: usize, reorg: Reorg) -> Result<(), Exit> {
        let (number, hash) = reorg.ancestor;
        let cursor = Cursor::block(number, hash);
        if !self.feeds.durable_past(index, number) {
            self.feeds.progress(index, cursor);
            return self.go_on(args, index).await;
        }
        tracing::warn!(
            module = %args.name(), chain = reorg.chain_id, ancestor = number, old_head = reorg.old_head.0,
            new_head = reorg.new_head.0, "reorg below the module's cursor"
        );
        match args.plan.manifest.on_reorg {
            OnReorg::Rewind => {
                self.undo(args, index, &reorg).await?;
                self.go_on_with_all(args).await
            }
            OnReorg::Notify => {
                self.tell(args, index, &reorg).await?;
                self.go_on(args, index).await
            }
        }
    }

    /// Undoes what was made of retracted blocks.
    pub(super) async fn undo(&mut self, args: &Args, index: usize, reorg: &Reorg) -> Result<(), Exit> {
        let (number, hash) = reorg.ancestor;
        // It has handled nothing past that block, and stands at another block of the same number: where it began.
        if let Some(Cursor::Chain { number: at, hash: Some(dead), .. }) = self.feeds.position(index)
            && at == number
            && dead != hash
        {
            return self.tell(args, index, reorg).await;
        }
        let source = self.feeds.id(index).clone();
        let event = self.event(reorg);
        self.rewind(args, Fork { source, ancestor: reorg.ancestor, event, reorg: told(reorg) }).await
    }

    /// Lets the state be, and tells the module that it holds what was made of retracted blocks.
    pub(super) async fn tell(&mut self, args: &Args, index: usize, reorg: &Reorg) -> Result<(), Exit> {
        let cursor = Cursor::block(reorg.ancestor.0, reorg.ancestor.1);
        let mut said = told(reorg);
        said.released_effects = self.released_above(args, index, reorg).await?;
        // The source goes on from there. What it was to repeat of another place would never come.
        if let Some(told) = self.redelivery.forget(self.feeds.id(index)).and_then(|item| item.told) {
            add_released(&mut said, told.released_effects);
        }
        let payload = Arc::new(types::Event::Reorg(said));
        self.deliver(args, index, Delivery { id: self.event(reorg), event: payload, cursor, seen_ns: 0 }).await?;
        self.settle(args).await
    }

    /// The name of the next reorg. It counts when it is durable: as long as it is not, the same reorg has the same name.
    fn event(&self, reorg: &Reorg) -> EventId {
        let (old_head, new_head) = (reorg.old_head.1, reorg.new_head.1);
        EventId::Reorg { chain_id: reorg.chain_id, old_head, new_head, nth: self.reorgs + 1 }
    }

    /// Effects of retracted events that may have left the host, of a module whose state stays.
    async fn released_above(
        &mut self,
        args: &Args,
        index: usize,
        reorg: &Reorg,
    ) -> Result<Vec<types::ReleasedEffect>, Exit> {
        let (module, source) = (self.host.id, self.feeds.id(index).clone());
        let block = (reorg.chain_id, reorg.ancestor.0);
        let asked = |reply| StoreMsg::Outbox(OutboxRequest::ReleasedAbove { module, source, block, reply });
        let released = args.shared.ports.store().call(STORE_DEADLINE, asked).await??;
        Ok(released.into_iter().map(|effect| types::ReleasedEffect { id: effect.id, key: effect.key }).collect())
    }

    /// Undoes every unit from the first one past the fork on, and goes on with a fresh instance over what stands. What
    /// is to be delivered again is durable with the undoing.
    async fn rewind(&mut self, args: &Args, fork: Fork) -> Result<(), Exit> {
        let module = self.host.id;
        let fork = Box::new(fork);
        let rewound =
            args.shared.ports.store().call(STORE_DEADLINE, |reply| StoreMsg::Rewind { module, fork, reply }).await?;
        let rewound = match rewound {
            Ok(Some(rewound)) => rewound,
            Ok(None) => return Ok(()),
            Err(error @ StoreError::BelowJournal { .. }) => return Err(Exit::Stuck(error.to_string())),
            Err(error) => return Err(error.into()),
        };
        // The number that the reorg was given is durable with the undoing.
        self.reorgs += 1;
        args.status.set_cursors(rewound.record.cursors.clone());
        self.feeds.reset(&rewound.record);
        self.redelivery = Redelivery::new(rewound.redelivery);
        self.start_over(args, rewound.record).await
    }
}

fn told(reorg: &Reorg) -> types::Reorg {
    let block = |(number, hash): (u64, nexum_host_ifaces::Hash)| types::BlockRef { number, hash: hash.0.to_vec() };
    types::Reorg {
        chain_id: reorg.chain_id,
        common_ancestor: block(reorg.ancestor),
        old_head: block(reorg.old_head),
        new_head: block(reorg.new_head),
        // Filled in by the store, which knows what had left.
        released_effects: Vec::new(),
    }
}
