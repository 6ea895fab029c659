//! What an attempt at an effect came to, and when the next one is due. Pure.

use std::time::Duration;

use nexum_host_ifaces::{
    Hash, HostError, HostErrorKind,
    http::Response,
    outbox::{Progress, RpcEffect},
};
use sha3::{Digest, Keccak256};

/// A destination that asks for more patience than this is tried before.
pub(super) const RETRY_AFTER_MAX: Duration = Duration::from_secs(3_600);
/// What a module is told of an answer; more of it is for the receiver's own logs.
pub(super) const ANSWER_BYTES_MAX: usize = 16 * 1024;
/// JSON-RPC 2.0, section 5.1.
const INTERNAL_ERROR: i32 = -32603;
const SEND_RAW: &str = "eth_sendRawTransaction";
/// Errors are for people.
const ERROR_CHARS_MAX: usize = 500;

/// When an effect is given up, and how long to wait between attempts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    pub attempts_max: u32,
    /// Since the first attempt.
    pub age_max: Duration,
    pub backoff_first: Duration,
    pub backoff_cap: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts_max: 100,
            age_max: Duration::from_secs(24 * 3_600),
            backoff_first: Duration::from_secs(1),
            backoff_cap: Duration::from_secs(600),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Delivered(Vec<u8>),
    /// Another attempt would not help.
    Failed(String),
    Retry {
        error: String,
        /// What the destination asked for.
        after: Option<Duration>,
        /// Whether the attempt reached out at all.
        counts: bool,
    },
}

impl Verdict {
    /// The same with an error that can be kept: an answer, a URL or a refusal in it may be long.
    pub(super) fn shortened(self) -> Self {
        match self {
            Self::Delivered(answer) => Self::Delivered(answer),
            Self::Failed(error) => Self::Failed(short(error)),
            Self::Retry { error, after, counts } => Self::Retry { error: short(error), after, counts },
        }
    }
}

/// The attempt failed in a way that may pass.
fn retry(error: String) -> Verdict {
    Verdict::Retry { error, after: None, counts: true }
}

/// What the answer to an HTTP effect means. `now_ms` is for a date in `Retry-After`.
pub(super) fn of_http(answer: Result<Response, HostError>, now_ms: u64) -> Verdict {
    let response = match answer {
        Ok(response) => response,
        Err(error) => {
            return match error.kind {
                HostErrorKind::Unavailable | HostErrorKind::Timeout | HostErrorKind::Internal => retry(error.message),
                // The engine's own bound on what runs at once.
                HostErrorKind::RateLimited => Verdict::Retry { error: error.message, after: None, counts: false },
                _ => Verdict::Failed(error.message),
            };
        }
    };
    let status = response.status;
    match status {
        200..300 => {
            let mut body = response.body;
            body.truncate(ANSWER_BYTES_MAX);
            Verdict::Delivered(body)
        }
        408 | 425 | 429 | 500.. => {
            let header = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("retry-after"));
            let after = header.and_then(|header| retry_after(&header.value, now_ms));
            Verdict::Retry { error: described(status, &response.body), after, counts: true }
        }
        300..400 => Verdict::Failed(format!("status {status}: a redirect that cannot carry the request on")),
        _ => Verdict::Failed(described(status, &response.body)),
    }
}

fn described(status: u16, body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.is_empty() { format!("status {status}") } else { short(format!("status {status}: {line}")) }
}

pub(super) fn short(text: String) -> String {
    match text.char_indices().nth(ERROR_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Seconds, or a date.
fn retry_after(value: &str, now_ms: u64) -> Option<Duration> {
    if let Ok(seconds) = value.trim().parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    let at = date.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(at.saturating_sub(Duration::from_millis(now_ms)))
}

/// What a node's answer to an RPC effect means.
pub(super) fn of_rpc(effect: &RpcEffect, answer: Result<String, HostError>) -> Verdict {
    let error = match answer {
        Ok(text) => {
            let mut bytes = text.into_bytes();
            bytes.truncate(ANSWER_BYTES_MAX);
            return Verdict::Delivered(bytes);
        }
        Err(error) => error,
    };
    // An attempt before this one arrived, and its answer did not.
    let known = ["already known", "already imported", "known transaction"];
    let lower = error.message.to_ascii_lowercase();
    if effect.method == SEND_RAW && known.iter().any(|words| lower.contains(words)) {
        return Verdict::Delivered(serde_json::Value::String(error.message).to_string().into_bytes());
    }
    match error.kind {
        HostErrorKind::Unavailable | HostErrorKind::Timeout | HostErrorKind::RateLimited => retry(short(error.message)),
        // The node is at fault, or full, and not the effect.
        _ if error.code == INTERNAL_ERROR || lower.contains("pool is full") => retry(short(error.message)),
        _ => Verdict::Failed(short(error.message)),
    }
}

/// The hash of the transaction that an effect sends; none when it sends none.
pub(super) fn transaction_hash(effect: &RpcEffect) -> Option<Hash> {
    if effect.method != SEND_RAW {
        return None;
    }
    let params: Vec<String> = serde_json::from_str(&effect.params).ok()?;
    let raw = hex::decode(params.first()?.strip_prefix("0x")?).ok()?;
    Some(Hash(Keccak256::digest(raw).into()))
}

/// What a refused transaction came to. `found` is the node's answer to its hash; `again` says that an attempt before
/// this one may have arrived.
pub(super) fn of_refused_transaction(
    refusal: String,
    hash: &Hash,
    again: bool,
    found: Result<String, HostError>,
) -> Verdict {
    let unknown = |why: &str| short(format!("not known whether {hash} was carried out before: {refusal}; {why}"));
    match found {
        Ok(text) if text.trim() != "null" => {
            Verdict::Delivered(serde_json::Value::String(hash.to_string()).to_string().into_bytes())
        }
        Ok(_) if again => Verdict::Failed(unknown("the node does not know it")),
        Ok(_) => Verdict::Failed(refusal),
        Err(error) => match error.kind {
            HostErrorKind::Unavailable | HostErrorKind::Timeout | HostErrorKind::RateLimited => {
                retry(unknown(&error.message))
            }
            _ if error.code == INTERNAL_ERROR => retry(unknown(&error.message)),
            _ => Verdict::Failed(unknown(&error.message)),
        },
    }
}

/// When the next attempt is due; none when the effect is given up. `progress` counts the attempt that failed; `jitter`
/// is drawn uniformly from 0 to 1.
pub(super) fn next_attempt_ms(
    progress: &Progress,
    after: Option<Duration>,
    policy: &RetryPolicy,
    now_ms: u64,
    jitter: f64,
) -> Option<u64> {
    if progress.attempts >= policy.attempts_max {
        return None;
    }
    let doubled = progress.attempts.saturating_sub(1).min(30);
    let backoff = policy.backoff_first.saturating_mul(1 << doubled).min(policy.backoff_cap);
    // Up to a quarter less, so that what failed together does not come again together.
    let backoff = backoff.mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 4.0);
    let wait = after.map_or(backoff, |after| after.min(RETRY_AFTER_MAX).max(backoff));
    let at = now_ms.saturating_add(wait.as_millis() as u64);
    let until = progress.first_attempt_ms.saturating_add(policy.age_max.as_millis() as u64);
    (at <= until).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nexum_host_ifaces::http::Header;

    fn answer(status: u16, retry_after: Option<&str>) -> Result<Response, HostError> {
        let header = |value: &str| Header { name: "Retry-After".into(), value: value.into() };
        Ok(Response { status, headers: retry_after.map(header).into_iter().collect(), body: b"why\nnot".to_vec() })
    }

    #[test]
    fn statuses_and_errors_are_told_apart() {
        let delivered = Verdict::Delivered(b"why\nnot".to_vec());
        for status in [200, 204] {
            assert_eq!(of_http(answer(status, None), 0), delivered);
        }
        for status in [408, 425, 429, 500, 503] {
            assert_eq!(of_http(answer(status, None), 0), retry(format!("status {status}: why not")));
        }
        for status in [400, 401, 404, 409, 422] {
            assert_eq!(of_http(answer(status, None), 0), Verdict::Failed(format!("status {status}: why not")));
        }
        assert!(matches!(of_http(answer(302, None), 0), Verdict::Failed(_)));
        let error = |kind| of_http(Err(HostError::new("http", kind, "x")), 0);
        assert_eq!(error(HostErrorKind::Timeout), retry("x".into()));
        assert_eq!(error(HostErrorKind::Denied), Verdict::Failed("x".into()));
        assert_eq!(error(HostErrorKind::RateLimited), Verdict::Retry { error: "x".into(), after: None, counts: false });
    }

    #[test]
    fn no_error_is_kept_at_a_length_that_its_sender_chose() {
        for kind in [HostErrorKind::Unavailable, HostErrorKind::RateLimited, HostErrorKind::InvalidInput] {
            let long = HostError::new("http", kind, "x".repeat(8 << 10));
            let (Verdict::Failed(error) | Verdict::Retry { error, .. }) = of_http(Err(long), 0).shortened() else {
                panic!("an error delivers nothing");
            };
            assert_eq!(error.chars().count(), ERROR_CHARS_MAX + 1, "{error}");
        }
    }

    #[test]
    fn a_destination_may_ask_for_patience() {
        let after = |value: &str| match of_http(answer(429, Some(value)), 1_700_000_000_000) {
            Verdict::Retry { after, .. } => after,
            other => panic!("{other:?}"),
        };
        assert_eq!(after("7"), Some(Duration::from_secs(7)));
        assert_eq!(after("Tue, 14 Nov 2023 22:14:20 GMT"), Some(Duration::from_secs(60)));
        assert_eq!(after("soon"), None);
    }

    #[test]
    fn a_transaction_that_the_node_has_already_was_delivered() {
        let effect = RpcEffect { chain_id: 1, method: "eth_sendRawTransaction".into(), params: "[]".into() };
        let answer =
            |message: &str| of_rpc(&effect, Err(HostError::new("chain", HostErrorKind::InvalidInput, message)));
        assert_eq!(answer("already known"), Verdict::Delivered(b"\"already known\"".to_vec()));
        assert!(matches!(answer("txpool is full"), Verdict::Retry { counts: true, .. }));
        let internal = HostError::new("chain", HostErrorKind::Internal, "oops");
        assert_eq!(of_rpc(&effect, Err(internal.clone())), Verdict::Failed("oops".into()));
        assert!(matches!(of_rpc(&effect, Err(internal.with_code(-32603))), Verdict::Retry { .. }));
        assert_eq!(answer("nonce too low"), Verdict::Failed("nonce too low".into()));
        assert_eq!(of_rpc(&effect, Ok("\"0x1\"".into())), Verdict::Delivered(b"\"0x1\"".to_vec()));
    }

    #[test]
    fn a_refused_transaction_that_is_on_the_chain_was_delivered() {
        let effect = |method: &str| RpcEffect { chain_id: 1, method: method.into(), params: "[\"0x\"]".into() };
        assert_eq!(transaction_hash(&effect("eth_call")), None);
        let hash = transaction_hash(&effect("eth_sendRawTransaction")).unwrap();
        let text = "0xc5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470";
        assert_eq!(hash.to_string(), text);
        let verdict = |again, found| of_refused_transaction("nonce too low".into(), &hash, again, found);
        let delivered = Verdict::Delivered(format!("\"{text}\"").into_bytes());
        assert_eq!(verdict(true, Ok("{\"hash\": \"0x\"}".into())), delivered);
        assert_eq!(verdict(false, Ok("null".into())), Verdict::Failed("nonce too low".into()));
        let Verdict::Failed(unknown) = verdict(true, Ok("null".into())) else { panic!() };
        assert!(unknown.starts_with(&format!("not known whether {text} was carried out before: nonce too low")));
        let down = Err(HostError::new("chain", HostErrorKind::Unavailable, "no endpoint"));
        assert!(matches!(verdict(true, down), Verdict::Retry { counts: true, .. }));
    }

    #[test]
    fn waits_double_up_to_a_cap_until_the_policy_gives_up() {
        let policy = RetryPolicy { attempts_max: 20, ..RetryPolicy::default() };
        let next = |attempts, after: Option<u64>, jitter| {
            let progress = Progress { attempts, first_attempt_ms: 1_000, ..Progress::default() };
            next_attempt_ms(&progress, after.map(Duration::from_secs), &policy, 1_000, jitter).map(|at| at - 1_000)
        };
        assert_eq!(
            [next(1, None, 0.0), next(2, None, 0.0), next(4, None, 0.0)],
            [Some(1_000), Some(2_000), Some(8_000)]
        );
        assert_eq!((next(15, None, 0.0), next(1, None, 1.0)), (Some(600_000), Some(750)));
        assert_eq!((next(1, Some(30), 0.0), next(1, Some(9_999_999), 0.0)), (Some(30_000), Some(3_600_000)));
        assert_eq!(next(20, None, 0.0), None);
        let old = Progress { attempts: 1, first_attempt_ms: 1_000, ..Progress::default() };
        let day_ms = 24 * 3_600 * 1_000;
        assert_eq!(next_attempt_ms(&old, None, &policy, 1_000 + day_ms, 0.0), None);
    }
}
