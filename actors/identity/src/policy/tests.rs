//! Every field of a policy, one at a time.

use nexum_host_ifaces::interfaces::identity::port::{FeedUpdate, SigningPayload, TransactionRequest};

use super::*;
use crate::{
    config::TypedDataRule,
    request::{of_call, of_feed, of_payload},
};

const ACCOUNT: Address = Address([0xaa; 20]);
const TOKEN: Address = Address([0x70; 20]);
const TRANSFER: [u8; 4] = [0xa9, 0x05, 0x9c, 0xbb];

fn wei(value: u128) -> Wei {
    Wei::from(value)
}

fn policy() -> Policy {
    Policy {
        methods: [Method::Transaction].into(),
        chains: AnyOf::Of(vec![1]),
        to: AnyOf::Of(vec![Target::Account(TOKEN)]),
        selectors: AnyOf::Of(vec![Selector::Call(TRANSFER)]),
        max_value: wei(5),
        max_value_per_day: wei(20),
        max_fee_per_gas: Some(100),
        max_fee: Some(wei(2_000)),
        max_per_hour: Some(3),
        ..Policy::new("keeper", ACCOUNT)
    }
}

fn call() -> TransactionRequest {
    TransactionRequest {
        chain_id: 1,
        account: ACCOUNT,
        to: Some(TOKEN),
        value: wei(5),
        data: [&TRANSFER[..], &[0; 64]].concat(),
        access_list: Vec::new(),
    }
}

fn request(call: &TransactionRequest) -> Request {
    of_call(call).unwrap()
}

fn decide(policies: &[Policy], request: &Request, counted: Counted) -> Decision {
    Policies::new(policies.to_vec()).decide(request, "keeper", |_| counted)
}

/// The field that refuses.
fn field(policies: &[Policy], request: &Request) -> &'static str {
    match decide(policies, request, Counted::default()) {
        Decision::Denied(refusal) => refusal.field,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_fits_in_every_field_is_allowed_or_asked_for() {
    let now = Counted { value_of_day: U256::from(15), of_hour: 2, hour_frees_ms: 9 };
    let dearest = Request { fee_per_gas: Some(100), fee: Some(U256::from(2_000)), ..request(&call()) };
    assert_eq!(decide(&[policy()], &dearest, now), Decision::Allowed { policy: 1 });
    let asks = Policy { ask: true, ..policy() };
    assert_eq!(decide(&[asks], &request(&call()), now), Decision::Ask { policy: 1 });
}

#[test]
fn each_field_refuses_what_is_beyond_it() {
    let beyond = |change: &dyn Fn(&mut TransactionRequest)| {
        let mut call = call();
        change(&mut call);
        field(&[policy()], &request(&call))
    };
    assert_eq!(beyond(&|call| call.account = TOKEN), "account");
    assert_eq!(beyond(&|call| call.chain_id = 2), "chains");
    assert_eq!(beyond(&|call| call.to = Some(ACCOUNT)), "to");
    assert_eq!(beyond(&|call| call.to = None), "to");
    assert_eq!(beyond(&|call| call.data[0] = 0), "selectors");
    assert_eq!(beyond(&|call| call.data.truncate(3)), "selectors");
    assert_eq!(beyond(&|call| call.data.clear()), "selectors");
    assert_eq!(beyond(&|call| call.value = wei(6)), "max_value");
    assert_eq!(beyond(&|call| call.value = Wei([0xff; 32])), "max_value");
    let dear = Request { fee_per_gas: Some(101), ..request(&call()) };
    assert_eq!(field(&[policy()], &dear), "max_fee_per_gas");
    let dear = Request { fee: Some(U256::from(2_001)), ..request(&call()) };
    assert_eq!(field(&[policy()], &dear), "max_fee");
    let message = of_payload(ACCOUNT, SigningPayload::Message(b"hello".to_vec())).unwrap().0;
    assert_eq!(field(&[policy()], &message), "methods");
    let nobody = Policies::new(vec![policy()]).decide(&request(&call()), "other", |_| Counted::default());
    let Decision::Denied(refusal) = nobody else { panic!("{nobody:?}") };
    assert_eq!((refusal.policy, refusal.field), (None, "module"));
    assert!(refusal.message.contains("module = \"other\""), "{}", refusal.message);
}

#[test]
fn budgets_hold_to_the_last_wei_and_the_last_signature() {
    let over = |counted: Counted| match decide(&[policy()], &request(&call()), counted) {
        Decision::Denied(refusal) => (refusal.field, refusal.free_at_ms),
        other => panic!("{other:?}"),
    };
    let day = |value: u64| Counted { value_of_day: U256::from(value), ..Counted::default() };
    assert_eq!(over(day(16)), ("max_value_per_day", None));
    assert_eq!(over(Counted { value_of_day: U256::MAX, ..day(0) }), ("max_value_per_day", None));
    assert_eq!(over(Counted { of_hour: 3, hour_frees_ms: 77, ..day(0) }), ("max_per_hour", Some(77)));
    let nothing = request(&TransactionRequest { value: wei(0), ..call() });
    assert_eq!(decide(&[policy()], &nothing, day(1_000)), Decision::Allowed { policy: 1 });
}

#[test]
fn what_is_absent_allows_nothing() {
    let methods: BTreeSet<_> = [Method::Transaction, Method::TypedData].into();
    let bare = Policy { methods, ..Policy::new("keeper", ACCOUNT) };
    assert_eq!(field(std::slice::from_ref(&bare), &request(&call())), "chains");
    let chain = Policy { chains: AnyOf::Any, ..bare.clone() };
    assert_eq!(field(std::slice::from_ref(&chain), &request(&call())), "to");
    let to = Policy { to: AnyOf::Any, ..chain };
    assert_eq!(field(std::slice::from_ref(&to), &request(&call())), "selectors");
    let all = Policy { selectors: AnyOf::Any, ..to };
    assert_eq!(field(std::slice::from_ref(&all), &request(&call())), "max_value");
    assert_eq!(field(&[Policy { max_value: wei(5), ..all.clone() }], &request(&call())), "max_value_per_day");
    // Any receiver is no creation; data too short for a selector needs any.
    let creation = request(&TransactionRequest { to: None, value: wei(0), ..call() });
    assert_eq!(field(std::slice::from_ref(&all), &creation), "to");
    let creates = Policy { to: AnyOf::Of(vec![Target::Create]), selectors: AnyOf::default(), ..all.clone() };
    assert_eq!(decide(&[creates], &creation, Counted::default()), Decision::Allowed { policy: 1 });
    let short = request(&TransactionRequest { data: vec![1], value: wei(0), ..call() });
    assert_eq!(decide(&[all], &short, Counted::default()), Decision::Allowed { policy: 1 });
    assert_eq!(field(&[Policy::new("keeper", ACCOUNT)], &request(&call())), "methods");
}

#[test]
fn typed_data_is_held_to_its_domain() {
    let facts = Facts::TypedData { verifying_contract: Some(TOKEN), chain_id: Some(1), primary_type: "Order".into() };
    let request = Request { facts, ..request(&call()) };
    let with = |rule: TypedDataRule| {
        let typed_data = vec![rule];
        let policy = Policy { methods: [Method::TypedData].into(), typed_data, ..Policy::new("keeper", ACCOUNT) };
        decide(&[policy], &request, Counted::default()) == Decision::Allowed { policy: 1 }
    };
    let rule =
        || TypedDataRule { verifying_contract: Some(TOKEN), chain_id: Some(1), primary_type: Some("Order".to_owned()) };
    assert!(with(rule()) && with(TypedDataRule::default()));
    assert!(!with(TypedDataRule { verifying_contract: Some(ACCOUNT), ..rule() }));
    assert!(!with(TypedDataRule { chain_id: Some(2), ..rule() }));
    assert!(!with(TypedDataRule { primary_type: Some("Permit".to_owned()), ..rule() }));
    let none = Policy { methods: [Method::TypedData].into(), ..Policy::new("keeper", ACCOUNT) };
    assert_eq!(field(std::slice::from_ref(&none), &request), "typed_data");
    // A domain without a contract fits only where any does.
    let bare = Facts::TypedData { verifying_contract: None, chain_id: None, primary_type: "Order".into() };
    let bare = Request { facts: bare, ..request };
    assert_eq!(field(&[Policy { typed_data: vec![rule()], ..none.clone() }], &bare), "typed_data");
    let any = Policy { typed_data: vec![TypedDataRule::default()], ..none };
    assert_eq!(decide(&[any], &bare, Counted::default()), Decision::Allowed { policy: 1 });
}

#[test]
fn the_first_that_fits_decides_and_the_nearest_says_why_none_does() {
    let small = policy();
    let large = Policy { max_value: wei(1_000), max_value_per_day: wei(1_000), ask: true, ..policy() };
    let both = [Policy::new("keeper", TOKEN), small, large];
    let of = |value: u128| request(&TransactionRequest { value: wei(value), ..call() });
    assert_eq!(decide(&both, &of(5), Counted::default()), Decision::Allowed { policy: 2 });
    assert_eq!(decide(&both, &of(6), Counted::default()), Decision::Ask { policy: 3 });
    let Decision::Denied(refusal) = decide(&both, &of(1_001), Counted::default()) else { panic!("allowed") };
    assert_eq!((refusal.policy, refusal.field), (Some(2), "max_value"));
    let said = "a value of 1001 wei, at most 5: `max_value` of policy 2 ([[identity.policies]], module keeper) does not allow it; \
                the operator would write at least \"1001 wei\" there";
    assert_eq!(refusal.message, said);
}

#[test]
fn what_was_counted_stays_counted_when_a_policy_is_edited() {
    let before = Policies::new(vec![policy()]);
    let facts = request(&call()).facts;
    let scope = before.scope(1);
    let counts = |policies: &Policies, number| policies.counts(number, "keeper", ACCOUNT, &facts, scope);
    assert!(counts(&before, 1));
    let raised = Policies::new(vec![Policy::new("keeper", TOKEN), Policy { max_value_per_day: wei(999), ..policy() }]);
    assert!(counts(&raised, 2) && !counts(&raised, 1));
    // It covers more now, and is another policy by its fields.
    let widened = Policies::new(vec![Policy { chains: AnyOf::Any, ..policy() }]);
    assert!(widened.scope(1) != scope && counts(&widened, 1));
    let elsewhere = Policies::new(vec![Policy { chains: AnyOf::Of(vec![2]), ..policy() }]);
    assert!(!counts(&elsewhere, 1));
    assert!(!before.counts(1, "other", ACCOUNT, &facts, scope));
}

#[test]
fn accounts_are_those_of_the_modules_own_policies() {
    let policies = Policies::new(vec![policy(), Policy::new("keeper", TOKEN), Policy::new("other", Address([1; 20]))]);
    assert_eq!(policies.accounts("keeper", None), [ACCOUNT, TOKEN].into());
    assert_eq!(policies.accounts("keeper", Some(1)), [ACCOUNT, TOKEN].into());
    assert_eq!(policies.accounts("keeper", Some(2)), [TOKEN].into());
    assert!(policies.accounts("nobody", None).is_empty());
}

#[test]
fn fees_of_what_was_signed_before_are_held_to_the_ceiling() {
    let policies = Policies::new(vec![policy()]);
    let at = |fee| Request { fee_per_gas: Some(fee), ..request(&call()) };
    assert_eq!(policies.covering(&at(1), "keeper"), Ok(1));
    assert_eq!(policies.check_fee(1, "keeper", &at(100)), Ok(()));
    assert_eq!(policies.check_fee(1, "keeper", &at(101)).unwrap_err().field, "max_fee_per_gas");
    let in_all = |fee: u64| Request { fee: Some(U256::from(fee)), ..request(&call()) };
    assert_eq!(policies.check_fee(1, "keeper", &in_all(2_000)), Ok(()));
    assert_eq!(policies.check_fee(1, "keeper", &in_all(2_001)).unwrap_err().field, "max_fee");
    assert_eq!(policies.covering(&at(1), "other").unwrap_err().field, "module");
    assert_eq!(policies.for_empty("keeper", ACCOUNT, 1), Some(1));
    assert_eq!(policies.for_empty("keeper", ACCOUNT, 2), None);
    assert_eq!(policies.for_empty("keeper", TOKEN, 1), None);
}

#[test]
fn a_feed_is_written_under_the_topics_of_its_policy_alone() {
    let (ours, others) = (Hash([7; 32]), Hash([8; 32]));
    let feed = |topic| {
        let update = FeedUpdate { topic, index: 0, content: Hash([9; 32]) };
        of_feed(ACCOUNT, update).0
    };
    let bare = Policy { methods: [Method::Feed].into(), ..Policy::new("keeper", ACCOUNT) };
    let policy = Policy { feeds: AnyOf::Of(vec![ours]), ..bare.clone() };
    let decided = |policy: &Policy, topic| decide(std::slice::from_ref(policy), &feed(topic), Counted::default());
    assert_eq!(decided(&policy, ours), Decision::Allowed { policy: 1 });
    assert_eq!(field(&[bare], &feed(ours)), "feeds");
    assert_eq!(field(std::slice::from_ref(&policy), &feed(others)), "feeds");
    assert_eq!(field(&[self::policy()], &feed(ours)), "methods");
    let message = Policy { methods: [Method::Message].into(), ..policy.clone() };
    assert_eq!(field(&[message], &feed(ours)), "methods");

    let policies = Policies::new(vec![policy]);
    assert_eq!(policies.feed_account("keeper", ours), Ok(ACCOUNT));
    let refused = policies.feed_account("keeper", others).unwrap_err();
    assert_eq!((refused.policy, refused.field), (Some(1), "feeds"));
    let refused = policies.feed_account("nobody", ours).unwrap_err();
    assert!(refused.message.starts_with("no policy gives module nobody a feed to write"), "{}", refused.message);
}
