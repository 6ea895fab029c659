//! One account on one chain: what waits for a nonce, what every nonce was signed for, and what is to be done next.
//!
//! Pure: `submit` and `order` say what is wanted, `step` says what to do, `take` hears what came of it; time is an argument,
//! and everything that must outlive the process is in the writes. The results of actions may come in any order, or never.
//!
//! Invariants: bytes are broadcast only once their record is durable. The next nonce is the lowest from the chain's own on
//! that no record counts for. A nonce is given to other work only when nothing that was signed with it can be mined; an
//! intent gets another nonce only when its own was used by another transaction.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use nexum_host_ifaces::{
    interfaces::identity::port::{Fees, Purpose, SignedTransaction, TransactionRequest, UnsignedTransaction, Wei},
    transactions::{Intent, SubmitAnswer},
};

use crate::{
    fees::Bounds,
    record::{QueueKey, Slot, Standing},
};

mod answers;
mod drafting;
mod ended;
mod following;
mod live;
mod messages;
mod sending;
mod waiting;
mod waits;

pub use self::{
    answers::newest,
    messages::{Action, Call, Facts, Found, Input, Note, Simulated, Votes, Written},
};
use self::{
    live::{Heads, Live},
    waiting::Waiting,
};

/// What the operator says of one chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainSettings {
    /// Nonces of one account that are in no block; nodes keep few of one account, and drop the rest.
    pub max_in_flight: usize,
    /// How long the lowest nonce may stay in no block before it is replaced with higher fees.
    pub replace_after: Duration,
    /// Wei per unit of gas: nothing pays more.
    pub max_fee_per_gas: u128,
    /// In percent of what the market pays.
    pub market_percent: u32,
    /// What is added to an estimate.
    pub gas_margin_percent: u32,
    /// How often the chain is looked at while something is under way.
    pub poll: Duration,
}

impl Default for ChainSettings {
    fn default() -> Self {
        Self {
            max_in_flight: 16,
            replace_after: Duration::from_secs(60),
            max_fee_per_gas: 500_000_000_000,
            market_percent: 300,
            gas_margin_percent: 20,
            poll: Duration::from_secs(1),
        }
    }
}

impl ChainSettings {
    fn bounds(&self, intent: Option<&Intent>, ceiling: Option<u128>) -> Bounds {
        let fees = intent.map(|intent| &intent.fees);
        let caps = [ceiling, fees.and_then(|fees| fees.max_fee_per_gas)];
        let percent = fees.and_then(|fees| fees.market_percent).unwrap_or(u32::MAX);
        Bounds {
            cap: caps.into_iter().flatten().fold(self.max_fee_per_gas, u128::min),
            market_percent: percent.min(self.market_percent),
            priority: fees.and_then(|fees| fees.max_priority_fee_per_gas),
        }
    }
}

/// Intents that wait for a nonce, of one account: those past it are asked to come again.
pub const WAITING_MAX: usize = 1_000;
/// What these may take together, bytes of data.
pub const WAITING_BYTES_MAX: usize = 16 << 20;
/// The part of both that one module may take, so that what it cannot pay keeps no other module out.
const MODULE_PART: usize = 4;
/// Signed transactions of one nonce. Each pays an eighth more than the one before, so that there is no cap on fees that is
/// not met before: from one wei to the most that can be written it takes fewer than 800.
pub const VARIANTS_MAX: usize = 1_000;
/// Ended records that are kept, so that an intent that is submitted again is known.
pub const KEPT: usize = 1_000;
/// The same of transactions of calls, which nothing else knows when their events are tried again.
const CALLS_KEPT: usize = 10_000;
/// Ended nonces that could still be sent again, after a reorg deeper than was asked for.
const GUARDED: u64 = 128;
/// For how many blocks after the last end the chain is still looked at, and for how long.
const GUARD_BLOCKS: u64 = 32;
const GUARD_MS: u64 = 3_600_000;
/// Questions of one kind at once.
const AT_ONCE: usize = 32;
/// Signatures at once, of new nonces and as many of others: identity takes 64 requests of one module and refuses the rest, which
/// costs all new nonces above and some seconds.
const SIGNING_MAX: usize = 16;
/// A nonce counts as used by another transaction only when it was so this many blocks ago: a shorter reorg would bring its
/// transaction back beside the one that was signed anew.
pub const FOREIGN_DEPTH: u64 = 12;
/// Nodes without an archive know the state of some more blocks than this.
const FOREIGN_DEPTH_MAX: u64 = 64;
/// For so long endpoints are trusted to have every receipt; many drop them after some thousand blocks.
const RECEIPTS_MS: u64 = 3_600_000;
/// What a transfer of nothing takes; where it takes more (the chain says so), more is tried.
const EMPTY_GAS: u64 = 21_000;
/// What is kept of an error for people.
const MESSAGE_CHARS_MAX: usize = 300;
/// After a failure that may pass.
const AGAIN_MS: u64 = 2_000;

/// A nonce that is being signed for the first time.
#[derive(Debug)]
struct Draft {
    id: u64,
    /// The intent's place among those that wait; none of a gap.
    order: Option<i64>,
    transaction: UnsignedTransaction,
    module: Arc<str>,
    signed: Option<SignedTransaction>,
}

#[derive(Debug, Clone, Copy)]
enum Place {
    Waiting(i64),
    Nonce(u64),
    /// Without a nonce.
    Ended,
}

#[derive(Debug)]
pub struct Queue {
    pub key: QueueKey,
    settings: ChainSettings,
    slots: BTreeMap<u64, Live>,
    /// Those of `slots` that have not ended.
    live: BTreeSet<u64>,
    waiting: BTreeMap<i64, Waiting>,
    waiting_bytes: usize,
    places: HashMap<String, Place>,
    ended: HashMap<String, SubmitAnswer>,
    ended_order: VecDeque<String>,
    drafts: BTreeMap<u64, Draft>,
    next_draft: u64,
    next_order: i64,
    /// Counts down: what comes back goes before all others.
    first_order: i64,
    facts: Option<Facts>,
    facts_ms: u64,
    facts_number: u64,
    /// When head and nonce were last seen to move.
    head_ms: u64,
    nonce_ms: u64,
    /// The head was lower than before: a reorg, if it is so again.
    regressed: bool,
    observing: bool,
    observe_ms: u64,
    /// Looks at the chain that were begun, and the one that what is known is of.
    looks: u64,
    facts_look: u64,
    /// Heads at which one endpoint alone told a nonce that nothing here explains.
    nonce_alone: Heads,
    /// The same of nonces that another program used, and that are unused again.
    freed_alone: Heads,
    /// Nonces whose records differ from what is durable, and whether something waits for that.
    dirty: BTreeMap<u64, bool>,
    removed: BTreeSet<u64>,
    /// Intents that were given up without a nonce: whose record is to be written or removed, is being so, and is there.
    marks: BTreeMap<String, bool>,
    marking: BTreeMap<String, bool>,
    given_up: BTreeSet<String>,
    /// Counts the changes of all its records.
    changes: u64,
    writing: bool,
    write_ms: u64,
    /// When changes that nobody waits for are written.
    lazy_ms: u64,
    /// Who pays attention to the queue when it acts for itself.
    module: Arc<str>,
    gap: Option<(u64, u64)>,
    gap_ms: u64,
    empty_gas: u64,
    /// Nonces below it have been looked at for transactions of others.
    counted: Option<u64>,
    foreign: u64,
    /// The block of the newest end, and until when it is watched.
    guard: Option<(u64, u64)>,
    /// Nothing that waits can be paid.
    short: Option<String>,
    chain_trouble: Option<String>,
    store_trouble: Option<String>,
    /// Since when the queue stands still.
    stopped_ms: Option<u64>,
    notes: Vec<Note>,
}

impl Queue {
    /// A queue with what is durable of it.
    pub fn new(key: QueueKey, settings: ChainSettings, records: Vec<Slot>, now: u64) -> Self {
        let mut queue = Self {
            key,
            settings,
            slots: BTreeMap::new(),
            live: BTreeSet::new(),
            waiting: BTreeMap::new(),
            waiting_bytes: 0,
            places: HashMap::new(),
            ended: HashMap::new(),
            ended_order: VecDeque::new(),
            drafts: BTreeMap::new(),
            next_draft: 0,
            next_order: 0,
            first_order: 0,
            facts: None,
            facts_ms: 0,
            facts_number: 0,
            head_ms: now,
            nonce_ms: now,
            regressed: false,
            observing: false,
            observe_ms: 0,
            looks: 0,
            facts_look: 0,
            nonce_alone: Heads::default(),
            freed_alone: Heads::default(),
            dirty: BTreeMap::new(),
            removed: BTreeSet::new(),
            marks: BTreeMap::new(),
            marking: BTreeMap::new(),
            given_up: BTreeSet::new(),
            changes: 0,
            writing: false,
            write_ms: 0,
            lazy_ms: 0,
            module: Arc::from(""),
            gap: None,
            gap_ms: 0,
            empty_gas: EMPTY_GAS,
            counted: None,
            foreign: 0,
            guard: None,
            short: None,
            chain_trouble: None,
            store_trouble: None,
            stopped_ms: None,
            notes: Vec::new(),
        };
        for slot in records {
            queue.load(slot, now);
        }
        queue
    }

    fn load(&mut self, slot: Slot, now: u64) {
        let (nonce, written) = (slot.nonce, slot.variants.len());
        assert!(written > 0, "nonce {nonce} has a record and no bytes");
        self.module = slot.module.clone();
        if let Some(intent) = &slot.intent {
            let before = self.places.insert(intent.id.clone(), Place::Nonce(nonce));
            assert!(before.is_none(), "intent {} has nonce {nonce} and another one", intent.id);
        }
        if slot.is_live() {
            self.live.insert(nonce);
        }
        match &slot.standing {
            Standing::Final(mined) => self.guard = Some((mined.block_number, now + GUARD_MS)),
            Standing::Foreign => self.foreign += 1,
            Standing::Signed | Standing::Accepted | Standing::Mined(_) | Standing::Void => {}
        }
        self.counted = self.counted.max(nonce.checked_add(1));
        // The process may have ended between the broadcast and the note of it.
        self.slots.insert(nonce, Live::new(slot, written, true));
    }

    /// What is to be done now. Each action is handed out once, until `take` has heard of it.
    pub fn step(&mut self, now: u64) -> Vec<Action> {
        let mut out = Vec::new();
        self.short = None;
        self.expire(now);
        self.observe(now, &mut out);
        self.admit(now, &mut out);
        self.simulate(now, &mut out);
        self.draft(now, &mut out);
        self.fill_gap(now, &mut out);
        self.replace(now, &mut out);
        self.send(now, &mut out);
        self.follow(now, &mut out);
        self.write(now, &mut out);
        self.stopped_ms = self.trouble().map(|_| self.stopped_ms.unwrap_or(now));
        out
    }

    /// Hears what came of an action.
    pub fn take(&mut self, input: Input, now: u64) {
        match input {
            Input::Observed(answer) => self.observed(answer, now),
            Input::Admitted { order, answer } => self.admitted(order, answer, now),
            Input::Simulated { order, answer } => self.simulated(order, answer, now),
            Input::Ceiling { nonce, answer } => self.ceiling(nonce, answer, now),
            Input::Signed { draft, nonce, answer } => self.signed(draft, nonce, answer, now),
            Input::Written { written, answer } => self.wrote(written, answer, now),
            Input::Broadcast { nonce, answers } => self.broadcast(nonce, &answers, now),
            Input::Receipts { nonce, answer } => self.receipts(nonce, answer, now),
            Input::Doubted { nonce, votes } => self.doubted(nonce, votes, now),
        }
    }

    /// What happened since the last call, to be counted.
    pub fn notes(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.notes)
    }

    /// When to look again although nothing came; none while there is nothing to do.
    pub fn next_look(&self, now: u64) -> Option<u64> {
        self.is_active(now).then(|| now + self.poll_ms())
    }

    fn is_active(&self, now: u64) -> bool {
        let guarded = |(block, until): (u64, u64)| {
            let watched = |facts: Facts| facts.head < block.saturating_add(GUARD_BLOCKS) || self.has_lost(facts.nonce);
            now < until && self.facts.is_none_or(watched)
        };
        let busy = !self.live.is_empty() || !self.waiting.is_empty() || !self.drafts.is_empty();
        let unwritten = !self.dirty.is_empty() || !self.removed.is_empty() || !self.marks.is_empty();
        busy || unwritten || self.guard.is_some_and(guarded)
    }

    /// Whether something that was final is in no block any more, and is sent again.
    fn has_lost(&self, nonce: u64) -> bool {
        let is_final = |live: &Live| matches!(live.slot.standing, Standing::Final(_));
        self.slots.range(nonce..).any(|(_, live)| is_final(live) && !live.slot.newest().raw.is_empty())
    }

    fn poll_ms(&self) -> u64 {
        millis(self.settings.poll).max(1)
    }

    /// What is known of the chain, unless that is too old to sign by.
    fn fresh(&self, now: u64) -> Option<Facts> {
        let age_max = (3 * self.poll_ms()).max(3_000);
        self.facts.filter(|_| now <= self.facts_ms.saturating_add(age_max))
    }

    /// Nonces in no block, and those about to be taken.
    fn in_flight(&self) -> usize {
        let from = self.facts.map_or(0, |facts| facts.nonce);
        let open = self.live.range(from..).filter(|nonce| self.slots[nonce].slot.is_open()).count();
        open + self.drafts.len()
    }

    /// The lowest nonce that nothing counts for.
    fn free_nonce(&self, chain: u64) -> u64 {
        let taken = |nonce: &u64| {
            let void = |live: &Live| live.slot.standing == Standing::Void;
            self.drafts.contains_key(nonce) || self.slots.get(nonce).is_some_and(|live| !void(live))
        };
        let mut nonce = chain;
        while taken(&nonce) {
            nonce += 1;
        }
        nonce
    }

    /// The most that everything in flight may still cost, wei.
    fn committed(&self, from: u64) -> u128 {
        let open = self.live.range(from..).map(|nonce| &self.slots[nonce].slot).filter(|slot| slot.is_open());
        let slots = open.map(|slot| {
            let value = slot.intent.as_ref().map_or(0, |intent| in_u128(&intent.request.value));
            let gas = slot.variants.iter().map(|variant| gas_cost(variant.gas_limit, variant.fees.per_gas_max()));
            value.saturating_add(gas.max().unwrap_or(0))
        });
        let drafts = self.drafts.values().map(|draft| cost(&draft.transaction));
        slots.chain(drafts).fold(0, u128::saturating_add)
    }

    /// A transfer of nothing to the account itself.
    fn nothing(&self) -> TransactionRequest {
        TransactionRequest {
            chain_id: self.key.chain_id,
            account: self.key.account,
            to: Some(self.key.account),
            value: Wei::default(),
            data: Vec::new(),
            access_list: Vec::new(),
        }
    }

    fn sign(
        &mut self,
        nonce: u64,
        module: Arc<str>,
        intent: String,
        transaction: UnsignedTransaction,
    ) -> (u64, Action) {
        self.next_draft += 1;
        let draft = self.next_draft;
        (draft, Action::Sign { draft, nonce, module, intent, transaction: Box::new(transaction) })
    }

    /// What is signed for the account itself goes by this name.
    fn gap_name(&self, nonce: u64) -> String {
        format!("gap/{}/{}/{nonce}", self.key.chain_id, self.key.account)
    }
}

fn unsigned(
    request: TransactionRequest,
    nonce: u64,
    gas_limit: u64,
    fees: Fees,
    purpose: Purpose,
) -> UnsignedTransaction {
    UnsignedTransaction { request, nonce, gas_limit, fees, purpose }
}

fn cost(transaction: &UnsignedTransaction) -> u128 {
    let gas = gas_cost(transaction.gas_limit, transaction.fees.per_gas_max());
    gas.saturating_add(in_u128(&transaction.request.value))
}

fn gas_cost(gas_limit: u64, per_gas: u128) -> u128 {
    per_gas.saturating_mul(u128::from(gas_limit))
}

/// No chain has as much as does not fit.
fn in_u128(wei: &Wei) -> u128 {
    let (high, low) = wei.0.split_at(16);
    match <[u8; 16]>::try_from(low) {
        Ok(low) if high.iter().all(|byte| *byte == 0) => u128::from_be_bytes(low),
        _ => u128::MAX,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 4)
}

/// The beginning of a message that another side wrote.
fn short(text: &str) -> String {
    text.chars().take(MESSAGE_CHARS_MAX).collect()
}
