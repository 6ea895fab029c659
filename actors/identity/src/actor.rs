//! The identity actor: a mailbox that never waits, and a bound on what runs at once.
//!
//! Invariant: nothing queues here. A request past a bound is refused as `rate-limited`; whoever wants it done tries again.

use std::{collections::HashMap, sync::Arc};

use nexum_host_ifaces::{
    HostError, HostErrorKind, blocking::Blocking, clock::Clock, interfaces::identity::port::IdentityMsg, ports::Ports,
};
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, RpcReplyPort, SpawnErr, concurrency::JoinHandle};
use tokio::{sync::Semaphore, task::JoinSet};

use crate::{
    book::refusal_error, config::Settings, metrics::IdentityMetrics, policy::Policies, request::error, service::Service,
};

/// Requests at once. Each may hold what is to be signed, and wait for a signer elsewhere.
const REQUESTS_MAX: usize = 256;
/// Of one module.
const MODULE_REQUESTS_MAX: usize = 64;

/// What an identity actor is started with.
#[derive(Clone)]
pub struct Args {
    pub settings: Settings,
    /// The way to the store.
    pub ports: Arc<Ports>,
    pub clock: Arc<dyn Clock>,
    /// Where key files are opened.
    pub blocking: Blocking,
    pub metrics: IdentityMetrics,
}

pub struct State {
    service: Arc<Service>,
    all: Arc<Semaphore>,
    modules: HashMap<Arc<str>, Arc<Semaphore>>,
    /// What runs ends with the actor: the next one reads what was written by then.
    tasks: JoinSet<()>,
}

pub struct IdentityActor;

/// Starts the identity actor under `supervisor`. It answers `unavailable` until the keys are open and the store has been read.
pub async fn spawn(args: Args, supervisor: ActorCell) -> Result<(ActorRef<IdentityMsg>, JoinHandle<()>), SpawnErr> {
    Actor::spawn_linked(None, IdentityActor, args, supervisor).await
}

impl Actor for IdentityActor {
    type Msg = IdentityMsg;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, _: ActorRef<IdentityMsg>, args: Args) -> Result<State, ActorProcessingErr> {
        let Args { mut settings, ports, clock, blocking, metrics } = args;
        let policies = Policies::new(std::mem::take(&mut settings.policies));
        let service = Arc::new(Service::new(policies, ports.store(), clock, blocking, metrics));
        let mut tasks = JoinSet::new();
        let opening = service.clone();
        tasks.spawn(async move { opening.open_signers(settings).await });
        let reading = service.clone();
        tasks.spawn(async move { reading.read_records().await });
        Ok(State { service, all: Arc::new(Semaphore::new(REQUESTS_MAX)), modules: HashMap::new(), tasks })
    }

    async fn handle(
        &self,
        _: ActorRef<IdentityMsg>,
        message: IdentityMsg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        while let Some(ended) = state.tasks.try_join_next() {
            if let Err(failed) = ended {
                // Whoever waits for its answer is told that there is none.
                tracing::error!("a request to identity ended in a panic: {failed}");
            }
        }
        state.handle(message);
        Ok(())
    }
}

impl State {
    fn handle(&mut self, message: IdentityMsg) {
        let service = self.service.clone();
        match message {
            IdentityMsg::Accounts { module, chain_id, reply } => {
                let accounts = service.policies().accounts(&module, chain_id);
                answer(reply, Ok(accounts.into_iter().collect()));
            }
            IdentityMsg::FeeCeiling { module, request, reply } => answer(reply, service.fee_ceiling(&module, &request)),
            IdentityMsg::Status(reply) => {
                // Nobody to tell when the caller gave up.
                let _ = reply.send(service.status());
            }
            IdentityMsg::Sign { module, account, payload, intent, reply } => {
                let work = |module: Arc<str>| async move { service.sign(&module, account, payload, intent).await };
                self.run(Some(module), reply, work);
            }
            IdentityMsg::FeedAccount { module, topic, reply } => {
                answer(reply, service.policies().feed_account(&module, topic).map_err(|why| refusal_error(why, 0)));
            }
            IdentityMsg::SignFeed { module, account, update, reply } => {
                let work = |module: Arc<str>| async move { service.sign_feed(&module, account, update).await };
                self.run(Some(module), reply, work);
            }
            IdentityMsg::Admit { module, intent, request, reply } => {
                let work = |module: Arc<str>| async move { service.admit(&module, &intent, &request).await };
                self.run(Some(module), reply, work);
            }
            IdentityMsg::SignTransaction { module, intent, transaction, reply } => {
                let work =
                    |module: Arc<str>| async move { service.sign_transaction(&module, &intent, &transaction).await };
                self.run(Some(module), reply, work);
            }
            IdentityMsg::Approvals { limit, reply } => {
                self.run(None, reply, |_| async move { service.approvals(limit).await });
            }
            IdentityMsg::Decide { number, approve, by, reply } => {
                self.run(None, reply, |_| async move { service.decide(number, approve, &by).await });
            }
            IdentityMsg::Audit { limit, reply } => {
                self.run(None, reply, |_| async move { service.audit(limit).await });
            }
        }
    }

    /// Lets the work run beside the mailbox, for a module or for the operator, and answers with what comes of it.
    fn run<T, F>(
        &mut self,
        module: Option<Arc<str>>,
        reply: RpcReplyPort<Result<T, HostError>>,
        work: impl FnOnce(Arc<str>) -> F,
    ) where
        T: Send + 'static,
        F: Future<Output = Result<T, HostError>> + Send + 'static,
    {
        let is_modules = module.is_some();
        let module = module.unwrap_or_default();
        let own = self.modules.entry(module.clone());
        let own = own.or_insert_with(|| Arc::new(Semaphore::new(MODULE_REQUESTS_MAX))).clone().try_acquire_owned();
        // Modules whose signer stands still do not keep the operator out.
        let all = is_modules.then(|| self.all.clone().try_acquire_owned()).transpose();
        // Modules come and go; what nobody uses is forgotten.
        self.modules.retain(|_, permits| permits.available_permits() < MODULE_REQUESTS_MAX);
        let (Ok(own), Ok(all)) = (own, all) else {
            let message = "so many signatures are being made already that no other is begun";
            let refused = error(HostErrorKind::RateLimited, message).with_data("1000");
            if is_modules {
                self.service.refused(&module, &refused);
            }
            return answer(reply, Err(refused));
        };
        let (service, work) = (self.service.clone(), work(module.clone()));
        self.tasks.spawn(async move {
            let done = work.await;
            if let (true, Err(refused)) = (is_modules, &done) {
                service.refused(&module, refused);
            }
            drop((own, all));
            answer(reply, done);
        });
    }
}

fn answer<T: Send + 'static>(reply: RpcReplyPort<Result<T, HostError>>, answer: Result<T, HostError>) {
    // Nobody to tell when the caller gave up.
    let _ = reply.send(answer);
}
