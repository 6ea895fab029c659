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
    health::{HEALTHY, ServiceHealthReport, UNHEALTHY, waits_for},
    state::{ModuleState, ServiceState},
    tree::age,
};
use nexum_host_ifaces::{clock::Clock, port::Port};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort, rpc::CallResult};

use drain::Drain;

use crate::{
    admin::{AdminMsg, ChainHealthReport, Health, ModuleHealthReport, Node, NodeKind},
    modules, outbox, root,
    service::{Status, StatusSpec},
};

/// A service that is up answers in microseconds.
const STATUS_DEADLINE: Duration = Duration::from_millis(500);

pub struct Args {
    /// In starting order.
    pub services: Vec<StatusSpec>,
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

    async fn pre_start(&self, _: ActorRef<AdminMsg>, mut args: Args) -> Result<Args, ActorProcessingErr> {
        // Chains come last, by number; the others stay as they are.
        args.services.sort_by_key(StatusSpec::chain_id);
        Ok(args)
    }

    async fn handle(
        &self,
        _: ActorRef<AdminMsg>,
        message: AdminMsg,
        desk: &mut Args,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            AdminMsg::Tree(reply) => answer(reply, desk.tree().await),
            AdminMsg::Health(reply) => answer(reply, desk.health().await),
            // When whoever carries it out is down the reply port is dropped, and the caller is told so.
            AdminMsg::Modules(order) => {
                let _ = desk.modules.send_message(modules::Msg::Order(order));
            }
            AdminMsg::Effects(order) => {
                let _ = desk.outbox.cast(outbox::Msg::Order(order));
            }
            AdminMsg::Services(reply) => {
                let _ = desk.root.send_message(root::Msg::Services(reply));
            }
            AdminMsg::RestartService { service, kill, reply } => {
                let _ = desk.root.send_message(root::Msg::RestartService { service, kill, reply });
            }
            AdminMsg::Drain { module, deadline, reply } => {
                // It may take minutes, and questions are answered meanwhile.
                let drain = Drain::new(desk, deadline);
                let _draining: tokio::task::JoinHandle<_> = tokio::spawn(drain.run(module, reply));
            }
            AdminMsg::Shutdown { reply } => desk.shutdown(reply).await,
        }
        Ok(())
    }
}

/// Whoever asked may have gone; then there is nobody to tell.
fn answer<T: Send + 'static>(reply: RpcReplyPort<T>, value: T) {
    let _ = reply.send(value);
}

/// The node of a service: DOWN, when it has not answered.
fn shown(service: &StatusSpec, status: Option<Status>) -> Node {
    let down = || Status { state: ServiceState::Down, ..Status::up("") };
    let Status { summary, state, children, .. } = status.unwrap_or_else(down);
    Node::new(&*service.node, service.kind, state, summary, children)
}

impl Args {
    fn uptime_ms(&self) -> u64 {
        self.clock.monotonic_ns().saturating_sub(self.started_ns) / 1_000_000
    }

    async fn ask_modules<T: Send + 'static>(&self, build: impl FnOnce(RpcReplyPort<T>) -> modules::Msg) -> Option<T> {
        match self.modules.call(build, Some(STATUS_DEADLINE)).await {
            Ok(CallResult::Success(value)) => Some(value),
            _ => None,
        }
    }

    /// Asks all of the services that are wanted at once.
    async fn ask(&self, wanted: fn(&StatusSpec) -> bool) -> Vec<(&StatusSpec, Option<Status>)> {
        let asked: Vec<&StatusSpec> = self.services.iter().filter(|service| wanted(service)).collect();
        let answers = join_all(asked.iter().map(|service| (service.ask)(STATUS_DEADLINE))).await;
        asked.into_iter().zip(answers).collect()
    }

    async fn tree(&self) -> Node {
        let (services, modules) = futures::join!(self.ask(|_| true), self.ask_modules(modules::Msg::Facts));
        let state = if modules.is_some() { ServiceState::Up } else { ServiceState::Down };
        let loaded = modules.as_ref().map(|modules| format!("{} loaded", modules.len())).unwrap_or_default();
        let mut modules = modules.unwrap_or_default();
        for enter in services.iter().filter_map(|(_, status)| status.as_ref()?.modules.as_ref()) {
            for node in &mut modules {
                if let Some(facts) = &mut node.module {
                    enter(node.name.as_str(), facts);
                }
            }
        }
        let nodes = services.into_iter().map(|(service, status)| shown(service, status));
        let (chains, mut children): (Vec<Node>, Vec<Node>) = nodes.partition(|node| node.kind == NodeKind::Chain);
        // After the store, which all others need.
        let place = children.iter().take_while(|node| node.kind == NodeKind::Store).count();
        children.insert(place, Node::new("chains", NodeKind::Chains, ServiceState::Up, "", chains));
        children.push(Node::new("modules", NodeKind::Modules, state, loaded, modules));
        let up = format!("up {}", age(self.uptime_ms()));
        Node::new("nexum", NodeKind::Engine, ServiceState::Up, up, children)
    }

    async fn health(&self) -> Health {
        let (services, reports) = futures::join!(
            self.ask(|service| matches!(service.kind, NodeKind::Chain | NodeKind::Service)),
            self.ask_modules(modules::Msg::Reports)
        );
        let (chains, services): (Vec<_>, Vec<_>) =
            services.into_iter().partition(|(service, _)| service.kind == NodeKind::Chain);
        let report = |status: Option<Status>| status.and_then(|status| status.chain).unwrap_or_default();
        let chains = chains.into_iter().map(|(service, status)| (service.node.clone(), report(status))).collect();
        let waits = |status: Option<Status>| status.map(|status| status.waits).unwrap_or_default();
        let services = services.into_iter().map(|(service, status)| (service.node.clone(), waits(status)));
        let health = judge(reports, chains, self.uptime_ms() / 1_000, self.event_age_threshold);
        with_services(health, services, self.event_age_threshold)
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
        services: BTreeMap::new(),
        reasons: reasons.into_iter().collect(),
    }
}

/// Unhealthy besides: something has waited at a service for longer than the threshold. What people have to decide is told.
fn with_services(
    mut health: Health,
    services: impl IntoIterator<Item = (String, ServiceHealthReport)>,
    threshold: Duration,
) -> Health {
    for (name, service) in services.into_iter().filter(|(_, service)| *service != ServiceHealthReport::default()) {
        for wait in service.waits.iter().filter(|wait| u128::from(wait.age_ms) > threshold.as_millis()) {
            health.reasons.push(format!("{name}: {}", waits_for(wait)));
            (health.status, health.ready) = (UNHEALTHY.into(), false);
        }
        health.services.insert(name, service);
    }
    health
}

/// What a module is, and why.
fn stands(name: &str, module: &ModuleHealthReport) -> String {
    let reason = module.reason.as_ref().map(|reason| format!(": {}", reason.lines().next().unwrap_or_default()));
    format!("module {name} is {}{}", module.state, reason.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::{ChainWait, ModuleWait};

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
    fn what_waits_at_a_service_past_the_threshold_is_unhealthy_and_what_people_decide_is_told() {
        let wait = |age_ms| ChainWait { module: Some("m".into()), reason: "its balance".into(), age_ms };
        let judged = |waits, decisions| {
            let health = judge(Some(BTreeMap::new()), BTreeMap::new(), 3, THRESHOLD);
            let report = ServiceHealthReport { waits, decisions };
            let services = [("transactions".to_owned(), report), ("identity".to_owned(), Default::default())];
            with_services(health, services, THRESHOLD)
        };
        let late = judged(vec![wait(600_000), wait(661_000)], vec![]);
        assert_eq!((late.status.as_str(), late.ready), ("unhealthy", false));
        assert_eq!(late.reasons, ["transactions: module m waits for its balance (11m 1s)"]);
        let asked = judged(vec![wait(600_000)], vec![wait(900_000)]);
        assert_eq!((asked.status.as_str(), asked.ready, asked.services.len()), ("healthy", true, 1));
        assert_eq!(asked.services["transactions"].decisions.len(), 1);
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
