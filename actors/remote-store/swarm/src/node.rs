//! What the answers of a Bee node mean.

use serde::Deserialize;

use crate::{chunk::ChunkAddress, reference::Reference};

/// Bodies that are read for what they say; a node writes a line of JSON.
pub const MESSAGE_BYTES_MAX: usize = 4 * 1024;
const MESSAGE_CHARS_MAX: usize = 200;

/// Why a node has not done what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Failure {
    /// 404: it finds no such chunk.
    NotFound,
    /// 402: the postage batch has no room for these chunks.
    BatchFull,
    /// The postage batch has expired, is not known yet or never was.
    BatchUnusable,
    /// It answers later: it is catching up with its chain.
    Syncing,
    /// It refused the request for another reason.
    Refused,
    /// It failed.
    Failed,
    /// It wants somebody to log in.
    Denied,
    /// 429.
    Busy,
    /// It was not reached.
    Unreachable,
    /// It did not answer in time.
    Slow,
    /// The answer broke off.
    Half,
    /// The answer is not what was asked for, and is too large or makes no sense.
    Corrupt,
}

impl Failure {
    /// Its name in errors and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotFound => "not-found",
            Self::BatchFull => "batch-full",
            Self::BatchUnusable => "batch-unusable",
            Self::Syncing => "syncing",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Denied => "denied",
            Self::Busy => "busy",
            Self::Unreachable => "unreachable",
            Self::Slow => "slow",
            Self::Half => "half-answer",
            Self::Corrupt => "corrupt",
        }
    }

    /// Whether another node may do better, where there is one. A postage batch belongs to one node.
    pub fn is_of_this_node(self) -> bool {
        !matches!(self, Self::Refused)
    }

    /// Whether it lasts until somebody tops up, waits or repairs, however often it is tried.
    pub fn waits_for_the_operator(self) -> bool {
        matches!(self, Self::BatchFull | Self::BatchUnusable | Self::Syncing)
    }

    /// What an answer with another status than success means. Uploads carry a postage batch.
    pub fn of_status(status: u16, body: &[u8], is_upload: bool) -> Self {
        let says = |words: &[&str]| {
            let text = String::from_utf8_lossy(body).to_lowercase();
            words.iter().any(|word| text.contains(word))
        };
        match status {
            402 if says(&["not usable", "expired", "unusable"]) => Self::BatchUnusable,
            402 => Self::BatchFull,
            400 | 404 | 422 if is_upload && says(&["batch", "stamp"]) => Self::BatchUnusable,
            404 => Self::NotFound,
            401 | 403 => Self::Denied,
            408 | 504 => Self::Slow,
            429 => Self::Busy,
            503 if says(&["sync"]) => Self::Syncing,
            500.. => Self::Failed,
            _ => Self::Refused,
        }
    }
}

/// What a node says of a failure, for people: the `message` of its JSON, or its text.
pub fn message(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Told {
        message: String,
    }
    let told = serde_json::from_slice::<Told>(body).map(|told| told.message);
    let text = told.unwrap_or_else(|_| String::from_utf8_lossy(body).into_owned());
    let shown = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    shown.take(MESSAGE_CHARS_MAX).collect::<String>().trim().to_owned()
}

/// The reference that an upload was answered with.
pub fn uploaded(body: &[u8]) -> Option<Reference> {
    #[derive(Deserialize)]
    struct Uploaded {
        reference: String,
    }
    let Uploaded { reference } = serde_json::from_slice(body).ok()?;
    Reference::of_bytes(&hex::decode(reference).ok()?)
}

/// Whether that is the address that content has.
pub fn is_answer(body: &[u8], address: &ChunkAddress) -> bool {
    uploaded(body) == Some(Reference { address: *address, key: None })
}

/// What a node says of a postage batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    pub is_usable: bool,
    /// How long it lasts at today's price; none when the node does not know.
    pub ttl_s: Option<u64>,
    /// How full its fullest bucket is, in percent: when that is full, uploads begin to fail, or to displace what is there.
    pub used_percent: u64,
    /// What finds no room displaces older chunks, and the node says nothing of it.
    pub is_mutable: bool,
}

impl Batch {
    pub fn read(body: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Told {
            usable: bool,
            utilization: u64,
            depth: u32,
            bucket_depth: u32,
            #[serde(rename = "batchTTL")]
            batch_ttl: i64,
            #[serde(default)]
            immutable_flag: Option<bool>,
        }
        let told: Told = serde_json::from_slice(body).ok()?;
        let bucket = 1u64.checked_shl(told.depth.checked_sub(told.bucket_depth)?).filter(|slots| *slots > 0)?;
        let used_percent = told.utilization.min(bucket).checked_mul(100)? / bucket;
        let (ttl_s, is_mutable) = (u64::try_from(told.batch_ttl).ok(), told.immutable_flag == Some(false));
        Some(Self { is_usable: told.usable, ttl_s, used_percent, is_mutable })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_means_something_of_its_own() {
        for (status, body, is_upload, failure) in [
            (402, r#"{"code":402,"message":"batch is overissued"}"#, true, Failure::BatchFull),
            (402, r#"{"code":402,"message":"batch is not usable"}"#, true, Failure::BatchUnusable),
            (404, r#"{"code":404,"message":"batch with id not found"}"#, true, Failure::BatchUnusable),
            (422, r#"{"code":422,"message":"batch not usable yet or does not exist"}"#, true, Failure::BatchUnusable),
            (400, r#"{"code":400,"message":"invalid batch id"}"#, true, Failure::BatchUnusable),
            (404, r#"{"code":404,"message":"chunk not found"}"#, false, Failure::NotFound),
            (404, "batch", false, Failure::NotFound),
            (503, "Node is syncing. This endpoint is unavailable. Try again later.", true, Failure::Syncing),
            (503, "no", false, Failure::Failed),
            (500, "", false, Failure::Failed),
            (504, "", false, Failure::Slow),
            (429, "", false, Failure::Busy),
            (401, "", false, Failure::Denied),
            (413, "", true, Failure::Refused),
            (302, "", false, Failure::Refused),
        ] {
            assert_eq!(Failure::of_status(status, body.as_bytes(), is_upload), failure, "{status} {body}");
        }
    }

    #[test]
    fn what_a_node_says_is_read_and_cut() {
        assert_eq!(message(br#"{"code":404,"message":"chunk not found"}"#), "chunk not found");
        assert_eq!(message(b" plain\n\x1b[31mtext "), "plain  [31mtext");
        assert!(message(&[b'x'; 10_000]).len() == MESSAGE_CHARS_MAX);
        let address = [0xab; 32];
        let body = format!("{{\"reference\":\"{}\"}}", hex::encode(address));
        assert!(is_answer(body.as_bytes(), &address) && !is_answer(body.as_bytes(), &[0; 32]));
        for wrong in ["", "{}", "{\"reference\":\"abc\"}", "{\"reference\":\"abcd\"}", "[]"] {
            assert_eq!(uploaded(wrong.as_bytes()), None, "{wrong}");
        }
        let batch = |usable, utilization, ttl| {
            format!(
                r#"{{"batchID":"ab","utilization":{utilization},"usable":{usable},"depth":20,"bucketDepth":16,"batchTTL":{ttl}}}"#
            )
        };
        let read = |text: String| Batch::read(text.as_bytes());
        let half = Batch { is_usable: true, ttl_s: Some(9), used_percent: 50, is_mutable: false };
        assert_eq!(read(batch(true, 8, 9)), Some(half));
        let with =
            |flag: &str| batch(true, 8, 9).replace("\"depth\":20", &format!("\"depth\":20,\"immutableFlag\":{flag}"));
        assert_eq!(read(with("true")), Some(half));
        assert_eq!(read(with("false")), Some(Batch { is_mutable: true, ..half }));
        let spent = Batch { is_usable: false, ttl_s: None, used_percent: 100, is_mutable: false };
        assert_eq!(read(batch(false, 99, -1)), Some(spent));
        assert_eq!(read(batch(true, 8, 9).replace("\"depth\":20", "\"depth\":15")), None);
        assert_eq!(read(batch(true, 8, 9).replace("\"depth\":20", "\"depth\":90")), None);
    }
}
