//! `[egress]`: how much modules may send, which hosts and networks none of them reaches, and what way requests leave by.

use std::{fmt, path::PathBuf};

use nexum_egress::{EgressLimits, Proxy, Rules};
use nexum_host_ifaces::secrets;
use serde::{Deserialize, Serialize};

use super::credentials::Credential;

/// Outbound HTTP of all modules together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Egress {
    pub max_concurrent: usize,
    pub max_concurrent_per_module: usize,
    pub max_response_bytes: usize,
    /// Networks that modules may reach although they are not the public internet.
    pub allow_networks: Vec<String>,
    /// Hosts, `*.suffix` and networks that no module reaches.
    pub deny: Vec<String>,
    /// Certificates of authorities that are trusted instead of the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Of all requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<ProxyUrl>,
    /// What modules' requests leave with.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub credentials: Vec<Credential>,
}

/// A URL that may hold a password.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProxyUrl(String);

impl ProxyUrl {
    /// The same as it may be shown.
    pub(super) fn masked(&self) -> Self {
        Self(secrets::shown_url(&self.0))
    }
}

impl fmt::Debug for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.masked().0)
    }
}

impl Default for Egress {
    fn default() -> Self {
        let limits = EgressLimits::default();
        Self {
            max_concurrent: limits.requests_max,
            max_concurrent_per_module: limits.module_requests_max,
            max_response_bytes: limits.response_bytes_max,
            allow_networks: Vec::new(),
            deny: Vec::new(),
            ca_file: None,
            proxy: None,
            credentials: Vec::new(),
        }
    }
}

impl Egress {
    pub fn limits(&self) -> EgressLimits {
        EgressLimits {
            requests_max: self.max_concurrent,
            module_requests_max: self.max_concurrent_per_module,
            response_bytes_max: self.max_response_bytes,
        }
    }

    /// What no module reaches.
    ///
    /// # Errors
    /// The first entry that cannot be used, by its key, and what would be right.
    pub fn rules(&self) -> Result<Rules, (String, String)> {
        Rules::new(&self.allow_networks, &self.deny)
    }

    /// What all requests go through.
    ///
    /// # Errors
    /// The key, and what would be right.
    pub fn proxy(&self) -> Result<Option<Proxy>, (String, String)> {
        let parsed = self.proxy.as_ref().map(|url| Proxy::parse(&url.0)).transpose();
        parsed.map_err(|wrong| ("proxy".to_owned(), wrong))
    }

    /// The first key whose value cannot be used, and what is wrong with it.
    pub(super) fn wrong(&self) -> Option<(String, String)> {
        let counts = [
            ("max_concurrent", self.max_concurrent),
            ("max_concurrent_per_module", self.max_concurrent_per_module),
            ("max_response_bytes", self.max_response_bytes),
        ];
        let zero = counts.into_iter().find(|(_, count)| *count == 0);
        let zero = zero.map(|(key, _)| (key.to_owned(), "is 0: expected at least 1".to_owned()));
        zero.or_else(|| self.rules().err()).or_else(|| self.proxy().err())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_used_is_told_by_its_key_without_the_password() {
        let wrong = |toml: &str| toml::from_str::<Egress>(toml).unwrap().wrong();
        assert_eq!(wrong("allow_networks = [\"127.0.0.0/8\", \"::1\"]\ndeny = [\"*.internal\", \"10.0.0.0/8\"]"), None);
        assert_eq!(wrong("proxy = \"http://me:k3y@proxy.example.org:3128\""), None);
        for (toml, key, told) in [
            ("max_concurrent = 0", "max_concurrent", "is 0: expected at least 1"),
            ("allow_networks = [\"::1\", \"10.1.0.0/8\"]", "allow_networks.1", "; write `10.0.0.0/8`"),
            ("deny = [\"http://a.org\"]", "deny.0", "; write `a.org`"),
            ("proxy = \"me:k3y@proxy:3128\"", "proxy", "http://user:password@10.0.0.1:3128"),
        ] {
            let (found, wrong) = wrong(toml).unwrap();
            assert!(found == key && wrong.ends_with(told) && !wrong.contains("k3y"), "{found}: {wrong}");
        }
        let egress: Egress = toml::from_str("proxy = \"http://me:k3y@proxy.example.org:3128\"").unwrap();
        assert!(!format!("{egress:?}").contains("k3y"));
        assert_eq!(format!("{:?}", egress.proxy), "Some(http://***@proxy.example.org:3128)");
    }
}
