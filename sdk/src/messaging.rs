//! Messages over content topics. Publishing is immediate and repeats when its event does;
//! [`outbox::message`](crate::outbox::message) sends once, after the event is committed.

use crate::bindings::nexum::host::messaging as host;
use crate::{Message, Result};

/// Publishes `payload` on a topic such as `/app/1/name/proto`.
pub fn publish(content_topic: &str, payload: impl AsRef<[u8]>) -> Result<()> {
    Ok(host::publish(content_topic, payload.as_ref())?)
}

/// Stored messages of a topic between two times in milliseconds since the Unix epoch, at most `limit` of them.
pub fn query(
    content_topic: &str,
    start_ms: Option<u64>,
    end_ms: Option<u64>,
    limit: Option<u32>,
) -> Result<Vec<Message>> {
    Ok(host::query(content_topic, start_ms, end_ms, limit)?)
}
