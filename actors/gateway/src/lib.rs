//! The gateway: what people and machines see of a running engine over HTTP.
//!
//! Owns the listeners for health, metrics and the admin API; the JSON of the latter is `api`. It decides nothing: orders go
//! to the kernel through `Port<AdminMsg>`, questions about state to `Port<StoreMsg>`, each with a deadline.
//!
//! Invariant: nothing here keeps state that an operator's answer depends on; a restarted gateway answers the same.

mod actor;
mod admin;
mod error;
mod listen;
mod logs;
mod metrics;
mod probes;
mod serve;
mod shapes;

pub use actor::{Accounts, Addresses, AdminTcp, Args, Gateway, Msg, Token, spawn};
pub use listen::ListenError;
pub use logs::LogTap;
pub use metrics::GatewayMetrics;
pub use nexum_admin_api as api;
