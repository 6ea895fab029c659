//! The contract between modules, the kernel and the shared actors.
//!
//! Owns: the WIT package (`wit/`) and its host bindings; every interface of it, in `interfaces`, with its messages and
//! the guest-facing `impl Host`; the ports to all shared actors; the grants and the link-time check against them; and the
//! data of a module's Store, which is `host`: what each call has at hand (`call`), what the event leaves behind (`unit`),
//! and what is recorded of both (`recording`).
//!
//! Invariant: nothing here names a chain library, a database, an HTTP server or a configuration format. A capability is
//! a port, and a port is a message enum.

mod bindings;
pub mod blocking;
pub mod bounded;
mod call;
pub mod capability;
pub mod clock;
pub mod commit_queue;
pub mod cron;
pub mod effects;
pub mod event;
pub mod failing;
pub mod grants;
pub mod host;
pub mod interfaces;
pub mod ledger;
pub mod library;
pub mod limits;
pub mod link;
pub mod names;
pub mod outbox;
pub mod port;
pub mod ports;
pub mod recording;
pub mod secrets;
pub mod state;
pub mod store;
pub mod sync;
pub mod transactions;
pub mod unit;
mod wasi;

pub use bindings::nexum::host::types;
pub use bindings::{EventModule, EventModulePre};
pub use nexum_records::{Address, Hash, PublicKey, Signature, file, journal};
pub use types::{HostError, HostErrorKind};

impl HostErrorKind {
    /// The name in the WIT.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Unsupported => "unsupported",
            Self::Unavailable => "unavailable",
            Self::Denied => "denied",
            Self::RateLimited => "rate-limited",
            Self::Timeout => "timeout",
            Self::InvalidInput => "invalid-input",
            Self::Internal => "internal",
        }
    }
}

impl HostError {
    /// A host error without a numeric code or data. `domain` is the interface, such as `chain`.
    pub fn new(domain: &str, kind: HostErrorKind, message: impl Into<String>) -> Self {
        Self { domain: domain.to_owned(), kind, code: 0, message: message.into(), data: None }
    }

    /// The same error with the other side's numeric code.
    pub fn with_code(mut self, code: i32) -> Self {
        self.code = code;
        self
    }

    /// The same error with extra data, such as revert bytes as 0x-hex.
    pub fn with_data(mut self, data: impl Into<String>) -> Self {
        self.data = Some(data.into());
        self
    }
}
