//! Reads at the hash of a block, of nodes that take one and of those that do not.

use std::sync::Mutex;

use nexum_host_ifaces::{HostErrorKind, interfaces::chain::port::CODE_BLOCK_GONE};

use super::*;

const HASH: &str = "0x1111111111111111111111111111111111111111111111111111111111111111";
const OTHER: &str = "0x2222222222222222222222222222222222222222222222222222222222222222";

/// What one endpoint has.
#[derive(Clone, Copy)]
enum Kind {
    /// It knows EIP-1898, and the block.
    Knows,
    /// It knows EIP-1898, and not the block.
    Lacks,
    /// It takes numbers alone.
    Numbers,
    /// The same; after the first question about state the block at that number is another one.
    Reorganized,
}

struct Endpoint {
    kind: Kind,
    asked: Arc<Mutex<Vec<String>>>,
}

#[async_trait]
impl Http for Endpoint {
    async fn post(&self, body: String, _: usize, meter: &Meter) -> Result<Reply, Broken> {
        let request: Value = serde_json::from_str(&body).unwrap();
        let answer: Value = match &request {
            Value::Array(requests) => requests.iter().map(|request| self.answer(request)).collect(),
            request => self.answer(request),
        };
        Ok(Reply { status: 200, retry_after: None, body: answer.to_string().into_bytes(), held: meter.begin() })
    }
}

impl Endpoint {
    fn answer(&self, request: &Value) -> Value {
        let (id, method, params) = (&request["id"], request["method"].as_str().unwrap(), &request["params"]);
        let (by_hash, mut asked) = (params[1]["blockHash"] == HASH, self.asked.lock().unwrap());
        let calls = asked.iter().filter(|what| what.starts_with("eth_call")).count();
        asked.push(format!("{method} {params}"));
        let error = |code: i32, message: &str| json!({"code": code, "message": message});
        let result = match (method, self.kind) {
            ("eth_call", Kind::Knows) if by_hash => Ok(json!("0x01")),
            ("eth_call", Kind::Lacks) if by_hash => Err(error(-32000, "header for hash not found")),
            ("eth_call", Kind::Numbers | Kind::Reorganized) if by_hash => {
                Err(error(-32602, "invalid argument 1: json: cannot unmarshal object into Go value of type string"))
            }
            ("eth_call", _) if params[1] == "0x7" => Ok(json!("0x07")),
            ("eth_getBlockByHash", Kind::Lacks) => Ok(Value::Null),
            ("eth_getBlockByHash", _) => Ok(json!({"number": "0x7", "hash": HASH})),
            ("eth_getBlockByNumber", Kind::Reorganized) if calls > 1 => Ok(json!({"number": "0x7", "hash": OTHER})),
            ("eth_getBlockByNumber", _) => Ok(json!({"number": "0x7", "hash": HASH})),
            _ => Err(error(-32602, "invalid argument 0: hex string without 0x prefix")),
        };
        match result {
            Ok(result) => json!({"jsonrpc": "2.0", "id": id, "result": result}),
            Err(error) => json!({"jsonrpc": "2.0", "id": id, "error": error}),
        }
    }
}

#[derive(Default)]
struct Endpoints(Vec<(Kind, Arc<Mutex<Vec<String>>>)>);

#[async_trait]
impl Dial for Endpoints {
    fn http(&self, url: &Url) -> Result<Arc<dyn Http>, String> {
        let index: usize = url.host_str().unwrap()[1..].parse().unwrap();
        let (kind, asked) = self.0[index].clone();
        Ok(Arc::new(Endpoint { kind, asked }))
    }

    async fn ws(&self, _: &Url, _: Duration, _: &Arc<Room>) -> Result<Socket, Broken> {
        Err(Broken::Lost("HTTP alone".into()))
    }
}

/// The endpoints, and what each of them is asked.
fn over(kinds: &[Kind]) -> (RpcBackend, Vec<Arc<Mutex<Vec<String>>>>) {
    let endpoints: Vec<_> = kinds.iter().map(|kind| (*kind, Arc::default())).collect();
    let asked = endpoints.iter().map(|(_, asked)| Arc::clone(asked)).collect();
    let mut config = ChainConfig::new(1, (0..kinds.len()).map(|index| format!("http://n{index}/")));
    config.max_retries = 1;
    let dial: Arc<dyn Dial> = Arc::new(Endpoints(endpoints));
    let backend = made(config, &dial, ChainMetrics::register(&Registry::new()).unwrap());
    backend.shared.update(|board, now| (0..kinds.len()).for_each(|index| board.up(index, now)));
    (backend, asked)
}

fn params() -> String {
    format!("[{{}},{{\"blockHash\":\"{HASH}\"}}]")
}

fn methods(asked: &Mutex<Vec<String>>) -> Vec<String> {
    let asked = asked.lock().unwrap();
    asked.iter().map(|what| what.split(' ').next().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_block_is_read_by_its_hash_of_whoever_has_it() {
    let (backend, asked) = over(&[Kind::Lacks, Kind::Knows]);
    assert_eq!(backend.request("eth_call", &params(), ask(5_000, 1_000)).await.unwrap(), "\"0x01\"");
    assert_eq!([methods(&asked[0]), methods(&asked[1])], [["eth_call"], ["eth_call"]]);
    let rows = backend.usage.rows();
    let counts: Vec<_> = rows.iter().map(|row| (&*row.method, row.requests, row.errors, row.bytes)).collect();
    assert_eq!(counts, [("eth_call", 1, 1, 0), ("eth_call", 1, 0, 6)]);
    // Within a batch, too.
    let batch = vec![("eth_call".to_owned(), params()), ("eth_getBlockByNumber".to_owned(), "[\"0x7\"]".to_owned())];
    let answers = backend.request_batch(batch, ask(5_000, 1_000)).await.unwrap();
    assert!(answers[1].is_ok());
    assert_eq!(answers[0].as_deref().unwrap(), "\"0x01\"");
}

#[tokio::test]
async fn an_endpoint_that_takes_numbers_alone_is_asked_by_number_between_two_looks() {
    let (backend, asked) = over(&[Kind::Numbers]);
    let looks = ["eth_getBlockByHash", "eth_getBlockByNumber", "eth_call", "eth_getBlockByNumber"];
    assert_eq!(backend.request("eth_call", &params(), ask(5_000, 1_000)).await.unwrap(), "\"0x07\"");
    assert_eq!(methods(&asked[0]), [&["eth_call"][..], &looks].concat());
    assert_eq!(backend.endpoints()[0].learnt, ["state by block number only"]);
    asked[0].lock().unwrap().clear();
    // What it refused once is not tried again.
    assert_eq!(backend.request("eth_call", &params(), ask(5_000, 1_000)).await.unwrap(), "\"0x07\"");
    assert_eq!(methods(&asked[0]), looks);
}

#[tokio::test]
async fn a_block_that_nobody_has_is_an_error_of_its_own() {
    for kind in [Kind::Lacks, Kind::Reorganized] {
        let (backend, _) = over(&[kind]);
        let error = backend.request("eth_call", &params(), ask(5_000, 1_000)).await.unwrap_err();
        assert_eq!((error.kind, error.code), (HostErrorKind::Unavailable, CODE_BLOCK_GONE));
        assert!(error.message.starts_with(&format!("block {HASH} is not on chain 1 any more")), "{}", error.message);
    }
}
