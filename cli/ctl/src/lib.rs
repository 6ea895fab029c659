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

use std::{collections::BTreeMap, process::ExitCode};

use clap::{CommandFactory as _, Parser as _};

use args::{Nexumctl, NexumctlCommand};

/// Runs `nexumctl`.
pub fn main() -> ExitCode {
    let Nexumctl { output, command } = Nexumctl::parse();
    let done = match command {
        NexumctlCommand::Common(common) => command::common(common, &output, Nexumctl::command),
        NexumctlCommand::Operator(operator) => command::operator(operator, &output),
        NexumctlCommand::Run(_) => hand_on::to_nexum(),
    };
    exit::report("nexumctl", done)
}

/// The process's environment. Read here and handed on.
#[allow(clippy::disallowed_methods, reason = "the place where the environment is read")]
pub fn environment() -> BTreeMap<String, String> {
    // A variable that is not UTF-8 can be neither expanded nor a setting of ours.
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}
