//! The gateway over real sockets, with a kernel and a store that answer from a table.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should stop")]

mod accounts;
mod fake;
mod http;
mod queries;
mod token;

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use fake::{Engine, Root};
use http::{Answer, Target};
use nexum_gateway::{Addresses, AdminTcp, Args, GatewayMetrics, LogTap, Msg, Token};
use prometheus::{IntGauge, Registry};
use ractor::ActorRef;
use serde_json::{Value, json};
use tempfile::TempDir;

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

struct Fixture {
    engine: Engine,
    root: Root,
    gateway: ActorRef<Msg>,
    addresses: Addresses,
    logs: LogTap,
    directory: TempDir,
}

impl Fixture {
    async fn start() -> Self {
        let directory = TempDir::new().unwrap();
        let (engine, root) = (Engine::start().await, Root::start().await);
        let logs = LogTap::new(16);
        let args = args(&engine, &logs, directory.path());
        let gateway = nexum_gateway::spawn(args, root.cell()).await.unwrap();
        let addresses = ractor::call!(gateway, Msg::Addresses).unwrap();
        Self { engine, root, gateway, addresses, logs, directory }
    }

    fn socket(&self) -> PathBuf {
        self.addresses.admin_socket.clone().unwrap()
    }

    async fn admin(&self, method: &str, path: &str) -> Answer {
        http::send(&Target::Unix(self.socket()), method, path, &[], None).await
    }

    async fn post(&self, path: &str, body: Value) -> Answer {
        http::send(&Target::Unix(self.socket()), "POST", path, &[], Some(body)).await
    }
}

fn args(engine: &Engine, logs: &LogTap, directory: &Path) -> Args {
    let registry = Registry::new();
    let gauge = IntGauge::new("nexum_modules_loaded", "Modules that are loaded.").unwrap();
    gauge.set(2);
    registry.register(Box::new(gauge)).unwrap();
    Args {
        health: Some(LOOPBACK),
        metrics: Some(LOOPBACK),
        admin_socket: Some(directory.join("admin.sock")),
        admin_tcp: Some(AdminTcp { address: LOOPBACK, token: Token::new("s3cret") }),
        admin: engine.admin.clone(),
        store: engine.store.clone(),
        counted: GatewayMetrics::register(&registry).unwrap(),
        accounts: Some(engine.accounts.clone()),
        chains: Vec::new(),
        registry,
        logs: logs.clone(),
    }
}

#[tokio::test]
async fn probes_follow_the_kernel() {
    let fixture = Fixture::start().await;
    let health = Target::Tcp(fixture.addresses.health.unwrap());
    let answer = http::get(&health, "/health").await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.json(),
        json!({
            "status": "healthy",
            "ready": true,
            "uptime_seconds": 86400,
            "modules": { "twap-monitor": { "state": "running", "last_event_age_seconds": 2 } },
            "chains": { "42161": { "connected": true, "head_block": 19000500, "blocks_behind": 0 } },
        })
    );
    assert_eq!(http::get(&health, "/ready").await.status, 200);

    fixture.engine.set_unhealthy("module old-probe is dead");
    let answer = http::get(&health, "/health").await;
    assert_eq!((answer.status, answer.json()["reasons"][0].as_str()), (503, Some("module old-probe is dead")));
    assert_eq!(http::get(&health, "/ready").await.status, 503);

    fixture.engine.admin.unbind();
    let answer = http::get(&health, "/health").await;
    assert_eq!((answer.status, answer.json()["reasons"][0].as_str()), (503, Some("kernel is not running")));
    assert_eq!(http::get(&health, "/live").await.status, 200);
}

#[tokio::test]
async fn metrics_are_in_the_text_format() {
    let fixture = Fixture::start().await;
    let answer = http::get(&Target::Tcp(fixture.addresses.metrics.unwrap()), "/metrics").await;
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("content-type: text/plain; version=0.0.4"), "{}", answer.head);
    assert!(answer.body.contains("\nnexum_modules_loaded 2\n"), "{}", answer.body);
    // But for what is counted of who asks.
    let others = |text: &str| -> Vec<String> {
        text.lines().filter(|line| !line.starts_with("nexum_gateway_connections")).map(str::to_owned).collect()
    };
    assert_eq!(others(&fixture.admin("GET", "/v1/metrics").await.body), others(&answer.body));
    let asked = "nexum_gateway_connections{listener=\"metrics\"} 1";
    assert!(answer.body.lines().any(|line| line == asked), "{}", answer.body);
}

#[tokio::test]
async fn orders_reach_the_kernel_and_refusals_come_back_with_a_fitting_status() {
    let fixture = Fixture::start().await;
    let refused = |error: &str| json!({ "error": error });

    assert_eq!(fixture.admin("GET", "/v1/tree").await.json()["children"][1]["name"], "modules");
    let modules = fixture.admin("GET", "/v1/modules").await.json();
    assert_eq!((modules.as_array().unwrap().len(), &modules[0]["name"]), (2, &json!("twap-monitor")));

    let loaded = fixture.post("/v1/modules", json!({ "source": "/bundles/gov-watch" })).await;
    assert_eq!((loaded.status, loaded.json()), (201, json!({ "name": "gov-watch" })));
    let relative = fixture.post("/v1/modules", json!({ "source": "gov-watch" })).await;
    assert_eq!(relative.status, 400);
    assert_eq!(relative.json(), refused("`source` must be an absolute path, not gov-watch"));
    for (path, key) in [("/v1/modules", "source"), ("/v1/modules/twap-monitor/upgrade", "source"), ("/v1/backup", "to")]
    {
        for (given, shown) in [("https://u:k3y@h/x", "an address"), ("u:k3y@h", "***")] {
            let mut body = json!({});
            body[key] = json!(given);
            let refusal = fixture.post(path, body).await;
            let expected = format!("`{key}` must be an absolute path, not {shown}");
            assert_eq!((refusal.status, refusal.json()), (400, refused(&expected)), "{path}");
        }
    }
    let broken = fixture.post("/v1/modules", json!({ "source": "/bundles/broken" })).await;
    assert_eq!((broken.status, broken.json()), (422, refused("nexum.toml:3: unknown key `nmae`")));
    let malformed = fixture.post("/v1/modules", json!({ "denied": [] })).await;
    assert_eq!(malformed.status, 422);
    assert!(malformed.json()["error"].as_str().unwrap().contains("missing field `source`"), "{}", malformed.body);
    let typed = json!({ "source": "/bundles/gov-watch", "adopt_state": "k3y" });
    let typed = fixture.post("/v1/modules", typed).await;
    assert_eq!(
        (typed.status, typed.body.contains("invalid type: string, expected a boolean")),
        (422, true),
        "{}",
        typed.body
    );

    assert_eq!(fixture.admin("POST", "/v1/modules/twap-monitor/restart").await.status, 204);
    let paused = fixture.admin("POST", "/v1/modules/twap-monitor/pause").await;
    assert_eq!((paused.status, paused.body.as_str()), (204, ""));
    let wrong = fixture.admin("POST", "/v1/modules/twap-monitor/resume").await;
    assert_eq!((wrong.status, wrong.json()), (409, refused("module `twap-monitor` is RUN: it is not paused")));
    let unknown = fixture.admin("DELETE", "/v1/modules/nobody").await;
    assert_eq!((unknown.status, unknown.json()), (404, refused("no module `nobody` is loaded")));
    assert_eq!(
        fixture.engine.orders(),
        ["load /bundles/gov-watch", "load /bundles/broken", "restart twap-monitor", "pause twap-monitor"]
    );

    let asked = fixture.admin("GET", "/v1/rpc?module=twap-monitor").await;
    assert_eq!((asked.status, asked.json()), (200, json!({ "rows": [], "budgets": [] })));
    let nowhere = fixture.admin("GET", "/v2/tree").await;
    assert_eq!((nowhere.status, nowhere.json()), (404, refused("no such path: /v2/tree")));
    let wrong = fixture.admin("DELETE", "/v1/tree").await;
    assert_eq!((wrong.status, wrong.json()), (405, refused("/v1/tree does not take DELETE")));

    fixture.engine.admin.unbind();
    let gone = fixture.admin("GET", "/v1/tree").await;
    assert_eq!((gone.status, gone.json()), (503, refused("kernel is not running")));
    let stopped = fixture.admin("GET", "/v1/health").await;
    assert_eq!((stopped.status, stopped.json()["status"].as_str()), (200, Some("unhealthy")));
}

#[tokio::test]
async fn dead_letters_are_listed_shown_retried_and_dropped() {
    let fixture = Fixture::start().await;
    let list = fixture.admin("GET", "/v1/modules/twap-monitor/dlq").await.json();
    assert_eq!(list[0]["seq"], 7);
    assert_eq!(list[0]["event"], "tick:cron:* * * * *:1700000000000");
    assert_eq!(list[0].get("payload"), None);
    let shown = fixture.admin("GET", "/v1/modules/twap-monitor/dlq/7").await.json();
    assert_eq!(shown["payload"], json!({ "tick": { "fired_at": 1_700_000_000_000u64 } }));
    assert_eq!((&shown["backtrace"], &shown["crash"], list[0].get("crash")), (&"on_tick".into(), &3.into(), None));
    let unknown = fixture.admin("GET", "/v1/modules/twap-monitor/dlq/8").await;
    assert_eq!(
        (unknown.status, unknown.json()["error"].as_str()),
        (404, Some("module `twap-monitor` has no dead letter 8"))
    );
    assert_eq!(fixture.admin("GET", "/v1/modules/twap-monitor/dlq/x").await.status, 400);
    assert_eq!(fixture.admin("POST", "/v1/modules/twap-monitor/dlq/7/retry").await.status, 204);
    // Ids of effects have slashes.
    assert_eq!(fixture.admin("POST", "/v1/modules/twap-monitor/outbox/a%2Fb%2F0/retry").await.status, 204);
    let refused = fixture.admin("DELETE", "/v1/modules/twap-monitor/outbox/a%2Fb%2F0").await;
    assert_eq!(
        (refused.status, &refused.json()["error"]),
        (422, &"effect `a/b/0` of twap-monitor is under way".into())
    );
    assert_eq!(fixture.admin("DELETE", "/v1/modules/twap-monitor/dlq/7").await.status, 204);
    let orders = ["retry twap-monitor 7", "retry effect twap-monitor a/b/0", "drop twap-monitor 7"];
    assert_eq!(fixture.engine.orders(), orders);
}

#[tokio::test]
async fn accounts_are_listed_and_ordered_about() {
    let fixture = Fixture::start().await;
    let list = fixture.admin("GET", "/v1/transactions?limit=5").await.json();
    assert_eq!(
        (&list[0]["nonce"], &list[0]["effect"], &list[0]["what"]),
        (&json!(7), &json!("m/1"), &json!("limit 5"))
    );
    let account = "0xABababababababababababababababababababab";
    let bumped = fixture.post(&format!("/v1/transactions/1/{account}/7/bump"), json!(null)).await;
    let done = format!("Bump {} 7 on 1", account.to_lowercase());
    assert_eq!((bumped.status, &bumped.json()["done"]), (200, &json!(done)));
    // One without a nonce goes by its effect.
    let cancelled = fixture.post(&format!("/v1/transactions/1/{account}/m%2Fblock:7%2F0/cancel"), json!(null)).await;
    let done = format!("Cancel {} m/block:7/0 on 1", account.to_lowercase());
    assert_eq!((cancelled.status, &cancelled.json()["done"]), (200, &json!(done)));
    assert_eq!(fixture.post(&format!("/v1/transactions/1/{account}/7/burn"), json!(null)).await.status, 404);
    let unknown = fixture.post(&format!("/v1/transactions/1/{account}/8/cancel"), json!(null)).await;
    assert_eq!((unknown.status, &unknown.json()["error"]), (422, &json!("no such nonce")));

    let approvals = fixture.admin("GET", "/v1/approvals").await.json();
    assert_eq!((&approvals[0]["state"], &approvals[0]["effect"]), (&json!("waiting"), &json!("m/2")));
    assert_eq!(fixture.admin("GET", "/v1/approvals/3").await.json()["what"], json!({ "to": "0x1" }));
    assert_eq!(fixture.admin("GET", "/v1/approvals/4").await.status, 404);
    let decided = fixture.post("/v1/approvals/3", json!({ "approve": true, "by": "ann" })).await.json();
    assert_eq!((&decided["state"], &decided["policy"]), (&json!("approved"), &json!("by ann")));
    let decided = fixture.post("/v1/approvals/3", json!({ "approve": false })).await.json();
    assert_eq!((&decided["state"], &decided["policy"]), (&json!("denied"), &json!("by the admin API")));
    assert_eq!(fixture.post("/v1/approvals/3", json!({ "approve": true, "by": "" })).await.status, 400);
    assert_eq!(fixture.post("/v1/approvals/3", json!({ "aprove": true })).await.status, 422);
    let audit = fixture.admin("GET", "/v1/audit?limit=1").await.json();
    assert_eq!((&audit[0]["kind"], &audit[0]["effect"]), (&json!("message"), &json!(null)));
    assert_eq!(fixture.admin("GET", "/v1/audit?limit=0").await.status, 400);
}

#[tokio::test]
async fn an_engine_without_accounts_says_so() {
    let (engine, root, directory) = (Engine::start().await, Root::start().await, TempDir::new().unwrap());
    let args = Args { accounts: None, ..args(&engine, &LogTap::new(16), directory.path()) };
    let gateway = nexum_gateway::spawn(args, root.cell()).await.unwrap();
    let addresses = ractor::call!(gateway, Msg::Addresses).unwrap();
    let socket = Target::Unix(addresses.admin_socket.unwrap());
    for path in ["/v1/transactions", "/v1/approvals", "/v1/approvals/1", "/v1/audit"] {
        let answer = http::send(&socket, "GET", path, &[], None).await;
        assert_eq!(answer.status, 404, "{path}");
        assert!(answer.json()["error"].as_str().unwrap().contains("[identity]"), "{path}");
    }
}

#[tokio::test]
async fn state_is_paged_read_and_purged_only_when_nobody_uses_it() {
    let fixture = Fixture::start().await;
    let page = fixture.admin("GET", "/v1/modules/twap-monitor/state?prefix=a&limit=2").await.json();
    assert_eq!(
        page,
        json!({
            "entries": [
                { "key": "a/1", "bytes": 2, "value": "0x6869", "text": "hi" },
                { "key": "a/2", "bytes": 2, "value": "0xff00" },
            ],
            "next": "a/2",
        })
    );
    let rest = fixture.admin("GET", "/v1/modules/twap-monitor/state?prefix=a&limit=2&after=a%2F2").await.json();
    assert_eq!((rest["entries"].as_array().unwrap().len(), rest.get("next")), (1, None));
    let value = fixture.admin("GET", "/v1/modules/twap-monitor/state/a%2F1").await.json();
    assert_eq!(value["text"], "hi");
    let absent = fixture.admin("GET", "/v1/modules/twap-monitor/state/zz").await;
    assert_eq!((absent.status, absent.json()["error"].as_str()), (404, Some("module `twap-monitor` has no key `zz`")));

    let inspected = fixture.admin("GET", "/v1/modules/twap-monitor/inspect").await.json();
    assert_eq!((&inspected["state"], &inspected["cursors"]["chain:1"]), (&json!("RUN"), &json!("21934117")));
    let never_started = fixture.admin("GET", "/v1/modules/old-probe/inspect").await;
    assert_eq!((never_started.status, &never_started.json()["state"]), (200, &json!("DEAD")));
    assert_eq!((&inspected["standing"], &inspected["dead_reason"]), (&json!("dead"), &json!("budget spent")));

    let used = fixture.admin("DELETE", "/v1/modules/twap-monitor/state").await;
    assert_eq!(
        (used.status, used.json()["error"].as_str()),
        (409, Some("module `twap-monitor` is RUN: unload it first"))
    );
    assert_eq!(fixture.admin("DELETE", "/v1/modules/forgotten/state").await.status, 204);
    let relative = fixture.post("/v1/backup", json!({ "to": "copy" })).await;
    assert_eq!(relative.status, 400);
    assert_eq!(fixture.post("/v1/backup", json!({ "to": "/var/backup/1" })).await.status, 204);
    assert_eq!(fixture.engine.orders(), ["purge forgotten", "backup /var/backup/1"]);
}

#[tokio::test]
async fn while_the_supervisor_of_modules_does_not_answer_nobody_is_told_that_there_are_none() {
    let fixture = Fixture::start().await;
    assert_eq!(fixture.admin("GET", "/v1/modules").await.status, 200);
    fixture.engine.hide_modules();
    for path in ["/v1/modules", "/v1/modules/twap-monitor/inspect"] {
        assert_eq!(fixture.admin("GET", path).await.status, 503, "{path}");
    }
    assert_eq!(fixture.admin("GET", "/v1/tree").await.status, 200);
}

#[tokio::test]
async fn tcp_wants_the_token() {
    let fixture = Fixture::start().await;
    let target = Target::Tcp(fixture.addresses.admin_tcp.unwrap());
    for shown in [None, Some("Bearer wrong!"), Some("Bearer "), Some("s3cret"), Some("Bearer s3cre")] {
        let headers: Vec<_> = shown.map(|value| ("authorization", value)).into_iter().collect();
        let answer = http::send(&target, "GET", "/v1/tree", &headers, None).await;
        assert_eq!(answer.status, 401, "{shown:?}");
        assert!(answer.json()["error"].as_str().unwrap().contains("Authorization: Bearer"));
    }
    let answer = http::send(&target, "GET", "/v1/tree", &[("authorization", "Bearer s3cret")], None).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn log_lines_stream_filtered_by_module_until_the_gateway_stops() {
    let fixture = Fixture::start().await;
    fixture.logs.send(r#"{"module":"a","message":"before"}"#);
    fixture.logs.send(r#"{"module":"b","message":"other"}"#);
    let recent = fixture.admin("GET", "/v1/logs?module=a").await;
    assert_eq!(recent.chunked(), "{\"module\":\"a\",\"message\":\"before\"}\n");

    let mut stream = http::Stream::open(&Target::Unix(fixture.socket()), "/v1/logs?module=a&follow=true").await;
    assert_eq!(stream.line().await.unwrap(), r#"{"module":"a","message":"before"}"#);
    fixture.logs.send(r#"{"module":"b","message":"other"}"#);
    fixture.logs.send(r#"{"module":"a","message":"after"}"#);
    assert_eq!(stream.line().await.unwrap(), r#"{"module":"a","message":"after"}"#);
    fixture.gateway.stop_and_wait(None, None).await.unwrap();
    assert_eq!(stream.line().await, None);
}

#[tokio::test]
async fn the_lines_of_a_module_that_nobody_knows_are_not_an_empty_answer() {
    let fixture = Fixture::start().await;
    for path in ["/v1/logs?module=nobody", "/v1/logs?module=nobody&follow=true"] {
        let unknown = fixture.admin("GET", path).await;
        assert_eq!(unknown.status, 404, "{path}");
        assert!(unknown.json()["error"].as_str().unwrap().contains("nobody"), "{}", unknown.body);
    }
    for known in ["twap-monitor", "unloaded"] {
        assert_eq!(fixture.admin("GET", &format!("/v1/logs?module={known}")).await.status, 200, "{known}");
    }
    fixture.logs.send(r#"{"module":"nobody","message":"not loaded"}"#);
    let kept = fixture.admin("GET", "/v1/logs?module=nobody").await;
    assert_eq!(kept.chunked(), "{\"module\":\"nobody\",\"message\":\"not loaded\"}\n");
    fixture.engine.admin.unbind();
    assert_eq!(fixture.admin("GET", "/v1/logs?module=somebody").await.status, 200, "nobody can be asked");
}

#[tokio::test]
async fn a_number_out_of_its_range_is_refused_and_not_replaced() {
    let fixture = Fixture::start().await;
    for (route, max) in [("state", 1_000), ("journal", 1_000), ("outbox", 10_000)] {
        for limit in [0, max + 1] {
            let refused = fixture.admin("GET", &format!("/v1/modules/twap-monitor/{route}?limit={limit}")).await;
            let said = format!("`limit` must be 1 to {max}, not {limit}");
            assert_eq!((refused.status, refused.json()["error"].as_str()), (400, Some(&*said)), "{route}");
        }
    }
    for limit in [1, 1_000] {
        let path = format!("/v1/modules/twap-monitor/state?limit={limit}");
        assert_eq!(fixture.admin("GET", &path).await.status, 200, "{limit}");
    }
    for path in ["/v1/drain", "/v1/modules/twap-monitor/drain"] {
        let refused = fixture.post(path, json!({ "deadline_ms": 86_400_001 })).await;
        let said = "`deadline_ms` must be 0 to 86400000, not 86400001";
        assert_eq!((refused.status, refused.json()["error"].as_str()), (400, Some(said)), "{path}");
        assert_eq!(fixture.post(path, json!({ "deadline_ms": 86_400_000 })).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn shutdown_is_answered_although_it_stops_the_gateway() {
    let fixture = Fixture::start().await;
    fixture.engine.stop_on_shutdown(fixture.gateway.get_cell());
    let answer = fixture.admin("POST", "/v1/shutdown").await;
    assert_eq!((answer.status, answer.json()), (200, json!({ "unfinished": ["module slow: still in an event"] })));
    fixture.gateway.wait(None).await.unwrap();
    assert!(!fixture.directory.path().join("admin.sock").exists());
}

#[tokio::test]
async fn the_socket_is_private_and_goes_with_the_gateway() {
    let fixture = Fixture::start().await;
    let socket = fixture.socket();
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);

    let args = args(&fixture.engine, &fixture.logs, fixture.directory.path());
    let refused = nexum_gateway::spawn(args.clone(), fixture.root.cell()).await.unwrap_err().to_string();
    let expected =
        format!("an engine already answers at {}: stop it, or set `observability.admin_socket`", socket.display());
    assert!(refused.contains(&expected), "{refused}");
    assert!(socket.exists());

    fixture.gateway.stop_and_wait(None, None).await.unwrap();
    assert!(!socket.exists());

    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    assert!(socket.exists(), "a socket without a listener, as a killed engine leaves it");
    let gateway = nexum_gateway::spawn(args.clone(), fixture.root.cell()).await.unwrap();
    assert_eq!(fixture.admin("GET", "/v1/tree").await.status, 200);
    gateway.stop_and_wait(None, None).await.unwrap();

    fs::write(&socket, "mine").unwrap();
    let refused = nexum_gateway::spawn(args, fixture.root.cell()).await.unwrap_err().to_string();
    assert!(refused.contains("exists and is not a socket"), "{refused}");
    assert_eq!(fs::read_to_string(&socket).unwrap(), "mine");
}

#[tokio::test]
async fn a_busy_port_names_the_address_and_the_key() {
    let fixture = Fixture::start().await;
    let busy = fixture.addresses.health.unwrap();
    let args = Args { health: Some(busy), admin_socket: None, ..args(&fixture.engine, &fixture.logs, Path::new("/")) };
    let refused = nexum_gateway::spawn(args, fixture.root.cell()).await.unwrap_err().to_string();
    let expected = format!(
        "{busy} is in use: is another engine running? else set `observability.health_listen` to another address"
    );
    assert!(refused.contains(&expected), "{refused}");
}
