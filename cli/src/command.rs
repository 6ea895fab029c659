//! Carries out what needs an engine's code and no running engine; the rest is the client's.

pub mod compile;
pub mod crash;
mod inspect;
mod journal;
mod key;
mod replay;
mod restore;

use nexum_ctl::command::{self as client, block_on};
use serde_json::json;

use crate::{
    args::{self, Common, Output},
    bundle, config,
    exit::Failure,
    render::{self, print, print_json},
    wire,
};

pub use key::key;
pub use replay::replay;

/// Carries out a command that both programs have. `program` is the definition of the one that was called.
pub fn common(command: Common, output: &Output, program: fn() -> clap::Command) -> Result<(), Failure> {
    match command {
        Common::CheckConfig(settings) => check_config(&settings, output),
        Common::Module(args::Module::Package(package)) => {
            let args::Package { manifest_dir, component, library, out } = &package;
            let made = bundle::package(manifest_dir, component, library, out)?;
            match output.json {
                true => {
                    let bundle = made.bundle.to_string_lossy();
                    print_json(&json!({ "module": made.name, "component": made.component, "bundle": bundle }))
                }
                false => print(&format!("{} {} in {}\n", made.name, made.component, made.bundle.display())),
            }
        }
        Common::Module(args::Module::Inspect { bundle }) => inspect::inspect(&bundle, output),
        Common::Module(args::Module::Config { bundle }) => inspect::configuration(&bundle, output),
        Common::State(args::State::Restore { from, state_dir }) => restore::restore(&from, &state_dir, output),
        Common::Journal(command) => journal::journal(command, output),
        command => client::common(command, output, program),
    }
}

fn check_config(settings: &args::Settings, output: &Output) -> Result<(), Failure> {
    let config = wire::checked_settings(settings)?.config;
    let planned = inspect::planned(&config)?;
    if !output.json {
        return print(&(config::shown(&config) + &render::bundle::planned(&planned)));
    }
    let mut shown = config::shown_json(&config);
    shown["schedules"] = json!(planned);
    print_json(&shown)
}
