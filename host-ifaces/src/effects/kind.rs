//! What every kind of effect answers for, what it is given for an attempt, and what an attempt comes to.

use std::{sync::Arc, time::Duration};

use serde_json::Value;

use crate::{
    HostError, HostErrorKind, bindings::nexum::host::outbox::Effect, capability::Capability, clock::Clock,
    grants::Grants, ports::Ports,
};

/// What a module is told of an answer; more of it is for the receiver's own logs.
pub(super) const ANSWER_BYTES_MAX: usize = 16 * 1024;
/// Errors are for people.
pub(super) const ERROR_CHARS_MAX: usize = 500;
/// A failure in JSON, whose kind bounds each of its parts.
const OBJECT_BYTES_MAX: usize = 6 * 1024;

/// An effect, as its kind sees it.
#[async_trait::async_trait]
pub trait EffectKind: Send + Sync {
    /// The name of the kind, for lists.
    fn name(&self) -> &'static str;

    /// Where it goes, for limits and lists: `https://host:port`, or `chain:1`. Never the path, which may hold a secret.
    fn destination(&self) -> String;

    /// Size of what it carries, bytes, for bounds and quotas.
    fn bytes(&self) -> usize;

    /// What its parts take besides their bytes.
    fn overhead(&self) -> usize {
        0
    }

    /// The same without what only a further attempt would need.
    fn stripped(&self) -> Effect;

    /// What it carries, for people.
    fn payload(&self) -> Value;

    /// Whether it may go where it wants to: what a call of the interface behind it may reach, an effect may. Asked when
    /// it is sent, and before each attempt.
    ///
    /// # Errors
    /// Those of such a call, and `unsupported` for a capability that is not granted.
    fn granted(&self, module: &str, grants: &Grants) -> Result<(), HostError>;

    /// Whether its destination takes it on and goes on with it by itself: once it may have, what became of it is asked
    /// whatever is granted by then.
    fn is_followed(&self) -> bool {
        false
    }

    /// Whether it is one that could ever go out, with this key. Asked when it is sent, after `granted`.
    ///
    /// # Errors
    /// `invalid-input` with what would be right.
    fn check(&self, key: &str, grants: &Grants) -> Result<(), HostError>;

    /// Tries to carry it out, once.
    async fn attempt(&self, with: &Attempting<'_>) -> Verdict;
}

/// What an attempt is made with.
pub struct Attempting<'a> {
    pub module: &'a Arc<str>,
    /// The effect's name for ever: whoever is asked by it again knows that it is the same effect.
    pub id: &'a str,
    /// The idempotency key.
    pub key: &'a str,
    /// An attempt before this one may have arrived.
    pub again: bool,
    /// Times that it had ended and was taken up again by the operator.
    pub round: u32,
    /// From connecting to the last byte of the answer.
    pub deadline: Duration,
    pub grants: &'a Grants,
    pub ports: &'a Ports,
    pub clock: &'a dyn Clock,
}

/// What an attempt came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Delivered(Vec<u8>),
    /// Another attempt would not help.
    Failed(String),
    /// Its destination has taken it on and is not done. Asked again after that time: this is neither a failure nor counted
    /// as an attempt, however long it takes. `what` says for people what it waits for.
    Underway {
        what: String,
        after: Duration,
    },
    Retry {
        error: String,
        /// What the destination asked for, or what kept the attempt from reaching out.
        after: Option<Duration>,
        /// Whether the attempt reached out at all.
        counts: bool,
    },
}

impl Verdict {
    /// The same with an error that can be kept: an answer, a URL or a refusal in it may be long. A failure that is told as a
    /// JSON object is for the module to read, and is kept whole.
    pub fn shortened(self) -> Self {
        match self {
            Self::Delivered(answer) => Self::Delivered(answer),
            Self::Failed(error) if is_object(&error) => Self::Failed(error),
            Self::Failed(error) => Self::Failed(short(error)),
            Self::Underway { what, after } => Self::Underway { what: short(what), after },
            Self::Retry { error, after, counts } => Self::Retry { error: short(error), after, counts },
        }
    }
}

/// The attempt failed in a way that may pass.
pub(super) fn retry(error: String) -> Verdict {
    Verdict::Retry { error, after: None, counts: true }
}

/// It was refused for now. An answer of the other side has a code; the engine's own bound on what runs at once has none, and
/// kept the attempt from reaching out.
pub(super) fn limited(error: HostError) -> Verdict {
    let after = error.data.as_deref().and_then(|ms| ms.parse().ok()).map(Duration::from_millis);
    Verdict::Retry { counts: error.code != 0, error: error.message, after }
}

pub(super) fn short(text: String) -> String {
    match text.char_indices().nth(ERROR_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn is_object(text: &str) -> bool {
    text.len() <= OBJECT_BYTES_MAX
        && text.starts_with('{')
        && serde_json::from_str::<Value>(text).is_ok_and(|value| value.is_object())
}

/// Bytes for people.
pub(super) fn hex(bytes: &[u8]) -> String {
    format!("0x{}", hex::encode(bytes))
}

pub(super) fn invalid(message: impl Into<String>) -> HostError {
    HostError::new("outbox", HostErrorKind::InvalidInput, message)
}

/// A capability that `what` need and the module does not have.
pub(super) fn missing(capability: Capability, module: &str, what: &str) -> HostError {
    let message = format!("capability `{capability}` is not granted to module {module}, and {what} need it");
    HostError::new("outbox", HostErrorKind::Unsupported, message)
}
