//! Messages over content topics. Publishing is immediate and repeats when its event does;
//! [`outbox::message`](crate::outbox::message) sends once, after the event is committed.

use crate::raw::messaging as host;
use crate::{Error, Message, Result};

/// Publishes `payload` on a topic such as `/app/1/name/proto`.
pub fn publish(content_topic: &str, payload: impl AsRef<[u8]>) -> Result<()> {
    host::publish(content_topic, payload.as_ref()).map_err(Error::from_host)
}

/// Stored messages of a topic between two times in milliseconds since the Unix epoch, both inclusive, the oldest `limit` of
/// them: 100 without one, 1,000 at most.
pub fn query(
    content_topic: &str,
    start_ms: Option<u64>,
    end_ms: Option<u64>,
    limit: Option<u32>,
) -> Result<Vec<Message>> {
    host::query(content_topic, start_ms, end_ms, limit).map_err(Error::from_host)
}

#[cfg(all(test, not(target_family = "wasm")))]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn what_is_stored_is_found_by_topic_and_time_and_what_is_published_is_kept() {
        testing::reset();
        let stored = |topic: &str, timestamp| Message {
            content_topic: topic.to_owned(),
            payload: vec![1],
            timestamp,
            sender: None,
        };
        testing::set_stored([stored("/a/1/x/plain", 1), stored("/a/1/y/plain", 2), stored("/a/1/x/plain", 3)]);
        let times = |start, limit| {
            let found = query("/a/1/x/plain", start, None, limit).unwrap();
            found.iter().map(|message| message.timestamp).collect::<Vec<_>>()
        };
        assert_eq!((times(None, None), times(Some(2), None), times(None, Some(1))), (vec![1, 3], vec![3], vec![1]));
        publish("/a/1/x/plain", "hello").unwrap();
        assert_eq!(testing::published(), [("/a/1/x/plain".to_owned(), b"hello".to_vec())]);
    }
}
