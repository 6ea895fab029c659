//! Where work that blocks runs: on threads beside the executor, or at once where it is asked for.
//!
//! An engine uses threads. A simulation runs everything on one thread, so that a seed decides the order of everything.

use tokio::task::JoinError;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Blocking {
    /// On tokio's threads for blocking work.
    #[default]
    Threads,
    /// At once, on the caller's thread.
    Inline,
}

impl Blocking {
    /// Runs `work` and waits for it. Fails only when it panicked on its thread.
    pub async fn run<T: Send + 'static>(self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
        match self {
            Self::Threads => tokio::task::spawn_blocking(work).await,
            Self::Inline => Ok(work()),
        }
    }

    /// Runs `work`, which tells its outcome itself, without waiting for it.
    pub fn detach(self, work: impl FnOnce() + Send + 'static) {
        match self {
            Self::Threads => drop(tokio::task::spawn_blocking(work)),
            Self::Inline => work(),
        }
    }
}
