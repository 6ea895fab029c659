//! Effects over HTTP: one request with the idempotency key as a header, and what its answer means.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use url::Url;

use super::kind::{ANSWER_BYTES_MAX, Attempting, EffectKind, Verdict, hex, invalid, missing, retry};
use crate::{
    HostError, HostErrorKind,
    bindings::nexum::host::outbox::{Effect, HttpEffect},
    grants::Grants,
    interfaces::http::{
        grant::CAPABILITY as HTTP,
        patience,
        port::{self, EgressMsg, Fetch, HEADERS_MAX, Header, KEY_HEADER, Request, Response},
    },
    secrets,
};

#[async_trait::async_trait]
impl EffectKind for HttpEffect {
    fn name(&self) -> &'static str {
        "http"
    }

    fn destination(&self) -> String {
        port::origin(&self.url)
    }

    fn bytes(&self) -> usize {
        let headers: usize = self.headers.iter().map(|header| header.name.len() + header.value.len()).sum();
        self.method.len() + self.url.len() + headers + self.body.as_ref().map_or(0, Vec::len)
    }

    /// Headers without a character take something, too.
    fn overhead(&self) -> usize {
        size_of_val(self.headers.as_slice())
    }

    fn stripped(&self) -> Effect {
        Effect::Http(Self { headers: Vec::new(), body: None, ..self.clone() })
    }

    fn payload(&self) -> Value {
        let text = |bytes: &[u8]| match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => hex(bytes),
        };
        json!({
            "method": self.method,
            "url": self.url,
            "headers": self.headers.iter().map(shown).collect::<Vec<_>>(),
            "body": self.body.as_deref().map(text),
        })
    }

    /// It needs a host from the allowlist, as an effect is asked for by that alone, and that the operator does not
    /// withhold `http`.
    fn granted(&self, module: &str, grants: &Grants) -> Result<(), HostError> {
        if grants.refused().contains(&HTTP) {
            return Err(missing(HTTP, module, "effects over HTTP"));
        }
        let url = Url::parse(&self.url).map_err(|why| {
            let message = format!("what is given as URL is none: {why}");
            HostError::new("http", HostErrorKind::InvalidInput, message)
        })?;
        grants.hosts().check(&url)
    }

    /// The request as it will leave, with the header of its key: what is refused then could never go out.
    fn check(&self, key: &str, grants: &Grants) -> Result<(), HostError> {
        // Before any of them is copied.
        if self.headers.len() > HEADERS_MAX {
            return Err(invalid(format!("{} headers, at most {HEADERS_MAX}", self.headers.len())));
        }
        if self.headers.iter().any(|header| header.name.eq_ignore_ascii_case(KEY_HEADER)) {
            return Err(invalid("header `idempotency-key` is the host's to set: give the key as an option"));
        }
        let mut headers = self.headers.clone();
        headers.push(key_header(key));
        port::check(&self.method, &self.url, &headers, self.body.as_deref(), &grants.hosts()).map(drop)
    }

    async fn attempt(&self, with: &Attempting<'_>) -> Verdict {
        let Self { method, url, headers, body } = self.clone();
        let mut request = Request { method, url, headers, body, timeout_ms: None };
        request.headers.push(key_header(with.key));
        let fetch = Box::new(Fetch {
            module: with.module.clone(),
            library: None,
            request,
            allow: Arc::new(with.grants.hosts()),
            deadline: with.deadline,
            max_reply_bytes: ANSWER_BYTES_MAX,
            is_effect: true,
        });
        // The egress actor keeps the deadline; the call waits longer only for its word.
        let waited = with.deadline + Duration::from_secs(1);
        let answer = with.ports.of::<EgressMsg>().call(waited, |reply| EgressMsg::Fetch { fetch, reply }).await;
        let answer = answer.unwrap_or_else(|error| Err(error.to_host_error("http")));
        of_http(answer, with.clock.now_ms())
    }
}

fn key_header(key: &str) -> Header {
    Header { name: KEY_HEADER.into(), value: key.to_owned() }
}

/// A header as it is shown: what proves who asks is of use to nobody but the other side.
fn shown(header: &Header) -> (&str, &str) {
    let Header { name, value } = header;
    let secret = secrets::is_secret_name(name) || secrets::holds_secret(value);
    (name.as_str(), if secret { secrets::MASK } else { value.as_str() })
}

/// What an answer means. `now_ms` is for a date in `Retry-After`.
fn of_http(answer: Result<Response, HostError>, now_ms: u64) -> Verdict {
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
            let after = header.and_then(|header| patience::retry_after(&header.value, now_ms));
            let after = after.or_else(|| patience::of_body(&response.body));
            Verdict::Retry { error: described(status, &response.body), after, counts: true }
        }
        300..400 => Verdict::Failed(format!("status {status}: a redirect that cannot carry the request on")),
        _ => Verdict::Failed(described(status, &response.body)),
    }
}

fn described(status: u16, body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.is_empty() { format!("status {status}") } else { format!("status {status}: {line}") }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ractor::{Actor, ActorProcessingErr, ActorRef};

    use super::*;
    use crate::{clock::SystemClock, effects::kind::ERROR_CHARS_MAX, interfaces::http::grant::Allowlist, ports::Ports};

    /// Answers with what was asked of it.
    struct Egress;

    impl Actor for Egress {
        type Msg = EgressMsg;
        type State = ();
        type Arguments = ();

        async fn pre_start(&self, _: ActorRef<EgressMsg>, (): ()) -> Result<(), ActorProcessingErr> {
            Ok(())
        }

        async fn handle(
            &self,
            _: ActorRef<EgressMsg>,
            message: EgressMsg,
            _: &mut (),
        ) -> Result<(), ActorProcessingErr> {
            if let EgressMsg::Fetch { fetch, reply } = message {
                let Fetch { module, request, allow, max_reply_bytes, is_effect, .. } = *fetch;
                let headers: Vec<_> =
                    request.headers.iter().map(|sent| format!("{}={}", sent.name, sent.value)).collect();
                let told =
                    format!("{module} {} {} {allow} {max_reply_bytes} {is_effect}", request.url, headers.join(","));
                drop(reply.send(Ok(Response { status: 200, headers: Vec::new(), body: told.into_bytes() })));
            }
            Ok(())
        }
    }

    #[tokio::test]
    async fn an_attempt_leaves_as_an_effect_with_its_key() {
        let (actor, _) = Actor::spawn(None, Egress, ()).await.unwrap();
        let ports = Ports::unbound([]);
        ports.of::<EgressMsg>().bind(actor.clone());
        let with = Attempting {
            module: &Arc::from("m"),
            id: "m/1",
            key: "m/1",
            again: false,
            round: 0,
            deadline: Duration::from_secs(10),
            grants: &Grants::default().with_hosts(&Allowlist::new(["a.org".to_owned()])),
            ports: &ports,
            clock: &SystemClock::new(),
        };
        let headers = vec![Header { name: "x".into(), value: "y".into() }];
        let effect = HttpEffect { method: "POST".into(), url: "https://a.org/p".into(), headers, body: None };
        let told = "m https://a.org/p x=y,Idempotency-Key=m/1 a.org 16384 true";
        assert_eq!(effect.attempt(&with).await, Verdict::Delivered(told.as_bytes().to_vec()));
        actor.kill();
    }

    fn answer(status: u16, retry_after: Option<&str>) -> Result<Response, HostError> {
        let header = |value: &str| Header { name: "Retry-After".into(), value: value.into() };
        Ok(Response { status, headers: retry_after.map(header).into_iter().collect(), body: b"why\nnot".to_vec() })
    }

    #[test]
    fn what_send_takes_has_room_for_the_key() {
        let grants = Grants::default().with_hosts(&Allowlist::new(["a.org".to_owned()]));
        let refusal = |count: usize, value: usize, key: &str| {
            let header = |n: usize| Header { name: format!("x-{n}"), value: "v".repeat(value) };
            let headers = (0..count).map(header).collect();
            let effect = HttpEffect { method: "POST".into(), url: "https://a.org".into(), headers, body: None };
            effect.check(key, &grants).err().map(|error| error.message)
        };
        let max = HEADERS_MAX;
        assert_eq!(refusal(max - 1, 1, "k"), None);
        assert_eq!(refusal(max, 1, "k").unwrap(), format!("{} headers, at most {max}", max + 1));
        assert_eq!(refusal(100_000, 0, "k").unwrap(), format!("100000 headers, at most {max}"));
        let room = port::HEADER_BYTES_MAX - KEY_HEADER.len() - "x-0".len();
        assert_eq!(refusal(1, room - 9, &"k".repeat(9)), None);
        assert!(refusal(1, room - 9, &"k".repeat(10)).unwrap().starts_with("headers of "));
    }

    /// What it stands for is put in where the request leaves, so that an effect never has it.
    #[test]
    fn an_effect_has_the_names_of_secrets_and_is_shown_with_them() {
        let secret = "${secret:hook}";
        let header = Header { name: "x-a".into(), value: secret.into() };
        let (method, url) = ("POST".into(), format!("https://a.org/services/{secret}?q={secret}"));
        let effect = HttpEffect { method, url: url.clone(), headers: vec![header], body: Some(secret.into()) };
        let grants = Grants::default().with_hosts(&Allowlist::new(["a.org".to_owned()]));
        assert!(effect.granted("m", &grants).is_ok() && effect.check("k", &grants).is_ok());
        assert_eq!(effect.destination(), "https://a.org");
        let shown = effect.payload();
        assert_eq!((&shown["url"], &shown["body"]), (&Value::from(url), &Value::from(secret)));
    }

    #[test]
    fn headers_that_prove_who_asks_are_not_shown() {
        let value = |name: &str, value: &str| {
            let header = Header { name: name.into(), value: value.into() };
            let (shown, value) = shown(&header);
            assert_eq!(shown, name);
            value.to_owned()
        };
        for name in ["Authorization", "x-api-key", "Cookie", "X-Auth-Token"] {
            assert_eq!(value(name, "k3y"), "***");
        }
        assert_eq!(value("x-forwarded", "Bearer k3y"), "***");
        assert_eq!(value("content-type", "application/json"), "application/json");
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
        // In the body, when the header does not say it.
        for (header, seconds) in [(None, 35), (Some("soon"), 35), (Some("7"), 7)] {
            let body = br#"{"ok":false,"error_code":429,"parameters":{"retry_after":35}}"#.to_vec();
            let told = answer(429, header).map(|answer| Response { body, ..answer });
            let Verdict::Retry { after, .. } = of_http(told, 0) else { panic!("429 is tried again") };
            assert_eq!(after, Some(Duration::from_secs(seconds)));
        }
    }
}
