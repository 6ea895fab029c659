//! The world outside the engine: chains that grow and fork, and nodes that follow them, well or badly. It knows only time
//! and chance; the engine's crashes do not touch it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use nexum_chain::Verify;

use crate::{
    accounts::Accounts,
    block::Block,
    chance::Chance,
    scenario::{Blooms, ChainPlan, NodePlan, Scenario},
    trace::Trace,
};

pub type Hash = [u8; 32];
/// The canonical blocks from 0 on, as somebody sees them.
pub type View = Arc<Vec<Arc<Block>>>;

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
    /// Its longer answers are larger than anybody takes.
    Large,
    /// It has the chain only up to far below, and says that it gets there.
    Syncs,
    /// Has a few blocks on the true head that nobody else has.
    NearHead,
    /// Says what is not.
    Lies,
    /// Leaves out the logs of a block that is named by its hash.
    Hides,
    /// Leaves out the logs of some blocks of a range.
    Omits,
    /// Has a long branch of its own on the true head.
    FarHead,
    /// Calls its head final.
    Claims,
    /// Has another chain, from the first block on.
    Resets,
}

/// Those that change which chain a node shows.
const DISGUISES: [Trouble; 4] = [Trouble::Syncs, Trouble::NearHead, Trouble::FarHead, Trouble::Resets];

impl Trouble {
    /// Those of whoever may be alone: what it says then is the truth, or a fork that goes away.
    const HARMLESS: [Self; 9] = [
        Self::Down,
        Self::Silent,
        Self::Stuck,
        Self::Slow,
        Self::Hangs,
        Self::Refuses,
        Self::Large,
        Self::Syncs,
        Self::NearHead,
    ];
    /// Those that somebody else must be there to disprove.
    const DECEPTIVE: [Self; 7] =
        [Self::Lies, Self::Hides, Self::Omits, Self::FarHead, Self::Claims, Self::Resets, Self::NearHead];
}

/// What a node shows in place of the chain that it would have.
enum Guise {
    /// This, and nothing new; its own from this many blocks on.
    Far { view: View, fork: usize },
    /// The chain with a few blocks on it.
    Near { sealed: bool },
    /// The chain up to this block.
    Climbs(usize),
    /// One of its own, which grows.
    Other { chain: Vec<Arc<Block>>, sealed: bool },
}

pub struct Node {
    pub plan: NodePlan,
    pub view: View,
    /// What it would show if it were well.
    truth: View,
    guise: Option<Guise>,
    /// Everything that it has seen and remembers.
    pub known: BTreeMap<Hash, Arc<Block>>,
    coming: VecDeque<(u64, View)>,
    pub troubles: BTreeMap<Trouble, u64>,
    /// Since when it has had no trouble.
    pub well_since_ms: Option<u64>,
    pub chance: Chance,
    /// Counts what its subscribers may notice.
    pub version: u64,
    /// Open ones.
    pub connections: u64,
}

impl Node {
    fn new(plan: &NodePlan, chance: Chance) -> Self {
        Self {
            plan: plan.clone(),
            view: View::default(),
            truth: View::default(),
            guise: None,
            known: BTreeMap::new(),
            coming: VecDeque::new(),
            troubles: BTreeMap::new(),
            well_since_ms: Some(0),
            chance,
            version: 0,
            connections: 0,
        }
    }

    pub fn suffers(&self, trouble: Trouble) -> bool {
        self.troubles.contains_key(&trouble)
    }

    /// The highest block that is not of its own making.
    pub fn honest_head(&self) -> u64 {
        let blocks = match &self.guise {
            Some(Guise::Far { fork, .. }) => *fork,
            Some(Guise::Near { .. }) => self.truth.len(),
            _ => self.view.len(),
        };
        blocks as u64 - 1
    }

    fn see(&mut self, truth: View, plan: &ChainPlan, now_ms: u64) {
        self.truth = truth;
        self.show(plan, now_ms);
    }

    fn show(&mut self, plan: &ChainPlan, now_ms: u64) {
        if !self.plan.remembers_orphans || matches!(self.guise, Some(Guise::Climbs(_) | Guise::Other { .. })) {
            self.known.clear();
        }
        let chance = &mut self.chance;
        self.view = match &mut self.guise {
            None => self.truth.clone(),
            Some(Guise::Far { view, .. }) => view.clone(),
            Some(Guise::Near { sealed }) => {
                let mut blocks = (*self.truth).clone();
                let count = chance.between(1, 3);
                (0..count).for_each(|_| blocks.push(Block::on(blocks.last(), plan, *sealed, now_ms, chance)));
                View::new(blocks)
            }
            Some(Guise::Climbs(height)) => {
                *height += 1 + self.truth.len() / 8;
                View::new(self.truth[..self.truth.len().min(*height)].to_vec())
            }
            Some(Guise::Other { chain, sealed }) => {
                chain.push(Block::on(chain.last(), plan, *sealed, now_ms, chance));
                View::new(chain.clone())
            }
        };
        self.known.extend(self.view.iter().map(|block| (block.hash, block.clone())));
        self.version += 1;
    }

    /// What it shows from now on, when that is another chain than the true one.
    fn disguise(&mut self, trouble: Trouble, plan: &ChainPlan, now_ms: u64) {
        let sealed = plan.sealed && (plan.guard.is_none() || self.chance.percent(50));
        let length = self.truth.len() as u64;
        self.guise = match trouble {
            Trouble::FarHead => {
                let mut blocks = (*self.truth).clone();
                for _ in 0..*self.chance.pick(&[20, 100, 700]) {
                    blocks.push(Block::on(blocks.last(), plan, sealed, now_ms, &mut self.chance));
                }
                Some(Guise::Far { view: View::new(blocks), fork: self.truth.len() })
            }
            Trouble::NearHead => Some(Guise::Near { sealed }),
            Trouble::Syncs => Some(Guise::Climbs(usize::try_from(self.chance.below(length)).unwrap_or(0))),
            Trouble::Resets => {
                let mut chain = Vec::new();
                for _ in 0..self.chance.between(1, length + 10) {
                    chain.push(Block::on(chain.last(), plan, sealed, now_ms, &mut self.chance));
                }
                Some(Guise::Other { chain, sealed })
            }
            _ => return,
        };
        self.show(plan, now_ms);
    }

    fn is_disguised(&self) -> bool {
        self.guise.is_some()
    }
}

pub struct Chain {
    pub plan: ChainPlan,
    pub canon: View,
    pub nodes: Vec<Node>,
    pub accounts: Accounts,
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
                accounts: Accounts::new(Chance::new(seed, &format!("accounts {}", plan.id))),
                next_ms: plan.block_ms,
                longest: 0,
                plan: plan.clone(),
            };
            (0..=plan.history).for_each(|_| chain.mine(0));
            let canon = chain.canon.clone();
            let nodes = (0..).zip(&plan.nodes).map(|(nth, node)| {
                let mut node = Node::new(node, Chance::new(seed, &format!("node {}.{nth}", plan.id)));
                node.see(canon.clone(), plan, 0);
                node
            });
            chain.nodes = nodes.collect();
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
    pub fn calm_down(&mut self, now_ms: u64) {
        self.calm = true;
        for chain in &mut self.chains {
            let end = chain.longest + 1;
            while chain.canon.len() as u64 <= end {
                chain.mine(now_ms);
            }
            chain.accounts.calm_down(&chain.canon);
            let head = chain.canon.last().map(|block| (block.number, hex::encode(&block.hash[..4])));
            self.trace.note(format_args!("chain {}: ends at {head:?}", chain.plan.id));
            for node in &mut chain.nodes {
                node.troubles.clear();
                node.well_since_ms.get_or_insert(now_ms);
                node.guise = None;
                node.coming.clear();
                node.see(chain.canon.clone(), &chain.plan, now_ms);
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
                if node.troubles.is_empty() {
                    node.well_since_ms = Some(due);
                }
                if node.is_disguised() && !DISGUISES.iter().any(|trouble| node.suffers(*trouble)) {
                    node.guise = None;
                    node.show(&self.plan, due);
                }
            }
            while node.coming.front().is_some_and(|(at, _)| *at <= due) {
                if let Some((_, view)) = node.coming.pop_front()
                    && !node.suffers(Trouble::Stuck)
                {
                    node.see(view, &self.plan, due);
                    if node.suffers(Trouble::NearHead) {
                        self.longest = self.longest.max(node.view.len() as u64 - 1);
                    }
                }
            }
        }
        if calm || self.next_ms > due {
            return;
        }
        self.next_ms = due + self.plan.block_ms * self.chance.between(50, 150) / 100;
        if self.chance.percent(self.plan.reorg_percent) && self.canon.len() as u64 + 8 > self.longest {
            let depth = self.chance.between(1, self.plan.reorg_depth_max).min(self.canon.len() as u64 - 1);
            self.accounts.orphan(&self.canon, depth);
            let canon = Arc::make_mut(&mut self.canon);
            canon.truncate(canon.len() - depth as usize);
            let blocks = depth + self.chance.below(3);
            (0..blocks).for_each(|_| self.mine(due));
            trace.note(format_args!("chain {id}: reorg of {depth}"));
        } else {
            self.mine(due);
        }
        let (number, hash) = self.canon.last().map_or((0, [0; 32]), |block| (block.number, block.hash));
        trace.note(format_args!("chain {id}: head {number} {}", hex::encode(&hash[..4])));
        self.tell(due, trace);
    }

    /// Sends the chain on its way to the nodes, some of which have a bad time from now on.
    fn tell(&mut self, now_ms: u64, trace: &Trace) {
        for nth in 0..self.nodes.len() {
            let node = &mut self.nodes[nth];
            let due = now_ms + node.chance.below(node.plan.lag_ms_max);
            let due = node.coming.back().map_or(due, |(last, _)| due.max(*last));
            node.coming.push_back((due, self.canon.clone()));
            if !node.chance.per_myriad(node.plan.trouble) {
                continue;
            }
            let deceptive = node.chance.percent(50);
            let trouble = match deceptive {
                true => *node.chance.pick(&Trouble::DECEPTIVE),
                false => *node.chance.pick(&Trouble::HARMLESS),
            };
            let long = node.chance.percent(10);
            let until =
                now_ms + if long { node.chance.between(60_000, 300_000) } else { node.chance.between(1_000, 60_000) };
            if !self.may_suffer(nth, trouble) {
                continue;
            }
            trace.note(format_args!("node {}.{nth}: {trouble:?} until {}", self.plan.id, until / 1_000));
            let node = &mut self.nodes[nth];
            node.troubles.insert(trouble, until);
            node.well_since_ms = None;
            node.version += 1;
            node.disguise(trouble, &self.plan, now_ms);
            if trouble == Trouble::NearHead {
                self.longest = self.longest.max(node.view.len() as u64 - 1);
            }
        }
    }

    /// Whether somebody is there who knows better, as far as that is needed.
    fn may_suffer(&self, nth: usize, trouble: Trouble) -> bool {
        let node = &self.nodes[nth];
        // One shows one chain at a time.
        if DISGUISES.contains(&trouble) && node.is_disguised() {
            return false;
        }
        let alone = self.plan.guard.is_none();
        if !Trouble::DECEPTIVE.contains(&trouble) || (trouble == Trouble::NearHead && alone) {
            return true;
        }
        // What two say that agree on it nobody can find out.
        let deceives = |node: &Node| Trouble::DECEPTIVE.iter().any(|trouble| node.suffers(*trouble));
        if alone || self.nodes.iter().any(deceives) {
            return false;
        }
        // That a log is missing only a bloom says, or a proof.
        let promised = self.plan.blooms == Blooms::Exact || self.plan.verify == Verify::Always;
        promised || !matches!(trouble, Trouble::Hides | Trouble::Omits)
    }

    fn mine(&mut self, now_ms: u64) {
        let block = Block::on(self.canon.last(), &self.plan, self.plan.sealed, now_ms, &mut self.chance);
        self.longest = self.longest.max(block.number);
        Arc::make_mut(&mut self.canon).push(block);
        self.accounts.mine(&self.canon);
    }
}
