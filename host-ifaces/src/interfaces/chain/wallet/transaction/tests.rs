//! What is read of the parameter, and what each answer of the actors becomes.

use std::{collections::BTreeSet, sync::Mutex};

use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::*;
use crate::{
    Hash,
    bindings::nexum::host::chain,
    clock::SystemClock,
    commit_queue::CommitQueue,
    event::EventId,
    grants::{AskedCapabilities, Grants},
    host::{HostArgs, HostState},
    interfaces::identity::grant::{CAPABILITY as IDENTITY, TRANSACTION},
    limits::Limits,
    ports::Ports,
    recording::TapeMode,
    state::ModuleId,
    store::ModuleRecord,
    sync::lock,
    unit::drafts::Quota,
};

const SHOP: &str = "0x2222222222222222222222222222222222222222";

#[test]
fn a_transaction_is_read_as_nodes_read_it() {
    let of = |text: &str| read(7, &format!("[{{\"to\":\"{SHOP}\"{text}}}]"));
    let effect = of(
        ",\"value\":\"0x0de\",\"gas\":\"0x5208\",\"gasPrice\":\"0x1\",\"data\":\"0xab\",\"input\":\"0xab\",\"chainId\":\"0x7\"",
    );
    let effect = effect.unwrap();
    assert_eq!((effect.account, effect.to, effect.value), (None, Some(vec![0x22; 20]), vec![0xde]));
    assert_eq!((effect.gas_limit, effect.data), (Some(21_000), vec![0xab]));
    assert_eq!(effect.fees.unwrap().max_fee_per_gas, Some(vec![1]));
    let key = format!("0x{}", "33".repeat(32));
    let list = of(&format!(",\"accessList\":[{{\"address\":\"{SHOP}\",\"storageKeys\":[\"{key}\"]}}]")).unwrap();
    assert_eq!(list.access_list[0].storage_keys, [vec![0x33; 32]]);
    let creates = read(7, &format!("[{{\"from\":\"{SHOP}\",\"input\":\"0x60\"}}]")).unwrap();
    assert_eq!((creates.account, creates.to, creates.data), (Some(vec![0x22; 20]), None, vec![0x60]));
    for (text, why) in [
        (",\"nonce\":\"0x1\"", "without nonce and type"),
        (",\"value\":1", "expected the parameters"),
        (",\"value\":\"1\"", "expected a number as 0x"),
        (",\"value\":\"0x\"", "expected a number as 0x"),
        (format!(",\"value\":\"0x{}\"", "1".repeat(65)).as_str(), "expected a number as 0x"),
        (",\"gas\":\"0x10000000000000000\"", "is larger than any such number"),
        (",\"data\":\"ab\"", "expected bytes as 0x"),
        (",\"data\":\"0xabc\"", "expected bytes as 0x"),
        (",\"data\":\"0xab\",\"input\":\"0xac\"", "differ"),
        (",\"chainId\":\"0x8\"", "the chain that is asked 7"),
        (",\"gasPrice\":\"0x1\",\"maxFeePerGas\":\"0x1\"", "excludes"),
        (",\"from\":\"0x12\"", "the account is no address"),
    ] {
        let wrong = of(text).unwrap_err();
        assert!(wrong.contains(why), "{text}: {wrong}");
    }
    for params in ["", "[]", "{}", "[{},{}]", "[[]]"] {
        assert!(read(7, params).is_err(), "{params}");
    }
}

/// What both actors were asked, and what they answer.
#[derive(Default)]
struct World {
    /// In the order in which they are given; the last one stays.
    answers: Mutex<Vec<Result<SubmitAnswer, HostError>>>,
    admission: Mutex<Option<Result<Admission, HostError>>>,
    admitted: Mutex<Vec<String>>,
    submitted: Mutex<Vec<Intent>>,
}

struct Identity(Arc<World>);

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
        match message {
            IdentityMsg::Accounts { reply, .. } => reply.send(Ok(vec![Address([0x11; 20])]))?,
            IdentityMsg::Admit { intent, reply, .. } => {
                lock(&self.0.admitted).push(intent);
                reply.send(lock(&self.0.admission).clone().unwrap_or(Ok(Admission::Allowed)))?;
            }
            other => panic!("{other:?}"),
        }
        Ok(())
    }
}

struct Transactions(Arc<World>);

impl Actor for Transactions {
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
        let (intent, reply) = match message {
            TransactionsMsg::Submit { intent, reply, .. } => (intent, reply),
            other => panic!("{other:?}"),
        };
        lock(&self.0.submitted).push(*intent);
        let mut answers = lock(&self.0.answers);
        let answer = if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() };
        reply.send(answer)?;
        Ok(())
    }
}

fn underway(hash: Option<u8>) -> Result<SubmitAnswer, HostError> {
    let (what, after) = ("it waits for its turn".to_owned(), Duration::from_secs(1));
    Ok(SubmitAnswer::Underway { what, after, hash: hash.map(|byte| Hash([byte; 32])) })
}

fn failure(kind: FailureKind, hash: Option<u8>) -> Result<SubmitAnswer, HostError> {
    let (message, data) = ("why".to_owned(), Some("0xab".to_owned()));
    let hash = hash.map(|byte| Hash([byte; 32]));
    Ok(SubmitAnswer::Failed(Box::new(TransactionFailure { kind, message, data, hash })))
}

/// A module that may send on chain 7, and what it is answered.
async fn host() -> (Arc<World>, HostState) {
    let world = Arc::new(World::default());
    let ports = Ports::unbound([7]);
    ports.of::<IdentityMsg>().bind(Actor::spawn(None, Identity(world.clone()), ()).await.unwrap().0);
    ports.of::<TransactionsMsg>().bind(Actor::spawn(None, Transactions(world.clone()), ()).await.unwrap().0);
    let (asked, provided) = ([CAPABILITY, IDENTITY], BTreeSet::from([CAPABILITY, IDENTITY]));
    let asked = AskedCapabilities { required: &asked, optional: &[] };
    let grants = Grants::decide(asked, &provided, &BTreeSet::new()).unwrap().with_chains([7]);
    let args = HostArgs {
        module: "m".into(),
        id: ModuleId(1),
        component: Hash::default(),
        limits: Arc::new(Limits { host_call_deadline: Duration::from_secs(5), ..Limits::default() }),
        clock: Arc::new(SystemClock::new()),
        commits: Arc::new(CommitQueue::new(ports.store())),
        ports: ports.clone(),
        grants: Arc::new(grants.with_signing_methods([TRANSACTION.to_owned()])),
        taping: TapeMode::Off,
        quota: Quota::new(100),
    };
    (world, HostState::new(&args, ModuleRecord::default()))
}

fn block(number: u64) -> EventId {
    EventId::Block { chain_id: 7, number, hash: Hash([1; 32]) }
}

async fn send(host: &mut HostState) -> Result<String, HostError> {
    let params = format!("[{{\"to\":\"{SHOP}\",\"value\":\"0x1\"}}]");
    chain::Host::request(host.call(), 7, "eth_sendTransaction".into(), params).await
}

#[tokio::test]
async fn the_hash_is_answered_under_one_name_for_the_same_call_of_the_same_event() {
    let (world, mut host) = host().await;
    let outside = send(&mut host).await.unwrap_err();
    assert_eq!(outside.kind, HostErrorKind::Unsupported);
    *lock(&world.answers) = vec![underway(None), underway(None), underway(Some(1))];
    let hash = |byte: &str| format!("\"0x{}\"", byte.repeat(32));
    for _ in 0..2 {
        host.begin(&block(1));
        assert_eq!(send(&mut host).await, Ok(hash("01")));
        assert_eq!(send(&mut host).await, Ok(hash("01")));
    }
    // A dead letter that is tried again stands for its event.
    host.begin(&block(2));
    host.stand_for(&block(1));
    send(&mut host).await.unwrap();
    host.begin(&block(2));
    send(&mut host).await.unwrap();
    let admitted = lock(&world.admitted).clone();
    let [first, second, third] = [&admitted[0], &admitted[1], &admitted[5]];
    assert_eq!(admitted, [first, second, first, second, first, third].map(String::clone));
    assert!(first != second && third != first && first.ends_with("/call-0") && second.ends_with("/call-1"), "{first}");
    let submitted = lock(&world.submitted).clone();
    assert!(submitted.iter().all(|intent| intent.request.account == Address([0x11; 20])), "{submitted:?}");
    assert_eq!(submitted.len(), 8, "it is asked for again until it has a hash");
}

#[tokio::test]
async fn nothing_is_handed_on_that_people_have_to_approve_or_a_policy_denies() {
    let (world, mut host) = host().await;
    *lock(&world.answers) = vec![underway(Some(1))];
    host.begin(&block(1));
    *lock(&world.admission) = Some(Ok(Admission::AwaitsApproval { number: 4, expires_at_ms: 9 }));
    let waits = send(&mut host).await.unwrap_err();
    assert_eq!(waits.kind, HostErrorKind::Unavailable);
    assert!(waits.message.contains("nexumctl approvals show 4"), "{}", waits.message);
    let denied = HostError::new("identity", HostErrorKind::Denied, "`to` of policy 1 does not allow it");
    *lock(&world.admission) = Some(Err(denied.clone()));
    assert_eq!(send(&mut host).await, Err(denied));
    assert!(lock(&world.submitted).is_empty());
    // Approved meanwhile, and the event is tried again.
    host.begin(&block(1));
    *lock(&world.admission) = None;
    send(&mut host).await.unwrap();
    assert_eq!(lock(&world.admitted)[0], lock(&world.submitted)[0].id);
}

#[tokio::test]
async fn what_has_failed_says_why_and_what_is_mined_has_a_hash() {
    let (world, mut host) = host().await;
    host.begin(&block(1));
    for (kind, hash, told) in [
        (FailureKind::Denied, None, HostErrorKind::Denied),
        (FailureKind::WouldRevert, None, HostErrorKind::InvalidInput),
        (FailureKind::Refused, None, HostErrorKind::InvalidInput),
        (FailureKind::Expired, None, HostErrorKind::Timeout),
        (FailureKind::Cancelled, Some(3), HostErrorKind::Denied),
        (FailureKind::Replaced, None, HostErrorKind::Denied),
    ] {
        *lock(&world.answers) = vec![failure(kind, hash)];
        let error = send(&mut host).await.unwrap_err();
        assert_eq!((error.kind, error.message.as_str()), (told, "why"), "{kind:?}");
        let reverts = kind == FailureKind::WouldRevert;
        assert_eq!((error.code, error.data.as_deref()), if reverts { (3, Some("0xab")) } else { (0, None) });
    }
    *lock(&world.answers) = vec![failure(FailureKind::Reverted, Some(2))];
    assert!(send(&mut host).await.unwrap().contains("0x0202"), "the receipt of that hash says that it reverted");
}

#[tokio::test(start_paused = true)]
async fn one_that_is_not_sent_in_time_says_what_it_waits_for() {
    let (world, mut host) = host().await;
    *lock(&world.answers) = vec![underway(None)];
    host.begin(&block(1));
    let late = send(&mut host).await.unwrap_err();
    assert_eq!(late.kind, HostErrorKind::Timeout);
    assert!(late.message.contains("it waits for its turn") && late.message.contains("may be sent later"), "{late:?}");
}
