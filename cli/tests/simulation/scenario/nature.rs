//! What is a chain's doing at every node, drawn.

use super::*;

impl ChainPlan {
    /// Makes forks that are deeper than what is kept of the chain.
    pub(super) fn forget(&mut self, chance: &mut Chance) {
        self.kept_headers = 16;
        self.reorg_percent = self.reorg_percent.max(5);
        self.reorg_depth_max = *chance.pick(&[8, 20, 40]);
        self.finalized_lag = self.finalized_lag.max(self.reorg_depth_max);
    }

    /// Draws what is the chain's doing at every node, and what the engine is told of it.
    pub(super) fn be(&mut self, chance: &mut Chance) {
        use Blooms::*;
        self.blooms = *chance.pick(&[Exact, Exact, Exact, Exact, Exact, Partial, Zeros, Short, Absent, Ones]);
        self.sealed = self.blooms.are_hashed() && chance.percent(60);
        self.receipts = chance.percent(70);
        // What is known of chains by their numbers shall not be wrong: Ethereum's is 1, Polygon's is 137.
        let as_known = chance.percent(40) && self.id == 1;
        self.id = match self.blooms {
            Exact if as_known => 1,
            Partial if as_known => 137,
            _ => 20 + self.id,
        };
        self.bloom = match self.blooms {
            Exact => *chance.pick(&[None, Some(BloomUse::Exact), Some(BloomUse::Exact), Some(BloomUse::Hint)]),
            _ => *chance.pick(&[None, Some(BloomUse::Hint)]),
        };
        let provable = self.sealed && self.receipts && self.blooms != Partial;
        self.verify = match provable {
            true => *chance.pick(&[Verify::Doubt, Verify::Doubt, Verify::Always, Verify::Off]),
            false => *chance.pick(&[Verify::Doubt, Verify::Doubt, Verify::Off]),
        };
    }

    /// Draws what each node takes and how it answers, and whether nodes deceive.
    pub(super) fn serve(&mut self, chance: &mut Chance) {
        let count = self.nodes.len();
        for node in &mut self.nodes {
            node.ways = Ways::draw(chance);
            // Without a bloom nothing tells that a block has logs.
            if self.blooms != Blooms::Exact && node.ways.by_hash == ByHash::Empty {
                node.ways.by_hash = ByHash::Refused;
            }
        }
        if count > 1 && chance.percent(60) {
            let guard = usize::try_from(chance.below(count as u64)).unwrap_or(0);
            for (index, node) in self.nodes.iter_mut().enumerate() {
                match index == guard {
                    true => (node.trouble, node.hiccups) = (0, 0),
                    false => node.trouble = *chance.pick(&[500, 1_000, 2_000]),
                }
            }
            self.guard = Some(guard);
        }
        // What nobody tells cannot be waited for.
        self.nodes[self.guard.unwrap_or(0)].ways.tags = true;
    }

    /// Whether what is true of an account can be found out, and stays so: with a node that makes up a chain, a transaction may be
    /// called final that is in no block for long.
    pub(super) fn takes_payments(&self) -> bool {
        let plain = |node: &NodePlan| !node.ways.decimals;
        self.guard.is_none() && self.reorg_depth_max <= 20 && self.nodes.iter().all(plain)
    }

    /// Whether the engine takes what is not in a bloom for what is not in the block.
    pub fn relies_on_blooms(&self) -> bool {
        self.blooms == Blooms::Exact && (self.bloom == Some(BloomUse::Exact) || (self.bloom.is_none() && self.id == 1))
    }
}

/// The times that a node gives logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dates {
    Right,
    Zero,
    Absent,
    Wrong,
}

/// What a node's subscriptions tell of a new head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heads {
    Whole,
    /// With another hash than that of the block.
    OtherHash,
    NoHash,
    Number,
}

/// What a node answers when it is asked for the logs of a block by its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByHash {
    Told,
    Refused,
    /// None, whatever the block has.
    Empty,
}

/// What a node takes, and how it answers, as long as it lives. 0 is without a limit.
#[derive(Debug, Clone)]
pub struct Ways {
    pub batches: bool,
    pub batch_max: usize,
    /// Blocks of one range of logs.
    pub range_max: u64,
    /// Logs of one answer about several blocks.
    pub logs_max: usize,
    /// Addresses, and topics, of one filter.
    pub list_max: usize,
    /// The error for what it does not take.
    pub refusal: (i64, &'static str),
    pub ids_are_texts: bool,
    /// No logs are told as `null`.
    pub nulls: bool,
    pub dates: Dates,
    pub heads: Heads,
    /// Numbers are told in decimal digits.
    pub decimals: bool,
    pub subscribes: bool,
    pub by_hash: ByHash,
    /// Every third block of a batch is `null`, whether it has the block or not.
    pub null_blocks: bool,
    /// Refuses the question whether it syncs with a status.
    pub forbids: bool,
    /// Knows what is safe and final.
    pub tags: bool,
}

impl Ways {
    pub fn plain() -> Self {
        Self {
            batches: true,
            batch_max: 0,
            range_max: 0,
            logs_max: 0,
            list_max: 0,
            refusal: (-32_000, "no"),
            ids_are_texts: false,
            nulls: false,
            dates: Dates::Right,
            heads: Heads::Whole,
            decimals: false,
            subscribes: true,
            by_hash: ByHash::Told,
            null_blocks: false,
            forbids: false,
            tags: true,
        }
    }

    /// A node without any, with one of them, or with several.
    pub(super) fn draw(chance: &mut Chance) -> Self {
        let mut ways = Self::plain();
        let refusals = [(-32_000, "no"), (-32_602, "invalid params"), (-32_603, "internal error"), (-32_005, "sorry")];
        ways.refusal = *chance.pick(&refusals);
        let many = *chance.pick(&[0, 0, 1, 1, 3, 6]);
        for _ in 0..many {
            match chance.below(14) {
                0 => ways.batches = false,
                1 => ways.batch_max = *chance.pick(&[1, 2, 5, 20]),
                2 => ways.range_max = *chance.pick(&[1, 3, 10, 100]),
                // More than one block can have.
                3 => ways.logs_max = *chance.pick(&[6, 10, 30]),
                4 => ways.list_max = *chance.pick(&[1, 2, 3]),
                5 => ways.ids_are_texts = true,
                6 => ways.nulls = true,
                7 => ways.dates = *chance.pick(&[Dates::Zero, Dates::Absent, Dates::Wrong]),
                8 => ways.heads = *chance.pick(&[Heads::OtherHash, Heads::NoHash, Heads::Number]),
                9 => ways.decimals = true,
                10 => ways.subscribes = false,
                11 => ways.null_blocks = true,
                12 => ways.forbids = true,
                _ => ways.by_hash = *chance.pick(&[ByHash::Refused, ByHash::Empty]),
            }
        }
        ways.tags = !chance.percent(12);
        ways
    }
}
