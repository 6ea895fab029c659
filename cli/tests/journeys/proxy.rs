//! A proxy in front of a real node, HTTP and WebSocket on one port, that misbehaves as it is told.
//!
//! It runs on a thread of its own. What it passes on it takes from the node; only faults are made up.

use std::{
    collections::HashMap,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    sync::{broadcast, watch},
    task::JoinSet,
};
use tokio_tungstenite::{
    accept_async, connect_async,
    tungstenite::{Message, Utf8Bytes},
};

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
    /// Its blocks have other hashes than the node's, asked for by number.
    OtherBranch,
    Logs(Lie),
}

/// How an endpoint lies about logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// There are none.
    Empty,
    /// They are of another block.
    OtherBlock,
    /// One more, that the block's bloom excludes.
    Invented,
    /// All are marked as removed.
    Removed,
    /// The first is left out.
    LeftOut,
}

struct Shared {
    node: u16,
    fault: watch::Sender<Fault>,
    /// Frames for every open WebSocket; `SUBSCRIPTION` stands for the id of the client's subscription.
    injected: broadcast::Sender<String>,
    requests: AtomicU64,
}

/// Stands in an injected frame for the subscription's id.
pub const SUBSCRIPTION: &str = "{subscription}";

pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    /// Ends every task when it is dropped.
    _runtime: Runtime,
}

impl Proxy {
    /// A proxy before the node at this port of the loopback.
    pub fn before(node: u16) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let shared = Arc::new(Shared {
            node,
            fault: watch::channel(Fault::None).0,
            injected: broadcast::channel(16).0,
            requests: AtomicU64::new(0),
        });
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let port = listener.local_addr().unwrap().port();
        runtime.spawn(serve(listener, shared.clone()));
        Self { port, shared, _runtime: runtime }
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

    /// Sends a frame to every client of a WebSocket; how many there are.
    pub fn inject(&self, frame: &Value) -> usize {
        self.shared.injected.send(frame.to_string()).unwrap_or(0)
    }

    /// Requests that reached it, whatever became of them.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
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
        let head = String::from_utf8_lossy(&head[..read]).to_ascii_lowercase();
        if head.contains("\r\n\r\n") {
            answering(shared).await?;
            let refused = matches!(*shared.fault.borrow(), Fault::Status(_));
            return match head.contains("upgrade: websocket") && !refused {
                true => websocket(stream, shared).await,
                false => http(stream, shared).await,
            };
        }
        if read == 0 {
            return None;
        }
        tokio::task::yield_now().await;
    }
}

/// Waits while the endpoint answers nothing.
async fn answering(shared: &Shared) -> Option<Fault> {
    let mut fault = shared.fault.subscribe();
    fault.wait_for(|fault| *fault != Fault::Stall).await.ok().map(|fault| *fault)
}

async fn http(stream: TcpStream, shared: &Shared) -> Option<()> {
    let mut stream = BufReader::new(stream);
    while let Some(body) = read_body(&mut stream).await {
        shared.requests.fetch_add(1, Ordering::Relaxed);
        let fault = answering(shared).await?;
        let (status, text) = match fault {
            Fault::Status(status) => (status, "go away".to_owned()),
            Fault::Garbage => (200, "<html>not what you asked for</html>".to_owned()),
            fault => {
                let request: Value = serde_json::from_slice(&body).ok()?;
                let answer = match request {
                    Value::Array(requests) => {
                        let mut answers = Vec::new();
                        for request in requests {
                            answers.push(answer(shared, fault, request).await?);
                        }
                        Value::Array(answers)
                    }
                    request => answer(shared, fault, request).await?,
                };
                (200, answer.to_string())
            }
        };
        // It may have stalled while the node answered.
        answering(shared).await?;
        let retry = if status == 429 { "retry-after: 1\r\n" } else { "" };
        let length = text.len();
        let head = format!(
            "HTTP/1.1 {status} Status\r\ncontent-type: application/json\r\n{retry}content-length: {length}\r\n\r\n"
        );
        let sent = if fault == Fault::Truncated { &text[..length / 2] } else { &text };
        stream.write_all((head + sent).as_bytes()).await.ok()?;
        if fault == Fault::Truncated {
            return None;
        }
    }
    None
}

/// The body of a request or of an answer.
async fn read_body(stream: &mut BufReader<TcpStream>) -> Option<Vec<u8>> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let line = line.trim_end().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(body)
}

/// The node's answer to one request, as the fault would have it.
async fn answer(shared: &Shared, fault: Fault, mut request: Value) -> Option<Value> {
    alter_request(fault, &mut request);
    let mut stream = BufReader::new(TcpStream::connect((Ipv4Addr::LOCALHOST, shared.node)).await.ok()?);
    let body = request.to_string();
    let head = format!(
        "POST / HTTP/1.1\r\nhost: node\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).await.ok()?;
    let mut answer: Value = serde_json::from_slice(&read_body(&mut stream).await?).ok()?;
    alter_answer(fault, &request, &mut answer);
    Some(answer)
}

async fn websocket(stream: TcpStream, shared: &Shared) -> Option<()> {
    let (mut to_client, mut from_client) = accept_async(stream).await.ok()?.split();
    let node = format!("ws://127.0.0.1:{}", shared.node);
    let (mut to_node, mut from_node) = connect_async(node).await.ok()?.0.split();
    let mut injected = shared.injected.subscribe();
    let mut requests: HashMap<String, Value> = HashMap::new();
    let mut subscription = String::new();
    loop {
        tokio::select! {
            message = from_client.next() => match message?.ok()? {
                Message::Text(text) => {
                    shared.requests.fetch_add(1, Ordering::Relaxed);
                    let fault = answering(shared).await?;
                    let mut request: Value = serde_json::from_str(&text).ok()?;
                    if let Fault::Status(status) = fault {
                        let error = json!({"code": status, "message": "too many requests"});
                        let refusal = json!({"jsonrpc": "2.0", "id": request["id"], "error": error});
                        to_client.send(Message::Text(refusal.to_string().into())).await.ok()?;
                        continue;
                    }
                    alter_request(fault, &mut request);
                    requests.insert(request["id"].to_string(), request.clone());
                    to_node.send(Message::Text(request.to_string().into())).await.ok()?;
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
                let mut answer: Value = serde_json::from_str(&text).ok()?;
                match requests.remove(&answer["id"].to_string()) {
                    Some(request) => {
                        alter_answer(fault, &request, &mut answer);
                        if request["method"] == "eth_subscribe" {
                            subscription = answer["result"].as_str().unwrap_or_default().to_owned();
                        }
                    }
                    // A head that an endpoint which is behind has not seen yet.
                    None if matches!(fault, Fault::Behind(at) if number(&answer["params"]["result"]["number"]) > at) => {
                        continue;
                    }
                    None => {}
                }
                let text: Utf8Bytes = match fault {
                    Fault::Garbage => "not what you asked for".into(),
                    Fault::Truncated => {
                        let text = answer.to_string();
                        let half = text[..text.len() / 2].to_owned();
                        to_client.send(Message::Text(half.into())).await.ok()?;
                        return None;
                    }
                    _ => answer.to_string().into(),
                };
                to_client.send(Message::Text(text)).await.ok()?;
            }
            frame = injected.recv() => {
                let frame = frame.ok()?.replace(SUBSCRIPTION, &subscription);
                to_client.send(Message::Text(frame.into())).await.ok()?;
            }
        }
    }
}

fn number(value: &Value) -> u64 {
    let digits = value.as_str().map(|text| text.trim_start_matches("0x"));
    digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or(0)
}

/// An endpoint that is behind has an older `latest`.
fn alter_request(fault: Fault, request: &mut Value) {
    if let Fault::Behind(at) = fault
        && request["method"] == "eth_getBlockByNumber"
        && request["params"][0] == "latest"
    {
        request["params"][0] = json!(format!("{at:#x}"));
    }
}

fn alter_answer(fault: Fault, request: &Value, answer: &mut Value) {
    let method = request["method"].as_str().unwrap_or_default();
    match (fault, method) {
        (Fault::OtherBranch, "eth_getBlockByNumber") if request["params"][0] != "latest" => {
            let hash = answer["result"]["hash"].as_str().unwrap_or_default();
            let other = hash.chars().rev().collect::<String>().trim_end_matches("x0").to_owned();
            answer["result"]["hash"] = json!(format!("0x{other}"));
        }
        (Fault::Behind(at), "eth_blockNumber") => answer["result"] = json!(format!("{at:#x}")),
        (Fault::Behind(at), "eth_getBlockByNumber" | "eth_getBlockByHash")
            if number(&answer["result"]["number"]) > at =>
        {
            answer["result"] = Value::Null;
        }
        (Fault::Behind(at), "eth_getLogs") => {
            let known = |log: &Value| number(&log["blockNumber"]) <= at;
            let logs = answer["result"].as_array().cloned().unwrap_or_default();
            if request["params"][0].get("blockHash").is_some() && !logs.iter().all(known) {
                let error = json!({"code": -32000, "message": "unknown block"});
                *answer = json!({"jsonrpc": "2.0", "id": answer["id"], "error": error});
            } else {
                answer["result"] = logs.into_iter().filter(known).collect();
            }
        }
        (Fault::Logs(lie), "eth_getLogs") => {
            if let Some(logs) = answer["result"].as_array_mut() {
                alter_logs(lie, logs);
            }
        }
        _ => {}
    }
}

fn alter_logs(lie: Lie, logs: &mut Vec<Value>) {
    match lie {
        Lie::Empty => logs.clear(),
        Lie::OtherBlock => {
            for log in logs {
                log["blockHash"] = json!(format!("0x{}", "ab".repeat(32)));
            }
        }
        Lie::Invented => {
            if let Some(mut log) = logs.last().cloned() {
                log["logIndex"] = json!(format!("{:#x}", number(&log["logIndex"]) + 1));
                log["topics"] = json!([format!("0x{}", "cd".repeat(32))]);
                logs.push(log);
            }
        }
        Lie::Removed => {
            for log in logs {
                log["removed"] = json!(true);
            }
        }
        Lie::LeftOut => {
            if !logs.is_empty() {
                logs.remove(0);
            }
        }
    }
}
