//! `state`: what modules keep. All of it asks the engine but `restore`, which works where no engine runs.

use std::{
    io::{self, IsTerminal},
    path::Path,
    sync::Arc,
};

use hyper::Method;
use nexum_gateway::api::{Inspection, StateEntry, StatePage};
use nexum_host_ifaces::clock::SystemClock;
use serde_json::json;

use super::{block_on, done};
use crate::{
    args::{Output, State},
    client::{Client, part},
    exit::Failure,
    render::{self, print, print_as_is, print_json},
    wire,
};

pub(super) fn state(command: State, output: &Output) -> Result<(), Failure> {
    match command {
        State::Restore { from, state_dir } => {
            let to = restore(&from, &state_dir)?;
            match output.json {
                true => print_json(&json!({ "restored": to })),
                false => print(&format!("restored to {}\n", to.display())),
            }
        }
        State::Purge { module, yes: false } => Err(Failure::usage(format!(
            "this removes state, cursors, journal and dead letters of {module}: say --yes, perhaps after `state backup`"
        ))),
        command => block_on(Box::pin(ask(command, output))),
    }
}

fn restore(from: &Path, state_dir: &Path) -> anyhow::Result<std::path::PathBuf> {
    let to = wire::store_directory(state_dir);
    // Nobody can use a directory that is not there, and it is not made before the backup has been read.
    let _lock = match state_dir.is_dir() {
        true => Some(wire::lock::hold(state_dir, "restore")?),
        false => None,
    };
    let mut options = nexum_store::Options::new(Arc::new(SystemClock::new()), prometheus::Registry::new());
    options.companions = wire::companions(state_dir);
    nexum_store::restore(from, &to, &options)?;
    Ok(to)
}

async fn ask(command: State, output: &Output) -> Result<(), Failure> {
    let client = Client::new(output)?;
    match command {
        State::List { module, prefix, after, limit } => {
            let mut path = format!("/v1/modules/{}/state?prefix={}&limit={limit}", part(&module), part(&prefix));
            if let Some(after) = after {
                path += &format!("&after={}", part(&after));
            }
            let page: StatePage = client.get(&path).await?;
            match output.json {
                true => print_json(&page),
                false => print(&render::report::state(&page)),
            }
        }
        State::Get { module, key } => {
            let path = format!("/v1/modules/{}/state/{}", part(&module), part(&key));
            let entry: StateEntry = client.get(&path).await?;
            if output.json {
                return print_json(&entry);
            }
            let bytes = hex::decode(entry.value.trim_start_matches("0x"));
            let bytes =
                bytes.map_err(|error| Failure::failed(format!("the engine's answer is not understood: {error}")))?;
            match io::stdout().is_terminal() {
                // A value is a module's own: what a terminal would act on is shown.
                true => print(&render::report::value(&bytes)),
                false => print_as_is(&bytes),
            }
        }
        State::Inspect { module } => {
            let found: Inspection = client.get(&format!("/v1/modules/{}/inspect", part(&module))).await?;
            match output.json {
                true => print_json(&found),
                false => print(&render::report::inspection(&found)),
            }
        }
        State::Backup { to } => {
            let to = std::path::absolute(&to).map_err(|error| Failure::usage(format!("{}: {error}", to.display())))?;
            client.order(Method::POST, "/v1/backup", Some(json!({ "to": to }))).await?;
            match output.json {
                true => print_json(&json!({ "backup": to })),
                false => print(&format!("backup in {}\n", to.display())),
            }
        }
        State::Purge { module, .. } => {
            client.order(Method::DELETE, &format!("/v1/modules/{}/state", part(&module)), None).await?;
            done(output, &module, "purged")
        }
        // Needs no engine; carried out before.
        State::Restore { .. } => Ok(()),
    }
}
