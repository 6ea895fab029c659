//! The command line of nexum: the binaries `nexum` (an engine and what belongs to it) and `nexumctl` (an operator's view
//! of a running engine), of which `nexum-ctl` is the client alone.
//!
//! Owns: arguments, the engine's configuration, the composition root (`wire`), and the commands that need an engine's code.
//! The only place that reads the configuration file.

pub mod allocator;
pub mod args;
mod bundle;
mod certificates;
mod command;
pub mod config;
mod journal;
mod render;
pub mod status;
mod wire;

use std::{env, ffi::OsStr, path::Path, process::ExitCode};

use clap::CommandFactory as _;
use nexum_ctl::{
    args::{Nexumctl, NexumctlCommand, Operator, crash::Crash},
    environment, exit,
};

pub use nexum_ctl::exit::Failure;
use rustix::process::{Resource, Rlimit, setrlimit};

/// The name under which the client hands commands on.
const NEXUMCTL: &str = "nexumctl";

/// Runs `nexum`, or what `nexumctl` hands on.
pub fn nexum() -> ExitCode {
    let called = env::args_os().next();
    if called.as_deref().and_then(|path| Path::new(path).file_name()) == Some(OsStr::new(NEXUMCTL)) {
        return nexumctl();
    }
    let args::Nexum { output, command } = args::parse();
    let done = match command {
        args::NexumCommand::Run(run) => wire::run(&run),
        args::NexumCommand::CompileComponent(wanted) => return command::compile::compile_component(&wanted),
        args::NexumCommand::Replay(replay) => command::replay(&replay, &output),
        args::NexumCommand::Key(wanted) => command::key(&wanted, &output),
        args::NexumCommand::Common(common) => command::common(common, &output, args::Nexum::command),
    };
    exit::report("nexum", done)
}

/// Runs `nexumctl` with everything that it can be asked for.
fn nexumctl() -> ExitCode {
    let Nexumctl { output, command } = args::parse();
    let done = match command {
        NexumctlCommand::Common(common) => command::common(common, &output, Nexumctl::command),
        NexumctlCommand::Operator(Operator::Crash(Crash::Show { module, number })) => {
            command::crash::show(&module, number, &output)
        }
        NexumctlCommand::Operator(operator) => nexum_ctl::command::operator(operator, &output),
        NexumctlCommand::Run(run) => wire::run(&run),
        // What follows it is read as `nexum` reads it.
        NexumctlCommand::Key { .. } => match args::parse() {
            args::Nexum { output, command: args::NexumCommand::Key(wanted) } => command::key(&wanted, &output),
            other => unreachable!("`key` is read as another command: {other:?}"),
        },
    };
    exit::report(NEXUMCTL, done)
}

/// A process that holds keys leaves no copy of its memory when it dies, whatever whoever started it allows.
fn forbid_core_dumps() -> Result<(), Failure> {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, none).map_err(|error| Failure::failed(format!("core dumps cannot be forbidden: {error}")))
}

impl From<config::ConfigError> for Failure {
    fn from(error: config::ConfigError) -> Self {
        Self::failed(error.to_string())
    }
}
