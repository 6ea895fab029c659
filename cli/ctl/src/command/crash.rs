//! `crash`: the failed events that are kept with everything that a replay needs.

use std::fs;

use nexum_admin_api::crashes::CrashList;

use crate::{
    args::{Output, crash::Crash},
    client::{Client, part},
    exit::Failure,
    render::{self, print, print_json},
};

/// Where one crash is asked for; the newest when no number is given.
pub fn one(module: &str, number: Option<u64>) -> String {
    let number = number.map_or_else(|| "last".to_owned(), |number| number.to_string());
    format!("/v1/modules/{}/crashes/{number}", part(module))
}

pub(super) async fn crash(client: &Client, command: Crash, output: &Output) -> Result<(), Failure> {
    match command {
        Crash::List { module } => {
            let list: CrashList = client.get(&format!("/v1/modules/{}/crashes", part(&module))).await?;
            match output.json {
                true => print_json(&list),
                false => print(&render::crashes::crashes(&list.crashes)),
            }
        }
        // Handed on before.
        Crash::Show { .. } => Ok(()),
        Crash::Export { module, number, to } => {
            let bytes = client.bytes(&one(&module, number)).await?;
            fs::write(&to, &bytes).map_err(|error| Failure::failed(format!("{}: {error}", to.display())))?;
            match output.json {
                true => print_json(&serde_json::json!({ "capsule": to, "bytes": bytes.len() })),
                false => print(&format!("{} bytes in {}\n", bytes.len(), to.display())),
            }
        }
    }
}
