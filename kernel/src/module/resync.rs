//! The operator's way out when a module's position lies on no branch that leads back to the endpoint's chain: undo as far
//! as the journal reaches, or keep the state and go on elsewhere. A module has one position on a chain for each hold; only
//! those that do not lie on it are moved.

use std::collections::{BTreeMap, BTreeSet};

use nexum_host_ifaces::{
    Hash,
    event::{Cursor, Reorg, SourceId},
    interfaces::chain::port::ChainMsg,
    port::{Port, PortError},
    store::{JournalEntry, StoreError, StoreMsg},
};

use super::{Args, Exit, Running, STORE_DEADLINE};
use crate::admin::{AdminError, AdminReply, ResyncOrder, ResyncTo, Resynced};

/// Journal entries looked at in one step; their positions are one batch of requests to the chain.
const PAGE: u64 = 256;

/// An order, and who waits for its outcome.
#[derive(Debug)]
pub struct Resync {
    pub order: ResyncOrder,
    pub reply: AdminReply<Resynced>,
}

/// Where one feed of the chain stands.
struct Position {
    index: usize,
    number: u64,
    hash: Hash,
    /// Whether that is on the chain.
    stands: bool,
}

/// Why an order was not carried out.
enum Failed {
    /// The module goes on as before.
    Refused(String),
    Exit(Exit),
}

impl From<PortError> for Failed {
    fn from(error: PortError) -> Self {
        Self::Refused(error.to_string())
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self::Refused(error.to_string())
    }
}

impl From<Exit> for Failed {
    fn from(exit: Exit) -> Self {
        Self::Exit(exit)
    }
}

fn refused<T>(reason: impl Into<String>) -> Result<T, Failed> {
    Err(Failed::Refused(reason.into()))
}

/// The positions of a source in these entries, newest first, none above `head`. A start without a hash is one, too.
fn positions(entries: &[JournalEntry], source: &SourceId, head: u64) -> Vec<(u64, Option<Hash>)> {
    let of_source = entries.iter().rev().filter(|entry| entry.source.as_ref() == Some(source));
    let mut positions: Vec<_> = of_source
        .filter_map(|entry| match entry.cursor {
            Some(Cursor::Chain { number, hash, .. }) if number <= head => Some((number, hash)),
            _ => None,
        })
        .collect();
    positions.dedup();
    positions
}

impl Running {
    pub(super) async fn resync(&mut self, args: &Args, resync: Resync) -> Result<(), Exit> {
        let Resync { order, reply } = resync;
        let (answer, done) = match self.put_onto(args, order).await {
            Ok(resynced) => {
                let after = resynced.after_block;
                tracing::warn!(module = %args.name(), chain = order.chain_id, after, "put onto the chain by order");
                (Ok(resynced), Ok(()))
            }
            Err(Failed::Refused(reason)) => (Err(AdminError::Refused(reason)), Ok(())),
            Err(Failed::Exit(exit)) => (Err(AdminError::Unavailable(exit.to_string())), Err(exit)),
        };
        // The operator may have gone; the outcome is in the log and in the tree.
        let _ = reply.send(answer);
        done
    }

    async fn put_onto(&mut self, args: &Args, order: ResyncOrder) -> Result<Resynced, Failed> {
        let ResyncOrder { chain_id, to } = order;
        let Some((indices, chain)) = self.feeds.chain(args, chain_id) else {
            return refused(format!("module `{}` does not follow chain {chain_id}", args.name()));
        };
        let Some(head) = chain.call(STORE_DEADLINE, ChainMsg::Status).await?.head else {
            return refused(format!("chain {chain_id} has no head yet"));
        };
        let kept = match to {
            ResyncTo::Journal => None,
            ResyncTo::Head => Some(head),
            ResyncTo::Block(number) if number > head.0 => {
                return refused(format!("block {number} is above the head of chain {chain_id}, {}", head.0));
            }
            ResyncTo::Block(number) => {
                let [hash] = hashes(&chain, &[number].into()).await?[..] else { return refused("no hash") };
                Some((number, hash))
            }
        };
        let positions = self.positions(&indices, &chain, head.0).await?;
        if positions.is_empty() {
            return refused(format!("module `{}` has no position on chain {chain_id} yet", args.name()));
        }
        // Those that stand go on where they are. When all do, the operator wants the module to leave events out.
        let all_stand = positions.iter().all(|position| position.stands);
        let mut reorgs = Vec::new();
        for Position { index, number, hash, stands } in positions {
            let ancestor = match kept {
                None if stands => (number, hash),
                None => self.newest_canonical(args, index, &chain, head.0).await?,
                Some(_) if stands && !all_stand => continue,
                Some(kept) => kept,
            };
            reorgs.push((index, stands, Reorg { chain_id, ancestor, old_head: (number, hash), new_head: head }));
        }
        // Where each goes on is known before the first is moved.
        for (index, stands, reorg) in &reorgs {
            match kept {
                None if *stands => {}
                None => self.undo(args, *index, reorg).await?,
                Some(_) => self.tell(args, *index, reorg).await?,
            }
        }
        let after = reorgs.iter().map(|(_, _, reorg)| reorg.ancestor.0).min();
        Ok(Resynced { after_block: after.unwrap_or(head.0) })
    }

    /// Where the feeds of one chain stand, of those that have begun.
    async fn positions(
        &mut self,
        indices: &[usize],
        chain: &Port<ChainMsg>,
        head: u64,
    ) -> Result<Vec<Position>, Failed> {
        let at = indices.iter().filter_map(|index| match self.feeds.position(*index) {
            Some(Cursor::Chain { number, hash, .. }) => Some((*index, number, hash)),
            _ => None,
        });
        let at: Vec<(usize, u64, Option<Hash>)> = at.collect();
        let known: BTreeSet<u64> = at.iter().map(|(_, number, _)| *number).filter(|number| *number <= head).collect();
        let canonical: BTreeMap<u64, Hash> = known.iter().copied().zip(hashes(chain, &known).await?).collect();
        let position = |(index, number, hash): (usize, u64, Option<Hash>)| {
            let canonical = canonical.get(&number).copied();
            // A start without a hash lies on any chain that is long enough.
            let stands = canonical.is_some_and(|canonical| hash.is_none_or(|hash| hash == canonical));
            // A start above the head has no hash, and nobody has read its block yet.
            Position { index, number, hash: hash.or(canonical).unwrap_or_default(), stands }
        };
        Ok(at.into_iter().map(position).collect())
    }

    /// The newest position in the journal that lies on the chain.
    async fn newest_canonical(
        &mut self,
        args: &Args,
        index: usize,
        chain: &Port<ChainMsg>,
        head: u64,
    ) -> Result<(u64, Hash), Failed> {
        let (module, source) = (self.host.id, self.feeds.id(index).clone());
        let mut until = self.instance.host().record().seq;
        let mut oldest = None;
        while until > 0 {
            let from_seq = until.saturating_sub(PAGE - 1).max(1);
            let limit = usize::try_from(until - from_seq + 1).unwrap_or(usize::MAX);
            let page = |reply| StoreMsg::Journal { module, from_seq, limit, reply };
            let entries = args.shared.ports.store().call(STORE_DEADLINE, page).await??;
            let found = positions(&entries, &source, head);
            let numbers: BTreeSet<u64> = found.iter().map(|(number, _)| *number).collect();
            let canonical = hashes(chain, &numbers).await?;
            let canonical: Vec<(u64, Hash)> = numbers.into_iter().zip(canonical).collect();
            let stands = found.iter().find_map(|(number, hash)| {
                let known = canonical.iter().find(|(of, _)| of == number).copied();
                known.filter(|(_, known)| hash.is_none_or(|hash| hash == *known))
            });
            if let Some(stands) = stands {
                return Ok(stands);
            }
            oldest = found.last().map(|(number, _)| *number).or(oldest);
            // Of what was asked for the journal has less: it begins here.
            if entries.first().is_none_or(|entry| entry.seq > from_seq) {
                break;
            }
            until = from_seq - 1;
        }
        let reaches = oldest.map_or_else(String::new, |block| format!(", which reaches back to block {block}"));
        refused(format!(
            "no position in the journal of `{}`{reaches}, lies on the chain: keep the state with --to, or begin anew with \
             `module unload` and `state purge`",
            args.name()
        ))
    }
}

/// The canonical hashes at these numbers, ascending.
async fn hashes(chain: &Port<ChainMsg>, numbers: &BTreeSet<u64>) -> Result<Vec<Hash>, Failed> {
    let numbers: Vec<u64> = numbers.iter().copied().collect();
    let asked = numbers.len();
    if asked == 0 {
        return Ok(Vec::new());
    }
    let hashes = chain.call(STORE_DEADLINE, |reply| ChainMsg::Hashes { numbers, reply }).await?;
    match hashes {
        Ok(hashes) if hashes.len() == asked => Ok(hashes),
        Ok(_) => refused("the chain's answer is not what was asked for"),
        Err(error) => refused(error.message),
    }
}

#[cfg(test)]
mod tests {
    use nexum_host_ifaces::{event::EventId, store::UnitKind};

    use super::*;

    fn entry(seq: u64, source: &str, cursor: Option<Cursor>) -> JournalEntry {
        JournalEntry {
            seq,
            at_ms: 0,
            kind: UnitKind::Handled,
            event: EventId::Init,
            source: cursor.is_some().then(|| SourceId::new(source)),
            cursor_before: None,
            cursor,
            component: Hash::default(),
            fuel: 0,
            state_digest: Hash::default(),
            effects_digest: Hash::default(),
            previous: Hash::default(),
        }
    }

    #[test]
    fn positions_are_those_of_the_source_newest_first_and_below_the_head() {
        let at = |number: u64| Cursor::block(number, Hash([number as u8; 32]));
        let entries = [
            entry(
                1,
                "chain:1",
                Some(Cursor::Chain { number: 4, hash: None, part: nexum_host_ifaces::event::Part::Block }),
            ),
            entry(2, "chain:1", Some(at(5))),
            entry(3, "chain:2", Some(at(6))),
            entry(4, "", None),
            entry(5, "chain:1", Some(at(7))),
            entry(6, "chain:1", Some(at(7))),
            entry(7, "chain:1", Some(at(9))),
        ];
        let hash = |number: u8| Some(Hash([number; 32]));
        assert_eq!(positions(&entries, &SourceId::new("chain:1"), 8), [(7, hash(7)), (5, hash(5)), (4, None)]);
    }
}
