//! The port of the remote-store actor, and what may be asked of it, for calls and for effects of the outbox alike.

use std::{sync::Arc, time::Duration};

use ractor::RpcReplyPort;
use serde::{Deserialize, Serialize};

use crate::{Address, Hash, HostError, HostErrorKind, interfaces::chain::port::ChainWait, ports::Service};

/// The interface, as errors name it.
pub const DOMAIN: &str = "remote-store";

/// The most that the operator can let content have, bytes: a call cannot bring more.
pub const CONTENT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What stands in the `data` of an error that lasts until the operator or the node has done something: a postage batch without
/// room, one that has expired or is not known, a node that is catching up. An effect waits for it.
pub const WAITS_FOR_OPERATOR: [&str; 3] = ["batch-full", "batch-unusable", "syncing"];

/// An error of this interface.
pub fn error(kind: HostErrorKind, message: impl Into<String>) -> HostError {
    HostError::new(DOMAIN, kind, message)
}

/// Whether content is small enough to be sent at all.
///
/// # Errors
/// `invalid-input`.
pub fn check_content(bytes: usize) -> Result<(), HostError> {
    match bytes <= CONTENT_BYTES_MAX {
        true => Ok(()),
        false => {
            Err(error(HostErrorKind::InvalidInput, format!("content of {bytes} bytes, at most {CONTENT_BYTES_MAX}")))
        }
    }
}

/// A reference as modules give it.
///
/// # Errors
/// `invalid-input` when it has neither 32 nor 64 bytes.
pub fn check_reference(bytes: &[u8]) -> Result<(), HostError> {
    match bytes.len() {
        32 | 64 => Ok(()),
        other => {
            let message = format!("a reference of {other} bytes: expected 32, or 64 with a key");
            Err(error(HostErrorKind::InvalidInput, message))
        }
    }
}

/// A topic as modules give it.
///
/// # Errors
/// `invalid-input` when it has not 32 bytes.
pub fn topic(bytes: &[u8]) -> Result<Hash, HostError> {
    Hash::try_from(bytes).map_err(|_| {
        let message = format!("a topic of {} bytes: expected 32, such as the keccak-256 of a name", bytes.len());
        error(HostErrorKind::InvalidInput, message)
    })
}

/// An owner of a feed as modules give it.
///
/// # Errors
/// `invalid-input` when it has not 20 bytes.
pub fn owner(bytes: &[u8]) -> Result<Address, HostError> {
    Address::try_from(bytes)
        .map_err(|_| error(HostErrorKind::InvalidInput, format!("an owner of {} bytes: expected 20", bytes.len())))
}

/// State of the remote-store actor, for the tree.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct RemoteStoreStatus {
    /// What modules have asked for and has no answer yet.
    pub in_flight: usize,
    pub requests_total: u64,
    pub errors_total: u64,
    /// Of the chunks that are kept to be read again.
    pub cached_bytes: u64,
    pub nodes: Vec<NodeStatus>,
    /// What modules wait for because of the nodes.
    pub waits: Vec<ChainWait>,
}

/// A Bee node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Scheme, host and port.
    pub name: String,
    /// Whether it was of use when it was asked last.
    pub is_up: bool,
    /// How long it has been of none.
    pub down_ms: Option<u64>,
    /// Answers that were not what was asked for.
    pub corrupt_total: u64,
    pub last_error: Option<String>,
    /// Absent on a node that is only read from.
    pub batch: Option<BatchStatus>,
}

/// A postage batch, as the node told it last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchStatus {
    pub is_usable: bool,
    pub used_percent: u64,
    pub ttl_s: Option<u64>,
}

/// `module` is who asks. What is asked for has to be done within `deadline`.
#[derive(Debug)]
pub enum RemoteStoreMsg {
    /// Stores content. Must reply with its reference, 32 bytes.
    Upload { module: Arc<str>, data: Vec<u8>, deadline: Duration, reply: RpcReplyPort<Result<Vec<u8>, HostError>> },
    /// Must reply with the content, which was checked against the reference.
    Download {
        module: Arc<str>,
        reference: Vec<u8>,
        bytes_max: usize,
        deadline: Duration,
        reply: RpcReplyPort<Result<Vec<u8>, HostError>>,
    },
    /// Must reply with the content of the newest update, if there is any, which was checked to be the owner's.
    ReadFeed {
        module: Arc<str>,
        owner: Address,
        topic: Hash,
        bytes_max: usize,
        deadline: Duration,
        reply: RpcReplyPort<Result<Option<Vec<u8>>, HostError>>,
    },
    /// Makes content the next update of the feed of the account that a policy gives the module for this topic. When it may have
    /// been done before (`again`) and the newest update is that content, nothing is. Must reply with the update's address.
    WriteFeed {
        module: Arc<str>,
        topic: Hash,
        data: Vec<u8>,
        again: bool,
        deadline: Duration,
        reply: RpcReplyPort<Result<Vec<u8>, HostError>>,
    },
    /// Must reply.
    Status(RpcReplyPort<RemoteStoreStatus>),
}

impl Service for RemoteStoreMsg {
    const NAME: &'static str = "remote-store";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_module_gives_has_its_size() {
        let wrong = |checked: Result<(), HostError>| checked.map_err(|error| error.message);
        assert_eq!(wrong(check_reference(&[0; 32]).and(check_reference(&[0; 64]))), Ok(()));
        let reference = "a reference of 33 bytes: expected 32, or 64 with a key".to_owned();
        assert_eq!(wrong(check_reference(&[0; 33])), Err(reference));
        assert_eq!(topic(&[7; 32]), Ok(Hash([7; 32])));
        assert!(topic(b"prices").unwrap_err().message.starts_with("a topic of 6 bytes: expected 32"));
        assert_eq!(owner(&[7; 20]), Ok(Address([7; 20])));
        assert_eq!(owner(&[7; 32]).unwrap_err().message, "an owner of 32 bytes: expected 20");
        assert_eq!(wrong(check_content(CONTENT_BYTES_MAX)), Ok(()));
        let large = "content of 16777217 bytes, at most 16777216".to_owned();
        assert_eq!(wrong(check_content(CONTENT_BYTES_MAX + 1)), Err(large));
    }
}
