//! What a module does when blocks it handled are no longer canonical: undo to before them, or be told.

use std::sync::Arc;

use nexum_host_ifaces::{
    event::{Cursor, Delivery, EventId, Reorg, SourceId},
    store::{JournalEntry, StoreMsg, UnitKind},
    types,
};

use super::{Args, Exit, Running, STORE_DEADLINE};
use crate::{instance::Instance, manifest::OnReorg};

/// Journal entries read at once while looking for the last unit that stands.
const PAGE: usize = 256;

/// The unit that took `source` past `ancestor`, or the first flush of its event: the first one to undo. Searched from the
/// newest entry back; `entries` are in ascending order.
fn first_retracted(entries: &[JournalEntry], source: &SourceId, ancestor: u64) -> Option<u64> {
    let past = |cursor: &Option<Cursor>| matches!(cursor, Some(Cursor::Chain { number, .. }) if *number > ancestor);
    let crossing = |entry: &JournalEntry| {
        entry.source.as_ref() == Some(source) && past(&entry.cursor) && !past(&entry.cursor_before)
    };
    let crossed = entries.iter().rposition(crossing)?;
    // An attempt that flushed and then failed left its flush behind, and each fresh instance an `init`; other sources may
    // have gone on in between.
    let event = &entries[crossed].event;
    let since_before = entries[..crossed].iter().rposition(|entry| entry.source.as_ref() == Some(source));
    let between = since_before.map_or(0, |before| before + 1)..crossed;
    let flushed = between.into_iter().find(|at| entries[*at].kind == UnitKind::Flushed && entries[*at].event == *event);
    Some(entries[flushed.unwrap_or(crossed)].seq)
}

impl Running {
    pub(super) async fn on_reorg(&mut self, args: &Args, index: usize, reorg: Reorg) -> Result<(), Exit> {
        tracing::warn!(
            module = %args.name(), chain = reorg.chain_id, ancestor = reorg.ancestor.0, old_head = reorg.old_head.0,
            new_head = reorg.new_head.0, "reorg below the module's cursor"
        );
        if args.plan.manifest.on_reorg == OnReorg::Rewind {
            self.rewind(args, index, reorg.ancestor.0).await?;
        }
        let cursor = Cursor::block(reorg.ancestor.0, reorg.ancestor.1);
        let id = EventId::Reorg { chain_id: reorg.chain_id, old_head: reorg.old_head.1, new_head: reorg.new_head.1 };
        let block = |(number, hash): (u64, nexum_host_ifaces::Hash)| types::BlockRef { number, hash: hash.0.to_vec() };
        let event = types::Event::Reorg(types::Reorg {
            chain_id: reorg.chain_id,
            common_ancestor: block(reorg.ancestor),
            old_head: block(reorg.old_head),
            new_head: block(reorg.new_head),
            released_effects: Vec::new(),
        });
        self.deliver(args, index, Delivery { id, event: Arc::new(event), cursor, seen_ns: 0 }).await?;
        self.settle().await
    }

    /// Undoes every unit from the first one past the ancestor on, and goes on with a fresh instance over what stands.
    async fn rewind(&mut self, args: &Args, index: usize, ancestor: u64) -> Result<(), Exit> {
        let Some(undo_from) = self.find_retracted(args, index, ancestor).await? else { return Ok(()) };
        let (module, to_seq) = (self.host.id, undo_from - 1);
        let record =
            args.shared.store.call(STORE_DEADLINE, |reply| StoreMsg::Rewind { module, to_seq, reply }).await??;
        args.status.set_cursors(record.cursors.clone());
        self.feeds.reset(&record);
        self.instance = Instance::start(&self.prepared, &self.host, record)
            .await
            .map_err(|failure| args.fault(self.health.clone(), failure, None))?;
        self.init(args).await?;
        // The other sources' positions moved back too; their outstanding answers no longer fit.
        self.feeds.pull_others(args, index)?;
        Ok(())
    }

    /// Looks through the journal, newest page first. `None` when nothing durable is past the ancestor.
    async fn find_retracted(&mut self, args: &Args, index: usize, ancestor: u64) -> Result<Option<u64>, Exit> {
        if !self.feeds.durable_past(index, ancestor) {
            return Ok(None);
        }
        let source = self.feeds.id(index).clone();
        let module = self.host.id;
        let mut newer: Vec<JournalEntry> = Vec::new();
        let mut until = self.instance.host().record().seq;
        while until > 0 {
            let from_seq = until.saturating_sub(PAGE as u64 - 1);
            let page = |reply| StoreMsg::Journal { module, from_seq, limit: (until - from_seq + 1) as usize, reply };
            let mut entries = args.shared.store.call(STORE_DEADLINE, page).await??;
            if entries.is_empty() {
                break;
            }
            // The page before is kept, because an event's flushes may lie across the boundary.
            entries.append(&mut newer);
            if let Some(seq) = first_retracted(&entries, &source, ancestor) {
                return Ok(Some(seq));
            }
            newer = entries;
            until = from_seq.saturating_sub(1);
        }
        let oldest = newer.first().map_or(0, |entry| entry.seq);
        Err(Exit::Stuck(format!("a reorg to block {ancestor} reaches below the kept journal (oldest unit {oldest})")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nexum_host_ifaces::Hash;

    fn entry(seq: u64, source: &str, before: Option<u64>, after: Option<u64>, kind: UnitKind) -> JournalEntry {
        let cursor = |number: Option<u64>| number.map(|number| Cursor::block(number, Hash::default()));
        JournalEntry {
            seq,
            at_ms: 0,
            kind,
            event: EventId::Block { chain_id: 1, number: after.or(before).unwrap_or(0), hash: Hash::default() },
            source: after.map(|_| SourceId::new(source)),
            cursor_before: after.and(cursor(before)),
            cursor: cursor(after),
            component: Hash::default(),
            fuel: 0,
            state_digest: Hash::default(),
            effects_digest: Hash::default(),
            previous: Hash::default(),
        }
    }

    fn init(seq: u64) -> JournalEntry {
        JournalEntry { event: EventId::Init, ..entry(seq, "", None, None, UnitKind::Handled) }
    }

    #[test]
    fn the_newest_crossing_counts_and_takes_its_flushes_along() {
        use UnitKind::*;
        let source = SourceId::new("chain:1");
        let entries = [
            entry(1, "chain:1", None, Some(9), Handled),
            entry(2, "chain:1", Some(9), Some(11), Handled),
            entry(3, "chain:1", Some(11), Some(10), Handled),
            entry(4, "chain:2", Some(50), Some(51), Handled),
            entry(5, "chain:1", Some(11), None, Flushed),
            init(5),
            entry(6, "chain:1", Some(10), Some(11), Handled),
            entry(7, "chain:1", Some(11), Some(12), Handled),
        ];
        assert_eq!(first_retracted(&entries, &source, 11), Some(7));
        assert_eq!(first_retracted(&entries, &source, 10), Some(5));
        assert_eq!(first_retracted(&entries, &source, 8), Some(1));
        assert_eq!(first_retracted(&entries, &source, 12), None);
    }
}
