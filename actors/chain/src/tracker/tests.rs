//! The tracker without anything around it: a table chain answers its reads at once, or wrongly, or not at all.

mod cursors;
mod forks;
mod reads;
mod subscriptions;

use std::{collections::HashMap, sync::Arc};

use nexum_host_ifaces::{
    Address, Hash,
    event::{Answer, Cursor, EventId, SourceId},
    interfaces::chain::port::{AnswerSize, Blocks, Hold, Interest, LogFilter},
    types::Log,
};

use super::{Effect, Failure, Job, ReadResult, Tracker};
use crate::{
    backend::{Ranged, Survey},
    backfill::Segment,
    header::Header,
    history::History,
};

const SIZE: AnswerSize = AnswerSize { deliveries_max: 100, blocks_min: 64 };

/// Blocks by number and branch.
fn hash(branch: u8, number: u64) -> Hash {
    let mut bytes = [branch; 32];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    Hash(bytes)
}

/// A block of `branch`, which left branch 0 after `fork`.
fn header(branch: u8, fork: u64, number: u64) -> Header {
    let of = |number: u64| if number <= fork { 0 } else { branch };
    let below = number.wrapping_sub(1);
    Header::new(number, hash(of(number), number), hash(of(below), below), number)
}

fn log(header: &Header, address: u8) -> Log {
    Log {
        chain_id: 1,
        address: vec![address; 20],
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

/// A tracker and a node with one canonical branch.
struct Bench {
    tracker: Tracker,
    branch: u8,
    fork: u64,
    head: u64,
    /// Jobs by name, in order.
    jobs: Vec<String>,
    /// Longest range of logs the node answers.
    range_max: u64,
    /// What the endpoints have of the window.
    survey: Survey,
    /// How far the finalized block is behind the head.
    finalized_lag: u64,
    /// Another node, on another branch that leaves this one after a block, says what is final.
    final_on: Option<(u8, u64)>,
    /// Dead branches that the node remembers, each with the block that it left this one after.
    remembered: Vec<(u8, u64)>,
    answers: HashMap<usize, Vec<Answer>>,
}

impl Bench {
    fn new(window_blocks: usize, head: u64) -> Self {
        let tracker = Tracker::new(1, window_blocks, 1_000, History::default());
        let (jobs, answers, remembered) = (vec![], HashMap::new(), vec![]);
        let mut bench = Self {
            tracker,
            branch: 0,
            fork: 0,
            head,
            jobs,
            range_max: 1 << 40,
            survey: Survey { contradict: 1, ..Survey::default() },
            finalized_lag: 10,
            final_on: None,
            remembered,
            answers,
        };
        bench.see(head);
        bench
    }

    fn header(&self, number: u64) -> Header {
        header(self.branch, self.fork, number)
    }

    fn see(&mut self, number: u64) {
        self.head = number;
        let header = self.header(number);
        self.tracker.head_seen(header, number);
        self.work();
    }

    fn switch(&mut self, branch: u8, fork: u64, head: u64) {
        (self.branch, self.fork) = (branch, fork);
        self.see(head);
    }

    fn answer(&self, job: &Job) -> Result<ReadResult, Failure> {
        let known = |number: &u64| *number <= self.head;
        Ok(match job {
            Job::Headers { from, to, .. } | Job::Segment { segment: Segment::Headers { from, to }, .. } => {
                ReadResult::Headers((*from..=*to).filter(known).map(|number| self.header(number)).collect())
            }
            Job::Segment { segment: Segment::Check { numbers }, .. } => {
                ReadResult::Headers(numbers.iter().map(|number| self.header(*number)).collect())
            }
            Job::Header { hash, .. } => {
                let branches = [(self.branch, self.fork)].into_iter().chain(self.remembered.iter().copied());
                let all = branches.flat_map(|(branch, fork)| (0..=self.head).map(move |n| header(branch, fork, n)));
                ReadResult::Header(all.into_iter().find(|header| header.hash == *hash))
            }
            Job::Logs { headers, .. } => ReadResult::Logs(headers.iter().map(|header| vec![log(header, 1)]).collect()),
            Job::Survey { .. } | Job::Cursor { .. } => ReadResult::Survey(self.survey),
            Job::Segment { segment: Segment::Logs { from, to, union, .. }, .. } => {
                let to = (*to).min(from + self.range_max - 1);
                let logs = (*from..=to).flat_map(|number| [1, 2].map(|address| log(&self.header(number), address)));
                let logs = logs.filter(|log| union.covers(log)).collect();
                ReadResult::Segment(Ranged { logs, to, end_hash: self.header(to).hash })
            }
            Job::Tag(_) => {
                let (branch, fork) = self.final_on.unwrap_or((self.branch, self.fork));
                let number = self.head.checked_sub(self.finalized_lag);
                ReadResult::Header(number.map(|number| header(branch, fork, number)))
            }
        })
    }

    /// Carries out everything until nothing is left to do.
    fn work(&mut self) {
        for _ in 0..10_000 {
            let effects = self.tracker.effects();
            if effects.is_empty() {
                return;
            }
            for effect in effects {
                match effect {
                    Effect::Answer { subscription, answer, .. } => {
                        self.answers.entry(subscription).or_default().push(answer)
                    }
                    Effect::Start { job, .. } => {
                        self.jobs.push(job.to_string());
                        let result = self.answer(&job);
                        self.tracker.finished(job, result);
                    }
                    Effect::Reorged { depth, .. } => self.jobs.push(format!("reorg of {depth}")),
                }
            }
        }
        panic!("it never comes to rest: {:?}", &self.jobs[self.jobs.len() - 10..]);
    }

    fn pull(&mut self, module: &str, after: Cursor, interest: &Arc<Interest>) -> usize {
        self.pull_sized(module, after, interest, SIZE)
    }

    fn pull_sized(&mut self, module: &str, after: Cursor, interest: &Arc<Interest>, size: AnswerSize) -> usize {
        let source = SourceId::new("chain:1");
        let subscription = self.tracker.pull(module.into(), source, 1, Some(&after), interest, size);
        self.work();
        subscription
    }

    /// The number of the cursor after the one answer that this subscription got.
    fn progress(&mut self, subscription: usize) -> u64 {
        let answers = self.answers.remove(&subscription).unwrap_or_default();
        match &answers[..] {
            [Answer::Events { progress: Some(Cursor::Chain { number, .. }), .. }] => *number,
            other => panic!("{other:?}"),
        }
    }
}

fn blocks() -> Arc<Interest> {
    Arc::new(Interest { blocks: Blocks::All, logs: vec![], start_block: None, hold: Hold::Latest })
}

fn logs_of(address: u8) -> Arc<Interest> {
    let filter = LogFilter { addresses: [Address([address; 20])].into(), topics: Default::default(), from_block: 0 };
    Arc::new(Interest { blocks: Blocks::None, logs: vec![filter], start_block: None, hold: Hold::Latest })
}

#[test]
fn a_gap_of_any_size_is_filled() {
    for gap in [1, 2, 63, 64, 65, 99, 100, 101, 500] {
        let mut bench = Bench::new(100, 1_000);
        let subscription = bench.pull("a", Cursor::block(1_000, hash(0, 1_000)), &blocks());
        bench.see(1_000 + gap);
        assert_eq!(bench.tracker.head(), Some((1_000 + gap, hash(0, 1_000 + gap))));
        let mut at = bench.progress(subscription);
        while at < 1_000 + gap {
            let subscription = bench.pull("a", Cursor::block(at, hash(0, at)), &blocks());
            let before = std::mem::replace(&mut at, bench.progress(subscription));
            assert!(at > before, "a gap of {gap} ends at {at}");
        }
    }
}

#[test]
fn a_fork_of_any_depth_and_length_is_led_back_to_the_ancestor() {
    for depth in [1_u64, 2, 3, 8, 40, 99, 100, 150] {
        for longer in [-5_i64, 0, 1, 70] {
            let mut bench = Bench::new(100, 1_000);
            for number in 1_001..=1_200 {
                bench.see(number);
            }
            let old = hash(0, 1_200);
            let head = 1_200_u64.saturating_add_signed(longer);
            if head <= 1_200 - depth {
                continue;
            }
            let subscription = bench.pull("a", Cursor::block(1_200, old), &blocks());
            bench.switch(7, 1_200 - depth, head);
            let answers = bench.answers.remove(&subscription).unwrap_or_default();
            let [Answer::Reorg(reorg)] = &answers[..] else { panic!("depth {depth}, {longer} longer: {answers:?}") };
            assert_eq!(reorg.ancestor, (1_200 - depth, hash(0, 1_200 - depth)), "depth {depth}, {longer} longer");
            assert_eq!(reorg.old_head, (1_200, old));
            assert_eq!(reorg.new_head, (head, hash(7, head)));
            let (number, hash) = reorg.ancestor;
            bench.pull("a", Cursor::block(number, hash), &blocks());
            assert_eq!(bench.progress(subscription), head.min(number + 100));
        }
    }
}

#[test]
fn a_node_that_lags_moves_nothing() {
    let mut bench = Bench::new(100, 1_000);
    bench.see(1_001);
    let subscription = bench.pull("a", Cursor::block(1_001, hash(0, 1_001)), &blocks());
    bench.survey = Survey { have: 1, ..Survey::default() };
    for late in [1_000, 990, 400] {
        bench.tracker.head_seen(header(0, 0, late), 0);
        bench.work();
    }
    assert_eq!(bench.tracker.head().map(|head| head.0), Some(1_001));
    assert!(bench.answers.is_empty());
    let ahead = bench.pull("b", Cursor::block(1_050, hash(0, 1_050)), &blocks());
    assert!(!bench.answers.contains_key(&ahead), "a cursor ahead of the node waits");
    bench.see(1_051);
    assert_eq!((bench.progress(subscription), bench.progress(ahead)), (1_051, 1_051));
}

#[test]
fn a_module_that_was_away_when_the_head_moved_learns_what_is_final() {
    let finalized = Arc::new(Interest { blocks: Blocks::All, logs: vec![], start_block: None, hold: Hold::Finalized });
    let mut bench = Bench::new(100, 1_000);
    let subscription = bench.pull("a", Cursor::block(980, hash(0, 980)), &finalized);
    assert_eq!(bench.progress(subscription), 990);
    bench.tracker.forget("a");
    // Nobody waits for what is final while this head comes, and it is the last one for a while.
    bench.see(1_005);
    let subscription = bench.pull("a", Cursor::block(990, hash(0, 990)), &finalized);
    assert_eq!(bench.progress(subscription), 995);
}

#[test]
fn what_is_final_on_a_branch_is_not_final_on_another() {
    let finalized = Arc::new(Interest { blocks: Blocks::All, logs: vec![], start_block: None, hold: Hold::Finalized });
    let mut bench = Bench::new(100, 1_000);
    let subscription = bench.pull("a", Cursor::block(980, hash(0, 980)), &finalized);
    assert_eq!(bench.progress(subscription), 990);
    // The followed node is behind: the chain has left its branch after 991, and on the new one 995 is final.
    bench.final_on = Some((1, 991));
    bench.see(1_005);
    let subscription = bench.pull("a", Cursor::block(985, hash(0, 985)), &finalized);
    assert_eq!(bench.progress(subscription), 990, "what was final before is still so");
    let subscription = bench.pull("a", Cursor::block(990, hash(0, 990)), &finalized);
    assert!(!bench.answers.contains_key(&subscription));
    bench.switch(1, 991, 1_006);
    assert_eq!(bench.progress(subscription), 995, "what was told before counts once the window leads over it");
}

#[test]
fn a_head_that_is_told_again_does_not_take_the_place_of_a_newer_one() {
    let mut bench = Bench::new(100, 1_000);
    (bench.branch, bench.fork, bench.head) = (1, 997, 1_002);
    let started = |bench: &mut Bench| {
        let mut effects = bench.tracker.effects().into_iter();
        effects.find_map(|effect| if let Effect::Start { job, .. } = effect { Some(job) } else { None })
    };
    bench.tracker.head_seen(bench.header(1_000), 1);
    let reading = started(&mut bench).unwrap();
    for told in [1_001, 1_001, 1_000, 1_002, 1_001] {
        let header = bench.header(told);
        bench.tracker.head_seen(header, told);
    }
    bench.tracker.finished(reading, Err(Failure::Failed("no answer".into())));
    bench.work();
    assert_eq!(bench.tracker.head(), Some((1_002, hash(1, 1_002))), "although it is not told again");
}

#[test]
fn a_final_block_is_not_retracted_by_a_node_that_is_behind_on_a_dead_branch() {
    let finalized = Arc::new(Interest { blocks: Blocks::All, logs: vec![], start_block: None, hold: Hold::Finalized });
    let mut bench = Bench::new(100, 1_000);
    let subscription = bench.pull("a", Cursor::block(980, hash(0, 980)), &finalized);
    assert_eq!(bench.progress(subscription), 990);
    // The node that is followed now ends at 995, on a branch that left the chain after 985, and calls 983 final.
    bench.finalized_lag = 12;
    bench.switch(1, 985, 995);
    let subscription = bench.pull("a", Cursor::block(990, hash(0, 990)), &finalized);
    assert!(!bench.answers.contains_key(&subscription), "{:?}", bench.answers);
    // Only a node that calls a later block of that branch final may say that 990 is gone.
    bench.see(1_010);
    let answers = bench.answers.remove(&subscription).unwrap_or_default();
    assert!(matches!(&answers[..], [Answer::Reorg(reorg)] if reorg.ancestor.0 == 985), "{answers:?}");
}

#[test]
fn a_reorg_below_the_start_brings_nothing_from_before_it() {
    let from_990 = Arc::new(Interest { blocks: Blocks::All, logs: vec![], start_block: Some(990), hold: Hold::Latest });
    let mut bench = Bench::new(100, 1_000);
    bench.switch(1, 980, 1_003);
    let subscription = bench.pull("a", Cursor::block(980, hash(0, 980)), &from_990);
    let answers = bench.answers.remove(&subscription).unwrap_or_default();
    let [Answer::Events { deliveries, .. }] = &answers[..] else { panic!("{answers:?}") };
    let numbers: Vec<u64> = deliveries.iter().filter_map(|delivery| delivery.id.block()).map(|(_, n)| n).collect();
    assert_eq!(numbers, (990..=1_003).collect::<Vec<_>>());
}

#[test]
fn a_position_without_a_delivery_is_told_once_it_has_moved_far_enough() {
    let mut bench = Bench::new(100, 1_000);
    let nothing = logs_of(9);
    let kept = bench.pull("kept", Cursor::block(999, hash(0, 999)), &nothing);
    let size = AnswerSize { blocks_min: 1, ..SIZE };
    let here = bench.pull_sized("replaying", Cursor::block(1_000, hash(0, 1_000)), &nothing, size);
    bench.see(1_001);
    assert_eq!(bench.progress(here), 1_001);
    bench.see(1_062);
    assert!(bench.answers.is_empty(), "{:?}", bench.answers);
    bench.see(1_063);
    assert_eq!(bench.progress(kept), 1_063);
}

#[test]
fn modules_at_one_cursor_cost_one_read_of_history() {
    let mut bench = Bench::new(100, 50_000);
    bench.jobs.clear();
    let interest = logs_of(1);
    for nth in 0..1_000 {
        bench.tracker.pull(
            format!("m{nth}").into(),
            SourceId::new("chain:1"),
            1,
            Some(&Cursor::block(100, hash(0, 100))),
            &interest,
            SIZE,
        );
    }
    bench.work();
    assert_eq!(bench.answers.len(), 1_000);
    let mut reads = bench.jobs.clone();
    reads.sort();
    reads.dedup();
    assert_eq!(reads.len(), bench.jobs.len(), "nothing is read twice: {:?}", bench.jobs);
    // The first segment and those read ahead of it.
    assert!(bench.jobs.iter().filter(|job| job.starts_with("logs")).count() <= 5, "{:?}", bench.jobs);
}

#[test]
fn a_range_that_is_answered_in_part_is_gone_on_with() {
    let mut bench = Bench::new(100, 50_000);
    bench.range_max = 300;
    let subscription = bench.pull("a", Cursor::block(100, hash(0, 100)), &logs_of(1));
    assert_eq!(bench.progress(subscription), 200, "a hundred logs, one per block");
    assert!(bench.jobs.iter().any(|job| job == "logs of blocks 101 to 1100"));
    assert!(bench.jobs.iter().any(|job| job == "logs of blocks 401 to 700"), "{:?}", bench.jobs);
}

#[test]
fn history_and_window_meet_without_gap() {
    let mut bench = Bench::new(100, 2_500);
    for interest in [blocks(), logs_of(1)] {
        let mut at = 10;
        let mut seen = vec![];
        while at < 2_500 {
            let subscription = bench.pull("a", Cursor::block(at, hash(0, at)), &interest);
            let answers = bench.answers.remove(&subscription).unwrap_or_default();
            let [Answer::Events { deliveries, progress: Some(Cursor::Chain { number, .. }), .. }] = &answers[..] else {
                panic!("{answers:?}");
            };
            seen.extend(deliveries.iter().filter_map(|delivery| delivery.id.block()).map(|(_, number)| number));
            at = *number;
        }
        assert_eq!(seen, (11..=2_500).collect::<Vec<_>>());
    }
}

#[test]
fn an_unknown_orphan_is_stuck_with_a_reason_and_asked_about_again_on_the_next_pull() {
    let mut bench = Bench::new(100, 1_000);
    for _ in 0..2 {
        bench.jobs.clear();
        let subscription = bench.pull("a", Cursor::block(990, hash(9, 990)), &blocks());
        let answers = bench.answers.remove(&subscription).unwrap_or_default();
        let [Answer::Stuck { reason }] = &answers[..] else { panic!("{answers:?}") };
        assert!(
            reason.starts_with("chain 1: block 990 of the cursor is on a dead branch; its block 990 ("),
            "{reason}"
        );
        assert!(bench.jobs.iter().any(|job| job.starts_with("header 0x")), "{:?}", bench.jobs);
    }
}

#[test]
fn dead_branches_that_are_longer_together_than_what_is_kept_are_followed_all_the_same() {
    let mut bench = Bench::new(100, 990);
    bench.tracker = Tracker::new(1, 100, 1_000, History::new(16, []));
    bench.remembered = vec![(7, 980), (8, 985)];
    bench.see(1_000);
    // Both are on their way back at once.
    let source = || SourceId::new("chain:1");
    let ways = [("a", 7, 995, 980), ("b", 8, 1_000, 985)].map(|(module, branch, number, fork)| {
        let cursor = Cursor::block(number, hash(branch, number));
        let subscription = bench.tracker.pull(module.into(), source(), 1, Some(&cursor), &blocks(), SIZE);
        (subscription, fork)
    });
    bench.work();
    for (subscription, fork) in ways {
        let answers = bench.answers.remove(&subscription).unwrap_or_default();
        let [Answer::Reorg(reorg)] = &answers[..] else { panic!("{answers:?}") };
        assert_eq!(reorg.ancestor, (fork, hash(0, fork)));
    }
}

#[test]
fn nothing_is_delivered_before_a_fork_of_the_head_could_be_followed() {
    let mut tracker = Tracker::new(1, 100, 1_000, History::default());
    tracker.head_seen(header(0, 0, 500), 0);
    let interest = Arc::new(Interest { blocks: Blocks::All, logs: vec![], start_block: None, hold: Hold::Latest });
    tracker.pull("a".into(), SourceId::new("chain:1"), 1, None, &interest, SIZE);
    let mut effects = tracker.effects();
    let place = effects
        .iter()
        .position(|effect| matches!(effect, Effect::Start { job: Job::Headers { from: 436, to: 499, .. }, .. }));
    let Effect::Start { job, .. } = effects.swap_remove(place.unwrap()) else { panic!("{effects:?}") };
    let is_check = |effect: &Effect| {
        matches!(effect, Effect::Start { job: Job::Segment { segment: Segment::Check { .. }, .. }, .. })
    };
    assert!(effects.iter().all(is_check), "{effects:?}");
    tracker.finished(job, Ok(ReadResult::Headers((436..500).map(|number| header(0, 0, number)).collect())));
    let effects = tracker.effects();
    assert!(matches!(effects[..], [Effect::Answer { token: 1, .. }]), "{effects:?}");
}

#[test]
fn the_newest_final_block_is_delivered_though_it_lies_in_the_history() {
    for filters in [vec![], logs_of(1).logs.clone()] {
        let interest = Interest { blocks: Blocks::Latest, logs: filters, start_block: None, hold: Hold::Finalized };
        let interest = Arc::new(interest);
        let mut bench = Bench::new(100, 1_000);
        bench.finalized_lag = 500;
        let mut after = Cursor::block(400, hash(0, 400));
        for head in [1_001, 1_020, 1_021, 1_050] {
            bench.see(head);
            let newest = EventId::Block { chain_id: 1, number: head - 500, hash: hash(0, head - 500) };
            let mut blocks = Vec::new();
            // The way there may be told first. A pull that waits would be answered by the next head.
            for _ in 0..3 {
                if !blocks.is_empty() {
                    break;
                }
                let subscription = bench.pull("a", after.clone(), &interest);
                for answer in bench.answers.remove(&subscription).unwrap_or_default() {
                    let Answer::Events { deliveries, progress, .. } = answer else { panic!("{answer:?}") };
                    let ids = deliveries.into_iter().map(|delivery| delivery.id);
                    blocks.extend(ids.filter(|id| matches!(id, EventId::Block { .. })));
                    after = progress.unwrap();
                }
            }
            assert_eq!(blocks, [newest]);
        }
    }
}
