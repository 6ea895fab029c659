//! The actor through its mailbox, between a store, an identity and a chain that are faked.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod fakes;

use std::sync::Arc;

use nexum_host_ifaces::{
    HostError, HostErrorKind,
    clock::SystemClock,
    interfaces::identity::port::IdentityMsg,
    ports::Ports,
    store::StoreMsg,
    transactions::{FailureKind, Intent, SubmitAnswer, TransactionOrder, TransactionsMsg, TransactionsStatus, Which},
};
use nexum_testkit::eventually;
use nexum_transactions::{Args, ChainSettings, TransactionsMetrics};
use prometheus::Registry;
use ractor::{Actor, ActorRef};

use fakes::{ACCOUNT, Chain, Identity, Store, Supervisor, World, intent};

const DEADLINE: std::time::Duration = std::time::Duration::from_secs(10);

/// An engine's services around a world that outlives them.
struct Engine {
    world: Arc<World>,
    ports: Arc<Ports>,
    actor: Option<ActorRef<TransactionsMsg>>,
}

impl Engine {
    /// With a chain; with accounts where that is said.
    async fn new(world: &Arc<World>, signs: bool) -> Self {
        let ports = Ports::unbound([1]);
        if signs {
            ports.with::<IdentityMsg>().bind(Actor::spawn(None, Identity(world.clone()), ()).await.unwrap().0);
        }
        ports.chain(1).unwrap().bind(Actor::spawn(None, Chain(world.clone()), ()).await.unwrap().0);
        let mut engine = Self { world: world.clone(), ports, actor: None };
        engine.start().await;
        engine
    }

    async fn store(&self) {
        self.ports.of::<StoreMsg>().bind(Actor::spawn(None, Store(self.world.clone()), ()).await.unwrap().0);
    }

    /// Starts the actor, or another one in its place.
    async fn start(&mut self) {
        let (supervisor, _) = Actor::spawn(None, Supervisor, ()).await.unwrap();
        let settings = ChainSettings { poll: std::time::Duration::from_millis(20), ..ChainSettings::default() };
        let args = Args {
            chains: [(1, settings)].into(),
            ports: self.ports.clone(),
            clock: Arc::new(SystemClock::new()),
            metrics: TransactionsMetrics::register(&Registry::new()).unwrap(),
        };
        let (actor, _) = nexum_transactions::spawn(args, supervisor.get_cell()).await.unwrap();
        self.ports.with::<TransactionsMsg>().bind(actor.clone());
        self.actor = Some(actor);
    }

    async fn submit(&self, number: u8) -> Result<SubmitAnswer, HostError> {
        self.submit_again(number, &[]).await
    }

    async fn submit_again(&self, number: u8, before: &[&str]) -> Result<SubmitAnswer, HostError> {
        let intent = Box::new(intent(number, !before.is_empty()));
        let before = before.iter().map(|before| (*before).to_owned()).collect();
        let ask = |reply| TransactionsMsg::Submit { intent, may_send: true, before, reply };
        self.ports.of::<TransactionsMsg>().call(DEADLINE, ask).await.unwrap()
    }

    async fn submit_as(&self, id: &str, number: u8) -> Result<SubmitAnswer, HostError> {
        let intent = Box::new(Intent { id: id.to_owned(), ..intent(number, false) });
        let ask = |reply| TransactionsMsg::Submit { intent, may_send: true, before: Vec::new(), reply };
        self.ports.of::<TransactionsMsg>().call(DEADLINE, ask).await.unwrap()
    }

    async fn status(&self) -> TransactionsStatus {
        self.ports.of::<TransactionsMsg>().call(DEADLINE, TransactionsMsg::Status).await.unwrap()
    }

    /// Submits an intent until its answer is what is waited for.
    fn until(&self, number: u8, wanted: fn(&SubmitAnswer) -> bool) -> SubmitAnswer {
        eventually("the answer that is waited for", || {
            let answer =
                tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(self.submit(number)));
            match answer {
                Ok(answer) if wanted(&answer) => Ok(answer),
                other => Err(format!("{other:?}")),
            }
        })
    }

    fn until_broadcast(&self, times: usize) {
        tokio::task::block_in_place(|| {
            eventually("bytes are broadcast", || {
                let sent = self.world.sent.lock().unwrap().len();
                if sent >= times { Ok(()) } else { Err(format!("{sent} times")) }
            });
        });
    }
}

fn is_mined(answer: &SubmitAnswer) -> bool {
    matches!(answer, SubmitAnswer::Mined(_))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_store_is_away_nothing_is_taken_on_and_nothing_is_signed() {
    let world = World::new();
    let engine = Engine::new(&world, true).await;
    let error = engine.submit(0).await.unwrap_err();
    assert_eq!(error.kind, HostErrorKind::Unavailable, "{error:?}");
    assert_eq!((world.signed.lock().unwrap().len(), world.sent.lock().unwrap().len()), (0, 0));
    engine.store().await;
    engine.until(0, |answer| matches!(answer, SubmitAnswer::Underway { .. }));
    engine.until_broadcast(1);
    // It goes away again: what is signed then leaves only once it is back.
    engine.ports.of::<StoreMsg>().unbind();
    engine.until(1, |answer| matches!(answer, SubmitAnswer::Underway { what, .. } if what.contains("written")));
    let by_others = |world: &World| world.sent.lock().unwrap().iter().filter(|raw| ***raw == [1, 0]).count();
    assert_eq!(by_others(&world), 0, "bytes left before they were durable");
    engine.store().await;
    world.mine();
    engine.until(1, is_mined);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_was_killed_has_a_successor_that_sends_the_same_bytes() {
    let world = World::new();
    let mut engine = Engine::new(&world, true).await;
    engine.store().await;
    engine.until(0, |answer| matches!(answer, SubmitAnswer::Underway { .. }));
    engine.until_broadcast(1);
    engine.actor.take().unwrap().kill();
    engine.start().await;
    let before = world.sent.lock().unwrap().len();
    engine.until_broadcast(before + 1);
    world.mine();
    engine.until(0, is_mined);
    let sent = world.sent.lock().unwrap().clone();
    assert!(sent.iter().all(|raw| *raw == sent[0]) && world.signed.lock().unwrap().len() == 1, "{sent:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_accounts_what_was_broadcast_is_followed_and_the_rest_waits_with_a_reason() {
    let world = World::new();
    let mut engine = Engine::new(&world, true).await;
    engine.store().await;
    engine.until(0, |answer| matches!(answer, SubmitAnswer::Underway { .. }));
    engine.until_broadcast(1);
    engine.actor.take().unwrap().kill();
    // The operator's configuration has no [identity] any more.
    let engine = Engine::new(&world, false).await;
    engine.store().await;
    let waits =
        |answer: &SubmitAnswer| matches!(answer, SubmitAnswer::Underway { what, .. } if what.contains("[identity]"));
    engine.until(1, waits);
    let status = engine.status().await;
    assert!(status.signs_nothing.is_some_and(|why| why.contains("[identity]")));
    world.mine();
    engine.until(0, is_mined);
    assert_eq!(world.signed.lock().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_is_another_transaction_once_the_one_before_has_failed_for_good() {
    let world = World::new();
    let engine = Engine::new(&world, false).await;
    engine.store().await;
    engine.until(0, |answer| matches!(answer, SubmitAnswer::Underway { .. }));
    let id = intent(0, false).id;
    // Also where a retry was refused between the two.
    for before in [&[&*id][..], &["intent 0~0", &*id]] {
        let early = engine.submit_again(0, before).await.unwrap();
        assert!(matches!(early, SubmitAnswer::Underway { .. }), "the one before may be sent yet: {early:?}");
        assert_eq!(engine.status().await.queues[0].waiting, 1);
    }
    let (account, which) = (ACCOUNT.to_string(), Which::Intent(id.clone()));
    let order = |reply| TransactionsMsg::Order { chain_id: 1, account, which, order: TransactionOrder::Cancel, reply };
    engine.ports.of::<TransactionsMsg>().call(DEADLINE, order).await.unwrap().unwrap();
    let is_cancelled = |answer: &SubmitAnswer| matches!(answer, SubmitAnswer::Failed(failure) if failure.kind == FailureKind::Cancelled);
    engine.until(0, is_cancelled);
    let again = engine.submit_again(0, &[&id]).await.unwrap();
    assert!(matches!(again, SubmitAnswer::Underway { .. }), "{again:?}");
    assert_eq!(engine.status().await.queues[0].waiting, 1);
    // What may not be sent any more is asked after, and not taken on.
    for (number, is_known) in [(0, true), (5, false)] {
        let intent = Box::new(intent(number, false));
        let ask = |reply| TransactionsMsg::Submit { intent, may_send: false, before: Vec::new(), reply };
        let answer = engine.ports.of::<TransactionsMsg>().call(DEADLINE, ask).await.unwrap();
        let is_denied = answer.is_err_and(|error| error.kind == HostErrorKind::Denied);
        assert_eq!(is_denied, !is_known, "intent {number}");
    }
    assert_eq!(engine.status().await.queues[0].waiting, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_wants_something_else_than_before_is_not_told_the_hash_of_that() {
    let (call, effect) = ("m/block:7:1:0x/call-0", "m/block:7:1:0x/0");
    // Where it waits for a signature, and where it was broadcast.
    for signs in [false, true] {
        let world = World::new();
        let engine = Engine::new(&world, signs).await;
        engine.store().await;
        engine.until(0, |answer| matches!(answer, SubmitAnswer::Underway { .. }));
        engine.submit_as(call, 1).await.unwrap();
        engine.submit_as(effect, 3).await.unwrap();
        if signs {
            engine.until_broadcast(3);
        }
        let other = engine.submit_as(call, 2).await.unwrap_err();
        assert_eq!(other.kind, HostErrorKind::InvalidInput, "{other:?}");
        engine.submit_as(call, 1).await.unwrap();
        // What an effect is was decided when it was committed.
        engine.submit_as(effect, 2).await.unwrap();
    }
}
