//! Carries out what needs a running engine or an export at most: asks, prints the answer. The rest is handed on.

mod accounts;
pub mod crash;
pub mod journal;
mod operator;
mod state;

use std::{
    path::{Path, PathBuf},
    pin::Pin,
    time::Duration,
};

use hyper::Method;
use nexum_admin_api::{
    DrainRequest, Loaded, UpgradeRequest,
    health::{HEALTHY, Health},
    orders::{Drained, ModuleSpec, ResyncOrder, ResyncTo, Resynced, Upgraded},
    text,
    tree::Node,
};
use serde_json::json;

use crate::{
    args::{self, Common, Output},
    client::{Client, part},
    exit::Failure,
    hand_on,
    render::{self, foreign::shown, print, print_as_is, print_json},
};

pub use operator::operator;

/// The engine says within 2 s whether it is healthy; one that says nothing is not.
const HEALTH_DEADLINE: Duration = Duration::from_secs(5);

/// Runs a conversation with an engine to its end.
pub fn block_on(conversation: Pin<Box<dyn Future<Output = Result<(), Failure>> + '_>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::failed(format!("no runtime: {error}")))?.block_on(conversation)
}

/// Carries out a command that both programs have. `program` is the definition of the one that runs.
pub fn common(command: Common, output: &Output, program: fn() -> clap::Command) -> Result<(), Failure> {
    match command {
        Common::CheckConfig(_)
        | Common::Module(args::Module::Package(_) | args::Module::Config { .. } | args::Module::Inspect { .. }) => {
            hand_on::to_nexum()
        }
        Common::Health => block_on(Box::pin(health(output))),
        Common::Module(command) => block_on(Box::pin(module(command, output))),
        Common::State(command) => state::state(command, output),
        Common::Journal(command) => journal::journal(command, output),
        Common::Completions { shell } => {
            let mut program = program();
            let name = program.get_name().to_owned();
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut program, name, &mut script);
            print_as_is(&script)
        }
    }
}

async fn health(output: &Output) -> Result<(), Failure> {
    let health: Health = Client::new(output)?.patient(Some(HEALTH_DEADLINE)).get("/v1/health").await?;
    match output.json {
        true => print_json(&health)?,
        false => print(&render::report::health(&health))?,
    }
    if health.status == HEALTHY { Ok(()) } else { Err(Failure::unhealthy()) }
}

/// Says that an order was carried out.
fn done(output: &Output, module: &str, what: &str) -> Result<(), Failure> {
    match output.json {
        true => print_json(&json!({ "module": module, "done": what })),
        false => print(&format!("{}: {}\n", shown(module), shown(what))),
    }
}

async fn module(command: args::Module, output: &Output) -> Result<(), Failure> {
    let client = Client::new(output)?;
    let (name, step, method, what) = match command {
        args::Module::List => {
            let modules: Vec<Node> = client.get("/v1/modules").await?;
            return match output.json {
                true => print_json(&modules),
                false => print(&render::report::modules(&modules)),
            };
        }
        args::Module::Show { name } => return show_module(&client, &name, output).await,
        args::Module::Load(load) => return load_module(&client, load, output).await,
        args::Module::Drain { name, wait } => {
            return drain(&client, &format!("/v1/modules/{}/drain", part(&name)), &wait, output).await;
        }
        args::Module::Upgrade(upgrade) => return upgrade_module(&client, upgrade, output).await,
        args::Module::Resync(resync) => return resync_module(&client, resync, output).await,
        // Handed on before.
        args::Module::Package(_) | args::Module::Config { .. } | args::Module::Inspect { .. } => return Ok(()),
        args::Module::Unload { name } => (name, "", Method::DELETE, "unloaded"),
        args::Module::Restart { name } => (name, "/restart", Method::POST, "restarted"),
        args::Module::Pause { name } => (name, "/pause", Method::POST, "paused"),
        args::Module::Resume { name } => (name, "/resume", Method::POST, "resumed"),
    };
    client.order(method, &format!("/v1/modules/{}{step}", part(&name)), None).await?;
    done(output, &name, what)
}

async fn show_module(client: &Client, name: &str, output: &Output) -> Result<(), Failure> {
    let modules: Vec<Node> = client.get("/v1/modules").await?;
    let found = modules.into_iter().find(|node| node.name == name);
    let node = found.ok_or_else(|| Failure::not_found(format!("no module `{name}` is loaded")))?;
    match output.json {
        true => print_json(&node),
        false => print(&render::report::module(&node)),
    }
}

async fn drain(client: &Client, path: &str, wait: &args::Wait, output: &Output) -> Result<(), Failure> {
    let deadline_ms = wait.deadline.0.as_millis() as u64;
    // As long as the deadline that was given, which is the engine's to keep.
    let drained: Drained = client.patient(None).post(path, &DrainRequest { deadline_ms }).await?;
    match output.json {
        true => print_json(&drained)?,
        false => print(&render::report::drained(&drained))?,
    }
    if drained.unfinished.is_empty() { Ok(()) } else { Err(Failure { code: 1, message: String::new() }) }
}

/// The engine may run elsewhere or as another user, so that only it can say whether the bundle is right.
fn absolute(bundle: &Path) -> Result<PathBuf, Failure> {
    // It is not repeated: it may hold a password.
    if bundle.to_string_lossy().contains("://") {
        return Err(Failure::usage("the bundle is an address: expected a directory with nexum.toml and module.wasm"));
    }
    let wrong = |error: &str| Failure::usage(format!("{}: {error}", bundle.display()));
    let absolute = std::path::absolute(bundle).map_err(|error| wrong(&error.to_string()))?;
    match absolute.to_str() {
        Some(_) => Ok(absolute),
        None => Err(wrong("is no UTF-8, in which an engine is told it")),
    }
}

async fn upgrade_module(client: &Client, upgrade: args::Upgrade, output: &Output) -> Result<(), Failure> {
    let args::Upgrade { name, bundle, allow_capabilities } = upgrade;
    let request = UpgradeRequest { source: bundle.as_deref().map(absolute).transpose()?, allow_capabilities };
    let upgraded: Upgraded = client.post(&format!("/v1/modules/{}/upgrade", part(&name)), &request).await?;
    match output.json {
        true => print_json(&upgraded),
        false => {
            let [from, to, state] = [&upgraded.from, &upgraded.to, &upgraded.state].map(|text| shown(text));
            print(&format!("{name}: {from} → {to}, {state}\n"))
        }
    }
}

async fn resync_module(client: &Client, resync: args::Resync, output: &Output) -> Result<(), Failure> {
    let order = ResyncOrder { chain_id: resync.chain, to: resync.to.unwrap_or(ResyncTo::Journal) };
    let path = format!("/v1/modules/{}/resync", part(&resync.name));
    let resynced: Resynced = client.post(&path, &order).await?;
    match output.json {
        true => print_json(&resynced),
        false => done(output, &resync.name, &format!("goes on after block {}", resynced.after_block)),
    }
}

async fn load_module(client: &Client, load: args::Load, output: &Output) -> Result<(), Failure> {
    let source = absolute(&load.bundle)?;
    // The engine may see what this command does not; what cannot be read says nothing of types.
    let manifest = if source.is_file() { source.clone() } else { source.join("nexum.toml") };
    let manifest = text::read(&manifest, text::MANIFEST_BYTES_MAX).ok();
    let config = load.values(manifest.as_deref())?;
    let spec = ModuleSpec {
        denied: load.deny,
        config,
        extra_methods: load.extra_method,
        component: load.component,
        adopt_state: load.adopt_state,
        ..ModuleSpec::new(source)
    };
    let loaded: Loaded = client.post("/v1/modules", &spec).await?;
    done(output, &loaded.name, "loaded")
}
