//! What counts, and what nothing makes uncounted: restarts, midnight, clocks, a store that is away.

use nexum_host_ifaces::{
    HostError, HostErrorKind,
    interfaces::identity::port::{Fees, IdentityMsg, Purpose, TransactionRequest, UnsignedTransaction, Wei},
};
use nexum_identity::{
    Policy,
    policy::{DAY_MS, HOUR_MS},
};

use crate::harness::{Harness, SHOP, Writes, account, eventually, payment, policy, unsigned};

fn is_over_the_day(error: &HostError) -> bool {
    error.kind == HostErrorKind::Denied && error.message.contains("`max_value_per_day` of policy 1")
}

#[tokio::test]
async fn nothing_is_signed_that_the_store_does_not_keep() {
    let mut harness = Harness::start(vec![policy()]).await;
    harness.take_store();
    let away = harness.pay("1", 6).await.unwrap_err();
    assert_eq!(away.kind, HostErrorKind::Unavailable);
    assert!(away.message.contains("nothing is signed that cannot be written down"), "{}", away.message);
    harness.give_store();
    harness.disk.set(Writes::Refused);
    let full = harness.pay("1", 6).await.unwrap_err();
    assert_eq!(full.kind, HostErrorKind::Unavailable);
    assert!(full.message.contains("no space left"), "{}", full.message);
    harness.disk.set(Writes::Kept);
    assert!(harness.audit().await.is_empty() && harness.disk.records().is_empty());
    assert_eq!(harness.status().await.signatures_total, 0);

    // It is kept, and nobody knows: it counts, and is not counted twice.
    harness.disk.set(Writes::Unanswered);
    assert_eq!(harness.pay("1", 6).await.unwrap_err().kind, HostErrorKind::Unavailable);
    harness.disk.set(Writes::Kept);
    assert!(is_over_the_day(&harness.pay("2", 5).await.unwrap_err()));
    assert!(harness.pay("1", 6).await.is_ok() && harness.pay("2", 4).await.is_ok());

    harness.restart_without_store().await;
    assert_eq!(harness.pay("3", 0).await.unwrap_err().kind, HostErrorKind::Unavailable);
    let problems = harness.status().await.problems;
    assert!(problems.iter().any(|problem| problem.contains("has not been read from the store")), "{problems:?}");
    harness.give_store();
    harness.ready().await;
    assert!(is_over_the_day(&harness.pay("3", 1).await.unwrap_err()));
}

#[tokio::test]
async fn the_value_of_a_day_outlives_restarts_and_midnight_and_a_clock_set_back() {
    let mut harness = Harness::start(vec![policy()]).await;
    let late = 10 * DAY_MS - 1;
    harness.clock.set(late);
    harness.pay("1", 6).await.unwrap();
    for now in [late, late + 1, late + DAY_MS - 1, late - HOUR_MS, 5] {
        harness.clock.set(now);
        assert!(is_over_the_day(&harness.pay("2", 5).await.unwrap_err()), "{now}");
        harness.restart().await;
        assert!(is_over_the_day(&harness.pay("2", 5).await.unwrap_err()), "{now}");
    }
    harness.clock.set(late + DAY_MS);
    harness.pay("2", 5).await.unwrap();
    // A clock that is set back brings back what had left the day.
    harness.clock.set(5);
    harness.pay("3", 5).await.unwrap_err();
    harness.clock.set(late + DAY_MS);
    harness.pay("3", 5).await.unwrap();
    assert!(is_over_the_day(&harness.pay("4", 1).await.unwrap_err()));
}

#[tokio::test]
async fn so_many_an_hour_are_signed_and_the_next_is_told_when() {
    let mut harness = Harness::start(vec![Policy { max_per_hour: Some(2), ..policy() }]).await;
    harness.pay("1", 1).await.unwrap();
    harness.clock.set(1_000);
    harness.pay("2", 1).await.unwrap();
    harness.clock.set(HOUR_MS - 400);
    for _ in 0..2 {
        let refused = harness.pay("3", 1).await.unwrap_err();
        assert_eq!((refused.kind, refused.data.as_deref()), (HostErrorKind::RateLimited, Some("400")));
        assert!(refused.message.contains("`max_per_hour` of policy 1"), "{}", refused.message);
        harness.restart().await;
    }
    // What was signed before is not one more.
    harness.pay("1", 1).await.unwrap();
    harness.clock.set(HOUR_MS);
    harness.pay("3", 1).await.unwrap();
    assert_eq!(harness.pay("4", 1).await.unwrap_err().data.as_deref(), Some("1000"));
}

#[tokio::test]
async fn an_intent_counts_once_and_is_never_something_else() {
    let mut harness = Harness::start(vec![policy()]).await;
    let first = harness.pay("1", 6).await.unwrap();
    let again = |request: TransactionRequest, purpose| UnsignedTransaction {
        purpose,
        fees: Fees::Dynamic { max_fee_per_gas: 90, max_priority_fee_per_gas: 2 },
        ..unsigned(request)
    };
    for purpose in [Purpose::Asked, Purpose::Replacement] {
        let replaced = harness.send("1", again(payment(6), purpose)).await.unwrap();
        assert_ne!(replaced.hash, first.hash);
        for other in [
            payment(5),
            payment(7),
            TransactionRequest { to: Some(account()), ..payment(6) },
            TransactionRequest { to: None, data: vec![0], ..payment(6) },
            TransactionRequest { data: vec![0], ..payment(6) },
            TransactionRequest { access_list: vec![(SHOP, Vec::new())], ..payment(6) },
            TransactionRequest { chain_id: 2, ..payment(6) },
        ] {
            let refused = harness.send("1", again(other, purpose)).await.unwrap_err();
            assert_eq!(refused.kind, HostErrorKind::Denied);
            assert!(refused.message.contains("something else has been signed for the same intent"), "{refused:?}");
        }
        let mut dear = again(payment(6), purpose);
        dear.fees = Fees::Legacy { gas_price: 101 };
        let refused = harness.send("1", dear).await.unwrap_err();
        assert!(refused.message.contains("`max_fee_per_gas` of policy 1"), "{refused:?}");
        harness.restart().await;
    }
    assert_eq!(harness.audit().await.len(), 3);
    assert!(is_over_the_day(&harness.pay("2", 5).await.unwrap_err()));
    harness.pay("2", 4).await.unwrap();
    // A replacement of what nobody knows is counted like anything else.
    let refused = harness.send("3", again(payment(1), Purpose::Replacement)).await.unwrap_err();
    assert!(is_over_the_day(&refused));
    // What no policy covers any more is not signed again either.
    harness.restart_with(vec![Policy { max_value: Wei::from(5), ..policy() }]).await;
    let refused = harness.send("1", again(payment(6), Purpose::Replacement)).await.unwrap_err();
    assert!(refused.message.contains("`max_value` of policy 1"), "{refused:?}");
}

#[tokio::test]
async fn what_uses_up_a_nonce_moves_nothing_anywhere() {
    let harness = Harness::start(vec![policy()]).await;
    let to_itself = TransactionRequest { to: Some(account()), ..payment(0) };
    let empty = |request| UnsignedTransaction { purpose: Purpose::Empty, ..unsigned(request) };
    harness.send("1", empty(to_itself.clone())).await.unwrap();
    for other in [
        payment(0),
        TransactionRequest { value: Wei::from(1), ..to_itself.clone() },
        TransactionRequest { data: vec![0], ..to_itself.clone() },
        TransactionRequest { access_list: vec![(SHOP, Vec::new())], ..to_itself.clone() },
        TransactionRequest { to: None, ..to_itself.clone() },
    ] {
        let refused = harness.send("1", empty(other)).await.unwrap_err();
        assert_eq!(refused.kind, HostErrorKind::InvalidInput, "{refused:?}");
    }
    let elsewhere = TransactionRequest { chain_id: 2, ..to_itself.clone() };
    assert_eq!(harness.send("1", empty(elsewhere)).await.unwrap_err().kind, HostErrorKind::Denied);
    let of_another = TransactionRequest { account: SHOP, to: Some(SHOP), ..to_itself.clone() };
    assert_eq!(harness.send("1", empty(of_another)).await.unwrap_err().kind, HostErrorKind::Denied);
    let dear = UnsignedTransaction { fees: Fees::Legacy { gas_price: 101 }, ..empty(to_itself) };
    assert!(harness.send("1", dear).await.unwrap_err().message.contains("max_fee_per_gas"));
    // It took neither the intent nor anything of the day.
    harness.pay("1", 6).await.unwrap();
    harness.pay("2", 4).await.unwrap();
}

#[tokio::test]
async fn the_gas_of_a_transaction_costs_no_more_in_all_than_its_ceiling() {
    // 21,000 units at 100 wei.
    let most = 2_100_000;
    let mut harness = Harness::start(vec![Policy { max_fee: Some(Wei::from(most)), ..policy() }]).await;
    let with = |gas_limit, fees, request| UnsignedTransaction { gas_limit, fees, ..unsigned(request) };
    let (dynamic, legacy) = (unsigned(payment(1)).fees, Fees::Legacy { gas_price: 100 });
    let listed = TransactionRequest { access_list: vec![(SHOP, Vec::new())], ..payment(1) };
    let is_over = |refused: HostError| {
        assert_eq!(refused.kind, HostErrorKind::Denied);
        assert!(
            refused.message.contains("2100100 wei") && refused.message.contains("`max_fee` of policy 1"),
            "{refused:?}"
        );
    };
    for (number, (fees, request)) in
        [(dynamic, payment(1)), (legacy, payment(1)), (legacy, listed)].into_iter().enumerate()
    {
        let intent = number.to_string();
        is_over(harness.send(&intent, with(21_001, fees, request.clone())).await.unwrap_err());
        harness.send(&intent, with(21_000, fees, request.clone())).await.unwrap();
        // The same with a higher price, and after a restart.
        harness.restart().await;
        let again = UnsignedTransaction { purpose: Purpose::Replacement, ..with(21_001, fees, request) };
        is_over(harness.send(&intent, again).await.unwrap_err());
    }
    let to_itself = TransactionRequest { to: Some(account()), ..payment(0) };
    let empty =
        |gas_limit| UnsignedTransaction { purpose: Purpose::Empty, ..with(gas_limit, legacy, to_itself.clone()) };
    is_over(harness.send("empty", empty(21_001)).await.unwrap_err());
    harness.send("empty", empty(21_000)).await.unwrap();
    // No number of it is too large to be one.
    let huge = with(u64::MAX, Fees::Legacy { gas_price: 100 }, payment(1));
    assert!(harness.send("huge", huge).await.unwrap_err().message.contains("1844674407370955161500 wei"));
    assert_eq!(harness.audit().await.len(), 4);
}

#[tokio::test]
async fn metrics_and_status_say_what_was_signed_and_refused() {
    let harness = Harness::start(vec![policy()]).await;
    harness.pay("1", 6).await.unwrap();
    harness.pay("2", 6).await.unwrap_err();
    harness.take_store();
    harness.pay("3", 1).await.unwrap_err();
    harness.give_store();
    let signed = format!("nexum_identity_sign_total{{account=\"{}\",module=\"m\"}} 1", account());
    let denied = "nexum_identity_refusals_total{kind=\"denied\",module=\"m\"} 1";
    let unavailable = "nexum_identity_refusals_total{kind=\"unavailable\",module=\"m\"} 1";
    let text = harness.metrics_text();
    assert!(text.contains(&signed) && text.contains(denied) && text.contains(unavailable), "{text}");
    let status = eventually("read again", async || match harness.pay("1", 6).await {
        Ok(_) => Ok(harness.status().await),
        Err(refused) => Err(refused.message),
    })
    .await;
    assert_eq!((status.signatures_total, status.refusals_total), (2, 2));
    assert_eq!(status.accounts, [(account().to_string(), "keystore".to_owned())].into());
    assert!(status.problems.is_empty(), "{:?}", status.problems);
    harness.metrics.forget("m");
    let text = harness.metrics_text();
    assert!(!text.contains("module=\"m\""), "{text}");
    let ceiling = |value| {
        let (module, request) = ("m".into(), Box::new(payment(value)));
        harness.ask(|reply| IdentityMsg::FeeCeiling { module, request, reply })
    };
    assert_eq!(ceiling(1).await.unwrap(), Some(100));
    assert!(ceiling(7).await.unwrap_err().message.contains("max_value"));
}
