//! `nexum`: runs an engine and packages modules. Everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    nexum_cli::nexum()
}
