//! Text that others wrote, such as a module's log line or a node's error, made safe to print.
//!
//! Invariant: what comes out moves no cursor, reorders nothing, hides nothing, and begins no line that we did not begin.
//! Text that is safe stays as it is, so that it does no harm to escape it twice.

use std::{
    borrow::Cow,
    fmt::{self, Write},
};

/// Whether a terminal would act on this character, or show nothing where it stands.
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}'
            // Zero width, and marks of direction.
            | '\u{200b}'..='\u{200f}'
            // Separators of lines and paragraphs, and what overrides the direction.
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            // Tags, which spell a second text that nobody sees.
            | '\u{e0000}'..='\u{e007f}')
}

/// Writes what it is given, with every character that acts as a visible escape: `\n`, `\r`, `\t`, else `\u{1b}`.
pub struct Escaping<W>(pub W);

impl<W: Write> Write for Escaping<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut written = 0;
        for (at, c) in text.char_indices().filter(|(_, c)| acts(*c)) {
            self.0.write_str(&text[written..at])?;
            match c {
                '\n' => self.0.write_str("\\n")?,
                '\r' => self.0.write_str("\\r")?,
                '\t' => self.0.write_str("\\t")?,
                other => write!(self.0, "\\u{{{:x}}}", u32::from(other))?,
            }
            written = at + c.len_utf8();
        }
        self.0.write_str(&text[written..])
    }
}

fn escape(text: &str, into: &mut String) {
    // Nothing can fail when the text goes to memory.
    let _ = Escaping(into).write_str(text);
}

/// The text on one line, with every character that acts as a visible escape.
pub fn shown(text: &str) -> Cow<'_, str> {
    if !text.contains(acts) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    escape(text, &mut escaped);
    Cow::Owned(escaped)
}

/// The lines of a text such as a backtrace, each behind `indent`, so that none can be taken for one of ours. Ends its last
/// line.
pub fn lines(text: &str, indent: &str) -> String {
    let mut shown = String::new();
    for line in text.trim_end().lines() {
        shown.push_str(indent);
        escape(line, &mut shown);
        shown.push('\n');
    }
    shown
}

/// What lies on the way to every terminal: lines and tabs stay, and nothing else that acts. Renderers have seen to the
/// lines.
pub fn printable(text: &str) -> Cow<'_, str> {
    let stays = |c: char| matches!(c, '\n' | '\t');
    if !text.contains(|c: char| acts(c) && !stays(c)) {
        return Cow::Borrowed(text);
    }
    let mut printable = String::with_capacity(text.len() + 16);
    for piece in text.split_inclusive(stays) {
        let (line, end) = match piece.strip_suffix(stays) {
            Some(line) => (line, &piece[line.len()..]),
            None => (piece, ""),
        };
        escape(line, &mut printable);
        printable.push_str(end);
    }
    Cow::Owned(printable)
}

/// JSON with the same values in which no character acts: serde_json escapes those below the space alone. Line breaks
/// between values stay.
pub fn json(text: &str) -> Cow<'_, str> {
    let in_a_string = |c: char| acts(c) && !c.is_ascii_whitespace();
    if !text.contains(in_a_string) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match in_a_string(c) {
            true => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    // Nothing can fail when the text goes to memory.
                    let _ = write!(escaped, "\\u{unit:04x}");
                }
            }
            false => escaped.push(c),
        }
    }
    Cow::Owned(escaped)
}

/// One word for a shell, for commands that a reader may copy.
pub fn quoted(text: &str) -> String {
    if !text.contains(acts) {
        return format!("'{}'", text.replace('\'', "'\\''"));
    }
    let mut word = "$'".to_owned();
    for c in text.chars() {
        match c {
            '\\' | '\'' => word.extend(['\\', c]),
            c if acts(c) => {
                // Nothing can fail when the text goes to memory.
                let _ = write!(word, "\\U{:08x}", u32::from(c));
            }
            c => word.push(c),
        }
    }
    word.push('\'');
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_acts_is_shown_and_the_rest_stays() {
        for (text, expected) in [
            ("plain, größer, 漢字 🦀 └─ …", "plain, größer, 漢字 🦀 └─ …"),
            ("a\nb\r\tc", "a\\nb\\r\\tc"),
            ("\x1b[2J\x07\x08\x00\x7f", "\\u{1b}[2J\\u{7}\\u{8}\\u{0}\\u{7f}"),
            ("\u{9b}31m\u{85}", "\\u{9b}31m\\u{85}"),
            ("\u{202e}drow\u{2066}x\u{2069}", "\\u{202e}drow\\u{2066}x\\u{2069}"),
            ("a\u{200b}b\u{2028}c\u{2029}d\u{feff}\u{e0041}", "a\\u{200b}b\\u{2028}c\\u{2029}d\\u{feff}\\u{e0041}"),
        ] {
            assert_eq!(shown(text), expected);
            assert_eq!(shown(expected), expected, "twice is as good as once");
        }
    }

    #[test]
    fn lines_of_a_text_are_behind_ours() {
        assert_eq!(lines("0: f\n1: g\x1b[A\r\n\n", "  "), "  0: f\n  1: g\\u{1b}[A\n");
        assert_eq!(printable("a\tb\nc\x1b[A\r\n"), "a\tb\nc\\u{1b}[A\\r\n");
        assert_eq!(printable("a\nb"), "a\nb");
    }

    #[test]
    fn json_keeps_its_values() {
        let value = serde_json::json!({ "a\u{202e}": ["\x1b\u{9b}\x7f\u{e0041}\n", 1] });
        let text = serde_json::to_string_pretty(&value).unwrap();
        let escaped = json(&text);
        assert!(escaped.lines().count() > 3 && !escaped.replace('\n', "").contains(acts), "{escaped}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped).unwrap(), value);
    }

    #[test]
    fn a_key_in_a_command_is_one_word() {
        assert_eq!(quoted("last/eth"), "'last/eth'");
        assert_eq!(quoted("x'; rm -rf ~ #"), "'x'\\''; rm -rf ~ #'");
        assert_eq!(quoted("a'\n\\"), "$'a\\'\\U0000000a\\\\'");
    }
}
