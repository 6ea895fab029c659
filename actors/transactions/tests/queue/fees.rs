//! What is paid: within the bounds, raised in time, and never more than the account has.

use std::time::Duration;

use nexum_host_ifaces::{
    interfaces::identity::port::Fees,
    transactions::{FailureKind, TransactionOrder, WaitKind},
};
use nexum_transactions::{ChainSettings, fees::Market};

use super::support::{CALM, KEY, Run, intent};

const fn market(base_fee: u128) -> Market {
    Market::Dynamic { base_fee, priority: 1 }
}

fn dynamic(max_fee_per_gas: u128, max_priority_fee_per_gas: u128) -> Fees {
    Fees::Dynamic { max_fee_per_gas, max_priority_fee_per_gas }
}

fn paid(run: &Run) -> Vec<Fees> {
    run.world.signed.values().map(|signed| signed.fees).collect()
}

fn capped(max_fee_per_gas: u128) -> Run {
    Run::with(ChainSettings { max_fee_per_gas, ..ChainSettings::default() })
}

#[test]
fn a_replacement_raises_both_fees_from_the_larger_of_market_and_before() {
    let mut run = Run::of([0]);
    run.empty_blocks(21);
    run.world.market = market(100);
    run.empty_blocks(21);
    assert_eq!(paid(&run), [dynamic(21, 1), dynamic(24, 2), dynamic(201, 3)]);
    assert_eq!(run.nonce_of(0), Some(0));
    run.blocks(4);
    run.mined_hash(0);
}

#[test]
fn a_chain_without_blocks_is_a_reason_to_pay_no_more() {
    let mut run = Run::of([0]);
    run.seconds(300);
    assert_eq!(paid(&run).len(), 1);
}

#[test]
fn an_operator_raises_one_before_its_time() {
    let mut run = Run::of([0]);
    run.queue.order(0, TransactionOrder::Bump).unwrap();
    run.seconds(2);
    assert_eq!(paid(&run), [dynamic(21, 1), dynamic(24, 2)]);
}

#[test]
fn the_older_of_two_hashes_may_be_the_one_that_is_mined() {
    let mut run = Run::of([0]);
    let first = run.summary(0).hashes[0];
    run.empty_blocks(21);
    assert_eq!(run.summary(0).hashes.len(), 2);
    run.world.pool.insert((KEY.account, 0), first);
    run.blocks(4);
    assert_eq!(run.mined_hash(0), first);
}

#[test]
fn a_spike_above_the_cap_leaves_it_broadcast_until_fees_fall() {
    let mut run = capped(100);
    run.submit_all([0]);
    run.world.market = market(1_000);
    run.blocks(60);
    assert_eq!(paid(&run), [dynamic(21, 1)], "it would not be mined with all that it may pay");
    assert!(run.world.sent.len() >= 8, "{}", run.world.sent.len());
    run.world.market = market(50);
    run.blocks(30);
    assert_eq!(paid(&run).last(), Some(&dynamic(88, 2)));
    run.mined_hash(0);
}

#[test]
fn at_the_cap_there_is_room_for_a_cancel() {
    let mut run = capped(100);
    run.world.market = market(60);
    run.submit_all([0]);
    run.world.market = market(95);
    run.blocks(30);
    assert_eq!(paid(&run), [dynamic(88, 1)]);
    run.queue.order(0, TransactionOrder::Cancel).unwrap();
    run.seconds(2);
    assert_eq!(paid(&run).last(), Some(&dynamic(100, 2)));
    run.blocks(4);
    assert_eq!(run.failed_as(0), FailureKind::Cancelled);
}

#[test]
fn a_market_that_a_node_made_up_costs_no_more_than_the_cap() {
    for made_up in [
        Market::Dynamic { base_fee: u128::MAX, priority: u128::MAX },
        Market::Dynamic { base_fee: 1, priority: u128::MAX },
        Market::Legacy { gas_price: u128::MAX },
    ] {
        let mut run = capped(1_000);
        run.world.market = made_up;
        run.submit_all([0]);
        run.empty_blocks(100);
        assert!(paid(&run).iter().all(|fees| fees.per_gas_max() <= 888), "{:?}", paid(&run));
    }
}

#[test]
fn what_is_too_dear_takes_no_nonce_until_fees_fall() {
    let mut run = capped(100);
    run.world.market = market(200);
    run.submit_all([0]);
    run.seconds(30);
    assert!(run.world.signed.is_empty() && run.world.durable.is_empty());
    run.world.market = CALM;
    run.seconds(3);
    assert_eq!(run.nonce_of(0), Some(0));
}

#[test]
fn a_balance_too_low_takes_no_nonce_and_goes_on_by_itself() {
    let mut run = Run::new();
    run.world.balance = 1_000;
    run.submit_all(0..2);
    run.seconds(60);
    assert!(run.world.signed.is_empty() && run.world.durable.is_empty());
    let status = run.queue.status(run.now);
    assert!(status.stopped.unwrap().contains("the account has 1000 wei") && status.stopped_age_ms >= Some(59_000));
    let [first, _] = status.waits.as_slice() else { panic!("{:?}", status.waits) };
    assert!(first.kind == WaitKind::Balance && first.age_ms >= 59_000, "{first:?}");
    assert_eq!(status.oldest_waits.get(&WaitKind::Balance), Some(&first.age_ms));
    run.world.balance = u128::MAX / 2;
    run.seconds(3);
    assert_eq!((run.nonce_of(0), run.nonce_of(1)), (Some(0), Some(1)));
    assert_eq!(run.queue.status(run.now).stopped, None);
}

#[test]
fn what_is_in_flight_counts_against_the_balance() {
    let mut run = Run::new();
    // One costs 25,200 gas at 21 wei, and a wei.
    run.world.balance = 600_000;
    run.submit_all(0..2);
    run.seconds(10);
    assert_eq!((run.nonce_of(0), run.nonce_of(1)), (Some(0), None));
    run.blocks(1);
    assert_eq!(run.nonce_of(1), Some(1));
}

#[test]
fn a_value_that_no_balance_has_overflows_nothing() {
    let mut run = Run::new();
    let mut large = intent(0);
    large.request.value.0 = [255; 32];
    run.queue.submit(&large, run.now);
    run.seconds(10);
    assert!(run.world.signed.is_empty());
    assert!(run.queue.status(run.now).stopped.is_some());
}

#[test]
fn a_cancel_fits_into_the_record_of_what_carries_much_data() {
    let settings =
        ChainSettings { replace_after: Duration::from_secs(3), market_percent: 1_000_000, ..ChainSettings::default() };
    let mut run = Run::with(settings);
    let mut large = intent(0);
    large.request.data = vec![1; 128 * 1_024];
    run.queue.submit(&large, run.now);
    run.settle();
    run.empty_blocks(40);
    let signed = paid(&run).len();
    run.empty_blocks(10);
    assert!(signed > 12 && paid(&run).len() > signed, "it is replaced for as long as that may help");
    run.queue.order(0, TransactionOrder::Cancel).unwrap();
    run.seconds(2);
    run.blocks(4);
    assert_eq!(run.failed_as(0), FailureKind::Cancelled);
}

#[test]
fn a_market_that_rises_for_long_is_followed_to_the_cap_and_every_hash_is_watched() {
    let settings = ChainSettings { replace_after: Duration::from_secs(3), ..ChainSettings::default() };
    let mut run = Run::with(settings);
    run.submit_all([0]);
    for step in 0..40 {
        run.world.market = market(10 * 9u128.pow(step) / 8u128.pow(step));
        run.empty_blocks(2);
    }
    let (slots, signed) = (run.world.slots(KEY), run.world.signed.len());
    assert!(signed > 20 && slots[0].variants.len() == signed, "{signed}");
    assert_eq!(slots[0].variants.iter().filter(|variant| !variant.raw.is_empty()).count(), 1, "of others the hash");
    // Any of them may be mined.
    let early = slots[0].variants[3].hash;
    run.world.blocks.push(vec![(KEY.account, early)]);
    run.world.pool.clear();
    run.blocks(4);
    assert_eq!(run.mined_hash(0), early);
}

#[test]
fn one_that_can_never_be_paid_lets_others_go_before_it() {
    let mut run = Run::new();
    let mut large = intent(0);
    large.request.value.0 = [255; 32];
    run.queue.submit(&large, run.now);
    run.submit_all(1..4);
    assert_eq!([1, 2, 3].map(|number| run.nonce_of(number)), [Some(0), Some(1), Some(2)]);
    assert_eq!(run.nonce_of(0), None);
    run.blocks(5);
    for number in 1..4 {
        run.mined_hash(number);
    }
    let status = run.queue.status(run.now);
    assert_eq!((status.waits.len(), status.waits[0].kind), (1, WaitKind::Balance));
}

#[test]
fn many_large_records_go_to_the_store_in_writes_that_it_takes() {
    let mut run = Run::with(ChainSettings { max_in_flight: 64, ..ChainSettings::default() });
    run.world.store_down = true;
    for number in 0..64 {
        let mut large = intent(number);
        large.request.data = vec![number; 128 * 1_024];
        run.queue.submit(&large, run.now);
    }
    run.seconds(30);
    // The world asserts what a store takes.
    run.world.store_down = false;
    run.seconds(30);
    assert_eq!(run.world.durable.len(), 64);
}
