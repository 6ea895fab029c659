//! The allowlist of hosts: where requests may go, decided once for `http.fetch`, for effects of the outbox and for every
//! redirect.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use url::{Host, Url};

use crate::{HostError, HostErrorKind, capability::Capability, grants::Grants, interfaces::table::Key};

pub const CAPABILITY: Capability = Capability::named("http");

/// The key of the allowlist.
pub const ALLOW: &str = "allow";

pub(super) const TABLE: &[Key] = &[Key {
    name: ALLOW,
    is_required: true,
    entries_max: 256,
    // The longest name that DNS has is 253 bytes; `*.` goes before it.
    entry_bytes_max: 255,
    read: pattern,
}];

/// The hosts that one module may reach and another one may not.
pub(super) fn beyond(grants: &Grants, other: &Grants) -> Vec<String> {
    grants.hosts().beyond(&other.hosts()).into_iter().map(|host| format!("host `{host}`")).collect()
}

impl Grants {
    /// With these hosts, as a manifest names them.
    pub fn with_hosts(self, hosts: &Allowlist) -> Self {
        let tables = self.tables().clone().with(CAPABILITY, ALLOW, hosts.0.iter().cloned());
        self.with_tables(tables)
    }

    /// The hosts that requests may go to.
    pub fn hosts(&self) -> Allowlist {
        Allowlist(self.tables().list(CAPABILITY, ALLOW).cloned().unwrap_or_default())
    }
}

/// What a part of a host's name between two dots may have, and the whole name, as DNS has it.
const LABEL_BYTES_MAX: usize = 63;
const HOST_BYTES_MAX: usize = 253;

fn error(kind: HostErrorKind, message: impl Into<String>) -> HostError {
    HostError::new("http", kind, message)
}

pub(crate) fn invalid(message: impl Into<String>) -> HostError {
    error(HostErrorKind::InvalidInput, message)
}

/// A host as it is compared and shown: lower case, other scripts as `xn--`, addresses in their usual form, and a name
/// without the final dot, with which it is the same name. The rest is done by whatever parsed it, as `url` does.
fn canonical<S: AsRef<str>>(host: &Host<S>) -> String {
    let mut text = host.to_string();
    if matches!(host, Host::Domain(_)) && text.ends_with('.') {
        text.pop();
    }
    text
}

/// An entry of an allowlist as hosts of requests are compared with it: `*.suffix`, or one host.
///
/// # Errors
/// That it stands for no host, and what would be right where that can be told.
pub fn pattern(text: &str) -> Result<String, String> {
    read_pattern(text).ok_or_else(|| {
        let meant = several(text).or_else(|| meant(text.trim()).map(|meant| format!("`{meant}`")));
        let meant = meant.map_or_else(String::new, |meant| format!("; write {meant}"));
        format!("`{text}`: expected an exact host, or *.suffix, without scheme, port and path{meant}")
    })
}

fn read_pattern(text: &str) -> Option<String> {
    let text = text.trim();
    let (star, name) = text.strip_prefix("*.").map_or(("", text), |suffix| ("*.", suffix));
    // The brackets of an address are for URLs, where a port may follow.
    let host = name.parse::<Ipv6Addr>().map(Host::Ipv6).or_else(|_| Host::parse(name)).ok()?;
    let shown = canonical(&host);
    let is_usable = match host {
        Host::Domain(_) => is_name(&shown),
        // `*.0.0.1` must not stand for addresses, and what is no number must not be taken for a 0.
        Host::Ipv4(_) => star.is_empty() && !name.split('.').any(|part| part.eq_ignore_ascii_case("0x")),
        Host::Ipv6(_) => star.is_empty(),
    };
    is_usable.then(|| format!("{star}{shown}"))
}

/// Whether a host can have this name: URLs may have others, which no server answers to.
fn is_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=LABEL_BYTES_MAX).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    name.len() <= HOST_BYTES_MAX && name.split('.').all(is_label)
}

/// The entries of somebody who wrote them into one.
fn several(text: &str) -> Option<String> {
    let parts = text.split([',', ';']).filter(|part| !part.trim().is_empty());
    let entries: Vec<String> = parts.map(read_pattern).collect::<Option<_>>()?;
    let quoted: Vec<String> = entries.iter().map(|entry| format!("`{entry}`")).collect();
    let count = if entries.len() == 2 { "two".to_owned() } else { entries.len().to_string() };
    (entries.len() > 1).then(|| format!("{count} entries: {}", quoted.join(", ")))
}

/// The entry that somebody may have meant who wrote something else.
fn meant(text: &str) -> Option<String> {
    let below = text.strip_prefix(['.', '*']).and_then(|suffix| read_pattern(&format!("*.{suffix}")));
    below.or_else(|| {
        let url = if text.contains("://") { Url::parse(text) } else { Url::parse(&format!("https://{text}")) };
        let host = url.as_ref().ok()?.host_str()?;
        // An address that nobody wrote is not what was meant.
        if host.parse::<Ipv4Addr>().is_ok() && !text.contains(host) { None } else { read_pattern(host) }
    })
}

/// The hosts that a manifest allows: exact names, or `*.suffix`, which leaves out the suffix itself. Any port.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Allowlist(Arc<[String]>);

impl Allowlist {
    /// The list of these patterns, each as `pattern` answers it.
    pub fn new(patterns: impl IntoIterator<Item = String>) -> Self {
        Self(patterns.into_iter().collect())
    }

    /// Whether one of its patterns stands for this host.
    pub fn allows(&self, host: &Host<&str>) -> bool {
        let name = canonical(host);
        self.0.iter().any(|pattern| match (pattern.strip_prefix('*'), host) {
            (Some(suffix), Host::Domain(_)) => name.len() > suffix.len() && name.ends_with(suffix),
            (Some(_), _) => false,
            (None, _) => name == *pattern,
        })
    }

    /// Whether it allows no host at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The patterns that stand for a host which none of another list's patterns stands for.
    pub fn beyond(&self, other: &Self) -> Vec<&str> {
        let covers = |wide: &str, pattern: &str| match wide.strip_prefix('*') {
            // The suffix that a narrower pattern leaves out is one that the wider one has.
            Some(suffix) if pattern.starts_with('*') => pattern.ends_with(suffix),
            Some(_) => Host::parse(pattern).is_ok_and(|host| Self::new([wide.to_owned()]).allows(&borrowed(&host))),
            None => wide == pattern,
        };
        let known = |pattern: &&str| !other.0.iter().any(|wide| covers(wide, pattern));
        self.0.iter().map(String::as_str).filter(known).collect()
    }

    /// Whether a request may go to this URL, first or by a redirect.
    ///
    /// # Errors
    /// `invalid-input` when it is no plain http or https URL, `denied` when its host is not on the list.
    pub fn check(&self, url: &Url) -> Result<(), HostError> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(invalid(format!("the URL has the scheme `{}`: expected http or https", url.scheme())));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(invalid("the URL carries credentials: put them into a header"));
        }
        let host = url.host().ok_or_else(|| invalid("the URL has no host"))?;
        if self.allows(&host) {
            return Ok(());
        }
        let (name, hint) = (canonical(&host), "add it to [capabilities.http] allow in the manifest");
        Err(error(HostErrorKind::Denied, format!("host `{name}` is not allowed to this module: {hint}")))
    }
}

fn borrowed(host: &Host) -> Host<&str> {
    match host {
        Host::Domain(name) => Host::Domain(name),
        Host::Ipv4(address) => Host::Ipv4(*address),
        Host::Ipv6(address) => Host::Ipv6(*address),
    }
}

impl fmt::Display for Allowlist {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allow(patterns: &[&str]) -> Allowlist {
        Allowlist::new(patterns.iter().map(|text| pattern(text).unwrap()))
    }

    /// What the fuzzer begins with, and what it found.
    #[test]
    fn an_entry_that_is_taken_allows_the_host_that_it_names() {
        let mut taken = 0;
        for seed in nexum_testkit::corpus("allow") {
            let text = String::from_utf8(seed).unwrap();
            let Ok(entry) = pattern(&text) else { continue };
            assert_eq!(pattern(&entry).as_deref(), Ok(&*entry), "{text:?}");
            let host = entry.strip_prefix("*.").map_or_else(|| entry.clone(), |suffix| format!("a.{suffix}"));
            let url = Url::parse(&format!("https://{host}/")).unwrap();
            assert!(Allowlist::new([entry]).check(&url).is_ok(), "{text:?}");
            taken += 1;
        }
        assert!(taken > 5);
    }

    #[test]
    fn hosts_are_exact_or_below_a_suffix() {
        let list = allow(&["api.cow.fi", "*.Example.org", "127.0.0.1"]);
        let allowed = |url: &str| list.check(&Url::parse(url).unwrap()).is_ok();
        for url in [
            "https://api.cow.fi/x",
            "http://API.cow.fi:8080",
            "https://a.example.org",
            "https://a.b.example.org",
            "http://127.0.0.1:9",
            "https://api.cow.fi.",
        ] {
            assert!(allowed(url), "{url}");
        }
        for url in [
            "https://cow.fi",
            "https://x.api.cow.fi",
            "https://example.org",
            "https://evilexample.org",
            "https://api.cow.fi.evil.org",
            "http://128.0.0.1",
            "http://[::1]/",
            "ftp://api.cow.fi",
            "https://user@api.cow.fi",
            "https://api.cow.fi@evil.org",
            "https://api.cow.fi:443@evil.org",
            "https://evil.org\\@api.cow.fi",
            "https://evil.org#@api.cow.fi",
            "https://evil.org?@api.cow.fi",
            "https://example.org.",
        ] {
            assert!(!allowed(url), "{url}");
        }
    }

    #[test]
    fn an_entry_is_taken_as_it_is_written_or_refused_with_what_would_be_right() {
        for (text, taken, url) in [
            ("API.Cow.fi", "api.cow.fi", "https://api.cow.fi/"),
            (" api.cow.fi\t", "api.cow.fi", "https://api.cow.fi/"),
            ("api.cow.fi.", "api.cow.fi", "https://api.cow.fi/"),
            ("*.Cow.fi.", "*.cow.fi", "https://api.cow.fi./"),
            ("b\u{fc}cher.example", "xn--bcher-kva.example", "https://B\u{dc}CHER.example/"),
            ("*.b\u{fc}cher.example", "*.xn--bcher-kva.example", "https://a.xn--bcher-kva.example/"),
            ("localhost", "localhost", "http://LOCALHOST:80/"),
            ("127.1", "127.0.0.1", "http://127.0.0.1/"),
            ("0x7f.1", "127.0.0.1", "http://0177.1/"),
            ("[::1]", "[::1]", "http://[0:0::1]:8080/"),
            ("::1", "[::1]", "http://[::1]/"),
            ("[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "http://[::ffff:127.0.0.1]/"),
        ] {
            assert_eq!(pattern(text).as_deref(), Ok(taken));
            assert_eq!(pattern(taken).as_deref(), Ok(taken));
            allow(&[text]).check(&Url::parse(url).unwrap()).unwrap_or_else(|error| panic!("{text}: {error:?}"));
        }
        for (text, right) in [
            ("host.example:8443", Some("host.example")),
            ("https://host.example/", Some("host.example")),
            ("https://me@HOST.example:1/x?y", Some("host.example")),
            ("host.example/api", Some("host.example")),
            ("[::1]:8080", Some("[::1]")),
            (".example.com", Some("*.example.com")),
            ("*example.com", Some("*.example.com")),
            ("https://*.example.com/", Some("*.example.com")),
            ("*.example.com:443", Some("*.example.com")),
            ("*", None),
            ("*.", None),
            ("*.*.example.com", None),
            ("a*.example.com", None),
            ("*.0.0.1", None),
            ("*.[::1]", None),
            ("256.0.0.1", None),
            ("a..example.com", None),
            ("a b.example", None),
            ("", None),
            (".", None),
        ] {
            let hint = right.map_or_else(String::new, |right| format!("; write `{right}`"));
            let refused = format!("`{text}`: expected an exact host, or *.suffix, without scheme, port and path{hint}");
            assert_eq!(pattern(text), Err(refused));
        }
    }

    #[test]
    fn an_entry_is_one_name_that_a_host_can_have() {
        let label = "a".repeat(63);
        let long = [&*label, &label, &label, &"a".repeat(61)].join(".");
        for text in [&*format!("{label}.org"), &long, &format!("*.{long}"), "_dmarc.a-b.org", "xn--bcher-kva.example"] {
            assert_eq!(pattern(text).as_deref(), Ok(text));
        }
        let refused = |text: &str| pattern(text).unwrap_err();
        assert!(refused("a.org,b.org").ends_with("and path; write two entries: `a.org`, `b.org`"));
        assert!(refused("a.org, *.B.org; 127.1,").ends_with("; write 3 entries: `a.org`, `*.b.org`, `127.0.0.1`"));
        let wrong = format!(
            "a{label}.org|a{long}|-a.org|a-.org|*.-a.org|a.org-|a!b.org|a$b.org|a(b).org|a'b.org|a.org%2Cb.org|a+b.org|\
             a~b.org|,|a.org,b c|0x|0X|0x.1|1.0x"
        );
        for text in wrong.split('|') {
            assert!(refused(text).ends_with("without scheme, port and path"), "{}", refused(text));
        }
        assert!(pattern("0x0").is_ok());
    }

    #[test]
    fn a_list_goes_beyond_another_by_what_no_pattern_of_it_covers() {
        let old = allow(&["api.cow.fi", "*.example.org"]);
        let beyond = |patterns: &[&str]| allow(patterns).beyond(&old).join(" ");
        assert_eq!(beyond(&["API.cow.fi", "*.example.org", "a.b.example.org", "*.b.example.org"]), "");
        assert_eq!(beyond(&["cow.fi", "*.cow.fi", "api.cow.fi"]), "cow.fi *.cow.fi");
        // A suffix leaves itself out, and stands for no address.
        assert_eq!(beyond(&["example.org", "*.org", "*.xexample.org"]), "example.org *.org *.xexample.org");
        assert_eq!(beyond(&["127.0.0.1"]), "127.0.0.1");
    }
}
