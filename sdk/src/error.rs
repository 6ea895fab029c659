//! The one error type of a module. Every `std::error::Error` converts into it with `?`; an error that came from the
//! host keeps its kind, code and data on the way in and out.

use std::fmt;

use crate::bindings::nexum::host::types::{HostError, HostErrorKind};

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, as far as a decision depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The capability or the chain is not available to this module.
    Unsupported,
    /// The other side did not answer; later it may.
    Unavailable,
    /// Refused by a policy of the host or the operator.
    Denied,
    /// Too many calls; [`Error::retry_after_ms`] says when to come back, if it is known.
    RateLimited,
    /// The call's deadline passed.
    Timeout,
    /// The request cannot succeed as it is: a limit, a malformed value, a reverted call.
    InvalidInput,
    /// Anything else, and every error of the module's own.
    Internal,
}

impl ErrorKind {
    /// Whether the same call may succeed later.
    pub fn is_transient(self) -> bool {
        matches!(self, Self::Unavailable | Self::RateLimited | Self::Timeout)
    }
}

/// An error of the host or of the module itself.
///
/// It is deliberately not a `std::error::Error`: that lets every such error convert into it, so that `?` works on all
/// of them. Returned from a handler it undoes the event.
#[derive(Clone, PartialEq, Eq)]
pub struct Error(Box<Parts>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Parts {
    domain: String,
    kind: ErrorKind,
    code: i32,
    message: String,
    data: Option<String>,
}

impl Error {
    /// An error of the module itself, kind [`ErrorKind::Internal`].
    pub fn msg(message: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// An error of the module itself about a value it was given.
    pub fn invalid_input(message: impl fmt::Display) -> Self {
        Self::new(ErrorKind::InvalidInput, message)
    }

    /// An error of the module itself, domain `module`, code 0.
    pub fn new(kind: ErrorKind, message: impl fmt::Display) -> Self {
        Self(Box::new(Parts { domain: "module".to_owned(), kind, code: 0, message: message.to_string(), data: None }))
    }

    /// The same error with the other side's numeric code and extra data.
    pub fn with_code(mut self, code: i32, data: Option<String>) -> Self {
        self.0.code = code;
        self.0.data = data;
        self
    }

    /// The same error as another part's: an interface such as `chain`, or a name of the module's own.
    pub fn in_domain(mut self, domain: impl Into<String>) -> Self {
        self.0.domain = domain.into();
        self
    }

    /// The interface that failed, such as `chain` or `local-store`; `module` for the module's own errors.
    pub fn domain(&self) -> &str {
        &self.0.domain
    }

    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The other side's numeric code (JSON-RPC code, HTTP status), or 0.
    pub fn code(&self) -> i32 {
        self.0.code
    }

    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Extra data: revert bytes as 0x-hex for a reverted call.
    pub fn data(&self) -> Option<&str> {
        self.0.data.as_deref()
    }

    /// The bytes a reverted call returned.
    pub fn revert_data(&self) -> Option<Vec<u8>> {
        crate::hex::decode(self.data()?.strip_prefix("0x")?).ok()
    }

    /// Whether state was to be read at a block that is not on the chain any more. The event at hand is of such a block, too, if
    /// that was meant: it is told as a reorg next.
    pub fn is_block_gone(&self) -> bool {
        const BLOCK_GONE: i32 = -32001;
        self.domain() == "chain" && self.kind() == ErrorKind::Unavailable && self.code() == BLOCK_GONE
    }

    /// How long to wait after [`ErrorKind::RateLimited`], when the other side said it.
    pub fn retry_after_ms(&self) -> Option<u64> {
        (self.kind() == ErrorKind::RateLimited).then(|| self.data()?.parse().ok())?
    }

    fn from_std(error: &(dyn std::error::Error + 'static)) -> Self {
        let mut link = Some(error);
        while let Some(current) = link {
            if let Some(host) = current.downcast_ref::<HostError>() {
                return Self::from_host(host.clone());
            }
            #[cfg(feature = "alloy")]
            if let Some(converted) = crate::provider::typed_error(current) {
                return converted;
            }
            link = current.source();
        }
        Self::msg(error)
    }

    pub(crate) fn from_host(host: HostError) -> Self {
        Self(Box::new(Parts {
            domain: host.domain,
            kind: match host.kind {
                HostErrorKind::Unsupported => ErrorKind::Unsupported,
                HostErrorKind::Unavailable => ErrorKind::Unavailable,
                HostErrorKind::Denied => ErrorKind::Denied,
                HostErrorKind::RateLimited => ErrorKind::RateLimited,
                HostErrorKind::Timeout => ErrorKind::Timeout,
                HostErrorKind::InvalidInput => ErrorKind::InvalidInput,
                HostErrorKind::Internal => ErrorKind::Internal,
            },
            code: host.code,
            message: host.message,
            data: host.data,
        }))
    }
}

impl<E: std::error::Error + 'static> From<E> for Error {
    fn from(error: E) -> Self {
        Self::from_std(&error)
    }
}

impl From<Error> for HostError {
    fn from(error: Error) -> Self {
        let Parts { domain, kind, code, message, data } = *error.0;
        Self {
            domain,
            kind: match kind {
                ErrorKind::Unsupported => HostErrorKind::Unsupported,
                ErrorKind::Unavailable => HostErrorKind::Unavailable,
                ErrorKind::Denied => HostErrorKind::Denied,
                ErrorKind::RateLimited => HostErrorKind::RateLimited,
                ErrorKind::Timeout => HostErrorKind::Timeout,
                ErrorKind::InvalidInput => HostErrorKind::InvalidInput,
                ErrorKind::Internal => HostErrorKind::Internal,
            },
            code,
            message,
            data,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.domain != "module" {
            write!(f, "{}: ", self.0.domain)?;
        }
        f.write_str(&self.0.message)?;
        if self.0.code != 0 {
            write!(f, " (code {})", self.0.code)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Says what was being done when an error came up; kind, code and data stay.
pub trait Context<T> {
    /// Puts `context: ` before the message.
    fn context(self, context: impl fmt::Display) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, context: impl fmt::Display) -> Result<T> {
        self.map_err(|error| {
            let mut error = error.into();
            error.0.message = format!("{context}: {}", error.0.message);
            error
        })
    }
}

impl<T> Context<T> for Option<T> {
    fn context(self, context: impl fmt::Display) -> Result<T> {
        self.ok_or_else(|| Error::msg(context))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reverted() -> HostError {
        HostError {
            domain: "chain".into(),
            kind: HostErrorKind::InvalidInput,
            code: 3,
            message: "execution reverted".into(),
            data: Some("0x08c379a0".into()),
        }
    }

    #[test]
    fn host_errors_pass_through_without_loss() {
        let question_mark = || -> Result<()> { Err(reverted())? };
        let error = question_mark().context("reading the feed").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert_eq!(error.revert_data(), Some(vec![0x08, 0xc3, 0x79, 0xa0]));
        assert_eq!(error.to_string(), "chain: reading the feed: execution reverted (code 3)");

        let back = HostError::from(Error::from(reverted()));
        assert_eq!(format!("{back:?}"), format!("{:?}", reverted()));
    }

    #[test]
    fn any_std_error_converts() {
        let parse = || -> Result<u8> { Ok("300".parse()?) };
        let error = parse().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal);
        assert_eq!(error.to_string(), "number too large to fit in target type");
        assert_eq!(None::<u8>.context("no answer").unwrap_err().to_string(), "no answer");
    }

    #[test]
    fn retry_after_only_when_limited() {
        let limited = Error::new(ErrorKind::RateLimited, "slow down").with_code(429, Some("1500".into()));
        assert_eq!(limited.retry_after_ms(), Some(1500));
        assert!(limited.kind().is_transient());
        assert_eq!(Error::msg("x").with_code(0, Some("1500".into())).retry_after_ms(), None);
    }
}
