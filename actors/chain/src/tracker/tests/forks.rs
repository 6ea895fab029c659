//! How deep a fork is, and where it ends.

use super::*;

#[test]
fn a_reorg_is_as_deep_as_the_blocks_that_are_gone() {
    for depth in [1_u64, 2, 3, 4, 5, 24, 28, 61, 99] {
        let mut bench = Bench::new(100, 1_000);
        (1_001..=1_200).for_each(|number| bench.see(number));
        bench.jobs.clear();
        bench.switch(7, 1_200 - depth, 1_201);
        let told = bench.jobs.iter().filter(|job| job.starts_with("reorg")).collect::<Vec<_>>();
        assert_eq!(told, [&format!("reorg of {depth}")], "{:?}", bench.jobs);
    }
}

#[test]
fn a_chain_that_keeps_nothing_but_its_first_block_is_followed() {
    for head in [1, 2, 3, 7, 64] {
        let mut bench = Bench::new(100, head);
        bench.switch(7, 0, head);
        assert_eq!(bench.tracker.head(), Some((head, hash(7, head))), "{:?}", bench.jobs);
        assert!(bench.jobs.contains(&format!("reorg of {head}")), "{:?}", bench.jobs);
        assert!(bench.tracker.waits().0.is_empty());
    }
}

#[test]
fn a_head_that_names_the_tip_as_its_parent_and_has_another_number_is_not_put_on_it() {
    for number in [1_002, 1_000] {
        let mut bench = Bench::new(100, 1_000);
        bench.tracker.head_seen(Header::new(number, hash(7, number), hash(0, 1_000), number), 0);
        assert_eq!(bench.tracker.head(), Some((1_000, hash(0, 1_000))), "{number}");
        bench.see(1_001);
        assert_eq!(bench.tracker.head(), Some((1_001, hash(0, 1_001))), "{number}");
    }
}

#[test]
fn a_head_that_leads_nowhere_is_a_wait_until_one_does() {
    let mut bench = Bench::new(100, 1_000);
    bench.survey = Survey { have: 1, ..Survey::default() };
    bench.switch(7, 0, 1_000);
    let (waits, _) = bench.tracker.waits();
    assert!(waits.iter().any(|wait| wait.reason.contains("shares nothing")), "{waits:?}");
    bench.switch(0, 0, 1_001);
    assert!(bench.tracker.waits().0.is_empty());
}
