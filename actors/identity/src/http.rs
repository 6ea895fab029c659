//! Requests to what signs elsewhere.
//!
//! Invariant: nothing of a URL but its host is ever shown; an answer is read up to a bound; nothing is redirected, and no proxy of the
//! environment is used.

use std::{error::Error as _, fs::File, io::Read as _, path::Path, time::Duration};

use nexum_host_ifaces::{
    HostError, HostErrorKind,
    bounded::{MESSAGE_BYTES_MAX, cut},
    secrets::shown_url,
};
use reqwest::{Certificate, Client, RequestBuilder, Response, redirect};
use url::Url;

use crate::request::error;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// From the request to the end of its answer. People may have to press a button there, but not for long.
const TIMEOUT: Duration = Duration::from_secs(30);
const CA_BYTES_MAX: u64 = 1 << 20;

/// A server that is asked for signatures.
pub struct Server {
    pub http: Client,
    pub url: Url,
    /// What it is and where, as people may see it.
    shown: String,
}

impl Server {
    /// `what` it is, for people. Nothing is connected to yet.
    pub fn new(what: &str, url: &str, ca_file: Option<&Path>) -> Result<Self, String> {
        let shown = format!("{what} {}", shown_url(url));
        let url = Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let url = url.ok_or_else(|| format!("{shown}: that is no URL of http or https"))?;
        let builder = Client::builder()
            .redirect(redirect::Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TIMEOUT)
            .user_agent(concat!("nexum/", env!("CARGO_PKG_VERSION")));
        let builder = match ca_file {
            None => builder,
            Some(file) => builder.tls_certs_only(certificates(file)?),
        };
        let http = builder.build().map_err(|failed| format!("{shown}: {}", innermost(&failed)))?;
        Ok(Self { http, url, shown })
    }

    /// What it answers. A server closes a connection that was idle, perhaps just when a request is on its way: one whose
    /// connection was lost is sent once more. It is of no consequence that something is signed twice.
    pub async fn send(&self, request: RequestBuilder) -> Result<Response, HostError> {
        let again = request.try_clone();
        let answer = match (request.send().await, again) {
            (Err(failed), Some(again)) if is_lost(&failed) => again.send().await,
            (answer, _) => answer,
        };
        answer.map_err(|failed| self.failure(failed))
    }

    pub async fn read(&self, mut answer: Response, limit: usize) -> Result<Vec<u8>, HostError> {
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|failed| self.failure(failed))? {
            if body.len() + chunk.len() > limit {
                return Err(self.unavailable(format!("it answered with more than {limit} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    pub fn unavailable(&self, what: impl AsRef<str>) -> HostError {
        error(HostErrorKind::Unavailable, format!("{}: {}", self.shown, what.as_ref()))
    }

    fn failure(&self, failed: reqwest::Error) -> HostError {
        let kind = if failed.is_timeout() { HostErrorKind::Timeout } else { HostErrorKind::Unavailable };
        let cause = cut(innermost(&failed.without_url()), MESSAGE_BYTES_MAX);
        error(kind, format!("{}: {cause}", self.shown))
    }
}

/// Whether there was a connection, and no answer came over it.
fn is_lost(failed: &reqwest::Error) -> bool {
    failed.is_request() && !failed.is_connect() && !failed.is_timeout()
}

fn certificates(path: &Path) -> Result<Vec<Certificate>, String> {
    let wrong = |why: String| format!("{}: {why}", path.display());
    let file = File::open(path).map_err(|why| wrong(why.to_string()))?;
    let is_file = file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() <= CA_BYTES_MAX);
    if !is_file {
        return Err(wrong(format!("no regular file of at most {CA_BYTES_MAX} bytes")));
    }
    let mut text = Vec::new();
    file.take(CA_BYTES_MAX).read_to_end(&mut text).map_err(|why| wrong(why.to_string()))?;
    match Certificate::from_pem_bundle(&text) {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(wrong("there is no certificate in it".to_owned())),
    }
}

/// What is at the bottom of an error. What is above it may quote the URL.
fn innermost(failed: &reqwest::Error) -> String {
    let mut cause = failed.to_string();
    let mut inner = failed.source();
    while let Some(error) = inner {
        cause = error.to_string();
        inner = error.source();
    }
    cause
}
