//! `[messaging]`: the Waku nodes that modules' messages go to and come from.

use std::time::Duration;

use nexum_ctl::period::Period;
use nexum_messaging::{PAGE_SIZE_MAX, PublishBy, Settings};
use serde::{Deserialize, Serialize};
use url::Url;

use super::secret::Secret;

/// A longer one would have each message that comes named for as long.
const DISORDER_MAX: Duration = Duration::from_secs(3_600);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Messaging {
    /// URLs of REST APIs, which may hold passwords: the first is asked, the next when it does not answer.
    pub nodes: Vec<Secret>,
    pub publish: By,
    /// The store node that the nodes are to ask, as a multiaddress.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store_peer: Option<String>,
    pub timeout: Period,
    pub poll_interval: Period,
    pub live_interval: Period,
    pub max_disorder: Period,
    pub page_size: usize,
    pub max_concurrent: usize,
}

/// How messages leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    Relay,
    Lightpush,
}

impl Default for Messaging {
    fn default() -> Self {
        let settings = Settings::default();
        Self {
            nodes: Vec::new(),
            publish: By::Relay,
            store_peer: None,
            timeout: Period(settings.timeout),
            poll_interval: Period(settings.poll_interval),
            live_interval: Period(settings.live_interval),
            max_disorder: Period(settings.max_disorder),
            page_size: settings.page_size,
            max_concurrent: settings.requests_max,
        }
    }
}

impl Messaging {
    /// What the actor is started with.
    pub fn settings(&self) -> Settings {
        Settings {
            nodes: self.nodes.iter().map(|Secret(url)| url.clone()).collect(),
            publish_by: match self.publish {
                By::Relay => PublishBy::Relay,
                By::Lightpush => PublishBy::Lightpush,
            },
            store_peer: self.store_peer.clone(),
            timeout: self.timeout.0,
            poll_interval: self.poll_interval.0,
            live_interval: self.live_interval.0,
            max_disorder: self.max_disorder.0,
            page_size: self.page_size,
            requests_max: self.max_concurrent,
        }
    }

    /// The first key whose value cannot be used, and what is wrong with it. A URL is not repeated: it may hold a password.
    pub(super) fn wrong(&self) -> Option<(String, String)> {
        let found = |key: &str, wrong: &str| Some((key.to_owned(), wrong.to_owned()));
        if self.nodes.is_empty() {
            return found(
                "nodes",
                "is empty: expected the URL of a Waku node's REST API, such as http://127.0.0.1:8645",
            );
        }
        let is_url = |Secret(url): &Secret| {
            Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        };
        if let Some(index) = self.nodes.iter().position(|url| !is_url(url)) {
            let wrong = "is no URL of a Waku node: expected one such as http://127.0.0.1:8645";
            return found(&format!("nodes.{index}"), wrong);
        }
        if self.store_peer.as_ref().is_some_and(|peer| !peer.starts_with('/') || !peer.contains("/p2p/")) {
            return found("store_peer", "is no multiaddress: expected one such as /ip4/10.0.0.1/tcp/60000/p2p/16Uiu2…");
        }
        let periods = [
            ("timeout", self.timeout),
            ("poll_interval", self.poll_interval),
            ("live_interval", self.live_interval),
            ("max_disorder", self.max_disorder),
        ];
        if let Some((key, _)) = periods.into_iter().find(|(_, period)| period.0.is_zero()) {
            return found(key, "must be longer than nothing");
        }
        if self.max_disorder.0 > DISORDER_MAX {
            return found("max_disorder", "is too long: expected at most 1h");
        }
        if !(1..=PAGE_SIZE_MAX).contains(&self.page_size) {
            return Some(("page_size".to_owned(), format!("is not between 1 and {PAGE_SIZE_MAX}, as nodes want it")));
        }
        if self.max_concurrent == 0 {
            return found("max_concurrent", "is 0: expected at least 1");
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_used_is_told_by_its_key_without_the_password() {
        let wrong = |toml: &str| toml::from_str::<Messaging>(toml).unwrap().wrong();
        let nodes = "nodes = [\"http://me:k3y@127.0.0.1:8645\", \"https://waku.example.org\"]\n";
        assert_eq!(wrong(nodes), None);
        for (toml, key, told) in [
            ("", "nodes", "is empty: expected the URL"),
            ("nodes = [\"http://a\", \"me:k3y@b\"]", "nodes.1", "is no URL of a Waku node"),
            (&*format!("{nodes}store_peer = \"10.0.0.1\""), "store_peer", "is no multiaddress"),
            (&*format!("{nodes}poll_interval = \"0s\""), "poll_interval", "must be longer than nothing"),
            (&*format!("{nodes}max_disorder = \"2h\""), "max_disorder", "is too long: expected at most 1h"),
            (&*format!("{nodes}page_size = 101"), "page_size", "is not between 1 and 100"),
            (&*format!("{nodes}max_concurrent = 0"), "max_concurrent", "is 0"),
        ] {
            let (found, wrong) = wrong(toml).unwrap();
            assert!(found == key && wrong.starts_with(told) && !wrong.contains("k3y"), "{found}: {wrong}");
        }
        let messaging: Messaging = toml::from_str(&format!("{nodes}publish = \"lightpush\"")).unwrap();
        assert!(!format!("{messaging:?}").contains("k3y"));
        let settings = messaging.settings();
        assert_eq!((settings.publish_by, settings.nodes.len()), (PublishBy::Lightpush, 2));
        assert_eq!(Settings { nodes: Vec::new(), publish_by: PublishBy::Relay, ..settings }, Settings::default());
    }
}
