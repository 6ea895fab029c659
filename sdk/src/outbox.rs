//! Effects that leave the host only once their event is committed, and are retried until their destination
//! acknowledges them. What became of one comes back as an [`Outcome`](crate::Outcome) event.
//!
//! Every effect carries an idempotency key, over HTTP as the header `Idempotency-Key`; a destination that honours it
//! sees the effect exactly once. An event that fails sends nothing.

use serde::Serialize;

use crate::Result;
use crate::bindings::nexum::host::http::Header;
use crate::bindings::nexum::host::outbox as host;

pub use host::{EffectId, HttpEffect, MessageEffect, Release, RpcEffect, TransactionEffect};

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
    effect: E,
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

/// A transaction, which the host fills, signs and broadcasts. `to` is `None` to create a contract.
pub fn transaction(chain_id: u64, account: impl AsRef<[u8]>, to: Option<&[u8]>) -> Effect<TransactionEffect> {
    Effect::new(TransactionEffect {
        chain_id,
        account: account.as_ref().to_vec(),
        to: to.map(<[u8]>::to_vec),
        value: Vec::new(),
        data: Vec::new(),
        gas_limit: None,
    })
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

impl Effect<TransactionEffect> {
    /// Big-endian, in wei.
    pub fn value(mut self, wei: impl AsRef<[u8]>) -> Self {
        self.effect.value = wei.as_ref().to_vec();
        self
    }

    pub fn data(mut self, data: impl Into<Vec<u8>>) -> Self {
        self.effect.data = data.into();
        self
    }

    pub fn gas_limit(mut self, gas: u64) -> Self {
        self.effect.gas_limit = Some(gas);
        self
    }
}

impl<E: Into<host::Effect>> Effect<E> {
    /// Puts the effect into the outbox of this event.
    ///
    /// # Errors
    /// `Denied` when the manifest does not allow its host or method, `InvalidInput` when it is malformed or too large,
    /// `RateLimited` when the event or the module has too many, `Unsupported` for a kind that the engine has no actor for,
    /// and in `init`.
    pub fn send(self) -> Result<EffectId> {
        Ok(host::send(&self.effect.into(), &self.options)?)
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

impl From<MessageEffect> for host::Effect {
    fn from(effect: MessageEffect) -> Self {
        Self::Message(effect)
    }
}
