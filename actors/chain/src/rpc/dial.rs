//! How a node is reached: over the network, or, in a simulation, not at all.
//!
//! Carries bytes and knows nothing of JSON-RPC. Invariant: an answer is bounded while it is read, redirects are not
//! followed, and no error quotes a URL, which may hold a key. Hosts are looked up on threads that nothing else runs on.

mod frames;
mod prompt;
mod room;
#[cfg(test)]
mod tests;
mod tls;

use std::{
    error::Error,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures::{SinkExt, StreamExt, stream::FuturesUnordered};
use nexum_host_ifaces::{
    clock::Clock,
    names::{LookUp, Names, Share},
};
use reqwest::{
    dns::{Addrs, Name, Resolve, Resolving},
    header::HeaderMap,
};
use tokio::{net::TcpStream, sync::mpsc};
use tokio_tungstenite::{
    MaybeTlsStream, client_async_with_config,
    tungstenite::{self, Message, protocol::WebSocketConfig},
};
use url::{Host, Url};

use crate::metrics::ChainMetrics;
use frames::Framed;
use prompt::Prompt;
use room::Bounded;
pub use room::Room;

/// What endpoints may hold of threads. Each host asks for itself and has one lookup at a time, so that one whose name
/// servers are silent keeps no other waiting; this is for more hosts than anybody configures.
const SHARE: Share = Share { domain: "chain", asker: "host", lookups_max: 256, asker_lookups_max: 1 };

/// How long one address of a host is given before the next one is tried besides.
const NEXT_ADDRESS: Duration = Duration::from_millis(250);
/// How long connecting over HTTP takes at most, which the addresses of a host share: more than a lookup may, and less than
/// a request is waited for by default, so that one from which nothing comes back does not take it all.
const CONNECT: Duration = Duration::from_secs(9);

/// Why an exchange of bytes failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Broken {
    /// No connection, or it ended.
    Lost(String),
    /// The other side gave up waiting.
    Timeout(String),
    /// The answer is longer than was allowed, in bytes.
    TooLarge { bytes_max: usize },
    /// More frames than a node has reason to send.
    TooMany(String),
    /// The handshake of a WebSocket was answered with this HTTP status.
    Refused { status: u16, retry_after: Option<Duration> },
}

/// Counts the bytes of answers that are held at once, and bounds them.
#[derive(Debug, Clone)]
pub struct Meter {
    held: Arc<AtomicUsize>,
    max: usize,
}

impl Meter {
    pub fn new(max: usize) -> Self {
        Self { held: Arc::default(), max }
    }

    /// Begins an answer.
    pub fn begin(&self) -> Held {
        Held { all: self.held.clone(), max: self.max, bytes: 0 }
    }

    #[cfg(test)]
    fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }
}

/// The bytes of one answer. They are free again when it is dropped.
#[derive(Debug)]
pub struct Held {
    all: Arc<AtomicUsize>,
    max: usize,
    bytes: usize,
}

impl Held {
    /// Makes room for so many bytes more.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Broken> {
        let before = self.all.fetch_add(bytes, Ordering::Relaxed);
        self.bytes += bytes;
        match before.saturating_add(bytes) > self.max {
            true => Err(Broken::Lost(format!("other answers hold {before} bytes, at most {} at once", self.max))),
            false => Ok(()),
        }
    }

    /// So many of its bytes are free again.
    fn shrink(&mut self, bytes: usize) {
        assert!(bytes <= self.bytes, "{bytes} bytes of {} are given back", self.bytes);
        self.bytes -= bytes;
        self.all.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// What came back over HTTP.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    /// How long the other side asks to be left alone.
    pub retry_after: Option<Duration>,
    pub body: Vec<u8>,
    pub held: Held,
}

/// Requests over HTTP to one node.
#[async_trait]
pub trait Http: Send + Sync {
    /// Posts JSON. Of the answer at most `reply_bytes_max` are read, after decompression.
    async fn post(&self, body: String, reply_bytes_max: usize, meter: &Meter) -> Result<Reply, Broken>;
}

/// One open WebSocket: texts to and from the node. Dropping either end closes it.
pub struct Socket {
    pub to_node: mpsc::Sender<String>,
    /// Ends after an error, and when the node closes the connection.
    pub from_node: mpsc::Receiver<Result<String, Broken>>,
}

/// Opens what carries JSON-RPC to one node. Everything above it (pace, deadlines, failover) stays the same.
#[async_trait]
pub trait Dial: Send + Sync {
    /// For requests and their answers; connects when it must.
    fn http(&self, url: &Url) -> Result<Arc<dyn Http>, String>;
    /// One connection. A message that there is no room for ends it.
    async fn ws(&self, url: &Url, keepalive: Duration, room: &Arc<Room>) -> Result<Socket, Broken>;
}

/// The network. One serves all chains, and outlives their actors, as do the threads of lookups that hang.
pub struct Network {
    hosts: Hosts,
    certificates: Certificates,
    clock: Arc<dyn Clock>,
}

/// Asked before the system's store of certificates is read, which is then read to its end. `Err` says why it must not be:
/// it is no file, or too large.
pub type Certificates = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

impl Network {
    pub fn new(look_up: LookUp, clock: Arc<dyn Clock>, metrics: &ChainMetrics) -> Self {
        let gauge = metrics.dns_lookups.clone();
        let told = move |lookups: usize| gauge.set(i64::try_from(lookups).unwrap_or(i64::MAX));
        let hosts = Hosts(Names::new(SHARE, look_up, clock.clone(), Box::new(told)));
        Self { hosts, certificates: Arc::new(|| Ok(())), clock }
    }

    /// The same, asking before certificates are read.
    #[must_use]
    pub fn with_certificates(self, certificates: Certificates) -> Self {
        Self { certificates, ..self }
    }

    fn may_read_certificates(&self) -> Result<(), String> {
        (self.certificates)().map_err(|why| format!("cannot set up TLS: {why}"))
    }
}

/// Hosts of endpoints by their names.
#[derive(Clone)]
struct Hosts(Arc<Names>);

impl Hosts {
    /// The addresses of a name, with port 0, or why there are none.
    async fn look_up(&self, name: &str) -> Result<Vec<SocketAddr>, String> {
        let found = self.0.resolve(&name.into(), name).await;
        found.map(|addresses| addresses.to_vec()).map_err(|error| error.message)
    }

    /// A connection to the host and port of a URL.
    async fn connect(&self, url: &Url, bytes_max: usize) -> Result<Prompt, Broken> {
        let port = url.port_or_known_default().unwrap_or(0);
        let mut addresses: Vec<SocketAddr> = match url.host() {
            Some(Host::Ipv4(address)) => vec![SocketAddr::from((address, port))],
            Some(Host::Ipv6(address)) => vec![SocketAddr::from((address, port))],
            Some(Host::Domain(name)) => self.look_up(name).await.map_err(Broken::Lost)?,
            None => return Err(Broken::Lost(NO_WEBSOCKET.into())),
        };
        addresses.iter_mut().for_each(|address| address.set_port(port));
        let connected = first(&addresses, TcpStream::connect).await;
        let connected = connected.and_then(Prompt::new);
        connected.map_err(|error| of_websocket(&tungstenite::Error::Io(error), bytes_max))
    }
}

/// A connection to whichever of these addresses takes one first. They are tried in their order, the next one as soon as one
/// fails or has been given its time: one from which nothing comes back keeps nobody waiting.
async fn first<T, F>(addresses: &[SocketAddr], connect: impl Fn(SocketAddr) -> F) -> io::Result<T>
where
    F: Future<Output = io::Result<T>>,
{
    let mut left = addresses.iter();
    let mut trying = FuturesUnordered::new();
    let mut failure = None;
    loop {
        match left.next() {
            Some(address) => trying.push(connect(*address)),
            None if trying.is_empty() => {
                return Err(failure.unwrap_or_else(|| io::Error::other("the host has no address")));
            }
            None => {}
        }
        tokio::select! {
            tried = trying.next() => match tried {
                Some(Ok(connected)) => return Ok(connected),
                // What became of the address that comes first says most.
                Some(Err(error)) => failure = failure.or(Some(error)),
                None => {}
            },
            () = tokio::time::sleep(NEXT_ADDRESS), if !left.as_slice().is_empty() => {}
        }
    }
}

impl Resolve for Hosts {
    fn resolve(&self, name: Name) -> Resolving {
        let hosts = self.clone();
        Box::pin(async move {
            let addresses = hosts.look_up(name.as_str()).await?;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

const NO_WEBSOCKET: &str = "the URL cannot be used for a WebSocket";

struct Client {
    client: reqwest::Client,
    url: Url,
    clock: Arc<dyn Clock>,
}

#[async_trait]
impl Dial for Network {
    fn http(&self, url: &Url) -> Result<Arc<dyn Http>, String> {
        let builder = || {
            reqwest::Client::builder()
                .no_proxy()
                .redirect(reqwest::redirect::Policy::none())
                .dns_resolver(self.hosts.clone())
                .connect_timeout(CONNECT)
                .user_agent(concat!("nexum/", env!("CARGO_PKG_VERSION")))
        };
        // Without a store of certificates there is no TLS, and `http` needs none.
        let client = match (self.may_read_certificates(), url.scheme()) {
            (Ok(()), "http") => builder().build().or_else(|_| builder().tls_certs_only([]).build()),
            (Ok(()), _) => builder().build(),
            (Err(_), "http") => builder().tls_certs_only([]).build(),
            (Err(why), _) => return Err(why),
        };
        let client = client.map_err(|error| format!("cannot set up TLS: {}", innermost(&error)))?;
        Ok(Arc::new(Client { client, url: url.clone(), clock: self.clock.clone() }))
    }

    async fn ws(&self, url: &Url, keepalive: Duration, room: &Arc<Room>) -> Result<Socket, Broken> {
        let message_bytes_max = room.message_bytes_max();
        let config = WebSocketConfig::default()
            .max_message_size(Some(message_bytes_max))
            .max_frame_size(Some(message_bytes_max));
        if url.scheme() == "wss" {
            self.may_read_certificates().map_err(Broken::Lost)?;
        }
        let stream = self.hosts.connect(url, message_bytes_max).await?;
        let stream = Bounded::new(stream, room.clone());
        let failed = |error: tungstenite::Error| {
            room.broken().unwrap_or_else(|| match error {
                tungstenite::Error::Http(response) => Broken::Refused {
                    status: response.status().as_u16(),
                    retry_after: retry_after(response.headers(), &*self.clock),
                },
                error => of_websocket(&error, message_bytes_max),
            })
        };
        let stream = match url.scheme() {
            "wss" => tls::connect(url, stream).await.map(MaybeTlsStream::Rustls),
            _ => Ok(MaybeTlsStream::Plain(stream)),
        };
        let stream = Framed::new(stream.map_err(|error| failed(tungstenite::Error::Io(error)))?, room.clone());
        let opened = client_async_with_config(url.as_str(), stream, Some(config)).await;
        let (stream, _) = opened.map_err(failed)?;
        // One message at a time: each may be as long as is allowed.
        let (to_node, mut outgoing) = mpsc::channel::<String>(16);
        let (incoming, from_node) = mpsc::channel(1);
        let room = room.clone();
        tokio::spawn(async move {
            let (mut write, mut read) = stream.split();
            let mut ticks = tokio::time::interval(keepalive.max(Duration::from_millis(1)));
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            ticks.tick().await;
            loop {
                tokio::select! {
                    text = outgoing.recv() => {
                        let Some(text) = text else { break };
                        if let Err(error) = write.send(Message::text(text)).await {
                            // Whoever listens is gone when nobody takes this.
                            let broken = room.broken().unwrap_or_else(|| of_websocket(&error, message_bytes_max));
                            let _ = incoming.send(Err(broken)).await;
                            return;
                        }
                    }
                    message = read.next() => {
                        let text = match message {
                            Some(Ok(Message::Text(text))) => Ok(text.as_str().to_owned()),
                            Some(Ok(Message::Binary(bytes))) => match String::from_utf8(bytes.to_vec()) {
                                Ok(text) => Ok(text),
                                Err(_) => Err(Broken::Lost("a binary message that is no text".into())),
                            },
                            // Its code says what the node made of it, such as 1009: a message was too large.
                            Some(Ok(Message::Close(Some(why)))) => {
                                Err(Broken::Lost(format!("the connection was closed ({})", why.code)))
                            }
                            Some(Ok(Message::Close(None))) | None => {
                                Err(Broken::Lost("the connection was closed".into()))
                            }
                            Some(Ok(_)) => continue,
                            Some(Err(error)) => {
                                Err(room.broken().unwrap_or_else(|| of_websocket(&error, message_bytes_max)))
                            }
                        };
                        if text.is_ok() {
                            room.whole();
                        }
                        let ended = text.is_err();
                        if incoming.send(text).await.is_err() || ended {
                            break;
                        }
                    }
                    // Keeps what lies between from forgetting the connection. Whether the node lives, requests tell.
                    _ = ticks.tick() => {
                        if write.send(Message::Ping(Default::default())).await.is_err() {
                            let _ = incoming.send(Err(Broken::Lost("the connection was lost".into()))).await;
                            return;
                        }
                    }
                    () = incoming.closed() => break,
                }
            }
            // The other side may be gone already.
            let _ = write.close().await;
        });
        Ok(Socket { to_node, from_node })
    }
}

#[async_trait]
impl Http for Client {
    async fn post(&self, body: String, reply_bytes_max: usize, meter: &Meter) -> Result<Reply, Broken> {
        let request = self.client.post(self.url.clone()).header("content-type", "application/json").body(body);
        let mut response = request.send().await.map_err(|error| of_client(&error))?;
        let status = response.status().as_u16();
        let retry_after = retry_after(response.headers(), &*self.clock);
        // What is announced is refused before it is read; what is not announced, while it is.
        if response.content_length().is_some_and(|bytes| bytes > reply_bytes_max as u64) {
            return Err(Broken::TooLarge { bytes_max: reply_bytes_max });
        }
        let (mut body, mut held) = (Vec::new(), meter.begin());
        while let Some(chunk) = response.chunk().await.map_err(|error| of_client(&error))? {
            if body.len() + chunk.len() > reply_bytes_max {
                return Err(Broken::TooLarge { bytes_max: reply_bytes_max });
            }
            held.grow(chunk.len())?;
            body.extend_from_slice(&chunk);
        }
        Ok(Reply { status, retry_after, body, held })
    }
}

/// How long the other side asks to be left alone.
fn retry_after(headers: &HeaderMap, clock: &dyn Clock) -> Option<Duration> {
    let value = headers.get("retry-after")?.to_str().ok()?;
    nexum_host_ifaces::interfaces::http::patience::retry_after(value, clock.now_ms())
}

/// The innermost cause of an error: outer ones name the URL.
fn innermost<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause
}

fn of_client(error: &reqwest::Error) -> Broken {
    if error.is_timeout() {
        return Broken::Timeout("no answer in time".into());
    }
    let cause = innermost(error);
    let is_outer = std::ptr::eq(std::ptr::from_ref(cause).cast::<()>(), std::ptr::from_ref(error).cast::<()>());
    Broken::Lost(match is_outer {
        true if error.is_connect() => "cannot connect".to_owned(),
        true => "the request failed".to_owned(),
        false => cause.to_string(),
    })
}

fn of_websocket(error: &tungstenite::Error, bytes_max: usize) -> Broken {
    use tungstenite::Error;
    match error {
        Error::Capacity(_) => Broken::TooLarge { bytes_max },
        Error::ConnectionClosed | Error::AlreadyClosed => Broken::Lost("the connection was lost".into()),
        // These name what was asked for.
        Error::Url(_) => Broken::Lost(NO_WEBSOCKET.into()),
        other => Broken::Lost(innermost(other).to_string()),
    }
}
