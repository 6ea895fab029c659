//! `state`: what modules keep. All of it asks the engine but `restore`, which works where no engine runs and is handed on.

use std::{
    io::{self, IsTerminal},
    time::Duration,
};

use hyper::Method;
use nexum_admin_api::{Inspection, StateEntry, StatePage};
use serde_json::json;

use super::{block_on, done};
use crate::{
    args::{Output, State},
    client::{Client, part},
    exit::Failure,
    hand_on,
    render::{self, print, print_as_is, print_json},
};

/// The engine gives a backup up after 600 s.
const BACKUP_DEADLINE: Duration = Duration::from_secs(610);

pub(super) fn state(command: State, output: &Output) -> Result<(), Failure> {
    match command {
        State::Restore { .. } => hand_on::to_nexum(),
        State::Purge { module, yes: false } => Err(Failure::usage(format!(
            "this removes state, cursors, journal and dead letters of {module}: say --yes, perhaps after `state backup`"
        ))),
        command => block_on(Box::pin(ask(command, output))),
    }
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
            let Some(to) = to.to_str() else {
                return Err(Failure::usage(format!("{}: is no UTF-8, in which an engine is told it", to.display())));
            };
            let client = client.patient(Some(BACKUP_DEADLINE));
            client.order(Method::POST, "/v1/backup", Some(json!({ "to": to }))).await?;
            match output.json {
                true => print_json(&json!({ "backup": to })),
                false => print(&format!("backup in {to}\n")),
            }
        }
        State::Purge { module, .. } => {
            client.order(Method::DELETE, &format!("/v1/modules/{}/state", part(&module)), None).await?;
            done(output, &module, "purged")
        }
        // Handed on before.
        State::Restore { .. } => Ok(()),
    }
}
