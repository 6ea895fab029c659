//! Ports: the only way to reach a shared actor.
//!
//! Owns the re-bindable address of an actor. A restarted actor has a new address; its supervisor binds it here, and
//! whoever holds the port goes on. While nothing is bound every call answers `Unavailable`.

use std::{
    sync::{Arc, RwLock},
    time::Duration,
};

use ractor::{ActorRef, Message, RpcReplyPort, rpc::CallResult};

use crate::{HostError, HostErrorKind};

/// Why a call through a port has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// The actor is not running, or died before it answered.
    #[error("{0} is not running")]
    Unavailable(&'static str),
    /// The actor did not answer within the caller's deadline.
    #[error("{0} did not answer in time")]
    Timeout(&'static str),
}

impl PortError {
    /// The same failure as a guest sees it.
    pub fn to_host_error(self, domain: &str) -> HostError {
        let kind = match self {
            Self::Unavailable(_) => HostErrorKind::Unavailable,
            Self::Timeout(_) => HostErrorKind::Timeout,
        };
        HostError::new(domain, kind, self.to_string())
    }
}

/// The re-bindable address of one shared actor.
pub struct Port<M: Message> {
    service: &'static str,
    slot: Arc<RwLock<Option<ActorRef<M>>>>,
}

/// An answer on its way.
pub struct Pending<R> {
    service: &'static str,
    receiver: ractor::concurrency::OneshotReceiver<R>,
}

impl<R> Pending<R> {
    /// Waits for the answer, without a bound of its own.
    pub async fn answer(self) -> Result<R, PortError> {
        self.receiver.await.map_err(|_| PortError::Unavailable(self.service))
    }
}

impl<M: Message> Clone for Port<M> {
    fn clone(&self) -> Self {
        Self { service: self.service, slot: self.slot.clone() }
    }
}

impl<M: Message> Port<M> {
    /// An unbound port; `service` names it in errors.
    pub fn new(service: &'static str) -> Self {
        Self { service, slot: Arc::default() }
    }

    /// Binds the port to a started actor. Called by whoever supervises it.
    pub fn bind(&self, actor: ActorRef<M>) {
        *self.slot.write().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(actor);
    }

    /// Forgets the actor, so that callers see `Unavailable` at once.
    pub fn unbind(&self) {
        *self.slot.write().unwrap_or_else(std::sync::PoisonError::into_inner) = None;
    }

    /// The name of the service behind the port.
    pub fn service(&self) -> &'static str {
        self.service
    }

    fn actor(&self) -> Result<ActorRef<M>, PortError> {
        let slot = self.slot.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        slot.clone().ok_or(PortError::Unavailable(self.service))
    }

    /// Sends a message that has no answer.
    pub fn cast(&self, message: M) -> Result<(), PortError> {
        self.actor()?.send_message(message).map_err(|_| PortError::Unavailable(self.service))
    }

    /// Sends a message and hands out where its answer will arrive, so that the caller can go on meanwhile.
    pub fn ask<R, F>(&self, build: F) -> Result<Pending<R>, PortError>
    where
        R: Send + 'static,
        F: FnOnce(RpcReplyPort<R>) -> M,
    {
        let (sender, receiver) = ractor::concurrency::oneshot();
        self.cast(build(sender.into()))?;
        Ok(Pending { service: self.service, receiver })
    }

    /// Sends a message and waits for its answer, at most for `deadline`.
    pub async fn call<R, F>(&self, deadline: Duration, build: F) -> Result<R, PortError>
    where
        R: Send + 'static,
        F: FnOnce(RpcReplyPort<R>) -> M,
    {
        match self.actor()?.call(build, Some(deadline)).await {
            Ok(CallResult::Success(reply)) => Ok(reply),
            Ok(CallResult::Timeout) => Err(PortError::Timeout(self.service)),
            Ok(CallResult::SenderError) | Err(_) => Err(PortError::Unavailable(self.service)),
        }
    }
}
