//! The world outside the engine: chains that grow and fork, and nodes that follow them, well or badly. It knows only time
//! and chance; the engine's crashes do not touch it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use alloy::primitives::{B256, Bloom};
use serde_json::{Value, json};

use crate::{
    chance::Chance,
    scenario::{CONTRACTS, ChainPlan, NodePlan, SIGNATURES, Scenario, contract, signature},
    trace::Trace,
};

pub type Hash = [u8; 32];
/// The canonical blocks from 0 on, as somebody sees them.
pub type View = Arc<Vec<Arc<Block>>>;

#[derive(Debug)]
pub struct Block {
    pub number: u64,
    pub hash: Hash,
    pub logs: Vec<Log>,
    /// What a node tells of it.
    pub header: Value,
}

#[derive(Debug, Clone)]
pub struct Log {
    pub index: u64,
    pub contract: u64,
    pub signature: u64,
    pub transaction: Hash,
}

pub fn hexed(bytes: impl AsRef<[u8]>) -> String {
    format!("0x{}", hex::encode(bytes))
}

/// What ails a node for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// Connections end and are refused.
    Down,
    /// Subscriptions say nothing.
    Silent,
    /// It learns nothing new.
    Stuck,
    Slow,
    /// Requests are not answered at all.
    Hangs,
    /// Answers 429 and 5xx.
    Refuses,
    /// Says what is not.
    Lies,
    /// Leaves out logs.
    Hides,
}

pub struct Node {
    pub plan: NodePlan,
    pub view: View,
    /// Everything that it has seen and remembers.
    pub known: BTreeMap<Hash, Arc<Block>>,
    coming: VecDeque<(u64, View)>,
    pub troubles: BTreeMap<Trouble, u64>,
    pub chance: Chance,
    /// Counts what its subscribers may notice.
    pub version: u64,
    /// Open ones.
    pub connections: u64,
}

impl Node {
    pub fn suffers(&self, trouble: Trouble) -> bool {
        self.troubles.contains_key(&trouble)
    }

    fn see(&mut self, view: View) {
        if !self.plan.remembers_orphans {
            self.known.clear();
        }
        self.known.extend(view.iter().map(|block| (block.hash, block.clone())));
        self.view = view;
        self.version += 1;
    }
}

pub struct Chain {
    pub plan: ChainPlan,
    pub canon: View,
    pub nodes: Vec<Node>,
    chance: Chance,
    next_ms: u64,
    longest: u64,
}

pub struct World {
    pub chains: Vec<Chain>,
    pub calm: bool,
    trace: Trace,
}

impl World {
    pub fn new(seed: u64, scenario: &Scenario, trace: Trace) -> Self {
        let chain = |plan: &ChainPlan| {
            let mut chain = Chain {
                chance: Chance::new(seed, &format!("chain {}", plan.id)),
                canon: View::default(),
                nodes: Vec::new(),
                next_ms: plan.block_ms,
                longest: 0,
                plan: plan.clone(),
            };
            (0..=plan.history).for_each(|_| chain.mine());
            let canon = chain.canon.clone();
            chain.nodes = (0..)
                .zip(&plan.nodes)
                .map(|(nth, node)| {
                    let chance = Chance::new(seed, &format!("node {}.{nth}", plan.id));
                    let mut node = Node {
                        plan: node.clone(),
                        view: View::default(),
                        known: BTreeMap::new(),
                        coming: VecDeque::new(),
                        troubles: BTreeMap::new(),
                        chance,
                        version: 0,
                        connections: 0,
                    };
                    node.see(canon.clone());
                    node
                })
                .collect();
            chain
        };
        Self { chains: scenario.chains.iter().map(chain).collect(), calm: false, trace }
    }

    /// When something happens next, milliseconds.
    pub fn next_ms(&self) -> u64 {
        self.chains.iter().map(|chain| chain.next_change(self.calm)).min().unwrap_or(u64::MAX)
    }

    /// Lets happen what happens until then, in order. Whether anything did.
    pub fn advance_to(&mut self, now_ms: u64) -> bool {
        let mut changed = false;
        loop {
            let due = self.next_ms();
            if due > now_ms {
                return changed;
            }
            changed = true;
            let calm = self.calm;
            if let Some(chain) = self.chains.iter_mut().find(|chain| chain.next_change(calm) == due) {
                chain.change(due, calm, &self.trace);
            }
        }
    }

    /// No more blocks and no more troubles: every node has the chain, which ends higher than it ever was.
    pub fn calm_down(&mut self) {
        self.calm = true;
        for chain in &mut self.chains {
            let end = chain.longest + 1;
            while chain.canon.len() as u64 <= end {
                chain.mine();
            }
            let head = chain.canon.last().map(|block| (block.number, hex::encode(&block.hash[..4])));
            self.trace.note(format_args!("chain {}: ends at {head:?}", chain.plan.id));
            for node in &mut chain.nodes {
                node.troubles.clear();
                node.coming.clear();
                node.see(chain.canon.clone());
            }
        }
    }
}

impl Chain {
    fn next_change(&self, calm: bool) -> u64 {
        let node = |node: &Node| {
            let coming = node.coming.front().map_or(u64::MAX, |(due, _)| *due);
            coming.min(node.troubles.values().copied().min().unwrap_or(u64::MAX))
        };
        let nodes = self.nodes.iter().map(node).min().unwrap_or(u64::MAX);
        if calm { nodes } else { nodes.min(self.next_ms) }
    }

    fn change(&mut self, due: u64, calm: bool, trace: &Trace) {
        let id = self.plan.id;
        for (nth, node) in self.nodes.iter_mut().enumerate() {
            let before = node.troubles.len();
            node.troubles.retain(|_, until| *until > due);
            if node.troubles.len() < before {
                trace.note(format_args!("node {id}.{nth}: better"));
                node.version += 1;
            }
            while node.coming.front().is_some_and(|(at, _)| *at <= due) {
                if let Some((_, view)) = node.coming.pop_front()
                    && !node.suffers(Trouble::Stuck)
                {
                    node.see(view);
                }
            }
        }
        if calm || self.next_ms > due {
            return;
        }
        self.next_ms = due + self.plan.block_ms * self.chance.between(50, 150) / 100;
        if self.chance.percent(self.plan.reorg_percent) && self.canon.len() as u64 + 8 > self.longest {
            let depth = self.chance.between(1, self.plan.reorg_depth_max).min(self.canon.len() as u64 - 1);
            let canon = Arc::make_mut(&mut self.canon);
            canon.truncate(canon.len() - depth as usize);
            let blocks = depth + self.chance.below(3);
            (0..blocks).for_each(|_| self.mine());
            trace.note(format_args!("chain {id}: reorg of {depth}"));
        } else {
            self.mine();
        }
        let (number, hash) = self.canon.last().map_or((0, [0; 32]), |block| (block.number, block.hash));
        trace.note(format_args!("chain {id}: head {number} {}", hex::encode(&hash[..4])));
        self.tell(due, trace);
    }

    /// Sends the chain on its way to the nodes, some of which have a bad time from now on.
    fn tell(&mut self, now_ms: u64, trace: &Trace) {
        let several = self.nodes.len() > 1;
        let mut liar = self.nodes.iter().any(|node| node.suffers(Trouble::Lies));
        let hider = self.nodes.iter().position(|node| node.suffers(Trouble::Hides));
        let well = |node: &Node| node.troubles.is_empty() && node.plan.hiccups == 0;
        let mut all_well = self.plan.blooms && several && self.nodes.iter().all(well);
        for (nth, node) in self.nodes.iter_mut().enumerate() {
            let due = now_ms + node.chance.below(node.plan.lag_ms_max);
            let due = node.coming.back().map_or(due, |(last, _)| due.max(*last));
            node.coming.push_back((due, self.canon.clone()));
            if node.chance.per_myriad(node.plan.trouble) {
                use Trouble::*;
                let trouble = *node.chance.pick(&[Down, Silent, Stuck, Slow, Hangs, Refuses, Lies, Hides]);
                // Whoever looks twice must find somebody who knows better.
                if hider.is_some_and(|hider| hider != nth) || (trouble == Hides && !all_well) {
                    continue;
                }
                all_well = false;
                // What a lone node says cannot be checked, nor what two say that agree on it.
                if trouble == Lies && (!several || std::mem::replace(&mut liar, true)) {
                    continue;
                }
                let until = now_ms + node.chance.between(1_000, 60_000);
                trace.note(format_args!("node {}.{nth}: {trouble:?} until {}", self.plan.id, until / 1_000));
                node.troubles.insert(trouble, until);
                node.version += 1;
            }
        }
    }

    fn mine(&mut self) {
        let number = self.canon.len() as u64;
        let parent = self.canon.last().map_or([0; 32], |block| block.hash);
        let hash = self.chance.hash();
        let count = if self.chance.percent(self.plan.log_percent) { self.chance.between(1, 4) } else { 0 };
        let logs: Vec<Log> = (0..count)
            .map(|index| Log {
                index,
                contract: self.chance.below(CONTRACTS),
                signature: self.chance.below(SIGNATURES),
                transaction: self.chance.hash(),
            })
            .collect();
        let mut bloom = Bloom::default();
        for log in &logs {
            bloom.accrue_raw_log(contract(log.contract).into(), &[B256::from(signature(log.signature))]);
        }
        let mut header = json!({
            "number": format!("{number:#x}"),
            "hash": hexed(hash),
            "parentHash": hexed(parent),
            "timestamp": format!("{:#x}", number * self.plan.block_ms / 1_000),
            "gasUsed": "0x5208",
        });
        if self.plan.blooms {
            header["logsBloom"] = hexed(bloom).into();
        }
        Arc::make_mut(&mut self.canon).push(Arc::new(Block { number, hash, logs, header }));
        self.longest = self.longest.max(number);
    }
}
