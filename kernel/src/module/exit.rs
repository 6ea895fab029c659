//! Why a module's actor ends.

use nexum_host_ifaces::{
    commit_queue::NotCommitted,
    port::PortError,
    store::{ModuleHealth, StoreError},
};

use crate::{load::Unprepared, restart::Decision};

/// Why a module actor stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum Exit {
    /// The artifact cannot be run; starting again would not help.
    #[error("load: {0}")]
    Load(String),
    /// The guest failed; counted in the health that goes with it. `written`: whether that is durable, or why not.
    #[error("{}", health.last_error.as_deref().unwrap_or("failed"))]
    Fault { health: Box<ModuleHealth>, decision: Decision, written: Result<(), String> },
    /// Something around the module failed; not counted against it.
    #[error("{0}")]
    Environment(String),
    /// Something around the module failed before it could be verified, compiled, linked and started; not counted against it.
    #[error("{0}")]
    Unprepared(String),
    /// A source cannot serve the module's cursor, and will not without the operator.
    #[error("{0}")]
    Stuck(String),
    /// The module was Paused or Dead when the process last stopped.
    #[error("standing")]
    Standing(Box<ModuleHealth>),
}

impl Exit {
    /// A failure whose count is not durable yet. Whoever ends with it makes it so.
    pub fn fault(health: ModuleHealth, decision: Decision) -> Self {
        Self::Fault { health: Box::new(health), decision, written: Err("it was not tried".to_owned()) }
    }
}

impl From<PortError> for Exit {
    fn from(error: PortError) -> Self {
        Self::Environment(error.to_string())
    }
}

impl From<Unprepared> for Exit {
    fn from(error: Unprepared) -> Self {
        match error {
            Unprepared::Refused(reason) => Self::Load(reason),
            Unprepared::Surroundings(reason) => Self::Unprepared(reason),
        }
    }
}

impl From<NotCommitted> for Exit {
    fn from(error: NotCommitted) -> Self {
        Self::Environment(error.to_string())
    }
}

impl From<StoreError> for Exit {
    fn from(error: StoreError) -> Self {
        Self::Environment(error.to_string())
    }
}
