//! The certificates that servers are checked against.

use std::error::Error as _;

use reqwest::Certificate;

const EXPECTED: &str = "expected certificates of authorities in PEM";

/// What vouches for servers.
#[derive(Debug, Clone)]
pub enum Roots {
    /// The system's store.
    System,
    /// These, and not the system's.
    Only(Authorities),
}

/// Certificates that were found usable.
#[derive(Debug, Clone)]
pub struct Authorities(Vec<Certificate>);

impl Authorities {
    /// Those of a file.
    ///
    /// # Errors
    /// What is wrong with it, and what would be right.
    pub fn parse(pem: &[u8]) -> Result<Self, String> {
        let unusable = |failed: reqwest::Error| format!("cannot be used: {}; {EXPECTED}", innermost(&failed));
        let found = Certificate::from_pem_bundle(pem).map_err(unusable)?;
        if found.is_empty() {
            return Err(format!("has no certificate: {EXPECTED}"));
        }
        // Who reads one of them first is the client.
        reqwest::Client::builder().no_proxy().tls_certs_only(found.clone()).build().map_err(unusable)?;
        Ok(Self(found))
    }

    pub(crate) fn certificates(self) -> Vec<Certificate> {
        self.0
    }
}

/// What is at the bottom of an error.
pub(crate) fn innermost(failed: &reqwest::Error) -> String {
    let mut cause = failed.to_string();
    let mut inner = failed.source();
    while let Some(error) = inner {
        cause = error.to_string();
        inner = error.source();
    }
    cause
}

/// What makes a server trusted, behind the words for why it is not, which are for those who know them.
pub(crate) fn what_to_do(cause: &str) -> &'static str {
    if cause.contains("CaUsedAsEndEntity") {
        "; the server shows the certificate of an authority as its own, which no server may: give it one that this authority \
         signed, or one without CA:TRUE"
    } else if cause.contains("UnknownIssuer") {
        "; nobody vouches for its certificate whom the engine trusts: [egress] ca_file, or the system's store"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_certificate_is_no_authority() {
        let told = |pem: &str| Authorities::parse(pem.as_bytes()).unwrap_err();
        let none = format!("has no certificate: {EXPECTED}");
        assert_eq!((told(""), told("no certificate")), (none.clone(), none));
        let begin = "-----BEGIN CERTIFICATE-----\n";
        let end = "\n-----END CERTIFICATE-----\n";
        for inside in ["&&&&", "bm8gY2VydGlmaWNhdGU="] {
            let told = told(&format!("{begin}{inside}{end}"));
            assert!(told.starts_with("cannot be used: ") && told.ends_with(&format!("; {EXPECTED}")), "{told}");
        }
    }
}
