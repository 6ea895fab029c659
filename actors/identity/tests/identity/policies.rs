//! Each field of a policy, and what is one beyond it.

use nexum_host_ifaces::{
    Address, HostErrorKind,
    interfaces::identity::port::{Fees, SigningPayload, TransactionRequest, UnsignedTransaction, Wei},
};
use nexum_identity::{
    Policy,
    config::{AnyOf, Method, Selector, Target, TypedDataRule},
};
use serde_json::json;

use crate::harness::{Harness, SHOP, account, message, payment, policy, unsigned};

/// The second policy of the configuration, all of whose fields say something.
fn policies() -> Vec<Policy> {
    let calls = Policy { selectors: AnyOf::Of(vec![Selector::Transfer, Selector::Call([1, 2, 3, 4])]), ..policy() };
    vec![Policy::new("other", account()), Policy { max_per_hour: Some(1), ..calls }]
}

async fn refused(harness: &Harness, change: impl Fn(&mut UnsignedTransaction)) -> String {
    let mut transaction = unsigned(payment(6));
    change(&mut transaction);
    let refused = harness.send("1", transaction).await.unwrap_err();
    assert_eq!(refused.kind, HostErrorKind::Denied, "{refused:?}");
    refused.message
}

#[tokio::test]
async fn one_beyond_any_field_is_refused_by_policy_and_field() {
    let harness = &Harness::start(policies()).await;
    let other = Address([0x36; 20]);
    let dear = Fees::Dynamic { max_fee_per_gas: 101, max_priority_fee_per_gas: 1 };
    for (told, field) in [
        (refused(harness, |it| it.request.account = other).await, "account"),
        (refused(harness, |it| it.request.chain_id = 2).await, "chains"),
        (refused(harness, |it| it.request.to = Some(other)).await, "to"),
        (refused(harness, |it| (it.request.to, it.request.data) = (None, vec![1, 2, 3, 4])).await, "to"),
        (refused(harness, |it| it.request.data = vec![1, 2, 3, 5]).await, "selectors"),
        (refused(harness, |it| it.request.data = vec![1, 2, 3]).await, "selectors"),
        (refused(harness, |it| it.request.data = vec![0]).await, "selectors"),
        (refused(harness, |it| it.request.value = Wei::from(7)).await, "max_value"),
        (refused(harness, |it| it.request.value = Wei([0xff; 32])).await, "max_value"),
        // A call that carries value is held to the value as well.
        (
            refused(harness, |it| (it.request.data, it.request.value) = (vec![1, 2, 3, 4], Wei::from(7))).await,
            "max_value",
        ),
        (refused(harness, |it| it.fees = dear).await, "max_fee_per_gas"),
        (refused(harness, |it| it.fees = Fees::Legacy { gas_price: 101 }).await, "max_fee_per_gas"),
    ] {
        assert!(told.contains(&format!("`{field}` of policy 2 ([[identity.policies]], module m)")), "{field}: {told}");
        assert!(told.contains("the operator would write"), "{told}");
    }
    for payload in [message("hello"), SigningPayload::TypedData(order(json!({})))] {
        let refused = harness.sign(None, payload).await.unwrap_err();
        assert!(refused.message.contains("`methods` of policy 2"), "{refused:?}");
    }
    assert!(harness.audit().await.is_empty());

    harness.pay("1", 6).await.unwrap();
    let rate = harness.pay("2", 0).await.unwrap_err();
    assert!(rate.message.contains("`max_per_hour` of policy 2"), "{rate:?}");
    let day = harness.pay("2", 5).await.unwrap_err();
    assert!(day.message.contains("`max_value_per_day` of policy 2"), "{day:?}");
    assert_eq!(harness.audit().await.len(), 1);
}

#[tokio::test]
async fn a_module_without_a_policy_has_nothing() {
    let harness = Harness::start(policies()).await;
    assert_eq!(harness.accounts("m", None).await, [account()]);
    assert_eq!(harness.accounts("m", Some(1)).await, [account()]);
    for (module, chain) in [("m", Some(2)), ("nobody", None), ("nobody", Some(1)), ("", None), ("M", None)] {
        assert!(harness.accounts(module, chain).await.is_empty(), "{module}");
    }
    for module in ["nobody", "", "M"] {
        let asked = harness.begin_sign(module, account(), None, message("hello"));
        let refused = asked.answer().await.unwrap().unwrap_err();
        assert_eq!(refused.kind, HostErrorKind::Denied);
        assert!(refused.message.contains(&format!("no policy gives module {module} anything")), "{refused:?}");
    }
}

#[tokio::test]
async fn any_receiver_is_no_creation_and_short_data_is_any_selectors_alone() {
    let any = Policy { to: AnyOf::Any, selectors: AnyOf::Any, ..policy() };
    let mut harness = Harness::start(vec![any]).await;
    let creation = || unsigned(TransactionRequest { to: None, data: vec![0x60], ..payment(0) });
    let short = || unsigned(TransactionRequest { data: vec![1, 2, 3], ..payment(0) });
    assert!(harness.send("1", creation()).await.unwrap_err().message.contains("`to` of policy 1"));
    harness.send("2", short()).await.unwrap();
    harness.restart_with(vec![Policy { to: AnyOf::Of(vec![Target::Create]), ..policy() }]).await;
    harness.send("1", creation()).await.unwrap();
    assert!(harness.send("3", short()).await.unwrap_err().message.contains("`to` of policy 1"));
}

/// An order of the shop on chain 1, with that written over its domain.
fn order(domain: serde_json::Value) -> String {
    let mut whole = json!({ "chainId": 1, "verifyingContract": SHOP });
    for (key, value) in domain.as_object().unwrap() {
        match value.is_null() {
            true => whole.as_object_mut().unwrap().remove(key),
            false => whole.as_object_mut().unwrap().insert(key.clone(), value.clone()),
        };
    }
    let types = json!({ "Order": [{ "name": "id", "type": "uint256" }] });
    json!({ "types": types, "primaryType": "Order", "domain": whole, "message": { "id": 1 } }).to_string()
}

#[tokio::test]
async fn typed_data_is_held_to_its_domain_however_it_is_written() {
    let rule =
        TypedDataRule { verifying_contract: Some(SHOP), chain_id: Some(1), primary_type: Some("Order".to_owned()) };
    let methods = [Method::TypedData].into();
    let policy = Policy { methods, typed_data: vec![rule], ..Policy::new("m", account()) };
    let harness = Harness::start(vec![policy]).await;
    let sign = |domain| harness.sign(None, SigningPayload::TypedData(order(domain)));
    let right = sign(json!({})).await.unwrap();
    for same in [json!("1"), json!("0x1"), json!("0x01")] {
        assert_eq!(sign(json!({ "chainId": same })).await.unwrap(), right);
    }
    for other in [
        json!({ "chainId": 2 }),
        json!({ "chainId": "0x2" }),
        json!({ "chainId": null }),
        json!({ "chainId": 0 }),
        json!({ "verifyingContract": null }),
        json!({ "verifyingContract": Address([0x36; 20]) }),
    ] {
        let refused = sign(other.clone()).await.unwrap_err();
        assert_eq!(refused.kind, HostErrorKind::Denied, "{other}: {refused:?}");
        assert!(refused.message.contains("`typed_data` of policy 1"), "{refused:?}");
    }
    for nonsense in [
        json!({ "chainId": -1 }),
        json!({ "chainId": 1.5 }),
        json!({ "chainId": "one" }),
        json!({ "chainId": format!("0x1{}", "0".repeat(16)) }),
        json!({ "chainId": format!("0x1{}", "0".repeat(64)) }),
        json!({ "verifyingContract": "0x35" }),
        json!({ "verifyingContract": "shop" }),
    ] {
        let refused = sign(nonsense.clone()).await.unwrap_err();
        assert_eq!(refused.kind, HostErrorKind::InvalidInput, "{nonsense}: {refused:?}");
    }
    assert_eq!(harness.audit().await.len(), 4);
}
