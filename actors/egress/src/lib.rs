//! The egress actor: outbound HTTP for modules and for the outbox.
//!
//! `client` carries out one request and follows its redirects; `actor` holds how many run at once; `names` looks hosts
//! up, and `dial` keeps connections away from the engine's own listeners and from what `networks` closes. Where a
//! request may go is the allowlist's to say (`nexum_host_ifaces::http`), here for every redirect. `credentials` puts the
//! operator's secrets into what leaves and keeps them out of what comes back. `tls` and `proxy` are what the operator
//! chose of certificates and of a way out; `ledger` keeps what went where.

mod actor;
mod client;
mod credentials;
mod dial;
mod ledger;
mod metrics;
mod names;
mod networks;
mod proxy;
mod tls;
#[cfg(any(test, feature = "fuzzing"))]
mod torture;

pub use actor::{Args, Certificates, EgressActor, EgressLimits, spawn};
pub use credentials::{
    Adds, Algorithm, Credential, Encoding, Payload, ReadCredentials, Signing, TimeUnit, VALUE_BYTES_MAX, Value, is_name,
};
pub use metrics::EgressMetrics;
pub use names::{LookUp, Resolver, look_up_of_this_machine};
pub use networks::Rules;
pub use proxy::Proxy;
pub use tls::{Authorities, Roots};

/// What must hold of what servers write, for the fuzz targets.
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod readers {
    pub use crate::torture::location;
}
