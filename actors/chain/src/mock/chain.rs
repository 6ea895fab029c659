//! The mock chain itself: blocks, branches, logs and calls. Deterministic in the fixture's seed; knows no time.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use alloy::primitives::{B256, Bloom, keccak256};
use nexum_host_ifaces::{Address, Hash, types::Log};
use serde::Deserialize;
use tokio::sync::watch;

use super::{
    fixture::{Call, Fixture, ScriptedLog},
    word::At,
};
use crate::header::Header;

/// Blocks a mock chain remembers; an endless one must not grow for ever.
const BLOCKS_MAX: usize = 100_000;

/// What a faulty answer looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FaultKind {
    Error,
    /// No answer until the caller gives up.
    Stall,
}

#[derive(Debug, Clone)]
pub(super) struct MockBlock {
    pub header: Header,
    pub logs: Vec<Log>,
}

#[derive(Debug)]
struct Fault {
    at: u64,
    method: String,
    kind: FaultKind,
    left: u64,
}

/// What a call answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Called {
    Returned(Vec<u8>),
    Reverted(Vec<u8>),
}

#[derive(Debug)]
struct Inner {
    fixture: Fixture,
    first_timestamp_s: u64,
    blocks: VecDeque<MockBlock>,
    /// Blocks of dead branches are still known by hash, as on a real node for a while.
    orphans: HashMap<Hash, MockBlock>,
    remembers_orphans: bool,
    /// Counts reorgs, so that replaced blocks get other hashes.
    branch: u64,
    done_reorgs: usize,
    pending: Vec<ScriptedLog>,
    answers: HashMap<(Address, Vec<u8>), Called>,
    faults: Vec<Fault>,
    safe_lag: u64,
}

/// A handle on a mock chain. Clones share it.
#[derive(Debug, Clone)]
pub struct MockChain {
    inner: Arc<Mutex<Inner>>,
    /// The newest head, and how many heads there were before.
    heads: watch::Sender<u64>,
}

impl MockChain {
    /// The chain that a fixture describes, with its first block and history in place.
    pub fn new(fixture: Fixture) -> Self {
        let history = fixture.history_blocks;
        let inner = Inner {
            first_timestamp_s: fixture.first_timestamp_s.unwrap_or(0),
            faults: fixture
                .faults
                .iter()
                .map(|fault| Fault { at: fault.at, method: fault.method.clone(), kind: fault.kind, left: fault.count })
                .collect(),
            fixture,
            blocks: VecDeque::new(),
            orphans: HashMap::new(),
            remembers_orphans: true,
            branch: 0,
            done_reorgs: 0,
            pending: Vec::new(),
            answers: HashMap::new(),
            safe_lag: 32,
        };
        let chain = Self { inner: Arc::new(Mutex::new(inner)), heads: watch::channel(0).0 };
        chain.mine(history + 1);
        chain
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn chain_id(&self) -> u64 {
        self.lock().fixture.chain_id
    }

    pub fn name(&self) -> String {
        self.lock().fixture.name.clone()
    }

    pub(super) fn interval_ms(&self) -> u64 {
        self.lock().fixture.block_interval_ms
    }

    /// Dates blocks that have no fixed date; called before any time passes.
    pub(super) fn date_from(&self, now_s: u64) {
        let mut inner = self.lock();
        if inner.fixture.first_timestamp_s.is_none() && inner.first_timestamp_s == 0 {
            inner.first_timestamp_s = now_s.saturating_sub(inner.fixture.history_blocks);
            for block in &mut inner.blocks {
                block.header.timestamp_s += now_s.saturating_sub(block.header.number);
            }
        }
    }

    /// The next block of the script, or a generated one. False when the script is over and not endless.
    pub(super) fn play(&self) -> bool {
        let over = {
            let inner = self.lock();
            let played = inner.tip().map_or(0, |tip| tip - inner.fixture.first_block);
            !inner.fixture.endless && played >= inner.fixture.history_blocks + inner.fixture.blocks.len() as u64
        };
        if !over {
            self.mine(1);
        }
        !over
    }

    /// Makes blocks; each one becomes the head.
    pub fn mine(&self, count: u64) {
        let mut inner = self.lock();
        for _ in 0..count {
            inner.mine();
            let due = inner.fixture.reorgs.get(inner.done_reorgs).copied();
            if let Some(reorg) = due.filter(|reorg| inner.tip() == Some(reorg.at)) {
                inner.done_reorgs += 1;
                inner.rewind(reorg.depth);
                (0..reorg.depth).for_each(|_| inner.mine());
            }
        }
        drop(inner);
        self.heads.send_modify(|count| *count += 1);
    }

    /// Replaces the last `depth` blocks by `blocks` others.
    pub fn reorg(&self, depth: u64, blocks: u64) {
        let mut inner = self.lock();
        inner.rewind(depth);
        (0..blocks).for_each(|_| inner.mine());
        drop(inner);
        self.heads.send_modify(|count| *count += 1);
    }

    /// Puts a log into the next block.
    pub fn emit(&self, address: Address, topics: Vec<Hash>, data: Vec<u8>) {
        self.lock().pending.push(ScriptedLog { address, topics, data: super::word::HexBytes(data) });
    }

    /// Sets what `eth_call` to this address with exactly this data returns from now on.
    pub fn set_call(&self, to: Address, data: Vec<u8>, returns: Vec<u8>) {
        self.lock().answers.insert((to, data), Called::Returned(returns));
    }

    /// The next `count` uses of `method` (`eth_call`, `headers`, `logs`, `*`) fail.
    pub fn fail(&self, method: &str, kind: FaultKind, count: u64) {
        self.lock().faults.push(Fault { at: 0, method: method.to_owned(), kind, left: count });
    }

    /// From now on blocks of dead branches are unknown, as on Anvil.
    pub fn forget_orphans(&self) {
        let mut inner = self.lock();
        inner.remembers_orphans = false;
        inner.orphans.clear();
    }

    /// How far behind the head the safe block is; finalized is twice as far.
    pub fn set_safe_lag(&self, blocks: u64) {
        self.lock().safe_lag = blocks;
    }

    /// Number and hash of the head.
    pub fn head(&self) -> (u64, Hash) {
        self.lock().blocks.back().map_or((0, Hash::default()), |block| (block.header.number, block.header.hash))
    }

    /// Number and hash of every canonical block that is remembered, ascending.
    pub fn hashes(&self) -> Vec<(u64, Hash)> {
        self.lock().blocks.iter().map(|block| (block.header.number, block.header.hash)).collect()
    }

    pub(super) fn heads(&self) -> watch::Receiver<u64> {
        self.heads.subscribe()
    }

    pub(super) fn first_number(&self) -> u64 {
        self.lock().fixture.first_block
    }

    pub(super) fn safe_lag(&self) -> u64 {
        self.lock().safe_lag
    }

    /// Uses up one fault for this method, if there is one.
    pub(super) fn fault(&self, method: &str) -> Option<FaultKind> {
        let mut inner = self.lock();
        let tip = inner.tip().unwrap_or(0);
        let hits =
            |fault: &&mut Fault| fault.left > 0 && fault.at <= tip && (fault.method == "*" || fault.method == method);
        let fault = inner.faults.iter_mut().find(hits)?;
        fault.left -= 1;
        Some(fault.kind)
    }

    pub(super) fn block(&self, number: u64) -> Option<MockBlock> {
        self.lock().block(number).cloned()
    }

    /// The blocks above `number`, at most `max`, ascending.
    pub(super) fn headers_above(&self, number: Option<u64>, max: usize) -> Vec<Header> {
        let inner = self.lock();
        let skip = inner.blocks.iter().take_while(|block| number.is_some_and(|n| block.header.number <= n)).count();
        inner.blocks.iter().skip(skip).take(max).map(|block| block.header.clone()).collect()
    }

    pub(super) fn block_by_hash(&self, hash: &Hash) -> Option<MockBlock> {
        let inner = self.lock();
        inner.blocks.iter().rev().find(|block| block.header.hash == *hash).or_else(|| inner.orphans.get(hash)).cloned()
    }

    pub(super) fn call(&self, to: Address, data: &[u8], number: u64) -> Option<Called> {
        let inner = self.lock();
        if let Some(answer) = inner.answers.get(&(to, data.to_vec())) {
            return Some(answer.clone());
        }
        let call = inner
            .fixture
            .calls
            .iter()
            .filter(|call| call.to == to && data.starts_with(&call.data.0))
            .max_by_key(|call| call.data.0.len())?;
        Some(inner.answer(call, number))
    }

    /// Whether anything answers calls or emits logs at this address.
    pub(super) fn is_contract(&self, address: &Address) -> bool {
        let inner = self.lock();
        inner.fixture.calls.iter().any(|call| call.to == *address)
            || inner.fixture.emits.iter().any(|emit| emit.address == *address)
            || inner.answers.keys().any(|(to, _)| to == address)
    }
}

impl Inner {
    fn tip(&self) -> Option<u64> {
        self.blocks.back().map(|block| block.header.number)
    }

    fn block(&self, number: u64) -> Option<&MockBlock> {
        let first = self.blocks.front()?.header.number;
        self.blocks.get(usize::try_from(number.checked_sub(first)?).ok()?)
    }

    fn timestamp_s(&self, number: u64) -> u64 {
        let since_first = (number - self.fixture.first_block).saturating_mul(self.fixture.block_interval_ms) / 1_000;
        self.first_timestamp_s + since_first
    }

    fn rewind(&mut self, depth: u64) {
        self.branch += 1;
        for _ in 0..depth {
            if self.blocks.len() > 1
                && let Some(block) = self.blocks.pop_back()
                && self.remembers_orphans
            {
                self.orphans.insert(block.header.hash, block);
            }
        }
    }

    fn mine(&mut self) {
        let number = self.tip().map_or(self.fixture.first_block, |tip| tip + 1);
        let parent = self.blocks.back().map_or(Hash::default(), |block| block.header.hash);
        let timestamp_s = self.timestamp_s(number);
        let seed = self.fixture.seed;
        let at = At { seed, number, timestamp_s, salt: self.branch };
        let mut preimage = Vec::with_capacity(80);
        preimage.extend_from_slice(&self.fixture.chain_id.to_be_bytes());
        preimage.extend_from_slice(&at.random().to_be_bytes());
        preimage.extend_from_slice(&parent.0);
        let hash = Hash(keccak256(&preimage).0);
        let mut logs = self.scripted(number);
        logs.append(&mut self.pending);
        if self.script_index(number).is_none() {
            self.generate(at, &mut logs);
        }
        let mut bloom = Bloom::default();
        for log in &logs {
            let topics: Vec<B256> = log.topics.iter().map(|topic| B256::from(topic.0)).collect();
            bloom.accrue_raw_log(log.address.0.into(), &topics);
        }
        let logs = logs.into_iter().zip(0..).map(|(log, index)| Log {
            chain_id: self.fixture.chain_id,
            address: log.address.0.to_vec(),
            topics: log.topics.iter().map(|topic| topic.0.to_vec()).collect(),
            data: log.data.0,
            block_number: number,
            block_hash: hash.0.to_vec(),
            block_timestamp: timestamp_s * 1_000,
            transaction_hash: keccak256([hash.0.as_slice(), &u32::to_be_bytes(index)].concat()).0.to_vec(),
            transaction_index: index,
            log_index: index,
        });
        let logs = logs.collect();
        let header = Header { bloom: Some(Box::new(bloom)), ..Header::new(number, hash, parent, timestamp_s) };
        self.blocks.push_back(MockBlock { header, logs });
        if self.blocks.len() > BLOCKS_MAX {
            self.blocks.pop_front();
        }
        if self.orphans.len() > BLOCKS_MAX {
            self.orphans.clear();
        }
    }

    /// The script follows the first block and the history.
    fn script_index(&self, number: u64) -> Option<usize> {
        let index = number.checked_sub(self.fixture.first_block + self.fixture.history_blocks + 1)?;
        usize::try_from(index).ok().filter(|index| *index < self.fixture.blocks.len())
    }

    fn scripted(&self, number: u64) -> Vec<ScriptedLog> {
        let block = self.script_index(number).and_then(|index| self.fixture.blocks.get(index));
        block.map(|block| block.logs.clone()).unwrap_or_default()
    }

    fn generate(&self, at: At, logs: &mut Vec<ScriptedLog>) {
        for (index, emit) in self.fixture.emits.iter().enumerate() {
            let salt = (self.branch << 32) + (index as u64) * 1_000_000;
            let dice = At { salt, ..at }.random() as f64 / u64::MAX as f64;
            if !at.number.is_multiple_of(emit.every_blocks) || dice > emit.probability {
                continue;
            }
            for nth in 0..emit.count {
                let word = |place: usize| At { salt: salt + nth * 100 + place as u64 + 1, ..at };
                let topics = emit.topics.iter().enumerate().map(|(place, topic)| Hash(topic.value(word(place))));
                let data = emit.data.iter().enumerate().flat_map(|(place, value)| value.value(word(place + 10)));
                logs.push(ScriptedLog {
                    address: emit.address,
                    topics: topics.collect(),
                    data: super::word::HexBytes(data.collect()),
                });
            }
        }
    }

    fn answer(&self, call: &Call, number: u64) -> Called {
        if let Some(revert) = &call.revert {
            return Called::Reverted(revert.0.clone());
        }
        if let Some(sequence) = &call.sequence {
            let step = usize::try_from(number.saturating_sub(self.fixture.first_block)).unwrap_or(usize::MAX);
            let answer = sequence.get(step).or(sequence.last());
            return Called::Returned(answer.map(|bytes| bytes.0.clone()).unwrap_or_default());
        }
        let at = At { seed: self.fixture.seed, number, timestamp_s: self.timestamp_s(number), salt: 0 };
        let words = call.words.iter().flatten().enumerate();
        Called::Returned(words.flat_map(|(place, word)| word.value(At { salt: place as u64, ..at })).collect())
    }
}
