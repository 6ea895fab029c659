//! One module in its supervisor's eyes: where it stands in the FSM, and which orders fit that. Pure but for the asking.

use std::sync::Arc;

use nexum_admin_api::state::ModuleState;
use nexum_host_ifaces::store::{ModuleHealth, Standing};
use ractor::ActorRef;

use super::{standing::Changing, upgrade::Upgrade};
use crate::{
    admin::{AdminError, AdminReply, ModuleSpec, Order},
    instance::Prepared,
    load::Plan,
    module::{self, Resync},
    status::{ModuleStatus, RunState},
};

/// Where a module stands. Load → Init → Run → Restart → Init … → Dead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Phase {
    Load,
    Init,
    Run,
    /// Waiting until `at_ns` of the monotonic clock.
    Restart {
        at_ns: u64,
        reason: String,
    },
    Paused,
    Dead {
        reason: String,
    },
    /// The engine is shutting down.
    Stopped,
}

impl Phase {
    fn state(&self) -> ModuleState {
        match self {
            Self::Load => ModuleState::Load,
            Self::Init => ModuleState::Init,
            Self::Run => ModuleState::Run,
            Self::Restart { .. } => ModuleState::Restart,
            Self::Paused => ModuleState::Paused,
            Self::Dead { .. } => ModuleState::Dead,
            Self::Stopped => ModuleState::Stopped,
        }
    }

    /// The name in the tree.
    pub(super) fn name(&self) -> &'static str {
        self.state().name()
    }

    /// The name in health reports.
    pub(super) fn report(&self) -> &'static str {
        self.state().in_health()
    }
}

/// What follows once the module's actor has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    Forget,
    Pause,
    Hold,
    /// `afresh`: with a full restart budget.
    Start {
        afresh: bool,
    },
}

impl Then {
    /// Whether the order is one that a dead module obeys.
    pub(super) fn leaves_dead(self) -> bool {
        matches!(self, Self::Forget | Self::Start { afresh: true })
    }
}

pub(super) struct Slot {
    pub(super) spec: Arc<ModuleSpec>,
    /// As the configuration has it, most often the same; absent for a module that was loaded at run time.
    pub(super) configured: Option<Arc<ModuleSpec>>,
    pub(super) plan: Option<Arc<Plan>>,
    pub(super) prepared: Option<Arc<Prepared>>,
    /// How often what is around kept it from being prepared or started since it last ran.
    pub(super) unprepared: u32,
    pub(super) phase: Phase,
    /// As last reported; the store has the truth.
    pub(super) health: ModuleHealth,
    /// What could not be written: handed to the next actor, in place of the stored counters.
    pub(super) override_health: Option<ModuleHealth>,
    pub(super) status: Arc<ModuleStatus>,
    pub(super) actor: Option<ActorRef<module::Msg>>,
    pub(super) generation: u64,
    pub(super) then: Option<(Then, AdminReply<()>)>,
    pub(super) upgrade: Option<Box<Upgrade>>,
    /// It is being stored that it is to run, or to pause. No actor runs, and no order is taken.
    pub(super) changing: Option<Box<Changing>>,
    /// Handed to the next actor.
    pub(super) resync: Option<Resync>,
}

/// What a module runs by, and how it is configured: kept once where they are the same.
fn shared(spec: ModuleSpec, configured: Option<ModuleSpec>) -> (Arc<ModuleSpec>, Option<Arc<ModuleSpec>>) {
    let spec = Arc::new(spec);
    let configured = configured.map(|configured| if configured == *spec { spec.clone() } else { Arc::new(configured) });
    (spec, configured)
}

/// Ends the supervisor, which starts again with the modules that it should run.
///
/// To be called for a module without a slot in the middle of what is done with it. That cannot be: a slot goes only when the
/// module is unloaded, which waits until nothing else is done with it, and the supervisor does one thing at a time. To do
/// nothing instead would leave a module that is never started again, or an order that is never answered.
pub(super) fn missing(name: &str) -> ! {
    panic!("module {name} has no slot while something is done with it")
}

impl Slot {
    pub(super) fn planned(
        spec: ModuleSpec,
        configured: Option<ModuleSpec>,
        plan: Arc<Plan>,
        status: Arc<ModuleStatus>,
    ) -> Box<Self> {
        let (spec, configured) = shared(spec, configured);
        Box::new(Self {
            spec,
            configured,
            plan: Some(plan),
            prepared: None,
            unprepared: 0,
            phase: Phase::Load,
            health: ModuleHealth::default(),
            override_health: None,
            status,
            actor: None,
            generation: 0,
            then: None,
            upgrade: None,
            changing: None,
            resync: None,
        })
    }

    /// A configured module whose manifest or grants are wrong.
    pub(super) fn unplanned(spec: ModuleSpec, configured: Option<ModuleSpec>, reason: String) -> Box<Self> {
        let (spec, configured) = shared(spec, configured);
        Box::new(Self {
            spec,
            configured,
            plan: None,
            prepared: None,
            unprepared: 0,
            phase: Phase::Dead { reason: reason.clone() },
            health: ModuleHealth { last_error: Some(reason), ..ModuleHealth::default() },
            override_health: None,
            status: Arc::default(),
            actor: None,
            generation: 0,
            then: None,
            upgrade: None,
            changing: None,
            resync: None,
        })
    }

    pub(super) fn enter(&mut self, phase: Phase) {
        if self.phase.name() != phase.name() {
            tracing::debug!(from = self.phase.name(), to = phase.name(), "module state");
        }
        self.phase = phase;
    }

    pub(super) fn die(&mut self, reason: String) {
        self.health.last_error = Some(reason.clone());
        self.enter(Phase::Dead { reason });
    }

    /// Whether something is being done with it that another order would get in the way of.
    pub(super) fn is_busy(&self) -> bool {
        self.then.is_some() || self.upgrade.is_some() || self.changing.is_some()
    }

    pub(super) fn take_then(&mut self) -> Option<(Then, AdminReply<()>)> {
        self.then.take()
    }

    /// Asks the actor to stop: after the event in flight, or at once while it is being loaded.
    pub(super) fn ask_to_stop(&self) {
        self.status.set_run_state(RunState::Hold);
        if let Some(actor) = &self.actor {
            actor.stop(None);
        }
    }

    /// What it was at when it is waited for no longer.
    pub(super) fn unfinished(&self) -> &'static str {
        match self.phase {
            Phase::Load => "it was still being loaded; it is loaded again at the next start",
            _ => "its event in flight did not finish; it is delivered again at the next start",
        }
    }

    /// Whether an order fits the module's state, and what it comes to.
    pub(super) fn accept(&self, module: &str, order: Order) -> Result<Then, AdminError> {
        let wrong = |hint: &str| AdminError::WrongState {
            module: module.to_owned(),
            state: self.phase.name().to_owned(),
            hint: hint.to_owned(),
        };
        if self.is_busy() {
            return Err(wrong("another order is being carried out"));
        }
        match (order, &self.phase) {
            (Order::Unload, _) => Ok(Then::Forget),
            (Order::Restart, _) => Ok(Then::Start { afresh: true }),
            (Order::Pause | Order::Hold, Phase::Dead { .. }) => Err(wrong("nothing runs that could be paused")),
            (Order::Pause | Order::Hold, Phase::Paused) => Err(wrong("it is paused already")),
            (Order::Pause, _) => Ok(Then::Pause),
            (Order::Hold, _) => Ok(Then::Hold),
            (Order::Resume, Phase::Paused) => Ok(Then::Start { afresh: false }),
            (Order::Resume, Phase::Dead { .. }) => Err(wrong("a dead module is started with `module restart`")),
            (Order::Resume, _) => Err(wrong("it is not paused")),
        }
    }

    /// The reason to show, when there is one.
    pub(super) fn reason(&self) -> Option<String> {
        match &self.phase {
            Phase::Dead { reason } | Phase::Restart { reason, .. } => Some(reason.clone()),
            _ => match &self.health.standing {
                Standing::Dead { reason } => Some(reason.clone()),
                _ => self.health.last_error.clone(),
            },
        }
    }
}
