//! Text that others wrote, such as a module's log line or a node's error, made safe to print.
//!
//! Invariant: what comes out moves no cursor, reorders nothing, hides nothing, and begins no line that we did not begin.
//! Text that is safe stays as it is, so that it does no harm to escape it twice.

use std::{
    borrow::Cow,
    fmt::{self, Write},
};

/// Marks in a row that are put onto one character; more would grow over the lines around it.
const MARKS_MAX: usize = 4;

/// Whether a terminal would act on this character, or show nothing where it stands.
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c,
            // Separators of lines and paragraphs, and what overrides the direction.
            '\u{2028}'..='\u{202e}'
            // What Unicode calls ignorable: joiners, fillers, zero width, marks of direction, selectors of variants, and
            // tags, which spell a second text that nobody sees.
            | '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
            | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// Marks that are put onto the character before them, of the scripts in which any number of them is drawn.
fn is_mark(c: char) -> bool {
    matches!(c,
        '\u{300}'..='\u{36f}' | '\u{483}'..='\u{489}' | '\u{591}'..='\u{5bd}' | '\u{610}'..='\u{61a}'
        | '\u{64b}'..='\u{65f}' | '\u{6d6}'..='\u{6dc}' | '\u{6df}'..='\u{6e4}' | '\u{e31}'
        | '\u{e34}'..='\u{e3a}' | '\u{e47}'..='\u{e4e}' | '\u{eb1}' | '\u{eb4}'..='\u{ebc}'
        | '\u{ec8}'..='\u{ece}' | '\u{1ab0}'..='\u{1aff}' | '\u{1dc0}'..='\u{1dff}' | '\u{20d0}'..='\u{20f0}'
        | '\u{fe20}'..='\u{fe2f}')
}

/// Looks at the characters of a text, one after the other.
struct Row {
    /// Marks since the last character that bears some.
    marks: usize,
}

impl Row {
    /// Before a text there is nothing of its own that could bear a mark.
    fn new() -> Self {
        Self { marks: MARKS_MAX }
    }

    /// Whether the next character acts, or is a mark too many.
    fn acts(&mut self, c: char) -> bool {
        let acts = acts(c);
        self.marks = match is_mark(c) && !acts {
            true => self.marks.saturating_add(1),
            false if acts => MARKS_MAX,
            false => 0,
        };
        acts || self.marks > MARKS_MAX
    }
}

fn is_safe(text: &str) -> bool {
    let mut row = Row::new();
    !text.chars().any(|c| row.acts(c))
}

/// Writes what it is given, with every character that acts as a visible escape: `\n`, `\r`, `\t`, else `\u{1b}`.
pub struct Escaping<W>(pub W);

impl<W: Write> Write for Escaping<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let (mut written, mut row) = (0, Row::new());
        for (at, c) in text.char_indices().filter(|(_, c)| row.acts(*c)) {
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
    if is_safe(text) {
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
    if text.split(stays).all(is_safe) {
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
    if text.split(|c: char| c.is_ascii_whitespace()).all(is_safe) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    let mut row = Row::new();
    for c in text.chars() {
        match row.acts(c) && !c.is_ascii_whitespace() {
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
    if is_safe(text) {
        return format!("'{}'", text.replace('\'', "'\\''"));
    }
    let (mut word, mut row) = ("$'".to_owned(), Row::new());
    for c in text.chars() {
        let acts = row.acts(c);
        match c {
            '\\' | '\'' => word.extend(['\\', c]),
            c if acts => {
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
            ("e\u{301}, e\u{301}\u{323}", "e\u{301}, e\u{301}\u{323}"),
            ("\u{301}e\n\u{301}", "\\u{301}e\\n\\u{301}"),
        ] {
            assert_eq!(shown(text), expected);
            assert_eq!(shown(expected), expected, "twice is as good as once");
        }
    }

    /// Unicode's Default_Ignorable_Code_Point, with what is reserved for more of them.
    const IGNORABLE: [(u32, u32); 18] = [
        (0xad, 0xad),
        (0x34f, 0x34f),
        (0x61c, 0x61c),
        (0x115f, 0x1160),
        (0x17b4, 0x17b5),
        (0x180b, 0x180f),
        (0x200b, 0x200f),
        (0x202a, 0x202e),
        (0x2060, 0x206f),
        (0x3164, 0x3164),
        (0xfe00, 0xfe0f),
        (0xfeff, 0xfeff),
        (0xffa0, 0xffa0),
        (0xfff0, 0xfff8),
        (0x1bca0, 0x1bca3),
        (0x1d173, 0x1d17a),
        (0xe0000, 0xe0fff),
        // C1, which is no such character and acts.
        (0x80, 0x9f),
    ];

    #[test]
    fn every_character_that_nobody_sees_is_shown() {
        for c in IGNORABLE.iter().flat_map(|(first, last)| *first..=*last).filter_map(char::from_u32) {
            let escape = format!("a\\u{{{:x}}}b", u32::from(c));
            assert_eq!(shown(&format!("a{c}b")), escape);
            assert_eq!(printable(&format!("a{c}b")), escape);
            assert!(!json(&format!("\"a{c}b\"")).contains(c) && !quoted(&format!("a{c}b")).contains(c), "{escape}");
        }
    }

    #[test]
    fn marks_do_not_pile_up() {
        for mark in ['\u{301}', '\u{489}', '\u{e47}', '\u{1dc0}', '\u{20dd}', '\u{fe20}'] {
            let pile = format!("a{}b", mark.to_string().repeat(5000));
            for text in [shown(&pile), printable(&pile), json(&pile)] {
                assert_eq!(text.matches(mark).count(), MARKS_MAX, "{text:?}");
            }
            assert_eq!(shown(&shown(&pile)), shown(&pile), "twice is as good as once");
            assert_eq!(quoted(&pile).matches(mark).count(), MARKS_MAX);
            let value: String = serde_json::from_str(&json(&format!("\"{pile}\""))).unwrap();
            assert_eq!(value, pile);
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
