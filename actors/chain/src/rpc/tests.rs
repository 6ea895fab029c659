//! Endpoints that are behind one another, without any network.

mod everybody;
mod keys;
mod odd;
mod pinned;
mod standby;

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU16, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use nexum_host_ifaces::{clock::SystemClock, interfaces::chain::port::LogFilter};
use prometheus::Registry;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use url::Url;

use super::{Broken, Dial, Http, Meter, Reply, Room, RpcBackend, Socket};
use crate::{
    backend::{Ask, Backend, Ranged, Seen},
    config::{BloomUse, ChainConfig},
    filter::{Union, bloom_of},
    header::Header,
    metrics::ChainMetrics,
    tracker::Failure,
    usage::tests::usage,
};

/// A node with a log in every block up to its head.
#[derive(Clone, Default)]
struct Node {
    head: u64,
    /// What it answers to everything, unless it is 0.
    status: Arc<AtomicU16>,
    /// From this block on it has others than the rest.
    branches_at: Option<u64>,
    /// It has forgotten every log.
    pruned: bool,
    /// It leaves out the logs of these blocks in answers about ranges.
    leaves_out: Option<(u64, u64)>,
    /// Headers have blooms.
    blooms: bool,
    /// Some blocks have a log that their bloom does not have.
    outside: Option<u64>,
    /// It answers no range with more logs than this, in its own words.
    logs_max: Option<usize>,
    /// Those words, where they are not what others would say: the code and the message.
    words: Option<(i64, &'static str)>,
    takes_no_batches: bool,
    /// It finds no logs by the hash of their block.
    by_number_only: bool,
    /// Every third header of a batch is null, whether it has the block or not.
    nulls: bool,
    /// Whoever asks whether it syncs gets this status.
    no_syncing: Option<u16>,
    /// Logs come two from each of two transactions, with indexes that count in each.
    per_transaction: bool,
    /// So many questions for logs are answered with a server's trouble.
    logs_fail: Arc<AtomicU64>,
    /// It serves receipts, and no block has any.
    empty_receipts: bool,
    requests: Arc<AtomicU64>,
}

fn log() -> nexum_host_ifaces::types::Log {
    nexum_host_ifaces::types::Log {
        chain_id: 1,
        address: vec![],
        topics: vec![],
        data: vec![],
        block_number: 0,
        block_hash: vec![0; 32],
        block_timestamp: 0,
        transaction_hash: vec![0; 32],
        transaction_index: 0,
        log_index: 0,
    }
}

fn hash(number: u64) -> String {
    format!("0x1{number:063x}")
}

impl Node {
    fn answer(&self, method: &str, params: &Value) -> Value {
        let number = |value: &Value| {
            let text = value.as_str().unwrap_or("0x0");
            u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap()
        };
        let hash = |number: u64| match self.branches_at {
            Some(at) if number >= at => hash(number | 1 << 40),
            _ => hash(number),
        };
        match method {
            "eth_chainId" => json!("0x1"),
            "eth_blockNumber" => json!(format!("{:#x}", self.head)),
            "eth_getBlockByNumber" if params[0] == "latest" => {
                self.answer(method, &json!([format!("{:#x}", self.head)]))
            }
            "eth_getBlockByNumber" if number(&params[0]) > self.head => Value::Null,
            "eth_getBlockByNumber" => {
                let number = number(&params[0]);
                let parent = hash(number.wrapping_sub(1));
                let (number, own) = (format!("{number:#x}"), hash(number));
                let mut header = json!({"number": number, "hash": own, "parentHash": parent, "timestamp": "0x1"});
                if self.blooms {
                    let log = nexum_host_ifaces::types::Log { address: vec![0x11; 20], ..log() };
                    header["logsBloom"] = json!(bloom_of(&[log]).to_string());
                    header["gasUsed"] = json!("0x5208");
                }
                header
            }
            "eth_getLogs" if self.pruned => json!([]),
            "eth_getLogs" if self.by_number_only && params[0].get("blockHash").is_some() => json!([]),
            "eth_getLogs" => {
                let one = params[0]["blockHash"].as_str();
                let range = match one {
                    Some(hash) => {
                        let number = u64::from_str_radix(&hash[50..], 16).unwrap();
                        number..=number
                    }
                    None => number(&params[0]["fromBlock"])..=number(&params[0]["toBlock"]).min(self.head),
                };
                let log = |number: u64, address: &str, index: u64| {
                    json!({
                        "address": format!("0x{}", address.repeat(20)), "topics": [], "data": "0x",
                        "blockNumber": format!("{number:#x}"), "blockHash": hash(number), "blockTimestamp": "0x1",
                        "transactionHash": hash(number), "transactionIndex": "0x0", "logIndex": format!("{index:#x}"),
                    })
                };
                let hidden =
                    |number: u64| one.is_none() && self.leaves_out.is_some_and(|(a, b)| (a..=b).contains(&number));
                let logs: Vec<Value> = range
                    .filter(|number| !hidden(*number))
                    .flat_map(|number| {
                        let outside = (self.outside == Some(number)).then(|| log(number, "22", 1));
                        let plain = [log(number, "11", 0)].into_iter().chain(outside);
                        let other = |(at, index)| {
                            let mut log = log(number, "11", index);
                            log["transactionIndex"] = json!(format!("{at:#x}"));
                            log["transactionHash"] = json!(hash(number << 8 | at));
                            log
                        };
                        match self.per_transaction {
                            true => [(3, 0), (3, 1), (7, 0), (7, 1)].into_iter().map(other).collect::<Vec<_>>(),
                            false => plain.collect(),
                        }
                    })
                    .filter(|log| params[0].get("address").is_none() || log["logIndex"] == "0x1")
                    .collect();
                match self.logs_max {
                    Some(most) if one.is_none() && logs.len() > most => {
                        let (code, message) = self.words.unwrap_or((-32008, "Response is too big"));
                        json!({"error": code, "message": message})
                    }
                    _ => logs.into(),
                }
            }
            "eth_syncing" => json!(false),
            "eth_getBlockReceipts" if self.empty_receipts => json!([]),
            "eth_getBlockReceipts" => json!({"error": -32601, "message": "no such method"}),
            // As if it were too much to ask.
            "eth_call" => json!({"error": 429}),
            other => panic!("{other}"),
        }
    }
}

#[async_trait]
impl Http for Node {
    async fn post(&self, body: String, reply_bytes_max: usize, meter: &Meter) -> Result<Reply, Broken> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let status = self.status.load(Ordering::Relaxed);
        let respond = |request: &Value| {
            let result = self.answer(request["method"].as_str().unwrap(), &request["params"]);
            match result["error"].as_i64() {
                Some(code) => {
                    let message = result["message"].as_str().unwrap_or("too many requests");
                    json!({"jsonrpc": "2.0", "id": request["id"], "error": {"code": code, "message": message}})
                }
                None => json!({"jsonrpc": "2.0", "id": request["id"], "result": result}),
            }
        };
        let text = match serde_json::from_str(&body).unwrap() {
            _ if status != 0 => "not now".to_owned(),
            Value::Array(_) if self.takes_no_batches => {
                json!({"jsonrpc": "2.0", "id": null, "error": {"code": -32600, "message": "Invalid Request"}})
                    .to_string()
            }
            Value::Array(requests) if self.nulls => {
                let mut answers: Vec<Value> = requests.iter().map(respond).collect();
                answers.iter_mut().skip(2).step_by(3).for_each(|answer| answer["result"] = Value::Null);
                Value::Array(answers).to_string()
            }
            Value::Array(requests) => Value::Array(requests.iter().map(respond).collect()).to_string(),
            request => respond(&request).to_string(),
        };
        if text.len() > reply_bytes_max {
            return Err(Broken::TooLarge { bytes_max: reply_bytes_max });
        }
        let fail = |left: u64| left.checked_sub(1).filter(|_| body.contains("eth_getLogs"));
        let fails = self.logs_fail.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fail).is_ok();
        let status = match self.no_syncing.filter(|_| body.contains("eth_syncing")) {
            Some(status) => status,
            None if fails => 503,
            None if status == 0 => 200,
            None => status,
        };
        Ok(Reply { status, retry_after: None, body: text.into_bytes(), held: meter.begin() })
    }
}

/// Reaches the nodes by their number.
struct Nodes(Vec<Node>);

#[async_trait]
impl Dial for Nodes {
    fn http(&self, url: &Url) -> Result<Arc<dyn Http>, String> {
        let index: usize = url.host_str().unwrap().trim_start_matches('n').parse().unwrap();
        Ok(Arc::new(self.0[index].clone()))
    }

    async fn ws(&self, _: &Url, _: Duration, _: &Arc<Room>) -> Result<Socket, Broken> {
        Err(Broken::Lost("HTTP alone".into()))
    }
}

fn backend(heads: &[u64]) -> RpcBackend {
    backend_over(heads.iter().map(|head| Node { head: *head, ..Node::default() }).collect())
}

fn backend_over(nodes: Vec<Node>) -> RpcBackend {
    backend_that_polls(nodes, Duration::from_millis(5))
}

fn backend_that_polls(nodes: Vec<Node>, every: Duration) -> RpcBackend {
    let urls = (0..nodes.len()).map(|index| format!("http://n{index}/"));
    let mut config = ChainConfig::new(1, urls);
    config.poll_interval = every;
    config.stall_after = Duration::from_millis(300);
    config.bloom = Some(BloomUse::Exact);
    let nodes: Arc<dyn Dial> = Arc::new(Nodes(nodes));
    let metrics = ChainMetrics::register(&Registry::new()).unwrap();
    made(config, &nodes, metrics)
}

/// Without jitter.
fn made(config: ChainConfig, dial: &Arc<dyn Dial>, metrics: ChainMetrics) -> RpcBackend {
    let clock = Arc::new(SystemClock::default());
    RpcBackend::new(config, dial, clock, metrics, usage(), Arc::new(|| 1.0)).unwrap()
}

fn ask(deadline_ms: u64, reply_bytes_max: usize) -> Ask<'static> {
    Ask { module: "m", deadline: Duration::from_millis(deadline_ms), reply_bytes_max }
}

/// What the actor says when it has read the chain of a node.
fn follow(backend: &RpcBackend, node: &Node) {
    let header = |number: u64| (number <= node.head).then(|| header_of(node, number));
    backend.read_up_to(node.head, &header);
}

fn header_of(node: &Node, number: u64) -> Header {
    let json = node.answer("eth_getBlockByNumber", &json!([format!("{number:#x}")]));
    super::wire::header(&json.to_string()).unwrap().unwrap()
}

fn all_logs() -> Union {
    Union::of(&[LogFilter { addresses: BTreeSet::new(), topics: Default::default(), from_block: 0 }])
}

fn up(backend: &RpcBackend) {
    let count = backend.endpoints().len();
    (0..count).for_each(|index| backend.shared.update(|board, now| board.up(index, now)));
}

/// Reads a range to its end, however many answers that takes.
async fn read_all(backend: &RpcBackend, to: u64, known: &[Header]) -> Vec<u64> {
    let (mut from, mut numbers) = (1, Vec::new());
    for _ in 0..1_000 {
        let read = match backend.range_logs(from, to, &all_logs(), known).await {
            Ok(read) => read,
            // A server in trouble is asked again.
            Err(_) => continue,
        };
        numbers.extend(read.logs.iter().map(|log| log.block_number));
        from = read.to + 1;
        if from > to {
            return numbers;
        }
    }
    panic!("it does not get further than {from}")
}

/// One that tells a head far above the others' moves nobody, whatever its rank.
#[tokio::test]
async fn a_head_far_above_the_others_is_not_followed() {
    for liar in 0..3 {
        let heads: Vec<u64> = (0..3).map(|index| if index == liar { 1 << 40 } else { 160 }).collect();
        let backend = backend(&heads);
        let (heads, mut seen) = mpsc::channel::<Seen>(8);
        let mut told = async || {
            assert_eq!(seen.recv().await.unwrap().header.number, 160);
            // It is demoted once the others were heard again.
            while backend.endpoints()[liar].healthy {
                let head = tokio::time::timeout(Duration::from_millis(20), seen.recv()).await;
                assert!(head.is_err() || head.unwrap().unwrap().header.number == 160);
            }
        };
        tokio::select! {
            () = backend.follow(heads) => panic!("it follows for ever"),
            () = told() => {}
        }
        let endpoints = backend.endpoints();
        assert_eq!(backend.best_head(), Some(160));
        assert!(!endpoints[liar].healthy, "{endpoints:?}");
        let said = endpoints[liar].last_error.as_deref().unwrap_or_default();
        assert!(said.contains("far above"), "{said}");
        assert_eq!(endpoints.iter().filter(|endpoint| endpoint.healthy).count(), 2, "{endpoints:?}");
    }
}

/// What a module asks and is refused says nothing of the chain.
#[tokio::test]
async fn what_a_module_is_refused_does_not_take_the_chain_down() {
    for status in [403, 500, 503, 429] {
        let node = Node { head: 4, ..Node::default() };
        let failing = node.status.clone();
        let backend = backend_over(vec![node]);
        up(&backend);
        failing.store(status, Ordering::Relaxed);
        for _ in 0..10 {
            assert!(backend.request("eth_call", "[]", ask(50, 1_000)).await.is_err());
        }
        let endpoint = &backend.endpoints()[0];
        assert!(endpoint.healthy && endpoint.score == 100, "{status}: {endpoint:?}");
    }
}

/// An answer is not longer than the module may have, and is not read further.
#[tokio::test]
async fn a_reply_is_bounded_while_it_is_read() {
    let backend = backend(&[4]);
    up(&backend);
    let params = format!(r#"["{}"]"#, "x".repeat(10));
    let asked = backend.request("eth_getBlockByNumber", r#"["0x1"]"#, ask(1_000, 1_000)).await;
    assert!(asked.is_ok(), "{asked:?} {params}");
    let logs = r#"[{"fromBlock":"0x0","toBlock":"0x4"}]"#;
    let backend = backend_over(vec![Node { head: 400, ..Node::default() }]);
    up(&backend);
    let most = 70_000;
    let error = backend.request("eth_getLogs", &logs.replace("0x4", "0x190"), ask(1_000, most)).await;
    let error = error.unwrap_err();
    assert_eq!(error.kind, nexum_host_ifaces::HostErrorKind::InvalidInput);
    assert!(error.message.contains("larger than"), "{}", error.message);
}

/// A node that has not seen the end of a range yet answers without error, and leaves out what it does not have.
#[tokio::test]
async fn a_range_is_read_from_a_node_that_has_all_of_it() {
    let all = LogFilter { addresses: BTreeSet::new(), topics: Default::default(), from_block: 0 };
    let union = Union::of(&[all]);
    for told in [None, Some(4), Some(9)] {
        let backend = backend(&[4, 9]);
        if let Some(head) = told {
            backend.shared.update(|board, now| board.head(0, head, now));
        }
        let Ranged { logs, end_hash: end, .. } = backend.range_logs(1, 9, &union, &[]).await.unwrap();
        let numbers: Vec<u64> = logs.iter().map(|log| log.block_number).collect();
        assert_eq!(numbers, (1..=9).collect::<Vec<_>>(), "the first endpoint told {told:?}");
        assert_eq!(end.to_string(), hash(9));
    }
    let error = backend(&[4, 5]).range_logs(1, 9, &union, &[]).await.unwrap_err();
    assert_eq!(error, Failure::Failed("http://n1:80 does not have block 9".into()));
}

/// Whoever is followed and fails is left for the next one; it is down only when it cannot be reached.
#[tokio::test]
async fn the_followed_endpoint_is_left_when_it_asks_for_a_pause_and_when_it_fails() {
    for (status, connected) in [(429, true), (500, false)] {
        let nodes = [4, 9].map(|head| Node { head, ..Node::default() });
        let failing = nodes[0].status.clone();
        let backend = backend_over(nodes.to_vec());
        let (heads, mut seen) = mpsc::channel::<Seen>(8);
        let mut next = async || seen.recv().await.unwrap().header.number;
        tokio::select! {
            () = backend.follow(heads) => panic!("it follows for ever"),
            () = async {
                // Whoever connects first leads until the preferred one is there.
                while next().await != 4 {}
                failing.store(status, Ordering::Relaxed);
                while next().await != 9 {}
            } => {}
        }
        let [first, second] = &*backend.endpoints() else { panic!("two endpoints") };
        assert!(second.leads && first.connected == connected && !first.healthy, "{status}: {first:?}");
        // While the other one is not believed yet it goes on being asked.
        let expected = if connected { (1, true) } else { (0, true) };
        assert_eq!((first.demotions, first.score < 90), expected, "{status}: {first:?}");
        let said = first.last_error.as_deref().unwrap_or_default();
        assert!(said.contains(&status.to_string()), "{said}");
    }
}

#[tokio::test]
async fn logs_of_a_range_that_one_node_has_forgotten_are_found_at_another() {
    let all = LogFilter { addresses: BTreeSet::new(), topics: Default::default(), from_block: 0 };
    let union = Union::of(&[all]);
    let node = |pruned| Node { head: 9, pruned, ..Node::default() };
    let backend = backend_over(vec![node(true), node(false)]);
    (0..2).for_each(|index| backend.shared.update(|board, now| board.up(index, now)));
    let logs = backend.range_logs(1, 9, &union, &[]).await.unwrap().logs;
    assert_eq!(logs.len(), 9);
    let [first, second] = &*backend.endpoints() else { panic!("two endpoints") };
    assert!(!first.healthy && first.demotions > 0 && second.healthy, "{first:?} {second:?}");
    assert_eq!(first.last_error.as_deref(), Some("a wrong answer: a block's logs were left out"));
    // When both have none there is none; whoever cannot be reached is not asked.
    for (nodes, up) in [([node(true), node(true)], 2), ([node(true), node(false)], 1)] {
        let backend = backend_over(nodes.to_vec());
        (0..up).for_each(|index| backend.shared.update(|board, now| board.up(index, now)));
        let Ranged { logs, end_hash: end, .. } = backend.range_logs(1, 9, &union, &[]).await.unwrap();
        assert_eq!((logs.len(), end.to_string()), (0, hash(9)));
        assert_eq!(backend.endpoints()[0].demotions, 0);
    }
}

#[tokio::test]
async fn what_modules_ask_too_often_moves_nobody_elsewhere() {
    let backend = backend(&[4, 4]);
    (0..2).for_each(|index| backend.shared.update(|board, now| board.up(index, now)));
    let error = backend.request("eth_call", "[]", ask(5_000, 1_000)).await.unwrap_err();
    assert_eq!(error.kind, nexum_host_ifaces::HostErrorKind::RateLimited);
    let [first, second] = &*backend.endpoints() else { panic!("two endpoints") };
    assert!(first.healthy && first.leads && first.demotions == 0 && second.healthy, "{first:?} {second:?}");
    assert!(first.last_error.is_some(), "it is told");
}

/// The odd one out is demoted: one that stands by, or the one that is followed.
#[tokio::test]
async fn an_endpoint_with_other_blocks_than_the_rest_is_demoted() {
    for odd in [0, 1] {
        let node = |index| Node { head: 9, branches_at: (index == odd).then_some(5), ..Node::default() };
        let backend = backend_over((0..3).map(node).collect());
        let followed = Node { head: 9, branches_at: (odd == 0).then_some(5), ..Node::default() };
        let demoted = async {
            loop {
                // As the actor does with each head that it takes in.
                follow(&backend, &followed);
                if let Some(index) = backend.endpoints().iter().position(|endpoint| endpoint.demotions > 0) {
                    return index;
                }
                tokio::task::yield_now().await;
            }
        };
        let (heads, mut seen) = mpsc::channel(8);
        tokio::select! {
            () = backend.follow(heads) => panic!("it follows for ever"),
            () = async { while seen.recv().await.is_some() {} } => panic!("it stopped following"),
            index = demoted => assert_eq!(index, odd),
        }
        let error = backend.endpoints()[odd].last_error.clone().unwrap();
        assert!(error.contains("its block 6 is not that of the other endpoints"), "{error}");
    }
}

/// An endpoint that is stuck on a branch which everybody else has left answers what nothing links to the chain.
#[tokio::test]
async fn history_is_read_from_whoever_is_on_the_followed_chain() {
    let all = LogFilter { addresses: BTreeSet::new(), topics: Default::default(), from_block: 0 };
    let union = Union::of(&[all]);
    let node = |branches_at| Node { head: 9, branches_at, ..Node::default() };
    let backend = backend_over(vec![node(Some(2)), node(None)]);
    follow(&backend, &node(None));
    let found = backend.history(&[3, 4]).await.unwrap();
    assert_eq!(found.iter().map(|header| header.hash.to_string()).collect::<Vec<_>>(), [hash(3), hash(4)]);
    let Ranged { logs, end_hash: end, .. } = backend.range_logs(1, 5, &union, &[]).await.unwrap();
    assert_eq!((logs.len(), end.to_string()), (5, hash(5)));
    assert!(logs.iter().all(|log| log.block_hash[27] == 0), "{logs:?}");
    // A head is followed wherever it leads.
    assert_ne!(backend.headers(&[3]).await.unwrap()[0].hash.to_string(), hash(3));
}
