//! A module's feeds: per source the position, and the one outstanding pull.

use std::sync::Arc;

use nexum_host_ifaces::{
    chain::{AnswerSize, Blocks, ChainMsg, ChainPull, Interest},
    cron::{CronMsg, CronPull},
    event::{Cursor, SourceId, SourceReply, Subscriber},
    grants::{Capability, Grant},
    port::{Port, PortError},
    store::ModuleRecord,
};

use super::Args;
use crate::{manifest::Source, outbox, status::ModuleStatus};

/// Deliveries asked for at once: enough to amortise the message, few enough to bound what a held module drops.
const DELIVERIES_PER_PULL: usize = 64;
/// Blocks without concern after which the position is made durable.
const KEEP_EVERY_BLOCKS: u64 = 64;

struct Feed {
    source: Source,
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
    pub(super) fn new(module: &Arc<str>, sources: &[Source], record: &ModuleRecord, subscriber: Subscriber) -> Self {
        let mut feeds = Self { module: module.clone(), feeds: Vec::new(), tokens: 0, subscriber };
        feeds.replace(sources, record);
        feeds
    }

    /// Other sources, at their durable positions. Tokens go on, so that answers to earlier pulls count no more.
    pub(super) fn replace(&mut self, sources: &[Source], record: &ModuleRecord) {
        let feeds = sources.iter().map(|source| {
            let cursor = record.cursors.get(source.id()).cloned();
            Feed { source: source.clone(), cursor: cursor.clone(), durable: cursor, moved: false, token: 0 }
        });
        self.feeds = feeds.collect();
    }

    pub(super) fn id(&self, index: usize) -> &SourceId {
        self.feeds[index].source.id()
    }

    pub(super) fn is_chain(&self, index: usize) -> bool {
        matches!(self.feeds[index].source, Source::Chain { .. })
    }

    /// Which feed a source has, if the manifest still names it.
    pub(super) fn index(&self, source: &SourceId) -> Option<usize> {
        self.feeds.iter().position(|feed| feed.source.id() == source)
    }

    /// The same, if this engine serves the source at all.
    pub(super) fn served(&self, args: &Args, source: &SourceId) -> Option<usize> {
        self.index(source).filter(|index| match &self.feeds[*index].source {
            Source::Chain { chain_id, .. } => args.plan.chains.contains_key(chain_id),
            Source::Outbox { .. } => args.plan.grants.get(Capability::Outbox) == Some(Grant::Served),
            Source::Cron { .. } => true,
        })
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
        match (&self.feeds[index].durable, cursor) {
            (None, _) => true,
            (Some(Cursor::Chain { number: kept, .. }), Cursor::Chain { number, .. }) => {
                number.saturating_sub(*kept) >= KEEP_EVERY_BLOCKS
            }
            (Some(_), _) => false,
        }
    }

    pub(super) fn pull_all(&mut self, args: &Args) -> Result<(), PortError> {
        (0..self.feeds.len()).try_for_each(|index| self.pull(args, index))
    }

    /// The feeds of a chain that this engine serves, one for each hold, and the way to ask it. None when there are none.
    pub(super) fn chain(&self, args: &Args, chain_id: u64) -> Option<(Vec<usize>, Port<ChainMsg>)> {
        let of_chain = |feed: &Feed| matches!(feed.source, Source::Chain { chain_id: id, .. } if id == chain_id);
        let indices = (0..self.feeds.len()).filter(|index| of_chain(&self.feeds[*index])).collect::<Vec<_>>();
        let port = args.plan.chains.get(&chain_id).filter(|_| !indices.is_empty())?;
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
        matches!(self.feeds[index].durable, Some(Cursor::Chain { number, .. }) if number > block)
    }

    /// Whether a source leaves out heads when the module catches up.
    pub(super) fn skips_heads(&self, index: usize) -> bool {
        matches!(&self.feeds[index].source, Source::Chain { interest, .. } if interest.blocks == Blocks::Latest)
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
        let (module, to) = (self.module.clone(), self.subscriber.clone());
        match &feed.source {
            Source::Chain { id, chain_id, interest } => {
                // An optional chain that this engine does not serve never delivers.
                let Some(port) = args.plan.chains.get(chain_id) else { return Ok(()) };
                let interest = match (every_event, interest.blocks) {
                    (true, Blocks::Latest) => Arc::new(Interest { blocks: Blocks::All, ..(**interest).clone() }),
                    _ => interest.clone(),
                };
                let blocks_min = if every_event { 1 } else { KEEP_EVERY_BLOCKS };
                port.cast(ChainMsg::Pull(ChainPull {
                    module,
                    source: id.clone(),
                    token,
                    after: feed.cursor.clone(),
                    interest,
                    size: AnswerSize { deliveries_max: DELIVERIES_PER_PULL, blocks_min },
                    to,
                }))
            }
            Source::Outbox { id } => {
                // A stub sends nothing, so that nothing comes back.
                if args.plan.grants.get(Capability::Outbox) != Some(Grant::Served) {
                    return Ok(());
                }
                let after = match feed.cursor {
                    Some(Cursor::Outbox { number }) => number,
                    _ => 0,
                };
                let (source, max) = (id.clone(), DELIVERIES_PER_PULL);
                args.shared.outbox.cast(outbox::Msg::Pull(outbox::Pull { module, source, token, after, max, to }))
            }
            Source::Cron { id, schedule, missed } => {
                let after = match feed.cursor {
                    Some(Cursor::Cron { fired_at }) => Some(fired_at),
                    _ => None,
                };
                args.shared.cron.cast(CronMsg::Pull(CronPull {
                    module,
                    source: id.clone(),
                    token,
                    schedule: schedule.clone(),
                    missed: *missed,
                    after,
                    max: DELIVERIES_PER_PULL,
                    to,
                }))
            }
        }
    }

    /// Withdraws every outstanding pull. A source that is down has forgotten already.
    pub(super) fn forget(&self, args: &Args) {
        for feed in &self.feeds {
            let module = self.module.clone();
            let _ = match &feed.source {
                Source::Chain { chain_id, .. } => {
                    args.plan.chains.get(chain_id).map_or(Ok(()), |port| port.cast(ChainMsg::Forget { module }))
                }
                Source::Cron { .. } => args.shared.cron.cast(CronMsg::Forget { module }),
                Source::Outbox { .. } => args.shared.outbox.cast(outbox::Msg::Forget { module }),
            };
        }
    }
}
