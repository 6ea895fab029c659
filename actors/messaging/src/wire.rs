//! How nodes write messages, pages of them and refusals.
//!
//! Hashes are 0x-hex in newer nodes and Base64 in older ones; payloads are Base64. Store version 3 knows a message by its hash,
//! and its cursor is one; version 1 had a cursor of four fields and no hashes, and is not asked.

use std::fmt::{self, Display};

use base64::{Engine as _, engine::general_purpose};
use nexum_host_ifaces::{
    Hash, HostError, HostErrorKind,
    bounded::{MESSAGE_BYTES_MAX, cut},
    interfaces::messaging::CAPABILITY,
    types::Message,
};
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, SeqAccess, Visitor},
};
use serde_json::{Value, json};

use crate::settings::PAGE_SIZE_MAX;

const NS_PER_MS: u64 = 1_000_000;
/// What a node's limit on messages is waited for, since nodes do not say how long their epochs are, milliseconds.
const RLN_WAIT_MS: &str = "30000";

/// Messages that are read of one page: a store may give each twice. Small ones would fill the memory many times over before
/// they were counted.
const RECORDS_MAX: usize = 2 * PAGE_SIZE_MAX;

/// A stored message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub time_ns: u64,
    pub hash: Hash,
    /// What its sender put beside the payload.
    pub meta: Vec<u8>,
    pub message: Message,
}

/// A page of stored messages, and how the next one is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    pub messages: Vec<Stored>,
    pub next: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoreAnswer {
    status_code: Option<u32>,
    status_desc: Option<String>,
    #[serde(default, deserialize_with = "records")]
    messages: Vec<StoredRecord>,
    pagination_cursor: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredRecord {
    message_hash: String,
    message: Option<WireMessage>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireMessage {
    payload: String,
    content_topic: String,
    timestamp: Option<i64>,
    meta: Option<String>,
}

pub fn error(kind: HostErrorKind, message: impl Into<String>) -> HostError {
    HostError::new(CAPABILITY.name(), kind, message)
}

/// Of what a node wrote no more is kept than people read.
fn unusable(whose: &str, why: impl Display) -> HostError {
    error(HostErrorKind::Unavailable, cut(format_args!("the answer of a {whose}: {why}"), MESSAGE_BYTES_MAX))
}

fn records<'de, D: Deserializer<'de>>(page: D) -> Result<Vec<StoredRecord>, D::Error> {
    struct Records;

    impl<'de> Visitor<'de> for Records {
        type Value = Vec<StoredRecord>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "at most {RECORDS_MAX} messages")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut page: A) -> Result<Vec<StoredRecord>, A::Error> {
            let mut records = Vec::new();
            while let Some(record) = page.next_element()? {
                if records.len() == RECORDS_MAX {
                    return Err(A::Error::invalid_length(RECORDS_MAX + 1, &self));
                }
                records.push(record);
            }
            Ok(records)
        }
    }

    page.deserialize_seq(Records)
}

/// What a store answered; a message of another topic than the wanted one is an error.
pub fn page(body: &[u8], topic: Option<&str>) -> Result<Page, HostError> {
    let answer: StoreAnswer = serde_json::from_slice(body).map_err(|why| unusable("store", why))?;
    if let Some(code) = answer.status_code.filter(|code| *code != 200) {
        let told = in_one_line(&answer.status_desc.unwrap_or_default());
        let kind = match code {
            // Nothing is wrong with the question: the connection between the node and its store broke off.
            400 if told.to_ascii_lowercase().contains("stream") => HostErrorKind::Unavailable,
            400 => HostErrorKind::InvalidInput,
            429 => HostErrorKind::RateLimited,
            _ => HostErrorKind::Unavailable,
        };
        let failed = error(kind, cut(format_args!("a store answers {code}: {told}"), MESSAGE_BYTES_MAX));
        return Err(if code == 429 { failed.with_code(429) } else { failed });
    }
    let messages =
        answer.messages.into_iter().map(|record| stored(record, topic).map_err(|why| unusable("store", why)));
    Ok(Page {
        messages: messages.collect::<Result<_, _>>()?,
        next: answer.pagination_cursor.filter(|it| !it.is_empty()),
    })
}

fn stored(record: StoredRecord, topic: Option<&str>) -> Result<Stored, String> {
    let hash = hash(&record.message_hash).ok_or("a hash that is none")?;
    let Some(WireMessage { payload, content_topic, timestamp, meta }) = record.message else {
        return Err("a hash without its message".to_owned());
    };
    if topic.is_some_and(|topic| topic != content_topic) {
        return Err("a message of another topic".to_owned());
    }
    let time_ns = timestamp.and_then(|time| u64::try_from(time).ok()).ok_or("a message without its time")?;
    let payload = bytes(&payload).ok_or("a payload that is no Base64")?;
    let meta = meta.map_or(Some(Vec::new()), |meta| bytes(&meta)).ok_or("a meta that is no Base64")?;
    let message = Message { content_topic, payload, timestamp: time_ns / NS_PER_MS, sender: None };
    Ok(Stored { time_ns, hash, meta, message })
}

/// Base64, whichever of its alphabets, with or without what fills it up.
fn bytes(text: &str) -> Option<Vec<u8>> {
    let plain: String = text.trim_end_matches('=').replace('-', "+").replace('_', "/");
    general_purpose::STANDARD_NO_PAD.decode(plain).ok()
}

fn hash(text: &str) -> Option<Hash> {
    if text.starts_with("0x") {
        return text.parse().ok();
    }
    bytes(text).and_then(|bytes| Hash::try_from(bytes.as_slice()).ok())
}

/// A message as the relay takes it.
pub fn outgoing(topic: &str, payload: &[u8], meta: Option<&Hash>, time_ns: u64) -> Value {
    let mut message = json!({
        "payload": general_purpose::STANDARD.encode(payload),
        "contentTopic": topic,
        "version": 0,
        "timestamp": time_ns,
    });
    if let (Some(Hash(meta)), Some(fields)) = (meta, message.as_object_mut()) {
        fields.insert("meta".to_owned(), general_purpose::STANDARD.encode(meta).into());
    }
    message
}

/// How many messages a node heard since it was asked last.
pub fn heard(body: &[u8]) -> Result<usize, HostError> {
    let heard: Vec<serde::de::IgnoredAny> = serde_json::from_slice(body).map_err(|why| unusable("relay", why))?;
    Ok(heard.len())
}

/// What somebody wrote, without what moves a terminal's cursor.
fn in_one_line(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ")
}

/// What a status that is no success means. `said` is the body of the answer.
pub fn refusal(operation: &str, status: u16, said: &[u8]) -> HostError {
    let said = in_one_line(&String::from_utf8_lossy(said));
    let told = |what: &str| {
        let said = if said.is_empty() { String::new() } else { format!(": {said}") };
        cut(format!("{operation}: {what} (status {status}{said})"), MESSAGE_BYTES_MAX)
    };
    let code = i32::from(status);
    let lower = said.to_ascii_lowercase();
    let is_publish = operation == "publish";
    // A node makes its proof of membership for a message (RLN) only so often within an epoch, and others drop what exceeds it.
    let exceeds = is_publish && (status == 504 || lower.contains("rln") || lower.contains("limit exceeded"));
    if exceeds {
        let what = "refused by the rate limit of the node's membership (RLN)";
        return error(HostErrorKind::RateLimited, told(what)).with_code(code).with_data(RLN_WAIT_MS);
    }
    let (kind, what) = match status {
        401 | 403 => (HostErrorKind::Denied, "the node does not allow it"),
        413 => (HostErrorKind::InvalidInput, "the message is too large for the node"),
        420 | 421 if is_publish => (HostErrorKind::InvalidInput, "the node does not take this message"),
        429 => (HostErrorKind::RateLimited, "too many requests for the node"),
        400 if is_publish && lower.contains("size exceeded") => {
            (HostErrorKind::InvalidInput, "the message is too large for the node")
        }
        // So it says that it has no peers, too.
        400 if is_publish && lower.starts_with("failed to publish") => {
            (HostErrorKind::Unavailable, "the node could not pass it on")
        }
        // As a node says whose interface is switched off, and a proxy whose node is not there.
        404 => (HostErrorKind::Unavailable, "the node does not know such a request"),
        412 => (HostErrorKind::Unavailable, "the node knows no store"),
        400..500 => (HostErrorKind::InvalidInput, "the node refuses it"),
        505 if is_publish => (HostErrorKind::Unavailable, "the node has no peers to relay to"),
        _ => (HostErrorKind::Unavailable, "the node failed"),
    };
    error(kind, told(what)).with_code(code)
}

/// Whether a node refuses a message because it has it: the same bytes with the same time.
pub fn is_duplicate(failed: &HostError) -> bool {
    failed.code == 400 && failed.message.contains("DuplicateMessage")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPIC: &str = "/app/1/x/proto";

    fn record(hash: &str) -> String {
        format!(
            r#"{{"messageHash":"{hash}","message":{{"payload":"aGk=","contentTopic":"{TOPIC}","version":0,"timestamp":5000001,"ephemeral":false}},"pubsubTopic":"/waku/2/rs/1/0"}}"#
        )
    }

    fn answer(messages: &str, rest: &str) -> String {
        format!(r#"{{"requestId":"","statusCode":200,"statusDesc":"OK","messages":[{messages}]{rest}}}"#)
    }

    #[test]
    fn a_page_is_read_whichever_way_hashes_are_written() {
        let hex = format!("0x{}", "11".repeat(32));
        let base64 = general_purpose::STANDARD.encode([0x11; 32]);
        for written in [hex.as_str(), base64.as_str()] {
            let read = page(answer(&record(written), r#","paginationCursor":"next""#).as_bytes(), Some(TOPIC)).unwrap();
            let first = &read.messages[0];
            assert_eq!((first.time_ns, first.hash, first.message.timestamp), (5_000_001, Hash([0x11; 32]), 5));
            assert_eq!((first.message.payload.as_slice(), read.next.as_deref()), (&b"hi"[..], Some("next")));
        }
        let empty = page(answer("", "").as_bytes(), Some(TOPIC)).unwrap();
        assert_eq!(empty, Page { messages: Vec::new(), next: None });
    }

    #[test]
    fn what_is_wrong_with_a_page_is_said() {
        let wrong = |body: &str| page(body.as_bytes(), Some(TOPIC)).unwrap_err();
        let one = record(&format!("0x{}", "11".repeat(32)));
        for (body, told) in [
            ("no JSON".to_owned(), "the answer of a store: expected"),
            (answer(&one.replace("0x11", "0x1"), ""), "the answer of a store: a hash that is none"),
            (answer(&one.replace("aGk=", "%%"), ""), "the answer of a store: a payload that is no Base64"),
            (answer(&one.replace("/app/1/x", "/app/1/y"), ""), "the answer of a store: a message of another topic"),
            (answer(&one.replace("5000001", "-1"), ""), "the answer of a store: a message without its time"),
            (r#"{"messages":[{"messageHash":"0x"}]}"#.to_owned(), "the answer of a store: a hash that is none"),
        ] {
            let error = wrong(&body);
            assert!(error.kind == HostErrorKind::Unavailable && error.message.starts_with(told), "{}", error.message);
        }
        for (code, kind) in
            [(400, HostErrorKind::InvalidInput), (429, HostErrorKind::RateLimited), (503, HostErrorKind::Unavailable)]
        {
            let error = wrong(&format!(r#"{{"statusCode":{code},"statusDesc":"why","messages":[]}}"#));
            assert_eq!((error.kind, error.message), (kind, format!("a store answers {code}: why")));
        }
    }

    #[test]
    fn a_refusal_says_whether_it_may_pass() {
        let of = |operation: &str, status: u16, said: &str| {
            let error = refusal(operation, status, said.as_bytes());
            (error.kind, error.data.is_some())
        };
        let limited = (HostErrorKind::RateLimited, true);
        let rln = "Failed to publish: error appending RLN proof to message: nonce limit reached";
        assert_eq!(of("publish", 500, rln), limited);
        assert_eq!(of("publish", 400, "Failed to publish: limit exceeded, try again later"), limited);
        assert_eq!(of("publish", 504, ""), limited);
        for (status, said, kind) in [
            (400, "Failed to publish. NoPeersToPublish", HostErrorKind::Unavailable),
            (400, "Failed to publish. Message size exceeded maximum of 153600 bytes", HostErrorKind::InvalidInput),
            (400, "Unable to decode", HostErrorKind::InvalidInput),
            (401, "", HostErrorKind::Denied),
            (404, "", HostErrorKind::Unavailable),
            (413, "", HostErrorKind::InvalidInput),
            (420, "", HostErrorKind::InvalidInput),
            (429, "", HostErrorKind::RateLimited),
            (500, "Failed to publish: timedout", HostErrorKind::Unavailable),
            (503, "", HostErrorKind::Unavailable),
            (505, "", HostErrorKind::Unavailable),
        ] {
            assert_eq!(of("publish", status, said), (kind, false), "{status} {said}");
        }
        assert_eq!(of("store", 504, ""), (HostErrorKind::Unavailable, false));
        assert_eq!(of("store", 412, ""), (HostErrorKind::Unavailable, false));
        assert!(is_duplicate(&refusal("publish", 400, b"Failed to publish. DuplicateMessage")));
        assert!(!is_duplicate(&refusal("publish", 400, b"Failed to publish. NoPeersToPublish")));
        let told = refusal("publish", 413, b"too\nbig").message;
        assert_eq!(told, "publish: the message is too large for the node (status 413: too big)");
        let told = refusal("publish", 413, b"\x1b[2Jgone\r\x07").message;
        assert!(told.ends_with("(status 413: [2Jgone)"), "{told}");
    }

    #[test]
    fn an_answer_is_told_and_read_up_to_a_bound() {
        let long = "x".repeat(100_000);
        for body in [
            format!(r#"{{"messages":"{long}"}}"#),
            format!(r#"{{"statusCode":503,"statusDesc":"{long}","messages":[]}}"#),
        ] {
            let told = page(body.as_bytes(), Some(TOPIC)).unwrap_err().message;
            assert!(told.len() <= MESSAGE_BYTES_MAX && told.contains("xxx"), "{told}");
        }
        assert!(heard(format!("\"{long}\"").as_bytes()).unwrap_err().message.len() <= MESSAGE_BYTES_MAX);
        let one = record(&format!("0x{}", "11".repeat(32)));
        let most = vec![one.clone(); RECORDS_MAX].join(",");
        assert_eq!(page(answer(&most, "").as_bytes(), Some(TOPIC)).unwrap().messages.len(), RECORDS_MAX);
        let told = page(answer(&format!("{most},{one}"), "").as_bytes(), Some(TOPIC)).unwrap_err().message;
        assert!(told.contains("invalid length 201, expected at most 200 messages"), "{told}");
    }

    #[test]
    fn what_is_published_is_what_a_store_gives_back() {
        let message = outgoing(TOPIC, b"hi", Some(&Hash([7; 32])), 5_000_001);
        let hash = format!("0x{}", "11".repeat(32));
        let body = json!({ "messages": [{ "messageHash": hash, "message": message }] }).to_string();
        let read = page(body.as_bytes(), Some(TOPIC)).unwrap().messages.remove(0);
        assert_eq!((read.meta.as_slice(), read.time_ns), (&[7; 32][..], 5_000_001));
        assert_eq!(read.message.payload, b"hi");
        assert_eq!(heard(b"[{},{\"a\":1}]"), Ok(2));
        assert!(heard(b"{}").is_err());
    }
}
