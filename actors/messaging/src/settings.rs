//! What the operator says of the nodes, and how they are used.

use std::time::Duration;

/// Messages that a node answers at once at most, whatever it is asked for.
pub const PAGE_SIZE_MAX: usize = 100;

/// How messages leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublishBy {
    /// The node relays them itself.
    Relay,
    /// The node hands them to a service node.
    Lightpush,
}

/// What a messaging actor is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// URLs of the nodes' REST APIs: the first is asked, the next when it does not answer. They may hold passwords.
    pub nodes: Vec<String>,
    pub publish_by: PublishBy,
    /// The store node that the nodes ask, as a multiaddress; the one that they have or find when absent.
    pub store_peer: Option<String>,
    /// One request.
    pub timeout: Duration,
    /// How often stored messages are asked for when nothing was heard live.
    pub poll_interval: Duration,
    /// How often what was heard live is asked for.
    pub live_interval: Duration,
    /// How much later than younger ones a message may come and is still delivered.
    pub max_disorder: Duration,
    /// Messages asked for at once.
    pub page_size: usize,
    /// Requests at once.
    pub requests_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            nodes: Vec::new(),
            publish_by: PublishBy::Relay,
            store_peer: None,
            timeout: Duration::from_secs(10),
            poll_interval: Duration::from_secs(15),
            live_interval: Duration::from_secs(1),
            max_disorder: Duration::from_secs(60),
            page_size: PAGE_SIZE_MAX,
            requests_max: 8,
        }
    }
}
