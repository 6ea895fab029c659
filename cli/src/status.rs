//! How the shared services are asked how they are, and their answers in words: for the tree, and for health.

use nexum_admin_api::{
    health::{ChainHealthReport, ServiceHealthReport, waits_for},
    state::ServiceState,
    tree::{Node, NodeKind, SHOWN_WAIT_MS, age},
};
use nexum_host_ifaces::{
    bounded::cut,
    cron::{CronMsg, CronStatus},
    interfaces::{
        chain::port::{ChainMsg, ChainStatus, ChainWait, EndpointStatus},
        http::port::{EgressMsg, EgressStatus, OriginStatus},
        identity::port::{IdentityMsg, IdentityStatus},
        messaging::port::{MessagingMsg, MessagingStatus, NodeStatus as WakuNodeStatus},
        remote_store::port::{BatchStatus, NodeStatus, RemoteStoreMsg, RemoteStoreStatus},
    },
    port::Port,
    store::{RefusedWrites, StoreMsg, StoreStatus},
    transactions::{QueueStatus, TransactionsMsg, TransactionsStatus, WaitKind},
};
use nexum_kernel::{Status, StatusSpec};

/// Of an origin's last error: there are many origins, and each has one line.
const SHOWN_ERROR_BYTES_MAX: usize = 256;

/// The store: its size, what it takes no writes for, and the dead letters of modules.
pub fn store(port: Port<StoreMsg>) -> StatusSpec {
    StatusSpec::new("store", NodeKind::Store, port, StoreMsg::Status, |status: StoreStatus| {
        // The store's own count: letters are dropped, and put back by rewinds, without the module's knowing.
        Status::up(store_summary(&status)).with_modules(move |module, facts| {
            facts.dead_letters = status.dead_letters.get(module).copied().unwrap_or(0);
        })
    })
}

/// The schedules.
pub fn cron(port: Port<CronMsg>) -> StatusSpec {
    StatusSpec::new("cron", NodeKind::Cron, port, CronMsg::Status, |status: CronStatus| {
        let noun = if status.schedules == 1 { "schedule" } else { "schedules" };
        let next =
            status.next_in_ms.map_or_else(String::new, |next| format!(", next in {:.1} s", next as f64 / 1000.0));
        Status::up(format!("{} {noun}{next}", status.schedules))
    })
}

/// Outbound HTTP.
pub fn egress(port: Port<EgressMsg>) -> StatusSpec {
    StatusSpec::new("egress", NodeKind::Egress, port, EgressMsg::Status, |status: EgressStatus| {
        let EgressStatus { in_flight, requests_total, errors_total, origins } = status;
        let summary = format!("{requests_total} requests, {errors_total} without an answer, {in_flight} under way");
        Status { children: origins.into_iter().map(origin_node).collect(), ..Status::up(summary) }
    })
}

/// The operator's accounts.
pub fn identity(port: Port<IdentityMsg>) -> StatusSpec {
    StatusSpec::new("identity", NodeKind::Service, port, IdentityMsg::Status, identity_status)
}

/// What the operator's accounts send, one line for each account on each chain.
pub fn transactions(port: Port<TransactionsMsg>) -> StatusSpec {
    StatusSpec::new("transactions", NodeKind::Service, port, TransactionsMsg::Status, transactions_status)
}

/// Content elsewhere, one line for each node.
pub fn remote_store(port: Port<RemoteStoreMsg>) -> StatusSpec {
    StatusSpec::new("remote-store", NodeKind::Service, port, RemoteStoreMsg::Status, remote_store_status)
}

/// The nodes that modules' messages go to and come from.
pub fn messaging(port: Port<MessagingMsg>) -> StatusSpec {
    StatusSpec::new("messaging", NodeKind::Service, port, MessagingMsg::Status, messaging_status)
}

fn messaging_status(status: MessagingStatus) -> Status {
    let MessagingStatus { nodes, topics, published_total, delivered_total, gaps_total, last_gap, waits } = status;
    let noun = if topics == 1 { "topic" } else { "topics" };
    let mut summary = format!("{topics} {noun}, {delivered_total} messages delivered, {published_total} published");
    if let Some(gap) = last_gap {
        let noun = if gaps_total == 1 { "gap" } else { "gaps" };
        summary.push_str(&format!(", {gaps_total} {noun}, the last: {gap}"));
    }
    let is_down = nodes.iter().all(|node| node.failing_ms.is_some());
    Status {
        state: if is_down { ServiceState::Down } else { ServiceState::Up },
        children: nodes.into_iter().map(waku_node).collect(),
        waits: oldest_first(waits),
        ..Status::up(summary)
    }
}

fn waku_node(node: WakuNodeStatus) -> Node {
    let WakuNodeStatus { name, failing_ms, last_error } = node;
    let error = last_error.map(|error| format!("last error: {}", cut(error, SHOWN_ERROR_BYTES_MAX)));
    let (state, since) = match failing_ms {
        Some(failing_ms) => (ServiceState::Down, Some(format!("no answer for {}", age(failing_ms)))),
        None => (ServiceState::Up, None),
    };
    let summary: Vec<String> = since.into_iter().chain(error).collect();
    Node::new(name.as_str(), NodeKind::Endpoint, state, summary.join(", "), Vec::new())
}

fn origin_node(origin: OriginStatus) -> Node {
    let OriginStatus { name, requests_total, errors_total, sent_bytes, received_bytes, last_error, last_error_age_ms } =
        origin;
    let mut summary = format!(
        "{requests_total} requests, {errors_total} without an answer, {sent_bytes} bytes sent, {received_bytes} received"
    );
    if let Some((error, age_ms)) = last_error.zip(last_error_age_ms) {
        summary.push_str(&format!(", last error {} ago: {}", age(age_ms), cut(error, SHOWN_ERROR_BYTES_MAX)));
    }
    Node::new(name, NodeKind::Origin, ServiceState::Up, summary, Vec::new())
}

/// A chain and its endpoints.
pub fn chain(chain_id: u64, port: Port<ChainMsg>) -> StatusSpec {
    StatusSpec::new(chain_id.to_string(), NodeKind::Chain, port, ChainMsg::Status, chain_status)
}

fn store_summary(status: &StoreStatus) -> String {
    let StoreStatus { disk_bytes, units_total, commit_p99_ms, refusing, .. } = status;
    let mib = *disk_bytes as f64 / (1024.0 * 1024.0);
    let refusing = refusing.as_ref().map_or_else(String::new, |RefusedWrites { error, age_ms }| {
        format!(", takes no writes ({}): {error}", age(*age_ms))
    });
    format!("rocksdb {mib:.1} MiB, {units_total} units, commit p99 {commit_p99_ms:.1} ms{refusing}")
}

/// Accounts that the tree lists; others are counted.
const ACCOUNTS_SHOWN: usize = 20;
/// Waits of one service that health tells.
const WAITS_SHOWN: usize = 32;
/// Problems that the tree tells in full; others are counted.
const PROBLEMS_SHOWN: usize = 3;

fn identity_status(status: IdentityStatus) -> Status {
    let IdentityStatus { accounts, signatures_total, refusals_total, approvals_waiting, problems, .. } = &status;
    let noun = if accounts.len() == 1 { "account" } else { "accounts" };
    let mut summary = format!("{} {noun}, {signatures_total} signatures, {refusals_total} refused", accounts.len());
    if *approvals_waiting > 0 {
        let oldest = age(status.oldest_approval_age_ms.unwrap_or(0));
        summary.push_str(&format!(", {approvals_waiting} wait for approval, the oldest for {oldest}"));
    }
    for problem in problems.iter().take(PROBLEMS_SHOWN) {
        summary.push_str(&format!(", problem: {problem}"));
    }
    if problems.len() > PROBLEMS_SHOWN {
        summary.push_str(&format!(", and {} problems more", problems.len() - PROBLEMS_SHOWN));
    }
    let account = |(account, place): (&String, &String)| {
        Node::new(account.as_str(), NodeKind::Service, ServiceState::Up, place.as_str(), Vec::new())
    };
    let decision = ChainWait {
        module: None,
        reason: format!("a decision on {approvals_waiting} approvals: `nexumctl approvals list` names them"),
        age_ms: status.oldest_approval_age_ms.unwrap_or(0),
    };
    let decisions = if *approvals_waiting > 0 { vec![decision] } else { Vec::new() };
    // With nothing that it could sign with it is of no use to anybody.
    let is_down = accounts.is_empty() && !problems.is_empty();
    Status {
        state: if is_down { ServiceState::Down } else { ServiceState::Up },
        children: accounts.iter().take(ACCOUNTS_SHOWN).map(account).collect(),
        waits: ServiceHealthReport { waits: Vec::new(), decisions },
        ..Status::up(summary)
    }
}

fn remote_store_status(status: RemoteStoreStatus) -> Status {
    let RemoteStoreStatus { in_flight, requests_total, errors_total, cached_bytes, nodes, waits } = &status;
    let mib = *cached_bytes as f64 / (1024.0 * 1024.0);
    let summary = format!(
        "{requests_total} requests, {errors_total} failed, {in_flight} under way, {mib:.1} MiB of chunks in memory"
    );
    let is_down = !nodes.iter().any(|node| node.is_up);
    Status {
        state: if is_down { ServiceState::Down } else { ServiceState::Up },
        children: nodes.iter().map(storage_node).collect(),
        waits: oldest_first(waits.clone()),
        ..Status::up(summary)
    }
}

fn storage_node(node: &NodeStatus) -> Node {
    let mut parts: Vec<String> =
        node.down_ms.iter().map(|down_ms| format!("of no use for {}", age(*down_ms))).collect();
    match &node.batch {
        None => parts.push("no postage batch known".to_owned()),
        Some(BatchStatus { is_usable: false, .. }) => parts.push("its postage batch is of no use".to_owned()),
        Some(BatchStatus { used_percent, ttl_s, .. }) => {
            let lasts = ttl_s.map(|ttl_s| format!(", lasts {}", age(ttl_s.saturating_mul(1_000))));
            parts.push(format!("postage batch {used_percent} % full{}", lasts.unwrap_or_default()));
        }
    }
    if node.corrupt_total > 0 {
        parts.push(format!("{} answers were not what was asked for", node.corrupt_total));
    }
    if let Some(error) = &node.last_error {
        parts.push(format!("last error: {}", cut(error, SHOWN_ERROR_BYTES_MAX)));
    }
    let state = if node.is_up { ServiceState::Up } else { ServiceState::Down };
    Node::new(node.name.as_str(), NodeKind::Service, state, parts.join(", "), Vec::new())
}

fn transactions_status(status: TransactionsStatus) -> Status {
    let queues = &status.queues;
    let sum = |count: fn(&QueueStatus) -> usize| queues.iter().map(count).sum::<usize>();
    let stopped = queues.iter().filter(|queue| queue.stopped.is_some()).count();
    let stopped = if stopped == 0 { String::new() } else { format!(", {stopped} stopped") };
    let noun = if queues.len() == 1 { "account" } else { "accounts" };
    let (in_flight, waiting) = (sum(|queue| queue.in_flight), sum(|queue| queue.waiting));
    let nothing = status.signs_nothing.as_ref().map_or_else(String::new, |why| format!(", {why}"));
    let summary = format!("{} {noun}, {in_flight} in flight, {waiting} waiting{stopped}{nothing}", queues.len());
    let waits = oldest_first(transaction_waits(&status));
    // Those that stand still before all others.
    let mut shown: Vec<&QueueStatus> = queues.iter().collect();
    shown.sort_by_key(|queue| queue.stopped.is_none());
    let children = shown.into_iter().take(ACCOUNTS_SHOWN).map(queue_node).collect();
    Status { children, waits, ..Status::up(summary) }
}

/// What is waited for, the oldest first, as far as it is told.
fn oldest_first(mut waits: Vec<ChainWait>) -> ServiceHealthReport {
    waits.sort_by(|a, b| b.age_ms.cmp(&a.age_ms).then_with(|| a.reason.cmp(&b.reason)));
    waits.truncate(WAITS_SHOWN);
    ServiceHealthReport { waits, decisions: Vec::new() }
}

/// What transactions wait for. What waits for an approval is told where these are.
fn transaction_waits(status: &TransactionsStatus) -> Vec<ChainWait> {
    let mut waits = Vec::new();
    for queue in &status.queues {
        let QueueStatus { chain_id, account, .. } = queue;
        if let Some((why, age_ms)) = queue.stopped.as_ref().zip(queue.stopped_age_ms) {
            waits.push(ChainWait {
                module: None,
                reason: format!("account {account} on chain {chain_id}: {why}"),
                age_ms,
            });
        }
        if let Some((why, age_ms)) = status.signs_nothing.as_ref().zip(queue.oldest_age_ms) {
            waits.push(ChainWait {
                module: None,
                reason: format!("account {account} on chain {chain_id}: {why}"),
                age_ms,
            });
        }
        for wait in queue.waits.iter().filter(|wait| wait.kind != WaitKind::Approval) {
            let reason = format!("transaction {} on chain {chain_id}: {}", wait.which, wait.reason);
            waits.push(ChainWait { module: Some(wait.module.clone()), reason, age_ms: wait.age_ms });
        }
    }
    waits
}

fn queue_node(queue: &QueueStatus) -> Node {
    let mut parts: Vec<String> = queue.stopped.iter().map(|why| format!("stopped: {why}")).collect();
    parts.extend(queue.next_nonce.map(|nonce| format!("next nonce {nonce}")));
    parts.push(format!("{} in flight, {} waiting", queue.in_flight, queue.waiting));
    parts.extend(queue.oldest_age_ms.map(|oldest| format!("oldest {}", age(oldest))));
    if queue.foreign_nonces > 0 {
        parts.push(format!("{} nonces used by others", queue.foreign_nonces));
    }
    let state = if queue.stopped.is_some() { ServiceState::Down } else { ServiceState::Up };
    let name = format!("{} {}", queue.chain_id, queue.account);
    Node::new(name.as_str(), NodeKind::Service, state, parts.join(", "), Vec::new())
}

fn chain_status(status: ChainStatus) -> Status {
    let healthy = status.endpoints.iter().filter(|endpoint| endpoint.healthy).count();
    let head_block = status.head.map(|(number, _)| number);
    let head = head_block.map_or_else(|| "none yet".to_owned(), |number| number.to_string());
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
    let report = ChainHealthReport {
        connected: status.connected,
        head_block,
        blocks_behind: status.blocks_behind,
        waits: status.waits,
    };
    Status {
        state: if status.connected { ServiceState::Up } else { ServiceState::Down },
        children: status.endpoints.iter().map(endpoint_node).collect(),
        chain: Some(report),
        ..Status::up(summary)
    }
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
        let since = age(endpoint.since_ms.unwrap_or(0));
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
    let state = match (endpoint.connected, endpoint.healthy) {
        (false, _) => ServiceState::Down,
        (true, false) => ServiceState::Demoted,
        (true, true) => ServiceState::Up,
    };
    Node::new(endpoint.name.as_str(), NodeKind::Endpoint, state, parts.join(", "), Vec::new())
}

#[cfg(test)]
mod tests {
    use nexum_host_ifaces::transactions::TransactionWait;

    use super::*;

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
    fn what_waits_for_the_operator_and_what_does_not_work_are_told() {
        let mut status = IdentityStatus { signatures_total: 7, refusals_total: 1, ..IdentityStatus::default() };
        status.accounts.insert("0xaa".into(), "keystore".into());
        let shown = |status: &IdentityStatus| identity_status(status.clone());
        assert_eq!(shown(&status).summary, "1 account, 7 signatures, 1 refused");
        assert_eq!(shown(&status).children[0].name, "0xaa");
        (status.approvals_waiting, status.oldest_approval_age_ms) = (2, Some(65_400));
        let waits = "1 account, 7 signatures, 1 refused, 2 wait for approval, the oldest for 1m 5s";
        assert_eq!(shown(&status).summary, waits);
        status.problems = (0..5).map(|n| format!("p{n}")).collect();
        let told = shown(&status);
        assert!(
            told.summary.ends_with(", problem: p0, problem: p1, problem: p2, and 2 problems more"),
            "{}",
            told.summary
        );
        assert_eq!(told.state, ServiceState::Up, "one account works");
        status.accounts.clear();
        assert_eq!(shown(&status).state, ServiceState::Down);
    }

    #[test]
    fn an_account_that_stands_still_says_why_and_comes_first() {
        let wait = |kind| TransactionWait {
            module: "m".into(),
            which: "m/1".into(),
            kind,
            reason: "dear".into(),
            age_ms: 65_000,
        };
        let queue = |chain_id, stopped: Option<&str>| QueueStatus {
            chain_id,
            account: "0xaa".into(),
            next_nonce: Some(7),
            in_flight: 2,
            waiting: 1,
            stopped: stopped.map(str::to_owned),
            oldest_age_ms: Some(65_000),
            foreign_nonces: u64::from(stopped.is_some()),
            stopped_age_ms: stopped.map(|_| 70_000),
            waits: [WaitKind::Approval, WaitKind::Fees].map(wait).into(),
            more_waits: 0,
            oldest_waits: Default::default(),
        };
        let queues = vec![queue(1, None), queue(10, Some("its balance is too low"))];
        let status = transactions_status(TransactionsStatus { queues: queues.clone(), signs_nothing: None });
        let waits: Vec<String> = status.waits.waits.iter().map(waits_for).collect();
        let told = [
            "waits for account 0xaa on chain 10: its balance is too low (1m 10s)",
            "module m waits for transaction m/1 on chain 10: dear (1m 5s)",
            "module m waits for transaction m/1 on chain 1: dear (1m 5s)",
        ];
        assert_eq!(waits, told);
        let keyless = transactions_status(TransactionsStatus { queues, signs_nothing: Some("no accounts".into()) });
        assert!(keyless.summary.ends_with(", no accounts"), "{}", keyless.summary);
        assert!(keyless.waits.waits.iter().any(|wait| wait.reason == "account 0xaa on chain 1: no accounts"));
        assert_eq!(status.summary, "2 accounts, 4 in flight, 2 waiting, 1 stopped");
        let shown = |at: usize| (status.children[at].name.as_str(), status.children[at].summary.as_str());
        let stopped = "stopped: its balance is too low, next nonce 7, 2 in flight, 1 waiting, oldest 1m 5s, \
                       1 nonces used by others";
        assert_eq!(shown(0), ("10 0xaa", stopped));
        assert_eq!(shown(1), ("1 0xaa", "next nonce 7, 2 in flight, 1 waiting, oldest 1m 5s"));
        assert_eq!(transactions_status(TransactionsStatus::default()).summary, "0 accounts, 0 in flight, 0 waiting");
    }

    #[test]
    fn a_storage_node_says_what_is_left_of_its_batch_and_whether_it_lied() {
        let mut node = NodeStatus { name: "http://node:1633".into(), is_up: true, ..NodeStatus::default() };
        let shown = |node: &NodeStatus| storage_node(node).summary;
        assert_eq!(shown(&node), "no postage batch known");
        node.batch = Some(BatchStatus { is_usable: true, used_percent: 12, ttl_s: Some(65) });
        assert_eq!(shown(&node), "postage batch 12 % full, lasts 1m 5s");
        (node.corrupt_total, node.last_error) = (2, Some("a lie".into()));
        let told = "postage batch 12 % full, lasts 1m 5s, 2 answers were not what was asked for, last error: a lie";
        assert_eq!(shown(&node), told);
        let status = RemoteStoreStatus { nodes: vec![node.clone()], ..RemoteStoreStatus::default() };
        assert_eq!(remote_store_status(status).state, ServiceState::Up);
        (node.is_up, node.down_ms) = (false, Some(65_400));
        node.batch = Some(BatchStatus::default());
        let told = "of no use for 1m 5s, its postage batch is of no use, ";
        assert!(shown(&node).starts_with(told), "{}", shown(&node));
        let waits = vec![ChainWait { module: Some("m".into()), reason: "upload".into(), age_ms: 65_400 }];
        let status =
            remote_store_status(RemoteStoreStatus { nodes: vec![node], waits, ..RemoteStoreStatus::default() });
        assert_eq!((status.state, status.waits.waits.len()), (ServiceState::Down, 1), "for health");
    }

    #[test]
    fn nodes_that_do_not_answer_and_messages_that_are_gone_are_told() {
        let node =
            |failing_ms| WakuNodeStatus { name: "http://a".into(), failing_ms, last_error: Some("refused".into()) };
        let mut status = MessagingStatus { nodes: vec![node(None), node(Some(65_400))], ..MessagingStatus::default() };
        (status.topics, status.delivered_total, status.published_total) = (1, 7, 2);
        let told = messaging_status(status.clone());
        assert_eq!(
            (told.summary.as_str(), told.state),
            ("1 topic, 7 messages delivered, 2 published", ServiceState::Up)
        );
        assert_eq!(told.children[0].summary, "last error: refused");
        assert_eq!(told.children[1].summary, "no answer for 1m 5s, last error: refused");
        status.nodes.remove(0);
        (status.gaps_total, status.last_gap) = (1, Some("m at message:/app/1/x/proto".into()));
        status.waits = vec![ChainWait { module: Some("m".into()), reason: "messages".into(), age_ms: 65_400 }];
        let told = messaging_status(status);
        assert!(told.summary.ends_with(", 1 gap, the last: m at message:/app/1/x/proto"), "{}", told.summary);
        assert_eq!((told.state, told.waits.waits.len()), (ServiceState::Down, 1), "for health");
    }

    #[test]
    fn an_origin_says_what_went_there_and_what_went_wrong_last() {
        let mut origin = OriginStatus { name: "https://a.org".into(), requests_total: 3, ..OriginStatus::default() };
        (origin.errors_total, origin.sent_bytes, origin.received_bytes) = (1, 20, 4096);
        let shown = |origin: &OriginStatus| origin_node(origin.clone()).summary;
        let figures = "3 requests, 1 without an answer, 20 bytes sent, 4096 received";
        assert_eq!(shown(&origin), figures);
        (origin.last_error, origin.last_error_age_ms) = (Some(format!("timeout: {}", "x".repeat(1_000))), Some(65_000));
        let shown = shown(&origin);
        assert!(shown.starts_with(&format!("{figures}, last error 1m 5s ago: timeout: x")), "{shown}");
        assert!(shown.len() < 400, "{shown}");
    }

    #[test]
    fn a_store_that_takes_no_writes_says_since_when_and_why() {
        let status = StoreStatus { units_total: 7, ..StoreStatus::default() };
        assert_eq!(store_summary(&status), "rocksdb 0.0 MiB, 7 units, commit p99 0.0 ms");
        let refusing = Some(RefusedWrites { error: "store: no space left".into(), age_ms: 65_400 });
        let shown = store_summary(&StoreStatus { refusing, ..status });
        assert!(shown.ends_with(" ms, takes no writes (1m 5s): store: no space left"), "{shown}");
    }
}
