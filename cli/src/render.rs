//! How answers look that only an engine's program gives, beside those of the client.

pub mod bundle;
#[cfg(test)]
mod hostile;
pub mod replay;

#[cfg(test)]
use nexum_ctl::render::{approvals, crashes, logs, metrics, outbox, report, rpc, transactions, tree};
pub use nexum_ctl::render::{foreign, journal, one_line, print, print_json, table, units};
