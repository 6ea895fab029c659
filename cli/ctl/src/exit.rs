//! How a command ends: its exit code, and one line on stderr.

use std::{fmt, io, io::Write, process::ExitCode, sync::mpsc, thread, time::Duration};

use crate::render::foreign::shown;

/// Shown by `--help`.
pub const CODES: &str = "Exit codes: 0 done · 1 failed or refused · 2 wrong usage · 3 engine not reachable · \
                         4 engine not healthy · 5 no such module, service, key, dead letter, effect or store";

/// How long the process waits for its last line to be read.
const SAY_DEADLINE: Duration = Duration::from_secs(2);

/// Why a command did not do what was asked.
#[derive(Debug)]
pub struct Failure {
    pub code: u8,
    /// One line. Empty when everything has been said already.
    pub message: String,
}

impl Failure {
    pub fn failed(message: impl Into<String>) -> Self {
        Self { code: 1, message: message.into() }
    }

    pub fn usage(message: impl Into<String>) -> Self {
        Self { code: 2, message: message.into() }
    }

    pub fn unreachable(message: impl Into<String>) -> Self {
        Self { code: 3, message: message.into() }
    }

    pub fn unhealthy() -> Self {
        Self { code: 4, message: String::new() }
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        Self { code: 5, message: message.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::failed(format!("{error:#}"))
    }
}

impl From<io::Error> for Failure {
    /// A reader that has seen enough, as `head` has, is no failure.
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self { code: 0, message: String::new() },
            _ => Self::failed(format!("the answer could not be written: {error}")),
        }
    }
}

/// Prints a failure and turns it into the process's exit code.
pub fn report(program: &str, done: Result<(), Failure>) -> ExitCode {
    let Err(failure) = done else { return ExitCode::SUCCESS };
    if !failure.message.is_empty() {
        // It may quote a module, a node or a file.
        let line = failure.message.trim_end().replace('\n', " ");
        say(format!("{program}: {}\n", shown(&line)));
    }
    ExitCode::from(failure.code)
}

/// Writes to stderr, which may be a pipe that nobody reads: the exit code must not wait for that.
fn say(line: String) {
    let (said, done) = mpsc::sync_channel(1);
    let write = move || {
        // A closed stderr leaves the exit code to say it, and so does the end of whoever waited.
        let _ = io::stderr().write_all(line.as_bytes());
        let _ = said.send(());
    };
    if thread::Builder::new().spawn(write).is_ok() {
        // Late is as good as never.
        let _ = done.recv_timeout(SAY_DEADLINE);
    }
}
