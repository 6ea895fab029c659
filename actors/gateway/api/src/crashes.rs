//! The JSON shape of the crashes that are kept.

use nexum_records::crash::CrashBrief;
use serde::{Deserialize, Serialize};

/// The answer to `GET /v1/modules/{name}/crashes`, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CrashList {
    pub crashes: Vec<CrashBrief>,
}
