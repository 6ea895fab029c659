//! The recent blocks: headers linked by parent hash, with the logs read so far and the events made of them.
//!
//! Invariant: the blocks are consecutive and each one's parent hash is the hash of the one before. Every event is built
//! once and shared by all who get it.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use nexum_host_ifaces::{
    Hash,
    types::{Event, Log},
};

use crate::{header::Header, interests::Watch};

/// Logs of recent blocks held in memory; past it the oldest are dropped and read again when somebody needs them.
const LOG_BYTES_MAX: usize = 64 << 20;

#[derive(Debug)]
struct Logs {
    /// The version of the union they were read with.
    version: u64,
    /// All of them, as one event.
    event: Arc<Event>,
    count: usize,
    bytes: usize,
    /// What each interest gets of them; only interests that get something.
    of_watch: HashMap<u64, Arc<Event>>,
}

/// One recent block.
#[derive(Debug)]
pub struct Block {
    pub header: Header,
    pub event: Arc<Event>,
    /// Monotonic nanoseconds when it was seen as a head; 0 when it is history.
    pub seen_ns: u64,
    logs: Option<Logs>,
}

/// What one interest gets of one block.
#[derive(Debug, Clone)]
pub enum Share {
    Nothing,
    Logs(Arc<Event>),
    /// The block's logs have to be read first.
    Unread,
}

/// Approximate memory of one log.
pub fn log_bytes(log: &Log) -> usize {
    320 + log.data.len() + log.topics.len() * 56
}

/// The wanted part of a `logs` event: the event itself when that is all of it, nothing when it is empty.
pub fn share_of(all: &Arc<Event>, watch: &Watch) -> Option<Arc<Event>> {
    // Both callers, for a block and for a stretch of history, pass a `logs` event that they made themselves.
    let Event::Logs(logs) = &**all else { unreachable!("a share of an event without logs") };
    let wanted: Vec<bool> = logs.iter().map(|log| watch.filters.wants(log)).collect();
    match wanted.iter().filter(|wanted| **wanted).count() {
        0 => None,
        count if count == logs.len() => Some(all.clone()),
        _ => {
            let share = logs.iter().zip(wanted).filter(|(_, wanted)| *wanted).map(|(log, _)| log.clone());
            Some(Arc::new(Event::Logs(share.collect())))
        }
    }
}

impl Block {
    fn new(chain_id: u64, header: Header, seen_ns: u64) -> Self {
        let event = Arc::new(header.event(chain_id));
        Self { header, event, seen_ns, logs: None }
    }

    /// What this interest gets of the block, as far as it has been read.
    pub fn share(&mut self, watch: &Watch) -> Share {
        if watch.filters.is_empty() || !watch.filters.possible_in(self.header.number, self.header.bloom.as_deref()) {
            return Share::Nothing;
        }
        match &mut self.logs {
            Some(logs) if logs.version >= watch.since => {
                if logs.count == 0 {
                    return Share::Nothing;
                }
                if let Some(event) = logs.of_watch.get(&watch.id) {
                    return Share::Logs(event.clone());
                }
                match share_of(&logs.event, watch) {
                    None => Share::Nothing,
                    Some(event) => {
                        logs.of_watch.insert(watch.id, event.clone());
                        Share::Logs(event)
                    }
                }
            }
            _ => Share::Unread,
        }
    }
}

#[derive(Debug)]
pub struct Window {
    chain_id: u64,
    blocks: VecDeque<Block>,
    blocks_max: usize,
    log_bytes: usize,
    log_bytes_max: usize,
}

impl Window {
    pub fn new(chain_id: u64, blocks_max: usize) -> Self {
        let blocks_max = blocks_max.max(1);
        Self { chain_id, blocks: VecDeque::new(), blocks_max, log_bytes: 0, log_bytes_max: LOG_BYTES_MAX }
    }

    pub fn tip(&self) -> Option<&Block> {
        self.blocks.back()
    }

    /// The number of the oldest block held.
    pub fn base(&self) -> Option<&Block> {
        self.blocks.front()
    }

    /// The oldest number that the window may be extended down to.
    pub fn floor(&self) -> u64 {
        self.tip().map_or(0, |tip| (tip.header.number + 1).saturating_sub(self.blocks_max as u64))
    }

    /// How many blocks the window may hold.
    pub fn capacity(&self) -> u64 {
        self.blocks_max as u64
    }

    fn index(&self, number: u64) -> Option<usize> {
        let base = self.blocks.front()?.header.number;
        let index = usize::try_from(number.checked_sub(base)?).ok()?;
        (index < self.blocks.len()).then_some(index)
    }

    pub fn get(&self, number: u64) -> Option<&Block> {
        self.index(number).and_then(|index| self.blocks.get(index))
    }

    pub fn get_mut(&mut self, number: u64) -> Option<&mut Block> {
        self.index(number).and_then(|index| self.blocks.get_mut(index))
    }

    pub fn hash_at(&self, number: u64) -> Option<Hash> {
        self.get(number).map(|block| block.header.hash)
    }

    /// Puts a head on top.
    ///
    /// # Panics
    /// When it does not stand on the tip: a branch is linked to the window before it becomes the chain.
    pub fn push(&mut self, header: Header, seen_ns: u64) {
        assert!(
            self.tip().is_none_or(|tip| header.follows(&tip.header)),
            "block {} does not stand on the head of the window",
            header.number
        );
        self.blocks.push_back(Block::new(self.chain_id, header, seen_ns));
        while self.blocks.len() > self.blocks_max {
            if let Some(block) = self.blocks.pop_front() {
                self.log_bytes -= block.logs.map_or(0, |logs| logs.bytes);
            }
        }
    }

    /// Puts older blocks, ascending, below the base. Those that do not link to it are ignored and false is returned.
    pub fn extend_down(&mut self, headers: Vec<Header>) -> bool {
        for header in headers.into_iter().rev() {
            match self.blocks.front() {
                Some(base) if base.header.parent == header.hash && base.header.number == header.number + 1 => {}
                // An answer that overlaps what another one has already brought.
                Some(base) if header.number >= base.header.number => continue,
                _ => return false,
            }
            if self.blocks.len() >= self.blocks_max {
                return true;
            }
            self.blocks.push_front(Block::new(self.chain_id, header, 0));
        }
        true
    }

    /// Drops every block above `number`.
    pub fn rewind_to(&mut self, number: u64) {
        while self.blocks.back().is_some_and(|block| block.header.number > number) {
            if let Some(block) = self.blocks.pop_back() {
                self.log_bytes -= block.logs.map_or(0, |logs| logs.bytes);
            }
        }
    }

    /// The blooms of the blocks say no more what is not there.
    pub fn distrust_blooms(&mut self) {
        self.blocks.iter_mut().for_each(|block| block.header.distrust_bloom());
    }

    /// Whether these logs of a block have been read with this version of the union.
    pub fn has_logs(&self, number: u64, version: u64) -> bool {
        let block = self.get(number).and_then(|block| block.logs.as_ref());
        block.is_some_and(|logs| logs.version >= version)
    }

    pub fn clear(&mut self) {
        self.blocks.clear();
        self.log_bytes = 0;
    }

    /// Records the logs of a block as read with a version of the union. Ignored when the block is no longer there.
    pub fn set_logs(&mut self, number: u64, hash: Hash, version: u64, logs: Vec<Log>) {
        let bytes: usize = logs.iter().map(log_bytes).sum();
        // Another block took its place while its logs were read, or it is no longer among the recent ones.
        let Some(block) = self.get_mut(number).filter(|block| block.header.hash == hash) else { return };
        let before = block.logs.take().map_or(0, |logs| logs.bytes);
        let count = logs.len();
        let event = Arc::new(Event::Logs(logs));
        block.logs = Some(Logs { version, event, count, bytes, of_watch: HashMap::new() });
        self.log_bytes = self.log_bytes - before + bytes;
        let mut oldest = 0;
        while self.log_bytes > self.log_bytes_max && oldest < self.blocks.len() {
            let block = &mut self.blocks[oldest];
            if block.header.number != number {
                self.log_bytes -= block.logs.take().map_or(0, |logs| logs.bytes);
            }
            oldest += 1;
        }
    }
}
