//! What modules and nodes may put into their texts, through every renderer that shows such text.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::Duration,
};

use nexum_gateway::api::journal::{EntryLine, JournalUnit};
use nexum_host_ifaces::{
    Hash,
    event::{EventId, SourceId},
    journal::ChangedKey,
    outbox::EffectSummary,
    recording::{Exchange, Fault, LogLine, RecordedOutcome, Recording, Scan, Session, Setting},
    store::{JournalEntry, UnitKind},
};
use nexum_kernel::{
    admin::Node,
    replay::{Difference, Replayed},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{
    approvals, bundle, crashes, foreign, journal, logs, metrics, outbox, replay, report, rpc, transactions, tree,
};
use crate::{
    bundle::inspect,
    config::Period,
    journal::{diff, verify},
};

/// A forged line, a cleared screen, a title, colours by one byte, text that is turned around or not to be seen.
const CONTROLS: [&str; 19] = [
    "\n",
    "\r",
    "\r\n",
    "\t",
    "\x1b[2J\x1b[H",
    "\x1b]0;title\x07",
    "\u{9b}31m",
    "\u{85}",
    "\x7f\x08",
    "\u{202e}",
    "\u{2066}",
    "\u{2028}",
    "\u{2029}",
    "\u{200b}\u{feff}",
    "\u{ad}\u{34f}\u{115f}\u{17b4}\u{180b}\u{3164}\u{ffa0}",
    "\u{fe0f}\u{fff0}\u{1bca0}\u{1d173}",
    "\u{e0041}\u{e01ef}",
    "\u{301}\u{301}\u{301}\u{301}\u{301}\u{301}\u{301}\u{301}",
    "\n\u{301}",
];

fn hostile() -> String {
    CONTROLS.map(|control| format!("a{control}FORGED")).concat()
}

/// The answer that a template makes when every `~` in it is hostile.
fn filled<T: DeserializeOwned>(template: Value) -> T {
    let hostile = serde_json::to_string(&hostile()).unwrap();
    serde_json::from_str(&template.to_string().replace('~', hostile.trim_matches('"'))).unwrap()
}

fn node(state: &str) -> Node {
    let module = json!({
        "name": "~", "kind": "module", "state": state, "summary": "~", "children": [],
        "version": "~", "component": "~", "restarts": 0, "budget": { "spent": 1, "max": 1 }, "cursors": { "~": "~" },
        "state_bytes": 0, "state_bytes_limit": 0, "memory_bytes": 0, "fuel_p99": 0, "events_processed": 0,
        "events_failed": 0, "dead_letters": 0, "last_event_age_ms": null, "next_start_in_ms": null, "last_error": "~",
    });
    filled(json!({ "name": "~", "kind": "engine", "state": "UP", "summary": "~", "children": [
        { "name": "~", "kind": "chain", "state": "~", "summary": "~", "children": [] }, module,
    ]}))
}

fn entry() -> EntryLine {
    EntryLine::from(JournalEntry {
        seq: 1,
        at_ms: 0,
        kind: UnitKind::Handled,
        event: EventId::Tick { source: SourceId::new(hostile()), fired_at: 1 },
        source: Some(SourceId::new(hostile())),
        cursor_before: None,
        cursor: None,
        component: Hash::default(),
        fuel: 0,
        state_digest: Hash::default(),
        effects_digest: Hash::default(),
        previous: Hash::default(),
    })
}

fn sent() -> EffectSummary {
    filled(json!({ "id": "~", "key": "~", "kind": "~", "destination": "~", "lane": "~", "release": "~" }))
}

fn outcome() -> RecordedOutcome {
    RecordedOutcome {
        failure: Some(Fault { message: hostile(), backtrace: Some(hostile()) }),
        fuel: 1,
        changes: vec![(hostile(), None)],
        lines: vec![LogLine { level: hostile(), text: hostile() }],
        effects: Some(vec![(sent(), Hash::default())]),
    }
}

fn recording() -> Recording {
    let init = Session {
        reads: vec![(hostile(), Some(hostile().into_bytes()))],
        scans: vec![Scan { prefix: hostile(), after: None, entries: Vec::new(), whole: true }],
        exchanges: vec![Exchange { call: hostile(), request: Vec::new(), answer: None }],
        ..Session::default()
    };
    Recording {
        setting: Setting { module: hostile().into(), engine: hostile(), ..Setting::default() },
        at_ms: 0,
        after_seq: 0,
        handled_before: 1,
        init,
        init_state_bytes: 0,
        event: None,
        outcome: outcome(),
    }
}

fn effect() -> nexum_gateway::api::Effect {
    filled(json!({
        "id": "~", "key": "~", "state": "~", "kind": "~", "destination": "~", "lane": "~", "release": "~", "sent_at_ms": 0,
        "attempts": 0, "next_attempt_ms": null, "last_error": "~", "underway": "~", "retracted": true, "body_kept": false,
        "payload": { "~": "~" },
    }))
}

fn transaction() -> nexum_gateway::api::accounts::Transaction {
    filled(json!({
        "chain_id": 1, "account": "~", "nonce": 1, "module": "~", "effect": "~", "to": "~", "value": "~", "state": "~",
        "what": "~", "age_ms": 0, "hashes": [Hash::default()], "fee_per_gas": "~",
    }))
}

fn approval() -> nexum_gateway::api::accounts::Approval {
    filled(json!({
        "number": 1, "module": "~", "effect": "~", "account": "~", "what": { "~": ["~"] }, "digest": Hash::default(),
        "policy": "~", "state": "~", "asked_at_ms": 0, "expires_at_ms": 0, "decided_at_ms": 0,
    }))
}

fn signature() -> nexum_gateway::api::accounts::Signature {
    filled(json!({
        "number": 1, "at_ms": 0, "module": "~", "effect": "~", "account": "~", "kind": "~", "digest": Hash::default(),
        "policy": "~",
    }))
}

fn letter() -> nexum_gateway::api::Letter {
    filled(json!({
        "seq": 1, "at_ms": 0, "event": "~", "kind": "~", "component": "~", "attempts": 1, "error": "~", "fuel": 0,
        "crash": 1, "backtrace": "~", "payload": { "~": "~" },
    }))
}

fn unit() -> JournalUnit {
    JournalUnit {
        entry: entry(),
        changes: vec![ChangedKey { key: hostile(), old_bytes: None, new_bytes: None }],
        state_bytes_before: 0,
        resolved: None,
        effects: vec![sent()],
        receipt: None,
    }
}

fn verified() -> verify::Report {
    verify::Report {
        module: hostile(),
        entries: 1,
        oldest: 1,
        newest: 1,
        digest: Hash::default(),
        receipts: 0,
        signed_to: None,
        unsigned: 1,
        keys: BTreeSet::new(),
        rewinds: 0,
        withdrawn: 0,
        claim: Some(hostile()),
    }
}

fn compared() -> diff::Comparison {
    let first = diff::Difference { event: hostile(), a_seq: None, b_seq: None, what: vec![hostile()] };
    diff::Comparison {
        a: diff::Summary { module: hostile(), events: 1 },
        b: diff::Summary { module: hostile(), events: 1 },
        common: 1,
        equal: 0,
        differences: 1,
        first: Some(first),
        notes: vec![hostile()],
    }
}

fn schema() -> nexum_config_schema::Table {
    let kinds = [json!({ "kind": "text" }), json!({ "kind": "choice", "of": [hostile()] })];
    let fields = kinds.map(|kind| json!({ "name": hostile(), "doc": hostile(), "type": kind, "default": hostile() }));
    serde_json::from_value(json!({ "fields": fields })).unwrap()
}

fn inspected() -> inspect::Report {
    let text = || vec![hostile()];
    let period = || Period(Duration::from_secs(1));
    inspect::Report {
        module: hostile(),
        is_library: false,
        version: hostile(),
        description: hostile(),
        authors: text(),
        component: hostile(),
        component_bytes: 1,
        capabilities: inspect::RequiredOptional { required: Vec::new(), optional: Vec::new() },
        chains: inspect::RequiredOptional { required: vec![1], optional: Vec::new() },
        extra_methods: text(),
        http_allow: text(),
        asks: BTreeMap::from([("identity", BTreeMap::from([("methods", text())]))]),
        libraries: vec![inspect::Used { name: hostile(), version: hostile(), component: hostile() }],
        subscriptions: vec![inspect::Subscription { source: hostile(), what: hostile(), next_ms: Some(vec![0]) }],
        on_reorg: "rewind",
        limits: inspect::Bounds {
            max_memory_bytes: 1,
            max_fuel_per_event: 1,
            max_state_bytes: 1,
            event_deadline: period(),
        },
        restart: inspect::Restart { max_consecutive_failures: 1, max_event_attempts: 1, backoff: [period(), period()] },
    }
}

fn planned() -> inspect::Planned {
    inspect::Planned { module: hostile(), what: hostile(), next_ms: vec![0] }
}

/// What each renderer makes of hostile answers; JSON as it is printed.
fn rendered() -> BTreeMap<&'static str, String> {
    let states = ["LOAD", "INIT", "RUN", "RESTART", "PAUSED", "DEAD", "~"].map(node);
    let modules: Vec<Node> = states.iter().flat_map(|root| root.children.clone()).collect();
    let inspection = json!({
        "name": "~", "id": 1, "state": "~", "reason": "~", "seq": 0, "cursors": { "~": "~" }, "state_bytes": 0,
        "journal": "~", "standing": "~", "dead_reason": "~", "consecutive_failures": 0, "restarts_total": 0,
        "attempts": [{ "source": "~", "event": "~", "count": 1, "error": "~" }], "last_error": "~", "dead_letters": 0,
        "replay": 0,
    });
    let crash = json!({
        "number": 1, "at_ms": 0, "event": "~", "component": Hash::default(), "error": "~", "fuel": 0, "handled_before": 0,
        "whole": true, "bytes": 0,
    });
    let page = json!({ "entries": [{ "key": "~", "bytes": 1, "value": "~", "text": "~" }], "next": "~" });
    let health = json!({
        "status": "~", "ready": false, "uptime_seconds": 0, "modules": {}, "chains": {}, "reasons": ["~"],
    });
    let retried = json!({ "handled": 0, "failed": [{ "seq": 1, "error": "~" }], "not_tried": 0, "stopped": "~" });
    let service = json!({ "name": "~", "state": "~", "restarts": 0, "failures": { "spent": 0, "max": 1 } });
    let line = json!({
        "timestamp": "~", "level": "~", "target": "~", "message": "~", "module": "~", "~": "~", "error": ["~"],
    });
    let line: Value = filled(line);
    let row = json!({
        "chain_id": 1, "module": "~", "method": "~", "endpoint": "~", "requests": 1, "units": 1, "errors": 1, "bytes": 1,
        "shared": 1,
    });
    let spent = json!({
        "module": "~", "budget": { "units_per_day": 1 }, "requests_today": 1, "units_today": 1, "day_ends_ms": 1,
        "refused": 1, "waited": 1,
    });
    let asked = json!({ "rows": [row], "budgets": [spent] });
    let difference = Difference { what: hostile(), recorded: hostile(), replayed: hostile() };
    let replayed = Replayed { outcome: outcome(), missing: vec![hostile()] };
    let as_json = |value: Value| foreign::json(&serde_json::to_string_pretty(&value).unwrap()).into_owned();
    BTreeMap::from([
        ("approvals::approvals", approvals::approvals(&[approval()])),
        ("approvals::approval", approvals::approval(&approval())),
        ("approvals::audit", approvals::audit(&[signature()])),
        ("bundle::report", bundle::report(&inspected())),
        ("bundle::schema", bundle::schema(&schema())),
        ("bundle::planned", bundle::planned(&[planned()])),
        ("crashes::crashes", crashes::crashes(&[filled(crash)])),
        ("journal::entries", journal::entries(&[entry()], true)),
        ("journal::effects", journal::effects(&[sent()])),
        ("journal::unit", journal::unit(&unit())),
        ("journal::report", journal::report(&verified())),
        ("journal::comparison", journal::comparison(&compared())),
        ("logs::line", logs::line(&line.to_string()) + "\n" + &logs::line(&hostile())),
        ("metrics::samples", as_json(json!(metrics::samples("a{b=\"\u{9b}\u{202e}\"} 1\n")))),
        ("outbox::effects", outbox::effects(&[effect()])),
        ("outbox::effect", outbox::effect(&effect())),
        ("replay::crash", replay::crash(&recording())),
        ("replay::effects", as_json(replay::effects(&outcome()))),
        ("replay::crash_json", as_json(replay::crash_json(&recording()))),
        ("replay::replayed", replay::replayed(&recording(), Hash([1; 32]), &replayed, &[difference])),
        ("report::health", report::health(&filled(health))),
        ("report::module", modules.iter().map(report::module).collect()),
        ("report::modules", report::modules(&modules)),
        ("report::services", report::services(&[filled(service)])),
        ("report::state", report::state(&filled(page))),
        ("report::value", report::value(hostile().replace('\n', "").as_bytes())),
        ("report::inspection", report::inspection(&filled(inspection))),
        ("report::letters", report::letters(&[letter()])),
        ("report::letter", report::letter(&letter())),
        ("report::drained", report::drained(&filled(json!({ "drained": ["~"], "unfinished": ["~"], "held": ["~"] })))),
        ("report::retried", report::retried(&filled(retried))),
        ("rpc::usage", rpc::usage(&filled(asked))),
        ("transactions::transactions", transactions::transactions(&[transaction()])),
        ("transactions::transaction", transactions::transaction(&transaction())),
        ("tree::tree", states.iter().map(|root| tree::tree(root, false, None)).collect()),
    ])
}

#[test]
fn no_renderer_lets_foreign_text_forge_a_line_or_reach_the_terminal() {
    for (renderer, text) in rendered() {
        assert!(text.contains("FORGED") || renderer == "metrics::samples", "{renderer} shows nothing of it: {text}");
        assert_eq!(foreign::printable(&text), text, "{renderer}");
        assert!(!text.contains('\t') && !text.contains("\u{301}\u{301}\u{301}\u{301}\u{301}"), "{renderer}: {text:?}");
        let forged = text.lines().find(|line| line.starts_with("FORGED"));
        assert_eq!(forged, None, "{renderer}: {text:?}");
    }
}

#[test]
fn a_drawn_tree_has_no_colours_but_ours() {
    let drawn = tree::tree(&node("RUN"), true, Some(80));
    let ours = ["\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[0m"];
    let rest = ours.iter().fold(drawn, |text, colour| text.replace(colour, ""));
    assert_eq!(foreign::printable(&rest), rest);
}

/// A renderer that is added is to be added above.
#[test]
fn every_renderer_is_tried() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = ["src/render", "ctl/src/render"].map(|folder| fs::read_dir(package.join(folder)).unwrap());
    let mut found = BTreeSet::new();
    for file in folders.into_iter().flatten() {
        let path = file.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        // What makes text safe, this file, and numbers.
        if ["foreign", "hostile", "units"].contains(&name.as_str()) {
            continue;
        }
        let text = fs::read_to_string(path).unwrap();
        let functions = text.lines().filter_map(|line| line.strip_prefix("pub fn "));
        found.extend(functions.map(|function| format!("{name}::{}", function.split(['(', '<']).next().unwrap())));
    }
    let tried: BTreeSet<String> = rendered().into_keys().map(str::to_owned).collect();
    assert_eq!(found, tried);
}
