//! Effects that leave the host only once their event is committed, and are retried until their destination
//! acknowledges them. What became of one comes back as an [`Outcome`](crate::Outcome) event.
//!
//! Every effect carries an idempotency key, over HTTP as the header `Idempotency-Key`; a destination that honours it
//! sees the effect exactly once. An event that fails sends nothing.

use serde::Serialize;

use crate::bindings::nexum::host::http::Header;
use crate::bindings::nexum::host::outbox as host;
use crate::{Error, ErrorKind, Outcome, OutcomeStatus, Result, raw};

pub use host::{
    EffectId, HttpEffect, MessageEffect, Release, RpcEffect, SignatureEffect, TransactionEffect, UploadEffect,
};

/// An effect being built; [`send`](Self::send) puts it into the outbox.
///
/// ```no_run
/// use nexum_sdk::outbox::{self, Release};
/// let id = outbox::http("POST", "https://hooks.example.org/alert")
///     .body(r#"{"text":"price crossed"}"#)
///     .key("alert/21000000")
///     .release(Release::Finalized)
///     .send()?;
/// # Ok::<(), nexum_sdk::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "an effect does nothing until it is sent"]
pub struct Effect<E> {
    pub(crate) effect: E,
    options: host::Options,
}

/// An HTTP request to a host that the manifest allows.
pub fn http(method: impl Into<String>, url: impl Into<String>) -> Effect<HttpEffect> {
    Effect::new(HttpEffect { method: method.into(), url: url.into(), headers: Vec::new(), body: None })
}

/// A JSON-RPC call.
///
/// # Errors
/// `params` does not serialise.
pub fn rpc(chain_id: u64, method: impl Into<String>, params: impl Serialize) -> Result<Effect<RpcEffect>> {
    Ok(Effect::new(RpcEffect { chain_id, method: method.into(), params: serde_json::to_string(&params)? }))
}

/// A transaction of one of the operator's accounts, signed within the operator's policy and followed until it is final.
/// Its [outcome](crate::Outcome::transaction) says what became of it.
///
/// ```no_run
/// use nexum_sdk::outbox;
/// let id = outbox::transaction(1)
///     .to([0x11; 20])
///     .value(1_000_000_000_000_000_000u64)
///     .max_fee(50_000_000_000u64)
///     .key("payout/7")
///     .send()?;
/// # Ok::<(), nexum_sdk::Error>(())
/// ```
pub fn transaction(chain_id: u64) -> Effect<TransactionEffect> {
    Effect::new(TransactionEffect {
        chain_id,
        account: None,
        to: None,
        value: Vec::new(),
        data: Vec::new(),
        gas_limit: None,
        fees: None,
        access_list: Vec::new(),
        confirmations: None,
        deadline: None,
        skip_simulation: false,
    })
}

/// A signature over `message` with the prefix of EIP-191, which the operator may have to approve. Its
/// [outcome](crate::Outcome::signature) carries it.
pub fn signature(account: impl AsRef<[u8]>, message: impl Into<Vec<u8>>) -> Effect<SignatureEffect> {
    let payload = host::SignaturePayload::Message(message.into());
    Effect::new(SignatureEffect { account: account.as_ref().to_vec(), payload })
}

/// A signature over EIP-712 typed data, given as JSON text, which the operator may have to approve. Its
/// [outcome](crate::Outcome::signature) carries it.
pub fn typed_data_signature(account: impl AsRef<[u8]>, typed_data: impl Into<String>) -> Effect<SignatureEffect> {
    let payload = host::SignaturePayload::TypedData(typed_data.into());
    Effect::new(SignatureEffect { account: account.as_ref().to_vec(), payload })
}

/// Content for Swarm, at most 256 KiB. Its [outcome](crate::Outcome::reference) carries the reference.
pub fn upload(data: impl Into<Vec<u8>>) -> Effect<UploadEffect> {
    Effect::new(UploadEffect { data: data.into(), topic: None })
}

/// Content, at most 256 KiB, as the next update of the feed under a topic of 32 bytes. Its [outcome](crate::Outcome::reference)
/// carries the address of the update. Updates in one [lane](Effect::lane) keep their order.
pub fn feed(topic: impl AsRef<[u8]>, data: impl Into<Vec<u8>>) -> Effect<UploadEffect> {
    Effect::new(UploadEffect { data: data.into(), topic: Some(topic.as_ref().to_vec()) })
}

/// A message on a content topic.
pub fn message(content_topic: impl Into<String>, payload: impl Into<Vec<u8>>) -> Effect<MessageEffect> {
    Effect::new(MessageEffect { content_topic: content_topic.into(), payload: payload.into() })
}

impl<E> Effect<E> {
    fn new(effect: E) -> Self {
        Self { effect, options: host::Options { key: None, release: Release::Committed, lane: None } }
    }

    /// The idempotency key, 1 to 255 visible ASCII characters. Without it the effect's id: module, event and ordinal
    /// within the event, the same whenever the event is handled again.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.options.key = Some(key.into());
        self
    }

    /// When the effect may leave; [`Release::Committed`] unless said otherwise.
    pub fn release(mut self, release: Release) -> Self {
        self.options.release = release;
        self
    }

    /// Effects of one lane are delivered in the order they were sent.
    pub fn lane(mut self, lane: impl Into<String>) -> Self {
        self.options.lane = Some(lane.into());
        self
    }
}

impl Effect<HttpEffect> {
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.effect.headers.push(Header { name: name.into(), value: value.into() });
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.effect.body = Some(body.into());
        self
    }

    /// Sets the body and its content type.
    ///
    /// # Errors
    /// `value` does not serialise.
    pub fn json(self, value: &(impl Serialize + ?Sized)) -> Result<Self> {
        Ok(self.header("content-type", "application/json").body(serde_json::to_vec(value)?))
    }
}

impl<E: Into<host::Effect>> Effect<E> {
    /// Puts the effect into the outbox of this event.
    ///
    /// # Errors
    /// `Denied` when the manifest does not allow its host or method or no policy its account, `InvalidInput` when it is malformed or too large,
    /// `RateLimited` when the event or the module has too many, `Unsupported` for a kind that the engine has no actor for,
    /// and in `init`.
    pub fn send(self) -> Result<EffectId> {
        Ok(raw::outbox::send(&self.effect.into(), &self.options)?)
    }
}

impl From<HttpEffect> for host::Effect {
    fn from(effect: HttpEffect) -> Self {
        Self::Http(effect)
    }
}

impl From<RpcEffect> for host::Effect {
    fn from(effect: RpcEffect) -> Self {
        Self::Rpc(effect)
    }
}

impl From<TransactionEffect> for host::Effect {
    fn from(effect: TransactionEffect) -> Self {
        Self::Transaction(effect)
    }
}

impl From<SignatureEffect> for host::Effect {
    fn from(effect: SignatureEffect) -> Self {
        Self::Signature(effect)
    }
}

impl From<UploadEffect> for host::Effect {
    fn from(effect: UploadEffect) -> Self {
        Self::Upload(effect)
    }
}

impl From<MessageEffect> for host::Effect {
    fn from(effect: MessageEffect) -> Self {
        Self::Message(effect)
    }
}

impl Outcome {
    /// The 65 bytes (r, s, v) of a signature that was sent for.
    ///
    /// # Errors
    /// Why there is none: kind `Denied` and the words of the policy or the operator, or that the effect was withdrawn.
    pub fn signature(&self) -> Result<&[u8]> {
        match &self.status {
            OutcomeStatus::Delivered(signature) if signature.len() == 65 => Ok(signature),
            OutcomeStatus::Delivered(other) => {
                Err(Error::invalid_input(format!("the outcome has {} bytes, a signature has 65", other.len())))
            }
            OutcomeStatus::Failed(reason) => Err(Error::new(ErrorKind::Denied, reason).in_domain("identity")),
            OutcomeStatus::Cancelled(reason) => Err(Error::new(ErrorKind::Unavailable, reason).in_domain("outbox")),
        }
    }
}

impl Outcome {
    /// The reference of content that was sent to be stored, or the address of an update of a feed: 32 bytes.
    ///
    /// # Errors
    /// Why there is none.
    pub fn reference(&self) -> Result<&[u8]> {
        match &self.status {
            OutcomeStatus::Delivered(reference) if reference.len() == 32 => Ok(reference),
            OutcomeStatus::Delivered(other) => {
                Err(Error::invalid_input(format!("the outcome has {} bytes, a reference has 32", other.len())))
            }
            OutcomeStatus::Failed(reason) => Err(Error::new(ErrorKind::InvalidInput, reason).in_domain("remote-store")),
            OutcomeStatus::Cancelled(reason) => Err(Error::new(ErrorKind::Unavailable, reason).in_domain("outbox")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_what_its_outcome_carries() {
        let outcome = |status| Outcome { effect_id: "m/e/0".into(), key: "k".into(), attempts: 1, status };
        assert_eq!(outcome(OutcomeStatus::Delivered(vec![7; 65])).signature().unwrap(), [7; 65]);
        assert!(outcome(OutcomeStatus::Delivered(vec![7; 64])).signature().is_err());
        let denied = outcome(OutcomeStatus::Failed("not approved".into())).signature().unwrap_err();
        assert_eq!((denied.kind(), denied.message()), (ErrorKind::Denied, "not approved"));
        assert!(outcome(OutcomeStatus::Cancelled("withdrawn".into())).signature().is_err());
        assert_eq!(outcome(OutcomeStatus::Delivered(vec![7; 32])).reference().unwrap(), [7; 32]);
        assert!(outcome(OutcomeStatus::Failed("too large".into())).reference().is_err());
    }
}
