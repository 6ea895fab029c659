//! `module inspect`, and what fires next for `check-config`. Needs no engine.

use std::path::Path;

use nexum_host_ifaces::clock::{Clock as _, SystemClock};

use crate::{
    args::Output,
    bundle::inspect::{self, Planned},
    config::Config,
    exit::Failure,
    render::{self, print, print_json},
};

/// A manifest's text may be part of what is wrong with it.
fn refused(error: &anyhow::Error) -> Failure {
    Failure::failed(render::foreign::shown(&format!("{error:#}")).into_owned())
}

pub fn inspect(bundle: &Path, output: &Output) -> Result<(), Failure> {
    let report = inspect::inspect(bundle, SystemClock::new().now_ms()).map_err(|error| refused(&error))?;
    match output.json {
        true => print_json(&report),
        false => print(&render::bundle::report(&report)),
    }
}

/// What the configuration of a bundle may hold.
pub fn configuration(bundle: &Path, output: &Output) -> Result<(), Failure> {
    let schema = inspect::schema(bundle).map_err(|error| refused(&error))?;
    match (schema, output.json) {
        (Some(schema), true) => print_json(&schema.json_schema()),
        (Some(schema), false) => print(&render::bundle::schema(&schema)),
        // Whatever it is, it is the module's to judge.
        (None, true) => print_json(&serde_json::json!({ "type": "object" })),
        (None, false) => print("this component does not say what its configuration may hold\n"),
    }
}

/// What fires next of every schedule of the configured modules.
pub fn planned(config: &Config) -> Result<Vec<Planned>, Failure> {
    let now_ms = SystemClock::new().now_ms();
    let mut planned = Vec::new();
    for module in &config.modules {
        planned.extend(inspect::planned(Path::new(&module.source), now_ms).map_err(|error| refused(&error))?);
    }
    Ok(planned)
}
