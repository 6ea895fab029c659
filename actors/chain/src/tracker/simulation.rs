//! Seeded runs: a chain that grows and forks, a node that answers late, out of order or not at all, and modules that
//! check every delivery and in the end hold exactly the chain.

use std::{collections::HashMap, sync::Arc};

use nexum_host_ifaces::{
    Address, Hash,
    event::{Answer, Cursor, EventId, Part, SourceId},
    interfaces::chain::port::{AnswerSize, Blocks, Hold, Interest, LogFilter},
    types::{Event, Log},
};

use super::{Effect, Failure, Job, ReadResult, Tracker};
use crate::{
    backend::{Ranged, Survey},
    backfill::Segment,
    header::Header,
    history::History,
};

const WINDOW_BLOCKS: usize = 80;
/// Shallower than the window and the roots kept below a fresh head.
const REORG_DEPTH_MAX: u64 = 30;
const STEPS: usize = 400;
const SEEDS: u64 = 300;

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}

struct Module {
    subscription: Option<usize>,
    interest: Arc<Interest>,
    cursor: Option<Cursor>,
    waiting: bool,
    /// Kind, number and hash of everything delivered and not retracted.
    got: Vec<(&'static str, u64, Hash)>,
}

struct Simulation {
    random: Random,
    chain: Vec<Header>,
    orphans: HashMap<Hash, Header>,
    remembers_orphans: bool,
    tracker: Tracker,
    jobs: Vec<Job>,
    modules: Vec<Module>,
    failing: bool,
    /// The most blocks it ever had.
    longest: usize,
}

/// Every third block logs.
fn logs_in(header: &Header) -> bool {
    header.hash.0[0].is_multiple_of(3)
}

fn log(header: &Header) -> Log {
    Log {
        chain_id: 1,
        address: vec![1; 20],
        topics: vec![],
        data: vec![],
        block_number: header.number,
        block_hash: header.hash.0.to_vec(),
        block_timestamp: 0,
        transaction_hash: vec![0; 32],
        transaction_index: 0,
        log_index: 0,
    }
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let filter = LogFilter { addresses: [Address([1; 20])].into(), topics: Default::default(), from_block: 0 };
        let interest = |blocks, logs: &[&LogFilter], hold| {
            let logs = logs.iter().map(|filter| (*filter).clone()).collect();
            Arc::new(Interest { blocks, logs, start_block: Some(1), hold })
        };
        let interests = [
            interest(Blocks::All, &[], Hold::Latest),
            interest(Blocks::All, &[&filter], Hold::Latest),
            interest(Blocks::None, &[&filter], Hold::Latest),
            interest(Blocks::All, &[&filter], Hold::Confirmations(5)),
        ];
        let module = |interest| Module { subscription: None, interest, cursor: None, waiting: false, got: vec![] };
        let remembers_orphans = random.below(2) == 0;
        let mut simulation = Self {
            remembers_orphans,
            random,
            chain: vec![],
            orphans: HashMap::new(),
            tracker: Tracker::new(1, WINDOW_BLOCKS, 50, History::default()),
            jobs: vec![],
            modules: interests.into_iter().map(module).collect(),
            failing: true,
            longest: 0,
        };
        (0..simulation.random.below(400) + 100).for_each(|_| simulation.mine());
        simulation
    }

    fn mine(&mut self) {
        let number = self.chain.len() as u64;
        let mut bytes = [0; 32];
        bytes.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&self.random.below(u64::MAX).to_be_bytes()));
        let parent = self.chain.last().map_or(Hash::default(), |header| header.hash);
        self.chain.push(Header::new(number, Hash(bytes), parent, number));
        self.longest = self.longest.max(self.chain.len());
    }

    fn fork(&mut self) {
        // Forks upon forks must not reach below what is kept either.
        if self.chain.len() + 20 < self.longest {
            return self.mine();
        }
        for _ in 0..=self.random.below(REORG_DEPTH_MAX) {
            if self.chain.len() > 1
                && let Some(header) = self.chain.pop()
            {
                self.orphans.insert(header.hash, header);
            }
        }
        (0..=self.random.below(40)).for_each(|_| self.mine());
    }

    fn tell_head(&mut self) {
        if let Some(head) = self.chain.last() {
            self.tracker.head_seen(head.clone(), 1);
        }
        self.take_effects();
    }

    fn by_hash(&self, hash: &Hash) -> Option<Header> {
        let canonical = self.chain.iter().find(|header| header.hash == *hash);
        canonical.or_else(|| self.orphans.get(hash).filter(|_| self.remembers_orphans)).cloned()
    }

    fn read(&mut self, job: &Job) -> Result<ReadResult, Failure> {
        if self.failing && self.random.below(8) == 0 {
            return Err(Failure::Failed("a scripted fault".into()));
        }
        let missing = || Failure::Failed("not there".into());
        let range = |from: u64, to: u64| {
            let range = usize::try_from(from).ok().zip(usize::try_from(to).ok());
            range.and_then(|(from, to)| self.chain.get(from..=to)).ok_or_else(missing)
        };
        Ok(match job {
            Job::Headers { from, to, .. } | Job::Segment { segment: Segment::Headers { from, to }, .. } => {
                ReadResult::Headers(range(*from, *to)?.to_vec())
            }
            Job::Segment { segment: Segment::Check { numbers }, .. } => {
                let headers = numbers.iter().map(|number| range(*number, *number).map(|headers| headers[0].clone()));
                ReadResult::Headers(headers.collect::<Result<_, _>>()?)
            }
            Job::Header { hash, .. } => ReadResult::Header(self.by_hash(hash)),
            Job::Logs { headers, .. } => {
                let most = usize::try_from(self.random.below(headers.len() as u64) + 1).unwrap();
                let known = headers.iter().take(most).map_while(|header| self.by_hash(&header.hash));
                let lists: Vec<_> =
                    known.map(|header| logs_in(&header).then(|| log(&header)).into_iter().collect()).collect();
                if lists.is_empty() {
                    return Err(missing());
                }
                ReadResult::Logs(lists)
            }
            Job::Survey { known } => {
                let has = |(number, hash): &(u64, Hash)| {
                    let number = usize::try_from(*number).unwrap();
                    self.chain.get(number).is_some_and(|header| header.hash == *hash)
                };
                let lacks = |(number, _): &(u64, Hash)| *number >= self.chain.len() as u64;
                ReadResult::Survey(match known.last().is_none_or(has) {
                    true => Survey { have: 1, ..Survey::default() },
                    false if known.iter().any(|block| !has(block) && !lacks(block)) => {
                        Survey { contradict: 1, ..Survey::default() }
                    }
                    false => Survey { lack: 1, ..Survey::default() },
                })
            }
            Job::Segment { segment: Segment::Logs { from, to, .. }, .. } => {
                // Now and then it reaches less far than was asked for.
                let to = to - self.random.below(to - from + 1) * u64::from(self.random.below(3) == 0);
                let range = usize::try_from(*from).unwrap()..=usize::try_from(to).unwrap();
                let headers = self.chain.get(range).ok_or_else(missing)?;
                let logs = headers.iter().filter(|header| logs_in(header)).map(log).collect();
                ReadResult::Segment(Ranged { logs, to, end_hash: headers.last().ok_or_else(missing)?.hash })
            }
            Job::Cursor { .. } => unreachable!("a chain that is asked once does not contradict itself"),
            Job::Tag(_) => ReadResult::Header(None),
        })
    }

    fn run_job(&mut self) {
        if !self.jobs.is_empty() {
            let index = usize::try_from(self.random.below(self.jobs.len() as u64)).unwrap();
            let job = self.jobs.swap_remove(index);
            let result = self.read(&job);
            self.tracker.finished(job, result);
            self.take_effects();
        }
    }

    fn pull(&mut self, index: usize) {
        let deliveries_max = usize::try_from(self.random.below(20) + 1).unwrap();
        let size = AnswerSize { deliveries_max, blocks_min: self.random.below(64) + 1 };
        let module = &mut self.modules[index];
        if !module.waiting {
            module.waiting = true;
            let source = SourceId::new("chain:1");
            let name = format!("m{index}").into();
            let subscription = self.tracker.pull(name, source, 1, module.cursor.as_ref(), &module.interest, size);
            module.subscription = Some(subscription);
            self.take_effects();
        }
    }

    fn take_effects(&mut self) {
        for effect in self.tracker.effects() {
            match effect {
                Effect::Start { job, .. } => self.jobs.push(job),
                Effect::Answer { subscription, answer, .. } => {
                    let module =
                        self.modules.iter_mut().find(|module| module.subscription == Some(subscription)).unwrap();
                    assert!(std::mem::take(&mut module.waiting), "two answers to one pull");
                    module.take(answer);
                }
                Effect::Reorged { .. } => {}
            }
        }
    }

    /// What the chain holds for a module that has handled all of it that its hold lets through.
    fn expected(&self, interest: &Interest) -> Vec<(&'static str, u64, Hash)> {
        let held = if let Hold::Confirmations(blocks) = interest.hold { blocks as usize } else { 0 };
        let mut expected = vec![];
        for header in &self.chain[1..self.chain.len() - held] {
            if !interest.logs.is_empty() && logs_in(header) {
                expected.push(("logs", header.number, header.hash));
            }
            if interest.blocks == Blocks::All {
                expected.push(("block", header.number, header.hash));
            }
        }
        expected
    }

    fn run(&mut self) {
        for _ in 0..STEPS {
            match self.random.below(20) {
                0 => self.fork(),
                1..=4 => self.mine(),
                5..=7 => self.tell_head(),
                8..=9 => {
                    self.mine();
                    self.tell_head();
                }
                10..=14 => self.run_job(),
                _ => {
                    let index = usize::try_from(self.random.below(self.modules.len() as u64)).unwrap();
                    self.pull(index);
                }
            }
        }
        // In the end the node is well again and tells one more head, higher than all before: one that is behind what
        // it told before is waited for.
        self.failing = false;
        let missing = self.longest + 2 - self.chain.len();
        (0..missing).for_each(|_| self.mine());
        self.tell_head();
        for round in 0.. {
            assert!(round < 5_000, "it never comes to rest; jobs {:?}", self.jobs);
            (0..self.modules.len()).for_each(|index| self.pull(index));
            if self.jobs.is_empty() && self.modules.iter().all(|module| module.waiting) {
                break;
            }
            self.run_job();
        }
        for module in &self.modules {
            let expected = self.expected(&module.interest);
            let differs = (0..).find(|index| module.got.get(*index) != expected.get(*index) || *index > expected.len());
            let at = differs.unwrap_or_default();
            if at <= expected.len() {
                let near =
                    |list: &[_]| format!("{:?}", list.iter().skip(at.saturating_sub(1)).take(3).collect::<Vec<_>>());
                let (got, expected) = (near(&module.got), near(&expected));
                panic!("{:?}: at {at} got {got}, expected {expected}; cursor {:?}", module.interest, module.cursor);
            }
        }
    }
}

impl Module {
    fn take(&mut self, answer: Answer) {
        match answer {
            Answer::Events { deliveries, progress, .. } => {
                for delivery in deliveries {
                    let (kind, number, hash) = match (&delivery.id, &*delivery.event) {
                        (EventId::Block { number, hash, .. }, Event::Block(block)) => {
                            let before = self.got.iter().rev().find(|got| got.0 == "block");
                            assert_eq!(block.number, before.map_or(0, |before| before.1) + 1, "a block is left out");
                            if let Some(before) = before {
                                assert_eq!(block.parent_hash, before.2.0, "the branch changed without a word");
                            }
                            ("block", *number, *hash)
                        }
                        (EventId::Logs { number, hash, .. }, Event::Logs(logs)) => {
                            assert!(logs.iter().all(|log| log.block_hash == hash.0));
                            ("logs", *number, *hash)
                        }
                        other => panic!("{other:?}"),
                    };
                    assert!(self.got.last().is_none_or(|last| (last.1, last.0 == "block") < (number, kind == "block")));
                    self.got.push((kind, number, hash));
                }
                self.cursor = progress;
            }
            Answer::Reorg(reorg) => {
                let Some(Cursor::Chain { number, hash, .. }) = self.cursor else { panic!("{reorg:?}") };
                assert_eq!(Some(reorg.old_head), hash.map(|hash| (number, hash)));
                assert!(reorg.ancestor.0 < number);
                self.got.retain(|got| got.1 <= reorg.ancestor.0);
                let (number, hash) = reorg.ancestor;
                self.cursor = Some(Cursor::Chain { number, hash: Some(hash), part: Part::Block });
            }
            Answer::Stuck { reason } => panic!("stuck: {reason}"),
        }
    }
}

#[test]
fn every_module_ends_with_exactly_the_chain() {
    for seed in 0..SEEDS {
        let run = std::panic::catch_unwind(|| Simulation::new(seed).run());
        assert!(run.is_ok(), "seed {seed} reproduces it");
    }
}
