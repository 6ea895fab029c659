//! Builds every service from the configuration and hands them to the kernel to supervise.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    os::unix::fs::DirBuilderExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use nexum_chain::{
    Budgets, ChainConfig, ChainMetrics, Dial, EndpointConfig, History, KEPT_HEADERS, Network, Usage, mock::Fixture,
};
use nexum_egress::{Certificates, EgressMetrics, ReadCredentials, Resolver};
use nexum_gateway::{Accounts, AdminTcp, GatewayMetrics, LogTap, Token};
use nexum_host_ifaces::{
    blocking::Blocking,
    clock::{Clock, SystemClock},
    cron::{CronMsg, ScheduleCheck},
    interfaces::{chain::port::ChainMsg, http::port::EgressMsg},
    names::look_up_of_this_machine,
    port::Port,
    ports::Ports,
    store::StoreMsg,
    transactions::TransactionsMsg,
};
use nexum_identity::IdentityMetrics;
use nexum_kernel::{
    KernelArgs, ServiceSpec,
    admin::{AdminMsg, ModuleSpec},
    begun::Marks,
    engine::MapLimit,
    root::KernelHandle,
    roster::Roster,
};
use nexum_store::Store;
use prometheus::Registry;
use ractor::{SpawnErr, rpc::CallResult};
use tokio::sync::watch;

use super::{journal_key, logging::Log, store_directory};
use crate::{
    config::{Ceiling, Chain, Config, Credential, Library, Module},
    status,
};

/// The gateway answers at once when it is asked where it listens.
const LISTENERS_DEADLINE: Duration = Duration::from_secs(5);

/// Starts an engine. Answers once its services are up; modules load in the background.
pub async fn start(config: &Config, log: &Log) -> anyhow::Result<(KernelHandle, Port<AdminMsg>, Arc<Marks>)> {
    let state_dir = &config.engine.state_dir;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let registry = Registry::new();
    registry.register(Box::new(log.dropped_total().clone())).context("metrics")?;

    let store = open_store(config, &clock, &registry)?;
    let histories = Arc::new(histories(config, &store)?);
    // Nobody else uses the directory once the store is open.
    let marks = super::marks(state_dir);
    let begun = Marks::open(&marks, config.restart.max_process_deaths, clock.clone());
    let begun = Arc::new(begun.with_context(|| marks.display().to_string())?);
    let ports = Ports::new(store.clone(), config.chains.iter().map(|chain| chain.chain_id));
    let admin = Port::new("kernel");
    let sends = config.identity.is_some() || store.has_records(nexum_transactions::SERVICE)?;
    let mut services = vec![store_service(store, ports.store(), histories.clone())];
    let metrics = ChainMetrics::register(&registry).context("metrics")?;
    let network = Network::new(look_up_of_this_machine(), clock.clone(), &metrics);
    let network: Arc<dyn Dial> = Arc::new(network.with_certificates(Arc::new(crate::certificates::check)));
    let budgets = Budgets::new(ports.store(), clock.clone(), metrics.clone());
    let mut usages = Vec::with_capacity(config.chains.len());
    for chain in &config.chains {
        let Some(port) = ports.chain(chain.chain_id) else { continue };
        let usage = Usage::new(chain.chain_id, chain.rpc.costs.clone(), metrics.clone());
        usages.push(usage.clone());
        let headers = histories.get(&chain.chain_id).map(|history| (history.clone(), ports.store()));
        let (clock, metrics, budgets) = (clock.clone(), metrics.clone(), budgets.clone());
        let shared = ChainShared { network: network.clone(), clock, metrics, usage, budgets };
        services.push(chain_service(chain, port.clone(), headers, shared));
    }
    services.push(cron_service(ports.of(), clock.clone()));
    #[cfg(feature = "echo")]
    services.push(echo_service(ports.of()));
    let (listeners, own) = watch::channel(configured_listeners(config));
    let egress_metrics = EgressMetrics::register(&registry).context("metrics")?;
    services.push(egress_service(config, ports.of(), clock.clone(), egress_metrics.clone(), own)?);
    let mut identity_metrics = None;
    if let Some(identity) = &config.identity {
        let counted = IdentityMetrics::register(&registry).context("metrics")?;
        identity_metrics = Some(counted.clone());
        services.push(super::identity::service(identity, &ports, &clock, counted)?);
    }
    // What was broadcast is followed although there are no accounts any more.
    if sends {
        services.push(super::transactions::service(config, &ports, &clock, &registry)?);
    }
    if let Some(store) = &config.remote_store {
        services.push(super::remote_store::service(store, &ports, &clock, &registry)?);
    }
    if let Some(messaging) = &config.messaging {
        services.push(super::messaging::service(messaging, &ports, &clock, &registry)?);
    }
    services.push(gateway_service(config, &admin, &ports, &registry, log.tap.clone(), listeners)?);

    let args = KernelArgs {
        services,
        ports,
        admin: admin.clone(),
        modules: config.modules.iter().map(module_spec).collect(),
        libraries: config.libraries.iter().map(Library::spec).collect(),
        ceiling: config.limits.limits(),
        restart: config.restart.ceiling(),
        begun: begun.clone(),
        roster: Arc::new(Roster::new(super::roster(state_dir))),
        record: config.journal.record,
        engine: super::compiler::engine(&config.engine)?,
        blocking: Blocking::Threads,
        pin_threads: config.engine.pin_threads,
        clock,
        registry,
        module_histograms: config.observability.module_histograms,
        map_limit: MapLimit::of_this_machine(),
        schedule_check: schedule_check(),
        shutdown_deadline: config.engine.shutdown_deadline.0,
        event_age_threshold: config.observability.event_age_threshold.0,
        schedule_next: Arc::new(nexum_cron::next_after),
        outbox: config.outbox.settings(),
        queries: config.queries.limits(),
        jitter: Arc::new(rand::random::<f64>),
        unloaded: Arc::new(move |module: &str| {
            egress_metrics.forget(module);
            usages.iter().for_each(|usage| usage.forget(module));
            budgets.forget(module);
            metrics.forget(module);
            if let Some(counted) = &identity_metrics {
                counted.forget(module);
            }
        }),
    };
    let kernel = KernelHandle::start(args).await?;
    Ok((kernel, admin, begun))
}

/// What the cron actor can serve, for the check of manifests.
pub fn schedule_check() -> ScheduleCheck {
    Arc::new(nexum_cron::check)
}

pub(super) fn private_directory(directory: &Path) -> anyhow::Result<()> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.with_context(|| format!("[engine] state_dir: {} cannot be made", directory.display()))
}

fn open_store(config: &Config, clock: &Arc<dyn Clock>, registry: &Registry) -> anyhow::Result<Arc<Store>> {
    let mut options = nexum_store::Options::new(clock.clone(), registry.clone());
    options.durability = config.engine.durability;
    options.companions = super::companions(&config.engine.state_dir);
    options.reserved = super::reserved(config);
    let journal = &config.journal;
    options.journal_entries = journal.entries;
    options.journal_bytes = journal.bytes;
    options.journal_age = journal.age.map(|age| age.0);
    if journal.receipts {
        let key = Arc::new(journal_key::load(journal.key.as_deref(), &config.engine.state_dir)?);
        let (every_units, every) = (journal.receipt_entries, journal.receipt_interval.0);
        options.receipts = Some(nexum_store::Receipts { key, every_units, every });
    }
    Ok(Store::open(store_directory(&config.engine.state_dir), &options)?)
}

/// The headers of every chain that has endpoints. A mock chain is another one each time it is played.
type Histories = BTreeMap<u64, History>;

fn histories(config: &Config, store: &Store) -> anyhow::Result<Histories> {
    let real = config.chains.iter().filter(|chain| chain.mock.is_none());
    let history = |chain: &Chain| {
        let links = store.headers(chain.chain_id)?;
        Ok((chain.chain_id, History::new(chain.kept_headers.unwrap_or(KEPT_HEADERS), links)))
    };
    real.map(history).collect()
}

#[cfg(feature = "echo")]
fn echo_service(port: Port<nexum_host_ifaces::interfaces::echo::port::EchoMsg>) -> ServiceSpec {
    use nexum_host_ifaces::interfaces::echo::port::{EchoMsg, EchoStatus};
    use nexum_kernel::{Status, StatusSpec};

    let shown = |status: EchoStatus| Status::up(format!("{} texts said", status.said_total));
    let status =
        StatusSpec::new("echo", nexum_admin_api::tree::NodeKind::Service, port.clone(), EchoMsg::Status, shown);
    let service = ServiceSpec::new("echo", port, |supervisor| async move {
        nexum_echo::spawn(supervisor).await.map(|(actor, _)| actor)
    });
    service.with_status(status)
}

fn store_service(store: Arc<Store>, port: Port<StoreMsg>, histories: Arc<Histories>) -> ServiceSpec {
    let (started, status) = (AtomicBool::new(false), status::store(port.clone()));
    let service = ServiceSpec::new("store", port, move |supervisor| {
        let (args, histories) = (nexum_store::Args { store: store.clone() }, histories.clone());
        let again = started.swap(true, Ordering::Relaxed);
        async move {
            let (actor, _) = nexum_store::spawn(args, supervisor).await?;
            // What the actor before was handed may have died with it. Nobody reaches this one before it has it all.
            for (chain_id, history) in histories.iter().filter(|_| again) {
                let (chain_id, headers) = (*chain_id, history.headers());
                let put = StoreMsg::PutHeaders { chain_id, anew: true, headers, dropped: Vec::new() };
                actor.send_message(put).map_err(|error| SpawnErr::StartupFailed(error.into()))?;
            }
            Ok(actor)
        }
    });
    service.with_status(status)
}

fn cron_service(port: Port<CronMsg>, clock: Arc<dyn Clock>) -> ServiceSpec {
    let status = status::cron(port.clone());
    let service = ServiceSpec::new("cron", port, move |supervisor| {
        let args = nexum_cron::Args { clock: clock.clone() };
        async move { nexum_cron::spawn(args, supervisor).await.map(|(actor, _)| actor) }
    });
    service.with_status(status)
}

fn egress_service(
    config: &Config,
    port: Port<EgressMsg>,
    clock: Arc<dyn Clock>,
    metrics: EgressMetrics,
    listeners: watch::Receiver<Vec<SocketAddr>>,
) -> anyhow::Result<ServiceSpec> {
    let limits = config.egress.limits();
    let unusable = |(key, wrong): (String, String)| anyhow::anyhow!("[egress] {key}: {wrong}");
    let rules = Arc::new(config.egress.rules().map_err(unusable)?);
    let proxy = config.egress.proxy().map_err(unusable)?;
    let ca_file = config.egress.ca_file.clone();
    let certificates: Certificates = Arc::new(move || crate::certificates::roots(ca_file.as_deref()));
    let configured = config.egress.credentials.clone();
    let credentials: ReadCredentials = Arc::new(move || configured.iter().map(Credential::read).collect());
    let names = Resolver::new(look_up_of_this_machine(), clock.clone(), &metrics);
    let status = status::egress(port.clone());
    let service = ServiceSpec::new("egress", port, move |supervisor| {
        let (clock, metrics) = (clock.clone(), metrics.clone());
        let (names, listeners, certificates) = (names.clone(), listeners.clone(), certificates.clone());
        let (rules, proxy, credentials) = (rules.clone(), proxy.clone(), credentials.clone());
        let args =
            nexum_egress::Args { limits, clock, metrics, names, listeners, certificates, rules, proxy, credentials };
        async move { nexum_egress::spawn(args, supervisor).await.map(|(actor, _)| actor) }
    });
    Ok(service.with_status(status))
}

/// What a chain's actors have in common, one after the other.
#[derive(Clone)]
struct ChainShared {
    network: Arc<dyn Dial>,
    clock: Arc<dyn Clock>,
    metrics: ChainMetrics,
    usage: Usage,
    budgets: Budgets,
}

/// `headers` are those of earlier runs, and where new ones are kept.
fn chain_service(
    chain: &Chain,
    port: Port<ChainMsg>,
    headers: Option<(History, Port<StoreMsg>)>,
    shared: ChainShared,
) -> ServiceSpec {
    let fixture = chain.fixture.clone();
    assert_eq!(fixture.is_some(), chain.mock.is_some(), "a fixture is read when the configuration is checked");
    let rpc = rpc(chain);
    let (history, headers) = headers.unzip();
    let history = history.unwrap_or_default();
    let status = status::chain(chain.chain_id, port.clone());
    let service = ServiceSpec::new(format!("chain:{}", chain.chain_id), port, move |supervisor| {
        let source = match &fixture {
            Some(fixture) => nexum_chain::Source::Mock(Fixture::clone(fixture)),
            None => nexum_chain::Source::Rpc(rpc.clone(), shared.network.clone()),
        };
        let ChainShared { clock, metrics, usage, budgets, .. } = shared.clone();
        let (history, headers, jitter) = (history.clone(), headers.clone(), Arc::new(rand::random::<f64>));
        let args = nexum_chain::Args { source, clock, metrics, history, headers, usage, budgets, jitter };
        async move { nexum_chain::spawn(args, supervisor).await.map(|(actor, _)| actor) }
    });
    service.with_status(status)
}

/// The actor's configuration: its defaults, and what the operator changed.
fn rpc(chain: &Chain) -> ChainConfig {
    let mut config = ChainConfig::new(chain.chain_id, Vec::<String>::new());
    let endpoint =
        |endpoint: &crate::config::Endpoint| EndpointConfig { url: endpoint.url.clone(), priority: endpoint.priority };
    config.endpoints = chain.endpoints.iter().map(endpoint).collect();
    config.name = chain.name.clone();
    let given = &chain.rpc;
    config.timeout = given.timeout.map_or(config.timeout, |period| period.0);
    config.max_retries = given.max_retries.unwrap_or(config.max_retries);
    config.requests_per_second = given.requests_per_second.unwrap_or(config.requests_per_second);
    config.max_log_range = given.max_log_range.unwrap_or(config.max_log_range);
    config.poll_interval = given.poll_interval.map_or(config.poll_interval, |period| period.0);
    config.stall_after = given.stall_after.map_or(config.stall_after, |period| period.0);
    config.bloom = given.bloom.or(config.bloom);
    config.verify = given.verify.unwrap_or(config.verify);
    config.relay = chain.transactions.relay.as_ref().map(|relay| relay.0.clone());
    config
}

/// Where the engine listens as long as the gateway has not said it.
fn configured_listeners(config: &Config) -> Vec<SocketAddr> {
    let observability = &config.observability;
    let all = [observability.health_listen, observability.metrics_listen, observability.admin_listen];
    all.into_iter().filter_map(|listen| listen.0).collect()
}

/// The gateway. `listeners` hears where it listens, which the system may choose anew with every start.
fn gateway_service(
    config: &Config,
    admin: &Port<AdminMsg>,
    ports: &Ports,
    registry: &Registry,
    logs: LogTap,
    listeners: watch::Sender<Vec<SocketAddr>>,
) -> anyhow::Result<ServiceSpec> {
    let observability = &config.observability;
    if let Some(directory) = observability.admin_socket.as_deref().and_then(Path::parent) {
        private_directory(directory).context("[observability] admin_socket")?;
    }
    let token = observability.admin_token.as_ref().map(|token| Token::new(token.0.as_str()));
    let args = nexum_gateway::Args {
        health: observability.health_listen.0,
        metrics: observability.metrics_listen.0,
        admin_socket: observability.admin_socket.clone(),
        admin_tcp: observability.admin_listen.0.zip(token).map(|(address, token)| AdminTcp { address, token }),
        admin: admin.clone(),
        store: ports.store(),
        accounts: ports.has::<TransactionsMsg>().then(|| Accounts { identity: ports.of(), transactions: ports.of() }),
        chains: ports.chains().values().cloned().collect(),
        registry: registry.clone(),
        counted: GatewayMetrics::register(registry).context("metrics")?,
        logs,
    };
    // Nobody calls the gateway; the port is what the kernel wants of a service.
    Ok(ServiceSpec::new("gateway", Port::new("gateway"), move |supervisor| {
        let (args, listeners) = (args.clone(), listeners.clone());
        async move {
            let gateway = nexum_gateway::spawn(args, supervisor).await?;
            let asked = gateway.call(nexum_gateway::Msg::Addresses, Some(LISTENERS_DEADLINE)).await;
            let Ok(CallResult::Success(open)) = asked else {
                gateway.stop(None);
                return Err(SpawnErr::StartupFailed("the gateway does not say where it listens".into()));
            };
            listeners.send_replace([open.health, open.metrics, open.admin_tcp].into_iter().flatten().collect());
            Ok(gateway)
        }
    }))
}

pub(super) fn module_spec(module: &Module) -> ModuleSpec {
    ModuleSpec {
        source: module.source.clone().into(),
        denied: module.denied.iter().map(ToString::to_string).collect(),
        ceiling: (module.limits != Ceiling::default()).then(|| module.limits.limits()),
        config: module.config.clone(),
        extra_methods: module.extra_methods.clone(),
        rpc: module.rpc,
        record: module.record,
        component: module.component.map(|component| component.0),
        adopt_state: module.adopt_state,
        places: module.places.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Endpoint, Period};

    #[test]
    fn a_chain_keeps_the_actors_defaults_but_for_what_is_said() {
        let mut chain = Chain::mock(10, "x.toml".into());
        chain.endpoints = vec![Endpoint { url: "http://a".into(), priority: 3 }];
        chain.rpc.timeout = Some(Period(Duration::from_secs(7)));
        let config = rpc(&chain);
        let defaults = ChainConfig::new(10, ["http://a"]);
        assert_eq!(config.timeout, Duration::from_secs(7));
        assert_eq!((config.max_retries, config.max_log_range), (defaults.max_retries, defaults.max_log_range));
        assert_eq!(config.endpoints[0].priority, 3);
    }
}
