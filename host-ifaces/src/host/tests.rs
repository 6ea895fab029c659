//! Effects and flushes of one event, over a store that takes everything.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Waker},
    time::Duration,
};

use ractor::{Actor, ActorProcessingErr, ActorRef};

use wasmtime::component::Resource;
use wasmtime_wasi::p2::bindings::sockets::{instance_network, ip_name_lookup};

use super::*;
use crate::{
    Hash, HostErrorKind,
    bindings::nexum::host::{chain, http as fetching, local_store, outbox},
    clock::SystemClock,
    commit_queue::CommitQueue,
    grants::Grants,
    interfaces::{
        http::{grant::Allowlist, port::Header, port::Request},
        local_store::guest::View as Store,
        outbox::guest::View as Outbox,
    },
    limits::Limits,
    outbox::{Effect, HttpEffect, Release},
    ports::Ports,
    recording::{TapeMode, view::RecordedView},
    state::{Entries, JournalRoom, ModuleId, NoState, StateView, StoreError},
    store::StoreMsg,
    unit::drafts::Quota,
};

/// Acknowledges every unit, and notes how many effects it carried.
struct Keeps(Arc<Mutex<Vec<usize>>>);

impl Actor for Keeps {
    type Msg = StoreMsg;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<StoreMsg>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(&self, _: ActorRef<StoreMsg>, message: StoreMsg, _: &mut ()) -> Result<(), ActorProcessingErr> {
        if let StoreMsg::Commit { units, reply } = message {
            self.0.lock().unwrap().extend(units.iter().map(|unit| unit.outbox.len()));
            reply.send(Ok(()))?;
        }
        Ok(())
    }
}

fn args(view: impl StateView + 'static) -> HostArgs {
    over(Arc::new(view))
}

fn over(view: Arc<dyn StateView>) -> HostArgs {
    let ports = Ports::new(view, []);
    HostArgs {
        module: "m".into(),
        id: ModuleId(1),
        component: Hash::default(),
        limits: Arc::default(),
        clock: Arc::new(SystemClock::new()),
        commits: Arc::new(CommitQueue::new(ports.store())),
        ports,
        grants: Arc::new(Grants::default().with_hosts(&Allowlist::new(["a.org".to_owned()]))),
        taping: TapeMode::Off,
        quota: Quota::new(100),
    }
}

fn send(host: &mut HostState) -> String {
    let url = "https://a.org".to_owned();
    let effect = Effect::Http(HttpEffect { method: "POST".into(), url, headers: Vec::new(), body: None });
    let options = outbox::Options { key: None, release: Release::Committed, lane: None };
    outbox::Host::send(&mut Outbox::of(host), effect, options).unwrap()
}

/// One attempt at an event that sends an effect before and after each of two flushes: their ids.
async fn attempt(args: &HostArgs, event: &EventId) -> Vec<String> {
    let mut host = HostState::new(args, ModuleRecord::default());
    host.begin(event);
    let mut ids = vec![send(&mut host)];
    for value in [1, 2] {
        local_store::Host::set(&mut Store::of(&mut host), "marker".into(), vec![value]).unwrap();
        local_store::Host::flush(&mut Store::of(&mut host)).await.unwrap();
        ids.push(send(&mut host));
    }
    let unit = host.seal(UnitKind::Handled, None, 0);
    assert_eq!(unit.outbox.iter().map(|entry| &entry.id).collect::<Vec<_>>(), ids.iter().collect::<Vec<_>>());
    host.begin(&EventId::Block { chain_id: 1, number: 8, hash: Hash([8; 32]) });
    assert!(send(&mut host).ends_with("/0"), "each event counts its own");
    ids
}

#[tokio::test]
async fn effects_around_a_flush_have_ids_of_their_own_and_the_next_attempt_has_the_same() {
    let carried = Arc::new(Mutex::new(Vec::new()));
    let (actor, _) = Actor::spawn(None, Keeps(carried.clone()), ()).await.unwrap();
    let args = args(NoState);
    args.ports.store().bind(actor.clone());
    let event = EventId::Block { chain_id: 1, number: 7, hash: Hash([7; 32]) };
    let ids = attempt(&args, &event).await;
    let expected: Vec<String> = (0..3).map(|ordinal| format!("m/{event}/{ordinal}")).collect();
    assert_eq!(ids, expected);
    // It was dropped before its unit was sent, as after a trap; the event comes again, to a fresh instance.
    assert_eq!(attempt(&args, &event).await, ids);
    assert_eq!(*carried.lock().unwrap(), [0; 4], "a flush makes writes durable, never effects");
    actor.stop_and_wait(None, None).await.unwrap();
}

/// A clock that stands where it was put.
#[derive(Default)]
struct Hand(AtomicU64);

impl crate::clock::Clock for Hand {
    fn now_ms(&self) -> u64 {
        0
    }

    fn monotonic_ns(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A store that is there and writes nothing.
struct Hangs;

impl Actor for Hangs {
    type Msg = StoreMsg;
    type State = Vec<StoreMsg>;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<StoreMsg>, (): ()) -> Result<Vec<StoreMsg>, ActorProcessingErr> {
        Ok(Vec::new())
    }

    async fn handle(
        &self,
        _: ActorRef<StoreMsg>,
        message: StoreMsg,
        held: &mut Vec<StoreMsg>,
    ) -> Result<(), ActorProcessingErr> {
        held.push(message);
        Ok(())
    }
}

#[tokio::test]
async fn an_event_that_is_late_because_the_disk_does_not_write_is_not_held_against_the_module() {
    let (actor, _) = Actor::spawn(None, Hangs, ()).await.unwrap();
    let hand = Arc::<Hand>::default();
    let args = HostArgs { clock: hand.clone(), ..args(NoState) };
    args.ports.store().bind(actor.clone());
    for (waits, is_at_fault) in [(Duration::from_secs(4), true), (Duration::from_secs(5), false)] {
        let mut host = HostState::new(&args, ModuleRecord::default());
        host.begin(&EventId::Block { chain_id: 1, number: 7, hash: Hash([7; 32]) });
        host.is_late(Duration::from_secs(10));
        assert_eq!(host.poisoned(), None, "it waits for nothing");
        local_store::Host::set(&mut Store::of(&mut host), "marker".into(), vec![1]).unwrap();
        let mut view = Store::of(&mut host);
        let mut flush = Box::pin(local_store::Host::flush(&mut view));
        assert!(flush.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        drop(flush);
        hand.0.fetch_add(u64::try_from(waits.as_nanos()).unwrap(), Ordering::Relaxed);
        host.is_late(Duration::from_secs(10));
        assert_eq!(host.poisoned().is_none(), is_at_fault, "{waits:?} of 10 s");
    }
    actor.stop_and_wait(None, None).await.unwrap();
}

/// A host at the beginning of an event that may make so many calls.
fn allowed(calls: u64) -> HostState {
    let limits = Arc::new(Limits { max_host_calls_per_event: calls, ..Limits::default() });
    let mut host = HostState::new(&HostArgs { limits, ..args(NoState) }, ModuleRecord::default());
    host.begin(&EventId::Block { chain_id: 1, number: 7, hash: Hash([7; 32]) });
    host
}

fn request(headers: Vec<Header>, body: Option<Vec<u8>>) -> Request {
    Request { method: "GET".into(), url: "https://b.org".into(), headers, body, timeout_ms: None }
}

const OVERDRAWN: &str = "more than 67108864 bytes of arguments to host calls in one event";

#[tokio::test]
async fn calls_over_the_limit_cost_what_they_bring() {
    const PART: usize = 4 << 20;
    let [mut fetches, mut requests, mut lookups] = [10, 10, 2].map(allowed);
    let network = instance_network::Host::instance_network(&mut lookups.lookups().sockets).unwrap().rep();
    for _ in 0..20 {
        fetching::Host::fetch(fetches.call(), request(Vec::new(), Some(vec![0; PART]))).await.unwrap_err();
        chain::Host::request(requests.call(), 1, "eth_call".into(), "x".repeat(PART)).await.unwrap_err();
        let (network, name) = (Resource::new_borrow(network), "n".repeat(PART));
        assert!(ip_name_lookup::Host::resolve_addresses(&mut lookups.lookups(), network, name).is_err());
    }
    for host in [fetches, requests, lookups] {
        assert_eq!(host.call.may_go_on().unwrap_err().to_string(), OVERDRAWN);
    }
}

#[tokio::test]
async fn parts_without_a_character_cost_what_they_take() {
    let [mut fetches, mut batches, mut effects] = [100, 100, 100].map(allowed);
    let headers = || vec![Header { name: String::new(), value: String::new() }; 30_000];
    for _ in 0..60 {
        fetching::Host::fetch(fetches.call(), request(headers(), None)).await.unwrap_err();
        let requests = (0..30_000).map(|_| chain::RpcRequest { method: String::new(), params: String::new() });
        chain::Host::request_batch(batches.call(), 1, requests.collect()).await.unwrap_err();
        let effect = HttpEffect { method: "POST".into(), url: "https://a.org".into(), headers: headers(), body: None };
        let options = outbox::Options { key: None, release: Release::Committed, lane: None };
        outbox::Host::send(&mut Outbox::of(&mut effects), Effect::Http(effect), options).unwrap_err();
    }
    for host in [fetches, batches, effects] {
        assert_eq!(host.call.may_go_on().unwrap_err().to_string(), OVERDRAWN);
    }
}

/// Values under every key, and a journal of which this much is left.
struct Journal {
    value_bytes: usize,
    newest: AtomicU64,
    room: u64,
}

impl StateView for Journal {
    fn get(&self, _: ModuleId, _: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(Some(vec![7; self.value_bytes]))
    }

    fn scan(&self, _: ModuleId, _: &str, _: Option<&str>, _: usize) -> Result<Entries, StoreError> {
        Ok(Vec::new())
    }

    fn journal_room(&self, _: ModuleId, _: u64) -> Result<JournalRoom, StoreError> {
        Ok(JournalRoom { newest: self.newest.load(Ordering::Relaxed), bytes: self.room })
    }
}

#[tokio::test]
async fn what_the_journal_refused_is_refused_in_a_replay_with_the_same_words() {
    /// What a guest is told that flushes too much, deletes half of it, and ends: of the flush, and of the event.
    async fn attempt(host: &mut HostState) -> [Result<(), String>; 3] {
        let said = |result: Result<(), HostError>| result.map_err(|error| error.message);
        for key in ["a", "b"] {
            local_store::Host::set(&mut Store::of(host), key.into(), vec![1]).unwrap();
        }
        let refused = said(local_store::Host::flush(&mut Store::of(host)).await);
        local_store::Host::set(&mut Store::of(host), "b".into(), vec![7; 100 << 10]).unwrap();
        let passed = said(host.check_journal());
        local_store::Host::delete(&mut Store::of(host), "c".into()).unwrap();
        [refused, passed, said(host.check_journal())]
    }
    let event = EventId::Block { chain_id: 1, number: 7, hash: Hash([7; 32]) };
    let journal = Journal { value_bytes: 100 << 10, newest: AtomicU64::new(u64::MAX), room: 150 << 10 };
    let taping = TapeMode::On(Default::default());
    let args = HostArgs { taping, ..args(journal) };
    let mut live = HostState::new(&args, ModuleRecord::default());
    live.begin(&event);
    let said = attempt(&mut live).await;
    let [Err(refused), Ok(()), Err(ended)] = &said else { panic!("{said:?}") };
    assert!(refused.starts_with("journal quota: these writes replace 204802 bytes"), "{refused}");
    assert!(refused.contains("would have 51202 more"), "{refused}");
    assert_eq!(refused, ended);

    let session = live.capture().unwrap().session;
    let (view, taping) = (Arc::new(RecordedView::new(&session)), TapeMode::Play(Arc::new(session)));
    let mut played =
        HostState::new(&HostArgs { ports: Ports::new(view.clone(), []), taping, ..args }, ModuleRecord::default());
    played.begin(&event);
    assert_eq!(attempt(&mut played).await, said);
    assert_eq!((view.missing(), played.capture().unwrap().missing), (Vec::new(), Vec::new()));
}

#[tokio::test]
async fn a_module_that_is_ahead_of_the_disk_finds_no_more_room_in_its_journal_than_one_that_waits() {
    const MIB: u64 = 1 << 20;
    let journal = Arc::new(Journal { value_bytes: MIB as usize, newest: AtomicU64::new(0), room: 16 * MIB });
    let args = over(journal.clone());
    let mut host = HostState::new(&args, ModuleRecord::default());
    let mut delete = |number: u64| {
        host.begin(&EventId::Block { chain_id: 1, number, hash: Hash([7; 32]) });
        local_store::Host::delete(&mut Store::of(&mut host), format!("key {number}")).unwrap();
        host.check_journal().map(|()| {
            let unit = host.seal(UnitKind::Handled, None, 0);
            host.send(unit);
        })
    };
    let passed = (1..=50).take_while(|number| delete(*number).is_ok()).count();
    assert_eq!(passed, 15, "sixteen with their keys are more than there was room for");
    // What the store counts is counted once.
    journal.newest.store(15, Ordering::Relaxed);
    delete(16).unwrap();
}

/// A host at the beginning of the event of a block.
fn at_block(number: u64) -> HostState {
    let mut host = HostState::new(&args(NoState), ModuleRecord::default());
    host.begin(&block(number));
    host
}

fn block(number: u64) -> EventId {
    EventId::Block { chain_id: 1, number, hash: Hash([7; 32]) }
}

fn moved_to(number: u64) -> Option<(SourceId, Cursor)> {
    Some((SourceId::new("chain:1"), Cursor::block(number, Hash([7; 32]))))
}

#[tokio::test]
async fn the_start_of_an_instance_belongs_to_init() {
    let mut host = HostState::new(&args(NoState), ModuleRecord::default());
    assert_eq!(host.unit.event_at_hand(), EventId::Init);
    assert_eq!(host.seal(UnitKind::Handled, None, 0).entry.event, EventId::Init);
}

#[tokio::test]
#[should_panic(expected = "no event is at hand")]
async fn an_event_has_one_unit_that_ends_it() {
    let mut host = at_block(7);
    let unit = host.seal(UnitKind::Handled, moved_to(7), 0);
    host.send(unit);
    host.seal(UnitKind::Handled, None, 0);
}

#[tokio::test]
#[should_panic(expected = "no event is at hand")]
async fn nothing_is_flushed_between_events() {
    let mut host = at_block(7);
    let unit = host.seal(UnitKind::Handled, moved_to(7), 0);
    host.send(unit);
    local_store::Host::set(&mut Store::of(&mut host), "marker".into(), vec![1]).unwrap();
    // It is refused before anything is asked of the store, which is not there.
    local_store::Host::flush(&mut Store::of(&mut host)).await.unwrap_err();
}

#[tokio::test]
#[should_panic(expected = "unit 1 does not follow unit 1")]
async fn a_unit_that_another_one_was_sealed_in_place_of_is_not_sent() {
    let mut host = at_block(7);
    let first = host.seal(UnitKind::Handled, moved_to(7), 0);
    host.begin(&block(8));
    let second = host.seal(UnitKind::Handled, moved_to(8), 0);
    host.send(second);
    host.send(first);
}

#[tokio::test]
#[should_panic(expected = "would take its source back")]
async fn a_block_before_those_that_were_handled_is_not_made_a_unit_of() {
    let mut host = at_block(8);
    let unit = host.seal(UnitKind::Handled, moved_to(8), 0);
    host.send(unit);
    host.begin(&block(7));
    host.seal(UnitKind::Handled, moved_to(7), 0);
}

/// Large values, and a journal of which nothing can be read.
struct Unreadable;

impl StateView for Unreadable {
    fn get(&self, _: ModuleId, _: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(Some(vec![7; 1 << 20]))
    }

    fn scan(&self, _: ModuleId, _: &str, _: Option<&str>, _: usize) -> Result<Entries, StoreError> {
        Ok(Vec::new())
    }

    fn journal_room(&self, _: ModuleId, _: u64) -> Result<JournalRoom, StoreError> {
        Err(StoreError::Failed("bad block".into()))
    }
}

#[tokio::test]
async fn an_event_whose_room_in_the_journal_cannot_be_read_fails_and_is_not_held_against_the_module() {
    let args = args(Unreadable);
    let mut host = HostState::new(&args, ModuleRecord::default());
    host.begin(&block(7));
    local_store::Host::delete(&mut Store::of(&mut host), "a".into()).unwrap();
    assert_eq!(host.check_journal().unwrap_err().message, "store: bad block");
    assert_eq!(host.poisoned(), Some("how much room the journal has cannot be read: store: bad block"));
}

#[tokio::test]
async fn a_query_reads_what_init_left_and_changes_nothing() {
    let args = args(NoState);
    let args = HostArgs { grants: Arc::new(args.grants.in_query()), ..args };
    let mut host = HostState::new(&args, ModuleRecord::default());
    host.hold_flushes(true);
    host.begin(&EventId::Init);
    local_store::Host::set(&mut Store::of(&mut host), "a".into(), vec![1]).unwrap();
    local_store::Host::flush(&mut Store::of(&mut host)).await.unwrap();
    host.begin_query();
    assert_eq!(local_store::Host::get(&mut Store::of(&mut host), "a".into()), Ok(Some(vec![1])));
    let write = local_store::Write::Delete("a".into());
    let refused = [
        local_store::Host::set(&mut Store::of(&mut host), "a".into(), vec![2]),
        local_store::Host::delete(&mut Store::of(&mut host), "a".into()),
        local_store::Host::apply(&mut Store::of(&mut host), vec![write]),
        local_store::Host::flush(&mut Store::of(&mut host)).await,
    ];
    for (refused, what) in refused.into_iter().zip(["set", "delete", "apply", "flush"]) {
        let error = refused.unwrap_err();
        assert_eq!(error.kind, HostErrorKind::Denied);
        assert!(error.message.starts_with(&format!("not in a query: `local-store.{what}`")), "{}", error.message);
    }
    assert_eq!(local_store::Host::get(&mut Store::of(&mut host), "a".into()), Ok(Some(vec![1])));
}

#[tokio::test]
async fn nothing_is_signed_in_a_query_by_the_way_of_a_chain() {
    let args = args(NoState);
    let identity = crate::interfaces::identity::CAPABILITY;
    let asked = crate::grants::AskedCapabilities { required: &[identity], optional: &[] };
    let granted = Grants::decide(asked, &[identity].into(), &[].into()).unwrap().with_chains([1]);
    let args = HostArgs { grants: Arc::new(granted.in_query()), ports: Ports::unbound([1]), ..args };
    let mut host = HostState::new(&args, ModuleRecord::default());
    for method in ["eth_sendTransaction", "personal_sign", "eth_signTypedData_v4", "eth_accounts"] {
        let error = chain::Host::request(host.call(), 1, method.into(), "[]".into()).await.unwrap_err();
        assert!(error.message.starts_with(&format!("not in a query: `{method}`")), "{}", error.message);
    }
}
