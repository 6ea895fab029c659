//! `crash show`: a recording that an engine keeps, read.

use nexum_ctl::{client::Client, command::crash::one};
use nexum_host_ifaces::recording::Recording;

use super::block_on;
use crate::{
    args::Output,
    exit::Failure,
    render::{self, print, print_json},
};

/// Shows a crash; the newest when no number is given.
pub fn show(module: &str, number: Option<u64>, output: &Output) -> Result<(), Failure> {
    block_on(Box::pin(async move {
        let bytes = Client::new(output)?.bytes(&one(module, number)).await?;
        let recording = Recording::decode(&bytes).map_err(Failure::failed)?;
        match output.json {
            true => print_json(&render::replay::crash_json(&recording)),
            false => print(&render::replay::crash(&recording)),
        }
    }))
}
