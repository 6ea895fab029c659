//! What services and modules are at, by name.
//!
//! The shapes have such a name as text, so that a client shows what later engines say, too. Whoever writes or compares one
//! has it from here.

/// Where a module stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModuleState {
    Load,
    Init,
    Run,
    /// Until it is started again.
    Restart,
    Paused,
    Dead,
    /// The engine is shutting down.
    Stopped,
}

impl ModuleState {
    pub const ALL: [Self; 7] =
        [Self::Load, Self::Init, Self::Run, Self::Restart, Self::Paused, Self::Dead, Self::Stopped];

    /// The name in the tree, and wherever a module is shown alone.
    pub fn name(self) -> &'static str {
        match self {
            Self::Load => "LOAD",
            Self::Init => "INIT",
            Self::Run => "RUN",
            Self::Restart => "RESTART",
            Self::Paused => "PAUSED",
            Self::Dead => "DEAD",
            Self::Stopped => "STOPPED",
        }
    }

    /// The name in health reports.
    pub fn in_health(self) -> &'static str {
        match self {
            Self::Load => "loading",
            Self::Init => "init",
            Self::Run => "running",
            Self::Restart => "restarting",
            Self::Paused => "paused",
            Self::Dead => "dead",
            Self::Stopped => "stopped",
        }
    }

    /// The state that the tree names so.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }

    /// The state that health reports name so.
    pub fn reported(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.in_health() == name)
    }
}

/// Whether a service or an endpoint is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceState {
    Up,
    /// It does not answer, is being started, or is not connected.
    Down,
    /// An endpoint that is connected and not relied upon.
    Demoted,
}

impl ServiceState {
    pub const ALL: [Self; 3] = [Self::Up, Self::Down, Self::Demoted];

    /// The name in the tree and in lists.
    pub fn name(self) -> &'static str {
        match self {
            Self::Up => "UP",
            Self::Down => "DOWN",
            Self::Demoted => "DEMOTED",
        }
    }

    /// The state of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_found_by_each_of_its_names() {
        for state in ModuleState::ALL {
            assert_eq!(
                (ModuleState::named(state.name()), ModuleState::reported(state.in_health())),
                (Some(state), Some(state))
            );
            assert_eq!(ServiceState::named(state.name()), None, "the names of modules are their own");
        }
        for state in ServiceState::ALL {
            assert_eq!(ServiceState::named(state.name()), Some(state));
        }
        assert_eq!(ModuleState::named("run"), None);
    }
}
