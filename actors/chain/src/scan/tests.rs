//! What was read at different times, and what of it does not belong to one chain.

use nexum_host_ifaces::{
    interfaces::chain::port::{Hold, Interest, LogFilter},
    types::Log,
};

use super::*;
use crate::{header::Header, interests::Interests};

/// Blocks of several branches that share none.
fn hash(branch: u8, number: u64) -> Hash {
    let mut bytes = [branch; 32];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    Hash(bytes)
}

fn header(branch: u8, number: u64) -> Header {
    Header::new(number, hash(branch, number), hash(branch, number - 1), number)
}

fn headers(branch: u8, from: u64, to: u64) -> Vec<Header> {
    (from..=to).map(|number| header(branch, number)).collect()
}

fn log(branch: u8, number: u64) -> Log {
    Log {
        chain_id: 1,
        address: vec![1; 20],
        topics: vec![],
        data: vec![],
        block_number: number,
        block_hash: hash(branch, number).0.to_vec(),
        block_timestamp: 0,
        transaction_hash: vec![0; 32],
        transaction_index: 0,
        log_index: 0,
    }
}

/// A window whose blocks are all of one branch.
fn window(branch: u8, from: u64, to: u64) -> Window {
    let mut window = Window::new(1, 100);
    headers(branch, from, to).into_iter().for_each(|header| window.push(header, 0));
    window
}

fn watch(logs: Vec<LogFilter>) -> Arc<Watch> {
    let interest = Interest { blocks: Blocks::All, logs, start_block: None, hold: Hold::Latest };
    Interests::default().add(&Arc::new(interest))
}

/// Walks on from a block of branch 0 to where what was read contradicts itself: the numbers of the events given out.
fn broken_off(window: &mut Window, backfill: &mut Backfill, watch: &Arc<Watch>, number: u64, part: Part) -> Vec<u64> {
    let mut at = Position { number, hash: Some(hash(0, number)), part };
    let limit = window.tip().map_or(0, |tip| tip.header.number);
    let mut scan = Scan { chain_id: 1, window, backfill, limit, watch, max: 1_000, deliveries: Vec::new(), skipped: 0 };
    let stop = scan.run(&mut at);
    let given = scan.deliveries.iter().map(|delivery| match &delivery.id {
        EventId::Block { number, hash: of, .. } | EventId::Logs { number, hash: of, .. } => {
            assert_eq!(*of, hash(0, *number), "a block of another branch is given out");
            *number
        }
        other => panic!("{other:?}"),
    });
    let given = given.collect();
    assert_eq!(stop, Stop::Broken);
    given
}

fn numbers(from: u64, to: u64) -> Vec<u64> {
    (from..=to).collect()
}

#[test]
fn a_read_of_history_that_does_not_follow_the_one_before_ends_the_walk() {
    let (mut window, mut backfill) = (window(0, 500, 500), Backfill::new(1, 1_000));
    assert!(backfill.add_headers(101, 110, headers(0, 101, 110)));
    assert!(backfill.add_headers(111, 120, headers(7, 111, 120)));
    let given = broken_off(&mut window, &mut backfill, &watch(vec![]), 100, Part::Block);
    assert_eq!(given, numbers(101, 110));
}

#[test]
fn a_first_block_that_does_not_follow_the_cursor_is_not_given_out() {
    let (mut window, mut backfill) = (window(0, 500, 500), Backfill::new(1, 1_000));
    assert!(backfill.add_headers(101, 110, headers(7, 101, 110)));
    assert!(broken_off(&mut window, &mut backfill, &watch(vec![]), 100, Part::Block).is_empty());
}

#[test]
fn a_window_that_does_not_follow_the_history_ends_the_walk() {
    let (mut window, mut backfill) = (window(7, 401, 500), Backfill::new(1, 1_000));
    assert!(backfill.add_headers(391, 400, headers(0, 391, 400)));
    let given = broken_off(&mut window, &mut backfill, &watch(vec![]), 390, Part::Block);
    assert_eq!(given, numbers(391, 400));
}

#[test]
fn the_block_whose_logs_were_handled_is_not_followed_by_another_of_its_number() {
    let (mut window, mut backfill) = (window(7, 401, 500), Backfill::new(1, 1_000));
    assert!(broken_off(&mut window, &mut backfill, &watch(vec![]), 450, Part::Logs).is_empty());
}

#[test]
fn logs_of_another_block_than_the_headers_name_are_not_given_out() {
    let (mut window, mut backfill) = (window(0, 500, 500), Backfill::new(1, 1_000));
    let watch = watch(vec![LogFilter { addresses: Default::default(), topics: Default::default(), from_block: 0 }]);
    assert!(backfill.add_headers(101, 110, headers(0, 101, 110)));
    backfill.add_logs(101, 110, 10, std::slice::from_ref(&watch), vec![log(7, 105)], hash(0, 110));
    let given = broken_off(&mut window, &mut backfill, &watch, 100, Part::Block);
    assert_eq!(given, numbers(101, 104));
}

#[test]
fn headers_that_are_no_chain_are_not_kept() {
    let mut backfill = Backfill::new(1, 1_000);
    let two = || [headers(0, 101, 105), headers(7, 106, 110)].concat();
    assert!(!backfill.add_headers(101, 110, two()));
    assert!(!backfill.add_headers(101, 110, headers(0, 101, 109)), "one is missing");
    assert!(backfill.header(101).is_none() && backfill.hash_at(106).is_none());
    assert!(backfill.add_headers(101, 110, headers(0, 101, 110)));
}

#[test]
fn blocks_that_the_window_does_not_stand_on_are_not_put_below_it() {
    let mut window = window(0, 480, 500);
    assert!(!window.extend_down(headers(7, 470, 479)));
    let mut broken = [headers(7, 470, 474), headers(0, 475, 479)].concat();
    assert!(!window.extend_down(broken.clone()), "those nearest to it follow, and what is below them does not");
    assert_eq!(window.base().map(|base| base.header.number), Some(475));
    broken.truncate(5);
    assert!(!window.extend_down(broken));
    assert!(window.extend_down(headers(0, 470, 479)));
    assert_eq!(window.hash_at(470), Some(hash(0, 470)));
}

#[test]
#[should_panic(expected = "block 6 does not stand on the head of the window")]
fn a_block_of_another_branch_is_not_put_on_the_window() {
    window(0, 1, 5).push(header(1, 6), 0);
}
