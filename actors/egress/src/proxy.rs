//! The operator's proxy, of which the URL may hold a password.

use std::fmt;

use nexum_host_ifaces::secrets::shown_url;
use reqwest::StatusCode;
use url::Url;

/// A proxy that all requests go through.
#[derive(Clone)]
pub struct Proxy {
    url: Url,
    dialled: reqwest::Proxy,
}

impl Proxy {
    /// A proxy by its URL: scheme, host and port, and who signs in there.
    ///
    /// # Errors
    /// What would be right, without what was given.
    pub fn parse(text: &str) -> Result<Self, String> {
        let expected = "expected a URL such as http://proxy.example.org:3128 or http://user:password@10.0.0.1:3128";
        let url = Url::parse(text.trim()).ok().filter(Url::has_host).ok_or_else(|| format!("is no URL: {expected}"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(format!("has a scheme that is not served: {expected}, or https"));
        }
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            return Err(format!("has more than a host and a port: {expected}"));
        }
        let dialled = reqwest::Proxy::all(url.clone()).map_err(|_| format!("cannot be used: {expected}"))?;
        Ok(Self { url, dialled })
    }

    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    /// What is wrong with the proxy, where an answer is its own: no server behind it has this status.
    pub(crate) fn refusal(&self, status: StatusCode) -> Option<String> {
        let wants = status == StatusCode::PROXY_AUTHENTICATION_REQUIRED;
        wants.then(|| format!("the proxy {self:?} wants another user or password: [egress] proxy has them"))
    }

    /// As the client takes it.
    pub(crate) fn dialled(&self) -> reqwest::Proxy {
        self.dialled.clone()
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown_url(self.url.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_a_host_and_a_port_and_its_password_is_shown_by_nobody() {
        let proxy = Proxy::parse(" http://me:k3y@proxy.example.org:3128/ ").unwrap();
        assert_eq!(format!("{proxy:?}"), "http://***@proxy.example.org:3128");
        for (wrong, told) in [
            ("proxy.k3y:3128", "is no URL: "),
            ("k3y", "is no URL: "),
            ("", "is no URL: "),
            ("http://", "is no URL: "),
            ("socks5://k3y:1080", "has a scheme that is not served: "),
            ("http://a.org/k3y", "has more than a host and a port: "),
            ("http://a.org?k3y", "has more than a host and a port: "),
        ] {
            let error = Proxy::parse(wrong).unwrap_err();
            assert!(error.starts_with(&format!("{told}expected a URL such as http://")), "{wrong}: {error}");
            assert!(!error.contains("k3y"), "{error}");
        }
    }
}
