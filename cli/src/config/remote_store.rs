//! `[remote-store]`: the Bee nodes that content of modules goes to and comes from, and how much of it.

use nexum_ctl::period::Period;
use nexum_host_ifaces::interfaces::remote_store::port::CONTENT_BYTES_MAX;
use nexum_remote_store::{Limits, NodeSettings, Settings};
use serde::{Deserialize, Serialize};
use url::Url;

use super::{identity::Wrong, secret::Secret};

/// The section, as paths have it.
const SECTION: &str = "remote-store";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RemoteStore {
    /// Of one upload, download or update of a feed.
    pub max_content_bytes: usize,
    /// Requests of all modules at once.
    pub max_concurrent: usize,
    pub max_concurrent_per_module: usize,
    /// Requests to nodes at once.
    pub max_node_requests: usize,
    /// Chunks that are kept in memory.
    pub cache_bytes: usize,
    /// Of one request to a node.
    pub timeout: Period,
    /// Whether a node answers an upload before the network has it.
    pub deferred: bool,
    /// Whether a node keeps what it uploads.
    pub pin: bool,
    pub nodes: Vec<BeeNode>,
}

/// A Bee node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BeeNode {
    pub url: Secret,
    /// Absent: it is only read from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postage_batch: Option<String>,
}

impl Default for RemoteStore {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            max_content_bytes: limits.content_bytes_max,
            max_concurrent: limits.requests_max,
            max_concurrent_per_module: limits.module_requests_max,
            max_node_requests: limits.node_requests_max,
            cache_bytes: limits.cache_bytes_max,
            timeout: Period(limits.timeout),
            deferred: false,
            pin: false,
            nodes: Vec::new(),
        }
    }
}

impl RemoteStore {
    /// What the actor is started with.
    pub fn settings(&self) -> Settings {
        let node = |BeeNode { url, postage_batch }: &BeeNode| {
            let batch = postage_batch.as_deref().map(|batch| digits(batch).to_lowercase());
            NodeSettings { url: url.0.clone(), batch }
        };
        Settings {
            nodes: self.nodes.iter().map(node).collect(),
            limits: Limits {
                content_bytes_max: self.max_content_bytes,
                requests_max: self.max_concurrent,
                module_requests_max: self.max_concurrent_per_module,
                node_requests_max: self.max_node_requests,
                cache_bytes_max: self.cache_bytes,
                timeout: self.timeout.0,
            },
            is_deferred: self.deferred,
            pins: self.pin,
        }
    }

    /// What the values say for themselves.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), Wrong> {
        let wrong = |key: String, message: &str| {
            let path = format!("{SECTION}{key}");
            Err(Wrong { path, message: message.to_owned(), bare: None })
        };
        let counts = [
            ("max_content_bytes", self.max_content_bytes),
            ("max_concurrent", self.max_concurrent),
            ("max_concurrent_per_module", self.max_concurrent_per_module),
            ("max_node_requests", self.max_node_requests),
        ];
        if let Some((key, _)) = counts.into_iter().find(|(_, count)| *count == 0) {
            return wrong(format!(".{key}"), "is 0: expected at least 1");
        }
        if self.max_content_bytes > CONTENT_BYTES_MAX {
            return wrong(
                ".max_content_bytes".to_owned(),
                &format!("is more than a call can bring: at most {CONTENT_BYTES_MAX}"),
            );
        }
        if self.timeout.0.is_zero() {
            return wrong(".timeout".to_owned(), "must be longer than nothing");
        }
        if self.nodes.is_empty() {
            let message = "has no nodes: give [[remote-store.nodes]] with a url, such as \"http://127.0.0.1:1633\"";
            return wrong(String::new(), message);
        }
        for (index, node) in self.nodes.iter().enumerate() {
            let is_usable = |url: &Url| matches!(url.scheme(), "http" | "https") && url.has_host();
            // It may hold a password.
            if !Url::parse(&node.url.0).is_ok_and(|url| is_usable(&url)) {
                let message = "is no URL of a node: expected one such as http://127.0.0.1:1633";
                return wrong(format!(".nodes.{index}.url"), message);
            }
            let is_batch = |batch: &str| batch.len() == 64 && batch.bytes().all(|digit| digit.is_ascii_hexdigit());
            if node.postage_batch.as_deref().is_some_and(|batch| !is_batch(digits(batch))) {
                let message = "is no postage batch: expected its 64 hex digits";
                return wrong(format!(".nodes.{index}.postage_batch"), message);
            }
        }
        Ok(())
    }
}

fn digits(batch: &str) -> &str {
    batch.strip_prefix("0x").unwrap_or(batch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_cannot_be_used_are_refused_where_they_stand() {
        let refusal = |text: &str| {
            let store: RemoteStore = toml::from_str(text).unwrap();
            store.check().err().map(|wrong| (wrong.path, wrong.message))
        };
        let node = "[[nodes]]\nurl = \"http://127.0.0.1:1633\"\n";
        let batch = "0xB1".to_owned() + &"b2".repeat(31);
        let with_batch = format!("{node}postage_batch = \"{batch}\"\n");
        for text in [node, &with_batch, &format!("cache_bytes = 0\n{node}")] {
            assert_eq!(refusal(text), None, "{text}");
        }
        for (text, path, message) in [
            ("", "remote-store", "has no nodes: "),
            ("timeout = \"0s\"", "remote-store.timeout", "must be longer than nothing"),
            ("max_concurrent = 0", "remote-store.max_concurrent", "is 0: expected at least 1"),
            ("max_content_bytes = 16777217", "remote-store.max_content_bytes", "is more than a call can bring"),
            ("[[nodes]]\nurl = \"k3y@node\"", "remote-store.nodes.0.url", "is no URL of a node: "),
            ("[[nodes]]\nurl = \"ws://node\"", "remote-store.nodes.0.url", "is no URL of a node: "),
            (
                "[[nodes]]\nurl = \"http://node\"\npostage_batch = \"b1\"",
                "remote-store.nodes.0.postage_batch",
                "is no postage batch: ",
            ),
        ] {
            let (found, told) = refusal(text).unwrap();
            assert!(found == path && told.starts_with(message) && !told.contains("k3y"), "{found}: {told}");
        }
        let store: RemoteStore = toml::from_str(&with_batch).unwrap();
        let settings = store.settings();
        assert_eq!(settings.nodes[0].batch, Some(batch[2..].to_lowercase()));
        assert_eq!(settings.limits, Limits::default());
    }
}
