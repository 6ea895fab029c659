//! The identity actor: signatures with the operator's keys, within the operator's policies.
//!
//! `config` is what the operator says and `policy` what it means, which is pure. `request` and `typed_data` make what is
//! asked into what is hashed. `keystore` reads and makes key files, `remote` asks a signer elsewhere, `kms` a key
//! management service, and `signer` stands before them. `book` keeps what was signed and, with `approvals`, what the operator was asked; `service` carries
//! requests out with it, and `actor` is the mailbox.

mod actor;
mod approvals;
mod book;
pub mod config;
mod http;
pub mod keystore;
mod kms;
mod metrics;
pub mod policy;
mod remote;
mod request;
mod service;
mod signer;
#[cfg(any(test, feature = "fuzzing"))]
mod torture;
mod typed_data;

pub use actor::{Args, IdentityActor, spawn};
pub use config::{
    AnyOf, Aws, Kms, Method, Policy, Provider, ReadSecret, Remote, Settings, TypedDataRule, parse_address, parse_fee,
    parse_type, parse_wei,
};
pub use metrics::IdentityMetrics;
pub use policy::Policies;
pub use request::Request;

/// What must hold of what others write, for the fuzz targets.
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod readers {
    pub use crate::torture::{key_file, signer_answer, typed_data};
}
