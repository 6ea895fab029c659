//! A shared actor as its supervisor knows it: how it is started, and how it is asked how it is.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use nexum_admin_api::{
    health::{ChainHealthReport, ServiceHealthReport},
    state::ServiceState,
    tree::{ModuleFacts, Node, NodeKind},
};
use nexum_host_ifaces::port::Port;
use ractor::{ActorCell, ActorRef, Message, RpcReplyPort, SpawnErr};

type Started = Pin<Box<dyn Future<Output = Result<ActorCell, String>> + Send>>;
type Asked = BoxFuture<'static, Option<Status>>;

/// How a shared actor is started, now and after it died.
#[derive(Clone)]
pub struct ServiceSpec {
    pub name: String,
    /// Spawns the actor linked to the given supervisor and binds its port.
    pub start: Arc<dyn Fn(ActorCell) -> Started + Send + Sync>,
    /// Unbinds its port, so that callers see `unavailable` until it is back.
    pub unbind: Arc<dyn Fn() + Send + Sync>,
    /// How it gets into the tree; one without is not shown.
    pub status: Option<StatusSpec>,
}

impl ServiceSpec {
    /// A service whose actor is spawned by `spawn` and found behind `port`.
    pub fn new<M, F, S>(name: impl Into<String>, port: Port<M>, spawn: S) -> Self
    where
        M: Message,
        F: Future<Output = Result<ActorRef<M>, SpawnErr>> + Send + 'static,
        S: Fn(ActorCell) -> F + Send + Sync + 'static,
    {
        let bound = port.clone();
        let start = move |supervisor: ActorCell| {
            let (spawning, bound) = (spawn(supervisor), bound.clone());
            let started = async move {
                let actor = spawning.await.map_err(reason)?;
                let cell = actor.get_cell();
                bound.bind(actor);
                Ok(cell)
            };
            Box::pin(started) as _
        };
        Self { name: name.into(), start: Arc::new(start), unbind: Arc::new(move || port.unbind()), status: None }
    }

    /// The same, shown in the tree.
    #[must_use]
    pub fn with_status(self, status: StatusSpec) -> Self {
        Self { status: Some(status), ..self }
    }
}

/// What an actor that did not start said, without what ractor puts around it.
pub(crate) fn reason(error: SpawnErr) -> String {
    match error {
        SpawnErr::StartupFailed(error) => error.to_string(),
        other => other.to_string(),
    }
}

/// How a service is asked how it is, and where the answer stands in the tree.
#[derive(Clone)]
pub struct StatusSpec {
    /// The name of its node; chains are named by their numbers, and stand under a node of their own in that order.
    pub node: String,
    pub kind: NodeKind,
    /// Answers within the given time; with nothing, when the service does not.
    pub ask: Arc<dyn Fn(Duration) -> Asked + Send + Sync>,
}

impl StatusSpec {
    /// A service that is asked by one message, whose answer `shown` puts into words.
    pub fn new<M: Message, T: Send + 'static>(
        node: impl Into<String>,
        kind: NodeKind,
        port: Port<M>,
        message: fn(RpcReplyPort<T>) -> M,
        shown: impl Fn(T) -> Status + Send + Sync + 'static,
    ) -> Self {
        let shown = Arc::new(shown);
        let ask = move |deadline: Duration| -> Asked {
            let (port, shown) = (port.clone(), shown.clone());
            Box::pin(async move { Some(shown(port.call(deadline, message).await.ok()?)) })
        };
        Self { node: node.into(), kind, ask: Arc::new(ask) }
    }

    /// The number of a chain.
    pub(crate) fn chain_id(&self) -> Option<u64> {
        self.node.parse().ok().filter(|_| self.kind == NodeKind::Chain)
    }
}

/// Enters what a service knows of a module, by its name.
pub type Figures = Box<dyn Fn(&str, &mut ModuleFacts) + Send>;

/// How a service that answers is.
pub struct Status {
    /// One line for people.
    pub summary: String,
    pub state: ServiceState,
    pub children: Vec<Node>,
    /// What it knows of modules.
    pub modules: Option<Figures>,
    /// Of a chain: what health is judged by.
    pub chain: Option<ChainHealthReport>,
    /// Of another service: the same.
    pub waits: ServiceHealthReport,
}

impl Status {
    /// A service about which there is nothing more to say.
    pub fn up(summary: impl Into<String>) -> Self {
        let (summary, state) = (summary.into(), ServiceState::Up);
        let waits = ServiceHealthReport::default();
        Self { summary, state, children: Vec::new(), modules: None, chain: None, waits }
    }

    /// The same of a service that knows something of modules.
    #[must_use]
    pub fn with_modules(self, figures: impl Fn(&str, &mut ModuleFacts) + Send + 'static) -> Self {
        Self { modules: Some(Box::new(figures)), ..self }
    }
}
