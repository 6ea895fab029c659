//! The command line of nexum: the binaries `nexum` (an engine and what belongs to it) and `nexumctl` (an operator's view
//! of a running engine).
//!
//! Owns: arguments, the engine's configuration, the composition root (`wire`), the client of the admin API, and how
//! answers look. The only place that reads the environment and the configuration file.

pub mod allocator;
pub mod args;
mod bundle;
mod client;
mod command;
pub mod config;
mod exit;
mod journal;
mod render;
mod wire;

use std::process::ExitCode;

use clap::Parser;

pub use exit::Failure;

/// Runs `nexum`.
pub fn nexum() -> ExitCode {
    let args::Nexum { output, command } = args::Nexum::parse();
    let done = match command {
        args::NexumCommand::Run(run) => wire::run(&run),
        args::NexumCommand::CompileComponent(wanted) => return command::compile::compile_component(&wanted),
        args::NexumCommand::Replay(replay) => command::replay(&replay, &output),
        args::NexumCommand::Common(common) => command::common(common, output, "nexum"),
    };
    exit::report("nexum", done)
}

/// Runs `nexumctl`.
pub fn nexumctl() -> ExitCode {
    let args::Nexumctl { output, command } = args::Nexumctl::parse();
    let done = match command {
        args::NexumctlCommand::Common(common) => command::common(common, output, "nexumctl"),
        args::NexumctlCommand::Operator(operator) => command::operator(operator, output),
        args::NexumctlCommand::Run(run) => wire::run(&run),
        args::NexumctlCommand::CompileComponent(wanted) => return command::compile::compile_component(&wanted),
    };
    exit::report("nexumctl", done)
}

/// The process's environment. Read here and handed on.
#[allow(clippy::disallowed_methods, reason = "the place where the environment is read")]
fn environment() -> config::Variables {
    // A variable that is not UTF-8 can be neither expanded nor a setting of ours.
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}
