//! What every endpoint is asked for itself.

use std::sync::Mutex;

use nexum_host_ifaces::interfaces::chain::port::EndpointAnswer;

use super::*;

/// What arrived, by host, and what is answered to a transaction.
#[derive(Clone, Default)]
struct Pool {
    arrived: Arc<Mutex<Vec<(String, String)>>>,
    host: String,
}

#[async_trait]
impl Http for Pool {
    async fn post(&self, body: String, _: usize, meter: &Meter) -> Result<Reply, Broken> {
        let request: Value = serde_json::from_str(&body).unwrap();
        let what = format!("{} {}", request["method"].as_str().unwrap(), request["params"]);
        self.arrived.lock().unwrap().push((self.host.clone(), what));
        let (id, key) = (&request["id"], "AbCdEf0123456789");
        let answer = match self.host.as_str() {
            "n0" => json!({"jsonrpc": "2.0", "id": id, "result": "0xab"}),
            "n1" => {
                json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32000, "message": format!("already known {key}")}})
            }
            _ => json!({"jsonrpc": "2.0", "id": id, "result": "0xrelayed"}),
        };
        Ok(Reply { status: 200, retry_after: None, body: answer.to_string().into_bytes(), held: meter.begin() })
    }
}

#[async_trait]
impl Dial for Pool {
    fn http(&self, url: &Url) -> Result<Arc<dyn Http>, String> {
        Ok(Arc::new(Self { host: url.host_str().unwrap().to_owned(), ..self.clone() }))
    }

    async fn ws(&self, _: &Url, _: Duration, _: &Arc<Room>) -> Result<Socket, Broken> {
        Err(Broken::Lost("HTTP alone".into()))
    }
}

fn ask(reply_bytes_max: usize) -> Ask<'static> {
    Ask { module: "m", deadline: DEADLINE, reply_bytes_max }
}

fn backend_of(pool: &Pool, relay: Option<&str>) -> RpcBackend {
    let urls = ["http://n0/", "http://n1/v3/AbCdEf0123456789", "http://n2/"];
    let config = ChainConfig { relay: relay.map(str::to_owned), ..ChainConfig::new(1, urls) };
    let dial: Arc<dyn Dial> = Arc::new(pool.clone());
    let metrics = ChainMetrics::register(&Registry::new()).unwrap();
    let backend = made(config, &dial, metrics);
    // The third one is not connected.
    backend.shared.update(|board, now| (0..2).for_each(|index| board.up(index, now)));
    backend
}

const DEADLINE: Duration = Duration::from_secs(10);

/// What each endpoint says of these bytes.
async fn broadcast(backend: &RpcBackend, raw: &[u8]) -> Vec<EndpointAnswer> {
    let (sender, mut receiver) = tokio::sync::mpsc::channel(8);
    backend.broadcast(raw, DEADLINE, sender).await;
    let mut answers = Vec::new();
    while let Some(answer) = receiver.recv().await {
        answers.push(answer);
    }
    answers.sort_by(|a, b| a.endpoint.cmp(&b.endpoint));
    answers
}

#[tokio::test]
async fn a_transaction_goes_to_every_endpoint_that_is_connected_and_each_answers_for_itself() {
    let pool = Pool::default();
    let backend = backend_of(&pool, None);
    let answers = broadcast(&backend, &[0xab, 1]).await;
    let names: Vec<&str> = answers.iter().map(|answer| answer.endpoint.as_str()).collect();
    assert_eq!(names, ["http://n0:80", "http://n1:80"]);
    assert_eq!(answers[0].answer.as_deref(), Ok("\"0xab\""));
    let error = answers[1].answer.as_ref().unwrap_err();
    assert_eq!((error.message.as_str(), error.code), ("already known …", -32000));
    let sent = "eth_sendRawTransaction [\"0xab01\"]".to_owned();
    let mut arrived = pool.arrived.lock().unwrap().clone();
    arrived.sort();
    assert_eq!(arrived, [("n0".to_owned(), sent.clone()), ("n1".to_owned(), sent)]);
    let status = backend.endpoints();
    assert!(status[1].healthy, "a refusal says nothing of how well it serves the chain: {status:?}");
}

#[tokio::test]
async fn with_a_relay_a_transaction_goes_there_alone() {
    let pool = Pool::default();
    let backend = backend_of(&pool, Some("https://relay/secret0123456789"));
    let answers = broadcast(&backend, &[1]).await;
    assert_eq!(answers.len(), 1);
    assert_eq!(
        (answers[0].endpoint.as_str(), answers[0].answer.as_deref()),
        ("https://relay:443", Ok("\"0xrelayed\""))
    );
    let arrived = pool.arrived.lock().unwrap().clone();
    assert_eq!(arrived, [("relay".to_owned(), "eth_sendRawTransaction [\"0x01\"]".to_owned())]);
    assert_eq!(backend.endpoints().len(), 3, "nothing is read there");
}

#[tokio::test]
async fn a_question_to_each_goes_to_as_many_as_were_asked_for() {
    let pool = Pool::default();
    let backend = backend_of(&pool, Some("https://relay/"));
    for (endpoints_max, asked) in [(0, 0), (1, 1), (9, 2)] {
        let answers = backend.request_each("eth_x", "[1]", endpoints_max, ask(1_000)).await.unwrap();
        assert_eq!(answers.len(), asked);
    }
    let short = backend.request_each("eth_x", "[1]", 1, ask(3)).await.unwrap();
    let error = short[0].answer.as_ref().unwrap_err();
    assert!(error.message.contains("larger than 3 bytes"), "{error:?}");
    assert!(backend.request_each("eth_x", "[", 1, ask(3)).await.is_err());
    let arrived = pool.arrived.lock().unwrap().clone();
    assert!(arrived.iter().all(|(host, what)| host != "relay" && what == "eth_x [1]"), "{arrived:?}");
}
