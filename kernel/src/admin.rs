//! The admin port of the kernel: what an operator can ask and order. The answers are those of `nexum-admin-api`.
//!
//! Reads of the store (dead letters, state) go to the store's own port; here is what needs the supervisor tree.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use nexum_admin_api::state::ModuleState;
pub use nexum_admin_api::{
    health::{ChainHealthReport, Health, ModuleHealthReport},
    orders::{Drained, ModuleSpec, Outstanding, ResyncOrder, ResyncTo, Resynced, Upgraded},
    tree::{Budget, GrantReport, ModuleFacts, ModuleWait, Node, NodeKind, ServiceReport},
};
pub use nexum_host_ifaces::interfaces::chain::port::ChainWait;
use nexum_host_ifaces::{HostError, store::StoreError};
use ractor::RpcReplyPort;
use serde::{Deserialize, Serialize};

use crate::query::Question;

/// Why an order was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum AdminError {
    #[error("no module `{0}` is loaded")]
    UnknownModule(String),
    #[error("a module named `{0}` is loaded already")]
    AlreadyLoaded(String),
    #[error("module `{module}` is {state}: {hint}")]
    WrongState { module: String, state: String, hint: String },
    /// The artifact, manifest or grants are wrong; the message names file and line.
    #[error("{0}")]
    Load(String),
    #[error("no service `{0}`: `nexumctl service list` names them")]
    UnknownService(String),
    #[error("module `{module}` has no dead letter {seq}")]
    UnknownDeadLetter { module: String, seq: u64 },
    #[error("the new version of `{module}` may reach more than the running one ({beyond}): say --allow-capabilities")]
    NeedsApproval { module: String, beyond: String },
    /// The same when nobody named a bundle: the one that the module came from has changed.
    #[error(
        "the bundle of `{module}` has changed and may reach more than what runs ({beyond}): if it shall, say \
         `nexumctl module upgrade {module} --allow-capabilities`"
    )]
    RestartNeedsApproval { module: String, beyond: String },
    #[error("`{module}` goes on as it was; the new version was refused: {reason}")]
    NotUpgraded { module: String, reason: String },
    /// The module could not handle the event of a dead letter this time either.
    #[error("it failed again: {0}")]
    FailedAgain(String),
    #[error("module `{module}` has no effect `{id}` that waits: `nexumctl outbox list {module}` names them")]
    UnknownEffect { module: String, id: String },
    #[error("module `{0}` answers no queries: its component has no export `query`")]
    NoQueries(String),
    /// There is no room for a query now.
    #[error("{0}")]
    Busy(String),
    #[error("module `{module}` did not answer: {reason}")]
    NoAnswer { module: String, reason: String },
    #[error("module `{module}` did not answer in time: {reason}")]
    LateAnswer { module: String, reason: String },
    /// What was asked for cannot be; everything is as it was.
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Unavailable(String),
}

impl AdminError {
    /// The order would take a module out of DEAD, which `module restart` alone does.
    pub(crate) fn dead(module: &str) -> Self {
        let hint =
            format!("its budget was spent before the order could be carried out; `nexumctl module restart {module}`");
        Self::WrongState { module: module.to_owned(), state: ModuleState::Dead.name().to_owned(), hint }
    }
}

pub type AdminReply<T> = RpcReplyPort<Result<T, AdminError>>;

/// Orders and questions for the running kernel. Every message must be answered.
#[derive(Debug)]
pub enum AdminMsg {
    Tree(RpcReplyPort<Node>),
    Health(RpcReplyPort<Health>),
    /// Carried out by the supervisor of modules.
    Modules(ModulesOrder),
    /// Carried out by the outbox.
    Effects(EffectOrder),
    Services(RpcReplyPort<Vec<ServiceReport>>),
    /// Stop a shared actor, so that its supervisor starts it afresh; `kill` ends it as a bug would, and counts so.
    RestartService {
        service: String,
        kill: bool,
        reply: AdminReply<()>,
    },
    /// Stop a module from pulling, let it finish the event in flight, and leave it paused. Without a name: every module,
    /// until it is resumed or the engine is started again. Waits for the effects that could go out, too. The reply comes
    /// within `deadline`.
    Drain {
        module: Option<String>,
        deadline: Duration,
        reply: AdminReply<Drained>,
    },
    /// Stop everything in order: modules finish the event in flight, the store syncs. Answers what could not finish.
    Shutdown {
        reply: RpcReplyPort<Vec<String>>,
    },
}

impl AdminMsg {
    /// An order about one module, which is answered once its actor has stopped.
    pub fn order(module: impl Into<String>, order: Order, reply: AdminReply<()>) -> Self {
        Self::Modules(ModulesOrder::One { module: module.into(), order, reply })
    }
}

/// Orders about modules. Every one must be answered.
#[derive(Debug)]
pub enum ModulesOrder {
    /// Load a module now, and at the next start. Answers its name.
    Load { spec: Box<ModuleSpec>, reply: AdminReply<String> },
    /// Answered once the module's actor has stopped.
    One { module: String, order: Order, reply: AdminReply<()> },
    /// Put another version in the place of a module, if its `init` succeeds on the module's state. Answered once it is known
    /// which version runs.
    Upgrade { wanted: Wanted, reply: AdminReply<Upgraded> },
    /// Put a module onto the endpoint's chain, when it cannot find its way itself. Answers where it goes on, once the
    /// module's next actor has carried it out.
    Resync { module: String, order: ResyncOrder, reply: AdminReply<Resynced> },
    /// Deliver a dead letter again; it is removed when the module handles it.
    RetryDeadLetter { module: String, seq: u64, reply: AdminReply<()> },
    /// Remove everything that the store keeps about a module that is not loaded.
    Purge { module: String, reply: AdminReply<Result<(), StoreError>> },
    /// Let every paused module go on. Answers their names.
    ResumeAll(AdminReply<Vec<String>>),
    /// Ask a module about its state, whatever it is at. Answers JSON text, or what the module says instead.
    Query { module: String, question: Question, reply: AdminReply<Result<String, HostError>> },
}

/// What may become of a module by order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Stop after the event in flight and be forgotten; its state stays in the store.
    Unload,
    /// Start afresh with a full restart budget; the way out of Dead.
    Restart,
    /// Stop pulling after the event in flight; survives the process.
    Pause,
    /// Paused until it is resumed or the engine is started again.
    Hold,
    Resume,
}

/// The version that an operator asks for.
#[derive(Debug)]
pub struct Wanted {
    pub module: String,
    /// Absent: the present source, read again.
    pub source: Option<PathBuf>,
    /// Whether the new version may reach more than the running one.
    pub allow_capabilities: bool,
}

/// Orders about single effects, and what they wait for. Every one must be answered.
#[derive(Debug)]
pub enum EffectOrder {
    /// Attempt one that waits for its time now; one that failed or was cancelled begins anew.
    Retry { module: String, id: String, reply: AdminReply<()> },
    /// End one that no attempt is under way for; its module is told.
    Cancel { module: String, id: String, reply: AdminReply<()> },
    /// What those that their destinations have taken on wait for, by id, as far as they were asked after since the outbox
    /// started.
    Waits { module: String, reply: AdminReply<BTreeMap<String, String>> },
}
