//! Another block is read in the place of a cursor's, far below the head.

use super::*;

const PATIENCE_NS: u64 = 10_000_000_000;
const LIE: u8 = 9;

/// A bench that gives nothing up at once, with a cursor at a block in whose place a wrong one was read.
struct Misled {
    bench: Bench,
    subscription: usize,
    now_ns: u64,
    surveys: usize,
}

impl Misled {
    fn at(number: u64) -> Self {
        let mut bench = Bench::new(100, 1_000);
        bench.tracker = bench.tracker.patient(PATIENCE_NS);
        (1_001..=1_200).for_each(|number| bench.see(number));
        bench.tracker.backfill.add_checked((number, hash(LIE, number)));
        let source = SourceId::new("chain:1");
        let cursor = Cursor::block(number, hash(0, number));
        let subscription = bench.tracker.pull("a".into(), source, 1, Some(&cursor), &blocks(), SIZE);
        Self { bench, subscription, now_ns: 0, surveys: 0 }
    }

    /// Carries out what is due within this time. The endpoints say this of the cursor's block.
    fn pass(&mut self, for_ns: u64, survey: Survey) -> Vec<Answer> {
        let until_ns = self.now_ns + for_ns;
        self.bench.survey = survey;
        loop {
            let effects = self.bench.tracker.effects();
            if effects.is_empty() {
                return self.bench.answers.remove(&self.subscription).unwrap_or_default();
            }
            for effect in effects {
                match effect {
                    Effect::Answer { subscription, answer, .. } => {
                        self.bench.answers.entry(subscription).or_default().push(answer)
                    }
                    Effect::Start { job, after } => {
                        let due_ns = self.now_ns + u64::try_from(after.as_nanos()).unwrap();
                        if due_ns > until_ns {
                            self.bench.tracker.effects.push(Effect::Start { job, after });
                            return self.bench.answers.remove(&self.subscription).unwrap_or_default();
                        }
                        self.now_ns = due_ns;
                        self.surveys += usize::from(matches!(job, Job::Cursor { .. }));
                        let result = self.bench.answer(&job);
                        self.bench.tracker.at(self.now_ns);
                        self.bench.tracker.finished(job, result);
                    }
                    Effect::Reorged { .. } => {}
                }
            }
        }
    }
}

#[test]
fn a_block_that_the_headers_lead_down_to_is_of_the_chain_whatever_is_read_in_its_place() {
    let mut misled = Misled::at(1_000);
    let answers = misled.pass(0, Survey { contradict: 3, ..Survey::default() });
    assert!(matches!(&answers[..], [Answer::Events { .. }]), "{answers:?}");
    assert_eq!(misled.surveys, 0, "nobody need be asked");
}

#[test]
fn one_answer_does_not_take_a_cursor_back_while_as_many_endpoints_have_its_block() {
    for survey in [Survey { have: 1, ..Survey::default() }, Survey { have: 1, contradict: 1, ..Survey::default() }] {
        let mut misled = Misled::at(50);
        let answers = misled.pass(PATIENCE_NS, survey);
        assert!(matches!(&answers[..], [Answer::Events { .. }]), "{survey:?}: {answers:?}");
    }
}

#[test]
fn a_cursor_is_taken_back_when_most_endpoints_have_another_block_for_a_while() {
    let others = Survey { have: 1, contradict: 2, ..Survey::default() };
    let mut misled = Misled::at(50);
    let answers = misled.pass(PATIENCE_NS / 2, others);
    assert!(answers.is_empty(), "{answers:?}");
    let (waits, _) = misled.bench.tracker.waits();
    let reason = &waits[0].reason;
    assert!(reason.contains("block 50") && reason.contains("2 endpoints have another one, 1 have it"), "{reason}");
    let answers = misled.pass(2 * PATIENCE_NS, others);
    assert!(matches!(&answers[..], [Answer::Reorg(_)]), "{answers:?}");
}

#[test]
fn a_contradiction_that_ends_before_long_takes_no_cursor_back() {
    let others = Survey { contradict: 1, ..Survey::default() };
    let mut misled = Misled::at(50);
    for silence in [Survey { silent: 1, ..Survey::default() }, Survey { lack: 1, ..Survey::default() }] {
        assert!(misled.pass(PATIENCE_NS / 2, others).is_empty());
        assert!(misled.pass(PATIENCE_NS, silence).is_empty());
    }
    assert!(misled.surveys < 40, "{} in {} s", misled.surveys, misled.now_ns / 1_000_000_000);
    let answers = misled.pass(PATIENCE_NS, Survey { have: 1, ..Survey::default() });
    assert!(matches!(&answers[..], [Answer::Events { .. }]), "{answers:?}");
}

#[test]
fn nobody_is_asked_about_a_block_at_which_nobody_stands_any_more() {
    let others = Survey { contradict: 1, ..Survey::default() };
    let mut misled = Misled::at(50);
    assert!(misled.pass(PATIENCE_NS / 2, others).is_empty());
    misled.bench.tracker.forget("a");
    misled.pass(5_000_000_000, others);
    let before = misled.surveys;
    misled.pass(100 * PATIENCE_NS, others);
    assert!(misled.surveys <= before + 1, "{} surveys after {before}", misled.surveys);
}

#[test]
fn who_catches_up_wants_no_word_of_others_about_the_head() {
    let mut bench = Bench::new(100, 1_000);
    bench.tracker.bound(crate::backend::Bounds { vouched: Some(990), disputed: None });
    let held =
        Arc::new(Interest { blocks: Blocks::All, logs: vec![], start_block: None, hold: Hold::Confirmations(5) });
    bench.pull("a", Cursor::block(900, hash(0, 900)), &held);
    assert!(!bench.tracker.wants_vouched(), "there is enough to go on with");
    bench.pull("a", Cursor::block(985, hash(0, 985)), &held);
    assert!(bench.tracker.wants_vouched());
    let (waits, _) = bench.tracker.waits();
    assert!(waits[0].reason.contains("another endpoint to have block 991"), "{waits:?}");
}
