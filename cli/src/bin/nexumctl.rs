//! `nexumctl`: looks after a running engine. Everything is in `nexum-ctl`; of `nexum-cli` nothing may be named here, or the
//! whole engine is part of the program.

use std::process::ExitCode;

fn main() -> ExitCode {
    nexum_ctl::main()
}
