//! HTTP to hosts that the manifest allows. Immediate and at-least-once: a retried event repeats its calls. Use
//! [`outbox::http`](crate::outbox::http) for what must happen once.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::bindings::nexum::host::http as host;
use crate::{Context, Error, ErrorKind, Result};

pub use host::Header;

/// What stands for one of the operator's secrets in a URL's path or query, in a header's value or in a body; the host puts
/// the secret there on the way out, for the hosts and modules that the operator names. A module never sees it.
///
/// ```
/// let url = format!("https://hooks.slack.com/services/{}", nexum_sdk::http::secret("slack"));
/// assert_eq!(url, "https://hooks.slack.com/services/${secret:slack}");
/// ```
///
/// Text from a chain or an answer may hold such a placeholder, too, and would have the secret put beside it: put it into a
/// body with [`json_string`].
pub fn secret(name: &str) -> String {
    format!("${{secret:{name}}}")
}

/// Text as a JSON string, quotes included, in which the host finds no placeholder: its reader gets the text as it is.
///
/// ```
/// let text = nexum_sdk::http::json_string("pay ${secret:slack}");
/// assert_eq!(text, r#""pay \u0024{secret:slack}""#);
/// ```
pub fn json_string(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('$', "\\u0024")
}

/// A request being built. The operator's credentials are added by the host; a module never holds them.
///
/// ```no_run
/// let answer = nexum_sdk::http::get("https://api.example.org/price").timeout_ms(2_000).send()?;
/// let price: f64 = answer.ok()?.json()?;
/// # Ok::<(), nexum_sdk::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a request does nothing until it is sent"]
pub struct Request(host::Request);

/// A `GET` request.
pub fn get(url: impl Into<String>) -> Request {
    Request::new("GET", url)
}

/// A `POST` request.
pub fn post(url: impl Into<String>) -> Request {
    Request::new("POST", url)
}

impl Request {
    pub fn new(method: impl Into<String>, url: impl Into<String>) -> Self {
        Self(host::Request {
            method: method.into(),
            url: url.into(),
            headers: Vec::new(),
            body: None,
            timeout_ms: None,
        })
    }

    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.headers.push(Header { name: name.into(), value: value.into() });
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.0.body = Some(body.into());
        self
    }

    /// Sets the body and its content type.
    ///
    /// # Errors
    /// `value` does not serialise.
    pub fn json(self, value: &(impl Serialize + ?Sized)) -> Result<Self> {
        Ok(self.header("content-type", "application/json").body(serde_json::to_vec(value)?))
    }

    /// Gives up after this many milliseconds; the event's own deadline holds anyway.
    pub fn timeout_ms(mut self, timeout_ms: u32) -> Self {
        self.0.timeout_ms = Some(timeout_ms);
        self
    }

    /// Sends the request. Any status is an answer; [`Response::ok`] makes 4xx and 5xx errors.
    ///
    /// # Errors
    /// `Denied` when the allowlist does not have the host, `Unavailable` when there is no connection, `Timeout`.
    pub fn send(self) -> Result<Response> {
        let answer = host::fetch(&self.0)?;
        Ok(Response { status: answer.status, headers: answer.headers, body: answer.body })
    }
}

/// An answer with its whole body.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<Header>,
    pub body: Vec<u8>,
}

impl Response {
    /// The first header of that name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value.as_str())
    }

    /// This answer, unless its status is 400 or more.
    ///
    /// # Errors
    /// Domain `http`, the status as code, and the kind that the status means.
    pub fn ok(self) -> Result<Self> {
        let kind = match self.status {
            ..400 => return Ok(self),
            401 | 403 => ErrorKind::Denied,
            429 => ErrorKind::RateLimited,
            400..500 => ErrorKind::InvalidInput,
            500.. => ErrorKind::Unavailable,
        };
        let retry_after_ms = self
            .header("retry-after")
            .filter(|_| kind == ErrorKind::RateLimited)
            .and_then(|seconds| Duration::try_from_secs_f64(seconds.trim().parse().ok()?).ok())
            .map(|wait| wait.as_millis().to_string());
        Err(Error::new(kind, format!("status {}", self.status))
            .in_domain("http")
            .with_code(i32::from(self.status), retry_after_ms))
    }

    /// # Errors
    /// The body is not this type as JSON.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.body).context("the answer's body")
    }

    /// # Errors
    /// The body is not UTF-8.
    pub fn text(&self) -> Result<&str> {
        std::str::from_utf8(&self.body).context("the answer's body")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_become_kinds() {
        let asking = |status, seconds: &str| Response {
            status,
            headers: vec![Header { name: "Retry-After".into(), value: seconds.into() }],
            body: b"{}".to_vec(),
        };
        let answer = |status| asking(status, "2");
        assert!(answer(204).ok().is_ok());
        for (status, kind) in [
            (400, ErrorKind::InvalidInput),
            (403, ErrorKind::Denied),
            (404, ErrorKind::InvalidInput),
            (503, ErrorKind::Unavailable),
        ] {
            let error = answer(status).ok().unwrap_err();
            assert_eq!((error.kind(), error.code(), error.data()), (kind, i32::from(status), None));
        }
        for (seconds, ms) in [("2", Some(2_000)), (" 0.65 ", Some(650)), ("-1", None), ("NaN", None), ("soon", None)] {
            assert_eq!(asking(429, seconds).ok().unwrap_err().retry_after_ms(), ms, "{seconds}");
        }
    }
}
