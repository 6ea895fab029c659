//! An identity actor with a key, over a store in memory and under a clock that the test sets.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use nexum_host_ifaces::{
    Address, HostError,
    blocking::Blocking,
    clock::Clock,
    interfaces::identity::port::{
        Admission, Approval, AuditEntry, Fees, IdentityMsg, IdentityStatus, Purpose, SignatureAnswer,
        SignedTransaction, SigningPayload, TransactionRequest, UnsignedTransaction, Wei,
    },
    port::{Pending, Port},
    ports::Ports,
    store::{RECORD_BYTES_MAX, RECORDS_READ_BYTES_MAX, RecordWrite, Records, StoreError, StoreMsg},
    sync::lock,
};
use nexum_identity::{
    Args, IdentityMetrics, Policy, Settings,
    config::{AnyOf, Method, Selector, Target},
};
use prometheus::Registry;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tempfile::TempDir;
use zeroize::Zeroizing;

/// Far more than a loaded machine needs.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Whom the module pays.
pub const SHOP: Address = Address([0x35; 20]);
/// The key of the account, 32 times.
pub const KEY_BYTE: u8 = 0x46;

/// The account whose key is in the keystore.
pub fn account() -> Address {
    "0x9d8a62f656a8d1615c1294fd71e9cfb3e4855a4f".parse().unwrap()
}

/// Time stands until the test sets it.
#[derive(Default)]
pub struct StillClock(AtomicU64);

impl StillClock {
    pub fn set(&self, now_ms: u64) {
        self.0.store(now_ms, Ordering::SeqCst);
    }
}

impl Clock for StillClock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    fn monotonic_ns(&self) -> u64 {
        0
    }
}

/// What becomes of a write.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Writes {
    #[default]
    Kept,
    /// The disk is full.
    Refused,
    /// Kept, but whoever asked hears nothing.
    Unanswered,
}

/// What the store holds; it outlives the actors.
#[derive(Clone, Default)]
pub struct Disk {
    records: Arc<Mutex<BTreeMap<Vec<u8>, Vec<u8>>>>,
    writes: Arc<Mutex<Writes>>,
}

impl Disk {
    pub fn set(&self, writes: Writes) {
        *lock(&self.writes) = writes;
    }

    pub fn records(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        lock(&self.records).clone()
    }

    fn write(&self, writes: Vec<RecordWrite>) {
        let mut records = lock(&self.records);
        for RecordWrite { key, value } in writes {
            match value {
                Some(value) => records.insert(key, value),
                None => records.remove(&key),
            };
        }
    }

    fn read(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Records {
        let records = lock(&self.records);
        let is_wanted = |key: &[u8]| key.starts_with(prefix) && after.is_none_or(|after| key > after);
        let wanted = records.iter().filter(|(key, _)| is_wanted(key.as_slice()));
        wanted.take(limit).map(|(key, value)| (key.clone(), value.clone())).collect()
    }
}

struct StoreActor;

impl Actor for StoreActor {
    type Msg = StoreMsg;
    type State = Disk;
    type Arguments = Disk;

    async fn pre_start(&self, _: ActorRef<StoreMsg>, disk: Disk) -> Result<Disk, ActorProcessingErr> {
        Ok(disk)
    }

    async fn handle(
        &self,
        _: ActorRef<StoreMsg>,
        message: StoreMsg,
        disk: &mut Disk,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            StoreMsg::WriteRecords { service: "identity", writes, reply } => {
                let becomes = *lock(&disk.writes);
                // Nobody to tell when the caller gave up.
                match becomes {
                    Writes::Refused => {
                        let _ = reply.send(Err(StoreError::DiskFull("no space left".to_owned())));
                    }
                    Writes::Kept => {
                        disk.write(writes);
                        let _ = reply.send(Ok(()));
                    }
                    Writes::Unanswered => disk.write(writes),
                }
            }
            StoreMsg::Records { service: "identity", prefix, after, limit, reply } => {
                // A store refuses an answer that is larger.
                let bytes_max = if prefix == b"approval/" { RECORD_BYTES_MAX } else { 4 * 1_024 };
                assert!(limit * bytes_max <= RECORDS_READ_BYTES_MAX, "{limit} records at once");
                let _ = reply.send(Ok(disk.read(&prefix, after.as_deref(), limit)));
            }
            other => panic!("nobody asks the store this: {other:?}"),
        }
        Ok(())
    }
}

struct Parent;

impl Actor for Parent {
    type Msg = ();
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}

/// An actor, and what outlives it.
pub struct Harness {
    pub disk: Disk,
    pub clock: Arc<StillClock>,
    pub metrics: IdentityMetrics,
    pub port: Port<IdentityMsg>,
    registry: Registry,
    settings: Settings,
    ports: Arc<Ports>,
    store: ActorRef<StoreMsg>,
    actor: Option<ActorRef<IdentityMsg>>,
    _keys: TempDir,
}

impl Harness {
    /// With one key, and ready to sign.
    pub async fn start(policies: Vec<Policy>) -> Self {
        Self::with(Settings { policies, ..Settings::default() }).await
    }

    /// The same with more than that, such as remote signers.
    pub async fn with(settings: Settings) -> Self {
        let keys = TempDir::new().unwrap();
        let (name, path) = ("eth-account-empty.json", keys.path().join("key"));
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/keystores");
        fs::write(&path, fs::read(fixtures.join(name)).unwrap()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let (keystore, password) = (Some(keys.path().to_owned()), Some(Zeroizing::new(String::new())));
        let settings = Settings { keystore, password, ..settings };

        let (disk, ports, registry) = (Disk::default(), Ports::unbound([]), Registry::new());
        let (store, _) = Actor::spawn(None, StoreActor, disk.clone()).await.unwrap();
        ports.store().bind(store.clone());
        let metrics = IdentityMetrics::register(&registry).unwrap();
        let (clock, port) = (Arc::<StillClock>::default(), Port::new("identity"));
        let mut harness =
            Self { disk, clock, metrics, port, registry, settings, ports, store, actor: None, _keys: keys };
        harness.spawn().await;
        harness.ready().await;
        harness
    }

    async fn spawn(&mut self) {
        let (parent, _) = Actor::spawn(None, Parent, ()).await.unwrap();
        let args = Args {
            settings: self.settings.clone(),
            ports: self.ports.clone(),
            clock: self.clock.clone(),
            blocking: Blocking::Inline,
            metrics: self.metrics.clone(),
        };
        let (actor, _) = nexum_identity::spawn(args, parent.get_cell()).await.unwrap();
        self.port.bind(actor.clone());
        self.actor = Some(actor);
    }

    /// Kills the actor and starts another one over the same store.
    pub async fn restart(&mut self) {
        self.kill().await;
        self.spawn().await;
        self.ready().await;
    }

    /// The same with other policies.
    pub async fn restart_with(&mut self, policies: Vec<Policy>) {
        self.settings.policies = policies;
        self.restart().await;
    }

    async fn kill(&mut self) {
        let actor = self.actor.take().unwrap();
        actor.kill_and_wait(Some(PATIENCE)).await.unwrap();
    }

    /// Starts another actor, which finds no store.
    pub async fn restart_without_store(&mut self) {
        self.kill().await;
        self.take_store();
        self.spawn().await;
    }

    pub fn take_store(&self) {
        self.ports.store().unbind();
    }

    pub fn give_store(&self) {
        self.ports.store().bind(self.store.clone());
    }

    /// Waits until everything has been opened and read.
    pub async fn ready(&self) {
        eventually("ready", async || {
            let problems = self.status().await.problems;
            let opens = |problem: &String| problem.contains("being opened") || problem.contains("has not been read");
            (!problems.iter().any(opens)).then_some(()).ok_or_else(|| format!("{problems:?}"))
        })
        .await;
    }

    pub async fn ask<T: Send + 'static>(&self, build: impl FnOnce(RpcReplyPort<T>) -> IdentityMsg) -> T {
        self.port.call(PATIENCE, build).await.unwrap()
    }

    pub async fn send(&self, intent: &str, transaction: UnsignedTransaction) -> Result<SignedTransaction, HostError> {
        let (intent, transaction) = (intent.to_owned(), Box::new(transaction));
        self.ask(|reply| IdentityMsg::SignTransaction { module: "m".into(), intent, transaction, reply }).await
    }

    /// Signs a payment of so many wei.
    pub async fn pay(&self, intent: &str, value: u128) -> Result<SignedTransaction, HostError> {
        self.send(intent, unsigned(payment(value))).await
    }

    pub async fn admit(&self, intent: &str, value: u128) -> Result<Admission, HostError> {
        let (intent, request) = (intent.to_owned(), Box::new(payment(value)));
        self.ask(|reply| IdentityMsg::Admit { module: "m".into(), intent, request, reply }).await
    }

    pub async fn sign(&self, intent: Option<&str>, payload: SigningPayload) -> Result<SignatureAnswer, HostError> {
        self.begin_sign("m", account(), intent, payload).answer().await.unwrap()
    }

    /// The same by anybody with any account, without waiting.
    pub fn begin_sign(
        &self,
        module: &str,
        account: Address,
        intent: Option<&str>,
        payload: SigningPayload,
    ) -> Pending<Result<SignatureAnswer, HostError>> {
        let (module, intent) = (module.into(), intent.map(str::to_owned));
        self.port.ask(|reply| IdentityMsg::Sign { module, account, payload, intent, reply }).unwrap()
    }

    pub async fn decide(&self, number: u64, approve: bool) -> Result<Approval, HostError> {
        self.ask(|reply| IdentityMsg::Decide { number, approve, by: "me".to_owned(), reply }).await
    }

    pub async fn approvals(&self) -> Vec<Approval> {
        self.ask(|reply| IdentityMsg::Approvals { limit: 100, reply }).await.unwrap()
    }

    pub async fn audit(&self) -> Vec<AuditEntry> {
        self.ask(|reply| IdentityMsg::Audit { limit: 100, reply }).await.unwrap()
    }

    pub async fn accounts(&self, module: &str, chain_id: Option<u64>) -> Vec<Address> {
        let module = module.into();
        self.ask(|reply| IdentityMsg::Accounts { module, chain_id, reply }).await.unwrap()
    }

    pub async fn status(&self) -> IdentityStatus {
        self.ask(IdentityMsg::Status).await
    }

    /// All metrics as Prometheus reads them.
    pub fn metrics_text(&self) -> String {
        prometheus::TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap()
    }
}

/// Asks until there is an answer.
pub async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Result<T, String>) -> T {
    let mut last = String::new();
    let answered = tokio::time::timeout(PATIENCE, async {
        loop {
            match ask().await {
                Ok(answer) => break answer,
                Err(why) => last = why,
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    let answered = answered.await;
    answered.unwrap_or_else(|_| panic!("{what}: last {last}"))
}

/// Payments to the shop on chain 1: of 6 wei, and of 10 a day.
pub fn policy() -> Policy {
    Policy {
        methods: [Method::Transaction].into(),
        chains: AnyOf::Of(vec![1]),
        to: AnyOf::Of(vec![Target::Account(SHOP)]),
        selectors: AnyOf::Of(vec![Selector::Transfer]),
        max_value: Wei::from(6),
        max_value_per_day: Wei::from(10),
        max_fee_per_gas: Some(100),
        ..Policy::new("m", account())
    }
}

/// The same, and the operator decides on each.
pub fn asks() -> Policy {
    Policy { ask: true, ..policy() }
}

pub fn payment(value: u128) -> TransactionRequest {
    let (to, value) = (Some(SHOP), Wei::from(value));
    TransactionRequest { chain_id: 1, account: account(), to, value, data: Vec::new(), access_list: Vec::new() }
}

pub fn unsigned(request: TransactionRequest) -> UnsignedTransaction {
    let fees = Fees::Dynamic { max_fee_per_gas: 100, max_priority_fee_per_gas: 1 };
    UnsignedTransaction { request, nonce: 0, gas_limit: 21_000, fees, purpose: Purpose::Asked }
}

pub fn message(text: &str) -> SigningPayload {
    SigningPayload::Message(text.as_bytes().to_vec())
}
