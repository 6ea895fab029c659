//! The remote-store actor: a mailbox that never waits, and a bound on what runs at once.
//!
//! Invariant: nothing queues here. A request past a bound is refused as `rate-limited`; whoever wants it done tries again.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::Arc,
    time::Duration,
};

use nexum_host_ifaces::{
    HostError, HostErrorKind,
    blocking::Blocking,
    clock::Clock,
    failing::Failing,
    interfaces::{
        chain::port::ChainWait,
        remote_store::port::{
            CONTENT_BYTES_MAX, NodeStatus, RemoteStoreMsg, RemoteStoreStatus, WAITS_FOR_OPERATOR, error,
        },
    },
    ports::Ports,
    secrets::shown_url,
};
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, RpcReplyPort, SpawnErr, concurrency::JoinHandle};
use tokio::{sync::Semaphore, task::JoinSet};

use crate::{client::Client, metrics::RemoteStoreMetrics, service::Service, watch};

/// What the operator says.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The first that works is asked, and the next one where it does not.
    pub nodes: Vec<NodeSettings>,
    pub limits: Limits,
    /// Whether a node answers an upload before the network has it.
    pub is_deferred: bool,
    /// Whether a node keeps what it uploads.
    pub pins: bool,
}

/// A Bee node.
#[derive(Clone, PartialEq, Eq)]
pub struct NodeSettings {
    pub url: String,
    /// 64 hex digits; absent on one that is only read from.
    pub batch: Option<String>,
}

impl fmt::Debug for NodeSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url, batch } = self;
        f.debug_struct("NodeSettings").field("url", &shown_url(url)).field("batch", batch).finish()
    }
}

/// The operator's bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Of one upload, download or update.
    pub content_bytes_max: usize,
    /// Of all modules at once; each may hold content of that size.
    pub requests_max: usize,
    /// Of one module at once.
    pub module_requests_max: usize,
    /// Requests to nodes at once.
    pub node_requests_max: usize,
    /// Chunks that are kept to be read again.
    pub cache_bytes_max: usize,
    /// One request to a node.
    pub timeout: Duration,
}

impl Limits {
    /// No more at once than can be counted.
    fn within_reach(self) -> Self {
        let within = |count: usize| count.min(Semaphore::MAX_PERMITS);
        Self {
            requests_max: within(self.requests_max),
            module_requests_max: within(self.module_requests_max),
            node_requests_max: within(self.node_requests_max),
            ..self
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            content_bytes_max: CONTENT_BYTES_MAX,
            requests_max: 16,
            module_requests_max: 4,
            node_requests_max: 32,
            cache_bytes_max: 32 * 1024 * 1024,
            timeout: Duration::from_secs(30),
        }
    }
}

/// What a remote-store actor is started with.
#[derive(Clone)]
pub struct Args {
    pub settings: Settings,
    /// The way to identity.
    pub ports: Arc<Ports>,
    pub clock: Arc<dyn Clock>,
    /// Where content is hashed.
    pub blocking: Blocking,
    pub metrics: RemoteStoreMetrics,
}

pub struct State {
    service: Arc<Service>,
    metrics: RemoteStoreMetrics,
    limits: Limits,
    all: Arc<Semaphore>,
    modules: HashMap<Arc<str>, Share>,
    /// What runs ends with the actor, and so does the look after batches.
    tasks: JoinSet<Option<Ended>>,
    clock: Arc<dyn Clock>,
    /// What modules have not got since, each in one way of asking.
    failing: BTreeMap<(Arc<str>, &'static str), Unmet>,
    requests_total: u64,
    errors_total: u64,
}

/// What one module has of the bounds.
struct Share {
    requests: Arc<Semaphore>,
    /// Chunks of all its downloads that are asked for at once: whatever they wait for, others have room.
    chunks: Arc<Semaphore>,
}

/// A request that has its answer.
struct Ended {
    module: Arc<str>,
    operation: &'static str,
    failed: Option<HostError>,
}

/// What a module has not got.
struct Unmet {
    failing: Failing,
    /// Whether it is up to the operator although a node answers.
    waits_for_operator: bool,
}

pub struct RemoteStoreActor;

/// Starts the remote-store actor under `supervisor`.
pub async fn spawn(args: Args, supervisor: ActorCell) -> Result<(ActorRef<RemoteStoreMsg>, JoinHandle<()>), SpawnErr> {
    Actor::spawn_linked(None, RemoteStoreActor, args, supervisor).await
}

impl Actor for RemoteStoreActor {
    type Msg = RemoteStoreMsg;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, _: ActorRef<RemoteStoreMsg>, args: Args) -> Result<State, ActorProcessingErr> {
        let Args { settings, ports, clock, blocking, metrics } = args;
        let limits = settings.limits.within_reach();
        let client = Client::new(&Settings { limits, ..settings }, clock.clone(), metrics.clone())?;
        let service = Arc::new(Service::new(client, limits, ports.of(), blocking, metrics.clone()));
        let mut tasks = JoinSet::new();
        let watched = service.clone();
        tasks.spawn(async move {
            watch::run(watched.client()).await;
            None
        });
        let all = Arc::new(Semaphore::new(limits.requests_max));
        let modules = HashMap::new();
        let failing = BTreeMap::new();
        Ok(State { service, metrics, limits, all, modules, tasks, clock, failing, requests_total: 0, errors_total: 0 })
    }

    async fn handle(
        &self,
        _: ActorRef<RemoteStoreMsg>,
        message: RemoteStoreMsg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        while let Some(ended) = state.tasks.try_join_next() {
            match ended {
                Ok(Some(ended)) => state.ended(ended),
                // A panic is the end of one request: whoever waits for its answer is told that there is none.
                Ok(None) | Err(_) => state.errors_total += 1,
            }
        }
        state.handle(message);
        Ok(())
    }
}

impl State {
    fn handle(&mut self, message: RemoteStoreMsg) {
        let service = self.service.clone();
        match message {
            RemoteStoreMsg::Upload { module, data, deadline, reply } => {
                self.run("upload", module, deadline, reply, move |_, _| async move { service.upload(data).await });
            }
            RemoteStoreMsg::Download { module, reference, bytes_max, deadline, reply } => {
                let work = move |_, chunks: Arc<Semaphore>| async move {
                    service.download(&reference, bytes_max, &chunks).await
                };
                self.run("download", module, deadline, reply, work);
            }
            RemoteStoreMsg::ReadFeed { module, owner, topic, bytes_max, deadline, reply } => {
                let work = move |_, chunks: Arc<Semaphore>| async move {
                    service.read_feed(owner, topic, bytes_max, &chunks).await
                };
                self.run("read-feed", module, deadline, reply, work);
            }
            RemoteStoreMsg::WriteFeed { module, topic, data, again, deadline, reply } => {
                let work =
                    move |module: Arc<str>, _| async move { service.write_feed(&module, topic, data, again).await };
                self.run("write-feed", module, deadline, reply, work);
            }
            RemoteStoreMsg::Status(reply) => {
                let now_ns = self.clock.monotonic_ns();
                let nodes = service.client().status(now_ns);
                let status = RemoteStoreStatus {
                    // One task looks after the nodes.
                    in_flight: self.tasks.len().saturating_sub(1),
                    requests_total: self.requests_total,
                    errors_total: self.errors_total,
                    cached_bytes: service.cached_bytes(),
                    waits: self.waits(&nodes, now_ns),
                    nodes,
                };
                // Nobody to tell when the caller gave up.
                let _ = reply.send(status);
            }
        }
    }

    fn ended(&mut self, Ended { module, operation, failed }: Ended) {
        self.errors_total += u64::from(failed.is_some());
        let now_ns = self.clock.monotonic_ns();
        let earlier = self.failing.remove(&(module.clone(), operation));
        if let Some(HostError { message, data, .. }) =
            failed.filter(|failed| matches!(failed.kind, HostErrorKind::Unavailable | HostErrorKind::Timeout))
        {
            self.failing.retain(|_, unmet| unmet.failing.is_recent(now_ns));
            let failing = Failing::again(earlier.map(|unmet| unmet.failing), now_ns, message);
            let waits_for_operator = data.is_some_and(|data| WAITS_FOR_OPERATOR.contains(&&*data));
            self.failing.insert((module, operation), Unmet { failing, waits_for_operator });
        }
    }

    /// What modules wait for: as long as the operator has to do something, or no node is of use. What one module asks for
    /// may fail while the nodes work.
    fn waits(&self, nodes: &[NodeStatus], now_ns: u64) -> Vec<ChainWait> {
        let down_ms = nodes.iter().map(|node| node.down_ms).min().flatten();
        let wait = |((module, operation), unmet): (&(Arc<str>, &'static str), &Unmet)| {
            let mut wait = unmet.failing.wait(Some(module), &format!("an answer to {operation}"), now_ns)?;
            if !unmet.waits_for_operator {
                wait.age_ms = wait.age_ms.min(down_ms?);
            }
            Some(wait)
        };
        self.failing.iter().filter_map(wait).collect()
    }

    /// Lets the work run beside the mailbox, within its deadline, and answers with what comes of it.
    fn run<T, F>(
        &mut self,
        operation: &'static str,
        module: Arc<str>,
        deadline: Duration,
        reply: RpcReplyPort<Result<T, HostError>>,
        work: impl FnOnce(Arc<str>, Arc<Semaphore>) -> F,
    ) where
        T: Send + 'static,
        F: Future<Output = Result<T, HostError>> + Send + 'static,
    {
        self.requests_total += 1;
        let metrics = self.metrics.clone();
        let own_max = self.limits.module_requests_max;
        let chunks_max = (self.limits.node_requests_max / 2).max(1);
        let share =
            || Share { requests: Arc::new(Semaphore::new(own_max)), chunks: Arc::new(Semaphore::new(chunks_max)) };
        let share = self.modules.entry(module.clone()).or_insert_with(share);
        let (own, chunks) = (share.requests.clone().try_acquire_owned(), share.chunks.clone());
        let all = self.all.clone().try_acquire_owned();
        // Modules come and go; what nobody uses is forgotten.
        self.modules.retain(|_, share| share.requests.available_permits() < own_max);
        let (Ok(own), Ok(all)) = (own, all) else {
            self.errors_total += 1;
            let message = format!(
                "so many requests are under way already that no other is begun: at most {own_max} of one module, and {} in all",
                self.limits.requests_max
            );
            metrics.ended(operation, HostErrorKind::RateLimited.name());
            // Nobody to tell when the caller gave up.
            let _ = reply.send(Err(error(HostErrorKind::RateLimited, message).with_data("1000")));
            return;
        };
        let work = work(module.clone(), chunks);
        self.tasks.spawn(async move {
            let done = tokio::time::timeout(deadline, work).await.unwrap_or_else(|_| {
                let message = format!("no end within {deadline:?}: the nodes are slow, or the content is large");
                Err(error(HostErrorKind::Timeout, message).with_data("slow"))
            });
            metrics.ended(operation, done.as_ref().map_or_else(|error| error.kind.name(), |_| "ok"));
            let failed = done.as_ref().err().cloned();
            drop((own, all));
            // Nobody to tell when the caller gave up.
            let _ = reply.send(done);
            Some(Ended { module, operation, failed })
        });
    }
}
