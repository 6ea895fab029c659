//! Who is answered when modules come and go.

use super::*;

#[test]
fn who_takes_the_place_of_a_module_that_was_forgotten_does_not_get_its_answer() {
    let mut bench = Bench::new(100, 1_000);
    let source = || SourceId::new("chain:1");
    let behind = Cursor::block(990, hash(0, 990));
    let left = bench.tracker.pull("a".into(), source(), 1, Some(&behind), &blocks(), SIZE);
    assert_eq!(bench.tracker.forget("a"), [left]);
    let head = Cursor::block(1_000, hash(0, 1_000));
    let subscription = bench.tracker.pull("b".into(), source(), 1, Some(&head), &blocks(), SIZE);
    assert_eq!(subscription, left);
    bench.work();
    assert!(bench.answers.is_empty(), "{:?}", bench.answers);
}

#[test]
fn a_chain_with_another_genesis_is_named() {
    let history = History::new(4_096, (0..50).map(|number| header(7, 0, number).link()));
    let mut tracker = Tracker::new(1, 100, 1_000, history);
    let mut other = header(0, 0, 0);
    other.hash = hash(3, 0);
    tracker.head_seen(other, 0);
    let interest = Arc::new(Interest { blocks: Blocks::All, logs: vec![], start_block: None, hold: Hold::Latest });
    let cursor = Cursor::block(49, header(7, 0, 49).hash);
    tracker.pull("a".into(), SourceId::new("chain:1"), 1, Some(&cursor), &interest, SIZE);
    let effects = tracker.effects();
    let [Effect::Answer { answer: Answer::Stuck { reason }, .. }, ..] = &effects[..] else { panic!("{effects:?}") };
    assert!(reason.contains("descends from another genesis block"), "{reason}");
}
