//! A bundle as text, and what fires next. Pure: facts in, lines out.

use nexum_config_schema::Table;

use super::{foreign::shown, one_line, table, units};
use crate::bundle::inspect::{Planned, RUNS, Report, RequiredOptional};

/// Longest text of a manifest's author on one line.
const TEXT_CHARS_MAX: usize = 200;

fn line(text: &str) -> String {
    one_line(text, TEXT_CHARS_MAX)
}

fn listed<T: ToString>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(|item| shown(&item.to_string()).into_owned()).collect();
    if items.is_empty() { "none".to_owned() } else { items.join(", ") }
}

pub fn report(report: &Report) -> String {
    let mut rows = Vec::new();
    let mut row = |name: &str, value: String| rows.push(vec![name.to_owned(), value]);
    let what = if report.is_library { "library" } else { "module" };
    row(what, format!("{} {}", line(&report.module), line(&report.version)));
    if !report.description.is_empty() {
        row("description", line(&report.description));
    }
    if !report.authors.is_empty() {
        row("authors", line(&report.authors.join(", ")));
    }
    row("component", report.component.clone());
    row("size", units::bytes(report.component_bytes));
    row("required", listed(&report.capabilities.required));
    row("optional", listed(&report.capabilities.optional));
    if !report.extra_methods.is_empty() {
        row("chain methods", listed(&report.extra_methods));
    }
    row("hosts", listed(&report.http_allow));
    for (interface, lists) in &report.asks {
        let lists: Vec<String> = lists.iter().map(|(key, list)| format!("{key}: {}", listed(list))).collect();
        row(interface, lists.join("; "));
    }
    row("chains", chains(&report.chains));
    for library in &report.libraries {
        row("uses library", format!("{} {}, {}", line(&library.name), line(&library.version), library.component));
    }
    if !report.is_library {
        of_module(report, &mut row);
    }
    table(&rows)
}

/// What a library has nothing of: it runs within the calls of its module.
fn of_module(report: &Report, row: &mut dyn FnMut(&str, String)) {
    let mut name = "told of";
    for subscription in &report.subscriptions {
        row(name, subscription.what.clone());
        name = "";
        for run in subscription.next_ms.iter().flat_map(|next| runs(next)) {
            row("", format!("  {run}"));
        }
    }
    if report.subscriptions.is_empty() {
        row(name, "nothing".to_owned());
    }
    row("at a reorg", report.on_reorg.to_owned());
    row("memory", units::bytes(report.limits.max_memory_bytes));
    row("fuel per event", units::count(report.limits.max_fuel_per_event));
    row("state", units::bytes(report.limits.max_state_bytes));
    row("event deadline", report.limits.event_deadline.to_string());
    let restart = &report.restart;
    let [first, cap] = &restart.backoff;
    row("failures", format!("{} in a row, then it is DEAD; waits {first} to {cap}", restart.max_consecutive_failures));
    row("attempts", format!("{}, then an event is a dead letter", restart.max_event_attempts));
}

fn chains(chains: &RequiredOptional<u64>) -> String {
    match chains.optional.is_empty() {
        true => listed(&chains.required),
        false => format!("{}; optional {}", listed(&chains.required), listed(&chains.optional)),
    }
}

/// A line for each time, and one more when there are no more.
fn runs(next_ms: &[u64]) -> Vec<String> {
    let mut lines: Vec<String> = next_ms.iter().map(|at| units::time_ms(*at)).collect();
    match lines.len() {
        0 => lines.push("never again".to_owned()),
        1..RUNS => lines.push("and never again".to_owned()),
        _ => {}
    }
    lines
}

/// What fires next of every schedule, as comments to a configuration; nothing when there is no schedule.
pub fn planned(planned: &[Planned]) -> String {
    if planned.is_empty() {
        return String::new();
    }
    let mut text = "\n# What fires next:\n".to_owned();
    for one in planned {
        text += &format!("# {}: {}\n", shown(&one.module), shown(&one.what));
        for run in runs(&one.next_ms) {
            text += &format!("#   {run}\n");
        }
    }
    text
}

/// What a configuration may hold: a row for each key.
pub fn schema(schema: &Table) -> String {
    let mut rows = vec![["key", "expected", "default", "meaning"].map(str::to_owned).to_vec()];
    for (key, field) in schema.flat() {
        let default = match &field.default {
            Some(default) => line(&default.to_string()),
            None if field.optional => "none".to_owned(),
            None => "must be given".to_owned(),
        };
        rows.push(vec![line(&key), line(&field.expected()), default, line(&field.doc)]);
    }
    table(&rows)
}
