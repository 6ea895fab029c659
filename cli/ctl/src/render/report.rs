//! Health, modules, state and dead letters as text. Pure: answers in, lines out.

use nexum_admin_api::{
    Inspection, Letter, Retried, StatePage,
    health::Health,
    orders::Drained,
    tree::{Node, ServiceReport},
};

use super::{
    foreign::{lines, quoted, shown},
    one_line, pretty, table, units,
};

/// Longest value or error in a list; the command for one of them shows all of it.
const CELL_CHARS_MAX: usize = 80;

fn row(cells: &[&str]) -> Vec<String> {
    cells.iter().map(|cell| (*cell).to_owned()).collect()
}

pub fn health(health: &Health) -> String {
    let ready = if health.ready { "ready" } else { "not ready" };
    let up = units::duration_ms(health.uptime_seconds.saturating_mul(1000));
    let mut text = format!("{}, {ready}, up {up}\n", shown(&health.status));
    for reason in &health.reasons {
        text += &format!("  {}\n", shown(reason));
    }
    text
}

pub fn modules(modules: &[Node]) -> String {
    if modules.is_empty() {
        return "no module is loaded\n".to_owned();
    }
    let mut rows =
        vec![row(&["NAME", "VERSION", "STATE", "EVENTS", "FAILED", "DEAD LETTERS", "LAST EVENT", "STATE SIZE"])];
    for node in modules {
        let Some(facts) = &node.module else { continue };
        rows.push(vec![
            node.name.clone(),
            facts.version.clone(),
            node.state.clone(),
            facts.events_processed.to_string(),
            facts.events_failed.to_string(),
            facts.dead_letters.to_string(),
            facts.last_event_age_ms.map_or_else(|| "-".to_owned(), |age| format!("{} ago", units::duration_ms(age))),
            units::bytes(facts.state_bytes),
        ]);
    }
    table(&rows)
}

/// One module, with what it may reach.
pub fn module(node: &Node) -> String {
    let pair = |name: &str, value: String| vec![name.to_owned(), value];
    let mut rows = vec![pair("module", node.name.clone()), pair("state", node.state.clone())];
    if !node.summary.is_empty() {
        rows.push(pair("", one_line(&node.summary, usize::MAX)));
    }
    let Some(facts) = &node.module else { return table(&rows) };
    rows.push(pair("version", facts.version.clone()));
    rows.push(pair("component", facts.component.clone()));
    let mut name = "capabilities";
    for grant in &facts.grants {
        let why = grant.why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        rows.push(pair(name, one_line(&format!("{} {}{why}", grant.capability, grant.grant), usize::MAX)));
        name = "";
    }
    let chains: Vec<String> = facts.chains.iter().map(u64::to_string).collect();
    rows.push(pair("chains", if chains.is_empty() { "none".to_owned() } else { chains.join(", ") }));
    for (source, at) in &facts.cursors {
        rows.push(pair("cursor", format!("{source} {at}")));
    }
    rows.push(pair("events", format!("{} handled, {} failed", facts.events_processed, facts.events_failed)));
    rows.push(pair("restarts", facts.restarts.to_string()));
    rows.push(pair("budget", format!("{}/{} spent", facts.budget.spent, facts.budget.max)));
    let (used, limit) = (units::bytes(facts.state_bytes), units::bytes(facts.state_bytes_limit));
    rows.push(pair("state size", format!("{used} of {limit}")));
    rows.push(pair("memory", units::bytes(facts.memory_bytes)));
    rows.push(pair("dead letters", facts.dead_letters.to_string()));
    rows.push(pair("outbox", format!("{} pending", facts.outbox_pending)));
    if let Some(error) = &facts.last_error {
        rows.push(pair("last error", one_line(error, usize::MAX)));
    }
    table(&rows)
}

pub fn services(services: &[ServiceReport]) -> String {
    let mut rows = vec![row(&["NAME", "STATE", "RESTARTS", "FAILURES IN A MINUTE"])];
    for service in services {
        let failures = format!("{}/{}", service.failures.spent, service.failures.max);
        rows.push(vec![service.name.clone(), service.state.clone(), service.restarts.to_string(), failures]);
    }
    table(&rows)
}

pub fn state(page: &StatePage) -> String {
    if page.entries.is_empty() {
        return "no such keys\n".to_owned();
    }
    let mut rows = vec![row(&["KEY", "BYTES", "VALUE"])];
    for entry in &page.entries {
        let value = entry.text.as_ref().unwrap_or(&entry.value);
        rows.push(vec![entry.key.clone(), entry.bytes.to_string(), one_line(value, CELL_CHARS_MAX)]);
    }
    let mut text = table(&rows);
    if let Some(next) = &page.next {
        text += &format!("… more with --after {}\n", quoted(next));
    }
    text
}

/// One value for a terminal: text on lines of its own, anything else as hex. Ends its last line.
pub fn value(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => lines(text, ""),
        Err(_) => format!("0x{}\n", hex::encode(bytes)),
    }
}

pub fn inspection(found: &Inspection) -> String {
    let mut rows = vec![
        vec!["module".to_owned(), found.name.clone()],
        vec!["state".to_owned(), found.state.clone().unwrap_or_else(|| "not loaded".to_owned())],
    ];
    if let Some(reason) = &found.reason {
        rows.push(vec!["reason".to_owned(), one_line(reason, usize::MAX)]);
    }
    let reason = found.dead_reason.as_ref().map(|reason| format!(": {}", one_line(reason, usize::MAX)));
    rows.push(vec!["at start".to_owned(), format!("{}{}", found.standing, reason.unwrap_or_default())]);
    rows.push(vec!["units".to_owned(), found.seq.to_string()]);
    for (source, at) in &found.cursors {
        rows.push(vec!["cursor".to_owned(), format!("{source} {at}")]);
    }
    rows.push(vec!["state size".to_owned(), units::bytes(found.state_bytes)]);
    rows.push(vec!["journal".to_owned(), found.journal.clone()]);
    rows.push(vec!["restarts".to_owned(), found.restarts_total.to_string()]);
    rows.push(vec!["failures in a row".to_owned(), found.consecutive_failures.to_string()]);
    for failed in &found.attempts {
        let error = one_line(&failed.error, usize::MAX);
        rows.push(vec!["failing".to_owned(), format!("{} ({} times): {error}", failed.event, failed.count)]);
    }
    if let Some(error) = &found.last_error {
        rows.push(vec!["last error".to_owned(), one_line(error, usize::MAX)]);
    }
    if found.replay > 0 {
        rows.push(vec!["to be delivered again".to_owned(), format!("{} events, after a rewind", found.replay)]);
    }
    rows.push(vec!["dead letters".to_owned(), found.dead_letters.to_string()]);
    table(&rows)
}

pub fn letters(letters: &[Letter]) -> String {
    if letters.is_empty() {
        return "no dead letters\n".to_owned();
    }
    let mut rows = vec![row(&["SEQ", "AT", "EVENT", "ATTEMPTS", "ERROR"])];
    for letter in letters {
        rows.push(vec![
            letter.seq.to_string(),
            units::time_ms(letter.at_ms),
            one_line(&letter.event, 40),
            letter.attempts.to_string(),
            one_line(&letter.error, CELL_CHARS_MAX),
        ]);
    }
    table(&rows)
}

pub fn drained(drained: &Drained) -> String {
    let done = drained.drained.iter().map(|name| format!("{}: drained\n", shown(name)));
    let held = drained.held.iter().map(|line| format!("not waited for: {}\n", shown(line)));
    done.chain(held).chain(drained.unfinished.iter().map(|line| format!("not finished: {}\n", shown(line)))).collect()
}

pub fn retried(retried: &Retried) -> String {
    let mut text = format!(
        "{} handled, {} failed again, {} not tried\n",
        retried.handled,
        retried.failed.len(),
        retried.not_tried
    );
    for failed in &retried.failed {
        text += &format!("  {}: {}\n", failed.seq, one_line(&failed.error, CELL_CHARS_MAX));
    }
    if let Some(reason) = &retried.stopped {
        text += &format!("  stopped: {}\n", one_line(reason, usize::MAX));
    }
    text
}

pub fn letter(letter: &Letter) -> String {
    let mut rows = vec![
        vec!["seq".to_owned(), letter.seq.to_string()],
        vec!["at".to_owned(), units::time_ms(letter.at_ms)],
        vec!["event".to_owned(), letter.event.clone()],
        vec!["component".to_owned(), letter.component.clone()],
        vec!["attempts".to_owned(), letter.attempts.to_string()],
        vec!["fuel".to_owned(), letter.fuel.to_string()],
        vec!["error".to_owned(), one_line(&letter.error, usize::MAX)],
    ];
    if let Some(crash) = letter.crash {
        rows.push(vec!["crash".to_owned(), format!("{crash}, for `nexum replay MODULE --crash {crash}`")]);
    }
    let mut text = table(&rows);
    if let Some(backtrace) = &letter.backtrace {
        text += &format!("\nbacktrace\n{}", lines(backtrace, "  "));
    }
    if let Some(payload) = &letter.payload {
        text += &format!("\npayload\n{}\n", pretty(payload));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use nexum_admin_api::StateEntry;

    #[test]
    fn a_page_of_state_says_how_to_go_on() {
        let entries = vec![StateEntry::new("a".into(), b"hi"), StateEntry::new("longer".into(), &[0xff; 60])];
        let page = StatePage { entries, next: Some("longer".into()) };
        let expected = format!(
            "KEY     BYTES  VALUE\na       2      hi\nlonger  60     0x{}…\n… more with --after 'longer'\n",
            "f".repeat(78)
        );
        assert_eq!(state(&page), expected);
    }

    #[test]
    fn health_gives_its_reasons() {
        let report = Health {
            status: "unhealthy".into(),
            ready: false,
            uptime_seconds: 61,
            modules: Default::default(),
            chains: Default::default(),
            services: Default::default(),
            reasons: vec!["module old-probe is dead".into()],
        };
        assert_eq!(health(&report), "unhealthy, not ready, up 61 s\n  module old-probe is dead\n");
    }
}
