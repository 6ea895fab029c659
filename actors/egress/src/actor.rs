//! The egress actor: one client for all, and a bound on what runs at once.
//!
//! Invariant: nothing queues here. A request past a bound is refused as `rate-limited` and counted; whoever wants it
//! done tries again.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use nexum_host_ifaces::{
    HostError, HostErrorKind,
    clock::Clock,
    interfaces::http::port::{EgressMsg, EgressStatus, Fetch, Response},
};
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, RpcReplyPort, SpawnErr, concurrency::JoinHandle};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
};

use crate::{
    client::{self, Client},
    credentials::{Credentials, ReadCredentials},
    dial::Gate,
    ledger::Ledger,
    metrics::EgressMetrics,
    names::Resolver,
    networks::Rules,
    proxy::Proxy,
    tls::Roots,
};

/// The operator's bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EgressLimits {
    /// Requests of all modules at once, and so connections; each may hold a body of `response_bytes_max`.
    pub requests_max: usize,
    /// Requests of one module at once.
    pub module_requests_max: usize,
    /// Body of one answer, bytes.
    pub response_bytes_max: usize,
}

impl Default for EgressLimits {
    fn default() -> Self {
        Self { requests_max: 128, module_requests_max: 16, response_bytes_max: 8 * 1024 * 1024 }
    }
}

/// Asked at every start what vouches for servers. The system's store is then read to its end: `Err` says why it must
/// not be, since it is no file or too large, or what is wrong with the certificates that take its place.
pub type Certificates = Arc<dyn Fn() -> Result<Roots, String> + Send + Sync>;

/// What an egress actor is started with.
#[derive(Clone)]
pub struct Args {
    pub limits: EgressLimits,
    pub clock: Arc<dyn Clock>,
    pub metrics: EgressMetrics,
    /// Looks up the hosts of requests. The same one for every actor: what hangs there outlives an actor.
    pub names: Arc<Resolver>,
    /// Where the engine itself listens: no request goes there. Each holds from the next request on.
    pub listeners: watch::Receiver<Vec<SocketAddr>>,
    pub certificates: Certificates,
    /// Which hosts and networks no module reaches.
    pub rules: Arc<Rules>,
    /// All requests go through it.
    pub proxy: Option<Proxy>,
    /// What the operator has requests leave with.
    pub credentials: ReadCredentials,
}

pub struct State {
    args: Args,
    client: Client,
    all: Arc<Semaphore>,
    modules: HashMap<Arc<str>, Arc<Semaphore>>,
    requests: JoinSet<bool>,
    requests_total: u64,
    errors_total: u64,
}

pub struct EgressActor;

/// Starts the egress actor under `supervisor`.
pub async fn spawn(args: Args, supervisor: ActorCell) -> Result<(ActorRef<EgressMsg>, JoinHandle<()>), SpawnErr> {
    Actor::spawn_linked(None, EgressActor, args, supervisor).await
}

impl Actor for EgressActor {
    type Msg = EgressMsg;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, _: ActorRef<EgressMsg>, args: Args) -> Result<State, ActorProcessingErr> {
        let gate = Gate {
            names: args.names.clone(),
            listeners: args.listeners.clone(),
            rules: args.rules.clone(),
            proxy: args.proxy.clone(),
        };
        let ledger = Arc::new(Ledger::new(args.clock.clone()));
        let credentials = Credentials::new((args.credentials)(), args.clock.clone());
        let client = Client::new(gate, ledger, (args.certificates)(), credentials)?;
        if let Some(cause) = client.no_tls() {
            tracing::error!(
                "requests over https fail, because TLS cannot be set up: {cause}; put the certificates right ([egress] \
                 ca_file, or the system's store and SSL_CERT_FILE), then `nexumctl service restart egress`"
            );
        }
        Ok(State {
            client,
            all: Arc::new(Semaphore::new(args.limits.requests_max)),
            modules: HashMap::new(),
            requests: JoinSet::new(),
            requests_total: 0,
            errors_total: 0,
            args,
        })
    }

    async fn handle(
        &self,
        _: ActorRef<EgressMsg>,
        message: EgressMsg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        state.reap();
        match message {
            EgressMsg::Fetch { fetch, reply } => state.fetch(*fetch, reply),
            EgressMsg::Status(reply) => {
                let status = EgressStatus {
                    in_flight: state.requests.len(),
                    requests_total: state.requests_total,
                    errors_total: state.errors_total,
                    origins: state.client.ledger.status(),
                };
                // Nobody to tell when the caller gave up.
                let _ = reply.send(status);
            }
        }
        Ok(())
    }
}

impl State {
    /// Takes note of requests that have ended.
    fn reap(&mut self) {
        while let Some(ended) = self.requests.try_join_next() {
            // A panic is the end of one request: whoever waits for its answer is told that there is none.
            self.errors_total += u64::from(!ended.unwrap_or(false));
        }
    }

    fn fetch(&mut self, fetch: Fetch, reply: RpcReplyPort<Result<Response, HostError>>) {
        self.requests_total += 1;
        let permits = match self.admit(&fetch.module) {
            Ok(permits) => permits,
            Err(error) => {
                self.errors_total += 1;
                self.args.metrics.end(&self.args.metrics.begin(&fetch.module), error.kind.name());
                // Nobody to tell when the caller gave up.
                let _ = reply.send(Err(error));
                return;
            }
        };
        let (client, limit) = (self.client.clone(), self.args.limits.response_bytes_max);
        let (clock, metrics) = (self.args.clock.clone(), self.args.metrics.clone());
        let counted = metrics.begin(&fetch.module);
        self.requests.spawn(async move {
            let _flying = Flying::new(&metrics);
            let started_ns = clock.monotonic_ns();
            let answer = client::fetch(&client, fetch, limit).await;
            metrics.duration.observe(clock.monotonic_ns().saturating_sub(started_ns) as f64 / 1e9);
            let result = match &answer {
                Ok(response) => format!("{}xx", response.status / 100),
                Err(error) => error.kind.name().to_owned(),
            };
            metrics.end(&counted, &result);
            let answered = answer.is_ok();
            drop(permits);
            let _ = reply.send(answer);
            answered
        });
    }

    fn admit(&mut self, module: &Arc<str>) -> Result<[OwnedSemaphorePermit; 2], HostError> {
        let refused = |message: String| HostError::new("http", HostErrorKind::RateLimited, message).with_data("1000");
        let limits = self.args.limits;
        let own = self.modules.entry(module.clone());
        let own = own.or_insert_with(|| Arc::new(Semaphore::new(limits.module_requests_max))).clone();
        let own = own.try_acquire_owned().map_err(|_| {
            refused(format!(
                "{} requests of module {module} are under way, which is the limit",
                limits.module_requests_max
            ))
        })?;
        let all = self.all.clone().try_acquire_owned();
        let all =
            all.map_err(|_| refused(format!("{} requests are under way, which is the limit", limits.requests_max)))?;
        // Modules come and go; what nobody uses is forgotten.
        self.modules.retain(|_, permits| permits.available_permits() < limits.module_requests_max);
        Ok([own, all])
    }
}

/// Counts a request as under way until it is dropped, however it ends.
struct Flying(prometheus::IntGauge);

impl Flying {
    fn new(metrics: &EgressMetrics) -> Self {
        metrics.in_flight.inc();
        Self(metrics.in_flight.clone())
    }
}

impl Drop for Flying {
    fn drop(&mut self) {
        self.0.dec();
    }
}
