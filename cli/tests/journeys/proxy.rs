//! A proxy in front of a real node, HTTP and WebSocket on one port, that misbehaves as it is told.
//!
//! It runs on a thread of its own. What it passes on it takes from the node; only faults are made up.

mod answers;
mod bytes;
mod invented;

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, Ordering},
    },
};

use futures::{SinkExt, StreamExt, stream::SplitSink};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    sync::{broadcast, watch},
    task::JoinSet,
};
use tokio_tungstenite::{WebSocketStream, accept_async, connect_async, tungstenite::Message};

use answers::{Outcome, refused};
pub use bytes::Flood;

/// How an endpoint misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Sockets are closed, new ones too.
    Cut,
    /// Accepts, and answers nothing.
    Stall,
    /// Refuses everything with this HTTP status; 429 asks to come back after a second.
    Status(u16),
    /// Answers that are not JSON.
    Garbage,
    /// Half of each answer, and then the end of the connection.
    Truncated,
    /// Everything after this block is unknown.
    Behind(u64),
    /// The same, and `eth_syncing` says so.
    Syncing(u64),
    /// Its blocks have other hashes than the node's, asked for by number.
    OtherBranch,
    /// Its head is block 2^40. Blocks up to the node's head are the node's. Those above are made up, link to each other and to
    /// the node's head, and each has a log for whoever asks. Their hashes are not those of their fields.
    FarHead,
    /// The same, and every block of the node is replaced by one that is made up, the first one too.
    FarChain,
    /// Its head is so many blocks above the node's. Those above are made up, with hashes that are those of their fields; the
    /// lowest links to the node's head, and each has a log for whoever asks.
    NearHead(u64),
    Logs(Lie),
    /// This method gets the status 403.
    Without(&'static str),
    /// This method is carried out, and nobody is told.
    Lost(&'static str),
    /// Every third block that is asked for by its number is `null`: a balancer's nodes do not have the same.
    NullBlocks,
    /// An answer with more logs than this is refused in this way.
    LogsMax(usize, Refusal),
    /// Every batch is refused as if it were one request.
    NoBatches,
    /// Of a longer batch what is beyond so many requests is refused, each by itself.
    BatchMax(usize),
    /// Filters with more addresses than this are refused.
    AddressMax(usize),
    /// All answers are written in these forms.
    Forms(&'static [Form]),
    NewHeads(Notice),
    /// These get answers of 300 MB to `eth_getLogs`.
    Huge(Whom),
    /// Over a WebSocket it answers nothing, and floods every new one.
    Flooded(Flood),
    /// Everybody is sent to this port of the loopback.
    Redirect(u16),
    /// All answers are compressed, which nobody asked for.
    Gzip,
    /// These get the status 403, with a text that names the path they used.
    Forbidden(Whom),
}

/// How an endpoint lies about logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// There are none.
    Empty,
    /// There are none, and the receipts have none.
    Everywhere,
    /// They are of another block.
    OtherBlock,
    /// One more, that the block's bloom excludes.
    Invented,
    /// All are marked as removed.
    Removed,
    /// The first is left out.
    LeftOut,
    /// Those of these blocks are left out of ranges, and of answers by hash if `by_hash`.
    LeftOutOf { from: u64, to: u64, by_hash: bool },
    /// Every other answer has none: a balancer's nodes do not have the same.
    Sometimes,
    /// They are asked of a node that is so many blocks behind, and says nothing of that. Everything else is not.
    Behind(u64),
    /// There are none by the hash of a block, and no receipts are served.
    ByHash,
    /// Their indexes count in each transaction.
    PerTransaction,
    /// All have the same index.
    OneIndex,
    /// Every third block has one more log, which is in no receipt and not in the bloom, whoever asks for it and how.
    Outside,
}

/// How too large a question is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// With a code and words that say what is meant.
    Named,
    /// With words that do not.
    Vague,
    /// With words that say that there is no such block.
    Missing,
    /// With HTTP status 500 and nothing else; over a WebSocket with an end of the connection.
    Status,
    /// With an end of the connection.
    Cut,
    /// With words that name the same range as one to try.
    SameRange,
}

/// A form in which some node writes what others write otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    NullForNoLogs,
    /// The bloom is `0x`.
    BloomEmpty,
    BloomAbsent,
    RemovedNull,
    /// There is an error beside each result, and it is `null`.
    ErrorNull,
    IdAsText,
    /// The time of every log is 0.
    TimeZero,
    /// The time of every log is another than its block's.
    TimeWrong,
    /// Addresses begin with `xdc`.
    Xdc,
    /// Times are in milliseconds.
    TimeMillis,
    /// Numbers are numbers.
    Decimal,
    /// Numbers are texts with zeros in front.
    Zeros,
    /// Hexadecimal digits are capitals.
    Capitals,
    /// No topics are `null`.
    TopicsNull,
    /// The total difficulty is 0, whatever it is.
    TotalDifficultyZero,
}

/// How a subscription tells a new head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// With a hash that is not the block's.
    OtherHash,
    WithoutHash,
    NumberOnly,
    /// With another hash than the block's, which is that of the fields it tells.
    OwnHash,
    /// Never, though the subscription was taken.
    Never,
    /// The subscription is not answered at all.
    Unanswered,
}

/// Who is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whom {
    Engine,
    Modules,
    Everybody,
}

struct Shared {
    node: AtomicU16,
    fault: watch::Sender<Fault>,
    /// Frames for every open WebSocket; `SUBSCRIPTION` stands for the id of the client's subscription.
    injected: broadcast::Sender<String>,
    /// Requests by method, each of a batch counted.
    asked: Mutex<BTreeMap<String, u64>>,
}

impl Shared {
    fn node(&self) -> u16 {
        self.node.load(Ordering::Relaxed)
    }

    fn count(&self, request: &Value) {
        let method = request["method"].as_str().unwrap_or_default().to_owned();
        *self.asked.lock().unwrap().entry(method).or_default() += 1;
    }
}

/// Stands in an injected frame for the subscription's id.
pub const SUBSCRIPTION: &str = "{subscription}";

pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    /// Ends every task when it is dropped.
    runtime: Runtime,
}

impl Proxy {
    /// A proxy before the node at this port of the loopback.
    pub fn before(node: u16) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let shared = Arc::new(Shared {
            node: AtomicU16::new(node),
            fault: watch::channel(Fault::None).0,
            injected: broadcast::channel(16).0,
            asked: Mutex::default(),
        });
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let port = listener.local_addr().unwrap().port();
        runtime.spawn(serve(listener, shared.clone()));
        Self { port, shared, runtime }
    }

    pub fn ws(&self) -> String {
        format!("ws://127.0.0.1:{}", self.port)
    }

    pub fn http(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn set(&self, fault: Fault) {
        self.shared.fault.send_replace(fault);
    }

    /// From now on it stands before another node. Connections that are open still lead to the old one.
    pub fn point(&self, node: u16) {
        self.shared.node.store(node, Ordering::Relaxed);
    }

    /// Sends a frame to every client of a WebSocket; how many there are.
    pub fn inject(&self, frame: &Value) -> usize {
        self.shared.injected.send(frame.to_string()).unwrap_or(0)
    }

    /// Requests that reached it, whatever became of them.
    pub fn requests(&self) -> u64 {
        self.shared.asked.lock().unwrap().values().sum()
    }

    /// The same by method.
    pub fn asked(&self) -> BTreeMap<String, u64> {
        self.shared.asked.lock().unwrap().clone()
    }

    /// What it answers to this question.
    pub fn ask(&self, method: &str, params: Value) -> Value {
        let request = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        let fault = *self.shared.fault.borrow();
        match self.runtime.block_on(answers::answer(&self.shared, fault, request)) {
            Some(Outcome::Told(mut answer)) => answer["result"].take(),
            _ => panic!("the proxy has no answer to {method}"),
        }
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let shared = shared.clone();
        connections.spawn(async move {
            let mut fault = shared.fault.subscribe();
            tokio::select! {
                _ = fault.wait_for(|fault| *fault == Fault::Cut) => {}
                // However it ended, it ended.
                _ = connection(stream, &shared) => {}
            }
        });
    }
}

async fn connection(stream: TcpStream, shared: &Shared) -> Option<()> {
    let mut head = vec![0; 4_096];
    loop {
        let read = stream.peek(&mut head).await.ok()?;
        let head = String::from_utf8_lossy(&head[..read]).into_owned();
        if head.contains("\r\n\r\n") {
            let fault = answering(shared).await?;
            let refused = matches!(fault, Fault::Status(_) | Fault::Redirect(_) | Fault::Forbidden(Whom::Everybody));
            return match head.to_ascii_lowercase().contains("upgrade: websocket") && !refused {
                true => websocket(stream, shared, path(&head)).await,
                false => http(stream, shared).await,
            };
        }
        if read == 0 {
            return None;
        }
        tokio::task::yield_now().await;
    }
}

/// The path in the first line of a request.
fn path(head: &str) -> &str {
    head.split(' ').nth(1).unwrap_or_default()
}

/// Waits while the endpoint answers nothing.
async fn answering(shared: &Shared) -> Option<Fault> {
    let mut fault = shared.fault.subscribe();
    fault.wait_for(|fault| *fault != Fault::Stall).await.ok().map(|fault| *fault)
}

async fn http(stream: TcpStream, shared: &Shared) -> Option<()> {
    let mut stream = BufReader::new(stream);
    while let Some((head, body)) = read_message(&mut stream).await {
        let fault = answering(shared).await?;
        let request: Value = serde_json::from_slice(&body).unwrap_or_default();
        match &request {
            Value::Array(requests) => requests.iter().for_each(|request| shared.count(request)),
            request => shared.count(request),
        }
        let (status, header, text) = match refused(fault, path(&head)) {
            Some(refused) => refused,
            None if fault == Fault::Garbage => (200, String::new(), "<html>not what you asked for</html>".to_owned()),
            None => match answers::body(shared, fault, request).await? {
                Outcome::Told(answer) => (200, String::new(), answer.to_string()),
                Outcome::Forbidden => (403, String::new(), answers::forbidden(path(&head))),
                Outcome::Status(status) => (status, String::new(), String::new()),
                Outcome::Cut => return None,
                Outcome::Huge => return bytes::huge(&mut stream).await,
            },
        };
        // It may have stalled while the node answered.
        answering(shared).await?;
        let (header, mut body) = match fault {
            Fault::Gzip => (header + "content-encoding: gzip\r\n", bytes::gzip(text.as_bytes())),
            _ => (header, text.into_bytes()),
        };
        let length = body.len();
        if fault == Fault::Truncated {
            body.truncate(length / 2);
        }
        let head = format!(
            "HTTP/1.1 {status} Status\r\ncontent-type: application/json\r\n{header}content-length: {length}\r\n\r\n"
        );
        stream.write_all(&[head.into_bytes(), body].concat()).await.ok()?;
        if fault == Fault::Truncated {
            return None;
        }
    }
    None
}

/// The head and the body of a request or of an answer.
async fn read_message(stream: &mut BufReader<TcpStream>) -> Option<(String, Vec<u8>)> {
    let mut length = 0;
    let mut head = String::new();
    loop {
        let start = head.len();
        if stream.read_line(&mut head).await.ok()? == 0 {
            return None;
        }
        let line = head[start..].trim_end().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some((head, body))
}

/// What the node answers to one request, or to several in one body.
async fn ask_node(shared: &Shared, request: &Value) -> Option<Value> {
    let mut stream = BufReader::new(TcpStream::connect((Ipv4Addr::LOCALHOST, shared.node())).await.ok()?);
    let body = request.to_string();
    let head = format!(
        "POST / HTTP/1.1\r\nhost: node\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).await.ok()?;
    serde_json::from_slice(&read_message(&mut stream).await?.1).ok()
}

type Client = SplitSink<WebSocketStream<TcpStream>, Message>;

async fn websocket(stream: TcpStream, shared: &Shared, path: &str) -> Option<()> {
    let client = accept_async(stream).await.ok()?;
    let fault = *shared.fault.borrow();
    if let Fault::Flooded(flood) = fault {
        return bytes::flood(client, flood).await;
    }
    let (mut to_client, mut from_client) = client.split();
    // Only subscriptions need the node's own WebSocket.
    let node = format!("ws://127.0.0.1:{}", shared.node());
    let (mut to_node, mut from_node) = connect_async(node).await.ok()?.0.split();
    let mut injected = shared.injected.subscribe();
    let mut subscription = String::new();
    loop {
        tokio::select! {
            message = from_client.next() => match message?.ok()? {
                Message::Text(text) => {
                    let fault = answering(shared).await?;
                    let request: Value = serde_json::from_str(&text).ok()?;
                    shared.count(&request);
                    if let Fault::Status(status) = fault {
                        let error = json!({"code": status, "message": "too many requests"});
                        let refusal = json!({"jsonrpc": "2.0", "id": request["id"], "error": error});
                        to_client.send(Message::Text(refusal.to_string().into())).await.ok()?;
                        continue;
                    }
                    if matches!(fault, Fault::Flooded(_)) || refused(fault, path).is_some() {
                        return None;
                    }
                    if request["method"] == "eth_subscribe" && fault == Fault::NewHeads(Notice::Unanswered) {
                        continue;
                    }
                    if ["eth_subscribe", "eth_unsubscribe"].iter().any(|method| request["method"] == **method) {
                        to_node.send(Message::Text(request.to_string().into())).await.ok()?;
                        continue;
                    }
                    match answers::body(shared, fault, request.clone()).await? {
                        Outcome::Told(answer) => send(shared, &mut to_client, fault, answer).await?,
                        Outcome::Forbidden => {
                            let words = answers::forbidden(path);
                            // Data that begins like bytes, and is none.
                            let error = json!({"code": -32_000, "message": words, "data": format!("0x{words}")});
                            let refusal = json!({"jsonrpc": "2.0", "id": request["id"], "error": error});
                            send(shared, &mut to_client, fault, refusal).await?;
                        }
                        Outcome::Huge => bytes::huge_message(&mut to_client).await?,
                        Outcome::Status(_) | Outcome::Cut => return None,
                    }
                }
                Message::Close(_) => return None,
                Message::Ping(_) => {
                    // A dead node answers no pings; the library does it as soon as it is polled.
                    answering(shared).await?;
                    to_client.flush().await.ok()?;
                }
                _ => {}
            },
            message = from_node.next() => {
                let Message::Text(text) = message?.ok()? else { continue };
                let fault = answering(shared).await?;
                let mut told: Value = serde_json::from_str(&text).ok()?;
                if told.get("id").is_some() {
                    subscription = told["result"].as_str().unwrap_or_default().to_owned();
                } else if !answers::notice(shared, fault, &mut told["params"]["result"]).await? {
                    continue;
                }
                send(shared, &mut to_client, fault, answers::formed(fault, told)).await?;
            }
            frame = injected.recv() => {
                let frame = frame.ok()?.replace(SUBSCRIPTION, &subscription);
                to_client.send(Message::Text(frame.into())).await.ok()?;
            }
        }
    }
}

/// Sends one frame, as far as the fault lets it through.
async fn send(shared: &Shared, to_client: &mut Client, fault: Fault, told: Value) -> Option<()> {
    // It may have stalled while the node answered.
    answering(shared).await?;
    let text = match fault {
        Fault::Garbage => "not what you asked for".to_owned(),
        Fault::Truncated => {
            let mut text = told.to_string();
            text.truncate(text.len() / 2);
            text
        }
        _ => told.to_string(),
    };
    to_client.send(Message::Text(text.into())).await.ok()?;
    (fault != Fault::Truncated).then_some(())
}

fn number(value: &Value) -> u64 {
    let digits = value.as_str().map(|text| text.trim_start_matches("0x"));
    digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or(0)
}
