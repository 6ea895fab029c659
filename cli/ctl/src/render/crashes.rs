//! The crashes that are kept, as text. Pure: answers in, lines out.

use nexum_records::crash::CrashBrief;

use super::{one_line, table, units};

/// Longest error in the list; the command for one of them shows all of it.
const CELL_CHARS_MAX: usize = 80;

pub fn crashes(crashes: &[CrashBrief]) -> String {
    if crashes.is_empty() {
        return "no crash is kept\n".to_owned();
    }
    let mut rows = vec![["NUMBER", "AT", "EVENT", "BEFORE", "SIZE", "ERROR"].map(str::to_owned).to_vec()];
    for crash in crashes {
        rows.push(vec![
            crash.number.to_string(),
            units::time_ms(crash.at_ms),
            one_line(&crash.event, 40),
            crash.handled_before.to_string(),
            format!("{}{}", units::bytes(crash.bytes), if crash.whole { "" } else { ", cut" }),
            one_line(&crash.error, CELL_CHARS_MAX),
        ]);
    }
    table(&rows)
}
