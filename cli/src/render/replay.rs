//! Crashes and replays as text. Pure: recordings in, lines out.

use nexum_host_ifaces::{
    Hash,
    recording::{Exchange, RecordedOutcome, Recording, Session},
};
use nexum_kernel::replay::{Difference, Replayed};
use serde_json::{Value, json};

use super::{
    foreign::{lines, shown},
    one_line, table, units,
};

/// Longest value in a list.
const CELL_CHARS_MAX: usize = 80;

fn head(recording: &Recording) -> Vec<Vec<String>> {
    let setting = &recording.setting;
    let handled = match recording.handled_before {
        0 => "nothing: the instance was fresh".to_owned(),
        count => format!("{count} events by the same instance, whose memory is not recorded"),
    };
    vec![
        vec!["module".to_owned(), setting.module.to_string()],
        vec!["event".to_owned(), recording.event_id().to_string()],
        vec!["at".to_owned(), units::time_ms(recording.at_ms)],
        vec!["after unit".to_owned(), recording.after_seq.to_string()],
        vec!["handled before".to_owned(), handled],
    ]
}

fn component(hash: Hash) -> String {
    format!("sha256:{}", hex::encode(hash.0))
}

fn result(outcome: &RecordedOutcome) -> String {
    outcome.failure.as_ref().map_or_else(|| "ok".to_owned(), |failure| one_line(&failure.message, usize::MAX))
}

/// Arguments and answer, for the calls whose form is known here.
fn exchange(exchange: &Exchange) -> (String, String) {
    let answer = match &exchange.answer {
        None => "no answer".to_owned(),
        Some(bytes) => format!("{} bytes", bytes.len()),
    };
    if let Some(bytes) = exchange.journal_room() {
        return ("room in the journal".to_owned(), format!("{bytes} bytes"));
    }
    if let Some(((chain, method, params), answered)) = exchange.chain_request() {
        let answered = match answered {
            Some(Ok(text)) => text,
            Some(Err(error)) => format!("error: {}", error.message),
            None => answer,
        };
        return (format!("chain.request {chain} {method} {params}"), answered);
    }
    (format!("{}, {} bytes", exchange.call, exchange.request.len()), answer)
}

fn value(value: Option<&[u8]>) -> String {
    match value {
        None => "-".to_owned(),
        Some(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) if !text.chars().any(char::is_control) => one_line(text, CELL_CHARS_MAX),
            _ => one_line(&format!("0x{}", hex::encode(bytes)), CELL_CHARS_MAX),
        },
    }
}

fn session(session: &Session) -> String {
    let mut rows = Vec::new();
    for (key, read) in &session.reads {
        rows.push(vec![format!("state {key}"), value(read.as_deref())]);
    }
    for scan in &session.scans {
        rows.push(vec![format!("state list {}", scan.prefix), format!("{} keys", scan.entries.len())]);
    }
    for asked in &session.exchanges {
        let (asked, answered) = exchange(asked);
        rows.push(vec![one_line(&asked, CELL_CHARS_MAX), one_line(&answered, CELL_CHARS_MAX)]);
    }
    for time in &session.times {
        rows.push(vec!["clock".to_owned(), time.to_string()]);
    }
    for bytes in &session.random {
        rows.push(vec!["random".to_owned(), format!("{} bytes", bytes.len())]);
    }
    table(&rows)
}

/// One recording: what the guest was given, what it asked for, what came of it.
pub fn crash(recording: &Recording) -> String {
    let mut rows = head(recording);
    rows.push(vec!["component".to_owned(), component(recording.setting.component)]);
    rows.push(vec!["fuel".to_owned(), recording.outcome.fuel.to_string()]);
    rows.push(vec!["error".to_owned(), result(&recording.outcome)]);
    let mut text = table(&rows);
    if !recording.is_whole() {
        text += "the event saw more than is kept: it cannot be replayed\n";
    }
    if let Some(backtrace) = recording.outcome.failure.as_ref().and_then(|failure| failure.backtrace.as_ref()) {
        text += &format!("\nbacktrace\n{}", lines(backtrace, "  "));
    }
    let seen = session(recording.event.as_ref().map_or(&recording.init, |event| &event.session));
    if !seen.is_empty() {
        text += &format!("\nwhat it saw\n{seen}");
    }
    if let Some(effects) = recording.outcome.effects.as_ref().filter(|effects| !effects.is_empty()) {
        let sent: Vec<_> = effects.iter().map(|(sent, _)| sent.clone()).collect();
        text += &format!("\nwhat it asked to send\n{}", super::journal::effects(&sent));
    }
    if !recording.outcome.lines.is_empty() {
        text += "\nwhat it logged\n";
        for line in &recording.outcome.lines {
            text += &format!("{}: {}\n", shown(&line.level), shown(line.text.trim_end()));
        }
    }
    text
}

/// What came out of a run, which may be a backtrace. Ends its last line.
fn either(text: &str) -> String {
    match text.trim_end().contains('\n') {
        true => format!("\n{}", lines(text, "    ")),
        false => format!("{}\n", shown(text.trim_end())),
    }
}

/// What the guest asked to send; null when that was not recorded.
pub fn effects(outcome: &RecordedOutcome) -> Value {
    json!(outcome.effects.as_ref().map(|effects| effects.iter().map(|(sent, _)| sent).collect::<Vec<_>>()))
}

pub fn crash_json(recording: &Recording) -> Value {
    let seen = recording.event.as_ref().map_or(&recording.init, |event| &event.session);
    let hex = |bytes: &[u8]| format!("0x{}", hex::encode(bytes));
    let reads = seen.reads.iter().map(|(key, value)| json!({ "key": key, "value": value.as_deref().map(hex) }));
    let exchanges = seen.exchanges.iter().map(|asked| {
        let (asked, answered) = exchange(asked);
        json!({ "asked": asked, "answered": answered })
    });
    json!({
        "module": recording.setting.module,
        "event": recording.event_id().to_string(),
        "at_ms": recording.at_ms,
        "after_seq": recording.after_seq,
        "handled_before": recording.handled_before,
        "whole": recording.is_whole(),
        "component": component(recording.setting.component),
        "engine": recording.setting.engine,
        "failure": recording.outcome.failure,
        "fuel": recording.outcome.fuel,
        "changed_keys": recording.outcome.changes.iter().map(|(key, _)| key).collect::<Vec<_>>(),
        "lines": recording.outcome.lines,
        "reads": reads.collect::<Vec<_>>(),
        "exchanges": exchanges.collect::<Vec<_>>(),
        "effects": effects(&recording.outcome),
    })
}

pub fn replayed(recording: &Recording, ran: Hash, replayed: &Replayed, differences: &[Difference]) -> String {
    let mut rows = head(recording);
    rows.push(vec!["component".to_owned(), component(recording.setting.component)]);
    if ran != recording.setting.component {
        rows.push(vec!["replayed with".to_owned(), component(ran)]);
    }
    rows.push(vec!["recorded".to_owned(), format!("{}, fuel {}", result(&recording.outcome), recording.outcome.fuel)]);
    rows.push(vec!["replayed".to_owned(), format!("{}, fuel {}", result(&replayed.outcome), replayed.outcome.fuel)]);
    let mut text = table(&rows);
    if let Some(backtrace) = replayed.outcome.failure.as_ref().and_then(|failure| failure.backtrace.as_ref()) {
        text += &format!("\nbacktrace\n{}", lines(backtrace, "  "));
    }
    if !differences.is_empty() {
        text += "\nwhat differs\n";
        for Difference { what, recorded, replayed } in differences {
            let (recorded, replayed) = (either(recorded), either(replayed));
            text += &format!("{}\n  recorded: {recorded}  replayed: {replayed}", shown(what));
        }
    }
    if !replayed.missing.is_empty() {
        text += "\nasked for, but not in the recording\n";
        for missing in &replayed.missing {
            text += &format!("  {}\n", shown(missing));
        }
    }
    if differences.is_empty() && replayed.missing.is_empty() {
        text += match recording.outcome.failure {
            Some(_) => "\nreproduced: the same error, state changes, effects and lines",
            None => "\nequal: the same state changes, effects and lines",
        };
        text += if recording.outcome.fuel == replayed.outcome.fuel { ", and the same fuel\n" } else { "\n" };
    }
    if recording.handled_before > 0 {
        text += "the instance had handled other events before; what they left in its memory is not recorded\n";
    }
    text
}
