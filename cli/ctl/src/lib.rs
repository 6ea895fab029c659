//! `nexumctl`: an operator's view of a running engine, from beside it or from elsewhere.
//!
//! Owns: the arguments, the client of the admin API, the commands that ask an engine or read a journal's export, how
//! answers look, and how a command ends. Reads the environment for both programs.
//!
//! Invariant: nothing here needs an engine, so that the program is small. What does is handed on to `nexum`.

pub mod args;
pub mod client;
pub mod command;
pub mod exit;
mod hand_on;
pub mod journal;
pub mod period;
pub mod render;

use std::{collections::BTreeMap, ffi::OsString, process::ExitCode};

use clap::{CommandFactory as _, Parser as _};

use args::{Nexumctl, NexumctlCommand};
use exit::Failure;

/// With which the names of our variables begin.
const PREFIX: &[u8] = b"NEXUM_";

/// Runs `nexumctl`.
pub fn main() -> ExitCode {
    let Nexumctl { output, command } = Nexumctl::parse();
    let done = match command {
        NexumctlCommand::Common(common) => command::common(common, &output, Nexumctl::command),
        NexumctlCommand::Operator(operator) => command::operator(operator, &output),
        NexumctlCommand::Run(_) | NexumctlCommand::Key { .. } => hand_on::to_nexum(),
    };
    exit::report("nexumctl", done)
}

/// The process's environment. Read here and handed on.
///
/// # Errors
/// A variable of ours that is no UTF-8: it would be as if it were not set. Others of that kind are left out.
#[allow(clippy::disallowed_methods, reason = "the place where the environment is read")]
pub fn environment() -> Result<BTreeMap<String, String>, Failure> {
    text(std::env::vars_os())
}

fn text(variables: impl Iterator<Item = (OsString, OsString)>) -> Result<BTreeMap<String, String>, Failure> {
    let mut read = BTreeMap::new();
    for (name, value) in variables {
        match (name.to_str(), value.into_string()) {
            (Some(name), Ok(value)) => drop(read.insert(name.to_owned(), value)),
            // The value is not repeated: it may be a token.
            _ if name.as_encoded_bytes().starts_with(PREFIX) => {
                return Err(Failure::usage(format!("environment variable {}: is no UTF-8", name.display())));
            }
            _ => {}
        }
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;

    #[test]
    fn a_variable_of_ours_is_text() {
        let variable =
            |name: &[u8], value: &[u8]| (OsString::from_vec(name.to_owned()), OsString::from_vec(value.to_owned()));
        let others = [variable(b"A\xa5", b"1"), variable(b"B", b"k3y\xa5"), variable(b"NEXUM_C", b"3")];
        let read = text(others.into_iter()).unwrap();
        assert_eq!(read, BTreeMap::from([("NEXUM_C".to_owned(), "3".to_owned())]));
        for (ours, named) in [
            (variable(b"NEXUM_TOKEN", b"k3y\xa5"), "NEXUM_TOKEN"),
            (variable(b"NEXUM_ENGINE__STATE_DIR", b"k3y\xa5"), "NEXUM_ENGINE__STATE_DIR"),
            (variable(b"NEXUM_\xa5", b"k3y"), "NEXUM_\u{fffd}"),
        ] {
            let refused = text([ours].into_iter()).unwrap_err();
            assert_eq!((refused.code, refused.message), (2, format!("environment variable {named}: is no UTF-8")));
        }
    }
}
