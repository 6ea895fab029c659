//! Handing a command on to `nexum`, which has the engine that the command needs.

use std::{env, io, os::unix::process::CommandExt as _, path::PathBuf, process::Command};

use crate::exit::Failure;

/// The program with the engine.
const NEXUM: &str = "nexum";

/// Becomes `nexum`, called as `nexumctl` with what this program was called with. Comes back only when that fails.
///
/// # Errors
/// Always: why there is no `nexum` to become.
pub fn to_nexum() -> Result<(), Failure> {
    let own = env::current_exe().ok();
    let beside = own.map(|own| own.with_file_name(NEXUM)).filter(|nexum| nexum.exists());
    // A name alone is looked for in PATH.
    let program = beside.unwrap_or_else(|| PathBuf::from(NEXUM));
    let error = Command::new(&program).arg0("nexumctl").args(env::args_os().skip(1)).exec();
    Err(Failure::failed(match error.kind() {
        io::ErrorKind::NotFound => "this needs `nexum`, which is neither beside nexumctl nor in PATH".to_owned(),
        _ => format!("this needs `nexum`, but {} cannot be run: {error}", program.display()),
    }))
}
