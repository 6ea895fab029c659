//! The arguments of `replay`.

use std::path::PathBuf;

use clap::{Args, ValueHint};

/// Run a recorded event again, and show what comes out otherwise; exit code 1 when something does
///
/// Nothing outside is reached: whatever the module asks for is answered from the recording. An engine may run meanwhile.
#[derive(Debug, Args)]
pub struct Replay {
    /// The module; not needed with --capsule
    #[arg(required_unless_present = "capsule", conflicts_with = "capsule")]
    pub module: Option<String>,
    /// The event that this unit handled; needs [journal] record = "all"
    #[arg(long, value_name = "SEQ", group = "which")]
    pub event: Option<u64>,
    /// A crash that is kept, by its number
    #[arg(long, value_name = "N", group = "which")]
    pub crash: Option<u64>,
    /// The crash that was kept last; the default
    #[arg(long, group = "which")]
    pub last_crash: bool,
    /// A file that `crash export` made
    #[arg(long, value_name = "FILE", conflicts_with_all = ["which", "backup"], value_hint = ValueHint::FilePath)]
    pub capsule: Option<PathBuf>,
    /// The state directory with the recording and the compiled component
    /// [default: ./.nexum, else /var/lib/nexum]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub state_dir: Option<PathBuf>,
    /// A backup with the recording
    #[arg(long, value_name = "DIR", conflicts_with = "state_dir", value_hint = ValueHint::DirPath)]
    pub backup: Option<PathBuf>,
    /// Run this component instead, to see whether it does better
    #[arg(long, value_name = "WASM", value_hint = ValueHint::FilePath)]
    pub component: Option<PathBuf>,
}
