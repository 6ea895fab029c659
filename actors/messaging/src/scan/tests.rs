//! A model of a store into which messages come late, and of a module that handles what it is given.

use std::collections::{BTreeMap, BTreeSet};

use nexum_host_ifaces::types::Message;

use super::*;

const DISORDER: u64 = 60;
const MAX: usize = 8;

fn hash(number: u64) -> Hash {
    let mut bytes = [0; 32];
    // Neighbours are far from each other, as real hashes are.
    bytes[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    Hash(bytes)
}

fn stored(time_ns: u64, number: u64) -> Stored {
    let payload = number.to_be_bytes().to_vec();
    let message = Message { content_topic: "/app/1/x/proto".into(), payload, timestamp: 0, sender: None };
    Stored { time_ns, hash: hash(number), meta: Vec::new(), message }
}

fn source() -> SourceId {
    SourceId::new("message:/app/1/x/proto")
}

/// What one look at a store comes to, page by page.
fn look(store: &BTreeMap<(u64, Hash), Stored>, position: Position, now: u64, page: usize) -> Scanned {
    look_and(store, position, now, page).0
}

/// The same, and whether it wanted more.
fn look_and(store: &BTreeMap<(u64, Hash), Stored>, position: Position, now: u64, page: usize) -> (Scanned, Goes) {
    let mut goes = Goes::On;
    let from = position.time_ns;
    let mut scan = Scan::new(source(), position, now.saturating_sub(DISORDER), MAX, 1);
    let all: Vec<Stored> = store.values().filter(|message| message.time_ns >= from).cloned().collect();
    for page in all.chunks(page) {
        goes = scan.take(page.to_vec()).unwrap();
        if goes != Goes::On {
            break;
        }
    }
    (scan.end(), goes)
}

fn number(delivery: &Delivery) -> u64 {
    match &*delivery.event {
        Event::Message(message) => u64::from_be_bytes(message.payload.as_slice().try_into().unwrap()),
        other => panic!("{other:?}"),
    }
}

fn put(store: &mut BTreeMap<(u64, Hash), Stored>, time_ns: u64, number: u64) {
    store.insert((time_ns, hash(number)), stored(time_ns, number));
}

#[test]
#[should_panic(expected = "a topic's position is a time and a hash, not 5")]
fn the_position_of_another_source_is_not_taken_for_none() {
    Position::of(&Cursor::Number { number: 5 });
}

#[test]
fn a_late_message_is_given_once_and_those_after_it_not_again() {
    let mut store = BTreeMap::new();
    put(&mut store, 1_000, 1);
    put(&mut store, 1_030, 3);
    let first = look(&store, Position::start(900), 1_040, 10);
    assert_eq!(first.deliveries.iter().map(number).collect::<Vec<_>>(), [1, 3]);
    put(&mut store, 1_010, 2);
    let second = look(&store, first.position, 1_045, 10);
    assert_eq!(second.deliveries.iter().map(number).collect::<Vec<_>>(), [2]);
    let third = look(&store, second.position, 1_200, 10);
    assert!(third.deliveries.is_empty());
    assert_eq!(third.position, Position::start(1_200 - DISORDER + 1), "everything is settled, and nothing is named");
}

#[test]
fn a_delivery_that_is_not_handled_comes_again() {
    let mut store = BTreeMap::new();
    (0..5).for_each(|n| put(&mut store, 1_000 + n, n));
    let first = look(&store, Position::start(900), 1_010, 10);
    // The module ends after the second one.
    let position = Position::of(&first.deliveries[1].cursor);
    let second = look(&store, position, 1_011, 10);
    assert_eq!(second.deliveries.iter().map(number).collect::<Vec<_>>(), [2, 3, 4]);
}

#[test]
fn history_needs_no_names_and_messages_of_one_time_are_told_apart() {
    let mut store = BTreeMap::new();
    (0..100).for_each(|n| put(&mut store, 1_000 + n / 10, n));
    let (mut position, mut seen) = (Position::start(0), BTreeSet::new());
    loop {
        let scanned = look(&store, position, 1_000_000, 3);
        if scanned.deliveries.is_empty() {
            break;
        }
        for delivery in &scanned.deliveries {
            assert!(seen.insert(number(delivery)), "{delivery:?}");
            assert_eq!(Position::of(&delivery.cursor).names(), 0);
        }
        position = scanned.position;
    }
    assert_eq!(seen.len(), 100);
}

#[test]
fn a_topic_with_more_messages_than_names_waits_until_they_are_settled() {
    let mut store = BTreeMap::new();
    let many = HANDLED_MAX as u64 + 50;
    (0..many).for_each(|n| put(&mut store, 1_000_000 + n % 7, n));
    let (mut position, mut seen) = (Position::start(900), BTreeSet::new());
    let goes = loop {
        let (scanned, goes) = look_and(&store, position, 1_000_010, 100);
        seen.extend(scanned.deliveries.iter().map(number));
        position = scanned.position;
        if scanned.deliveries.is_empty() {
            break goes;
        }
    };
    assert_eq!((seen.len(), goes, position.names()), (HANDLED_MAX, Goes::Waits, HANDLED_MAX));
    loop {
        let scanned = look(&store, position, 1_000_100, 100);
        assert!(scanned.deliveries.iter().map(number).all(|number| seen.insert(number)));
        position = scanned.position;
        if scanned.deliveries.is_empty() {
            break;
        }
    }
    assert_eq!((seen.len() as u64, position.names()), (many, 0));
}

#[test]
fn a_duplicate_falls_by_its_hash_and_a_page_out_of_order_is_refused() {
    let mut scan = Scan::new(source(), Position::start(0), 500, MAX, 1);
    // A hash stands for one time as well; a store that says otherwise gives nothing twice by that.
    let another_time = Stored { hash: hash(1), ..stored(450, 9) };
    let twice = vec![stored(400, 1), stored(400, 1), another_time, stored(600, 2), stored(600, 2)];
    assert_eq!(scan.take(twice).unwrap(), Goes::On);
    let error = scan.take(vec![stored(599, 3)]).unwrap_err();
    assert!(error.message.ends_with("do not follow each other in the order of times"), "{}", error.message);
    assert_eq!(scan.end().deliveries.iter().map(number).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn whether_the_last_settled_message_is_still_there_is_known() {
    let mut store = BTreeMap::new();
    put(&mut store, 100, 1);
    let position = look(&store, Position::start(0), 120, 10).deliveries.pop().map(|it| Position::of(&it.cursor));
    let named = position.unwrap();
    assert_eq!((named.time_ns, named.hash, named.names()), (61, None, 1), "it is not settled yet");
    let settled = look(&store, Position::start(0), 1_000, 10).deliveries.pop().unwrap();
    let settled = Position::of(&settled.cursor);
    assert_eq!((settled.time_ns, settled.hash), (100, Some(hash(1))));
    for (messages, found) in [(vec![stored(100, 1)], true), (vec![stored(200, 2)], false)] {
        let mut scan = Scan::new(source(), settled.clone(), 900, MAX, 1);
        scan.take(messages).unwrap();
        assert_eq!(scan.found(), found);
    }
    let mut scan = Scan::new(source(), settled, 900, MAX, 1);
    scan.lost_before(400);
    assert_eq!(scan.position, Position::start(400));
}

/// Seeds of a small world: messages come in late by at most the disorder, the module ends at any delivery, looks come at any
/// time. Each message is handled exactly once.
#[test]
fn whatever_comes_late_and_whenever_the_module_ends_each_message_is_handled_once() {
    for seed in 1..400_u64 {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut below = move |bound: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % bound
        };
        let (mut store, mut late) = (BTreeMap::new(), Vec::new());
        let (mut position, mut handled) = (Position::start(0), BTreeMap::<u64, u32>::new());
        let total = 60 + below(400);
        let (mut now, mut sent) = (10_000, 0);
        while sent < total || !late.is_empty() || handled.len() as u64 != total {
            assert!(now < 100_000, "seed {seed}: {} of {total}", handled.len());
            now += below(12);
            for _ in 0..below(9).min(total - sent) {
                late.push((now + below(DISORDER), now, sent));
                sent += 1;
            }
            late.retain(|(arrives, time_ns, number)| {
                let is_there = *arrives <= now;
                if is_there {
                    put(&mut store, *time_ns, *number);
                }
                !is_there
            });
            let scanned = look(&store, position.clone(), now, 1 + below(20) as usize);
            let ends_after = below(scanned.deliveries.len() as u64 + 3) as usize;
            let whole = ends_after >= scanned.deliveries.len();
            for delivery in scanned.deliveries.iter().take(ends_after) {
                *handled.entry(number(delivery)).or_default() += 1;
                position = Position::of(&delivery.cursor);
            }
            if whole {
                position = scanned.position;
            }
            assert!(position.names() <= HANDLED_MAX);
        }
        assert!(handled.values().all(|times| *times == 1), "seed {seed}: {handled:?}");
    }
}
