//! The actor behind the admin port: gathers the tree and health from whoever knows, and passes orders on.
//!
//! It asks every service at once and with short deadlines, so that one that hangs shows as DOWN and delays nobody.

mod drain;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::future::join_all;
use nexum_admin_api::{
    health::{HEALTHY, UNHEALTHY},
    state::{ModuleState, ServiceState},
};
use nexum_host_ifaces::{
    clock::Clock,
    cron::CronMsg,
    interfaces::{
        chain::port::{ChainMsg, ChainStatus, ChainWait, EndpointStatus},
        http::port::{EgressMsg, EgressStatus},
    },
    port::Port,
    ports::Ports,
    store::{RefusedWrites, StoreMsg, StoreStatus},
};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort, rpc::CallResult};

use drain::Drain;

use crate::{
    admin::{AdminMsg, ChainHealthReport, Health, ModuleHealthReport, Node, NodeKind},
    modules::{self, Order},
    outbox::{self, OutboxStatus},
    root,
};

/// A service that is up answers in microseconds.
const STATUS_DEADLINE: Duration = Duration::from_millis(500);

pub struct Args {
    pub ports: Arc<Ports>,
    pub outbox: Port<outbox::Msg>,
    pub modules: ActorRef<modules::Msg>,
    pub clock: Arc<dyn Clock>,
    pub started_ns: u64,
    pub root: ActorRef<root::Msg>,
    pub shutdown_deadline: Duration,
    pub event_age_threshold: Duration,
}

pub struct AdminDesk;

impl Actor for AdminDesk {
    type Msg = AdminMsg;
    type State = Args;
    type Arguments = Args;

    async fn pre_start(&self, _: ActorRef<AdminMsg>, args: Args) -> Result<Args, ActorProcessingErr> {
        Ok(args)
    }

    async fn handle(
        &self,
        _: ActorRef<AdminMsg>,
        message: AdminMsg,
        desk: &mut Args,
    ) -> Result<(), ActorProcessingErr> {
        let order = |module, order, reply| modules::Msg::Order { module, order, reply };
        let forward = match message {
            AdminMsg::Tree(reply) => {
                answer(reply, desk.tree().await);
                return Ok(());
            }
            AdminMsg::Health(reply) => {
                answer(reply, desk.health().await);
                return Ok(());
            }
            AdminMsg::Shutdown { reply } => {
                desk.shutdown(reply).await;
                return Ok(());
            }
            AdminMsg::Drain { module, deadline, reply } => {
                // It may take minutes, and questions are answered meanwhile.
                let drain = Drain::new(desk, deadline);
                let _draining: tokio::task::JoinHandle<_> = tokio::spawn(drain.run(module, reply));
                return Ok(());
            }
            AdminMsg::ResumeAll(reply) => modules::Msg::ResumeAll(reply),
            AdminMsg::RetryEffect { module, id, reply } => {
                // When the outbox is down the reply port is dropped, and the caller is told so.
                let _ = desk.outbox.cast(outbox::Msg::Retry { module, id, reply });
                return Ok(());
            }
            AdminMsg::CancelEffect { module, id, reply } => {
                let _ = desk.outbox.cast(outbox::Msg::Cancel { module, id, reply });
                return Ok(());
            }
            AdminMsg::Services(reply) => {
                let _ = desk.root.send_message(root::Msg::Services(reply));
                return Ok(());
            }
            AdminMsg::RestartService { service, kill, reply } => {
                let _ = desk.root.send_message(root::Msg::RestartService { service, kill, reply });
                return Ok(());
            }
            AdminMsg::Load { spec, reply } => modules::Msg::Load { spec, reply },
            AdminMsg::Upgrade { wanted, reply } => modules::Msg::Upgrade { wanted, reply },
            AdminMsg::Unload { module, reply } => order(module, Order::Unload, reply),
            AdminMsg::Restart { module, reply } => order(module, Order::Restart, reply),
            AdminMsg::Pause { module, reply } => order(module, Order::Pause, reply),
            AdminMsg::Resume { module, reply } => order(module, Order::Resume, reply),
            AdminMsg::Resync { module, order, reply } => modules::Msg::Resync { module, order, reply },
            AdminMsg::Purge { module, reply } => modules::Msg::Purge { module, reply },
            AdminMsg::RetryDeadLetter { module, seq, reply } => modules::Msg::RetryDeadLetter { module, seq, reply },
        };
        // When the supervisor is just being restarted the reply port is dropped, and the caller is told so.
        let _ = desk.modules.send_message(forward);
        Ok(())
    }
}

/// Whoever asked may have gone; then there is nobody to tell.
fn answer<T: Send + 'static>(reply: RpcReplyPort<T>, value: T) {
    let _ = reply.send(value);
}

fn service(name: &str, kind: NodeKind, summary: Option<String>, children: Vec<Node>) -> Node {
    let state = if summary.is_some() { ServiceState::Up } else { ServiceState::Down };
    let (state, summary) = (state.name().to_owned(), summary.unwrap_or_default());
    Node { name: name.into(), kind, state, summary, module: None, children }
}

impl Args {
    fn uptime(&self) -> Duration {
        Duration::from_nanos(self.clock.monotonic_ns().saturating_sub(self.started_ns))
    }

    async fn ask_modules<T: Send + 'static>(&self, build: impl FnOnce(RpcReplyPort<T>) -> modules::Msg) -> Option<T> {
        match self.modules.call(build, Some(STATUS_DEADLINE)).await {
            Ok(CallResult::Success(value)) => Some(value),
            _ => None,
        }
    }

    async fn chains(&self) -> Vec<(u64, Option<ChainStatus>)> {
        let asked = self
            .ports
            .chains()
            .iter()
            .map(|(id, port)| async move { (*id, port.call(STATUS_DEADLINE, ChainMsg::Status).await.ok()) });
        join_all(asked).await
    }

    async fn tree(&self) -> Node {
        let ports = &self.ports;
        let (store, cron, egress) = (ports.store(), ports.of::<CronMsg>(), ports.of::<EgressMsg>());
        let (store, cron, egress, outbox, chains, modules) = futures::join!(
            store.call(STATUS_DEADLINE, StoreMsg::Status),
            cron.call(STATUS_DEADLINE, CronMsg::Status),
            egress.call(STATUS_DEADLINE, EgressMsg::Status),
            self.outbox.call(STATUS_DEADLINE, outbox::Msg::Status),
            self.chains(),
            self.ask_modules(modules::Msg::Facts),
        );
        let mut modules = modules;
        if let (Ok(status), Some(nodes)) = (&store, &mut modules) {
            // The store's own count: letters are dropped, and put back by rewinds, without the module's knowing.
            for facts in nodes.iter_mut().filter_map(|node| node.module.as_mut().map(|facts| (&node.name, facts))) {
                facts.1.dead_letters = status.dead_letters.get(facts.0).copied().unwrap_or(0);
            }
        }
        let store = store.ok().map(|status| store_summary(&status));
        let cron = cron.ok().map(|status| {
            let noun = if status.schedules == 1 { "schedule" } else { "schedules" };
            let next =
                status.next_in_ms.map_or_else(String::new, |next| format!(", next in {:.1} s", next as f64 / 1000.0));
            format!("{} {noun}{next}", status.schedules)
        });
        let egress = egress.ok().map(|status| {
            let EgressStatus { in_flight, requests_total, errors_total } = status;
            format!("{requests_total} requests, {errors_total} without an answer, {in_flight} under way")
        });
        let now_ms = self.clock.now_ms();
        let outbox = outbox.ok();
        if let (Some(outbox), Some(modules)) = (&outbox, &mut modules) {
            modules.iter_mut().for_each(|module| show_pending(module, outbox, now_ms));
        }
        let outbox = outbox.map(|outbox| outbox_summary(&outbox, now_ms));
        let any_module = modules.as_ref().map(|modules| format!("{} loaded", modules.len()));
        let chains: Vec<_> = chains.into_iter().map(|(id, status)| chain_node(id, status)).collect();
        let children = vec![
            service("store", NodeKind::Store, store, Vec::new()),
            service("chains", NodeKind::Chains, Some(String::new()), chains),
            service("cron", NodeKind::Cron, cron, Vec::new()),
            service("egress", NodeKind::Egress, egress, Vec::new()),
            service("outbox", NodeKind::Outbox, outbox, Vec::new()),
            service("modules", NodeKind::Modules, any_module, modules.unwrap_or_default()),
        ];
        let up = humantime::format_duration(Duration::from_secs(self.uptime().as_secs()));
        service("nexum", NodeKind::Engine, Some(format!("up {up}")), children)
    }

    async fn health(&self) -> Health {
        let (chains, reports) = futures::join!(self.chains(), self.ask_modules(modules::Msg::Reports));
        let uptime_seconds = self.uptime().as_secs();
        let chains = chains.into_iter().map(|(id, status)| (id.to_string(), chain_report(status))).collect();
        judge(reports, chains, uptime_seconds, self.event_age_threshold)
    }

    /// Modules first, so that what they commit last finds the store running; then the services.
    async fn shutdown(&self, reply: RpcReplyPort<Vec<String>>) {
        let stopped = self.modules.call(|reply| modules::Msg::StopAll { reply }, Some(self.shutdown_deadline)).await;
        let unfinished = match stopped {
            Ok(CallResult::Success(())) => Vec::new(),
            _ => self.ask_modules(|reply| modules::Msg::KillRest { reply }).await.unwrap_or_default(),
        };
        // Nobody waits for these: they are durable, and go out after the next start.
        let unfinished = unfinished.into_iter().chain(drain::left(self).await).collect::<Vec<_>>();
        for line in &unfinished {
            tracing::warn!("shutdown: {line}");
        }
        answer(reply, unfinished);
        // A root that is gone has nothing left to end.
        let _ = self.root.send_message(root::Msg::End);
    }
}

/// Shorter waits are the network's doing.
pub(crate) const SHOWN_WAIT_MS: u64 = 5_000;

fn store_summary(status: &StoreStatus) -> String {
    let StoreStatus { disk_bytes, units_total, commit_p99_ms, refusing, .. } = status;
    let mib = *disk_bytes as f64 / (1024.0 * 1024.0);
    let refusing = refusing.as_ref().map_or_else(String::new, |RefusedWrites { error, age_ms }| {
        let age = humantime::format_duration(Duration::from_secs(age_ms / 1_000));
        format!(", takes no writes ({age}): {error}")
    });
    format!("rocksdb {mib:.1} MiB, {units_total} units, commit p99 {commit_p99_ms:.1} ms{refusing}")
}

fn outbox_summary(outbox: &OutboxStatus, now_ms: u64) -> String {
    let pending: u64 = outbox.pending.values().map(|(count, _)| count).sum();
    let oldest = outbox.pending.values().filter_map(|(_, oldest)| *oldest).min();
    let age = oldest.map_or_else(String::new, |at| {
        let age = Duration::from_secs(now_ms.saturating_sub(at) / 1_000);
        format!(", oldest {}", humantime::format_duration(age))
    });
    format!("{pending} pending{age}, {} under way", outbox.in_flight)
}

fn show_pending(node: &mut Node, outbox: &OutboxStatus, now_ms: u64) {
    if let (Some(facts), Some((count, oldest))) = (&mut node.module, outbox.pending.get(&node.name)) {
        facts.outbox_pending = *count;
        facts.outbox_oldest_age_ms = oldest.map(|at| now_ms.saturating_sub(at));
    }
}

fn chain_node(id: u64, status: Option<ChainStatus>) -> Node {
    let Some(status) = status else { return service(&id.to_string(), NodeKind::Chain, None, Vec::new()) };
    let healthy = status.endpoints.iter().filter(|endpoint| endpoint.healthy).count();
    let head = status.head.map_or_else(|| "none yet".to_owned(), |(number, _)| number.to_string());
    let mut summary = format!(
        "{} head {head}, {healthy}/{} endpoints, lag {}",
        status.name,
        status.endpoints.len(),
        status.blocks_behind
    );
    if status.reorgs > 0 {
        summary.push_str(&format!(", {} reorgs", status.reorgs));
    }
    for learnt in &status.learnt {
        summary.push_str(&format!(", {learnt}"));
    }
    if let Some(wait) = status.waits.first().filter(|wait| wait.age_ms >= SHOWN_WAIT_MS) {
        summary.push_str(&format!(", {}", waits_for(wait)));
    }
    let endpoints = status.endpoints.iter().map(endpoint_node).collect();
    let mut node = service(&id.to_string(), NodeKind::Chain, Some(summary), endpoints);
    if !status.connected {
        node.state = ServiceState::Down.name().to_owned();
    }
    node
}

/// Who waits for what, and for how long.
fn waits_for(wait: &ChainWait) -> String {
    let who = wait.module.as_ref().map_or_else(String::new, |module| format!("module {module} "));
    let age = humantime::format_duration(Duration::from_secs(wait.age_ms / 1_000));
    format!("{who}waits for {} ({age})", wait.reason)
}

/// An endpoint that was lost so often within ten minutes comes and goes: how it is at the moment says little.
const FLAPPING: u32 = 2;

fn endpoint_node(endpoint: &EndpointStatus) -> Node {
    let mut parts = Vec::new();
    if endpoint.leads {
        parts.push("followed".to_owned());
    }
    let is_flapping = endpoint.losses >= FLAPPING;
    if is_flapping {
        let way = if endpoint.connected { "up" } else { "down" };
        let since = Duration::from_secs(endpoint.since_ms.unwrap_or(0) / 1_000);
        let since = humantime::format_duration(since);
        parts.push(format!("{way} for {since}, lost {} times in the last 10 min", endpoint.losses));
    }
    parts.push(format!("score {}", endpoint.score));
    if let Some(lag) = endpoint.lag {
        parts.push(format!("lag {lag}"));
    }
    if let Some(latency_ms) = endpoint.latency_p50_ms {
        parts.push(format!("p50 {latency_ms:.1} ms"));
    }
    parts.extend(endpoint.learnt.iter().map(|learnt| format!("takes {learnt}")));
    if endpoint.demotions > 0 {
        parts.push(format!("{} demotions", endpoint.demotions));
    }
    // What is over is worth a look in the log, not in the tree.
    if let Some(error) = endpoint.last_error.as_deref().filter(|_| !endpoint.healthy || is_flapping) {
        parts.push(format!("last error: {error}"));
    }
    let mut node = service(&endpoint.name, NodeKind::Endpoint, Some(parts.join(", ")), Vec::new());
    let state = match (endpoint.connected, endpoint.healthy) {
        (false, _) => ServiceState::Down,
        (true, false) => ServiceState::Demoted,
        (true, true) => ServiceState::Up,
    };
    node.state = state.name().to_owned();
    node
}

fn chain_report(status: Option<ChainStatus>) -> ChainHealthReport {
    match status {
        Some(status) => ChainHealthReport {
            connected: status.connected,
            head_block: status.head.map(|(number, _)| number),
            blocks_behind: status.blocks_behind,
            waits: status.waits,
        },
        None => ChainHealthReport { connected: false, head_block: None, blocks_behind: 0, waits: Vec::new() },
    }
}

/// Unhealthy: a configured chain is disconnected, a module is Dead, an event that it should have handled waits for longer
/// than the threshold, or a chain or a module has waited for something else for as long. Ready: besides, every module is
/// in Run, or Paused by the operator. The reasons are those of both, so that nobody has to guess which module is waited for.
fn judge(
    reports: Option<BTreeMap<String, ModuleHealthReport>>,
    chains: BTreeMap<String, ChainHealthReport>,
    uptime_seconds: u64,
    threshold: Duration,
) -> Health {
    let mut reasons = BTreeSet::new();
    for (id, chain) in &chains {
        if !chain.connected {
            reasons.insert(format!("chain {id} is disconnected"));
        }
        for wait in chain.waits.iter().filter(|wait| u128::from(wait.age_ms) > threshold.as_millis()) {
            reasons.insert(format!("chain {id}: {}", waits_for(wait)));
        }
    }
    if reports.is_none() {
        reasons.insert("the module supervisor does not answer".into());
    }
    let modules = reports.unwrap_or_default();
    for (name, module) in &modules {
        if module.state == ModuleState::Dead.in_health() {
            reasons.insert(stands(name, module));
        }
        if let Some(age) = module.expected_event_age_seconds.filter(|age| *age > threshold.as_secs()) {
            let threshold = humantime::format_duration(threshold);
            let waits = humantime::format_duration(Duration::from_secs(age));
            reasons.insert(format!("module {name} should have handled an event {waits} ago (threshold {threshold})"));
        }
        if let Some(wait) = module.waits.as_ref().filter(|wait| u128::from(wait.age_ms) > threshold.as_millis()) {
            reasons.insert(format!("module {name} {wait}"));
        }
    }
    let status = if reasons.is_empty() { HEALTHY } else { UNHEALTHY };
    let settled = [ModuleState::Run, ModuleState::Paused].map(ModuleState::in_health);
    let settled = |module: &ModuleHealthReport| settled.contains(&module.state.as_str());
    reasons.extend(modules.iter().filter(|(_, module)| !settled(module)).map(|(name, module)| stands(name, module)));
    Health {
        status: status.into(),
        ready: reasons.is_empty(),
        uptime_seconds,
        modules,
        chains,
        reasons: reasons.into_iter().collect(),
    }
}

/// What a module is, and why.
fn stands(name: &str, module: &ModuleHealthReport) -> String {
    let reason = module.reason.as_ref().map(|reason| format!(": {}", reason.lines().next().unwrap_or_default()));
    format!("module {name} is {}{}", module.state, reason.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::ModuleWait;

    const THRESHOLD: Duration = Duration::from_secs(600);

    fn report(state: &str) -> ModuleHealthReport {
        ModuleHealthReport {
            state: state.into(),
            reason: None,
            last_event_age_seconds: None,
            expected_event_age_seconds: None,
            waits: None,
        }
    }

    #[test]
    fn an_endpoint_that_comes_and_goes_says_so_while_it_is_up() {
        let mut endpoint = EndpointStatus { connected: true, healthy: true, score: 90, ..EndpointStatus::default() };
        (endpoint.since_ms, endpoint.losses) = (Some(1_999), 1);
        endpoint.last_error = Some("gone".into());
        let shown = |endpoint: &EndpointStatus| endpoint_node(endpoint).summary;
        assert_eq!(shown(&endpoint), "score 90", "once is over");
        endpoint.losses = 14;
        assert_eq!(shown(&endpoint), "up for 1s, lost 14 times in the last 10 min, score 90, last error: gone");
        (endpoint.connected, endpoint.healthy) = (false, false);
        assert_eq!(shown(&endpoint), "down for 1s, lost 14 times in the last 10 min, score 90, last error: gone");
    }

    #[test]
    fn a_dead_module_or_a_lost_chain_is_unhealthy_and_a_starting_one_not_ready() {
        let chain = |connected| ChainHealthReport { connected, head_block: None, blocks_behind: 0, waits: vec![] };
        let judged = |state: &str, connected| {
            let modules = BTreeMap::from([("m".to_owned(), report(state))]);
            judge(Some(modules), BTreeMap::from([("1".to_owned(), chain(connected))]), 3, THRESHOLD)
        };
        assert!(judged("running", true).ready);
        assert!(judged("paused", true).ready);
        let starting = judged("init", true);
        assert_eq!((starting.status.as_str(), starting.ready), ("healthy", false));
        assert_eq!(starting.reasons, ["module m is init"]);
        assert_eq!(judged("dead", true).reasons, ["module m is dead"]);
        assert_eq!(judged("running", false).reasons, ["chain 1 is disconnected"]);
    }

    #[test]
    fn a_store_that_takes_no_writes_says_since_when_and_why() {
        let status = StoreStatus { units_total: 7, ..StoreStatus::default() };
        assert_eq!(store_summary(&status), "rocksdb 0.0 MiB, 7 units, commit p99 0.0 ms");
        let refusing = Some(RefusedWrites { error: "store: no space left".into(), age_ms: 65_400 });
        let shown = store_summary(&StoreStatus { refusing, ..status });
        assert!(shown.ends_with(" ms, takes no writes (1m 5s): store: no space left"), "{shown}");
    }

    #[test]
    fn what_is_not_ready_says_which_module_is_waited_for_and_why() {
        let report = ModuleHealthReport { reason: Some("waits for resync\nand more".into()), ..report("restarting") };
        let judged = judge(Some(BTreeMap::from([("m".to_owned(), report)])), BTreeMap::new(), 3, THRESHOLD);
        assert_eq!((&*judged.status, judged.ready), ("healthy", false));
        assert_eq!(judged.reasons, ["module m is restarting: waits for resync"]);
    }

    #[test]
    fn what_a_chain_waits_for_past_the_threshold_is_unhealthy() {
        let judged = |age_ms| {
            let wait = ChainWait { module: Some("m".into()), reason: "logs of block 7".into(), age_ms };
            let chain = ChainHealthReport { connected: true, head_block: None, blocks_behind: 0, waits: vec![wait] };
            judge(Some(BTreeMap::new()), BTreeMap::from([("1".to_owned(), chain)]), 3, THRESHOLD)
        };
        assert_eq!(judged(600_000).status, "healthy");
        assert_eq!(judged(661_000).reasons, ["chain 1: module m waits for logs of block 7 (11m 1s)"]);
    }

    #[test]
    fn a_module_that_waits_for_its_turn_past_the_threshold_is_unhealthy() {
        let judged = |age_ms| {
            let waits = Some(ModuleWait { reason: "another".into(), age_ms });
            let modules = BTreeMap::from([("m".into(), ModuleHealthReport { waits, ..report("running") })]);
            judge(Some(modules), BTreeMap::new(), 0, THRESHOLD)
        };
        assert_eq!(judged(600_000).status, "healthy");
        assert_eq!(judged(661_000).reasons, ["module m waits for another (11m 1s)"]);
    }

    #[test]
    fn an_event_that_waits_past_the_threshold_is_unhealthy() {
        let judged = |age| {
            let report = ModuleHealthReport { expected_event_age_seconds: Some(age), ..report("running") };
            judge(Some(BTreeMap::from([("m".to_owned(), report)])), BTreeMap::new(), 3, THRESHOLD)
        };
        assert_eq!(judged(600).status, "healthy");
        assert_eq!(judged(601).reasons, ["module m should have handled an event 10m 1s ago (threshold 10m)"]);
    }
}
