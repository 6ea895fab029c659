//! How a node is reached: over the network, or, in a simulation, not at all.

use std::{sync::Arc, time::Duration};

use alloy::{
    pubsub::{ConnectionHandle, PubSubConnect, PubSubFrontend},
    transports::{
        BoxTransport, TransportErrorKind, TransportResult,
        http::{Http, reqwest},
        ws::{WebSocketConfig, WsConnect},
    },
};
use async_trait::async_trait;
use url::Url;

/// A block's logs may be large; the library's 16 MiB per frame is too little for some.
const WS_MESSAGE_BYTES_MAX: usize = 256 << 20;

/// Opens what carries JSON-RPC to one node. Everything above it (pace, deadlines, failover) stays the same.
#[async_trait]
pub trait Dial: Send + Sync {
    /// For requests and their answers; connects when it must. The error must not quote the URL, which may hold a key.
    fn http(&self, url: &Url) -> Result<BoxTransport, String>;
    /// One connection with subscriptions; whoever holds it learns of its end.
    async fn ws(&self, url: &str, keepalive: Duration) -> TransportResult<ConnectionHandle>;
}

/// The network.
pub struct Network;

#[async_trait]
impl Dial for Network {
    fn http(&self, url: &Url) -> Result<BoxTransport, String> {
        let client = reqwest::Client::builder().no_proxy().build();
        let client = client.map_err(|error| format!("cannot set up HTTP: {error}"))?;
        Ok(BoxTransport::new(Http::with_client(client, url.clone())))
    }

    async fn ws(&self, url: &str, keepalive: Duration) -> TransportResult<ConnectionHandle> {
        let config = WebSocketConfig::default()
            .max_message_size(Some(WS_MESSAGE_BYTES_MAX))
            .max_frame_size(Some(WS_MESSAGE_BYTES_MAX));
        WsConnect::new(url.to_owned()).with_config(config).with_keepalive_interval(keepalive).connect().await
    }
}

/// A WebSocket that is not reconnected behind our back: alloy would give up after some retries, and lose heads silently.
#[derive(Clone)]
struct ConnectOnce {
    dial: Arc<dyn Dial>,
    url: String,
    keepalive: Duration,
}

impl PubSubConnect for ConnectOnce {
    fn is_local(&self) -> bool {
        false
    }

    async fn connect(&self) -> TransportResult<ConnectionHandle> {
        self.dial.ws(&self.url, self.keepalive).await
    }

    async fn try_reconnect(&self) -> TransportResult<ConnectionHandle> {
        Err(TransportErrorKind::non_retryable_str("the endpoint reconnects itself"))
    }
}

/// Opens one connection with subscriptions.
pub(super) async fn connect(dial: Arc<dyn Dial>, url: String, keepalive: Duration) -> TransportResult<PubSubFrontend> {
    ConnectOnce { dial, url, keepalive }.into_service().await
}
