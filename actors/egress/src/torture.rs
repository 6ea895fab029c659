//! What must hold of whatever a server writes into a `Location`. The tests try what the fuzzer begins with and what it
//! found, and `make fuzz` tries more.

use nexum_host_ifaces::interfaces::http::{
    grant::Allowlist,
    port::{Header, Request, URL_BYTES_MAX},
};
use reqwest::{StatusCode, header::HeaderValue};
use url::Url;

use crate::client::{redirected, turn};

/// Follows a `Location` from https and from http, as far as a module that may go to `a.org` alone is led.
///
/// # Panics
/// When something does not hold.
pub fn location(bytes: &[u8]) {
    let Ok(location) = HeaderValue::from_bytes(bytes) else { return };
    let allow = Allowlist::new(["a.org".to_owned()]);
    for from in ["https://a.org/dir/page?q=1", "http://a.org:8080/dir/"] {
        let Ok(from) = Url::parse(from) else { unreachable!("{from} is a URL") };
        let led = redirected(StatusCode::TEMPORARY_REDIRECT, Some(&location), "GET", &from, false);
        let Ok(Some((next, _))) = led else { continue };
        assert!(next.as_str().len() <= URL_BYTES_MAX, "{} bytes", next.as_str().len());
        assert!(from.scheme() == "http" || next.scheme() == "https", "{from} leads to {next}");
        if allow.check(&next).is_err() {
            continue;
        }
        let host = next.host_str().unwrap_or_default();
        assert!(host == "a.org" || host == "a.org.", "{next} is allowed");
        // What is sent is what was checked, and one line.
        assert_eq!(Url::parse(next.as_str()).as_ref(), Ok(&next));
        assert!(next.as_str().bytes().all(|byte| byte.is_ascii_graphic()), "{next:?}");
        let secret = Header { name: "Authorization".into(), value: "secret".into() };
        let (method, url) = ("GET".into(), from.to_string());
        let mut request = Request { method, url, headers: vec![secret], body: None, timeout_ms: None };
        turn(&mut request, &from, &next, false);
        let is_same = from.scheme() == next.scheme() && host == "a.org" && from.port() == next.port();
        assert_eq!(request.headers.len(), usize::from(is_same), "{from} leads to {next}");
    }
}

#[cfg(test)]
mod tests {
    use nexum_testkit::corpus;

    use super::*;

    #[test]
    fn a_location_leads_nowhere_but_where_a_module_may_go() {
        corpus("location").iter().for_each(|seed| location(seed));
    }
}
