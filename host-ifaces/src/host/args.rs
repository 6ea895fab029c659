//! What a module's Store is built from.

use std::sync::Arc;

use crate::{
    Hash, clock::Clock, commit_queue::CommitQueue, grants::Grants, limits::Limits, ports::Ports, recording::TapeMode,
    state::ModuleId, unit::drafts::Quota,
};

/// Everything a module's Store is built from; shared by every instance of the module.
#[derive(Clone)]
pub struct HostArgs {
    pub module: Arc<str>,
    pub id: ModuleId,
    pub component: Hash,
    pub limits: Arc<Limits>,
    pub clock: Arc<dyn Clock>,
    pub commits: Arc<CommitQueue>,
    pub grants: Arc<Grants>,
    /// The ways to the state and to every service; the grants say which of them a call may reach.
    pub ports: Arc<Ports>,
    /// Whether what the guest sees of the world is recorded, or comes from a recording.
    pub taping: TapeMode,
    pub quota: Arc<Quota>,
}
