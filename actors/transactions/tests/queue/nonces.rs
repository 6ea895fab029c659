//! Which nonce something gets, what becomes of it, and what is durable when.

use nexum_host_ifaces::transactions::{FailureKind, TransactionOrder};
use nexum_transactions::{
    ChainSettings,
    classify::Class,
    queue::{Action, Note, Votes},
};

use super::support::{KEY, Run};

fn nonces(run: &Run, numbers: impl IntoIterator<Item = u8>) -> Vec<Option<u64>> {
    numbers.into_iter().map(|number| run.nonce_of(number)).collect()
}

#[test]
fn modules_on_one_account_share_one_queue_and_its_nonces() {
    let mut run = Run::of(0..4);
    assert_eq!(nonces(&run, 0..4), [Some(0), Some(1), Some(2), Some(3)]);
    assert_eq!((run.summary(0).module.as_str(), run.summary(1).module.as_str()), ("even", "odd"));
    run.blocks(4);
    for number in 0..4 {
        run.mined_hash(number);
    }
}

/// Steps until nothing is to be done; the most signatures that were wanted at once.
fn signed_at_once(run: &mut Run) -> usize {
    let mut most = 0;
    loop {
        let actions = run.queue.step(run.now);
        if actions.is_empty() {
            return most;
        }
        most = most.max(actions.iter().filter(|action| matches!(action, Action::Sign { .. })).count());
        for action in actions {
            let input = run.world.perform(KEY, action);
            run.queue.take(input, run.now);
        }
    }
}

#[test]
fn no_more_signatures_are_wanted_at_once_than_identity_makes() {
    let mut run = Run::with(ChainSettings { max_in_flight: 100, ..ChainSettings::default() });
    for number in 0..80 {
        run.submit(number);
    }
    assert!(signed_at_once(&mut run) <= 16);
    assert_eq!((run.world.signed.len(), run.world.pool.len()), (80, 80));
    for nonce in 0..80 {
        run.queue.order(nonce, TransactionOrder::Cancel).unwrap();
    }
    assert!(signed_at_once(&mut run) <= 16);
    assert_eq!(run.empty_nonces().len(), 80);
}

#[test]
fn nonce_bytes_hash_and_intent_are_durable_before_anything_is_broadcast() {
    let mut run = Run::new();
    run.world.store_down = true;
    run.submit_all([0]);
    run.seconds(30);
    assert_eq!((run.world.signed.len(), run.world.sent.len()), (1, 0));
    assert!(run.queue.status(run.now).stopped.unwrap().contains("the disk is full"));
    run.world.store_down = false;
    run.seconds(3);
    let slots = run.world.slots(KEY);
    let ([slot], (nonce, hash, raw)) = (slots.as_slice(), &run.world.sent[0]) else { panic!("{slots:?}") };
    assert_eq!((slot.nonce, slot.intent.as_ref().unwrap().id.as_str()), (*nonce, "intent 0"));
    assert_eq!((slot.newest().hash, &slot.newest().raw), (*hash, raw));
}

#[test]
fn the_next_nonce_follows_from_the_records_alone() {
    let mut run = Run::of(0..2);
    run.world.pool.clear();
    run.restart();
    run.submit_all([2]);
    assert_eq!(nonces(&run, 0..3), [Some(0), Some(1), Some(2)]);
}

#[test]
fn after_a_crash_the_same_bytes_go_out_again_and_nothing_is_signed_anew() {
    let mut run = Run::new();
    run.world.silent = true;
    run.submit_all([0]);
    run.restart();
    run.submit_all([0]);
    run.seconds(3);
    assert_eq!(run.world.signed.len(), 1);
    assert!(run.world.sent.len() >= 2 && run.world.sent.iter().all(|sent| *sent == run.world.sent[0]));
    run.blocks(4);
    run.mined_hash(0);
    assert_eq!(run.world.times("intent 0"), 1);
}

#[test]
fn signed_accepted_mined_and_final_are_separate_facts() {
    let mut run = Run::new();
    run.world.silent = true;
    run.submit_all([0]);
    assert_eq!(run.summary(0).state, "signed");
    run.world.silent = false;
    run.seconds(2);
    assert_eq!(run.summary(0).state, "broadcast");
    run.blocks(1);
    assert_eq!(run.summary(0).state, "mined");
    assert!(run.is_underway(0));
    run.blocks(3);
    assert_eq!(run.summary(0).state, "final");
}

#[test]
fn a_slot_that_no_node_accepted_is_used_again() {
    let mut run = Run::new();
    run.world.refusals.insert(0, Class::IntrinsicGas);
    run.submit_all([0]);
    assert_eq!(run.failed_as(0), FailureKind::Refused);
    run.world.refusals.clear();
    run.submit_all([1]);
    assert_eq!(run.nonce_of(1), Some(0));
    run.blocks(4);
    run.mined_hash(1);
    assert_eq!((run.failed_as(0), run.world.times("intent 0")), (FailureKind::Refused, 0));
}

#[test]
fn new_bytes_wait_for_their_own_record_and_not_for_an_older_one_of_their_nonce() {
    let mut run = Run::new();
    run.world.refusals.insert(0, Class::IntrinsicGas);
    run.submit(0);
    let mut held = None;
    for _ in 0..20 {
        for action in run.queue.step(run.now) {
            // The nonce was found to be free, which is being written while it is given to other work.
            if held.is_none() && matches!(action, Action::Write { .. }) && !run.world.sent.is_empty() {
                held = Some(action);
                run.world.refusals.clear();
                run.submit(1);
                continue;
            }
            let input = run.world.perform(KEY, action);
            run.queue.take(input, run.now);
        }
    }
    assert_eq!((run.world.signed.len(), run.world.sent.len()), (2, 1));
    let input = run.world.perform(KEY, held.unwrap());
    run.queue.take(input, run.now);
    // The world asserts that what is broadcast is durable.
    run.settle();
    assert_eq!(run.world.sent.len(), 2);
    run.blocks(4);
    run.mined_hash(1);
}

#[test]
fn already_known_is_a_success() {
    let mut run = Run::new();
    run.world.refusals.insert(0, Class::AlreadyKnown);
    run.submit_all([0]);
    assert_eq!(run.summary(0).state, "broadcast");
    assert!(run.is_underway(0));
}

#[test]
fn nonce_too_low_asks_for_receipts() {
    let mut run = Run::new();
    run.world.silent = true;
    run.submit_all([0]);
    run.world.block();
    run.restart();
    // The first thing is the broadcast of what may not have left.
    run.settle();
    assert_eq!(run.summary(0).state, "mined");
    assert_eq!((run.world.signed.len(), run.world.sent.len()), (1, 2));
}

#[test]
fn a_second_endpoint_must_agree_before_a_nonce_counts_as_another_s() {
    let mut run = Run::of([0]);
    run.world.blind = true;
    run.world.votes = Some(Votes { against: 1, answered: 1, configured: 2, ..Votes::default() });
    run.blocks(40);
    assert!(run.is_underway(0));
    assert_eq!(run.world.signed.len(), 1);
    // Another one says that it was not used then.
    run.world.votes = Some(Votes { against: 2, unused: 1, answered: 3, configured: 3, ..Votes::default() });
    run.blocks(10);
    assert_eq!(run.world.signed.len(), 1);
    (run.world.blind, run.world.votes) = (false, None);
    run.blocks(2);
    run.mined_hash(0);
}

#[test]
fn the_only_endpoint_of_a_chain_has_to_say_so_at_three_heads() {
    let mut run = Run::of([0]);
    run.world.use_elsewhere(KEY.account);
    run.world.votes = Some(Votes { against: 1, answered: 1, configured: 1, ..Votes::default() });
    run.seconds(30);
    assert_eq!(run.world.signed.len(), 1);
    run.blocks(5);
    assert_eq!(run.world.signed.len(), 2);
    run.world.votes = None;
    run.blocks(5);
    run.mined_hash(0);
    assert_eq!(run.world.times("intent 0"), 1);
}

#[test]
fn a_nonce_used_elsewhere_gives_its_work_a_new_one_and_is_counted() {
    let mut run = Run::of(0..2);
    run.world.use_elsewhere(KEY.account);
    run.blocks(5);
    assert!(run.is_underway(0));
    assert_eq!(run.world.signed.len(), 2, "it may still come back");
    run.blocks(15);
    assert_eq!(run.nonce_of(0), Some(2));
    run.blocks(5);
    for number in 0..2 {
        run.mined_hash(number);
        assert_eq!(run.world.times(&format!("intent {number}")), 1);
    }
    assert_eq!((run.foreign_notes(), run.queue.status(run.now).foreign_nonces), (1, 1));
}

#[test]
fn work_that_waits_takes_the_nonce_after_those_used_elsewhere() {
    let mut run = Run::new();
    run.world.balance = 0;
    run.submit_all([0]);
    for _ in 0..2 {
        run.world.use_elsewhere(KEY.account);
    }
    run.seconds(3);
    assert_eq!(run.foreign_notes(), 2);
    run.world.balance = u128::MAX / 2;
    run.seconds(3);
    assert_eq!(run.nonce_of(0), Some(2));
}

#[test]
fn gaps_are_closed_from_the_lowest_with_work_that_waits() {
    let mut run = Run::new();
    run.world.refusals.extend([(0, Class::IntrinsicGas), (1, Class::IntrinsicGas)]);
    run.submit_all(0..4);
    run.world.refusals.clear();
    run.submit_all(4..6);
    assert_eq!(nonces(&run, 2..6), [Some(2), Some(3), Some(0), Some(1)]);
    run.seconds(10);
    assert!(run.empty_nonces().is_empty());
    run.blocks(4);
    for number in 2..6 {
        run.mined_hash(number);
    }
}

#[test]
fn gaps_that_nothing_waits_for_are_closed_from_the_lowest_with_transfers_of_nothing() {
    let mut run = Run::new();
    run.world.refusals.extend([(0, Class::IntrinsicGas), (1, Class::IntrinsicGas)]);
    run.submit_all(0..4);
    run.world.refusals.clear();
    run.seconds(15);
    assert_eq!(run.empty_nonces(), [0, 1]);
    assert_eq!(run.notes.iter().filter(|note| **note == Note::GapFilled).count(), 2);
    run.blocks(4);
    for number in 2..4 {
        run.mined_hash(number);
    }
}

#[test]
fn nonces_in_flight_are_bounded() {
    let mut run = Run::with(ChainSettings { max_in_flight: 2, ..ChainSettings::default() });
    run.submit_all(0..5);
    let status = run.queue.status(run.now);
    assert_eq!((status.in_flight, status.waiting, run.world.signed.len()), (2, 3, 2));
    run.blocks(8);
    for number in 0..5 {
        run.mined_hash(number);
    }
}

#[test]
fn a_cancel_is_a_replacement_and_what_follows_keeps_its_nonce() {
    let mut run = Run::of(0..3);
    let followers = |run: &Run| [1, 2].map(|number| (run.nonce_of(number), run.summary(number).hashes));
    let before = followers(&run);
    run.queue.order(0, TransactionOrder::Cancel).unwrap();
    run.settle();
    assert_eq!(run.empty_nonces(), [0]);
    assert_eq!(followers(&run), before);
    run.blocks(4);
    assert_eq!((run.failed_as(0), run.world.times("intent 0")), (FailureKind::Cancelled, 0));
    for number in 1..3 {
        run.mined_hash(number);
    }
}

#[test]
fn what_is_mined_in_spite_of_a_cancel_is_told_to_be_mined() {
    let mut run = Run::of([0]);
    run.queue.order(0, TransactionOrder::Cancel).unwrap();
    run.blocks(4);
    run.mined_hash(0);
    assert!(run.queue.order(0, TransactionOrder::Cancel).is_err());
}

#[test]
fn a_nonce_that_one_endpoint_alone_tells_signs_nothing_until_it_said_so_at_three_heads() {
    let mut run = Run::of([0]);
    run.blocks(4);
    run.mined_hash(0);
    run.world.nonce_alone = Some(900);
    // What was seen before is too old by then.
    run.seconds(5);
    run.submit_all([1]);
    run.seconds(30);
    let status = run.queue.status(run.now);
    assert!(status.stopped.unwrap().contains("the account's next nonce is 900, where 1 was expected"));
    assert!(status.stopped_age_ms > Some(20_000) && run.world.signed.len() == 1);
    // Others are there again.
    run.world.nonce_alone = None;
    run.seconds(3);
    assert_eq!((run.nonce_of(1), run.foreign_notes()), (Some(1), 0));
    // What its own transactions explain is believed.
    run.world.block();
    run.world.nonce_alone = Some(2);
    run.submit_all([2]);
    run.seconds(3);
    assert_eq!(run.nonce_of(2), Some(2));
    // The only endpoint there is, and the key is used elsewhere.
    run.world.block();
    run.world.use_elsewhere(KEY.account);
    run.world.nonce_alone = Some(4);
    run.seconds(5);
    run.submit_all([3]);
    run.empty_blocks(4);
    assert_eq!(run.nonce_of(3), Some(4));
}

#[test]
fn the_first_look_at_an_account_wants_two_endpoints_where_there_are_several() {
    let mut run = Run::new();
    run.world.configured = 3;
    run.world.nonce_alone = Some(900);
    run.submit_all([0]);
    run.seconds(30);
    assert!(run.queue.status(run.now).stopped.unwrap().contains("of which nothing is known here"));
    assert!(run.world.signed.is_empty(), "every nonce below would have to be used up");
    run.world.nonce_alone = None;
    run.seconds(3);
    assert_eq!(run.nonce_of(0), Some(0));
}

#[test]
fn a_nonce_used_elsewhere_that_a_deep_reorg_frees_is_used_up_and_holds_up_nothing() {
    let mut run = Run::of([0]);
    run.world.use_elsewhere(KEY.account);
    run.blocks(25);
    assert_eq!(run.nonce_of(0), Some(1));
    run.mined_hash(0);
    // One endpoint alone says that it was never used.
    run.world.nonce_alone = Some(0);
    run.seconds(10);
    assert_eq!((run.empty_nonces().len(), run.world.signed.len()), (0, 2));
    run.world.nonce_alone = None;
    // The other program's transaction is gone for good, and with it the one that came after it.
    run.world.blocks.truncate(1);
    run.world.empty_blocks(25);
    run.seconds(3);
    run.blocks(6);
    assert_eq!(run.empty_nonces(), [0], "what was signed with it first must not be mined besides");
    assert_eq!((run.world.nonce(KEY.account), run.world.times("intent 0")), (2, 1));
    run.submit_all([1]);
    assert_eq!(run.nonce_of(1), Some(2));
}
