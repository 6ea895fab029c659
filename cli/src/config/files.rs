//! What the files that the configuration names must be, for an engine to start at all.

use std::{os::unix::ffi::OsStrExt as _, path::Path, sync::Arc};

use nexum_chain::mock::{Fixture, FixtureError};
use nexum_host_ifaces::secrets;
use nexum_kernel::manifest::text;

use super::{
    Config,
    check::{Problem, problem},
};
use crate::{certificates, wire::journal_key};

/// What the address of a Unix socket has room for on Linux, bytes: 108 with the zero at the end.
const SOCKET_BYTES_MAX: usize = 107;
/// A chain of 100 000 blocks with logs has a part of this.
const FIXTURE_BYTES_MAX: u64 = 256 << 20;

/// The first thing that is wrong, if any. Paths are absolute by now. Fixtures are read here, and stay.
pub(super) fn check(config: &mut Config) -> Result<(), Problem> {
    for (index, chain) in config.chains.iter_mut().enumerate() {
        let Some(path) = &chain.mock else { continue };
        let key = format!("chains.{index}.mock");
        let fixture = match &chain.fixture {
            Some(fixture) => fixture.clone(),
            None => read_fixture(path).map_err(|wrong| problem(&key, wrong))?,
        };
        if fixture.chain_id != chain.chain_id {
            let message =
                format!("{} is of chain {}; chain_id here is {}", path.display(), fixture.chain_id, chain.chain_id);
            return Err(problem(&key, message));
        }
        chain.fixture = Some(fixture);
    }
    if let Some(path) = &config.journal.key {
        journal_key::check(path).map_err(|error| {
            let wrong = format!("cannot be used: {error:#}; leave it out and the engine makes one");
            problem("journal.key", format!("{} {wrong}", path.display())).bare(wrong)
        })?;
    }
    if let Some(path) = &config.egress.ca_file {
        certificates::authorities(path)
            .map_err(|wrong| problem("egress.ca_file", format!("{} {wrong}", path.display())).bare(wrong))?;
    }
    super::credentials::check_values(&config.egress.credentials).map_err(|(key, wrong)| problem(&key, wrong))?;
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

/// Reads a fixture, or says what is wrong with it.
pub fn read_fixture(path: &Path) -> Result<Arc<Fixture>, String> {
    let text = text::read(path, FIXTURE_BYTES_MAX).map_err(|wrong| {
        format!("cannot read fixture {}: {}", path.display(), wrong.trim_start_matches("cannot be read: "))
    })?;
    Fixture::parse(path, &text).map(Arc::new).map_err(|error| unplayable(&error))
}

/// What is wrong with a fixture, on one line: a parser's picture of the place needs more.
fn unplayable(error: &FixtureError) -> String {
    let text = error.to_string();
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default();
    match lines.next_back() {
        Some(last) => format!("{first}: {}", secrets::without_value(last)),
        None => secrets::without_value(first).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, process::Command};

    use super::*;
    use crate::config::{Chain, Flags, Variables, load};

    #[test]
    fn a_fixture_is_a_file_of_bounded_size() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = |name: &str| dir.path().join(name);
        assert!(Command::new("mkfifo").arg(path("pipe")).status().unwrap().success());
        fs::create_dir(path("directory")).unwrap();
        fs::File::create(path("large")).unwrap().set_len(FIXTURE_BYTES_MAX + 1).unwrap();
        for (name, wrong) in [
            ("pipe", "it is a pipe, expected a file"),
            ("directory", "it is a directory, expected a file"),
            ("large", "is larger than 268435456 bytes: expected at most as much"),
        ] {
            let expected = format!("cannot read fixture {}: {wrong}", path(name).display());
            assert_eq!(read_fixture(&path(name)).unwrap_err(), expected);
            let chain = Chain::mock(1, path(name));
            let found = check(&mut Config { chains: vec![chain], ..Config::default() });
            let told = found.unwrap_err().told(false);
            assert!(told.contains(wrong), "{told}");
        }
    }

    /// What is played is what was checked, whatever the file is by then.
    #[test]
    fn a_fixture_is_read_once() {
        let dir = tempfile::TempDir::new().unwrap();
        let (file, fixture) = (dir.path().join("nexum-engine.toml"), dir.path().join("chain.toml"));
        fs::write(&fixture, "chain_id = 7\n").unwrap();
        fs::write(&file, "[[chains]]\nchain_id = 7\nmock = \"chain.toml\"\n").unwrap();
        let config = load(Some(&file), &Variables::new(), &Flags::default()).unwrap();
        assert_eq!(config.chains[0].fixture.as_ref().map(|fixture| fixture.chain_id), Some(7));
        // The same where the command line named it, which has read it by then.
        let flags = Flags { mock: Some((read_fixture(&fixture).unwrap(), fixture.clone())), ..Flags::default() };
        fs::remove_file(&fixture).unwrap();
        let config = load(None, &Variables::new(), &flags).unwrap();
        assert_eq!(config.chains[0].fixture.as_ref().map(|fixture| fixture.chain_id), Some(7));
    }
}
