//! Transactions as effects: what is refused, what is kept, and what each answer of the actor becomes.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::*;
use crate::{
    bindings::nexum::host::outbox::AccessListItem,
    clock::SystemClock,
    grants::AskedCapabilities,
    interfaces::identity::grant::{CAPABILITY as IDENTITY, SIGN},
    ports::Ports,
    transactions::MinedTransaction,
};

fn effect() -> TransactionEffect {
    TransactionEffect {
        chain_id: 7,
        account: Some(vec![0x11; 20]),
        to: Some(vec![0x22; 20]),
        value: vec![1, 0],
        data: vec![0xa9, 0x05, 0x9c, 0xbb, 1],
        gas_limit: None,
        fees: None,
        access_list: Vec::new(),
        confirmations: None,
        deadline: None,
        skip_simulation: false,
    }
}

/// Gives modules these accounts.
struct Identity(Vec<Address>);

impl Actor for Identity {
    type Msg = IdentityMsg;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<IdentityMsg>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(
        &self,
        _: ActorRef<IdentityMsg>,
        message: IdentityMsg,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        if let IdentityMsg::Accounts { reply, .. } = message {
            reply.send(Ok(self.0.clone()))?;
        }
        Ok(())
    }
}

/// Answers every intent the same, and keeps them.
struct Transactions(Mutex<Vec<Intent>>, Result<SubmitAnswer, HostError>, Mutex<Vec<(bool, Vec<String>)>>);

struct Sending(Arc<Transactions>);

impl Actor for Sending {
    type Msg = TransactionsMsg;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<TransactionsMsg>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(
        &self,
        _: ActorRef<TransactionsMsg>,
        message: TransactionsMsg,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        if let TransactionsMsg::Submit { intent, may_send, before, reply } = message {
            self.0.0.lock().unwrap().push(*intent);
            self.0.2.lock().unwrap().push((may_send, before));
            reply.send(self.0.1.clone())?;
        }
        Ok(())
    }
}

/// What an attempt comes to where the module has these accounts and transactions are answered so; absent: nobody is there.
async fn attempt(
    effect: &TransactionEffect,
    again: bool,
    accounts: Option<Vec<Address>>,
    answer: Option<Result<SubmitAnswer, HostError>>,
) -> (Verdict, Vec<Intent>) {
    let ports = Ports::unbound([7]);
    if let Some(accounts) = accounts {
        ports.of::<IdentityMsg>().bind(Actor::spawn(None, Identity(accounts), ()).await.unwrap().0);
    }
    let seen = answer.map(|answer| Arc::new(Transactions(Mutex::default(), answer, Mutex::default())));
    if let Some(seen) = &seen {
        ports.of::<TransactionsMsg>().bind(Actor::spawn(None, Sending(seen.clone()), ()).await.unwrap().0);
    }
    let with = Attempting {
        module: &Arc::from("m"),
        id: "m/block:7:1:0x/0",
        key: "k",
        again,
        round: 0,
        deadline: Duration::from_secs(10),
        grants: &Grants::default(),
        ports: &ports,
        clock: &SystemClock::new(),
    };
    let verdict = effect.attempt(&with).await;
    (verdict, seen.map(|seen| seen.0.lock().unwrap().clone()).unwrap_or_default())
}

fn underway() -> Result<SubmitAnswer, HostError> {
    Ok(SubmitAnswer::Underway { what: "its receipt".into(), after: Duration::from_secs(3), hash: None })
}

fn told(kind: FailureKind, message: &str) -> TransactionFailure {
    TransactionFailure { kind, message: message.into(), data: None, hash: None }
}

#[tokio::test]
async fn it_is_handed_on_under_its_id_and_told_when_it_is_final() {
    let mut sent = effect();
    sent.fees = Some(FeePolicy {
        max_fee_per_gas: Some(vec![1, 0]),
        max_priority_fee_per_gas: None,
        market_percent: Some(300),
    });
    sent.access_list = vec![AccessListItem { address: vec![3; 20], storage_keys: vec![vec![4; 32]] }];
    let (verdict, intents) = attempt(&sent, false, None, Some(underway())).await;
    assert_eq!(verdict, Verdict::Underway { what: "its receipt".into(), after: Duration::from_secs(3) });
    let [intent] = intents.as_slice() else { panic!("{intents:?}") };
    assert_eq!((intent.id.as_str(), &*intent.module, intent.confirmations), ("m/block:7:1:0x/0", "m", 1));
    assert_eq!(intent.fees.max_fee_per_gas, Some(256));
    assert_eq!(intent.request.value, Wei::from(256));
    assert_eq!(intent.request.access_list, [(Address([3; 20]), vec![Hash([4; 32])])]);

    let mined = MinedTransaction {
        hash: Hash([1; 32]),
        nonce: 5,
        block_number: 6,
        block_hash: Hash([2; 32]),
        gas_used: 21_000,
        effective_gas_price: "7".into(),
        contract_address: None,
    };
    let (verdict, _) = attempt(&effect(), true, None, Some(Ok(SubmitAnswer::Mined(Box::new(mined.clone()))))).await;
    let Verdict::Delivered(bytes) = verdict else { panic!("{verdict:?}") };
    assert_eq!(serde_json::from_slice::<MinedTransaction>(&bytes).unwrap(), mined);
}

#[tokio::test]
async fn what_is_taken_up_again_is_a_transaction_of_its_own_that_names_those_before() {
    let ports = Ports::unbound([7]);
    let seen = Arc::new(Transactions(Mutex::default(), underway(), Mutex::default()));
    ports.of::<TransactionsMsg>().bind(Actor::spawn(None, Sending(seen.clone()), ()).await.unwrap().0);
    let asked = AskedCapabilities { required: &[IDENTITY], optional: &[] };
    let granted = Grants::decide(asked, &BTreeSet::from([IDENTITY]), &BTreeSet::new()).unwrap();
    let granted = granted.with_signing_methods([TRANSACTION.to_owned()]).with_chains([7]);
    for (round, grants) in [(0, &granted), (1, &granted), (2, &Grants::default())] {
        let with = Attempting {
            module: &Arc::from("m"),
            id: "m/block:7:1:0x/0",
            key: "k",
            again: true,
            round,
            deadline: Duration::from_secs(10),
            grants,
            ports: &ports,
            clock: &SystemClock::new(),
        };
        effect().attempt(&with).await;
    }
    let ids: Vec<String> = seen.0.lock().unwrap().iter().map(|intent| intent.id.clone()).collect();
    assert_eq!(ids, ["m/block:7:1:0x/0", "m/block:7:1:0x/0~1", "m/block:7:1:0x/0~2"]);
    let before = seen.2.lock().unwrap().clone();
    let [first, second] = [&ids[0], &ids[1]].map(String::clone);
    let named = [vec![], vec![first.clone()], vec![second, first]];
    let granted = [true, true, false];
    assert_eq!(before, granted.into_iter().zip(named).collect::<Vec<_>>(), "what is not granted is asked after alone");
}

#[tokio::test]
async fn a_failure_is_json_that_is_not_cut_however_long_its_parts_are() {
    let data = Some(format!("0x{}", "ab".repeat(1_024)));
    let failure = TransactionFailure { data, ..told(FailureKind::WouldRevert, &"\u{1}".repeat(9_000)) };
    let answer = Ok(SubmitAnswer::Failed(Box::new(failure.clone())));
    let (verdict, _) = attempt(&effect(), false, None, Some(answer)).await;
    let Verdict::Failed(text) = verdict.shortened() else { panic!("no failure") };
    let read: TransactionFailure = serde_json::from_str(&text).unwrap();
    assert_eq!((read.kind, &read.data), (FailureKind::WouldRevert, &failure.data));
    assert!(read.message.chars().count() <= 501 && text.len() < 6_000, "{}", text.len());
    // What is no hex, or more of it, is left out.
    for data in ["0xzz".to_owned(), format!("0x{}", "ab".repeat(1_025)), "revert".to_owned()] {
        let Verdict::Failed(text) = failed(TransactionFailure { data: Some(data), ..failure.clone() }) else {
            panic!()
        };
        assert_eq!(serde_json::from_str::<TransactionFailure>(&text).unwrap().data, None);
    }
}

#[tokio::test]
async fn an_account_that_is_not_named_is_the_one_of_the_policy() {
    let unnamed = TransactionEffect { account: None, ..effect() };
    let (a, b) = (Address([1; 20]), Address([2; 20]));
    let (verdict, intents) = attempt(&unnamed, false, Some(vec![a]), Some(underway())).await;
    assert!(matches!(verdict, Verdict::Underway { .. }));
    assert_eq!(intents[0].request.account, a);
    let refusal = async |again, accounts, answer| {
        let (verdict, intents) = attempt(&unnamed, again, Some(accounts), Some(answer)).await;
        let Verdict::Failed(text) = verdict else { panic!("{verdict:?}") };
        let failure: TransactionFailure = serde_json::from_str(&text).unwrap();
        assert_eq!(failure.kind, FailureKind::Denied);
        (failure.message, intents.len())
    };
    let (several, asked) = refusal(false, vec![a, b], underway()).await;
    assert!(several.contains(&a.to_string()) && several.contains(&b.to_string()), "{several}");
    assert_eq!(asked, 0, "nothing was handed on");
    let (none, _) = refusal(false, vec![], underway()).await;
    assert_eq!(none, "no policy gives module m an account on chain 7");
    // One that may have been handed on is asked after, and only if it never was is the reason that there is no account.
    let (verdict, _) = attempt(&unnamed, true, Some(vec![a, b]), Some(underway())).await;
    assert!(matches!(verdict, Verdict::Underway { .. }), "{verdict:?}");
    let unknown = Ok(SubmitAnswer::Failed(Box::new(told(FailureKind::Denied, "no policy fits"))));
    assert_eq!(refusal(true, vec![a, b], unknown).await, (several, 1));
}

#[tokio::test]
async fn a_service_that_does_not_answer_is_waited_for_and_says_nothing_of_the_transaction() {
    let waits = |verdict: &Verdict| matches!(verdict, Verdict::Underway { after, .. } if *after == SERVICE_WAIT);
    let (nobody, _) = attempt(&effect(), true, None, None).await;
    assert!(waits(&nobody), "{nobody:?}");
    let unnamed = TransactionEffect { account: None, ..effect() };
    let (nobody, _) = attempt(&unnamed, false, None, Some(underway())).await;
    assert!(waits(&nobody), "{nobody:?}");
    for kind in [HostErrorKind::Unavailable, HostErrorKind::Internal, HostErrorKind::Unsupported] {
        let (verdict, _) = attempt(&effect(), false, None, Some(Err(HostError::new("x", kind, "why")))).await;
        assert!(waits(&verdict), "{verdict:?}");
    }
    let refused = HostError::new("x", HostErrorKind::InvalidInput, "why");
    let (verdict, _) = attempt(&effect(), false, None, Some(Err(refused))).await;
    assert!(matches!(&verdict, Verdict::Failed(text) if text.contains("\"denied\"")), "{verdict:?}");
}

#[test]
fn it_needs_the_chain_and_the_method() {
    let asked = AskedCapabilities { required: &[IDENTITY], optional: &[] };
    let grants = |method: &str, chain| {
        let grants = Grants::decide(asked.clone(), &BTreeSet::from([IDENTITY]), &BTreeSet::new()).unwrap();
        grants.with_signing_methods([method.to_owned()]).with_chains([chain])
    };
    let granted = |grants: &Grants| effect().granted("m", grants).map_err(|error| error.kind);
    assert_eq!(granted(&grants(TRANSACTION, 7)), Ok(()));
    assert_eq!(granted(&grants(TRANSACTION, 8)), Err(HostErrorKind::Unsupported));
    assert_eq!(granted(&grants(SIGN, 7)), Err(HostErrorKind::Denied));
    assert_eq!(granted(&Grants::default().with_chains([7])), Err(HostErrorKind::Unsupported));
}

#[test]
fn what_could_never_be_sent_is_refused_at_once() {
    let fees = |fee: Option<Vec<u8>>, market_percent| {
        Some(FeePolicy { max_fee_per_gas: None, max_priority_fee_per_gas: fee, market_percent })
    };
    let list =
        |address: usize, keys: Vec<Vec<u8>>| vec![AccessListItem { address: vec![0; address], storage_keys: keys }];
    let keys = |count| (0..count).map(|_| vec![0; 32]).collect::<Vec<_>>();
    let good = effect();
    let cases = [
        (good.clone(), ""),
        (TransactionEffect { account: Some(vec![1; 21]), ..good.clone() }, "the account has 21 bytes: expected 20"),
        (TransactionEffect { to: Some(vec![]), ..good.clone() }, "the receiver has 0 bytes: expected 20"),
        (TransactionEffect { to: None, ..good.clone() }, ""),
        (
            TransactionEffect { to: None, data: vec![], ..good.clone() },
            "neither a receiver nor data: expected one of the two",
        ),
        (TransactionEffect { value: vec![0; 33], ..good.clone() }, "a value of 33 bytes, at most 32"),
        (TransactionEffect { value: vec![], ..good.clone() }, ""),
        (
            TransactionEffect { data: vec![0; DATA_BYTES_MAX + 1], ..good.clone() },
            "data of 131073 bytes, at most 131072",
        ),
        (
            TransactionEffect { gas_limit: Some(0), ..good.clone() },
            "a gas limit of 0: leave it out to have it estimated",
        ),
        (
            TransactionEffect { fees: fees(Some(vec![0; 17]), None), ..good.clone() },
            "a priority fee per gas of 17 bytes, at most 16",
        ),
        (TransactionEffect { fees: fees(Some(vec![255; 16]), Some(300)), ..good.clone() }, ""),
        (
            TransactionEffect { fees: fees(None, Some(0)), ..good.clone() },
            "0 percent of the market: expected 1 to 1000000",
        ),
        (
            TransactionEffect { access_list: list(19, vec![]), ..good.clone() },
            "an address of the access list has 19 bytes: expected 20",
        ),
        (
            TransactionEffect { access_list: list(20, vec![vec![0; 31]]), ..good.clone() },
            "a storage key of 31 bytes: expected 32",
        ),
        (TransactionEffect { access_list: list(20, keys(ACCESS_LIST_MAX - 1)), ..good.clone() }, ""),
        (
            TransactionEffect { access_list: list(20, keys(ACCESS_LIST_MAX)), ..good.clone() },
            "an access list of 1025 addresses and keys, at most 1024",
        ),
        (TransactionEffect { confirmations: Some(0), ..good.clone() }, "0 confirmations: expected 1 to 100000"),
        (
            TransactionEffect { confirmations: Some(100_001), ..good.clone() },
            "100001 confirmations: expected 1 to 100000",
        ),
        (
            TransactionEffect { deadline: Some(1_700_000_000), ..good.clone() },
            "a deadline long past: expected milliseconds since the Unix epoch",
        ),
        (TransactionEffect { deadline: Some(1_700_000_000_000), ..good }, ""),
    ];
    for (effect, expected) in cases {
        let refusal = effect.check("k", &Grants::default()).map_or_else(|error| error.message, |()| String::new());
        assert_eq!(refusal, expected);
    }
}

#[test]
fn people_read_amounts_and_selectors_and_no_more_data_than_they_can() {
    let shown = effect().payload();
    assert_eq!(
        (&shown["value"], &shown["selector"], &shown["data_bytes"]),
        (&json!("256"), &json!("0xa9059cbb"), &json!(5))
    );
    let large = TransactionEffect { to: None, data: vec![7; 10_000], ..effect() }.payload();
    assert_eq!((large["data"].as_str().map(str::len), &large["data_bytes"]), (Some(2 + 2 * 4_096), &json!(10_000)));
    assert_eq!((&large["selector"], &large["to"]), (&Value::Null, &Value::Null));
    let max = "115792089237316195423570985008687907853269984665640564039457584007913129639935";
    for (bytes, expected) in [
        (vec![], "0"),
        (vec![0, 0], "0"),
        (vec![0xff; 32], max),
        (vec![0x3b, 0x9a, 0xca, 0x00], "1000000000"),
        (vec![0x0d, 0xe0, 0xb6, 0xb3, 0xa7, 0x64, 0x00, 0x01], "1000000000000000001"),
    ] {
        assert_eq!(decimal(&bytes), expected);
    }
}
