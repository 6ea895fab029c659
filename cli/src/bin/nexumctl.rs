//! `nexumctl`: looks after a running engine. Everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    nexum_cli::nexumctl()
}
