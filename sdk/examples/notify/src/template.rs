//! Messages: text with `{field}` in it, made safe for where it goes.
//!
//! Values come from a chain, where anybody may write. So what a channel would take for markup is escaped, characters that
//! change how others read are left out, and everything is bounded.

use nexum_sdk::{Error, Result};

use crate::scanner::{Scanner, Wrong};
use crate::value::{Fields, Kind, Scope, Value};

const CHARS_MAX: usize = 4_096;
/// Characters of one value.
const VALUE_CHARS_MAX: usize = 200;

#[derive(Clone, Debug, PartialEq)]
pub struct Template(Vec<Piece>);

#[derive(Clone, Debug, PartialEq)]
enum Piece {
    Text(String),
    Field(String, Filter),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Filter {
    None,
    /// In units of ten to this.
    Scaled(usize),
    /// The first and the last digits.
    Short,
}

/// What a channel does with characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Markup {
    /// Nothing.
    Plain,
    /// Its three control characters.
    Slack,
    /// Markdown, links behind words among it.
    Discord,
}

impl Markup {
    /// Appends one character as it is to be read; `is_value` says that it is not the operator's.
    fn push(self, out: &mut String, c: char, is_value: bool) {
        match (self, c) {
            (Self::Slack, '&') => out.push_str("&amp;"),
            (Self::Slack, '<') => out.push_str("&lt;"),
            (Self::Slack, '>') => out.push_str("&gt;"),
            (Self::Discord, c) if is_value && "\\*_~`|<>#[]()@-".contains(c) => {
                out.push('\\');
                out.push(c);
            }
            _ => out.push(c),
        }
    }
}

/// What a text ends with that was cut.
const CUT: &str = "… [cut]";
/// Its length, as `Message` counts.
const CUT_UNITS: usize = 7;

/// A text that grows up to a length, in units of UTF-16: no place of those that are told counts fewer characters in it.
pub struct Message {
    text: String,
    units: usize,
    units_max: usize,
    /// Where it is cut if it gets too long, bytes.
    cut_at: usize,
    is_cut: bool,
    markup: Markup,
}

impl Message {
    pub fn new(markup: Markup, units_max: usize) -> Self {
        Self { text: String::new(), units: 0, units_max, cut_at: 0, is_cut: false, markup }
    }

    /// Whether there is nothing to read in it.
    pub fn is_blank(&self) -> bool {
        self.text.trim().is_empty()
    }

    /// Appends the operator's own words.
    pub fn text(&mut self, text: &str) {
        text.chars().for_each(|c| self.push(c, false));
    }

    /// Appends what came from elsewhere.
    pub fn value(&mut self, text: &str) {
        // One that has more shows that it is cut.
        let mut rest = text.chars().filter(|c| !reorders(*c));
        rest.by_ref().take(VALUE_CHARS_MAX).for_each(|c| self.push(if c.is_control() { ' ' } else { c }, true));
        if rest.next().is_some() {
            self.push('…', false);
        }
    }

    fn push(&mut self, c: char, is_value: bool) {
        if self.is_cut {
            return;
        }
        let mut escaped = String::new();
        self.markup.push(&mut escaped, c, is_value);
        self.units += escaped.encode_utf16().count();
        if self.units > self.units_max {
            self.text.truncate(self.cut_at);
            self.text.push_str(CUT);
            self.is_cut = true;
            return;
        }
        self.text.push_str(&escaped);
        if self.units + CUT_UNITS <= self.units_max {
            self.cut_at = self.text.len();
        }
    }

    pub fn finish(self) -> String {
        self.text
    }
}

/// Marks that are not seen and make others be read in another order.
fn reorders(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

impl Template {
    /// Reads a message over the fields of `scope`; `{{` and `}}` stand for braces.
    pub fn parse(text: &str, scope: &Scope) -> Result<Self, Wrong> {
        let mut scanner = Scanner::new(text, CHARS_MAX)?;
        let mut pieces = Vec::new();
        loop {
            let text = scanner.take(|c| c != '{' && c != '}');
            if !text.is_empty() {
                pieces.push(Piece::Text(text));
            }
            if scanner.eat("{{") {
                pieces.push(Piece::Text("{".to_owned()));
            } else if scanner.eat("}}") {
                pieces.push(Piece::Text("}".to_owned()));
            } else if scanner.is_at("}") {
                return Err(scanner.wrong("`}` without its `{`; write `}}` for the character itself"));
            } else if scanner.eat("{") {
                pieces.push(field(&mut scanner, scope)?);
            } else {
                return Ok(Self(pieces));
            }
        }
    }

    /// # Errors
    /// The event lacks a field that its kind of event always has.
    pub fn write(&self, fields: &Fields, message: &mut Message) -> Result<()> {
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => message.text(text),
                Piece::Field(name, filter) => {
                    let value = fields.find(name);
                    let value = value.ok_or_else(|| Error::msg(format!("this event has no field `{name}`")))?;
                    message.value(&filter.apply(value));
                }
            }
        }
        Ok(())
    }
}

impl Filter {
    fn apply(self, value: &Value) -> String {
        match (self, value) {
            (Self::Scaled(decimals), Value::Number(number)) => number.scaled(decimals),
            (Self::Short, value) => {
                let text = value.to_string();
                match (text.get(..6), text.get(text.len().saturating_sub(4)..)) {
                    (Some(first), Some(last)) if text.len() > 12 => format!("{first}…{last}"),
                    _ => text,
                }
            }
            (_, value) => value.to_string(),
        }
    }
}

/// What follows a `{`.
fn field(scanner: &mut Scanner, scope: &Scope) -> Result<Piece, Wrong> {
    let column = scanner.column();
    let name = scanner.word();
    let kind = match scope.find(&name) {
        Some(kind) => kind,
        None if name.is_empty() => {
            return Err(scanner.wrong("`{` begins the name of a field; write `{{` for the character itself"));
        }
        None => return Err(Wrong { column, message: scope.unknown(&name) }),
    };
    let mut filter = Filter::None;
    if scanner.eat("|") {
        let column = scanner.column();
        let word = scanner.word();
        filter = filter_of(&word, kind).map_err(|message| Wrong { column, message })?;
    }
    if !scanner.eat("}") {
        return Err(scanner.wrong(format!("expected `}}` after `{{{name}`")));
    }
    Ok(Piece::Field(name, filter))
}

fn filter_of(word: &str, kind: Kind) -> Result<Filter, String> {
    let decimals = match word {
        "ether" => Some(18),
        "gwei" => Some(9),
        _ => word.strip_prefix("1e").and_then(|zeros| zeros.parse().ok()).filter(|zeros| *zeros <= 77),
    };
    match (word, decimals, kind) {
        (_, Some(decimals), Kind::Number) => Ok(Filter::Scaled(decimals)),
        (_, Some(_), _) => Err(format!("`{word}` is for numbers, and this is {kind}")),
        ("short", None, Kind::Bytes(_)) => Ok(Filter::Short),
        ("short", None, _) => Err(format!("`short` is for addresses and hashes, and this is {kind}")),
        _ => Err(format!("`{word}` is not known here; after `|` comes 1e6 (or other zeros), ether, gwei or short")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Number;

    fn scope() -> Scope {
        let known = [("value", Kind::Number), ("to", Kind::Bytes(Some(20))), ("memo", Kind::Text)];
        Scope(known.map(|(name, kind)| (name.to_owned(), kind)).to_vec())
    }

    fn written(text: &str, memo: &str, markup: Markup, units_max: usize) -> String {
        let mut fields = Fields::default();
        fields.push("value", Value::Number(Number::from(1_500_000u64)));
        fields.push("to", Value::Bytes(vec![0x11; 20]));
        fields.push("memo", Value::Text(memo.into()));
        let mut message = Message::new(markup, units_max);
        Template::parse(text, &scope()).unwrap().write(&fields, &mut message).unwrap();
        message.finish()
    }

    #[test]
    fn fields_and_their_forms() {
        let text = "{value|1e6} of {value} to {to|short} {{{memo}}}";
        assert_eq!(written(text, "x", Markup::Plain, 500), "1.5 of 1500000 to 0x1111…1111 {x}");
        assert_eq!(written("{value|gwei}", "", Markup::Plain, 500), "0.0015");
    }

    #[test]
    fn what_is_wrong_is_said_with_its_column() {
        for (text, column, message) in [
            ("a {valeu}", 4, "`valeu` is not known here; known are value, to, memo"),
            ("a {}", 4, "`{` begins the name of a field; write `{{` for the character itself"),
            ("a }", 3, "`}` without its `{`; write `}}` for the character itself"),
            ("{value", 7, "expected `}` after `{value`"),
            ("{memo|1e6}", 7, "`1e6` is for numbers, and this is text"),
            ("{value|short}", 8, "`short` is for addresses and hashes, and this is a number"),
            ("{value|1e78}", 8, "`1e78` is not known here; after `|` comes 1e6 (or other zeros), ether, gwei or short"),
        ] {
            let wrong = Template::parse(text, &scope()).unwrap_err();
            assert_eq!((wrong.column, wrong.message.as_str()), (column, message), "{text}");
        }
    }

    #[test]
    fn a_value_cannot_speak_to_the_channel() {
        assert_eq!(written("a<b {memo}", "<!channel> & co", Markup::Slack, 500), "a&lt;b &lt;!channel&gt; &amp; co");
        let linked = written("**{memo}**", "[free](https://x.example/a_b)", Markup::Discord, 500);
        assert_eq!(linked, r"**\[free\]\(https://x.example/a\_b\)**");
        assert_eq!(written("{memo}", "a\nb\u{202e}c\u{7}", Markup::Plain, 500), "a b\u{63} ");
    }

    #[test]
    fn a_message_is_bounded_and_never_cut_within_an_escape() {
        assert_eq!(written("{memo}", &"x".repeat(300), Markup::Plain, 500).chars().count(), VALUE_CHARS_MAX + 1);
        assert_eq!(CUT.encode_utf16().count(), CUT_UNITS);
        assert_eq!(written("{memo}", &"<".repeat(100), Markup::Slack, 15), "&lt;&lt;… [cut]");
        assert_eq!(written("{memo}", &"<".repeat(100), Markup::Slack, 14), "&lt;… [cut]");
        assert_eq!(written("{memo}", "<<<", Markup::Slack, 12), "&lt;&lt;&lt;");
        let long = written(&"word ".repeat(800), "", Markup::Plain, 1_000);
        assert_eq!((long.chars().count(), long.ends_with("… [cut]")), (1_000, true));
        // A character of two units is one of them or none.
        assert_eq!(written(&"\u{1f514}".repeat(10), "", Markup::Plain, 12), "\u{1f514}\u{1f514}… [cut]");
        assert_eq!(written(&"\u{1f514}".repeat(6), "", Markup::Plain, 12), "\u{1f514}".repeat(6));
    }
}
