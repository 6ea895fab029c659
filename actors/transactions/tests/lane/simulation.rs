//! The pure lane against a chain that forgets, reorganizes and loses answers, with the process killed between any two actions.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, sync::Arc};

use nexum_host_ifaces::{
    Address, Hash,
    interfaces::identity::port::{Admission, Purpose, SignedTransaction, TransactionRequest, Wei},
    transactions::{FeePolicy, Intent, SubmitAnswer},
};
use nexum_transactions::{
    ChainSettings,
    classify::Class,
    fees::Market,
    lane::{Action, Facts, Input, Lane, Simulated, Votes},
    record::{LaneKey, Mined, Slot},
};

struct World {
    random: u64,
    /// What was signed: nonce and intent.
    signed: BTreeMap<Hash, (u64, Option<String>)>,
    pool: BTreeMap<u64, Hash>,
    /// The hash at each nonce, by block.
    blocks: Vec<Vec<Hash>>,
    durable: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl World {
    fn chance(&mut self, of: u64) -> bool {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33).is_multiple_of(of)
    }

    fn mined(&self) -> Vec<Hash> {
        self.blocks.iter().flatten().copied().collect()
    }

    fn block(&mut self) {
        let mut block = Vec::new();
        let mut nonce = self.mined().len() as u64;
        while let Some(hash) = self.pool.remove(&nonce) {
            block.push(hash);
            nonce += 1;
        }
        self.blocks.push(block);
    }

    fn receipts(&self, hashes: &[Hash]) -> Vec<Mined> {
        let blocks = self.blocks.iter().enumerate();
        let all = blocks.flat_map(|(number, block)| block.iter().map(move |hash| (number as u64, *hash)));
        let found = all.filter(|(_, hash)| hashes.contains(hash)).map(|(block_number, hash)| Mined {
            hash,
            block_number,
            block_hash: hash,
            succeeded: true,
            gas_used: 21_000,
            effective_gas_price: 1,
            contract: None,
        });
        found.collect()
    }

    fn perform(&mut self, action: Action) -> Input {
        match action {
            Action::Observe { .. } => Input::Observed(Ok(Facts {
                head: (self.blocks.len() as u64).saturating_sub(1),
                nonce: self.mined().len() as u64,
                balance: u128::MAX / 2,
                market: Market::Dynamic { base_fee: 10, priority: 1 },
            })),
            Action::Admit { order, .. } => Input::Admitted { order, answer: Ok((Admission::Allowed, None)) },
            Action::Simulate { order, .. } => Input::Simulated { order, answer: Simulated::Succeeds { gas: 21_000 } },
            Action::Ceiling { nonce, .. } => Input::Ceiling { nonce, answer: Ok(None) },
            Action::Sign { draft, nonce, intent, transaction, .. } => {
                let mut hash = [0; 32];
                hash[..8].copy_from_slice(&(self.signed.len() as u64 + 1).to_be_bytes());
                let intent = (transaction.purpose != Purpose::Empty).then_some(intent);
                self.signed.insert(Hash(hash), (nonce, intent));
                Input::Signed { draft, nonce, answer: Ok(SignedTransaction { raw: hash.to_vec(), hash: Hash(hash) }) }
            }
            Action::Write { writes, written } => {
                for write in writes {
                    match write.value {
                        Some(value) => self.durable.insert(write.key, value),
                        None => self.durable.remove(&write.key),
                    };
                }
                Input::Written { written, answer: Ok(()) }
            }
            Action::Broadcast { nonce, hash, .. } => {
                let durable = self.durable.values().map(|value| Slot::decode(value).unwrap());
                let known = durable.flat_map(|slot| slot.variants).any(|variant| variant.hash == hash);
                assert!(known, "bytes left before they were durable");
                if nonce < self.mined().len() as u64 {
                    return Input::Broadcast { nonce, answers: vec![(Class::NonceTooLow, "nonce too low".into())] };
                }
                self.pool.insert(nonce, hash);
                let class = if self.chance(4) { Class::Uncertain } else { Class::Accepted };
                Input::Broadcast { nonce, answers: vec![(class, "lost".into())] }
            }
            Action::Receipts { nonce, hashes, .. } => {
                let found = if self.chance(5) { Vec::new() } else { self.receipts(&hashes) };
                Input::Receipts { nonce, answer: Ok(found) }
            }
            Action::Doubt { nonce, hashes, .. } => {
                let found = self.receipts(&hashes).into_iter().next();
                Input::Doubted { nonce, votes: Votes { found, against: 0, unused: 0, configured: 2 } }
            }
        }
    }
}

const KEY: LaneKey = LaneKey { chain_id: 1, account: Address([9; 20]) };

fn lane(world: &World, now: u64) -> Lane {
    let slots = world.durable.values().map(|value| Slot::decode(value).unwrap()).collect();
    Lane::new(KEY, ChainSettings::default(), slots, now)
}

fn intent(number: usize) -> Intent {
    let request = TransactionRequest {
        chain_id: 1,
        account: KEY.account,
        to: Some(Address([1; 20])),
        value: Wei::from(1),
        data: Vec::new(),
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

#[test]
fn every_intent_is_mined_exactly_once_whatever_is_lost() {
    for seed in 0..300 {
        let mut world = World {
            random: seed,
            signed: BTreeMap::new(),
            pool: BTreeMap::new(),
            blocks: vec![Vec::new()],
            durable: BTreeMap::new(),
        };
        let (mut now, mut current) = (1_000_000, lane(&world, 1_000_000));
        let intents: Vec<_> = (0..6).map(intent).collect();
        let mut done = false;
        for round in 0..3_000 {
            now += 250;
            let calm = round > 800;
            let answers: Vec<_> = intents.iter().map(|intent| current.submit(intent, now)).collect();
            done = answers.iter().all(|answer| matches!(answer, SubmitAnswer::Mined(_)));
            // A reorg deeper than was asked for may have taken one away again.
            let on_chain = world.mined();
            let on_chain = on_chain.iter().filter(|hash| world.signed[hash].1.is_some()).count();
            if done && on_chain >= intents.len() {
                break;
            }
            for action in current.step(now) {
                if !calm && world.chance(12) {
                    current = lane(&world, now);
                    break;
                }
                let input = world.perform(action);
                current.take(input, now);
            }
            if world.chance(4) {
                world.block();
            }
            if !calm && world.chance(60) {
                world.pool.clear();
            }
            if !calm && world.blocks.len() > 2 && world.chance(60) {
                world.blocks.pop();
            }
        }
        assert!(done, "seed {seed}: {:?}", current.list(20, now));
        for intent in &intents {
            let of = |hash: &Hash| world.signed[hash].1.as_deref() == Some(intent.id.as_str());
            assert_eq!(world.mined().iter().filter(|hash| of(hash)).count(), 1, "seed {seed}: {}", intent.id);
        }
    }
}
