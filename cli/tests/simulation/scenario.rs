//! What a seed stands for: chains, nodes, modules and the faults that befall them.

mod faults;
mod nature;

pub use faults::*;
pub use nature::*;

use std::sync::atomic::Ordering;

use nexum_chain::{BloomUse, KEPT_HEADERS, Verify};

use crate::{chance::Chance, periodic::PERIODIC};

/// Contracts and event signatures that logs are drawn from.
pub const CONTRACTS: u64 = 4;
pub const SIGNATURES: u64 = 3;

pub fn contract(index: u64) -> [u8; 20] {
    [0xc0 + index as u8; 20]
}

pub fn signature(index: u64) -> [u8; 32] {
    [0x50 + index as u8; 32]
}

#[derive(Debug, Clone)]
pub struct Scenario {
    pub chains: Vec<ChainPlan>,
    pub modules: Vec<ModulePlan>,
    pub receivers: ReceiverPlan,
    pub faults: FaultPlan,
    /// Units that a module's journal keeps.
    pub journal_entries: u64,
    /// How long faults befall it and blocks are made, milliseconds.
    pub live_ms: u64,
    /// An event that waits for longer makes the engine's health unhealthy, milliseconds.
    pub event_age_ms: u64,
    /// How often the process may die of one event.
    pub deaths_max: u32,
}

/// What the blooms in a chain's headers hold, at every node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blooms {
    /// The block's logs.
    Exact,
    /// Those that are in receipts: there are others, as on Polygon.
    Partial,
    Zeros,
    /// They are told as `0x`.
    Short,
    Absent,
    Ones,
}

impl Blooms {
    /// Whether a header with such a bloom can have the hash of its fields.
    fn are_hashed(self) -> bool {
        !matches!(self, Self::Short | Self::Absent)
    }
}

#[derive(Debug, Clone)]
pub struct ChainPlan {
    pub id: u64,
    /// Blocks that are there at the start.
    pub history: u64,
    pub block_ms: u64,
    /// Of a hundred new heads, so many are reorgs.
    pub reorg_percent: u64,
    pub reorg_depth_max: u64,
    pub safe_lag: u64,
    pub finalized_lag: u64,
    pub blooms: Blooms,
    /// Hashes are those of the headers' fields, which have the root of the block's receipts.
    pub sealed: bool,
    /// Receipts of blocks are served.
    pub receipts: bool,
    /// What the engine is told of blooms, and of proofs.
    pub bloom: Option<BloomUse>,
    pub verify: Verify,
    /// A node that is always well. Where there is one, others say what is not.
    pub guard: Option<usize>,
    /// Of a hundred blocks, so many log something.
    pub log_percent: u64,
    /// Headers that the engine keeps: how deep a fork it can follow.
    pub kept_headers: usize,
    pub window_blocks: usize,
    pub max_log_range: u64,
    pub nodes: Vec<NodePlan>,
}

#[derive(Debug, Clone)]
pub struct NodePlan {
    pub ways: Ways,
    pub websocket: bool,
    /// Of a request and its answer, at most.
    pub delay_ms_max: u64,
    /// Until it has what the chain has, at most.
    pub lag_ms_max: u64,
    pub remembers_orphans: bool,
    /// Of ten thousand new heads, so many begin a bad time for the node.
    pub trouble: u64,
    /// Of ten thousand requests, so many fail in a good time too.
    pub hiccups: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    Latest,
    Confirmations(u64),
    Safe,
    Finalized,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blocks {
    None,
    All,
    Latest,
}

#[derive(Debug, Clone)]
pub struct LogPlan {
    pub contracts: Vec<u64>,
    pub signatures: Vec<u64>,
}

#[derive(Debug, Clone)]
pub struct ChainSource {
    /// Index into the scenario's chains.
    pub chain: usize,
    pub hold: Hold,
    pub blocks: Blocks,
    pub logs: Vec<LogPlan>,
    /// Absent: from the head that it sees first.
    pub start: Option<u64>,
}

impl ChainSource {
    /// The name that the engine gives it.
    pub fn id(&self, chain_id: u64) -> String {
        match self.hold {
            Hold::Latest => format!("chain:{chain_id}"),
            Hold::Confirmations(count) => format!("chain:{chain_id}:confirmations={count}"),
            Hold::Safe => format!("chain:{chain_id}:safe"),
            Hold::Finalized => format!("chain:{chain_id}:finalized"),
        }
    }
}

#[derive(Debug, Clone)]
pub struct CronSource {
    pub period_ms: u64,
    pub missed: &'static str,
}

#[derive(Debug, Clone)]
pub struct ModulePlan {
    pub name: String,
    pub rewinds: bool,
    pub chains: Vec<ChainSource>,
    pub cron: Option<CronSource>,
    pub poison: u64,
    pub how: &'static str,
    pub flaky: u64,
    pub flush: bool,
    pub failures_max: u32,
    pub attempts_max: u32,
    /// Of so many events one sends effects; 0 is none.
    pub send: u64,
    pub release: &'static str,
    /// Whether some of them go to the nodes of its first chain.
    pub rpc: bool,
    /// Whether some of them are transactions of the operator's account on its first chain.
    pub pays: bool,
    /// The operator lets it keep its state when it is put onto a chain.
    pub keeps: bool,
    /// Of so many events one takes much fuel, and is handled; 0 is none.
    pub costly: u64,
    /// It flushes between the effects that it sends.
    pub between: bool,
    /// It lists its state with every event.
    pub lists: bool,
    /// The operator has its dead letters delivered again.
    pub retries: bool,
    /// Of so many blocks and logs of a block one ends the process whenever it is handled; 0 is none.
    pub deadly: u64,
}

impl Scenario {
    pub fn draw(seed: u64) -> Self {
        let mut chance = Chance::new(seed, "scenario");
        let mut chains: Vec<ChainPlan> =
            (0..*chance.pick(&[1, 1, 1, 2, 2, 3])).map(|nth| chain(&mut chance, nth)).collect();
        let mut modules: Vec<_> = (0..chance.between(2, 5)).map(|nth| module(&mut chance, nth, &chains)).collect();
        let slowest = chains.iter().map(|chain| chain.block_ms).max().unwrap_or(1);
        let live_ms = (slowest * chance.between(20, 60)).min(600_000);
        let mut faults = FaultPlan::draw(&mut chance);
        // A stream of its own, so that chains and modules are those that the seed had before there were effects.
        let mut chance = Chance::new(seed, "effects");
        for module in &mut modules {
            module.send = *chance.pick(&[0, 2, 5]);
            module.release = *chance.pick::<&str>(&["committed", "mixed", "mixed", "finalized"]);
        }
        faults.order_every_ms = *chance.pick(&[0, 0, 20_000, 90_000]);
        let (receivers, journal_entries) = (ReceiverPlan::draw(&mut chance), *chance.pick(&[10_000, 512]));
        faults.upgrade_every_ms = *Chance::new(seed, "upgrades").pick(&[0, 0, 20_000, 60_000]);
        let mut chance = Chance::new(seed, "starts");
        for source in modules.iter_mut().flat_map(|module| &mut module.chains) {
            if chance.percent(25) {
                source.start = None;
            }
        }
        let mut chance = Chance::new(seed, "resyncs");
        for chain in &mut chains {
            if chance.percent(25) {
                chain.forget(&mut chance);
            }
        }
        modules.iter_mut().for_each(|module| module.keeps = chance.percent(30));
        faults.resync_every_ms = *chance.pick(&[0, 0, 20_000, 60_000]);
        let mut chance = Chance::new(seed, "rpc");
        for module in &mut modules {
            module.rpc = chance.percent(50) && module.send > 0 && !module.chains.is_empty();
        }
        let mut chance = Chance::new(seed, "natures");
        chains.iter_mut().for_each(|chain| chain.be(&mut chance));
        let mut chance = Chance::new(seed, "ways of nodes");
        chains.iter_mut().for_each(|chain| chain.serve(&mut chance));
        let mut chance = Chance::new(seed, "habits");
        for module in &mut modules {
            module.costly = *chance.pick(&[0, 0, 4, 12]);
            module.between = chance.percent(30) && module.send > 0;
            module.lists = chance.percent(50);
            // One that fails by chance may handle an event later. Where nothing is undone it may be of a block that is gone.
            module.retries = chance.percent(60) && module.rewinds && module.flaky > 0;
        }
        faults.retry_every_ms = *chance.pick(&[0, 15_000, 60_000]);
        let mut chance = Chance::new(seed, "loss of power");
        faults.power_percent = *chance.pick(&[0, 50, 100]);
        faults.power_in_write = *chance.pick(&[0, 0, 30, 100]);
        let event_age_ms = *Chance::new(seed, "health").pick(&[60_000, 60_000, 600_000]);
        let mut chance = Chance::new(seed, "payments");
        for module in &mut modules {
            let pays = module.chains.first().is_some_and(|source| chains[source.chain].takes_payments());
            module.pays = chance.percent(60) && pays && module.send > 0 && !PERIODIC.load(Ordering::Relaxed);
        }
        let deaths_max = faults.kill(&mut Chance::new(seed, "events and the process"), &mut modules);
        Self { chains, modules, receivers, faults, journal_entries, live_ms, event_age_ms, deaths_max }
    }

    /// A short and simple one, for trying every crash point.
    pub fn short(crash_at: Option<(u64, When)>) -> Self {
        let mut chance = Chance::new(7, "short");
        let mut chain = chain(&mut chance, 0);
        chain.history = 8;
        chain.block_ms = 3_000;
        chain.reorg_percent = 20;
        chain.reorg_depth_max = 4;
        chain.log_percent = 70;
        (chain.sealed, chain.receipts) = (true, true);
        chain.nodes.truncate(1);
        for node in &mut chain.nodes {
            (node.trouble, node.hiccups, node.lag_ms_max, node.delay_ms_max) = (0, 0, 200, 50);
        }
        let source = |hold, logs| ChainSource { chain: 0, hold, blocks: Blocks::All, logs, start: Some(5) };
        let all = || vec![LogPlan { contracts: vec![0, 1, 2], signatures: vec![] }];
        let plain = |name: &str, rewinds, chains| ModulePlan {
            name: name.into(),
            rewinds,
            chains,
            cron: None,
            poison: 0,
            how: "trap",
            flaky: 0,
            flush: false,
            failures_max: 10,
            attempts_max: 2,
            send: 0,
            release: "mixed",
            rpc: false,
            pays: false,
            keeps: false,
            costly: 0,
            between: false,
            lists: false,
            retries: false,
            deadly: 0,
        };
        let cron = Some(CronSource { period_ms: 10_000, missed: "all" });
        let modules = vec![
            ModulePlan { cron, send: 4, pays: true, ..plain("rewinds", true, vec![source(Hold::Latest, all())]) },
            ModulePlan { poison: 9, flush: true, ..plain("poisoned", true, vec![source(Hold::Latest, all())]) },
            ModulePlan {
                send: 6,
                rpc: true,
                between: true,
                ..plain("told", false, vec![source(Hold::Confirmations(2), vec![])])
            },
            // Its budget is smaller than the attempts at one event: it dies, and is started again by order.
            ModulePlan {
                poison: 9,
                failures_max: 2,
                attempts_max: 3,
                ..plain("mortal", true, vec![source(Hold::Latest, vec![])])
            },
        ];
        let faults = FaultPlan {
            crash_at,
            crashes_max: 1,
            order_every_ms: 10_000,
            upgrade_every_ms: 25_000,
            ..FaultPlan::default()
        };
        let receivers =
            ReceiverPlan { delay_ms_max: 400, slow: 0, hiccups: 2_000, trouble: 0, attempt_ms: 5_000, prune_every: 8 };
        Self {
            chains: vec![chain],
            modules,
            receivers,
            faults,
            journal_entries: 40,
            live_ms: 60_000,
            event_age_ms: 600_000,
            deaths_max: 3,
        }
    }
}

fn chain(chance: &mut Chance, nth: u64) -> ChainPlan {
    let forks = *chance.pick(&[0, 5, 10, 25]);
    let nodes = (0..*chance.pick(&[1, 2, 2, 3])).map(|_| node(chance)).collect();
    let safe_lag = chance.between(1, 12);
    let plan = ChainPlan {
        id: nth + 1,
        history: *chance.pick(&[3, 20, 60, 150]),
        block_ms: *chance.pick(&[1_000, 2_000, 4_000, 12_000]),
        reorg_percent: forks,
        reorg_depth_max: *chance.pick(&[1, 3, 8, 20]),
        safe_lag,
        finalized_lag: safe_lag * 2,
        blooms: Blooms::Exact,
        sealed: false,
        receipts: false,
        bloom: None,
        verify: Verify::Doubt,
        guard: None,
        log_percent: *chance.pick(&[10, 50, 90]),
        kept_headers: KEPT_HEADERS,
        window_blocks: *chance.pick(&[64, 128, 256]),
        max_log_range: *chance.pick(&[1, 7, 50, 2_000]),
        nodes,
    };
    // What is final stays; what is safe may go.
    ChainPlan { finalized_lag: plan.finalized_lag.max(plan.reorg_depth_max), ..plan }
}

fn node(chance: &mut Chance) -> NodePlan {
    NodePlan {
        ways: Ways::plain(),
        websocket: chance.percent(60),
        delay_ms_max: *chance.pick(&[5, 50, 400]),
        lag_ms_max: *chance.pick(&[1, 100, 3_000]),
        remembers_orphans: chance.percent(50),
        trouble: *chance.pick(&[0, 100, 500, 1_000]),
        hiccups: *chance.pick(&[0, 20, 200]),
    }
}

fn source(chance: &mut Chance, index: usize, chain: &ChainPlan) -> ChainSource {
    let hold = match chance.below(10) {
        0..=5 => Hold::Latest,
        6..=7 => Hold::Confirmations(chance.between(1, 8)),
        8 => Hold::Safe,
        _ => Hold::Finalized,
    };
    let mut blocks = *chance.pick(&[Blocks::All, Blocks::All, Blocks::All, Blocks::None, Blocks::Latest]);
    let logs: Vec<LogPlan> = (0..chance.below(3)).map(|_| log_plan(chance)).collect();
    if logs.is_empty() && blocks == Blocks::None {
        blocks = Blocks::All;
    }
    ChainSource { chain: index, hold, blocks, logs, start: Some(chance.between(1, chain.history + 2)) }
}

fn log_plan(chance: &mut Chance) -> LogPlan {
    let contracts = (0..CONTRACTS).filter(|_| chance.percent(40)).collect();
    let signatures = if chance.percent(50) { vec![] } else { vec![chance.below(SIGNATURES)] };
    LogPlan { contracts, signatures }
}

fn module(chance: &mut Chance, nth: u64, chains: &[ChainPlan]) -> ModulePlan {
    let rewinds = chance.percent(75);
    let mut sources = Vec::new();
    for (index, chain) in chains.iter().enumerate() {
        if chance.percent(if chains.len() == 1 { 95 } else { 60 }) {
            sources.push(source(chance, index, chain));
        }
    }
    let fails = chance.percent(40);
    let (how, rule) = (*chance.pick(&["trap", "error", "fuel"]), *chance.pick(&["all", "once", "skip"]));
    // One that fails at many ticks needs longer for them than five seconds each, and would never be done.
    let shortest_ms = if fails { 20_000 } else { 0 };
    let cron = (sources.is_empty() || chance.percent(30)).then(|| CronSource {
        period_ms: *chance.pick(&[5_000, 20_000, 60_000]).max(&shortest_ms),
        // What a rule leaves out is left out again, or not, when a rewind repeats it.
        missed: if rewinds && !sources.is_empty() { "all" } else { rule },
    });
    ModulePlan {
        name: format!("m{nth}"),
        rewinds,
        chains: sources,
        cron,
        poison: if fails { *chance.pick(&[0, 9, 25]) } else { 0 },
        how,
        flaky: if fails { *chance.pick(&[0, 6, 20]) } else { 0 },
        flush: chance.percent(50),
        failures_max: *chance.pick(&[4, 10]),
        attempts_max: *chance.pick(&[1, 2, 3]),
        send: 0,
        release: "mixed",
        rpc: false,
        pays: false,
        keeps: false,
        costly: 0,
        between: false,
        lists: false,
        retries: false,
        deadly: 0,
    }
}
