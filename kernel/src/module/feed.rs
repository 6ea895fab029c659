//! A module's feeds: per source the position, and the one outstanding pull.

use std::sync::Arc;

use nexum_host_ifaces::{
    event::{Cursor, SourceId, SourceReply, Subscriber},
    interfaces::chain::port::ChainMsg,
    port::{Port, PortError},
    store::ModuleRecord,
};

use super::Args;
use crate::{
    outbox,
    sources::{Outcomes, Pull, Reach, Source},
    status::ModuleStatus,
};

/// Deliveries asked for at once: enough to amortise the message, few enough to bound what a held module drops.
const DELIVERIES_PER_PULL: usize = 64;

struct Feed {
    source: Arc<dyn Source>,
    /// Where the source stands in memory; at or past what is durable.
    cursor: Option<Cursor>,
    /// Where the last unit sent to the store left it.
    durable: Option<Cursor>,
    /// Whether `durable` is still to be shown.
    moved: bool,
    /// Of the outstanding pull; 0 when there is none.
    token: u64,
}

pub(super) struct Feeds {
    module: Arc<str>,
    feeds: Vec<Feed>,
    tokens: u64,
    subscriber: Subscriber,
}

impl Feeds {
    pub(super) fn new(
        module: &Arc<str>,
        sources: &[Arc<dyn Source>],
        record: &ModuleRecord,
        subscriber: Subscriber,
    ) -> Self {
        let mut feeds = Self { module: module.clone(), feeds: Vec::new(), tokens: 0, subscriber };
        feeds.replace(sources, record);
        feeds
    }

    /// Other sources, at their durable positions. Tokens go on, so that answers to earlier pulls count no more.
    pub(super) fn replace(&mut self, sources: &[Arc<dyn Source>], record: &ModuleRecord) {
        let feeds = sources.iter().map(|source| {
            let cursor = record.cursors.get(source.id()).cloned();
            Feed { source: source.clone(), cursor: cursor.clone(), durable: cursor, moved: false, token: 0 }
        });
        self.feeds = feeds.collect();
    }

    pub(super) fn id(&self, index: usize) -> &SourceId {
        self.feeds[index].source.id()
    }

    pub(super) fn source(&self, index: usize) -> &Arc<dyn Source> {
        &self.feeds[index].source
    }

    /// Which feed a source has, if the manifest still names it.
    pub(super) fn index(&self, source: &SourceId) -> Option<usize> {
        self.feeds.iter().position(|feed| feed.source.id() == source)
    }

    /// The same, if this engine serves the source at all.
    pub(super) fn served(&self, args: &Args, source: &SourceId) -> Option<usize> {
        self.index(source).filter(|index| self.feeds[*index].source.is_served(&reach(args)))
    }

    /// Which feed an answer belongs to, when it answers the outstanding pull.
    pub(super) fn take(&mut self, reply: &SourceReply) -> Option<usize> {
        let index = self.index(&reply.source)?;
        let feed = &mut self.feeds[index];
        if feed.token != reply.token {
            return None;
        }
        feed.token = 0;
        Some(index)
    }

    pub(super) fn progress(&mut self, index: usize, cursor: Cursor) {
        self.feeds[index].cursor = Some(cursor);
    }

    pub(super) fn durable(&mut self, index: usize, cursor: Cursor) {
        let feed = &mut self.feeds[index];
        feed.cursor = Some(cursor.clone());
        feed.durable = Some(cursor);
        feed.moved = true;
    }

    /// Shows positions, now that their units are written.
    pub(super) fn show(&mut self, status: &ModuleStatus) {
        for feed in &mut self.feeds {
            if let (true, Some(cursor)) = (std::mem::take(&mut feed.moved), &feed.durable) {
                status.set_cursor(feed.source.id(), cursor);
            }
        }
    }

    /// Positions as they stand in the store again, after a rewind.
    pub(super) fn reset(&mut self, record: &ModuleRecord) {
        for feed in &mut self.feeds {
            feed.durable = record.cursors.get(feed.source.id()).cloned();
            feed.cursor = feed.durable.clone();
            feed.token = 0;
        }
    }

    /// Whether a position without an event is worth a write.
    pub(super) fn worth_keeping(&self, index: usize, cursor: &Cursor) -> bool {
        let Feed { source, durable, .. } = &self.feeds[index];
        durable.as_ref().is_none_or(|kept| source.is_worth_keeping(kept, cursor))
    }

    pub(super) fn pull_all(&mut self, args: &Args) -> Result<(), PortError> {
        (0..self.feeds.len()).try_for_each(|index| self.pull(args, index))
    }

    /// The feeds of a chain that this engine serves, one for each hold, and the way to ask it. None when there are none.
    pub(super) fn chain(&self, args: &Args, chain_id: u64) -> Option<(Vec<usize>, Port<ChainMsg>)> {
        let of_chain = |index: &usize| self.feeds[*index].source.chain_id() == Some(chain_id);
        let indices = (0..self.feeds.len()).filter(of_chain).collect::<Vec<_>>();
        let port = args.shared.ports.chain(chain_id).filter(|_| !indices.is_empty())?;
        Some((indices, port.clone()))
    }

    /// Where a source stands in memory.
    pub(super) fn cursor(&self, index: usize) -> Option<Cursor> {
        self.feeds[index].cursor.clone()
    }

    /// Where a source stands on the disk.
    pub(super) fn position(&self, index: usize) -> Option<Cursor> {
        self.feeds[index].durable.clone()
    }

    /// Whether a chain source's durable position is past this block.
    pub(super) fn durable_past(&self, index: usize, block: u64) -> bool {
        let Feed { source, durable, .. } = &self.feeds[index];
        durable.as_ref().is_some_and(|at| source.position(at).0 > block)
    }

    /// Asks a source for what follows its cursor.
    pub(super) fn pull(&mut self, args: &Args, index: usize) -> Result<(), PortError> {
        self.ask(args, index, false)
    }

    /// Asks for every event that follows the cursor, also for heads that the module would skip when it catches up, and for
    /// every block without one.
    pub(super) fn pull_every_event(&mut self, args: &Args, index: usize) -> Result<(), PortError> {
        self.ask(args, index, true)
    }

    fn ask(&mut self, args: &Args, index: usize, every_event: bool) -> Result<(), PortError> {
        self.tokens += 1;
        let token = self.tokens;
        let feed = &mut self.feeds[index];
        feed.token = token;
        let pull = Pull {
            module: self.module.clone(),
            token,
            after: feed.cursor.clone(),
            every_event,
            deliveries_max: DELIVERIES_PER_PULL,
            to: self.subscriber.clone(),
        };
        feed.source.pull(&reach(args), pull)
    }

    /// Withdraws every outstanding pull. A source that is down has forgotten already.
    pub(super) fn forget(&self, args: &Args) {
        for feed in &self.feeds {
            let _ = feed.source.forget(&reach(args), self.module.clone());
        }
    }
}

/// The ways to whatever serves the sources of a module.
fn reach(args: &Args) -> Reach<'_> {
    Reach { ports: &args.shared.ports, grants: &args.plan.grants, outcomes: &args.shared.outbox }
}

impl Outcomes for Port<outbox::Msg> {
    fn pull(&self, source: SourceId, after: u64, pull: Pull) -> Result<(), PortError> {
        let Pull { module, token, deliveries_max: max, to, .. } = pull;
        self.cast(outbox::Msg::Pull(outbox::Pull { module, source, token, after, max, to }))
    }

    fn forget(&self, module: Arc<str>) -> Result<(), PortError> {
        self.cast(outbox::Msg::Forget { module })
    }
}
