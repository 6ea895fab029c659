//! What the files that the configuration names must be, for an engine to start at all.

use std::{os::unix::ffi::OsStrExt as _, path::Path};

use nexum_chain::mock::{Fixture, FixtureError};
use nexum_host_ifaces::secrets;

use super::{
    Config,
    check::{Problem, problem},
};
use crate::wire::journal_key;

/// What the address of a Unix socket has room for on Linux, bytes: 108 with the zero at the end.
const SOCKET_BYTES_MAX: usize = 107;

/// The first thing that is wrong, if any. Paths are absolute by now.
pub(super) fn check(config: &Config) -> Result<(), Problem> {
    for (index, chain) in config.chains.iter().enumerate() {
        let Some(path) = &chain.mock else { continue };
        let key = format!("chains.{index}.mock");
        let fixture = Fixture::load(path).map_err(|error| problem(&key, unplayable(&error)))?;
        if fixture.chain_id != chain.chain_id {
            let message =
                format!("{} is of chain {}; chain_id here is {}", path.display(), fixture.chain_id, chain.chain_id);
            return Err(problem(&key, message));
        }
    }
    if let Some(path) = &config.journal.key {
        journal_key::check(path).map_err(|error| {
            let wrong = format!("cannot be used: {error:#}; leave it out and the engine makes one");
            problem("journal.key", format!("{} {wrong}", path.display())).bare(wrong)
        })?;
    }
    let named = config.observability.admin_socket.as_deref();
    let socket = named.map_or_else(|| config.engine.state_dir.join("admin.sock"), Path::to_owned);
    let bytes = socket.as_os_str().as_bytes().len();
    if bytes > SOCKET_BYTES_MAX {
        let wrong = format!(
            "has {bytes} bytes, and a socket's path at most {SOCKET_BYTES_MAX}: set a shorter [observability] \
             admin_socket, such as /run/nexum/admin.sock"
        );
        let key = if named.is_some() { "observability.admin_socket" } else { "engine.state_dir" };
        return Err(problem(key, format!("{} {wrong}", socket.display())).bare(wrong));
    }
    Ok(())
}

/// What is wrong with a fixture, on one line: a parser's picture of the place needs more.
pub fn unplayable(error: &FixtureError) -> String {
    let text = error.to_string();
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default();
    match lines.next_back() {
        Some(last) => format!("{first}: {}", secrets::without_value(last)),
        None => secrets::without_value(first).into_owned(),
    }
}
