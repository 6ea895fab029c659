//! The arguments of `nexumctl`, most of which `nexum` has too, and the help that goes with them.

pub mod accounts;
pub mod crash;
pub mod journal;
mod load;

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueHint};
use nexum_admin_api::orders::ResyncTo;
use serde::{Deserialize, Serialize};

pub use load::{Load, Setting};

use crate::{exit::CODES, period::Period};

/// Looks after a running nexum engine.
#[derive(Debug, Parser)]
#[command(name = "nexumctl", version, propagate_version = true, max_term_width = 100, after_help = CODES)]
#[command(after_long_help = concat!(
    "Examples:\n",
    "  nexumctl tree --watch                      what runs, and how it is doing\n",
    "  nexumctl logs -f --module price-watch      its log lines as they come\n",
    "  nexumctl module restart old-probe          the way out of DEAD\n",
    "  nexumctl dlq show price-watch 4711         an event that the module could not handle\n",
    "  nexumctl outbox list webhook-alert         what it has sent, and what became of it\n",
    "  nexumctl query price-watch last            what the module itself says of its state\n",
    "  nexumctl state list price-watch --prefix last/ --json | jq .entries\n",
    "  nexumctl --url http://10.0.0.5:8081 --token-file admin.token tree\n\n",
    "The engine is looked for at --socket, else ./.nexum/admin.sock, else /var/lib/nexum/admin.sock.\n\n",
    "Exit codes: 0 done · 1 failed or refused · 2 wrong usage · 3 engine not reachable ·\n",
    "4 engine not healthy · 5 no such module, service, key, dead letter, effect or store"
))]
pub struct Nexumctl {
    #[command(flatten)]
    pub output: Output,
    #[command(subcommand)]
    pub command: NexumctlCommand,
}

/// Which engine, and how to answer.
#[derive(Debug, Clone, Default, Args)]
pub struct Output {
    /// Answer as JSON, in a form that stays
    #[arg(long, global = true)]
    pub json: bool,
    // Variables are read where they are used: to clap they would be flags, which conflict with others and cannot be empty.
    /// The engine's admin socket [env: NEXUM_SOCKET]
    #[arg(long, global = true, value_name = "PATH", conflicts_with = "url", value_hint = ValueHint::FilePath)]
    pub socket: Option<PathBuf>,
    /// The engine's admin API over TCP, such as http://10.0.0.5:8081 [env: NEXUM_URL]
    #[arg(long, global = true, value_name = "URL")]
    pub url: Option<String>,
    /// File with the token for --url; else the variable NEXUM_TOKEN
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub token_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum NexumctlCommand {
    #[command(flatten)]
    Operator(Operator),
    #[command(flatten)]
    Common(Common),
    Run(Run),
    /// Make, import and list the key files of accounts, which `nexum key` does
    #[command(disable_help_flag = true)]
    Key {
        #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
        rest: Vec<OsString>,
    },
}

/// Run an engine until SIGTERM, SIGINT, SIGQUIT or SIGHUP
///
/// The first signal stops it in order: modules finish the event in flight, the store syncs. A second one ends it at once.
#[derive(Debug, Args)]
pub struct Run {
    #[command(flatten)]
    pub settings: Settings,
}

/// Where settings come from, and those that flags can change.
#[derive(Debug, Default, Args)]
pub struct Settings {
    /// The configuration [default: ./nexum-engine.toml, not needed with --mock] [env: NEXUM_CONFIG]
    #[arg(long, short, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// Play this chain fixture in place of the configured chain with its id
    #[arg(long, value_name = "FIXTURE", value_hint = ValueHint::FilePath)]
    pub mock: Option<PathBuf>,
    /// A bundle to load besides the configured ones; may be repeated
    #[arg(long = "module", value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub modules: Vec<PathBuf>,
    /// Where state is kept [default: ./.nexum; with --mock and no --config a directory that goes with the engine]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub state_dir: Option<PathBuf>,
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// A level, or directives such as info,nexum_chain=debug
    // What is one is known where the log is: `nexum` checks it.
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Pretty,
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Common {
    /// Check the configuration and print what it comes to, with secrets masked
    CheckConfig(Settings),
    /// Ask the engine whether it is healthy; exit code 4 when it is not
    Health,
    /// List, load and steer modules, or package and inspect one
    #[command(subcommand)]
    Module(Module),
    /// Look at what modules keep, and back it up
    #[command(subcommand)]
    State(State),
    /// Look at what modules did, event by event; verify and compare it
    #[command(subcommand)]
    Journal(journal::Journal),
    /// Print a completion script, such as: source <(nexumctl completions bash)
    Completions { shell: clap_complete::Shell },
}

#[derive(Debug, Subcommand)]
pub enum Module {
    /// Loaded modules and their state
    List,
    /// One module: how it is doing, and what it may reach: granted, stubbed or denied, and by whom
    Show { name: String },
    /// Load a bundle into the running engine; it stays loaded over restarts of the engine
    Load(Load),
    /// Stop a module after the event in flight and forget it, over restarts of the engine too; its state stays
    Unload { name: String },
    /// Put another version in a module's place, on its state; if its init fails, the old one goes on
    Upgrade(Upgrade),
    /// Start a module afresh with a full restart budget; the way out of DEAD
    Restart { name: String },
    /// Stop a module after the event in flight; it stays paused over restarts of the engine
    Pause { name: String },
    /// Pause a module, and wait until it has nothing left to do
    Drain {
        name: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Let a paused module go on where it stopped
    Resume { name: String },
    /// Put a module onto the endpoint's chain, when a reorg was too deep for it to find its way itself
    Resync(Resync),
    /// Make a bundle: the manifest with the component's hash filled in, and the component
    Package(Package),
    /// Tell what the configuration of a bundle may hold; with --json as JSON Schema
    Config {
        /// A directory with nexum.toml and module.wasm
        #[arg(value_hint = ValueHint::DirPath)]
        bundle: PathBuf,
    },
    /// Tell what a bundle is without running it: what it asks for, what it is told of, when its schedules fire next
    Inspect {
        /// A directory with nexum.toml and module.wasm
        #[arg(value_hint = ValueHint::DirPath)]
        bundle: PathBuf,
    },
}

/// Either undo state, or keep it and choose a block.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("way").required(true).args(["rewind", "to"]))]
pub struct Resync {
    pub name: String,
    /// The chain that the module is to be put onto
    #[arg(long, value_name = "ID")]
    pub chain: u64,
    /// Undo the module's state to the newest position in its journal that lies on the chain, and go on from there
    #[arg(long)]
    pub rewind: bool,
    /// Keep the module's state, whatever retracted events are in it, and go on after this block, or after the `head`
    #[arg(long, value_name = "BLOCK", value_parser = resync_to)]
    pub to: Option<ResyncTo>,
}

fn resync_to(text: &str) -> Result<ResyncTo, String> {
    match text {
        "head" => Ok(ResyncTo::Head),
        number => number.parse().map(ResyncTo::Block).map_err(|_| "expected a block number, or `head`".to_owned()),
    }
}

#[derive(Debug, Args)]
pub struct Wait {
    /// Answer by then, whatever is finished; what is not is told, and exit code 1
    #[arg(long, value_name = "TIME", default_value = "60s")]
    pub deadline: Period,
}

#[derive(Debug, Args)]
pub struct Upgrade {
    pub name: String,
    /// The bundle of the new version; by default the present one's directory is read again
    #[arg(value_hint = ValueHint::DirPath)]
    pub bundle: Option<PathBuf>,
    /// Let the new version reach more than the running one, as its manifest asks
    #[arg(long)]
    pub allow_capabilities: bool,
}

#[derive(Debug, Args)]
pub struct Package {
    /// Directory with the manifest, nexum.toml
    #[arg(value_hint = ValueHint::DirPath)]
    pub manifest_dir: PathBuf,
    /// The compiled component
    #[arg(long, value_name = "WASM", value_hint = ValueHint::FilePath)]
    pub component: PathBuf,
    /// The bundle of a library that the manifest names: its hash is filled in; may be given again
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub library: Vec<PathBuf>,
    /// The bundle to make; one that is there is replaced in one step
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub out: PathBuf,
}

#[derive(Debug, Subcommand)]
pub enum State {
    /// Keys and values of a module, in byte order
    List {
        module: String,
        /// Only keys that begin so
        #[arg(long, default_value = "")]
        prefix: String,
        /// Only keys after this one: the `next` of the page before
        #[arg(long, value_name = "KEY")]
        after: Option<String>,
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
        limit: u16,
    },
    /// One value: its bytes as they are, or with --json as hex
    Get { module: String, key: String },
    /// What the engine knows of a module: cursors, sizes, failures
    Inspect { module: String },
    /// Copy the state of all modules to a new directory, while the engine runs
    Backup {
        #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
        to: PathBuf,
    },
    /// Fill an empty state directory from a backup; no engine may run on it
    Restore {
        /// A directory that `state backup` made
        #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
        from: PathBuf,
        /// The state directory to fill
        #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
        state_dir: PathBuf,
    },
    /// Remove everything the engine keeps of a module that is not loaded: state, cursors, journal, dead letters
    Purge {
        module: String,
        /// Do it: there is no way back but a backup
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Subcommand)]
pub enum Operator {
    /// The supervisor tree: services, chains and modules, and how they are doing
    Tree {
        /// Draw it again every two seconds; with --json one line each time
        #[arg(long, short)]
        watch: bool,
    },
    /// Recent log lines of the engine
    Logs {
        /// Go on with what is logged from now on
        #[arg(long, short)]
        follow: bool,
        /// Only lines about this module
        #[arg(long, short, value_name = "NAME")]
        module: Option<String>,
    },
    /// Events that a module could not handle
    #[command(subcommand)]
    Dlq(Dlq),
    /// Failed events that are kept, to be replayed with `nexum replay`
    #[command(subcommand)]
    Crash(crash::Crash),
    /// The actors that modules share: what they are called, and restarting one
    #[command(subcommand)]
    Service(Service),
    /// What modules have sent: requests that leave once their event is committed
    #[command(subcommand)]
    Outbox(Outbox),
    /// What the engine's accounts send, and what becomes of it
    #[command(subcommand)]
    Tx(accounts::Tx),
    /// What is to be signed and waits for your decision
    #[command(subcommand)]
    Approvals(accounts::Approvals),
    /// The signatures that were made, newest first
    Audit(accounts::Audit),
    /// What modules asked of chains since the engine started, what it cost, and how far their budgets are used
    Rpc {
        /// Only of this module
        #[arg(long, short, value_name = "NAME")]
        module: Option<String>,
    },
    /// Ask a module about its state, as it is committed, whether it runs or not; the answer is JSON of its own making
    Query {
        module: String,
        /// What to ask: a name that the module knows, or {"method": "…", "params": …}
        #[arg(value_name = "METHOD|JSON")]
        method: String,
        /// What it takes, as JSON
        #[arg(value_name = "JSON")]
        params: Option<String>,
    },
    /// Current values of all metrics, in Prometheus' text format
    Metrics,
    /// Stop every module from pulling and wait until none has anything left to do; the engine runs on
    ///
    /// They stay paused until `nexumctl resume`, or until the engine is started again.
    Drain(Wait),
    /// Let every paused module go on
    Resume,
    /// Stop the engine in order, as SIGTERM does
    Shutdown,
}

#[derive(Debug, Subcommand)]
pub enum Service {
    /// Every service, its restarts, and how near it is to the bound on failures
    List,
    /// End a service after what it has at hand; its supervisor starts it afresh, and modules ask it again
    Restart {
        /// Such as store, chain:1 or cron
        name: String,
        /// End it as a bug would: nothing is finished, and it counts against the bound on failures
        #[arg(long)]
        kill: bool,
    },
}

#[derive(Debug, Subcommand)]
pub enum Outbox {
    /// The effects of a module: those that have not ended, then the newest that have
    List {
        module: String,
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=10000))]
        limit: u16,
    },
    /// One effect with what it sends
    Show { module: String, id: String },
    /// Attempt an effect now; one that failed or was cancelled begins anew
    Retry { module: String, id: String },
    /// Withdraw an effect; one that was attempted before may have left
    Cancel { module: String, id: String },
}

#[derive(Debug, Subcommand)]
pub enum Dlq {
    /// The dead letters of a module, oldest first
    List { module: String },
    /// One dead letter with its event and backtrace
    Show { module: String, seq: u64 },
    /// Deliver the event again; the letter goes when the module handles it
    Retry { module: String, seq: u64 },
    /// Deliver the events of all letters again, oldest first; stops at the first that fails again
    RetryAll {
        module: String,
        /// Go on with the next one when one fails again
        #[arg(long)]
        keep_going: bool,
    },
    /// Forget the event
    Drop { module: String, seq: u64 },
    /// Forget the events of all letters
    DropAll {
        module: String,
        /// Do it: the events are gone then
        #[arg(long)]
        yes: bool,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definitions_are_sound() {
        Nexumctl::command().debug_assert();
    }
}
