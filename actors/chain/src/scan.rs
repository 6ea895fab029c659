//! What follows a cursor: walks the window and the history for one interest, and says what it lacks to go on.
//!
//! Invariant: block by block, ascending; the wanted logs of a block before its `block` event; nothing past the limit.

use std::sync::Arc;

use nexum_host_ifaces::{
    Hash,
    event::{Cursor, Delivery, EventId, Part},
    interfaces::chain::port::Blocks,
    types::Event,
};

use crate::{
    backfill::Backfill,
    interests::Watch,
    window::{Share, Window},
};

/// Where a reader stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    pub number: u64,
    pub hash: Option<Hash>,
    pub part: Part,
}

impl Position {
    pub fn cursor(self) -> Cursor {
        Cursor::Chain { number: self.number, hash: self.hash, part: self.part }
    }
}

/// Why a scan ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Nothing more up to the limit.
    CaughtUp,
    /// As many deliveries as were asked for.
    Full,
    /// The logs of this block of the window have to be read.
    NeedsLogs { number: u64 },
    /// The window has to be extended down to this block.
    NeedsWindow { number: u64 },
    /// History has to be read; the backfill knows what.
    NeedsHistory,
    /// The block after the position does not follow it.
    Broken,
}

/// A view of the chain, as far as one interest may see it.
pub struct Scan<'a> {
    pub chain_id: u64,
    pub window: &'a mut Window,
    pub backfill: &'a mut Backfill,
    /// The newest block that the interest's hold lets through.
    pub limit: u64,
    pub watch: &'a Arc<Watch>,
    pub max: usize,
    pub deliveries: Vec<Delivery>,
    pub skipped: u64,
}

/// One block as the scan sees it.
struct Matched {
    hash: Hash,
    parent: Option<Hash>,
    event: Option<Arc<Event>>,
    logs: Option<Arc<Event>>,
    seen_ns: u64,
}

impl Scan<'_> {
    fn block_due(&self, number: u64) -> bool {
        match self.watch.interest.blocks {
            Blocks::All => true,
            Blocks::Latest => number == self.limit,
            Blocks::None => false,
        }
    }

    /// Whether a step to this block would pass one that is due, or end on it.
    fn reaches_due(&self, number: u64) -> bool {
        self.watch.interest.blocks == Blocks::Latest && number >= self.limit
    }

    fn skip(&mut self, blocks: u64) {
        if self.watch.interest.blocks == Blocks::Latest {
            self.skipped += blocks;
        }
    }

    /// Walks on from `at`, which moves along.
    pub fn run(&mut self, at: &mut Position) -> Stop {
        loop {
            if self.deliveries.len() >= self.max {
                return Stop::Full;
            }
            let second_half = at.part == Part::Logs;
            let number = if second_half { at.number } else { at.number.saturating_add(1) };
            if number > self.limit {
                return Stop::CaughtUp;
            }
            let found = if number >= self.base() {
                self.in_window(number, second_half)
            } else if number >= self.history_end() {
                Err(Stop::NeedsWindow { number })
            } else {
                match self.in_history(number, at) {
                    Ok(None) => continue,
                    Ok(Some(found)) => Ok(found),
                    Err(stop) => Err(stop),
                }
            };
            let found = match found {
                Ok(found) => found,
                Err(stop) => return stop,
            };
            let follows = match (second_half, at.hash) {
                (_, None) => true,
                (true, Some(hash)) => hash == found.hash,
                (false, Some(hash)) => found.parent.is_none_or(|parent| parent == hash),
            };
            if !follows {
                return Stop::Broken;
            }
            let block_due = self.block_due(number);
            let id = |logs: bool| match logs {
                true => EventId::Logs { chain_id: self.chain_id, number, hash: found.hash },
                false => EventId::Block { chain_id: self.chain_id, number, hash: found.hash },
            };
            if !second_half && let Some(event) = found.logs {
                at.part = if block_due { Part::Logs } else { Part::Block };
                (at.number, at.hash) = (number, Some(found.hash));
                self.deliveries.push(Delivery { id: id(true), event, cursor: at.cursor(), seen_ns: found.seen_ns });
                if block_due {
                    if self.deliveries.len() >= self.max {
                        return Stop::Full;
                    }
                } else {
                    self.skip(1);
                    continue;
                }
            }
            *at = Position { number, hash: Some(found.hash), part: Part::Block };
            match found.event.filter(|_| block_due) {
                Some(event) => {
                    self.deliveries.push(Delivery { id: id(false), event, cursor: at.cursor(), seen_ns: found.seen_ns })
                }
                None => self.skip(1),
            }
        }
    }

    fn base(&self) -> u64 {
        self.window.base().map_or(u64::MAX, |block| block.header.number)
    }

    /// The first block that is not read as history. Who wants every block gets the newest ones from the window, which is
    /// extended for that; for logs alone its headers would be read for nothing.
    fn history_end(&self) -> u64 {
        match self.watch.interest.blocks {
            Blocks::All => self.window.floor(),
            Blocks::Latest | Blocks::None => self.base(),
        }
    }

    fn in_window(&mut self, number: u64, second_half: bool) -> Result<Matched, Stop> {
        let Some(block) = self.window.get_mut(number) else { return Err(Stop::CaughtUp) };
        let share = if second_half { Share::Nothing } else { block.share(self.watch) };
        let logs = match share {
            Share::Nothing => None,
            Share::Logs(event) => Some(event),
            Share::Unread => return Err(Stop::NeedsLogs { number }),
        };
        Ok(Matched {
            hash: block.header.hash,
            parent: Some(block.header.parent),
            event: Some(block.event.clone()),
            logs,
            seen_ns: block.seen_ns,
        })
    }

    /// The block at `number` below the window. `None` when the position was moved past blocks without concern.
    fn in_history(&mut self, number: u64, at: &mut Position) -> Result<Option<Matched>, Stop> {
        let end = self.history_end().saturating_sub(1).min(self.limit);
        if self.watch.interest.blocks != Blocks::All && !self.block_due(number) {
            if at.part == Part::Logs {
                // The block event of a head that is no longer the newest.
                at.part = Part::Block;
                self.skip(1);
                return Ok(None);
            }
            // The one block that is due is read with its header.
            let end = if self.block_due(end) { end.saturating_sub(1) } else { end };
            self.backfill.want(Some(self.watch), number, end);
            let Some(stretch) = self.backfill.logs_from(self.watch, number) else { return Err(Stop::NeedsHistory) };
            match stretch.hit {
                Some(hit) if !self.reaches_due(hit.number) => {
                    self.skip(hit.number - number + 1);
                    *at = Position { number: hit.number, hash: Some(hit.hash), part: Part::Block };
                    let id = EventId::Logs { chain_id: self.chain_id, number: hit.number, hash: hit.hash };
                    self.deliveries.push(Delivery { id, event: hit.event, cursor: at.cursor(), seen_ns: 0 });
                    return Ok(None);
                }
                None if !self.reaches_due(stretch.to) => {
                    self.skip(stretch.to - at.number);
                    *at = Position { number: stretch.to, hash: Some(stretch.end_hash), part: Part::Block };
                    return Ok(None);
                }
                // It was read when the limit was higher: on by single blocks, so that none is passed that is due.
                _ => {}
            }
        }
        self.backfill.want(None, number, end);
        let Some((header, event)) = self.backfill.header(number) else { return Err(Stop::NeedsHistory) };
        let (hash, parent) = (header.hash, header.parent);
        let mut logs = None;
        let wants_logs = !self.watch.filters.is_empty() && at.part != Part::Logs;
        if wants_logs && self.watch.filters.possible_in(number, header.bloom.as_deref()) {
            // Only where headers are known an answer can be held against them, and is dated by them.
            let known_to = self.backfill.known_to(number, end).unwrap_or(number);
            self.backfill.want(Some(self.watch), number, known_to);
            let Some(stretch) = self.backfill.logs_from(self.watch, number) else { return Err(Stop::NeedsHistory) };
            if let Some(hit) = stretch.hit.filter(|hit| hit.number == number) {
                if hit.hash != hash {
                    self.backfill.forget(number);
                    return Err(Stop::Broken);
                }
                logs = Some(hit.event);
            }
        }
        Ok(Some(Matched { hash, parent: Some(parent), event: Some(event), logs, seen_ns: 0 }))
    }
}

#[cfg(test)]
mod tests;
