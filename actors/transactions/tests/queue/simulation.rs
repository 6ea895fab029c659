//! Two queues while answers get lost, blocks are taken back, pools are wiped, fees and balances jump, another program uses the
//! key, one endpoint lies, operators interfere, and the process dies between any two actions. In the end a reorg may go deeper
//! than anything was confirmed, and take the other program's transactions away.

use std::{collections::BTreeMap, time::Duration};

use nexum_host_ifaces::{
    HostError, HostErrorKind,
    interfaces::identity::port::{Admission, Wei},
    transactions::{Intent, SubmitAnswer, TransactionOrder, Which},
};
use nexum_transactions::{
    ChainSettings,
    fees::Market,
    queue::{Queue, Simulated},
    record::QueueKey,
};

use super::support::{CALM, KEY, OTHER_KEY, World, intent};

const KEYS: [QueueKey; 2] = [KEY, OTHER_KEY];
const STARTED: u64 = 1_000_000;
/// From this round on nothing goes wrong any more.
const CALM_ROUND: u32 = 800;
const ROUNDS: u32 = 3_000;

struct Simulation {
    seed: u64,
    world: World,
    settings: ChainSettings,
    queues: Vec<Queue>,
    now: u64,
    intents: Vec<Intent>,
    /// What whoever submitted has heard; then nobody submits it any more.
    told: BTreeMap<String, SubmitAnswer>,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let settings = ChainSettings {
            max_in_flight: 4,
            max_fee_per_gas: 500,
            replace_after: Duration::from_secs(10),
            ..ChainSettings::default()
        };
        let mut world = World::new(seed);
        (world.lossy, world.lying) = (true, true);
        let mut intents: Vec<Intent> = (0..10).map(intent).collect();
        for others in &mut intents[5..] {
            others.request.account = OTHER_KEY.account;
        }
        // On each account one that waits for an approval, and one that is in a hurry.
        for number in [1, 6] {
            let waits = Admission::AwaitsApproval { number: 1, expires_at_ms: u64::MAX };
            world.admissions.insert(intents[number].id.clone(), Ok(waits));
            intents[number + 1].deadline_ms = Some(STARTED + 1_000 * world.below(60));
        }
        // On each account one that can be paid only at times, and one that never can.
        for (number, value) in [(0, 600_000), (5, 600_000)] {
            intents[number].request.value = Wei::from(value);
        }
        for number in [4, 9] {
            intents[number].request.value.0 = [255; 32];
        }
        let reverts = Simulated::Reverts { message: "execution reverted".to_owned(), data: None, agreed: true };
        world.calls.insert(vec![3], reverts);
        let queues = KEYS.iter().map(|key| world.queue(*key, &settings, STARTED)).collect();
        Self { seed, world, settings, queues, now: STARTED, intents, told: BTreeMap::new() }
    }

    fn die(&mut self) {
        self.queues = KEYS.iter().map(|key| self.world.queue(*key, &self.settings, self.now)).collect();
    }

    fn submit(&mut self) {
        for intent in self.intents.iter().filter(|intent| !self.told.contains_key(&intent.id)) {
            let queue = usize::from(intent.request.account != KEY.account);
            match self.queues[queue].submit(intent, self.now) {
                SubmitAnswer::Underway { .. } => {}
                end @ (SubmitAnswer::Mined(_) | SubmitAnswer::Failed(_)) => {
                    self.told.insert(intent.id.clone(), end);
                    break;
                }
            }
        }
    }

    /// Everything that the queues want now, unless the process dies meanwhile.
    fn perform(&mut self, calm: bool) {
        for (number, key) in KEYS.into_iter().enumerate() {
            for action in self.queues[number].step(self.now) {
                if !calm && self.world.chance(25) {
                    return self.die();
                }
                let input = self.world.perform(key, action);
                if !calm && self.world.chance(60) {
                    return self.die();
                }
                self.queues[number].take(input, self.now);
            }
        }
    }

    fn trouble(&mut self) {
        let world = &mut self.world;
        if world.chance(60) {
            world.pool.clear();
        }
        if world.blocks.len() > 2 && world.chance(60) {
            world.blocks.pop();
        }
        if world.chance(40) {
            let base_fee = [1, 10, 60, 200, 2_000][usize::try_from(world.below(5)).unwrap()];
            world.market = Market::Dynamic { base_fee, priority: 1 };
        }
        if world.chance(80) {
            world.balance = [0, 700_000, u128::MAX / 2][usize::try_from(world.below(3)).unwrap()];
        }
        if world.chance(150) {
            let key = usize::try_from(world.below(2)).unwrap();
            world.use_elsewhere(KEYS[key].account);
        }
        if world.chance(100) {
            world.store_down = !world.store_down;
        }
        if world.chance(100) {
            world.signer_down = !world.signer_down;
        }
        if world.chance(100) {
            world.calls.clear();
        }
        if world.chance(200) {
            let answer = if world.chance(2) {
                Ok(Admission::Allowed)
            } else {
                Err(HostError::new("identity", HostErrorKind::Denied, "the operator denied it"))
            };
            let waits = world
                .admissions
                .values_mut()
                .find(|answer| matches!(answer, Ok(waits) if *waits != Admission::Allowed));
            if let Some(waits) = waits {
                *waits = answer;
            }
        }
        if world.chance(400) {
            let number = usize::try_from(world.below(10)).unwrap();
            let which = Which::Intent(self.intents[number].id.clone());
            // It may have ended.
            drop(self.queues[number / 5].order_about(&which, TransactionOrder::Cancel));
        }
        if world.chance(60) {
            let (queue, nonce) = (usize::try_from(world.below(2)).unwrap(), world.below(12));
            let order = if world.chance(2) { TransactionOrder::Cancel } else { TransactionOrder::Bump };
            // Mostly there is nothing under way with this nonce.
            drop(self.queues[queue].order(nonce, order));
        }
    }

    fn calm_down(&mut self) {
        let world = &mut self.world;
        (world.lossy, world.lying, world.store_down, world.signer_down) = (false, false, false, false);
        if world.chance(3) {
            deep_reorg(world);
        }
        (world.market, world.balance) = (CALM, u128::MAX / 2);
        world.calls.clear();
        for answer in world.admissions.values_mut().filter(|answer| answer.is_ok()) {
            *answer = Ok(Admission::Allowed);
        }
    }

    /// What can never be paid waits until it is given up.
    fn give_up(&mut self) {
        for number in [4, 9] {
            let which = Which::Intent(self.intents[number].id.clone());
            // It may have ended.
            drop(self.queues[number / 5].order_about(&which, TransactionOrder::Cancel));
        }
    }

    /// Everything was told, and nothing is under way.
    fn is_over(&self) -> bool {
        let idle = self.queues.iter().all(|queue| queue.status(self.now).in_flight == 0);
        idle && self.told.len() == self.intents.len() && self.world.pool.is_empty() && self.is_true()
    }

    fn is_true(&self) -> bool {
        self.told.iter().all(|(intent, end)| {
            let wanted = usize::from(matches!(end, SubmitAnswer::Mined(_)));
            self.world.times(intent) == wanted
        })
    }

    fn run(mut self) {
        for round in 0..ROUNDS {
            self.now += 250;
            let calm = round >= CALM_ROUND;
            if round == CALM_ROUND {
                self.calm_down();
            }
            self.submit();
            if calm {
                self.give_up();
            }
            self.perform(calm);
            if self.world.chance(4) {
                self.world.block();
            }
            if !calm {
                self.trouble();
            }
            for intent in &self.intents {
                assert!(self.world.times(&intent.id) <= 1, "seed {}: {} is mined twice", self.seed, intent.id);
            }
            if calm && self.is_over() {
                return;
            }
        }
        let lists: Vec<_> = self.queues.iter().map(|queue| queue.list(20, self.now)).collect();
        panic!("seed {}: told {:?}, of {lists:?}", self.seed, self.told);
    }
}

/// Takes twenty blocks away, with what other programs sent in them. What is of the queues is in the pool again.
fn deep_reorg(world: &mut World) {
    let from = world.blocks.len().saturating_sub(20).max(1);
    let gone = world.blocks.split_off(from);
    for (account, hash) in gone.iter().flatten() {
        if let Some(signed) = world.signed.get(hash) {
            world.pool.insert((*account, signed.nonce), *hash);
        }
    }
    world.empty_blocks(gone.len());
}

#[test]
fn each_is_mined_exactly_once_or_its_failure_is_true_whatever_goes_wrong() {
    for seed in 0..600 {
        Simulation::new(seed).run();
    }
}
