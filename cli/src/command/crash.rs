//! `crash`: the failed events that are kept with everything that a replay needs.

use std::fs;

use nexum_gateway::api::crashes::CrashList;
use nexum_host_ifaces::recording::Recording;

use crate::{
    args::{Output, replay::Crash},
    client::{Client, part},
    exit::Failure,
    render::{self, print, print_json},
};

pub(super) async fn crash(client: &Client, command: Crash, output: &Output) -> Result<(), Failure> {
    let path = |module: &str, number: Option<u64>| {
        let number = number.map_or_else(|| "last".to_owned(), |number| number.to_string());
        format!("/v1/modules/{}/crashes/{number}", part(module))
    };
    match command {
        Crash::List { module } => {
            let list: CrashList = client.get(&format!("/v1/modules/{}/crashes", part(&module))).await?;
            match output.json {
                true => print_json(&list),
                false => print(&render::replay::crashes(&list.crashes)),
            }
        }
        Crash::Show { module, number } => {
            let bytes = client.bytes(&path(&module, number)).await?;
            let recording = Recording::decode(&bytes).map_err(Failure::failed)?;
            match output.json {
                true => print_json(&render::replay::crash_json(&recording)),
                false => print(&render::replay::crash(&recording)),
            }
        }
        Crash::Export { module, number, to } => {
            let bytes = client.bytes(&path(&module, number)).await?;
            fs::write(&to, &bytes).map_err(|error| Failure::failed(format!("{}: {error}", to.display())))?;
            match output.json {
                true => print_json(&serde_json::json!({ "capsule": to, "bytes": bytes.len() })),
                false => print(&format!("{} bytes in {}\n", bytes.len(), to.display())),
            }
        }
    }
}
