//! Budgets around restarts and midnight, and approvals that are replayed, late, or of policies that were edited.

use nexum_host_ifaces::interfaces::identity::port::{SigningPayload, TransactionRequest, Wei};

use super::*;
use crate::{
    config::{AnyOf, Method, Policy},
    request::{of_call, of_payload},
};

const ACCOUNT: Address = Address([7; 20]);

fn policy() -> Policy {
    Policy {
        methods: [Method::Transaction].into(),
        chains: AnyOf::Any,
        to: AnyOf::Any,
        selectors: AnyOf::Any,
        max_value: Wei::from(6),
        max_value_per_day: Wei::from(10),
        ..Policy::new("m", ACCOUNT)
    }
}

fn pay(value: u128) -> Request {
    let (to, data) = (Some(Address([1; 20])), Vec::new());
    let value = Wei::from(value);
    of_call(&TransactionRequest { chain_id: 1, account: ACCOUNT, to, value, data, access_list: Vec::new() }).unwrap()
}

fn step(book: &mut Book, policy: &Policy, intent: &str, request: &Request, signs: bool, now: u64) -> Step {
    let (module, intent, purpose) = ("m", Some(intent), Purpose::Asked);
    let asked = Asked { module, intent, request, purpose, signs, may_ask: !signs };
    book.step(&Policies::new(vec![policy.clone()]), asked, now)
}

#[test]
fn a_budget_outlives_restart_and_midnight_and_a_clock_set_back() {
    let (mut book, policy) = (Book::read(Vec::new(), Vec::new()).unwrap(), policy());
    let late = 10 * DAY_MS - 1;
    let Step::Granted(writes) = step(&mut book, &policy, "1", &pay(6), true, late) else { panic!("refused") };
    let records = writes.into_iter().map(|write| (write.key, write.value.unwrap())).collect();
    let mut book = Book::read(records, Vec::new()).unwrap();
    for now in [late, late + 1, late + DAY_MS - 1, 5] {
        assert!(matches!(step(&mut book, &policy, "2", &pay(5), true, now), Step::Refused { .. }), "{now}");
    }
    // The same intent again is not counted again, and is nothing else.
    assert!(matches!(step(&mut book, &policy, "1", &pay(6), true, late), Step::Granted(_)));
    assert!(matches!(step(&mut book, &policy, "1", &pay(1), true, late), Step::Refused { .. }));
    assert!(matches!(step(&mut book, &policy, "2", &pay(5), true, late + DAY_MS), Step::Granted(_)));
}

#[test]
fn an_approval_is_decided_once_in_time_and_holds_for_one_thing() {
    let asks = Policy { ask: true, ..policy() };
    let mut book = Book::read(Vec::new(), Vec::new()).unwrap();
    assert!(matches!(step(&mut book, &asks, "1", &pay(6), true, 0), Step::Refused { .. }));
    assert!(matches!(step(&mut book, &asks, "1", &pay(6), false, 0), Step::Waits { number: 1, .. }));
    assert!(book.decide(1, true, "me", 1).is_ok() && book.decide(1, true, "me", 1).is_err());
    assert!(matches!(step(&mut book, &asks, "1", &pay(5), true, 2), Step::Refused { .. }));
    let narrower = Policy { max_value: Wei::from(1), ..asks.clone() };
    assert!(matches!(step(&mut book, &narrower, "1", &pay(6), true, 2), Step::Refused { .. }));
    assert!(matches!(step(&mut book, &asks, "1", &pay(6), true, 2), Step::Granted(_)));
    assert_eq!(book.approvals(1, 2)[0].state, ApprovalState::Used);
    assert!(matches!(step(&mut book, &asks, "2", &pay(1), false, 2), Step::Waits { number: 2, .. }));
    let (late, in_time, _) = book.decide(2, true, "me", 2 + HOUR_MS).unwrap();
    assert_eq!((late.state, in_time), (ApprovalState::Expired, false));
    assert!(matches!(step(&mut book, &asks, "2", &pay(1), true, 3), Step::Refused { .. }));
    let message = of_payload(ACCOUNT, SigningPayload::Message(Vec::new())).unwrap().0;
    assert!(matches!(step(&mut book, &asks, "3", &message, false, 3), Step::Refused { .. }));
}

#[test]
fn what_nobody_decided_on_in_time_is_kept_whole_no_longer() {
    let asks = Policy { ask: true, ..policy() };
    let mut book = Book::read(Vec::new(), Vec::new()).unwrap();
    let (to, value, data) = (Some(Address([1; 20])), Wei::default(), vec![1; 8 * 1_024]);
    let call = TransactionRequest { chain_id: 1, account: ACCOUNT, to, value, data, access_list: Vec::new() };
    let large = of_call(&call).unwrap();
    let mut ask = |intent: usize, now| step(&mut book, &asks, &intent.to_string(), &large, false, now);
    for intent in 0..32 {
        assert!(matches!(ask(intent, 0), Step::Waits { .. }));
    }
    assert!(matches!(ask(32, HOUR_MS - 1), Step::Refused { writes, .. } if writes.is_empty()));
    let Step::Waits { writes, .. } = ask(32, HOUR_MS) else { panic!("the others wait no longer") };
    let bytes: Vec<usize> = writes.iter().map(|write| write.value.as_ref().unwrap().len()).collect();
    let is_cut = |bytes: &&usize| **bytes < 8 * 1_024;
    assert_eq!((bytes.len(), bytes.iter().filter(is_cut).count()), (33, 32));
    assert!(book.approvals(33, HOUR_MS)[1..].iter().all(|approval| approval.state == ApprovalState::Expired));
}

#[test]
fn no_module_uses_up_what_all_have_and_a_full_book_is_full_for_a_day() {
    let (mut book, policy) = (Book::read(Vec::new(), Vec::new()).unwrap(), policy());
    let Step::Granted(writes) = step(&mut book, &policy, "1", &pay(0), true, 0) else { panic!("refused") };
    let one: Signature = parsed(&writes[0].key, writes[0].value.as_deref().unwrap()).unwrap();
    let of = |number: u64, module: &str| {
        let entry = AuditEntry { number, module: module.to_owned(), intent: None, ..one.entry.clone() };
        Signature { entry, ..one.clone() }
    };
    for number in 2..=50_000 {
        book.insert(of(number, "m"));
    }
    book.next_signature = 50_001;
    let refused = |book: &mut Book, policy: &Policy, now| match step(book, policy, "2", &pay(0), true, now) {
        Step::Refused { error, writes } => (error.kind, error.message, writes.len()),
        other => panic!("{other:?}"),
    };
    let wanted = "50000 signatures of one module within a day, which is the limit";
    assert_eq!(refused(&mut book, &policy, DAY_MS - 1), (HostErrorKind::RateLimited, wanted.to_owned(), 0));
    // Another module is not held up.
    let (others, request) = (Policies::new(vec![Policy { module: "n".into(), ..policy.clone() }]), pay(0));
    let asked =
        Asked { module: "n", intent: None, request: &request, purpose: Purpose::Asked, signs: true, may_ask: false };
    assert!(matches!(book.step(&others, asked, DAY_MS - 1), Step::Granted(_)));
    for number in 50_002..=200_000 {
        book.insert(of(number, "others"));
    }
    book.next_signature = 200_001;
    let full = book.step(&others, asked, DAY_MS - 1);
    assert!(
        matches!(&full, Step::Refused { error, .. } if error.message.starts_with("200000 signatures within a day"))
    );
    // It goes on by itself, and what is old goes.
    let Step::Granted(writes) = step(&mut book, &policy, "2", &pay(0), true, DAY_MS) else { panic!("refused") };
    assert_eq!(writes.iter().filter(|write| write.value.is_none()).count(), REMOVED_MAX);
    assert!(matches!(book.step(&others, asked, DAY_MS), Step::Granted(_)));
}
