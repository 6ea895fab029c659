//! Endpoints that are behind one another, without any network.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use alloy::{
    pubsub::ConnectionHandle,
    rpc::json_rpc::{ErrorPayload, RequestPacket, Response, ResponsePacket, ResponsePayload},
    transports::{BoxTransport, TransportError, TransportErrorKind, TransportFut, TransportResult},
};
use async_trait::async_trait;
use nexum_host_ifaces::{chain::LogFilter, clock::SystemClock};
use prometheus::Registry;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tower::Service;
use url::Url;

use super::{Dial, RpcBackend};
use crate::{
    backend::{Backend, Seen},
    config::ChainConfig,
    filter::Union,
    metrics::ChainMetrics,
    tracker::Failure,
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
}

fn hash(number: u64) -> String {
    format!("0x{number:064x}")
}

impl Node {
    fn answer(&self, method: &str, params: &Value) -> Value {
        let number = |value: &Value| {
            let text = value.as_str().unwrap_or_default();
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
                json!({"number": number, "hash": own, "parentHash": parent, "timestamp": "0x1"})
            }
            "eth_getLogs" if self.pruned => json!([]),
            "eth_getLogs" => {
                let range = number(&params[0]["fromBlock"])..=number(&params[0]["toBlock"]).min(self.head);
                let log = |number: u64| {
                    json!({
                        "address": format!("0x{}", "11".repeat(20)), "topics": [], "data": "0x",
                        "blockNumber": format!("{number:#x}"), "blockHash": hash(number), "blockTimestamp": "0x1",
                        "transactionHash": hash(number), "transactionIndex": "0x0", "logIndex": "0x0",
                    })
                };
                range.map(log).collect()
            }
            // As if it were too much to ask.
            "eth_call" => json!({"error": 429}),
            other => panic!("{other}"),
        }
    }
}

impl Service<RequestPacket> for Node {
    type Response = ResponsePacket;
    type Error = TransportError;
    type Future = TransportFut<'static>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, packet: RequestPacket) -> Self::Future {
        let status = self.status.load(Ordering::Relaxed);
        if status != 0 {
            return Box::pin(async move { Err(TransportErrorKind::http_error(status, "not now".into())) });
        }
        let respond = |text: &str| {
            let request: Value = serde_json::from_str(text).unwrap();
            let result = self.answer(request["method"].as_str().unwrap(), &request["params"]);
            let payload = match result["error"].as_i64() {
                Some(code) => {
                    ResponsePayload::Failure(ErrorPayload { code, message: "too many requests".into(), data: None })
                }
                None => ResponsePayload::Success(serde_json::value::to_raw_value(&result).unwrap()),
            };
            Response { id: serde_json::from_value(request["id"].clone()).unwrap(), payload }
        };
        let answer = match packet {
            RequestPacket::Single(request) => ResponsePacket::Single(respond(request.serialized().get())),
            RequestPacket::Batch(requests) => {
                ResponsePacket::Batch(requests.iter().map(|request| respond(request.serialized().get())).collect())
            }
        };
        Box::pin(async move { Ok(answer) })
    }
}

/// Reaches the nodes by their number.
struct Nodes(Vec<Node>);

#[async_trait]
impl Dial for Nodes {
    fn http(&self, url: &Url) -> Result<BoxTransport, String> {
        let index: usize = url.host_str().unwrap().trim_start_matches('n').parse().unwrap();
        Ok(BoxTransport::new(self.0[index].clone()))
    }

    async fn ws(&self, _: &str, _: Duration) -> TransportResult<ConnectionHandle> {
        Err(TransportErrorKind::custom_str("HTTP alone"))
    }
}

fn backend(heads: &[u64]) -> RpcBackend {
    backend_over(heads.iter().map(|head| Node { head: *head, ..Node::default() }).collect())
}

fn backend_over(nodes: Vec<Node>) -> RpcBackend {
    let urls = (0..nodes.len()).map(|index| format!("http://n{index}/"));
    let mut config = ChainConfig::new(1, urls);
    config.poll_interval = Duration::from_millis(5);
    config.stall_after = Duration::from_millis(300);
    let nodes: Arc<dyn Dial> = Arc::new(Nodes(nodes));
    let metrics = ChainMetrics::register(&Registry::new()).unwrap();
    RpcBackend::new(config, &nodes, Arc::new(SystemClock::default()), metrics).unwrap()
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
        let (logs, end) = backend.range_logs(1, 9, &union).await.unwrap();
        let numbers: Vec<u64> = logs.iter().map(|log| log.block_number).collect();
        assert_eq!(numbers, (1..=9).collect::<Vec<_>>(), "the first endpoint told {told:?}");
        assert_eq!(end.to_string(), hash(9));
    }
    let error = backend(&[4, 5]).range_logs(1, 9, &union).await.unwrap_err();
    assert_eq!(error, Failure::Failed("an endpoint does not have block 9".into()));
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
        let expected = if connected { (1, 87) } else { (0, 0) };
        assert_eq!((first.demotions, first.score), expected, "{status}: {first:?}");
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
    let (logs, _) = backend.range_logs(1, 9, &union).await.unwrap();
    assert_eq!(logs.len(), 9);
    let [first, second] = &*backend.endpoints() else { panic!("two endpoints") };
    assert!(!first.healthy && first.demotions == 1 && second.healthy, "{first:?} {second:?}");
    assert_eq!(first.last_error.as_deref(), Some("a wrong answer: logs of a range were left out"));
    // When both have none there is none; whoever cannot be reached is not asked.
    for (nodes, up) in [([node(true), node(true)], 2), ([node(true), node(false)], 1)] {
        let backend = backend_over(nodes.to_vec());
        (0..up).for_each(|index| backend.shared.update(|board, now| board.up(index, now)));
        let (logs, end) = backend.range_logs(1, 9, &union).await.unwrap();
        assert_eq!((logs.len(), end.to_string()), (0, hash(9)));
        assert_eq!(backend.endpoints()[0].demotions, 0);
    }
}

#[tokio::test]
async fn what_modules_ask_too_often_moves_nobody_elsewhere() {
    let backend = backend(&[4, 4]);
    (0..2).for_each(|index| backend.shared.update(|board, now| board.up(index, now)));
    let error = backend.request("eth_call", "[]", Duration::from_secs(5)).await.unwrap_err();
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
        let hash = followed.answer("eth_getBlockByNumber", &json!(["0x6"]))["hash"].as_str().unwrap().to_owned();
        let hash: alloy::primitives::B256 = hash.parse().unwrap();
        let demoted = async {
            loop {
                // As the actor does with each head that it takes in.
                backend.read_up_to(9, Some((6, nexum_host_ifaces::Hash(hash.0))));
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
    let settled: alloy::primitives::B256 = hash(6).parse().unwrap();
    backend.read_up_to(9, Some((6, nexum_host_ifaces::Hash(settled.0))));
    let found = backend.history(&[3, 4]).await.unwrap();
    assert_eq!(found.iter().map(|header| header.hash.to_string()).collect::<Vec<_>>(), [hash(3), hash(4)]);
    let (logs, end) = backend.range_logs(1, 5, &union).await.unwrap();
    assert_eq!((logs.len(), end.to_string()), (5, hash(5)));
    assert!(logs.iter().all(|log| log.block_hash[27] == 0), "{logs:?}");
    // A head is followed wherever it leads.
    assert_ne!(backend.headers(&[3]).await.unwrap()[0].hash.to_string(), hash(3));
}
