//! `crash`: the failed events that are kept with everything that a replay needs.

use std::{
    fs,
    io::{self, Write as _},
};

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
            let wrong = |error: io::Error| Failure::failed(format!("{}: {error}", to.display()));
            // Before the engine is asked, as it need not be then. What comes in between is not overwritten either.
            if to.symlink_metadata().is_ok() {
                return Err(Failure::failed(format!("{}: it exists already", to.display())));
            }
            let bytes = client.bytes(&one(&module, number)).await?;
            let mut file = fs::File::create_new(&to).map_err(wrong)?;
            file.write_all(&bytes).map_err(wrong)?;
            match output.json {
                true => print_json(&serde_json::json!({ "capsule": to.to_string_lossy(), "bytes": bytes.len() })),
                false => print(&format!("{} bytes in {}\n", bytes.len(), to.display())),
            }
        }
    }
}
