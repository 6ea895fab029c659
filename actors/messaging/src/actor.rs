//! The messaging actor: a mailbox that never waits, and what runs beside it.
//!
//! Invariant: each pull is one task, and each topic that somebody waits for another. Both end with the actor, and when the
//! module is forgotten. A task that ends in a panic ends the actor, so that whoever waited there asks again.

use std::{
    collections::{BTreeSet, HashMap},
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex},
};

use futures::FutureExt as _;
use nexum_host_ifaces::{
    HostError, HostErrorKind,
    clock::Clock,
    event::SourceId,
    failing::Failing,
    interfaces::messaging::port::{MessagePull, MessagingMsg, MessagingStatus},
    sync::lock,
};
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, RpcReplyPort, SpawnErr, concurrency::JoinHandle};
use tokio::{
    sync::{Semaphore, watch},
    task::{AbortHandle, JoinSet},
};

use crate::{
    live, metrics::MessagingMetrics, nodes::Nodes, pulls::Pulls, service::Service, settings::Settings, wire::error,
};

/// Messages that are published and queries, at once. Each may hold a message, or a reply.
const CALLS_MAX: usize = 64;

/// What a messaging actor is started with.
#[derive(Clone)]
pub struct Args {
    pub settings: Settings,
    pub clock: Arc<dyn Clock>,
    pub metrics: MessagingMetrics,
}

pub struct State {
    pulls: Arc<Pulls>,
    service: Arc<Service>,
    calls: Arc<Semaphore>,
    waiting: HashMap<(Arc<str>, SourceId), Waiting>,
    topics: HashMap<Arc<str>, Topic>,
    tasks: JoinSet<()>,
}

/// A pull, or the last one that there was.
struct Waiting {
    task: AbortHandle,
    topic: Arc<str>,
    failing: Arc<Mutex<Option<Failing>>>,
}

/// A topic that is listened to.
struct Topic {
    wakes: watch::Sender<u64>,
    live: AbortHandle,
    modules: BTreeSet<Arc<str>>,
}

pub struct MessagingActor;

/// Starts the messaging actor under `supervisor`. It connects to nodes when somebody asks.
pub async fn spawn(args: Args, supervisor: ActorCell) -> Result<(ActorRef<MessagingMsg>, JoinHandle<()>), SpawnErr> {
    Actor::spawn_linked(None, MessagingActor, args, supervisor).await
}

impl Actor for MessagingActor {
    type Msg = MessagingMsg;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, _: ActorRef<MessagingMsg>, args: Args) -> Result<State, ActorProcessingErr> {
        let Args { settings, clock, metrics } = args;
        let nodes = Arc::new(Nodes::new(settings.clone(), clock.clone(), metrics.clone())?);
        let service = Service::new(nodes.clone(), clock.clone(), metrics.clone());
        let pulls = Pulls { nodes, settings, clock, metrics, last_gap: Mutex::default() };
        Ok(State {
            pulls: Arc::new(pulls),
            service: Arc::new(service),
            calls: Arc::new(Semaphore::new(CALLS_MAX)),
            waiting: HashMap::new(),
            topics: HashMap::new(),
            tasks: JoinSet::new(),
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<MessagingMsg>,
        message: MessagingMsg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        // Those that are done; what ended in a panic has said so by itself.
        while state.tasks.try_join_next().is_some() {}
        match message {
            MessagingMsg::Publish { publish, reply } => {
                let work = |service: Arc<Service>| async move { service.publish(&publish).await };
                state.call(&myself, reply, work);
            }
            MessagingMsg::Query { query, reply } => {
                let work = |service: Arc<Service>| async move { service.query(&query).await };
                state.call(&myself, reply, work);
            }
            MessagingMsg::Pull(pull) => state.pull(&myself, *pull),
            MessagingMsg::Forget { module } => state.forget(&module),
            MessagingMsg::Status(reply) => {
                // Nobody to tell when the caller gave up.
                let _ = reply.send(state.status());
            }
            MessagingMsg::Broken => return Err("a task of messaging ended in a panic".into()),
        }
        Ok(())
    }
}

impl State {
    fn spawn(
        &mut self,
        myself: &ActorRef<MessagingMsg>,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> AbortHandle {
        let myself = myself.clone();
        self.tasks.spawn(async move {
            if AssertUnwindSafe(work).catch_unwind().await.is_err() {
                // An actor that is gone already has nobody waiting.
                let _ = myself.send_message(MessagingMsg::Broken);
            }
        })
    }

    fn pull(&mut self, myself: &ActorRef<MessagingMsg>, pull: MessagePull) {
        let key = (pull.module.clone(), pull.source.clone());
        let wakes = self.topic(myself, &pull.topic, &pull.module);
        let earlier = self.waiting.remove(&key);
        if let Some(earlier) = &earlier {
            earlier.task.abort();
        }
        // What has failed since then fails still, whoever asks.
        let failing = earlier.map_or_else(Arc::default, |earlier| earlier.failing);
        let (pulls, topic, told) = (self.pulls.clone(), pull.topic.clone(), failing.clone());
        let task = self.spawn(myself, async move { pulls.serve(&pull, wakes, &told).await });
        self.waiting.insert(key, Waiting { task, topic, failing });
    }

    /// Where it is heard that a topic has something new.
    fn topic(&mut self, myself: &ActorRef<MessagingMsg>, topic: &Arc<str>, module: &Arc<str>) -> watch::Receiver<u64> {
        if let Some(known) = self.topics.get_mut(topic) {
            known.modules.insert(module.clone());
            return known.wakes.subscribe();
        }
        let (wakes, heard) = watch::channel(0);
        let (pulls, name, sender) = (self.pulls.clone(), topic.clone(), wakes.clone());
        let interval = pulls.settings.live_interval;
        let live = self.spawn(myself, async move { live::listen(&pulls.nodes, name, interval, sender).await });
        self.topics.insert(topic.clone(), Topic { wakes, live, modules: [module.clone()].into() });
        heard
    }

    fn forget(&mut self, module: &Arc<str>) {
        for (_, waiting) in self.waiting.extract_if(|(waiting, _), _| waiting == module) {
            waiting.task.abort();
        }
        for (_, topic) in self.topics.extract_if(|_, topic| topic.modules.remove(module) && topic.modules.is_empty()) {
            topic.live.abort();
        }
    }

    /// Lets a call run beside the mailbox, and answers with what comes of it.
    fn call<T, F>(
        &mut self,
        myself: &ActorRef<MessagingMsg>,
        reply: RpcReplyPort<Result<T, HostError>>,
        work: impl FnOnce(Arc<Service>) -> F,
    ) where
        T: Send + 'static,
        F: Future<Output = Result<T, HostError>> + Send + 'static,
    {
        let Ok(room) = self.calls.clone().try_acquire_owned() else {
            let message = "so many messages are on their way already that no other is begun";
            let refused = error(HostErrorKind::RateLimited, message).with_data("1000");
            return answer(reply, Err(refused));
        };
        let work = work(self.service.clone());
        self.spawn(myself, async move {
            let done = work.await;
            drop(room);
            answer(reply, done);
        });
    }

    fn status(&self) -> MessagingStatus {
        let Pulls { nodes, metrics, last_gap, clock, .. } = &*self.pulls;
        let now_ns = clock.monotonic_ns();
        let wait = |((module, _), Waiting { topic, failing, .. }): (&(Arc<str>, SourceId), &Waiting)| {
            let failing = lock(failing);
            failing.as_ref()?.wait(Some(module), &format!("messages of topic {topic}"), now_ns)
        };
        let waits = self.waiting.iter().filter_map(wait).chain(self.service.wait(now_ns)).collect();
        MessagingStatus {
            nodes: nodes.status(),
            topics: self.topics.len(),
            published_total: metrics.published.get(),
            delivered_total: metrics.delivered.get(),
            gaps_total: metrics.gaps.get(),
            last_gap: lock(last_gap).clone(),
            waits,
        }
    }
}

fn answer<T: Send + 'static>(reply: RpcReplyPort<Result<T, HostError>>, answer: Result<T, HostError>) {
    // Nobody to tell when the caller gave up.
    let _ = reply.send(answer);
}
