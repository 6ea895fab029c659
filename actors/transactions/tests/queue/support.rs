//! A chain, a policy and a store that are faked, and a queue that runs against them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use nexum_host_ifaces::{
    Address, Hash, HostError, HostErrorKind,
    interfaces::identity::port::{
        Admission, Fees, Purpose, SignedTransaction, TransactionRequest, UnsignedTransaction, Wei,
    },
    store::{RECORD_WRITES_BYTES_MAX, RECORD_WRITES_MAX},
    transactions::{FailureKind, FeePolicy, Intent, SubmitAnswer, TransactionFailure, TransactionSummary},
};
use nexum_transactions::{
    ChainSettings,
    classify::Class,
    fees::Market,
    queue::{Action, Facts, Found, Input, Note, Queue, Simulated, Votes},
    record::{Mined, QueueKey, Slot, of_given_up, of_key},
};

pub const KEY: QueueKey = QueueKey { chain_id: 1, account: Address([9; 20]) };
pub const OTHER_KEY: QueueKey = QueueKey { chain_id: 1, account: Address([8; 20]) };
pub const CALM: Market = Market::Dynamic { base_fee: 10, priority: 1 };

/// What was signed.
pub struct Signed {
    pub nonce: u64,
    /// None of a transfer of nothing.
    pub intent: Option<String>,
    pub fees: Fees,
    pub cost: u128,
}

pub struct World {
    random: u64,
    /// Answers get lost, and nodes refuse what they could take.
    pub lossy: bool,
    /// One endpoint makes up nonces and receipts now and then.
    pub lying: bool,
    /// How often in a row, of each account.
    lies: BTreeMap<Address, u8>,
    /// What an endpoint that is alone says of the account's nonce.
    pub nonce_alone: Option<u64>,
    /// Endpoints that there are; one of them answers what is broadcast.
    pub configured: usize,
    /// What the best endpoint says of receipts; the truth where it is not said.
    pub told: Option<Vec<Found>>,
    pub signed: BTreeMap<Hash, Signed>,
    pub pool: BTreeMap<(Address, u64), Hash>,
    /// What is in each block; what was not signed here is another program's.
    pub blocks: Vec<Vec<(Address, Hash)>>,
    pub durable: BTreeMap<Vec<u8>, Vec<u8>>,
    pub market: Market,
    pub balance: u128,
    /// What the policy says of an intent; it allows the others.
    pub admissions: BTreeMap<String, Result<Admission, HostError>>,
    /// What comes of calls, by their data; the others succeed.
    pub calls: BTreeMap<Vec<u8>, Simulated>,
    /// What every node says of a nonce, without taking it.
    pub refusals: BTreeMap<u64, Class>,
    /// Nodes take what they get, and their answers do not come back.
    pub silent: bool,
    pub signer_down: bool,
    /// No policy lets this module send any more.
    pub denied: Option<&'static str>,
    pub store_down: bool,
    /// No endpoint has receipts.
    pub blind: bool,
    /// What endpoints say of a doubtful nonce; the truth where it is not said.
    pub votes: Option<Votes>,
    /// Everything that was broadcast.
    pub sent: Vec<(u64, Hash, Arc<[u8]>)>,
    foreign: u8,
}

impl World {
    pub fn new(random: u64) -> Self {
        Self {
            random,
            lossy: false,
            lying: false,
            lies: BTreeMap::new(),
            nonce_alone: None,
            configured: 1,
            told: None,
            signed: BTreeMap::new(),
            pool: BTreeMap::new(),
            blocks: vec![Vec::new()],
            durable: BTreeMap::new(),
            market: CALM,
            balance: u128::MAX / 2,
            admissions: BTreeMap::new(),
            calls: BTreeMap::new(),
            refusals: BTreeMap::new(),
            silent: false,
            signer_down: false,
            denied: None,
            store_down: false,
            blind: false,
            votes: None,
            sent: Vec::new(),
            foreign: 0,
        }
    }

    pub fn chance(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % end
    }

    /// The account's transactions on the chain, in their order.
    pub fn mined(&self, account: Address) -> Vec<Hash> {
        self.blocks.iter().flatten().filter(|(by, _)| *by == account).map(|(_, hash)| *hash).collect()
    }

    pub fn nonce(&self, account: Address) -> u64 {
        self.mined(account).len() as u64
    }

    /// How often an intent is on the chain.
    pub fn times(&self, intent: &str) -> usize {
        let of = |hash: &Hash| self.signed.get(hash).is_some_and(|signed| signed.intent.as_deref() == Some(intent));
        self.blocks.iter().flatten().filter(|(_, hash)| of(hash)).count()
    }

    /// A block with everything that can be in it.
    pub fn block(&mut self) {
        let mut block = Vec::new();
        let accounts: BTreeSet<Address> = self.pool.keys().map(|(account, _)| *account).collect();
        for account in accounts {
            let mut nonce = self.nonce(account);
            while let Some(hash) = self.pool.get(&(account, nonce)).copied() {
                let signed = &self.signed[&hash];
                if signed.fees.per_gas_max() < self.market.floor() || signed.cost > self.balance {
                    break;
                }
                self.pool.remove(&(account, nonce));
                block.push((account, hash));
                nonce += 1;
            }
        }
        self.blocks.push(block);
    }

    pub fn empty_blocks(&mut self, count: usize) {
        self.blocks.extend(std::iter::repeat_n(Vec::new(), count));
    }

    /// Another program uses the key.
    pub fn use_elsewhere(&mut self, account: Address) {
        self.foreign += 1;
        let mut hash = [255; 32];
        hash[31] = self.foreign;
        self.pool.remove(&(account, self.nonce(account)));
        self.blocks.push(vec![(account, Hash(hash))]);
    }

    /// Of a block, and of what is in it.
    pub fn block_hash(&self, number: u64) -> Option<Hash> {
        let block = self.blocks.get(usize::try_from(number).unwrap())?;
        let mut bytes = [0xbb; 32];
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        for (at, byte) in block.iter().flat_map(|(_, hash)| hash.0.iter().enumerate()) {
            bytes[8 + at % 24] ^= byte;
        }
        Some(Hash(bytes))
    }

    /// A receipt that is made up: of the newest block, or of one that never was.
    pub fn made_up(&self, hash: Hash, is_there: bool) -> Found {
        let block_number = self.blocks.len() as u64 - 1;
        let followed = self.block_hash(block_number);
        let block_hash = if is_there { followed.unwrap() } else { Hash([0xee; 32]) };
        Found { mined: receipt(hash, block_number, block_hash), followed }
    }

    /// An account's nonce, and how many endpoints say so.
    fn told_nonce(&mut self, account: Address) -> (u64, usize) {
        let truth = self.nonce(account);
        if let Some(told) = self.nonce_alone {
            return (told, 1);
        }
        // Three times in a row it would be believed.
        let lie = self.lying && self.chance(10);
        let lies = self.lies.entry(account).or_default();
        if lie && *lies < 2 {
            *lies += 1;
            return (truth + 5, 1);
        }
        *lies = 0;
        (truth, 2)
    }

    fn receipts(&self, hashes: &[Hash]) -> Vec<Found> {
        let blocks = self.blocks.iter().enumerate();
        let all = blocks.flat_map(|(number, block)| block.iter().map(move |(_, hash)| (number as u64, *hash)));
        let found = all.filter(|(_, hash)| hashes.contains(hash) && !self.blind).map(|(block_number, hash)| {
            let followed = self.block_hash(block_number);
            Found { mined: receipt(hash, block_number, followed.unwrap()), followed }
        });
        found.collect()
    }

    pub fn perform(&mut self, key: QueueKey, action: Action) -> Input {
        match action {
            Action::Observe { .. } => {
                let (nonce, voices) = self.told_nonce(key.account);
                let (head, balance, market) = (self.blocks.len() as u64 - 1, self.balance, self.market);
                let configured = self.configured;
                Input::Observed(Ok(Facts { head, nonce, voices, configured, balance, market }))
            }
            Action::Admit { order, intent, .. } => {
                let answer = self.admissions.get(&intent).cloned().unwrap_or(Ok(Admission::Allowed));
                Input::Admitted { order, answer: answer.map(|admission| (admission, None)) }
            }
            Action::Simulate { order, call } => {
                let answer = self.calls.get(&call.request.data).cloned();
                Input::Simulated { order, answer: answer.unwrap_or(Simulated::Succeeds { gas: 21_000 }) }
            }
            Action::Ceiling { nonce, module, .. } => {
                Input::Ceiling { nonce, answer: self.allows(&module).map(|()| None) }
            }
            Action::Sign { draft, nonce, module, intent, transaction } => {
                let answer = self.allows(&module).and_then(|()| self.sign(intent, &transaction));
                Input::Signed { draft, nonce, answer }
            }
            Action::Write { written, .. } if self.store_down => {
                Input::Written { written, answer: Err("the disk is full".to_owned()) }
            }
            Action::Write { writes, written } => {
                let bytes: usize =
                    writes.iter().map(|write| write.key.len() + write.value.as_ref().map_or(0, Vec::len)).sum();
                assert!(bytes <= RECORD_WRITES_BYTES_MAX && writes.len() <= RECORD_WRITES_MAX, "no store takes it");
                for write in writes {
                    match write.value {
                        Some(value) => self.durable.insert(write.key, value),
                        None => self.durable.remove(&write.key),
                    };
                }
                Input::Written { written, answer: Ok(()) }
            }
            Action::Broadcast { nonce, hash, raw } => {
                let known = self.slots(key).into_iter().flat_map(|slot| slot.variants);
                assert!(known.into_iter().any(|known| known.hash == hash), "bytes left before they were durable");
                self.sent.push((nonce, hash, raw));
                let class = self.arrive(key.account, nonce, hash);
                Input::Broadcast { nonce, answers: vec![(class, format!("{class:?}"))] }
            }
            Action::Receipts { nonce, hashes, .. } => {
                let lost = self.lossy && self.chance(5);
                let lie = self.lying && self.chance(10);
                let found = match &self.told {
                    Some(told) => told.clone(),
                    None if lie => {
                        let is_there = self.chance(2);
                        vec![self.made_up(hashes[0], is_there)]
                    }
                    None if lost => Vec::new(),
                    None => self.receipts(&hashes),
                };
                Input::Receipts { nonce, answer: Ok(found) }
            }
            Action::Doubt { nonce, hashes, block, .. } => {
                let through = self.blocks.iter().take(block as usize + 1).flatten();
                let used = through.filter(|(by, _)| *by == key.account).count() as u64 > nonce;
                let found = self.receipts(&hashes);
                let (against, unused) = if used && found.is_empty() { (2, 0) } else { (0, 2) };
                let mut found = [found.clone(), found].concat();
                if self.lying && self.chance(10) {
                    let is_there = self.chance(2);
                    found.push(self.made_up(hashes[0], is_there));
                }
                let truth = Votes { found, against, unused, answered: 3, configured: 3 };
                Input::Doubted { nonce, votes: self.votes.clone().unwrap_or(truth) }
            }
        }
    }

    fn allows(&self, module: &str) -> Result<(), HostError> {
        let denied = || HostError::new("identity", HostErrorKind::Denied, "no policy");
        if self.denied == Some(module) { Err(denied()) } else { Ok(()) }
    }

    fn sign(&mut self, intent: String, transaction: &UnsignedTransaction) -> Result<SignedTransaction, HostError> {
        if self.signer_down {
            return Err(HostError::new("identity", HostErrorKind::Unavailable, "the signer is away"));
        }
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&(self.signed.len() as u64 + 1).to_be_bytes());
        let UnsignedTransaction { nonce, gas_limit, fees, purpose, .. } = transaction;
        let (intent, cost) = ((*purpose != Purpose::Empty).then_some(intent), u128::from(*gas_limit));
        let value = u128::from_be_bytes(transaction.request.value.0[16..].try_into().unwrap());
        let cost = cost * fees.per_gas_max() + value;
        self.signed.insert(Hash(hash), Signed { nonce: *nonce, intent, fees: *fees, cost });
        // Its data makes the bytes longer.
        let raw = [hash.as_slice(), transaction.request.data.as_slice()].concat();
        Ok(SignedTransaction { raw, hash: Hash(hash) })
    }

    /// Bytes come to a node.
    fn arrive(&mut self, account: Address, nonce: u64, hash: Hash) -> Class {
        if let Some(class) = self.refusals.get(&nonce) {
            return *class;
        }
        if self.lossy && self.chance(30) {
            return [Class::PoolFull, Class::IntrinsicGas, Class::FeeTooLow][self.below(3) as usize];
        }
        if nonce < self.nonce(account) {
            return Class::NonceTooLow;
        }
        let fee = |hash: &Hash| self.signed[hash].fees.per_gas_max();
        match self.pool.get(&(account, nonce)) {
            Some(there) if *there == hash => return Class::AlreadyKnown,
            Some(there) if fee(&hash) * 10 < fee(there) * 11 => return Class::Underpriced,
            Some(_) | None => {}
        }
        if self.signed[&hash].cost > self.balance {
            return Class::InsufficientFunds;
        }
        self.pool.insert((account, nonce), hash);
        if self.silent || (self.lossy && self.chance(4)) { Class::Uncertain } else { Class::Accepted }
    }

    /// What is durable of an account.
    pub fn slots(&self, key: QueueKey) -> Vec<Slot> {
        let of = self.durable.iter().filter(|(record, _)| of_key(record).is_some_and(|(queue, _)| queue == key));
        of.map(|(_, value)| Slot::decode(value).unwrap()).collect()
    }

    /// The queue of a process that was just started.
    pub fn queue(&self, key: QueueKey, settings: &ChainSettings, now: u64) -> Queue {
        let mut queue = Queue::new(key, settings.clone(), self.slots(key), now);
        for (_, intent) in self.durable.keys().filter_map(|key| of_given_up(key)).filter(|(of, _)| *of == key) {
            queue.load_given_up(intent);
        }
        queue
    }
}

fn receipt(hash: Hash, block_number: u64, block_hash: Hash) -> Mined {
    Mined { hash, block_number, block_hash, succeeded: true, gas_used: 21_000, effective_gas_price: 1, contract: None }
}

pub fn intent(number: u8) -> Intent {
    let request = TransactionRequest {
        chain_id: 1,
        account: KEY.account,
        to: Some(Address([1; 20])),
        value: Wei::from(1),
        data: vec![number],
        access_list: Vec::new(),
    };
    Intent {
        id: format!("intent {number}"),
        module: Arc::from(if number.is_multiple_of(2) { "even" } else { "odd" }),
        request,
        gas_limit: None,
        fees: FeePolicy::default(),
        confirmations: 3,
        deadline_ms: None,
        skip_simulation: false,
    }
}

/// One queue with its world and a clock.
pub struct Run {
    pub world: World,
    pub queue: Queue,
    pub settings: ChainSettings,
    pub now: u64,
    /// What the queue counted.
    pub notes: Vec<Note>,
}

impl Run {
    pub fn new() -> Self {
        Self::with(ChainSettings::default())
    }

    pub fn with(settings: ChainSettings) -> Self {
        let (world, now) = (World::new(1), 1_000_000);
        let queue = world.queue(KEY, &settings, now);
        Self { world, queue, settings, now, notes: Vec::new() }
    }

    /// A queue that has taken on these intents.
    pub fn of(numbers: impl IntoIterator<Item = u8>) -> Self {
        let mut run = Self::new();
        run.submit_all(numbers);
        run
    }

    pub fn submit_all(&mut self, numbers: impl IntoIterator<Item = u8>) {
        for number in numbers {
            self.submit(number);
        }
        self.settle();
    }

    pub fn submit(&mut self, number: u8) -> SubmitAnswer {
        self.queue.submit(&intent(number), self.now)
    }

    /// Does everything that is wanted now.
    pub fn settle(&mut self) {
        for _ in 0..200 {
            let actions = self.queue.step(self.now);
            if actions.is_empty() {
                self.notes.extend(self.queue.notes());
                return;
            }
            for action in actions {
                let input = self.world.perform(KEY, action);
                self.queue.take(input, self.now);
            }
        }
        panic!("the queue comes to no rest: {:?}", self.queue.list(20, self.now));
    }

    /// Seconds pass, without a block.
    pub fn seconds(&mut self, count: u64) {
        for _ in 0..count {
            self.now += 1_000;
            self.settle();
        }
    }

    /// As many blocks, some seconds apart.
    pub fn blocks(&mut self, count: usize) {
        for _ in 0..count {
            self.world.block();
            self.seconds(3);
        }
    }

    /// As many blocks, some seconds apart, without anything in them.
    pub fn empty_blocks(&mut self, count: usize) {
        for _ in 0..count {
            self.world.empty_blocks(1);
            self.seconds(3);
        }
    }

    /// The process dies, and another one starts.
    pub fn restart(&mut self) {
        self.queue = self.world.queue(KEY, &self.settings, self.now);
    }

    pub fn summary(&self, number: u8) -> TransactionSummary {
        let (id, all) = (intent(number).id, self.queue.list(1_000, self.now));
        all.into_iter().find(|summary| summary.intent.as_ref() == Some(&id)).unwrap()
    }

    pub fn nonce_of(&self, number: u8) -> Option<u64> {
        self.summary(number).nonce
    }

    /// The hash of an intent that is told to be mined.
    pub fn mined_hash(&mut self, number: u8) -> Hash {
        match self.submit(number) {
            SubmitAnswer::Mined(mined) => mined.hash,
            other => panic!("intent {number} is not mined: {other:?}"),
        }
    }

    pub fn failure(&mut self, number: u8) -> TransactionFailure {
        match self.submit(number) {
            SubmitAnswer::Failed(failure) => *failure,
            other => panic!("intent {number} has not failed: {other:?}"),
        }
    }

    pub fn failed_as(&mut self, number: u8) -> FailureKind {
        self.failure(number).kind
    }

    pub fn is_underway(&mut self, number: u8) -> bool {
        matches!(self.submit(number), SubmitAnswer::Underway { .. })
    }

    /// Transfers of nothing that were signed, by their nonces.
    pub fn empty_nonces(&self) -> Vec<u64> {
        self.world.signed.values().filter(|signed| signed.intent.is_none()).map(|signed| signed.nonce).collect()
    }

    pub fn foreign_notes(&self) -> u64 {
        let count = |note: &Note| if let Note::Foreign(count) = note { *count } else { 0 };
        self.notes.iter().map(count).sum()
    }
}
