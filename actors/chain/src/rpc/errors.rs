//! What went wrong with one exchange, as the contract names it, with nothing of an endpoint's key in it.

use std::time::Duration;

use nexum_host_ifaces::{HostError, HostErrorKind, interfaces::chain::port::CODE_OVER_BUDGET};
use serde_json::Value;

use super::{dial::Broken, envelope::NodeError, secrets::Secrets};

/// Longest piece of a node's own words that is passed on.
const MESSAGE_CHARS_MAX: usize = 400;
/// So much of a body is looked at for words.
const BODY_BYTES_MAX: usize = 4_096;
/// geth's code for a reverted call.
const CODE_REVERTED: i64 = 3;
const CODE_LIMIT_EXCEEDED: i64 = -32005;
/// With this some ask for fewer requests. Modules are told [`CODE_LIMIT_EXCEEDED`]: theirs is another limit, of the engine.
const CODE_TOO_MANY: i64 = CODE_OVER_BUDGET as i64;
/// EIP-1474: resource not found.
const CODE_NOT_FOUND: i64 = -32001;
/// Words that ask for fewer requests.
const RATE_WORDS: [&str; 12] = [
    "rate limit",
    "rate-limit",
    "ratelimit",
    "request rate",
    "rate exceeded",
    "concurrent requests",
    "too many requests",
    "requests per second",
    "throttl",
    "usage limit",
    "request count exceeded",
    "quota",
];
/// Words that ask for fewer requests, unless something else says that one of them asked for too much.
const RATE_OR_SIZE_WORDS: [&str; 5] = ["per second", "/sec", "compute units", "capacity", "request limit"];
const SIZE_WORDS: [&str; 4] = ["block range", "narrow", "smaller", "response size"];
/// The whole of what some nodes say, with [`CODE_LIMIT_EXCEEDED`], to whoever asks too often or for too many logs.
const BARE_LIMIT: &str = "limit exceeded";
const NONSENSE: &str = "the answer makes no sense";
/// What is said of an endpoint that nothing can be asked of now.
pub(super) const NOT_CONNECTED: &str = "not connected";
const PACED: &str = "the configured requests per second are used up";

/// Why one exchange with one endpoint brought no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallError {
    /// The node answered with an error. `unsized_limit`: that names some limit, and the question cannot be too large.
    Node { code: i64, message: String, data: Option<String>, unsized_limit: bool },
    /// Not sent: its turn would have come later than it may take. `said` is what the endpoint said when it asked for fewer
    /// requests; `None` where the configured `requests_per_second` are used up.
    Paced { said: Option<String> },
    /// The answer is longer than was allowed.
    TooLarge { bytes_max: usize },
    /// The node did not answer, or something before it did.
    Transport { kind: HostErrorKind, status: i32, message: String, retry_after: Option<Duration> },
}

impl CallError {
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::Transport { kind: HostErrorKind::Unavailable, status: 0, message: message.into(), retry_after: None }
    }

    pub fn timeout(after: Duration) -> Self {
        let message = format!("no answer within {after:?}");
        Self::Transport { kind: HostErrorKind::Timeout, status: 0, message, retry_after: None }
    }

    /// An answer that makes no sense.
    pub fn nonsense(message: impl Into<String>) -> Self {
        Self::unavailable(format!("{NONSENSE}: {}", message.into()))
    }

    pub fn of_broken(broken: Broken) -> Self {
        match broken {
            Broken::Lost(message) => Self::unavailable(short(&message)),
            Broken::TooLarge { bytes_max } => Self::TooLarge { bytes_max },
            Broken::TooMany(message) => Self::nonsense(message),
            Broken::Refused { status, retry_after } => of_status(status, format!("HTTP status {status}"), retry_after),
            Broken::Timeout(message) => {
                Self::Transport { kind: HostErrorKind::Timeout, status: 0, message, retry_after: None }
            }
        }
    }

    pub fn of_node(error: NodeError) -> Self {
        let data = error.data.as_deref().and_then(revert_data);
        Self::Node { code: error.code, message: error.message, data, unsized_limit: false }
    }

    /// The same error, of a question by this method.
    pub fn of_method(mut self, method: &str) -> Self {
        if let Self::Node { code, message, unsized_limit, .. } = &mut self {
            let said = message.trim_matches(['.', '!', ' ']);
            let is_bare = *code == CODE_LIMIT_EXCEEDED && said.eq_ignore_ascii_case(BARE_LIMIT);
            *unsized_limit = is_bare && method != "eth_getLogs";
        }
        self
    }

    /// An answer whose HTTP status is an error, with the beginning of its body.
    pub fn of_status(status: u16, body: &[u8], retry_after: Option<Duration>) -> Self {
        if (300..400).contains(&status) {
            let message =
                format!("HTTP status {status}: a redirect, which is not followed; configure where it leads to");
            return Self::Transport { kind: HostErrorKind::Unavailable, status: status.into(), message, retry_after };
        }
        let body = String::from_utf8_lossy(&body[..body.len().min(BODY_BYTES_MAX)]);
        let message = format!("HTTP status {status}: {}", one_line(body.trim()));
        of_status(status, message, retry_after)
    }

    /// The label in metrics of what went wrong.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Paced { .. } => "paced",
            Self::TooLarge { .. } => "too-large",
            error if error.is_rate_limit() => "rate-limited",
            Self::Node { .. } => "refused",
            error if error.is_nonsense() => "nonsense",
            Self::Transport { kind: HostErrorKind::Timeout, .. } => "timeout",
            Self::Transport { kind: HostErrorKind::Denied, .. } => "denied",
            Self::Transport { .. } => "unavailable",
        }
    }

    /// How long the node asks to be left alone.
    pub fn retry_after(&self) -> Duration {
        match self {
            Self::Transport { retry_after, .. } => retry_after.unwrap_or_default(),
            Self::Node { data, .. } => backoff(data.as_deref()).unwrap_or_default(),
            Self::Paced { .. } | Self::TooLarge { .. } => Duration::ZERO,
        }
    }

    /// Whether a contract refused the call, in words of its own.
    pub fn is_revert(&self) -> bool {
        let Self::Node { code, message, .. } = self else { return false };
        *code == CODE_REVERTED || message.to_lowercase().contains("revert")
    }

    /// Whether the node asks for fewer requests.
    pub fn is_rate_limit(&self) -> bool {
        match self {
            Self::Paced { .. } => true,
            Self::TooLarge { .. } => false,
            Self::Transport { kind, .. } => *kind == HostErrorKind::RateLimited,
            // What a contract says of itself is no word of the node.
            error if error.is_revert() => false,
            Self::Node { code, message, data, unsized_limit } => {
                let message = message.to_lowercase();
                let has = |words: &[&str]| words.iter().any(|words| message.contains(words));
                let asks_for_fewer = has(&RATE_WORDS) || (has(&RATE_OR_SIZE_WORDS) && !has(&SIZE_WORDS));
                let says_so = [429, CODE_TOO_MANY].contains(code) || *unsized_limit || names_rps(&message);
                says_so || asks_for_fewer || backoff(data.as_deref()).is_some()
            }
        }
    }

    /// Whether the node says that it does not have a block. Some do so with an error instead of `null`.
    pub fn is_unknown_block(&self) -> bool {
        let Self::Node { code, message, .. } = self else { return false };
        if self.is_revert() {
            return false;
        }
        let message = message.to_lowercase();
        let has = |words: &[&str]| words.iter().any(|words| message.contains(words));
        // The code alone says nothing: some have it for whatever they refuse.
        let is_missing = *code == CODE_NOT_FOUND && has(&["not found", "unknown", "does not exist"]);
        (is_missing && !message.contains("range"))
            || has(&["unknown block", "block not found", "header not found", "unknown header", "block does not exist"])
    }

    /// Whether an answer came that makes no sense.
    pub fn is_nonsense(&self) -> bool {
        matches!(self, Self::Transport { message, .. } if message.starts_with(NONSENSE))
    }

    /// Whether no answer came in time.
    pub fn is_silence(&self) -> bool {
        matches!(self, Self::Transport { kind: HostErrorKind::Timeout, status: 0, .. })
    }

    /// Whether another endpoint may do better.
    pub fn may_differ_elsewhere(&self) -> bool {
        match self {
            Self::Node { .. } | Self::Paced { .. } => self.is_rate_limit(),
            Self::TooLarge { .. } => false,
            Self::Transport { kind, .. } => *kind != HostErrorKind::InvalidInput,
        }
    }

    /// Whether a smaller range of blocks may be answered.
    pub fn is_too_large(&self) -> bool {
        if self.is_rate_limit() || self.is_revert() {
            return false;
        }
        match self {
            Self::Node { code, message, .. } => {
                let message = message.to_lowercase();
                let words =
                    ["range", "more than", "too large", "too many", "exceed", "size", "timeout", "timed out", "limit"];
                *code == CODE_LIMIT_EXCEEDED || words.iter().any(|words| message.contains(words))
            }
            Self::Paced { .. } => false,
            Self::TooLarge { .. } => true,
            Self::Transport { kind, status, .. } => {
                *kind == HostErrorKind::Timeout || matches!(status, 400 | 413 | 502 | 504)
            }
        }
    }

    pub fn to_host_error(&self) -> HostError {
        match self {
            Self::Paced { .. } => HostError::new("chain", HostErrorKind::RateLimited, self.message()),
            Self::TooLarge { .. } => HostError::new("chain", HostErrorKind::InvalidInput, self.message()),
            Self::Node { code, message, data, .. } => {
                let kind = match code {
                    _ if self.is_revert() => HostErrorKind::InvalidInput,
                    _ if self.is_rate_limit() || *code == CODE_LIMIT_EXCEEDED => HostErrorKind::RateLimited,
                    -32601 => HostErrorKind::Unsupported,
                    -32700 | -32600 | -32602 => HostErrorKind::InvalidInput,
                    _ => HostErrorKind::Internal,
                };
                let error = HostError::new("chain", kind, message.clone());
                let code = if *code == CODE_TOO_MANY { CODE_LIMIT_EXCEEDED } else { *code };
                let error = error.with_code(i32::try_from(code).unwrap_or(i32::MIN));
                match data {
                    Some(data) => error.with_data(data.clone()),
                    None => error,
                }
            }
            Self::Transport { kind, status, message, retry_after } => {
                let error = HostError::new("chain", *kind, message.clone()).with_code(*status);
                match retry_after {
                    Some(after) => error.with_data(after.as_millis().to_string()),
                    None => error,
                }
            }
        }
    }

    /// One line for status and logs.
    pub fn message(&self) -> String {
        match self {
            Self::Paced { said: None } => PACED.to_owned(),
            Self::Paced { said: Some(said) } => format!("the endpoint asked for fewer requests: {said}"),
            Self::TooLarge { bytes_max } => format!("the reply is larger than {bytes_max} bytes and was not read on"),
            Self::Node { code, message, .. } => format!("{message} ({code})"),
            Self::Transport { message, .. } => message.clone(),
        }
    }

    /// The same error without these words.
    pub fn without(mut self, secrets: &Secrets) -> Self {
        match &mut self {
            Self::Node { message, data, .. } => {
                *message = secrets.clean(message).into_owned();
                if let Some(data) = data {
                    *data = secrets.clean_data(data);
                }
            }
            Self::Transport { message, .. } => *message = secrets.clean(message).into_owned(),
            Self::Paced { .. } | Self::TooLarge { .. } => return self,
        }
        if let Self::Node { message, .. } | Self::Transport { message, .. } = &mut self {
            *message = short(message);
        }
        self
    }
}

fn of_status(status: u16, message: String, retry_after: Option<Duration>) -> CallError {
    let kind = match status {
        401 | 403 => HostErrorKind::Denied,
        408 | 504 => HostErrorKind::Timeout,
        429 => HostErrorKind::RateLimited,
        400..=499 => HostErrorKind::InvalidInput,
        _ => HostErrorKind::Unavailable,
    };
    CallError::Transport { kind, status: status.into(), message, retry_after }
}

/// Whether a message names requests per second by their three letters.
fn names_rps(message: &str) -> bool {
    let mut words = message.split(|character: char| !character.is_ascii_alphanumeric());
    words.any(|word| word.trim_start_matches(|character: char| character.is_ascii_digit()) == "rps")
}

/// How long an error's data asks whoever asks too often to wait, as some providers write it.
fn backoff(data: Option<&str>) -> Option<Duration> {
    let data: Value = serde_json::from_str(data?).ok()?;
    let seconds = data.get("rate")?.get("backoff_seconds")?.as_f64()?;
    Duration::try_from_secs_f64(seconds).ok()
}

/// A node's words on one line.
fn one_line(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

fn short(text: &str) -> String {
    match text.char_indices().nth(MESSAGE_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Revert bytes as 0x-hex, wherever a node puts them; other data as JSON text.
fn revert_data(json: &str) -> Option<String> {
    let value: Value = serde_json::from_str(json).ok()?;
    let hex = |text: &str| {
        let start = text.find("0x")?;
        let digits = &text[start + 2..];
        digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| text[start..].to_owned())
    };
    match &value {
        Value::Null => None,
        Value::String(text) => Some(hex(text).unwrap_or_else(|| text.clone())),
        Value::Object(object) => {
            let inner = ["data", "result", "output"].iter().find_map(|key| object.get(*key)?.as_str());
            Some(inner.and_then(hex).unwrap_or_else(|| json.to_owned()))
        }
        _ => Some(json.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(code: i64, message: &str, data: Option<&str>) -> CallError {
        CallError::of_node(NodeError { code, message: message.to_owned(), data: data.map(str::to_owned) })
    }

    fn http(status: u16, body: &str) -> CallError {
        CallError::of_status(status, body.as_bytes(), None)
    }

    #[test]
    fn errors_are_named_as_the_contract_says() {
        use HostErrorKind::*;
        let cases = [
            (node(3, "execution reverted", Some("\"0x08c379a0\"")), InvalidInput, 3, Some("0x08c379a0")),
            (node(-32000, "execution reverted: no", None), InvalidInput, -32000, None),
            (node(3, "execution reverted: capacity exceeded", None), InvalidInput, 3, None),
            (node(-32000, "VM Exception: revert Too many requests per second", None), InvalidInput, -32000, None),
            (node(-32015, "VM execution error.", Some("\"Reverted 0xab\"")), Internal, -32015, Some("0xab")),
            (node(-32603, "x", Some(r#"{"data":"0xcd","message":"y"}"#)), Internal, -32603, Some("0xcd")),
            (node(-32601, "no such method", None), Unsupported, -32601, None),
            (node(-32602, "bad", None), InvalidInput, -32602, None),
            (node(-32005, "limit", None), RateLimited, -32005, None),
            (node(429, "slow down", None), RateLimited, 429, None),
            (node(-32029, "slow down", None), RateLimited, -32005, None),
            (node(-32029, "execution reverted", None), InvalidInput, -32005, None),
            (http(400, ""), InvalidInput, 400, None),
            (http(401, ""), Denied, 401, None),
            (http(403, ""), Denied, 403, None),
            (http(404, ""), InvalidInput, 404, None),
            (http(429, ""), RateLimited, 429, None),
            (http(500, ""), Unavailable, 500, None),
            (CallError::timeout(Duration::from_secs(1)), Timeout, 0, None),
            (CallError::of_broken(Broken::Lost("gone".into())), Unavailable, 0, None),
            (CallError::of_broken(Broken::TooLarge { bytes_max: 5 }), InvalidInput, 0, None),
            (CallError::of_broken(Broken::TooMany("frames".into())), Unavailable, 0, None),
            (http(301, "https://elsewhere"), Unavailable, 301, None),
        ];
        for (error, kind, code, data) in cases {
            let host = error.to_host_error();
            assert_eq!((host.kind, host.code, host.data.as_deref()), (kind, code, data), "{error:?}");
        }
        let wait = Some(Duration::from_millis(1_500));
        assert_eq!(CallError::of_status(429, b"", wait).to_host_error().data.as_deref(), Some("1500"));
    }

    #[test]
    fn a_refused_range_is_told_from_other_refusals() {
        let cases = [
            (node(-32005, "query returned more than 10000 results", None), true),
            (node(-32602, "block range is too wide", None), true),
            (node(-32000, "exceed maximum block range: 5000", None), true),
            (node(-32614, "eth_getLogs is limited to a 10,000 range", None), true),
            (node(-32000, "Log response size exceeded", None), true),
            (http(413, "Payload Too Large"), true),
            (http(400, "bad"), true),
            (CallError::timeout(Duration::ZERO), true),
            (node(429, "rate limit exceeded", None), false),
            (node(-32005, "too many requests per second", None), false),
            (http(429, ""), false),
            (node(-32005, "Limit exceeded.", None).of_method("eth_getLogs"), true),
            (node(-32005, "limit exceeded", None).of_method("eth_getBlockByNumber"), false),
            (node(-32000, "the query exceeds the capacity of one request, narrow the block range", None), true),
            (node(-32000, "more compute units than one call may take, use a smaller range", None), true),
            (node(-32602, "block range too large: at most 50 blocks per second of its time", None), true),
            (node(-32601, "no such method", None), false),
            (node(3, "execution reverted: amount exceeds limit", None), false),
            (CallError::unavailable("connection refused"), false),
        ];
        for (error, expected) in cases {
            assert_eq!(error.is_too_large(), expected, "{error:?}");
        }
    }

    #[test]
    fn whoever_asks_for_fewer_requests_is_understood_whatever_the_words() {
        let cases = [
            (-32005, "project ID request rate exceeded"),
            (-32005, "daily request count exceeded, request rate limited"),
            (-32005, "You've exceeded the RPS limit available on the current plan."),
            (-32000, "at most 25rps"),
            (-32012, "credits limited to 6000/sec"),
            (-32000, "rate exceeded"),
            (-32000, "reached the maximum number of concurrent requests"),
            (-32000, "you are being rate-limited"),
            (-32005, "You've reached the usage limit for your current plan"),
            (-32005, "Limit exceeded."),
            (-32005, "limit exceeded"),
            (-32007, "10/second request limit reached - reduce calls per second or upgrade your account"),
            (429, "Your app has exceeded its compute units per second capacity"),
        ];
        for (code, message) in cases {
            let error = node(code, message, None).of_method("eth_getBlockByNumber");
            assert!(error.is_rate_limit() && !error.is_too_large(), "{message}");
            assert_eq!(error.retry_after(), Duration::ZERO);
        }
        let rate = r#"{"rate":{"allowed_rps":1,"backoff_seconds":30.5,"current_rps":1.4},"see":"https://example.org"}"#;
        let error = node(-32005, "no", Some(rate));
        assert!(error.is_rate_limit() && !node(-32005, "no", None).is_rate_limit());
        assert_eq!(error.retry_after(), Duration::from_millis(30_500));
        for odd in ["-1", "1e300", "\"x\"", "null"] {
            let data = format!(r#"{{"rate":{{"backoff_seconds":{odd}}}}}"#);
            assert_eq!(node(-1, "no", Some(&data)).retry_after(), Duration::ZERO, "{odd}");
        }
    }

    #[test]
    fn one_that_was_not_sent_says_on_whose_account() {
        let said = Some("too many requests (429)".to_owned());
        let message = CallError::Paced { said }.to_host_error().message;
        assert_eq!(message, "the endpoint asked for fewer requests: too many requests (429)");
        assert_eq!(CallError::Paced { said: None }.message(), PACED);
    }

    #[test]
    fn a_refused_handshake_keeps_how_long_it_asks_for() {
        let retry_after = Some(Duration::from_secs(20));
        let error = CallError::of_broken(Broken::Refused { status: 429, retry_after });
        assert!(error.is_rate_limit());
        assert_eq!(Some(error.retry_after()), retry_after);
    }

    #[test]
    fn a_block_that_is_not_there_is_told_from_a_refusal() {
        let cases = [
            (node(-32000, "unknown block", None), true),
            (node(-39001, "finalized block not found", None), true),
            (node(-32000, "header not found", None), true),
            (node(-32001, "resource not found", None), true),
            (node(-32001, "Unable to complete request at this time.", None), false),
            (node(-32001, "resource not found: too many blocks in range", None), false),
            (node(-32601, "the method does not exist", None), false),
            (node(3, "execution reverted: unknown block", None), false),
            (CallError::unavailable("block not found"), false),
        ];
        for (error, expected) in cases {
            assert_eq!(error.is_unknown_block(), expected, "{error:?}");
        }
    }

    #[test]
    fn keys_are_cut_out_of_messages() {
        let secrets = Secrets::of(&"https://example.org/v3/abcdef77".parse().unwrap());
        let error = http(403, "no such key\nabcdef77").without(&secrets);
        assert_eq!(error.message(), "HTTP status 403: no such key …");
        let error = node(-1, "x", Some(r#"{"key":"abcdef77"}"#)).without(&secrets);
        assert_eq!(error.to_host_error().data.as_deref(), Some(r#"{"key":"…"}"#));
        for (data, clean) in [("\"0xoops abcdef77\"", "0xoops …"), (r#"["\u0061bcdef77"]"#, r#"["…"]"#)] {
            let error = node(-1, r"no \u0061bcdef77", Some(data)).without(&secrets).to_host_error();
            assert_eq!((error.message.as_str(), error.data.as_deref()), ("no …", Some(clean)));
        }
    }
}
