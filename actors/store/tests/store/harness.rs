//! A store in a temporary directory with its actor, and modules that make units for it.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use nexum_host_ifaces::{
    Hash,
    clock::{Clock, SystemClock},
    event::{Cursor, EventId, SourceId},
    ledger::{Ledger, UnitParts},
    outbox::{Effect, EffectEntry, HttpEffect, Release},
    store::{DeadLetter, EventUnit, Fork, ModuleInfo, Reply, Rewound, StateChange, StoreError, StoreMsg, UnitKind},
    types::{BlockRef, Event, Reorg, Tick},
};
use nexum_store::{Args, Options, Store};
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent, rpc::CallResult};
use tempfile::TempDir;

/// Far more than any call takes; only a hang meets it.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn options() -> Options {
    Options::new(Arc::new(SystemClock::new()), prometheus::Registry::new())
}

/// A clock that moves on only when it is told to.
#[derive(Default)]
pub struct Hands(AtomicU64);

impl Hands {
    pub fn pass(&self, time: Duration) {
        self.0.fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
    }
}

impl Clock for Hands {
    fn now_ms(&self) -> u64 {
        1_700_000_000_000
    }

    fn monotonic_ns(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A supervisor that lets its children die and keeps what they leave.
pub struct Parent;

impl Actor for Parent {
    type Msg = ();
    type State = Vec<SupervisionEvent>;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<Vec<SupervisionEvent>, ActorProcessingErr> {
        Ok(Vec::new())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<()>,
        event: SupervisionEvent,
        events: &mut Vec<SupervisionEvent>,
    ) -> Result<(), ActorProcessingErr> {
        events.push(event);
        Ok(())
    }
}

pub struct Harness {
    pub store: Arc<Store>,
    pub actor: ActorRef<StoreMsg>,
    parent: (ActorRef<()>, ractor::concurrency::JoinHandle<()>),
    handle: ractor::concurrency::JoinHandle<()>,
}

impl Harness {
    pub async fn open(directory: &Path) -> Self {
        Self::open_with(directory, &options()).await
    }

    pub async fn open_with(directory: &Path, options: &Options) -> Self {
        Self::start(Store::open(directory, options).unwrap()).await
    }

    pub async fn start(store: Arc<Store>) -> Self {
        let parent = Actor::spawn(None, Parent, ()).await.unwrap();
        Self::start_under(store, parent).await
    }

    async fn start_under(store: Arc<Store>, parent: (ActorRef<()>, ractor::concurrency::JoinHandle<()>)) -> Self {
        let (actor, handle) = nexum_store::spawn(Args { store: store.clone() }, parent.0.get_cell()).await.unwrap();
        Self { store, actor, parent, handle }
    }

    /// Lets the actor handle what it was sent, stops it, waits for it, and leaves the store.
    pub async fn stop(self) -> Arc<Store> {
        self.actor.drain().unwrap();
        tokio::time::timeout(PATIENCE, self.handle).await.unwrap().unwrap();
        let (parent, parent_handle) = self.parent;
        parent.stop(None);
        tokio::time::timeout(PATIENCE, parent_handle).await.unwrap().unwrap();
        self.store
    }

    /// Kills the actor in mid-life and starts another. What the dead one left stays with the supervisor.
    pub async fn restart(self) -> Self {
        self.actor.kill();
        tokio::time::timeout(PATIENCE, self.handle).await.unwrap().unwrap();
        Self::start_under(self.store, self.parent).await
    }

    /// Waits for the actor's own end and starts another.
    pub async fn follow(self) -> Self {
        tokio::time::timeout(PATIENCE, self.handle).await.unwrap().unwrap();
        Self::start_under(self.store, self.parent).await
    }

    /// Stops the actor and closes the database.
    pub async fn close(self) {
        let store = self.stop().await;
        assert_eq!(Arc::strong_count(&store), 1, "somebody still holds the store");
    }

    pub async fn ask<T: Send + 'static>(&self, build: impl FnOnce(Reply<T>) -> StoreMsg) -> Result<T, StoreError> {
        match self.actor.call(build, Some(PATIENCE)).await.unwrap() {
            CallResult::Success(answer) => answer,
            other => panic!("no answer: {}", matches!(other, CallResult::Timeout)),
        }
    }

    pub async fn module(&self, name: &str) -> Module {
        let name = Arc::from(name);
        Module::new(self.ask(|reply| StoreMsg::Open { name, reply }).await.unwrap())
    }

    /// Takes back the units after one that handled the block of its own number, and the module with them.
    pub async fn rewind(&self, module: &mut Module, to_seq: u64) -> Result<Option<Rewound>, StoreError> {
        let rewound = self.ask(|reply| rewind(module, to_seq, reply)).await?;
        if let Some(rewound) = &rewound {
            module.ledger.adopt(rewound.record.clone());
        }
        Ok(rewound)
    }

    pub async fn commit(&self, unit: EventUnit) -> Result<(), StoreError> {
        self.ask(|reply| StoreMsg::Commit { units: vec![unit], reply }).await
    }

    /// Commits and moves the module on.
    pub async fn handle(&self, module: &mut Module, changes: Vec<StateChange>) {
        let unit = module.unit(changes);
        let record = unit.record.clone();
        self.commit(unit).await.unwrap();
        module.ledger.adopt(record);
    }
}

/// A module as its actor sees it.
pub struct Module {
    pub name: String,
    pub ledger: Ledger,
    pub info: ModuleInfo,
}

impl Module {
    pub fn new(info: ModuleInfo) -> Self {
        let ledger = Ledger { module: info.id, component: Hash([7; 32]), record: info.record.clone() };
        Self { name: info.name.clone(), ledger, info }
    }

    pub fn outcome(&self, changes: Vec<StateChange>) -> UnitParts {
        let number = self.ledger.record.seq + 1;
        let size = |key: &str, value: &Option<Vec<u8>>| value.as_ref().map_or(0, |value| key.len() + value.len());
        let mut state_bytes = self.ledger.record.state_bytes;
        for StateChange { key, new, old } in &changes {
            state_bytes = state_bytes - size(key, old) as u64 + size(key, new) as u64;
        }
        let hash = Hash([number as u8; 32]);
        UnitParts {
            kind: UnitKind::Handled,
            event: EventId::Block { chain_id: 1, number, hash },
            moved: Some((SourceId::new("chain:1"), Cursor::block(number, hash))),
            at_ms: number,
            fuel: 1,
            changes,
            state_bytes,
            effects: Vec::new(),
        }
    }

    pub fn unit(&self, changes: Vec<StateChange>) -> EventUnit {
        self.ledger.seal(self.outcome(changes))
    }

    /// A unit that sends its event to the dead letters.
    pub fn quarantine(&self) -> EventUnit {
        let outcome = UnitParts { kind: UnitKind::Quarantined, ..self.outcome(Vec::new()) };
        let mut unit = self.ledger.seal(outcome);
        unit.quarantined = Some(Box::new(DeadLetter {
            seq: unit.entry.seq,
            at_ms: 1,
            id: unit.entry.event.clone(),
            event: Event::Tick(Tick { fired_at: unit.entry.seq }),
            component: unit.entry.component,
            attempts: 3,
            error: "it cannot".into(),
            backtrace: None,
            fuel: 9,
        }));
        unit
    }
}

/// The order for it.
pub fn rewind(module: &Module, to_seq: u64, reply: Reply<Option<Rewound>>) -> StoreMsg {
    let block = BlockRef { number: to_seq, hash: vec![to_seq as u8; 32] };
    let (old_head, new_head) = (Hash([1; 32]), Hash([2; 32]));
    let fork = Box::new(Fork {
        source: SourceId::new("chain:1"),
        ancestor: (to_seq, Hash([to_seq as u8; 32])),
        event: EventId::Reorg { chain_id: 1, old_head, new_head, nth: 1 },
        reorg: Reorg {
            chain_id: 1,
            common_ancestor: block.clone(),
            old_head: block.clone(),
            new_head: block,
            released_effects: vec![],
        },
    });
    StoreMsg::Rewind { module: module.info.id, fork, reply }
}

/// One write; what it replaces is given.
pub fn put(key: &str, value: &str, old: Option<&str>) -> StateChange {
    StateChange { key: key.into(), new: Some(value.into()), old: old.map(Into::into) }
}

/// An effect with this id.
pub fn effect(id: &str) -> EffectEntry {
    EffectEntry {
        id: id.into(),
        key: format!("key of {id}"),
        lane: None,
        release: Release::Committed,
        block: None,
        sent_at_ms: 1,
        effect: Effect::Http(HttpEffect {
            method: "POST".into(),
            url: "https://hooks.example.org/secret".into(),
            headers: Vec::new(),
            body: Some(b"body".to_vec()),
        }),
    }
}

pub fn directory() -> TempDir {
    TempDir::new().unwrap()
}
