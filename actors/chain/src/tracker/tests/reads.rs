//! Reads that contradict each other.

use std::collections::BTreeSet;

use super::*;

/// The answer of a node on a branch that is gone, the first time that it is asked for headers from here on.
fn misled(job: &Job, asked: &mut BTreeSet<u64>) -> Option<ReadResult> {
    let Job::Segment { segment: Segment::Headers { from, to }, .. } = job else { return None };
    let first = *from > 500 && asked.insert(*from);
    first.then(|| ReadResult::Headers((*from..=*to).map(|number| header(7, 0, number)).collect()))
}

#[test]
fn of_two_reads_that_contradict_each_other_nothing_wrong_is_given_out() {
    let mut bench = Bench::new(100, 1_000);
    let (mut asked, mut seen, mut at) = (BTreeSet::new(), Vec::new(), Cursor::block(400, hash(0, 400)));
    for _ in 0..20 {
        let source = SourceId::new("chain:1");
        bench.tracker.pull("a".into(), source, 1, Some(&at), &blocks(), SIZE);
        let mut answer = None;
        for _ in 0..1_000 {
            for effect in bench.tracker.effects() {
                match effect {
                    Effect::Answer { answer: given, .. } => answer = Some(given),
                    Effect::Start { job, .. } => {
                        let result = misled(&job, &mut asked).map_or_else(|| bench.answer(&job), Ok);
                        bench.tracker.finished(job, result);
                    }
                    Effect::Reorged { .. } => {}
                }
            }
        }
        let Some(Answer::Events { deliveries, progress: Some(progress), .. }) = answer else { panic!("{answer:?}") };
        seen.extend(deliveries.into_iter().map(|delivery| delivery.id));
        at = progress;
        if seen.len() >= 500 {
            break;
        }
    }
    assert!(asked.len() > 1, "nothing wrong was read: {asked:?}");
    let expected = (401..401 + seen.len() as u64)
        .map(|number| EventId::Block { chain_id: 1, number, hash: hash(0, number) })
        .collect::<Vec<_>>();
    assert_eq!(seen, expected);
    assert!(seen.len() >= 500, "it ends at {at:?}");
}
