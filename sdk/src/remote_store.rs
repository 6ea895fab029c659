//! Content on Swarm, and feeds of it. What is read was checked against what was asked for, so that it needs no trust in the
//! operator's node.
//!
//! A reference has 32 bytes, or 64 when it carries the key of encrypted content; a topic has 32 bytes, such as the keccak-256 of
//! a name. Uploads and updates of feeds made here are immediate and repeat when their event does: the same content is stored
//! again under the same reference, and a feed gets another update. [`outbox::upload`](crate::outbox::upload) and
//! [`outbox::feed`](crate::outbox::feed) do it once, after the event is committed.
//!
//! ```no_run
//! use nexum_sdk::remote_store::{self, Failure};
//!
//! let reference = remote_store::upload("a report")?;
//! match remote_store::download(&reference) {
//!     Ok(report) => assert_eq!(report, b"a report"),
//!     Err(error) if Failure::of(&error) == Some(Failure::NotFound) => nexum_sdk::warn!("the network has it no more"),
//!     Err(error) => return Err(error),
//! }
//! # Ok::<(), nexum_sdk::Error>(())
//! ```

use crate::{Error, Result, raw};

/// Stores content, at most 16 MiB, and answers its reference, 32 bytes.
pub fn upload(data: impl AsRef<[u8]>) -> Result<Vec<u8>> {
    raw::remote_store::upload(data.as_ref()).map_err(Error::from_host)
}

/// The content behind a reference.
pub fn download(reference: impl AsRef<[u8]>) -> Result<Vec<u8>> {
    raw::remote_store::download(reference.as_ref()).map_err(Error::from_host)
}

/// The newest update of the feed of an owner, an address of 20 bytes, under a topic; none when there is no update yet.
pub fn read_feed(owner: impl AsRef<[u8]>, topic: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>> {
    raw::remote_store::read_feed(owner.as_ref(), topic.as_ref()).map_err(Error::from_host)
}

/// Makes content the next update under a topic, and answers the address of the update. Its owner is the operator's account that a
/// policy gives this module for the topic; the manifest lists `feed` in `[capabilities.identity] methods`.
pub fn write_feed(topic: impl AsRef<[u8]>, data: impl AsRef<[u8]>) -> Result<Vec<u8>> {
    raw::remote_store::write_feed(topic.as_ref(), data.as_ref()).map_err(Error::from_host)
}

/// What went wrong, as far as a module may want to decide on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// No node finds it.
    NotFound,
    /// The operator's postage batch has no room: uploads work again once it was diluted.
    BatchFull,
    /// The operator's postage batch has expired, or is not known to the node.
    BatchUnusable,
    /// The node is catching up with its chain.
    Syncing,
    /// The node was not reached.
    Unreachable,
    /// The nodes were too slow for the deadline.
    Slow,
    /// The node broke off in the middle of an answer.
    HalfAnswer,
    /// The node answered with something else than what was asked for.
    Corrupt,
    /// The content is larger than the operator or the manifest allows.
    TooLarge,
}

impl Failure {
    /// What an error of this interface says; none for other errors.
    pub fn of(error: &Error) -> Option<Self> {
        let told = error.data().filter(|_| error.domain() == "remote-store")?;
        let all = [
            ("not-found", Self::NotFound),
            ("batch-full", Self::BatchFull),
            ("batch-unusable", Self::BatchUnusable),
            ("syncing", Self::Syncing),
            ("unreachable", Self::Unreachable),
            ("slow", Self::Slow),
            ("half-answer", Self::HalfAnswer),
            ("corrupt", Self::Corrupt),
            ("too-large", Self::TooLarge),
        ];
        all.into_iter().find(|(name, _)| *name == told).map(|(_, failure)| failure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn a_test_keeps_content_and_feeds_in_memory() {
        crate::testing::reset();
        let reference = upload("a report").unwrap();
        assert_eq!(download(&reference).unwrap(), b"a report");
        assert_eq!(crate::testing::store("a report").as_slice(), reference);
        assert_ne!(upload("another").unwrap(), reference);
        assert_eq!(Failure::of(&download([0; 32]).unwrap_err()), Some(Failure::NotFound));
        assert!(write_feed([7; 32], "x").is_err(), "it is of nobody");
        crate::testing::set_accounts([[1; 20]]);
        assert_eq!(read_feed([1; 20], [7; 32]).unwrap(), None);
        write_feed([7; 32], "x").unwrap();
        assert_eq!(read_feed([1; 20], [7; 32]).unwrap().as_deref(), Some(&b"x"[..]));
        crate::testing::set_feed([2; 20], [7; 32], "y");
        assert_eq!(read_feed([2; 20], [7; 32]).unwrap().as_deref(), Some(&b"y"[..]));
    }

    #[test]
    fn an_error_says_what_went_wrong() {
        let error = |domain: &str, data: Option<&str>| {
            Error::new(ErrorKind::Unavailable, "x").in_domain(domain).with_code(402, data.map(str::to_owned))
        };
        assert_eq!(Failure::of(&error("remote-store", Some("batch-full"))), Some(Failure::BatchFull));
        assert_eq!(Failure::of(&error("remote-store", Some("too-large"))), Some(Failure::TooLarge));
        assert_eq!(Failure::of(&error("remote-store", Some("1000"))), None);
        assert_eq!(Failure::of(&error("http", Some("batch-full"))), None);
        assert_eq!(Failure::of(&error("remote-store", None)), None);
    }
}
