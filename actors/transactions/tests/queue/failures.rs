//! What programs of this kind are known to get wrong.

use nexum_host_ifaces::transactions::{FailureKind, TransactionOrder};
use nexum_transactions::{ChainSettings, classify::Class, fees::Market, queue::Action};

use super::support::{KEY, Run};

#[test]
fn a_signature_that_fails_uses_up_no_nonce() {
    let mut run = Run::new();
    run.world.signer_down = true;
    run.submit_all(0..2);
    run.seconds(30);
    assert!(run.world.durable.is_empty() && run.world.sent.is_empty());
    run.world.signer_down = false;
    run.seconds(10);
    let mut nonces = [run.nonce_of(0), run.nonce_of(1)];
    nonces.sort_unstable();
    assert_eq!(nonces, [Some(0), Some(1)]);
}

#[test]
fn nothing_counts_as_sent_before_it_was() {
    let mut run = Run::new();
    run.submit(0);
    let died = 'process: loop {
        for action in run.queue.step(run.now) {
            if matches!(action, Action::Broadcast { .. }) {
                break 'process true;
            }
            let input = run.world.perform(KEY, action);
            run.queue.take(input, run.now);
        }
    };
    assert!(died && run.world.sent.is_empty() && run.world.durable.len() == 1);
    run.restart();
    run.submit_all([0]);
    assert_eq!((run.world.sent.len(), run.world.signed.len()), (1, 1));
    run.blocks(4);
    run.mined_hash(0);
}

#[test]
fn a_mined_transaction_is_not_failed_after_an_empty_receipt() {
    let mut run = Run::of([0]);
    run.world.blind = true;
    run.blocks(3);
    assert!(run.is_underway(0));
    run.world.blind = false;
    run.blocks(3);
    run.mined_hash(0);
    assert_eq!((run.world.signed.len(), run.world.times("intent 0")), (1, 1));
}

#[test]
fn a_fee_cap_strands_nothing_for_ever() {
    let mut run = Run::with(ChainSettings { max_fee_per_gas: 100, ..ChainSettings::default() });
    run.submit_all(0..3);
    run.world.market = Market::Dynamic { base_fee: 5_000, priority: 1 };
    run.blocks(100);
    // No node keeps it for so long.
    run.world.pool.clear();
    run.blocks(100);
    run.world.market = Market::Dynamic { base_fee: 20, priority: 1 };
    run.blocks(10);
    for number in 0..3 {
        run.mined_hash(number);
    }
    assert_eq!(run.world.signed.len(), 3);
}

#[test]
fn what_one_of_several_endpoints_alone_refused_is_not_made_again_beside_it() {
    let mut run = Run::new();
    run.world.configured = 3;
    run.world.refusals.insert(0, Class::IntrinsicGas);
    run.submit_all([0]);
    // It has the bytes all the same, and tells them once the intent is said to have failed.
    let kept = run.world.sent[0].1;
    run.world.refusals.clear();
    run.seconds(5);
    assert!(run.is_underway(0));
    run.submit_all([1]);
    run.blocks(4);
    assert_eq!(run.failed_as(0), FailureKind::Refused);
    assert!(run.empty_nonces().contains(&0));
    run.world.pool.insert((KEY.account, 0), kept);
    run.blocks(4);
    run.mined_hash(1);
    assert_eq!((run.world.times("intent 0"), run.world.times("intent 1")), (0, 1));
}

#[test]
fn what_a_module_left_that_may_not_send_any_more_holds_up_no_other() {
    let mut run = Run::of([0]);
    run.world.market = Market::Dynamic { base_fee: 100, priority: 1 };
    run.world.denied = Some("even");
    run.submit_all([1]);
    run.blocks(30);
    assert!(run.empty_nonces().is_empty() && run.is_underway(1));
    run.queue.order(0, TransactionOrder::Cancel).unwrap();
    run.seconds(30);
    run.blocks(4);
    assert_eq!((run.failed_as(0), run.world.times("intent 0")), (FailureKind::Cancelled, 0));
    // It was signed when fees were lower.
    run.blocks(30);
    run.mined_hash(1);
}

#[test]
fn a_cancel_strands_nothing_behind_it() {
    let mut run = Run::of(0..4);
    for nonce in [0, 2] {
        run.queue.order(nonce, TransactionOrder::Cancel).unwrap();
    }
    // Also when the process ends between the order and what comes of it.
    run.settle();
    run.restart();
    run.seconds(5);
    run.blocks(5);
    for number in [1, 3] {
        run.mined_hash(number);
    }
    for number in [0, 2] {
        assert_eq!(run.failed_as(number), FailureKind::Cancelled);
    }
    assert_eq!(run.world.nonce(KEY.account), 4);
}

#[test]
fn another_program_with_the_same_key_makes_nothing_get_lost_or_sent_twice() {
    let mut run = Run::of(0..3);
    run.world.use_elsewhere(KEY.account);
    run.world.use_elsewhere(KEY.account);
    run.restart();
    run.blocks(30);
    for number in 0..3 {
        run.mined_hash(number);
        assert_eq!(run.world.times(&format!("intent {number}")), 1);
    }
    assert_eq!(run.world.nonce(KEY.account), 5);
}

#[test]
fn without_balance_nothing_is_tried_again_with_a_wrong_nonce() {
    let mut run = Run::of(0..2);
    // What is in flight cannot be paid any more, nobody keeps it, and the process starts anew.
    run.world.balance = 0;
    run.world.pool.clear();
    run.restart();
    run.submit_all(0..4);
    run.seconds(120);
    assert_eq!((run.world.signed.len(), run.queue.status(run.now).in_flight), (2, 2));
    run.world.balance = u128::MAX / 2;
    run.blocks(15);
    for number in 0..4 {
        assert_eq!(run.nonce_of(number), Some(u64::from(number)));
        run.mined_hash(number);
    }
}

#[test]
fn no_nonce_is_remembered_past_a_transaction_that_was_dropped() {
    let mut run = Run::of(0..2);
    let bytes: Vec<_> = run.world.sent.clone();
    run.world.pool.clear();
    run.submit_all([2]);
    assert_eq!(run.nonce_of(2), Some(2));
    // The same bytes go out again, and everything follows.
    run.seconds(20);
    assert!(bytes.iter().all(|sent| run.world.sent.iter().filter(|again| *again == sent).count() >= 2));
    run.blocks(5);
    for number in 0..3 {
        run.mined_hash(number);
    }
    assert_eq!(run.world.signed.len(), 3);
}

/// Carries out what is wanted now. The process dies at the action where `left` comes to its end: before it is done, or
/// before its answer is heard.
fn settle_or_die(run: &mut Run, left: &mut Option<u32>, done: bool) {
    loop {
        let actions = run.queue.step(run.now);
        if actions.is_empty() {
            return;
        }
        for action in actions {
            let dies = *left == Some(0);
            *left = left.and_then(|left| left.checked_sub(1));
            if dies && !done {
                return run.restart();
            }
            let input = run.world.perform(KEY, action);
            if dies {
                return run.restart();
            }
            run.queue.take(input, run.now);
        }
    }
}

#[test]
fn a_crash_at_any_action_leaves_each_mined_exactly_once() {
    for (at, done) in (0..80).flat_map(|at| [(at, false), (at, true)]) {
        let (mut run, mut left) = (Run::new(), Some(at));
        for second in 0u64..60 {
            for number in 0..3 {
                run.submit(number);
            }
            settle_or_die(&mut run, &mut left, done);
            run.now += 1_000;
            if second.is_multiple_of(3) {
                run.world.block();
            }
        }
        assert_eq!(left, None, "it never came to action {at}");
        for number in 0..3 {
            run.mined_hash(number);
            assert_eq!(run.world.times(&format!("intent {number}")), 1, "it died at action {at}");
        }
    }
}
