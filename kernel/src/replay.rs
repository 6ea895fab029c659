//! Runs a recorded event again: the same component or another one, over what the recording holds and nothing else.
//!
//! Invariant: nothing outside is reached. Every port is unbound, and whatever the guest asks for is answered from the
//! recording or reported as missing.

use std::{collections::BTreeSet, sync::Arc};

use nexum_host_ifaces::{
    Hash,
    clock::Clock,
    commit_queue::CommitQueue,
    grants::{GrantError, Grants, Library},
    host::HostArgs,
    library::{self, LinkedLibrary},
    outbox::EffectSummary,
    ports::Ports,
    recording::{Captured, Fault, LibrarySetting, RecordedOutcome, Recording, TapeMode, view::RecordedView},
    store::{ModuleId, ModuleRecord},
    unit::drafts::{PENDING_MAX, Quota},
};
use wasmtime::component::Component;

use crate::{
    engine::WasmEngine,
    instance::{self, Failure, Instance},
};

/// What a replay came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replayed {
    pub outcome: RecordedOutcome,
    /// What the guest asked for that the recording does not have, one line each.
    pub missing: Vec<String>,
}

/// One thing that came out otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    pub what: String,
    pub recorded: String,
    pub replayed: String,
}

/// What the call that just ended saw and did. Nothing in its place would look like a module that does nothing.
fn captured(instance: &mut Instance) -> Captured {
    let Some(captured) = instance.host().capture() else { unreachable!("a call that is played is not captured") };
    captured
}

/// Runs the recording. `Err` says why it cannot be run at all.
pub async fn replay(
    engine: &WasmEngine,
    component: &Component,
    recording: &Recording,
    clock: Arc<dyn Clock>,
) -> Result<Replayed, String> {
    if !recording.is_whole() {
        return Err("the recording was cut, because the event saw more than is kept: it cannot be replayed".into());
    }
    let setting = &recording.setting;
    let grants = Grants::recorded((&setting.served, &setting.stubs), &setting.chains, &setting.tables);
    let libraries = setting.libraries.iter().map(LibrarySetting::library).collect::<Result<Vec<_>, _>>();
    let said = |error: GrantError| error.to_string();
    let grants = grants.map_err(said)?.with_libraries(libraries.map_err(said)?);
    let linked = grants.libraries().iter().map(|library| linked(engine, library)).collect::<Result<Vec<_>, _>>()?;
    let prepared = instance::prepare_with(engine, component, grants.interfaces(), &setting.module, &linked)?;
    let init_view = Arc::new(RecordedView::new(&recording.init));
    let ports = Ports::new(init_view.clone(), setting.chains.iter().copied());
    let args = HostArgs {
        module: setting.module.clone(),
        id: ModuleId(0),
        component: setting.component,
        limits: Arc::new(setting.limits.clone()),
        clock,
        commits: Arc::new(CommitQueue::new(ports.store())),
        ports,
        grants: Arc::new(grants),
        quota: Quota::new(PENDING_MAX),
        taping: TapeMode::Play(Arc::new(recording.init.clone())),
    };
    let record = ModuleRecord { state_bytes: recording.init_state_bytes, ..ModuleRecord::default() };
    let mut instance = match Instance::start(&prepared, &args, record).await {
        Ok(instance) => instance,
        Err(failed) if failed.is_passing => return Err(failed.failure.message),
        Err(failed) => {
            let failure = failed.failure.clone();
            let outcome = match failed.recording(|| setting.clone()) {
                Some(recording) => recording.outcome,
                None => outcome(Err(failure), Captured::default()),
            };
            return Ok(Replayed { outcome, missing: init_view.missing() });
        }
    };
    let started = instance.init(&setting.config).await;
    let mut missing = init_view.missing();
    let Some(event) = recording.event.as_ref().filter(|_| started.is_ok()) else {
        let captured = captured(&mut instance);
        missing.extend(captured.missing.clone());
        return Ok(Replayed { outcome: outcome(started, captured), missing });
    };
    missing.extend(captured(&mut instance).missing);
    let view = Arc::new(RecordedView::new(&event.session));
    instance.host().play(&event.session, view.clone(), event.state_bytes);
    let payload = Arc::new(event.event.clone());
    let result = match &event.origin {
        Some(origin) => instance.handle_again(&event.id, origin, &payload).await,
        None => instance.handle(&event.id, &payload).await,
    };
    let captured = captured(&mut instance);
    missing.extend(view.missing());
    missing.extend(captured.missing.clone());
    Ok(Replayed { outcome: outcome(result, captured), missing })
}

/// A library as it was, from the machine code that is kept of it.
fn linked(engine: &WasmEngine, library: &Library) -> Result<Arc<LinkedLibrary>, String> {
    let (name, version, hash) = (library.name(), &library.version, library.component);
    let component = engine.kept(hash).ok_or_else(|| {
        let hash = hex::encode(hash.0);
        format!(
            "library `{name}` {version}, sha256:{hash}, is not among the compiled components: replay where an engine has run it"
        )
    })?;
    library::prepare(engine.wasm(), &component, library.grants.interfaces(), name).map(Arc::new)
}

fn outcome(result: Result<u64, Failure>, captured: Captured) -> RecordedOutcome {
    let (fuel, failure) = match result {
        Ok(fuel) => (fuel, None),
        Err(Failure { message, backtrace, fuel }) => (fuel, Some(Fault { message, backtrace })),
    };
    RecordedOutcome { failure, fuel, changes: captured.changes, lines: captured.lines, effects: Some(captured.effects) }
}

const SHOWN_MAX: usize = 160;

fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn value(value: Option<&Option<Vec<u8>>>) -> String {
    match value {
        None => "not written".into(),
        Some(None) => "deleted".into(),
        Some(Some(bytes)) => match std::str::from_utf8(bytes) {
            Ok(text) if !text.chars().any(char::is_control) => cut(text),
            _ => cut(&format!("0x{}", hex::encode(bytes))),
        },
    }
}

fn effect(effect: Option<&(EffectSummary, Hash)>) -> String {
    let Some((EffectSummary { id: _, key, kind, destination, lane, release }, digest)) = effect else {
        return "none".into();
    };
    let lane = lane.as_ref().map_or_else(String::new, |lane| format!(", lane {lane}"));
    format!("{kind} to {destination}, key {key}{lane}, release {release}, sha256:{}", hex::encode(digest.0))
}

/// Whether an error was the deadline, which ends a guest after more or less work each time.
fn is_late(outcome: &RecordedOutcome) -> bool {
    outcome.failure.as_ref().is_some_and(|failure| failure.message.starts_with("deadline: "))
}

/// What differs. The backtrace counts only for the same component. Fuel does not count where a deadline ended the guest,
/// nor where the instance was not fresh (`fresh`): its allocator takes other ways through a memory that was used.
pub fn compare(
    recorded: &RecordedOutcome,
    replayed: &RecordedOutcome,
    same_component: bool,
    fresh: bool,
) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut differ = |what: &str, recorded: String, replayed: String| {
        if recorded != replayed {
            found.push(Difference { what: what.to_owned(), recorded, replayed });
        }
    };
    let result =
        |outcome: &RecordedOutcome| outcome.failure.as_ref().map_or("ok".into(), |failure| failure.message.clone());
    differ("result", result(recorded), result(replayed));
    let backtrace = |outcome: &RecordedOutcome| outcome.failure.as_ref().and_then(|failure| failure.backtrace.clone());
    if same_component {
        let shown = |outcome: &RecordedOutcome| backtrace(outcome).unwrap_or_else(|| "none".into());
        differ("backtrace", shown(recorded), shown(replayed));
    }
    if fresh && !(is_late(recorded) && is_late(replayed)) {
        differ("fuel", recorded.fuel.to_string(), replayed.fuel.to_string());
    }
    let last = |outcome: &RecordedOutcome, key: &str| -> Option<Option<Vec<u8>>> {
        outcome.changes.iter().rev().find(|(changed, _)| changed == key).map(|(_, value)| value.clone())
    };
    let keys: BTreeSet<&String> = recorded.changes.iter().chain(&replayed.changes).map(|(key, _)| key).collect();
    for key in keys {
        let (before, after) = (last(recorded, key), last(replayed, key));
        if before != after {
            differ(&format!("state key `{key}`"), value(before.as_ref()), value(after.as_ref()));
        }
    }
    if let (Some(before), Some(after)) = (&recorded.effects, &replayed.effects) {
        for at in 0..before.len().max(after.len()) {
            differ(&format!("effect {}", at + 1), effect(before.get(at)), effect(after.get(at)));
        }
    }
    let line = |outcome: &RecordedOutcome, at: usize| {
        outcome
            .lines
            .get(at)
            .map_or_else(|| "nothing".to_owned(), |line| cut(&format!("{}: {}", line.level, line.text)))
    };
    let first = (0..recorded.lines.len().max(replayed.lines.len()))
        .find(|at| recorded.lines.get(*at) != replayed.lines.get(*at));
    if let Some(at) = first {
        differ(&format!("log line {}", at + 1), line(recorded, at), line(replayed, at));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use nexum_host_ifaces::recording::LogLine;

    fn sent(key: &str) -> EffectSummary {
        let (kind, destination, release) = ("http".into(), "https://a.org".into(), "committed".into());
        EffectSummary { id: "m/init/0".into(), key: key.into(), kind, destination, lane: None, release }
    }

    fn recorded() -> RecordedOutcome {
        RecordedOutcome {
            failure: Some(Fault { message: "trap: unreachable in block".into(), backtrace: Some("0: 0x1f".into()) }),
            fuel: 7,
            changes: vec![("a".into(), Some(b"1".to_vec())), ("a".into(), Some(b"2".to_vec())), ("b".into(), None)],
            lines: vec![LogLine { level: "info".into(), text: "hello".into() }],
            effects: Some(vec![(sent("a"), Hash([1; 32]))]),
        }
    }

    #[test]
    fn the_same_is_the_same_and_a_value_is_the_last_one_written() {
        let mut again = recorded();
        assert!(compare(&recorded(), &again, true, true).is_empty());
        again.changes.remove(0);
        assert!(compare(&recorded(), &again, true, true).is_empty());
        again.fuel = 8;
        assert_eq!(compare(&recorded(), &again, true, true)[0].what, "fuel");
        assert!(compare(&recorded(), &again, true, false).is_empty());
    }

    #[test]
    fn every_part_that_differs_is_named() {
        let fixed = RecordedOutcome {
            failure: None,
            fuel: 9,
            changes: vec![("b".into(), Some(vec![0]))],
            ..RecordedOutcome::default()
        };
        let found = compare(&recorded(), &fixed, false, true);
        let named: Vec<&str> = found.iter().map(|difference| difference.what.as_str()).collect();
        assert_eq!(named, ["result", "fuel", "state key `a`", "state key `b`", "log line 1"]);
        assert_eq!((found[2].recorded.as_str(), found[2].replayed.as_str()), ("2", "not written"));
        assert_eq!((found[3].recorded.as_str(), found[3].replayed.as_str()), ("deleted", "0x00"));
        assert_eq!(compare(&recorded(), &fixed, true, true)[1].what, "backtrace");
    }

    #[test]
    fn an_effect_that_differs_in_anything_is_a_difference() {
        let with = |effects: Vec<(EffectSummary, Hash)>| RecordedOutcome { effects: Some(effects), ..recorded() };
        let differing = |outcome: &RecordedOutcome| {
            let found = compare(&recorded(), outcome, true, true);
            found.into_iter().map(|difference| (difference.what, difference.replayed)).collect::<Vec<_>>()
        };
        let other =
            |key: &str| format!("http to https://a.org, key {key}, release committed, sha256:{}", "02".repeat(32));
        assert_eq!(differing(&with(vec![(sent("a"), Hash([2; 32]))])), [("effect 1".to_owned(), other("a"))]);
        assert_eq!(differing(&with(Vec::new())), [("effect 1".to_owned(), "none".to_owned())]);
        let more = with(vec![(sent("a"), Hash([1; 32])), (sent("b"), Hash([2; 32]))]);
        assert_eq!(differing(&more), [("effect 2".to_owned(), other("b"))]);
        // What was not recorded is not compared.
        assert!(differing(&RecordedOutcome { effects: None, ..recorded() }).is_empty());
    }

    #[test]
    fn a_deadline_ends_a_guest_after_more_or_less_work() {
        let late = |fuel| RecordedOutcome {
            failure: Some(Fault { message: "deadline: block took longer than 2s".into(), backtrace: None }),
            fuel,
            ..RecordedOutcome::default()
        };
        assert!(compare(&late(5), &late(6), true, true).is_empty());
    }
}
