//! The port of the messaging actor, and what a topic and a payload may look like.

use std::{sync::Arc, time::Duration};

use ractor::RpcReplyPort;
use serde::{Deserialize, Serialize};

use crate::{
    Hash, HostError, HostErrorKind,
    event::{Cursor, SourceId, Subscriber},
    interfaces::{chain::port::ChainWait, messaging::CAPABILITY},
    ports::Service,
    types::Message,
};

/// Longer topics have no use: applications, versions and names are words.
pub const TOPIC_BYTES_MAX: usize = 256;
/// Waku's nodes take messages of 150 KiB unless they are told otherwise; topic and proof need the rest.
pub const PAYLOAD_BYTES_MAX: usize = 148 * 1024;
/// Messages that one query answers at most.
pub const QUERY_MESSAGES_MAX: u32 = 1_000;
/// The same when the module does not say how many.
pub const QUERY_MESSAGES: u32 = 100;

/// What would be right.
const TOPIC_FORM: &str = "expected /application/version/name/encoding, such as /app/1/chat/proto";

/// Whether this is a topic of Waku's: four parts, or five with the number of a generation before them.
///
/// # Errors
/// What is wrong, and what would be right.
pub fn check_topic(topic: &str) -> Result<(), String> {
    if topic.len() > TOPIC_BYTES_MAX {
        return Err(format!("a topic of {} bytes: expected at most {TOPIC_BYTES_MAX}", topic.len()));
    }
    // Lists of topics have commas between them, and nodes decode what is encoded more than once.
    let is_plain = |c: char| c.is_ascii_graphic() && !matches!(c, ',' | '%' | '+' | '?' | '#' | '&');
    if !topic.chars().all(is_plain) {
        return Err(format!("topic `{topic}`: expected visible ASCII without any of , % + ? # &"));
    }
    let parts: Vec<&str> = topic.strip_prefix('/').unwrap_or_default().split('/').collect();
    let is_generation = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let named = match parts.as_slice() {
        [generation, rest @ ..] if parts.len() == 5 && is_generation(generation) => rest,
        all => all,
    };
    match named.len() == 4 && named.iter().all(|part| !part.is_empty()) {
        true => Ok(()),
        false => Err(format!("topic `{topic}`: {TOPIC_FORM}")),
    }
}

/// Whether a message like this could ever be published.
///
/// # Errors
/// `invalid-input` with what would be right.
pub fn check(topic: &str, payload: &[u8]) -> Result<(), HostError> {
    check_topic(topic).map_err(invalid)?;
    match payload.len() {
        0 => Err(invalid("a message without a payload, which nodes do not take")),
        bytes if bytes > PAYLOAD_BYTES_MAX => {
            Err(invalid(format!("a payload of {bytes} bytes, at most {PAYLOAD_BYTES_MAX}")))
        }
        _ => Ok(()),
    }
}

pub(crate) fn invalid(message: impl Into<String>) -> HostError {
    HostError::new(CAPABILITY.name(), HostErrorKind::InvalidInput, message)
}

/// One message on its way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    pub topic: Arc<str>,
    pub payload: Vec<u8>,
    /// Of an effect: the digest of its id, which the message carries.
    pub effect: Option<Hash>,
    /// An attempt before this one may have arrived.
    pub again: bool,
    pub deadline: Duration,
}

/// What is asked of the stored messages of a topic. Times are inclusive, nanoseconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    pub topic: Arc<str>,
    pub start_ns: Option<u64>,
    pub end_ns: Option<u64>,
    /// The oldest so many.
    pub messages_max: u32,
    /// More than this in topics and payloads is an error.
    pub bytes_max: usize,
    pub deadline: Duration,
}

/// One module's request for the messages that follow its cursor in a topic.
#[derive(Debug, Clone)]
pub struct MessagePull {
    pub module: Arc<str>,
    pub source: SourceId,
    pub token: u64,
    pub topic: Arc<str>,
    /// How far back the module begins.
    pub history: Option<Duration>,
    /// `None` on the very first pull: answer at once with no delivery and where the module begins.
    pub after: Option<Cursor>,
    /// Answer once everything that the node has was looked through, also when there is nothing.
    pub at_once: bool,
    pub deliveries_max: usize,
    pub to: Subscriber,
}

/// A node, for the tree.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NodeStatus {
    pub name: String,
    /// How long it has not answered.
    pub failing_ms: Option<u64>,
    pub last_error: Option<String>,
}

/// State of the messaging actor, for the tree.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MessagingStatus {
    pub nodes: Vec<NodeStatus>,
    pub topics: usize,
    pub published_total: u64,
    pub delivered_total: u64,
    /// How often a node no longer had what a module had not handled yet.
    pub gaps_total: u64,
    pub last_gap: Option<String>,
    /// What modules wait for because of the nodes.
    pub waits: Vec<ChainWait>,
}

#[derive(Debug)]
pub enum MessagingMsg {
    /// Must reply, with what the node said.
    Publish { publish: Box<Publish>, reply: RpcReplyPort<Result<Vec<u8>, HostError>> },
    /// Must reply, with messages in the order of their times.
    Query { query: Box<Query>, reply: RpcReplyPort<Result<Vec<Message>, HostError>> },
    /// Must answer once, when there is a message. Replaces an earlier pull of the same module and source.
    Pull(Box<MessagePull>),
    /// Drop whatever this module waits for.
    Forget { module: Arc<str> },
    /// Must reply.
    Status(RpcReplyPort<MessagingStatus>),
    /// Work of the actor ended in a panic; from anyone else it ends the actor as well.
    Broken,
}

impl Service for MessagingMsg {
    const NAME: &'static str = "messaging";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_has_four_parts_or_a_generation_before_them() {
        for topic in ["/app/1/x/proto", "/0/app/1/x/proto", "/my-app/2.1/order_book/json", "/1/2/3/4"] {
            assert_eq!(check_topic(topic), Ok(()), "{topic}");
        }
        for topic in [
            "",
            "/",
            "app/1/x/proto",
            "/app/1/x",
            "/app/1/x/",
            "//1/x/proto",
            "/app/1/x/proto/",
            "/app/1/x/proto/more",
            "/v0/app/1/x/proto",
            "/0/app/1/x/proto/more",
        ] {
            let expected = "expected /application/version/name/encoding, such as /app/1/chat/proto";
            assert_eq!(check_topic(topic), Err(format!("topic `{topic}`: {expected}")));
        }
        for topic in
            ["/a p/1/x/proto", "/app/1/x,y/proto", "/app/1/x%2f/proto", "/app/1/\u{e4}/proto", "/app/1/x\n/proto"]
        {
            assert!(
                check_topic(topic).unwrap_err().ends_with("`: expected visible ASCII without any of , % + ? # &"),
                "{topic}"
            );
        }
        let long = format!("/app/1/{}/proto", "x".repeat(TOPIC_BYTES_MAX));
        assert_eq!(check_topic(&long).unwrap_err(), "a topic of 269 bytes: expected at most 256");
    }

    #[test]
    fn a_payload_has_a_byte_and_an_end() {
        let wrong = |bytes: usize| check("/app/1/x/proto", &vec![0; bytes]).map_err(|error| error.message);
        assert_eq!((wrong(1), wrong(PAYLOAD_BYTES_MAX)), (Ok(()), Ok(())));
        assert_eq!(wrong(0).unwrap_err(), "a message without a payload, which nodes do not take");
        assert_eq!(wrong(PAYLOAD_BYTES_MAX + 1).unwrap_err(), "a payload of 151553 bytes, at most 151552");
    }
}
