//! What is told of an intent, and when it is told without a nonce.

use nexum_host_ifaces::{
    Hash, HostError, HostErrorKind,
    interfaces::identity::port::{Admission, Fees},
    transactions::{FailureKind, Intent, SubmitAnswer, TransactionOrder, WaitKind, Which},
};
use nexum_transactions::{
    classify::Class,
    fees::Market,
    queue::{Action, Found, KEPT, Note, Simulated, Votes},
    record::{Mined, Slot, Standing, Variant, key},
};

use super::support::{KEY, Run, intent};

fn reverts() -> Simulated {
    let data = Some("0x08c379a0".to_owned());
    Simulated::Reverts { message: "execution reverted: no".to_owned(), data, agreed: true }
}

fn refused(why: &str) -> Result<Admission, HostError> {
    Err(HostError::new("identity", HostErrorKind::Denied, why))
}

/// An intent that has this many seconds.
fn hurried(run: &Run, number: u8, seconds: u64) -> Intent {
    Intent { deadline_ms: Some(run.now + seconds * 1_000), ..intent(number) }
}

#[test]
fn a_certain_revert_takes_no_nonce_and_carries_its_data() {
    let mut run = Run::new();
    run.world.calls.insert(vec![0], reverts());
    run.submit_all([0]);
    let failure = run.failure(0);
    assert_eq!((failure.kind, failure.hash), (FailureKind::WouldRevert, None));
    assert_eq!(failure.data.as_deref(), Some("0x08c379a0"));
    assert!(run.world.signed.is_empty());
    run.submit_all([1]);
    assert_eq!(run.nonce_of(1), Some(0));
}

#[test]
fn what_needs_what_goes_before_it_is_not_told_that_it_reverts() {
    let mut run = Run::new();
    run.world.calls.insert(vec![1], reverts());
    run.submit_all(0..2);
    run.seconds(5);
    assert!(run.is_underway(1));
    // On top of what is in flight it goes well.
    run.world.calls.clear();
    run.seconds(5);
    assert_eq!(run.nonce_of(1), Some(1));
    // On its own it is certain.
    run.world.calls.insert(vec![3], reverts());
    run.submit_all(2..4);
    run.blocks(4);
    run.mined_hash(2);
    assert_eq!(run.failed_as(3), FailureKind::WouldRevert);
}

#[test]
fn what_waits_past_its_deadline_expires_without_a_nonce() {
    let mut run = Run::new();
    run.world.balance = 0;
    let late = hurried(&run, 0, 5);
    run.queue.submit(&late, run.now);
    run.seconds(4);
    assert!(run.is_underway(0));
    run.seconds(2);
    assert_eq!(run.failed_as(0), FailureKind::Expired);
    assert!(run.world.signed.is_empty());
}

#[test]
fn what_was_signed_and_not_broadcast_by_its_deadline_is_never_broadcast() {
    let mut run = Run::new();
    run.world.store_down = true;
    let late = hurried(&run, 0, 5);
    run.queue.submit(&late, run.now);
    run.seconds(10);
    assert!(run.is_underway(0));
    run.world.store_down = false;
    run.seconds(5);
    assert_eq!(run.failed_as(0), FailureKind::Expired);
    assert!(run.world.sent.is_empty());
    run.submit_all([1]);
    assert_eq!(run.nonce_of(1), Some(0));
}

#[test]
fn what_was_broadcast_before_its_deadline_is_followed_to_its_end() {
    let mut run = Run::new();
    let late = hurried(&run, 0, 5);
    run.queue.submit(&late, run.now);
    run.seconds(30);
    assert!(run.is_underway(0));
    run.blocks(4);
    run.mined_hash(0);
}

#[test]
fn the_policy_is_asked_before_anything_is_simulated_or_signed() {
    let mut run = Run::new();
    run.world.admissions.insert("intent 0".to_owned(), refused("no policy allows it"));
    run.world.calls.insert(vec![0], reverts());
    run.submit_all(0..2);
    let failure = run.failure(0);
    assert_eq!((failure.kind, failure.message.as_str()), (FailureKind::Denied, "no policy allows it"));
    assert_eq!((run.world.signed.len(), run.nonce_of(1)), (1, Some(0)));
}

#[test]
fn an_approval_is_awaited_and_holds_up_nobody_else() {
    for (answer, approved) in
        [(Ok(Admission::Allowed), true), (refused("the operator denied it"), false), (refused("it expired"), false)]
    {
        let mut run = Run::new();
        let waits = Admission::AwaitsApproval { number: 7, expires_at_ms: run.now + 3_600_000 };
        run.world.admissions.insert("intent 0".to_owned(), Ok(waits));
        run.submit_all(0..2);
        run.seconds(60);
        let SubmitAnswer::Underway { what, .. } = run.submit(0) else { panic!("it ended while it waits") };
        assert_eq!(what, "waits for approval 7");
        assert_eq!((run.nonce_of(0), run.nonce_of(1)), (None, Some(0)));
        run.world.admissions.insert("intent 0".to_owned(), answer);
        run.seconds(3);
        if approved {
            assert_eq!(run.nonce_of(0), Some(1));
        } else {
            assert_eq!((run.failed_as(0), run.world.signed.len()), (FailureKind::Denied, 1));
        }
    }
}

#[test]
fn what_a_reorg_takes_away_is_sent_again_as_the_same_bytes_and_told_once() {
    let mut run = Run::of([0]);
    run.blocks(1);
    assert_eq!(run.summary(0).state, "mined");
    run.world.blocks.pop();
    run.world.empty_blocks(2);
    run.seconds(3);
    assert_eq!(run.summary(0).state, "broadcast");
    assert!(run.is_underway(0) && run.notes.contains(&Note::Reorged));
    run.blocks(4);
    run.mined_hash(0);
    assert_eq!((run.world.signed.len(), run.world.times("intent 0")), (1, 1));
    assert!(run.world.sent.iter().all(|sent| *sent == run.world.sent[0]));
    assert_eq!(run.notes.iter().filter(|note| **note == Note::Ended("mined")).count(), 1);
}

#[test]
fn what_was_told_holds_after_a_reorg_that_is_deeper_also_where_fees_have_risen() {
    let mut run = Run::of([0]);
    run.blocks(4);
    run.mined_hash(0);
    run.world.blocks.truncate(1);
    run.world.pool.clear();
    run.world.empty_blocks(6);
    run.world.market = Market::Dynamic { base_fee: 100, priority: 1 };
    run.seconds(3);
    run.blocks(60);
    assert!(run.world.signed.len() > 1 && run.world.times("intent 0") == 1);
    assert!(matches!(run.submit(0), SubmitAnswer::Mined(_)));
    assert_eq!(run.notes.iter().filter(|note| **note == Note::Ended("mined")).count(), 1);
}

#[test]
fn what_was_told_holds_after_a_reorg_that_is_deeper() {
    let mut run = Run::of([0]);
    run.blocks(4);
    let told = run.submit(0);
    run.mined_hash(0);
    run.world.blocks.truncate(1);
    run.world.empty_blocks(6);
    run.seconds(3);
    run.blocks(2);
    assert_eq!((run.world.signed.len(), run.world.times("intent 0")), (1, 1));
    assert_eq!(run.submit(0), told);
}

#[test]
fn what_went_while_the_engine_was_away_is_sent_until_it_is_back() {
    let mut run = Run::of([0]);
    run.blocks(4);
    run.mined_hash(0);
    run.world.blocks.truncate(1);
    run.world.empty_blocks(100);
    run.world.refusals.insert(0, Class::PoolFull);
    run.restart();
    run.settle();
    assert!(run.queue.next_look(run.now).is_some(), "it is not back yet");
    run.world.refusals.clear();
    run.seconds(30);
    run.blocks(2);
    assert_eq!((run.world.signed.len(), run.world.times("intent 0")), (1, 1));
    assert_eq!(run.queue.next_look(run.now), None);
}

#[test]
fn what_was_told_to_have_reverted_does_not_happen_after_a_reorg_that_is_deeper() {
    let mut run = Run::of([0]);
    run.world.block();
    let found = run.world.made_up(run.world.mined(KEY.account)[0], true);
    let reverted = Found { mined: Mined { succeeded: false, ..found.mined }, ..found };
    run.world.told = Some(vec![reverted.clone()]);
    run.world.votes = Some(Votes { found: vec![reverted; 2], answered: 3, configured: 3, ..Votes::default() });
    run.empty_blocks(4);
    assert_eq!(run.failed_as(0), FailureKind::Reverted);
    (run.world.told, run.world.votes) = (None, None);
    // Its module may have sent it anew.
    run.world.blocks.truncate(1);
    run.world.empty_blocks(6);
    run.seconds(5);
    run.blocks(4);
    assert_eq!((run.empty_nonces(), run.world.times("intent 0")), (vec![0], 0));
    assert_eq!(run.failed_as(0), FailureKind::Reverted);
}

/// The record of a transaction that was mined in the first block.
fn ended(nonce: u64, id: String) -> Slot {
    let mut hash = Hash([7; 32]);
    hash.0[..8].copy_from_slice(&nonce.to_be_bytes());
    let mined = Mined {
        hash,
        block_number: 1,
        block_hash: Hash([8; 32]),
        succeeded: true,
        gas_used: 21_000,
        effective_gas_price: 1,
        contract: None,
    };
    let fees = Fees::Legacy { gas_price: 1 };
    Slot {
        nonce,
        module: "m".into(),
        intent: Some(Box::new(Intent { id, ..intent(0) })),
        variants: vec![Variant { raw: [1].into(), hash, fees, gas_limit: 21_000, at_ms: 0, empty: false }],
        standing: Standing::Final(mined),
        withdrawn: None,
        told: true,
        at_ms: 0,
    }
}

#[test]
fn what_was_sent_in_calls_is_known_long_after_what_was_sent_in_effects() {
    let mut run = Run::new();
    let mut block = Vec::new();
    for nonce in 0..=u64::try_from(KEPT).unwrap() {
        let call = if nonce.is_multiple_of(2) { "call-" } else { "" };
        let slot = ended(nonce, format!("m/{nonce}/{call}0"));
        block.push((KEY.account, slot.newest().hash));
        run.world.durable.insert(key(&KEY, nonce), slot.encode());
    }
    run.world.blocks.push(block);
    run.restart();
    run.submit_all([0]);
    run.blocks(4);
    run.mined_hash(0);
    let known = ["m/0/call-0", "m/1/0", "m/2/call-0", "m/3/0", "m/5/0"].map(|intent| run.queue.knows(intent));
    assert_eq!(known, [true, false, true, false, true]);
}

#[test]
fn what_one_module_has_wait_keeps_no_other_out() {
    let mut run = Run::new();
    let mut submit = |module: &str, number: usize, bytes: usize| {
        let mut wanted = Intent { id: format!("{module}/{number}"), module: module.into(), ..intent(0) };
        wanted.request.data = vec![0; bytes];
        run.queue.submit(&wanted, run.now);
        run.queue.knows(&wanted.id)
    };
    assert!((0..250).all(|number| submit("many", number, 1)));
    assert!(!submit("many", 250, 1));
    assert!((0..32).all(|number| submit("large", number, 128 << 10)));
    assert!(!submit("large", 32, 128 << 10));
    assert!(submit("neighbour", 0, 128 << 10));
}

#[test]
fn a_gap_that_another_s_transaction_left_under_a_told_one_is_closed() {
    let mut run = Run::new();
    run.world.balance = 0;
    run.submit_all([0]);
    run.world.use_elsewhere(KEY.account);
    run.seconds(2);
    run.world.balance = u128::MAX / 2;
    run.seconds(2);
    assert_eq!(run.nonce_of(0), Some(1));
    run.blocks(4);
    run.mined_hash(0);
    // Deeper than was asked for, and the other program's transaction does not come back.
    run.world.blocks.truncate(1);
    run.world.empty_blocks(6);
    run.blocks(10);
    assert_eq!(run.empty_nonces(), [0]);
    assert_eq!(run.world.times("intent 0"), 1);
}

#[test]
fn after_a_long_absence_nothing_is_signed_anew_without_a_receipt() {
    let mut run = Run::of([0]);
    run.world.block();
    run.world.empty_blocks(100);
    // Its receipt was dropped meanwhile.
    run.world.blind = true;
    run.now += 2 * 86_400_000;
    run.restart();
    run.seconds(1);
    run.blocks(20);
    let SubmitAnswer::Underway { what, .. } = run.submit(0) else { panic!("it may be mined") };
    assert!(what.contains("while this engine was away"), "{what}");
    assert_eq!((run.world.signed.len(), run.world.times("intent 0")), (1, 1));
    run.submit_all([1]);
    assert_eq!(run.nonce_of(1), Some(1), "others go on");
    // An endpoint that keeps receipts longer.
    run.world.blind = false;
    run.blocks(5);
    run.mined_hash(0);
}

#[test]
fn after_a_long_absence_an_operator_gives_up_what_was_replaced() {
    let mut run = Run::of([0]);
    run.world.use_elsewhere(KEY.account);
    run.world.empty_blocks(100);
    run.now += 2 * 86_400_000;
    run.restart();
    run.blocks(20);
    assert!(run.is_underway(0));
    run.queue.order(0, TransactionOrder::Cancel).unwrap();
    run.blocks(3);
    assert_eq!((run.failed_as(0), run.world.times("intent 0")), (FailureKind::Cancelled, 0));
}

#[test]
fn a_failure_is_told_no_earlier_than_it_is_durable_though_its_nonce_is_wanted_again() {
    let mut run = Run::new();
    run.world.refusals.insert(0, Class::IntrinsicGas);
    run.submit(0);
    // The record of the bytes is written, and from then on nothing is.
    for _ in 0..20 {
        for action in run.queue.step(run.now) {
            let input = run.world.perform(KEY, action);
            run.queue.take(input, run.now);
        }
        run.world.store_down |= !run.world.sent.is_empty();
    }
    run.world.refusals.clear();
    run.submit(1);
    run.seconds(5);
    assert!(run.is_underway(0), "a process that died now would send the bytes again");
    assert!(
        run.queue.list(20, run.now).iter().all(|one| one.intent.as_deref() != Some("intent 1") || one.nonce.is_none())
    );
    run.world.store_down = false;
    run.seconds(5);
    assert_eq!((run.failed_as(0), run.nonce_of(1)), (FailureKind::Refused, Some(0)));
}

#[test]
fn a_revert_is_certain_only_by_two_endpoints_and_on_a_block_that_is_not_older_than_its_decision() {
    let mut run = Run::new();
    let Simulated::Reverts { message, data, .. } = reverts() else { panic!() };
    run.world.calls.insert(vec![0], Simulated::Reverts { message, data, agreed: false });
    run.submit_all([0]);
    run.blocks(5);
    assert!(run.is_underway(0), "one endpoint alone says so");
    run.world.calls.clear();
    run.seconds(3);
    assert_eq!(run.nonce_of(0), Some(0));
    run.blocks(4);
    run.mined_hash(0);
    // What is known of the chain is from before the intent came.
    run.world.calls.insert(vec![1], reverts());
    run.submit_all([1]);
    assert!(run.is_underway(1), "a block that the module has seen may be newer");
    run.blocks(2);
    assert_eq!(run.failed_as(1), FailureKind::WouldRevert);
}

#[test]
fn an_operator_gives_up_what_has_no_nonce_and_that_is_told_once_it_is_durable() {
    let mut run = Run::new();
    run.world.balance = 0;
    run.submit_all([0, 1]);
    let which = Which::Intent("intent 0".to_owned());
    assert!(run.queue.order_about(&which, TransactionOrder::Bump).is_err(), "it has no fees");
    run.world.store_down = true;
    run.queue.order_about(&which, TransactionOrder::Cancel).unwrap();
    run.seconds(3);
    assert!(run.is_underway(0), "a process that died now would send it");
    run.world.store_down = false;
    run.seconds(3);
    assert_eq!(run.failed_as(0), FailureKind::Cancelled);
    run.world.balance = u128::MAX / 2;
    run.restart();
    run.submit_all([1]);
    assert_eq!((run.failed_as(0), run.nonce_of(1)), (FailureKind::Cancelled, Some(0)));
    assert!(run.queue.order_about(&which, TransactionOrder::Cancel).is_err(), "it has ended");
    // One with a nonce is replaced.
    run.queue.order_about(&Which::Intent("intent 1".to_owned()), TransactionOrder::Cancel).unwrap();
    run.seconds(2);
    run.blocks(4);
    assert_eq!((run.failed_as(1), run.empty_nonces().len()), (FailureKind::Cancelled, 1));
}

#[test]
fn what_is_being_signed_when_it_is_given_up_is_thrown_away() {
    let mut run = Run::new();
    run.submit(0);
    for _ in 0..20 {
        for action in run.queue.step(run.now) {
            if matches!(action, Action::Sign { .. }) {
                run.queue.order_about(&Which::Intent("intent 0".to_owned()), TransactionOrder::Cancel).unwrap();
            }
            let input = run.world.perform(KEY, action);
            run.queue.take(input, run.now);
        }
    }
    assert_eq!((run.failed_as(0), run.world.sent.len(), run.world.signed.len()), (FailureKind::Cancelled, 0, 1));
    run.submit_all([1]);
    assert_eq!(run.nonce_of(1), Some(0));
}

#[test]
fn a_receipt_of_another_block_than_the_followed_one_counts_for_nothing() {
    let mut run = Run::of([0]);
    let hash = run.summary(0).hashes[0];
    run.world.use_elsewhere(KEY.account);
    run.world.told = Some(vec![run.world.made_up(hash, false)]);
    run.empty_blocks(6);
    assert!(run.is_underway(0) && run.summary(0).state != "mined" && run.notes.contains(&Note::Contradicted));
    assert!(run.summary(0).what.contains("not of the chain that is followed"), "{}", run.summary(0).what);
    run.world.told = None;
    run.blocks(20);
    run.mined_hash(0);
    assert_eq!((run.nonce_of(0), run.world.times("intent 0")), (Some(1), 1));
}

#[test]
fn a_receipt_that_one_endpoint_made_up_ends_nothing() {
    let mut run = Run::of([0]);
    let hash = run.summary(0).hashes[0];
    run.world.use_elsewhere(KEY.account);
    let lie = run.world.made_up(hash, true);
    run.world.told = Some(vec![lie.clone()]);
    run.world.votes = Some(Votes { found: vec![lie], against: 1, answered: 2, configured: 2, ..Votes::default() });
    run.empty_blocks(10);
    assert!(run.is_underway(0));
    assert!(run.summary(0).what.contains("one endpoint alone says"), "{}", run.summary(0).what);
    let waits = run.queue.status(run.now).waits;
    assert_eq!(waits[0].kind, WaitKind::Agreement, "{waits:?}");
    (run.world.told, run.world.votes) = (None, None);
    run.blocks(20);
    run.mined_hash(0);
    assert_eq!(run.world.times("intent 0"), 1);
}

#[test]
fn a_retry_waits_for_what_may_be_mined_and_is_refused_where_nobody_knows() {
    let mut run = Run::of([0]);
    assert!(matches!(run.queue.retried("intent 0"), Some(SubmitAnswer::Underway { .. })));
    assert_eq!(run.queue.retried("intent 7"), None);
    run.queue.order(0, TransactionOrder::Cancel).unwrap();
    run.seconds(2);
    run.blocks(4);
    assert_eq!((run.failed_as(0), run.queue.retried("intent 0")), (FailureKind::Cancelled, None));
    // Given up while nobody could say what had used its nonce.
    let mut run = Run::of([0]);
    run.world.use_elsewhere(KEY.account);
    run.world.empty_blocks(100);
    run.now += 2 * 86_400_000;
    run.restart();
    run.blocks(20);
    run.queue.order(0, TransactionOrder::Cancel).unwrap();
    run.blocks(3);
    let Some(SubmitAnswer::Failed(failure)) = run.queue.retried("intent 0") else { panic!("it may be mined") };
    assert!(failure.message.contains("a retry sends nothing"), "{}", failure.message);
}
