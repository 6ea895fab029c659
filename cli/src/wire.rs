//! The composition root: configuration in, a running engine out.
//!
//! Owns: which actor serves which port, the layout of the state directory, signals, and how the process ends. Every
//! decision about modules is the kernel's.

pub(crate) mod compiler;
mod identity;
pub(crate) mod journal_key;
pub(crate) mod lock;
mod logging;
mod messaging;
pub(crate) mod mock_state;
mod modules;
mod remote_store;
mod services;
mod signals;
mod transactions;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use nexum_host_ifaces::port::Port;
use nexum_kernel::admin::AdminMsg;
use nexum_store::Companion;
use tempfile::TempDir;

use logging::Log;
pub use services::schedule_check;
use signals::Signals;

use crate::{
    args,
    config::{self, Config, Flags},
    exit::Failure,
};

/// The configuration in the working directory, used when none is named.
const CONFIG_FILE: &str = "nexum-engine.toml";
/// What the kernel may need beyond the deadline it gives to modules; past both it is stuck.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(10);
/// What blocking work may still need when everything else has ended. It comes on top of the deadline.
const BLOCKING_GRACE: Duration = Duration::from_secs(1);
/// How often it is looked whether every module runs, and how many times.
const START_LOOK: Duration = Duration::from_secs(1);
const START_LOOKS_MAX: usize = 600;
/// What shells make of a process that SIGINT ended.
const INTERRUPTED: i32 = 130;

/// What a backup takes along besides the store.
pub fn companions(state_dir: &Path) -> Vec<Companion> {
    use nexum_kernel::roster::{EMPTY, check};
    vec![Companion { file: roster(state_dir), absent: EMPTY, check }]
}

/// Which modules run, where that is not as configured.
fn roster(state_dir: &Path) -> PathBuf {
    state_dir.join("modules.json")
}

/// What modules are at, for the engine after this one.
fn marks(state_dir: &Path) -> PathBuf {
    state_dir.join("begun")
}

/// What is the engine's own in a state directory besides these and the store.
fn reserved(config: &Config) -> Vec<PathBuf> {
    let state_dir = &config.engine.state_dir;
    let own = ["LOCK", "admin.sock", "cache", "journal.key"].into_iter().map(|name| state_dir.join(name));
    own.chain([marks(state_dir)]).collect()
}

/// Where the database lies within a state directory.
pub fn store_directory(state_dir: &Path) -> PathBuf {
    state_dir.join("store")
}

/// The effective configuration of a run.
pub struct Effective {
    pub config: Config,
    /// Goes with the engine.
    temporary: Option<TempDir>,
}

/// Reads the configuration that flags, environment and file come to.
pub fn settings(settings: &args::Settings) -> Result<Effective, Failure> {
    settings_with(settings, &|_| Ok(()))
}

/// The same, and what an engine would only find out once it runs: whether the modules can be loaded.
pub fn checked_settings(settings: &args::Settings) -> Result<Effective, Failure> {
    settings_with(settings, &modules::check)
}

fn settings_with(settings: &args::Settings, further: config::Further<'_>) -> Result<Effective, Failure> {
    // The configuration is text, and so is what an engine answers.
    let mut named = settings.config.iter().chain(&settings.state_dir).chain(&settings.mock).chain(&settings.modules);
    if let Some(path) = named.find(|path| path.to_str().is_none()) {
        return Err(Failure::usage(format!("{}: {}", path.display(), config::NO_UTF8)));
    }
    let environment = crate::environment()?;
    let by_variable = || environment.get("NEXUM_CONFIG").filter(|file| !file.is_empty()).map(PathBuf::from);
    let file = match settings.config.clone().or_else(by_variable) {
        Some(file) => Some(file),
        None if settings.mock.is_some() => None,
        None => match Path::new(CONFIG_FILE).exists() {
            true => Some(PathBuf::from(CONFIG_FILE)),
            false => {
                let hint = "give --config, or --mock FIXTURE to try nexum without a node";
                return Err(Failure::usage(format!("there is no {CONFIG_FILE} here: {hint}")));
            }
        },
    };
    let mock = match &settings.mock {
        Some(path) if config::is_address(&path.to_string_lossy()) => {
            return Err(Failure::failed("--mock: is an address: expected the file of a fixture"));
        }
        Some(path) => {
            let fixture = config::read_fixture(path).map_err(|wrong| Failure::failed(format!("--mock: {wrong}")))?;
            Some((fixture, path.clone()))
        }
        None => None,
    };
    let mut flags = Flags {
        state_dir: settings.state_dir.clone(),
        admin_socket: None,
        log_format: settings.log_format,
        log_level: settings.log_level.clone(),
        mock,
        modules: settings.modules.clone(),
    };
    let mut temporary = None;
    if file.is_none() && flags.state_dir.is_none() && !environment.contains_key("NEXUM_ENGINE__STATE_DIR") {
        // A mock chain is another one each time it is played, so that the state of the run before is of no use.
        let directory = TempDir::with_prefix("nexum-mock-").context("no temporary directory")?;
        flags.state_dir = Some(directory.path().to_owned());
        flags.admin_socket = Some(PathBuf::from(".nexum/admin.sock"));
        temporary = Some(directory);
    }
    let config = config::load_with(file.as_deref(), &environment, &flags, further)?;
    Ok(Effective { config, temporary })
}

/// Runs an engine until a signal or an operator stops it.
pub fn run(arguments: &args::Run) -> Result<(), Failure> {
    let Effective { config, temporary } = settings(&arguments.settings)?;
    if config.identity.is_some() || !config.egress.credentials.is_empty() {
        crate::forbid_core_dumps()?;
    }
    crate::allocator::tune();
    let log = logging::install(&config.engine)?;
    services::private_directory(&config.engine.state_dir)?;
    // Until the process ends, whatever happens to what is in the directory.
    let _lock = lock::hold(&config.engine.state_dir, "engine").context("[engine] state_dir")?;
    refuse_half_restored(&config.engine.state_dir)?;
    let runtime = nexum_kernel::threads::executor(config.engine.pin_threads).context("no runtime")?;
    let ended = runtime.block_on(engine(&config, temporary.is_some(), &log));
    // Blocking work that is left, such as a backup, must not keep the process.
    runtime.shutdown_timeout(BLOCKING_GRACE);
    drop(temporary);
    log.flush();
    Ok(ended?)
}

/// Refuses a directory in which a restore was cut short, where an engine would begin with an empty store.
fn refuse_half_restored(state_dir: &Path) -> anyhow::Result<()> {
    let store = store_directory(state_dir);
    let remains = nexum_store::remains(&store);
    let is_there = fs::read_dir(&store).is_ok_and(|mut entries| entries.next().is_some());
    if !is_there && remains.symlink_metadata().is_ok() {
        bail!(
            "{} is left of a restore that was cut short, and there is no store: run `nexum state restore` again, or remove \
             it to begin with an empty store",
            remains.display()
        );
    }
    Ok(())
}

async fn engine(config: &Config, is_temporary: bool, log: &Log) -> anyhow::Result<()> {
    let mut signals = Signals::new().context("signals")?;
    let (mut kernel, admin, begun) = services::start(config, log).await?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        state_dir = %config.engine.state_dir.display(),
        chains = config.chains.len(),
        modules = config.modules.len(),
        "nexum is up"
    );
    // Dropped when the engine stops, before the directory that it names.
    let _note = match is_temporary {
        true => Some(mock_state::note(config)?),
        false => None,
    };
    let mut unfinished = Vec::new();
    let ended = tokio::select! {
        ended = kernel.wait() => ended,
        () = give_back_once_started(&admin) => unreachable!("it waits for ever"),
        () = signals.any() => {
            tracing::info!("stopping: modules finish the event in flight; a second signal ends the process at once");
            let (log, begun) = (log.clone(), begun.clone());
            tokio::spawn(async move {
                signals.second().await;
                // Somebody does not want to wait, which is no event's fault. A probe without patience sends SIGKILL.
                begun.close();
                tracing::warn!("a second signal: ending at once");
                log.flush();
                std::process::exit(INTERRUPTED);
            });
            unfinished = shut_down(&admin, config.engine.shutdown_deadline.0).await?;
            kernel.wait().await
        }
    };
    // Not before: an event that keeps the process from its end in order until somebody kills it has ended it. What the
    // deadline has cut short by now is at nothing any more.
    begun.close();
    ended?;
    match unfinished.len() {
        0 => tracing::info!("stopped"),
        count => tracing::warn!(count, "stopped, but not everything was finished: {}", unfinished.join("; ")),
    }
    Ok(())
}

/// Loading many modules takes memory that they do not need to run. It is given back when all of them do. Never ends.
async fn give_back_once_started(admin: &Port<AdminMsg>) {
    for _ in 0..START_LOOKS_MAX {
        tokio::time::sleep(START_LOOK).await;
        if admin.call(SHUTDOWN_GRACE, AdminMsg::Health).await.is_ok_and(|health| health.ready) {
            // Where it is not done, memory only stays taken.
            let _done = tokio::task::spawn_blocking(crate::allocator::give_back).await;
            break;
        }
    }
    std::future::pending().await
}

/// Answers what could not be finished; its next attempt is at the next start.
async fn shut_down(admin: &Port<AdminMsg>, deadline: Duration) -> anyhow::Result<Vec<String>> {
    let stopped = admin.call(deadline + SHUTDOWN_GRACE, |reply| AdminMsg::Shutdown { reply }).await;
    stopped.context("the engine does not stop")
}
