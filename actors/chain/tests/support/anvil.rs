//! Real nodes, and what stands between them and the actor: a socket that can be cut or stalled, and a node that lies.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use alloy::transports::http::reqwest;
use nexum_host_ifaces::Hash;
use nexum_testkit::{anvil, free_port};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

/// An account that every Anvil has unlocked.
pub const SENDER: &str = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266";
/// Logs its call data with one topic, 0x2a.
pub const LOGGER: &str = "0x00000000000000000000000000000000000a0001";
const LOGGER_CODE: &str = "0x365f5f37602a365fa100";
/// Reverts with the word 0x2a.
pub const REVERTER: &str = "0x00000000000000000000000000000000000a0002";
const REVERTER_CODE: &str = "0x602a5f5260205ffd";

pub struct Anvil {
    child: Child,
    pub port: u16,
    arguments: Vec<String>,
    client: reqwest::Client,
}

/// Starts the node and waits until it listens. The launcher may be a script, so the node gets its own process group.
fn launch(port: u16, arguments: &[String]) -> Child {
    use std::os::unix::process::CommandExt;
    let mut child = anvil(port)
        .args(["--order", "fifo"])
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("cannot start anvil: `npm i @foundry-rs/anvil@1.7.1` in ~/.cache/nexum/npm (`make test-deps`), or set NEXUM_ANVIL");
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let listens = lines.by_ref().map_while(Result::ok).any(|line| line.contains("Listening on"));
    assert!(listens, "anvil did not start on port {port}");
    std::thread::spawn(move || lines.for_each(drop));
    child
}

impl Anvil {
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    pub async fn start_with(arguments: &[&str]) -> Self {
        let arguments: Vec<String> = arguments.iter().map(|argument| argument.to_string()).collect();
        let port = free_port();
        let child = launch(port, &arguments);
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let anvil = Self { child, port, arguments, client };
        anvil.rpc("anvil_setCode", json!([LOGGER, LOGGER_CODE])).await;
        anvil.rpc("anvil_setCode", json!([REVERTER, REVERTER_CODE])).await;
        anvil
    }

    pub fn http(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn ws(&self) -> String {
        format!("ws://127.0.0.1:{}", self.port)
    }

    pub async fn rpc(&self, method: &str, params: Value) -> Value {
        let request = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        let response = self.client.post(self.http()).json(&request).send().await.unwrap();
        let answer: Value = response.json().await.unwrap();
        assert!(answer.get("error").is_none(), "{method}: {answer}");
        answer["result"].clone()
    }

    /// Queues a transaction that logs `data`.
    pub async fn log(&self, data: u64) {
        let data = format!("{data:#066x}");
        self.rpc("eth_sendTransaction", json!([{"from": SENDER, "to": LOGGER, "data": data, "gas": "0x186a0"}])).await;
    }

    pub async fn mine(&self, blocks: u64) {
        self.rpc("anvil_mine", json!([format!("{blocks:#x}")])).await;
    }

    /// Mines blocks of which every third logs twice.
    pub async fn mine_with_logs(&self, blocks: u64) {
        for nth in 0..blocks {
            if nth % 3 == 0 {
                self.log(nth).await;
                self.log(nth + 1_000).await;
            }
            self.mine(1).await;
        }
    }

    pub async fn head(&self) -> (u64, Hash) {
        let block = self.rpc("eth_getBlockByNumber", json!(["latest", false])).await;
        number_and_hash(&block)
    }

    /// Number and hash of the canonical blocks.
    pub async fn hashes(&self, from: u64) -> Vec<(u64, Hash)> {
        let (head, _) = self.head().await;
        let mut hashes = vec![];
        for number in from..=head {
            let block = self.rpc("eth_getBlockByNumber", json!([format!("{number:#x}"), false])).await;
            hashes.push(number_and_hash(&block));
        }
        hashes
    }

    /// Block number, log index and data of every log.
    pub async fn logs(&self, from: u64) -> Vec<(u64, u32, Vec<u8>)> {
        let logs = self.rpc("eth_getLogs", json!([{"fromBlock": format!("{from:#x}"), "toBlock": "latest"}])).await;
        let logs = logs.as_array().unwrap().iter().map(|log| {
            let data = hex::decode(log["data"].as_str().unwrap().trim_start_matches("0x")).unwrap();
            (quantity(&log["blockNumber"]), quantity(&log["logIndex"]) as u32, data)
        });
        logs.collect()
    }

    pub fn signal(&self, name: &str) {
        let group = format!("-{}", self.child.id());
        let status = Command::new("kill").args([&format!("-{name}"), "--", &group]).status().unwrap();
        assert!(status.success());
    }

    /// Ends the node in good order, so that it writes its state.
    pub fn stop(&mut self) {
        self.signal("TERM");
        self.child.wait().unwrap();
    }

    pub fn kill(&mut self) {
        self.signal("KILL");
        self.child.wait().unwrap();
    }

    pub fn start_again(&mut self) {
        self.child = launch(self.port, &self.arguments);
    }
}

impl Drop for Anvil {
    fn drop(&mut self) {
        if self.child.try_wait().unwrap().is_none() {
            self.kill();
        }
    }
}

fn quantity(value: &Value) -> u64 {
    u64::from_str_radix(value.as_str().unwrap().trim_start_matches("0x"), 16).unwrap()
}

fn number_and_hash(block: &Value) -> (u64, Hash) {
    (quantity(&block["number"]), block["hash"].as_str().unwrap().parse().unwrap())
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Open,
    /// Connections are cut, new ones too.
    Cut,
    /// Connections stay, nothing passes.
    Stalled,
}

/// A socket in front of a node.
pub struct Relay {
    pub port: u16,
    mode: watch::Sender<Mode>,
    _tasks: JoinSet<()>,
}

impl Relay {
    pub async fn to(node: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (mode, watched) = watch::channel(Mode::Open);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(relay(client, node, watched.clone()));
            }
        });
        Self { port, mode, _tasks: tasks }
    }

    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    pub fn http(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn ws(&self) -> String {
        format!("ws://127.0.0.1:{}", self.port)
    }
}

async fn relay(mut client: TcpStream, node: u16, mut mode: watch::Receiver<Mode>) {
    let Ok(mut node) = TcpStream::connect(("127.0.0.1", node)).await else { return };
    let (mut up, mut down) = (vec![0; 65_536], vec![0; 65_536]);
    loop {
        let current = *mode.borrow_and_update();
        match current {
            Mode::Cut => return,
            Mode::Stalled => {
                if mode.wait_for(|mode| *mode != Mode::Stalled).await.is_err() {
                    return;
                }
                continue;
            }
            Mode::Open => {}
        }
        tokio::select! {
            changed = mode.changed() => if changed.is_err() { return },
            read = client.read(&mut up) => match read {
                Ok(count) if count > 0 && node.write_all(&up[..count]).await.is_ok() => {}
                _ => return,
            },
            read = node.read(&mut down) => match read {
                Ok(count) if count > 0 && client.write_all(&down[..count]).await.is_ok() => {}
                _ => return,
            },
        }
    }
}

/// A node over HTTP whose answers are changed on the way: `change` gets each request and its answer.
pub struct Liar {
    pub port: u16,
    pub posts: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Liar {
    pub async fn before(node: &Anvil, change: impl Fn(&Value, &mut Value) + Send + Sync + Clone + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let posts = Arc::new(AtomicUsize::new(0));
        let (node, client, counter) = (node.http(), node.client.clone(), posts.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (node, client, counter, change) = (node.clone(), client.clone(), counter.clone(), change.clone());
                connections.spawn(async move {
                    let mut stream = tokio::io::BufReader::new(stream);
                    while let Some(body) = read_post(&mut stream).await {
                        counter.fetch_add(1, Ordering::SeqCst);
                        let request: Value = serde_json::from_slice(&body).unwrap();
                        let Ok(response) = client.post(&node).json(&request).send().await else { return };
                        let mut answer: Value = response.json().await.unwrap();
                        match (&request, &mut answer) {
                            (Value::Array(requests), Value::Array(answers)) => {
                                for (request, answer) in requests.iter().zip(answers) {
                                    change(request, answer);
                                }
                            }
                            (request, answer) => change(request, answer),
                        }
                        let body = answer.to_string();
                        let head = format!(
                            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
                            body.len()
                        );
                        if stream.write_all((head + &body).as_bytes()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { port, posts, _tasks: tasks }
    }

    pub fn http(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

async fn read_post(stream: &mut tokio::io::BufReader<TcpStream>) -> Option<Vec<u8>> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let line = line.trim_end().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(body)
}
