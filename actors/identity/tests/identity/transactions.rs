//! What goes out equals what eth-account makes: `fixtures/identity/generate.py` makes the table.

use std::collections::BTreeSet;

use alloy_primitives::U256;
use nexum_host_ifaces::{
    Address, Hash,
    interfaces::identity::port::{Fees, Purpose, TransactionRequest, UnsignedTransaction, Wei},
};
use nexum_identity::{
    Policy,
    config::{AnyOf, Method, Target},
};
use serde_json::Value;

use crate::harness::{Harness, account};

fn table() -> Value {
    serde_json::from_str(include_str!("../../../../fixtures/identity/signatures.json")).unwrap()
}

/// Policies that let everything through.
fn all() -> Vec<Policy> {
    let any = Policy {
        methods: [Method::Transaction].into(),
        chains: AnyOf::Any,
        to: AnyOf::Any,
        selectors: AnyOf::Any,
        max_value: Wei([0xff; 32]),
        max_value_per_day: Wei([0xff; 32]),
        ..Policy::new("m", account())
    };
    let creates = Policy { to: AnyOf::Of(vec![Target::Create]), ..any.clone() };
    vec![any, creates]
}

fn transaction(fields: &Value) -> UnsignedTransaction {
    let text = |name: &str| fields[name].as_str();
    let number = |name: &str| text(name).map(|digits| digits.parse::<u128>().unwrap());
    let small = |name: &str| u64::try_from(number(name).unwrap()).unwrap();
    let bytes = |digits: &str| hex::decode(digits.strip_prefix("0x").unwrap()).unwrap();
    let fees = match number("gasPrice") {
        Some(gas_price) => Fees::Legacy { gas_price },
        None => Fees::Dynamic {
            max_fee_per_gas: number("maxFeePerGas").unwrap(),
            max_priority_fee_per_gas: number("maxPriorityFeePerGas").unwrap(),
        },
    };
    let listed = fields["accessList"].as_array().map(Vec::as_slice).unwrap_or_default();
    let access_list = listed.iter().map(|entry| {
        let address: Address = entry["address"].as_str().unwrap().parse().unwrap();
        let keys = entry["storageKeys"].as_array().unwrap().iter();
        let keys: Vec<Hash> = keys.map(|key| key.as_str().unwrap().parse().unwrap()).collect();
        (address, keys)
    });
    let value = U256::from_str_radix(text("value").unwrap(), 10).unwrap();
    let request = TransactionRequest {
        chain_id: small("chainId"),
        account: account(),
        to: text("to").map(|to| to.parse().unwrap()),
        value: Wei(value.to_be_bytes()),
        data: bytes(text("data").unwrap()),
        access_list: access_list.collect(),
    };
    UnsignedTransaction { request, nonce: small("nonce"), gas_limit: small("gas"), fees, purpose: Purpose::Asked }
}

#[tokio::test]
async fn transactions_go_out_as_eth_account_makes_them() {
    let harness = Harness::start(all()).await;
    let table = table();
    let mut kinds = BTreeSet::new();
    for case in table["transactions"].as_array().unwrap() {
        let (name, transaction) = (case["name"].as_str().unwrap(), transaction(&case["fields"]));
        kinds.insert((case["fields"]["type"].as_str(), transaction.request.to.is_none()));
        let signed = harness.send(name, transaction).await.unwrap();
        assert_eq!(format!("0x{}", hex::encode(&signed.raw)), case["raw"].as_str().unwrap(), "{name}");
        assert_eq!(signed.hash.to_string(), case["hash"].as_str().unwrap(), "{name}");
    }
    let wanted = [(None, false), (None, true), (Some("1"), false), (Some("2"), false), (Some("2"), true)];
    assert_eq!(kinds, wanted.into());
}

/// Why the transaction is not signed once it has been changed.
async fn refused(
    harness: &Harness,
    transaction: &UnsignedTransaction,
    change: impl Fn(&mut UnsignedTransaction),
) -> String {
    let mut transaction = transaction.clone();
    change(&mut transaction);
    harness.send("1", transaction).await.unwrap_err().message
}

#[tokio::test]
async fn a_transaction_that_no_chain_takes_is_not_signed() {
    let harness = &Harness::start(all()).await;
    let right = &transaction(&table()["transactions"][0]["fields"]);
    let dear = Fees::Dynamic { max_fee_per_gas: 1, max_priority_fee_per_gas: 2 };
    let long_list = vec![(account(), Vec::new()); 1_025];
    for (told, said) in [
        (refused(harness, right, |it| it.nonce = u64::MAX).await, "EIP-2681"),
        (refused(harness, right, |it| it.fees = dear).await, "a priority fee above the whole fee"),
        (refused(harness, right, |it| it.request.chain_id = 0).await, "chain 0"),
        (refused(harness, right, |it| it.request.to = None).await, "an empty contract"),
        (
            refused(harness, right, |it| it.request.data = vec![0; 131_073]).await,
            "131073 bytes of data, at most 131072",
        ),
        (refused(harness, right, |it| it.request.access_list = long_list.clone()).await, "1025 entries, at most 1024"),
    ] {
        assert!(told.contains(said), "{told}");
    }
    assert!(harness.audit().await.is_empty());
}
