//! How answers look: text for people, JSON for programs.
//!
//! Invariant: text that others wrote goes through `foreign`. A cell of a `table` and what `one_line` makes have been there;
//! a renderer that writes such text itself calls `shown` or `lines`.

pub mod approvals;
pub mod crashes;
pub mod foreign;
pub mod journal;
pub mod logs;
pub mod metrics;
pub mod outbox;
pub mod report;
pub mod rpc;
pub mod transactions;
pub mod tree;
pub mod units;

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use crate::exit::Failure;

/// Whether to colour: a terminal that did not ask for plain text (<https://no-color.org>).
pub fn colours() -> bool {
    // What is wrong with it has been said where the engine was looked for.
    let environment = crate::environment().unwrap_or_default();
    let plain = environment.get("NO_COLOR").is_some_and(|value| !value.is_empty());
    io::stdout().is_terminal() && !plain && environment.get("TERM").is_none_or(|term| term != "dumb")
}

/// How many characters a line of the terminal has; absent where nobody looks at lines, as in a pipe.
pub fn width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// Prints text that ends its last line. What a terminal would act on is shown instead, in case a renderer forgot.
pub fn print(text: &str) -> Result<(), Failure> {
    print_as_is(foreign::printable(text).as_bytes())
}

/// Prints what may move the cursor or set colours, or is no text at all.
pub fn print_as_is(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    Ok(out.flush()?)
}

pub fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::failed(error.to_string()))?;
    print(&format!("{}\n", foreign::json(&text)))
}

/// JSON without line breaks, for streams of it.
pub fn print_json_line(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value).map_err(|error| Failure::failed(error.to_string()))?;
    print(&format!("{}\n", foreign::json(&text)))
}

/// A payload or the like within a text.
pub fn pretty(value: &serde_json::Value) -> String {
    foreign::json(&serde_json::to_string_pretty(value).unwrap_or_default()).into_owned()
}

/// Rows as aligned columns, two spaces apart. A cell is one line, whatever is in it.
pub fn table(rows: &[Vec<String>]) -> String {
    let shown = |row: &Vec<String>| row.iter().map(|cell| foreign::shown(cell).into_owned()).collect::<Vec<_>>();
    let rows: Vec<Vec<String>> = rows.iter().map(shown).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line += &format!("{cell:width$}  ");
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// One line of text from any text, at most `max` characters before escapes.
pub fn one_line(text: &str, max: usize) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(max) {
        Some((end, _)) => format!("{}…", foreign::shown(&line[..end])),
        None => foreign::shown(&line).into_owned(),
    }
}
