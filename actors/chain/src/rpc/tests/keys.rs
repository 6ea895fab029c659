//! A node that quotes its own URL, key and all, wherever it answers.

use std::{
    io,
    sync::{Mutex, PoisonError},
};

use super::*;

const KEY: &str = "AbCdEf0123456789GhIjKl";

/// What it answers to everything.
struct Quoting(String);

#[async_trait]
impl Http for Quoting {
    async fn post(&self, body: String, _: usize, meter: &Meter) -> Result<Reply, Broken> {
        let respond = |request: &Value| json!({"jsonrpc": "2.0", "id": request["id"], "result": self.0});
        let answer: Value = match serde_json::from_str(&body).unwrap() {
            Value::Array(requests) => requests.iter().map(respond).collect(),
            request => respond(&request),
        };
        Ok(Reply { status: 200, retry_after: None, body: answer.to_string().into_bytes(), held: meter.begin() })
    }
}

#[async_trait]
impl Dial for Quoting {
    fn http(&self, _: &Url) -> Result<Arc<dyn Http>, String> {
        Ok(Arc::new(Self(self.0.clone())))
    }

    async fn ws(&self, _: &Url, _: Duration, _: &Arc<Room>) -> Result<Socket, Broken> {
        Err(Broken::Lost("HTTP alone".into()))
    }
}

/// What was logged.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Any six characters of the key in a row.
fn assert_keyless(text: &str) {
    for piece in KEY.as_bytes().windows(6) {
        let piece = std::str::from_utf8(piece).unwrap();
        assert!(!text.contains(piece), "`{piece}` stands in: {text}");
    }
}

#[tokio::test]
async fn no_key_that_a_node_quotes_is_kept_logged_or_told() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(move || writer.clone());
    let _logged = tracing::subscriber::set_default(subscriber.finish());
    let url = format!("http://example.org/v3/{KEY}");
    // Such as quoted whole, and cut in the midst of the key.
    for quoted in [url.clone(), format!("no chain is served at {url}")] {
        let dial: Arc<dyn Dial> = Arc::new(Quoting(quoted));
        let metrics = ChainMetrics::register(&Registry::new()).unwrap();
        let mut config = ChainConfig::new(1, [url.clone()]);
        config.max_retries = 0;
        let backend = made(config, &dial, metrics);
        let (heads, _seen) = mpsc::channel(8);
        let lost = async {
            loop {
                if let Some(error) = backend.endpoints().remove(0).last_error {
                    return error;
                }
                tokio::task::yield_now().await;
            }
        };
        let error = tokio::select! {
            () = backend.follow(heads) => panic!("it follows for ever"),
            () = tokio::time::sleep(Duration::from_secs(10)) => panic!("it was never found wanting"),
            error = lost => error,
        };
        assert!(error.contains("makes no sense"), "{error}");
        assert_keyless(&error);
        up(&backend);
        let failures = [
            backend.headers(&[5]).await.unwrap_err(),
            backend.history(&[5, 6]).await.unwrap_err(),
            backend.range_logs(1, 9, &all_logs(), &[]).await.unwrap_err(),
        ];
        for failure in failures {
            assert_keyless(&failure.to_string());
        }
        assert_keyless(&format!("{:?}", backend.endpoints()));
    }
    let lines = lines.0.lock().unwrap_or_else(PoisonError::into_inner);
    let lines = String::from_utf8_lossy(&lines);
    assert!(lines.contains("makes no sense"), "{lines}");
    assert_keyless(&lines);
}
