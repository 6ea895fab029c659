//! What is repaid, when, and when not.

use super::*;
use nexum_sdk::alloy::primitives::hex;
use nexum_sdk::alloy::sol_types::{SolCall, SolValue};
use nexum_sdk::{Config, Level, OutcomeStatus, Scalar, Value, testing};

const POOL: &str = "0x1111111111111111111111111111111111111111";
const ACCOUNT: &str = "0x2222222222222222222222222222222222222222";
const ASSET: &str = "0x3333333333333333333333333333333333333333";

/// The settings of the tests, with one of them changed.
fn keeper(key: &str, value: Value) -> Result<Keeper> {
    testing::reset();
    let config = [
        ("pool", POOL.into()),
        ("accounts", Value::List(vec![Scalar::String(ACCOUNT.into())])),
        ("asset", ASSET.into()),
        ("floor", "1.1".into()),
        ("amount", "100".into()),
        ("max_per_day", "250".into()),
        ("confirmations", 3.into()),
        ("valid_for", "15m".into()),
        ("retry_after", "1m".into()),
    ];
    let changed = |(name, given): (&'static str, Value)| (name, if name == key { value.clone() } else { given });
    Keeper::init(config.into_iter().map(changed).collect::<Config>().typed()?)
}

fn block(number: u8, seconds: u64) -> Block {
    let (hash, parent_hash) = (vec![number; 32], vec![0; 32]);
    Block { chain_id: 1, number: number.into(), hash, parent_hash, timestamp: seconds * 1_000 }
}

fn health_is(factor: &'static str) {
    testing::on_chain(move |_, method, params| {
        assert_eq!(method, "eth_call");
        assert!(params.contains(&hex::encode(Pool::getUserAccountDataCall::SELECTOR)), "{params}");
        assert!(params.contains("blockHash"), "{params}");
        let nothing = U256::ZERO;
        let data = (nothing, nothing, nothing, nothing, nothing, parse_ether(factor).unwrap()).abi_encode();
        Ok(format!("\"{}\"", hex::encode_prefixed(data)))
    });
}

/// The outcome of what was sent at this place, mined in that block.
fn mined(index: usize, block: u64) -> Outcome {
    let hash = "aa".repeat(32);
    let answer = format!(
        "{{\"hash\":\"0x{hash}\",\"nonce\":0,\"block_number\":{block},\"block_hash\":\"0x{hash}\",\"gas_used\":90000,\
         \"effective_gas_price\":\"1000000000\"}}"
    );
    testing::sent()[index].outcome(OutcomeStatus::Delivered(answer.into_bytes()))
}

fn warnings(with: &str) -> usize {
    testing::logged().iter().filter(|(level, text)| *level == Level::Warn && text.contains(with)).count()
}

#[test]
fn one_repayment_is_under_way_and_no_block_from_before_it_leads_to_another() {
    let mut module = keeper("", 0.into()).unwrap();
    health_is("1.1");
    module.check(block(1, 0)).unwrap();
    assert_eq!(testing::sent().len(), 0, "at the floor");
    health_is("1.05");
    module.check(block(2, 12)).unwrap();
    module.check(block(3, 24)).unwrap();
    let sent = testing::transactions();
    let [repayment] = sent.as_slice() else { panic!("{sent:?}") };
    let (account, asset): (Address, Address) = (ACCOUNT.parse().unwrap(), ASSET.parse().unwrap());
    let call = Pool::repayCall::abi_decode(&repayment.data).unwrap();
    assert_eq!((call.asset, call.amount, call.onBehalfOf), (asset, U256::from(100), account));
    assert_eq!(call.interestRateMode, U256::from(2));
    assert_eq!((repayment.to.as_deref(), &repayment.value), (Some(&[0x11; 20][..]), &Vec::new()));
    assert_eq!((repayment.confirmations, repayment.deadline), (Some(3), Some(912_000)));

    module.ended(mined(0, 5)).unwrap();
    module.check(block(4, 36)).unwrap();
    assert_eq!(testing::sent().len(), 1, "block 4 is from before the repayment");
    health_is("1.08");
    module.check(block(5, 48)).unwrap();
    assert_eq!(testing::sent().len(), 2, "it helped, and not enough");
    module.ended(mined(1, 6)).unwrap();
    health_is("1.2");
    module.check(block(6, 60)).unwrap();
    assert_eq!((testing::sent().len(), LAST.iter().count(), warnings("")), (2, 0, 0));
}

#[test]
fn a_day_is_bounded_and_what_failed_takes_nothing_of_it() {
    let mut module = keeper("", 0.into()).unwrap();
    health_is("1.05");
    module.check(block(1, 0)).unwrap();
    module.ended(testing::sent()[0].failed("would-revert", "no allowance")).unwrap();
    assert_eq!(warnings("no allowance"), 1);
    module.check(block(2, 12)).unwrap();
    assert_eq!(testing::sent().len(), 1, "too soon after a failure");
    module.check(block(3, 60)).unwrap();
    module.ended(mined(1, 3)).unwrap();
    module.check(block(4, 72)).unwrap();
    module.ended(mined(2, 4)).unwrap();
    module.check(block(5, 84)).unwrap();
    module.check(block(6, 96)).unwrap();
    assert_eq!((testing::sent().len(), warnings("the bound is reached")), (3, 1), "200 of 250");
    module.check(block(7, 86_400)).unwrap();
    assert_eq!(testing::sent().len(), 4, "the next day");
}

#[test]
fn what_may_have_left_counts_for_its_day() {
    let mut module = keeper("max_per_day", "100".into()).unwrap();
    health_is("1.05");
    module.check(block(1, 0)).unwrap();
    let lost = OutcomeStatus::Failed("lost".into());
    module.ended(testing::sent()[0].outcome(lost)).unwrap();
    module.check(block(2, 60)).unwrap();
    assert_eq!((testing::sent().len(), warnings("the bound is reached")), (1, 1));
    module.ended(Outcome { key: "unknown".into(), ..mined(0, 1) }).unwrap();
    assert_eq!(warnings("does not know"), 1);
}

#[test]
fn a_repayment_that_does_not_help_is_told() {
    let mut module = keeper("", 0.into()).unwrap();
    health_is("1.05");
    module.check(block(1, 0)).unwrap();
    module.ended(mined(0, 2)).unwrap();
    health_is("1.04");
    module.check(block(2, 12)).unwrap();
    assert_eq!(warnings("did not help: 1.050000000000000000 before, 1.040000000000000000 now"), 1);
    assert_eq!(testing::sent().len(), 2, "within the day's bound it goes on");
}

#[test]
fn settings_that_cannot_work_are_refused() {
    for (key, value) in [
        ("floor", Value::from("1")),
        ("floor", "-1.5".into()),
        ("floor", "high".into()),
        ("amount", "0".into()),
        ("amount", "251".into()),
        ("confirmations", 0.into()),
    ] {
        let error = keeper(key, value).err().unwrap();
        assert!(error.to_string().contains(&format!("`{key}`")), "{error}");
    }
}
