//! The language of `when`: comparisons of an event's fields, joined by `&&`, `||` and `!`.
//!
//! It has no arithmetic, no loops and no calls. What it names and compares is checked when it is read, so that a condition
//! that was read has an answer for every event.

use nexum_sdk::alloy::primitives::U256;
use nexum_sdk::{Error, Result, hex};

use crate::scanner::{Scanner, Wrong};
use crate::value::{Fields, Kind, Number, Scope, Value};

const CHARS_MAX: usize = 4_096;
/// Parentheses and `!` within each other.
const DEPTH_MAX: usize = 32;

#[derive(Clone, Debug, PartialEq)]
pub struct Condition(Node);

#[derive(Clone, Debug, PartialEq)]
enum Node {
    Any(Vec<Node>),
    All(Vec<Node>),
    Not(Box<Node>),
    Compare(Operand, Operator, Operand),
}

#[derive(Clone, Debug, PartialEq)]
enum Operand {
    Field(String),
    Literal(Value),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Less,
    AtMost,
    Greater,
    AtLeast,
}

/// Longer ones before their beginnings.
const OPERATORS: [(&str, Operator); 6] = [
    ("==", Operator::Equal),
    ("!=", Operator::NotEqual),
    ("<=", Operator::AtMost),
    (">=", Operator::AtLeast),
    ("<", Operator::Less),
    (">", Operator::Greater),
];

impl Condition {
    /// Reads a condition over the fields of `scope`.
    pub fn parse(text: &str, scope: &Scope) -> Result<Self, Wrong> {
        let mut parser = Parser { scanner: Scanner::new(text, CHARS_MAX)?, scope, depth: 0 };
        let node = parser.any()?;
        parser.scanner.blanks();
        match parser.scanner.peek() {
            None => Ok(Self(node)),
            Some(_) => Err(parser.unexpected("`&&`, `||` or the end")),
        }
    }

    /// # Errors
    /// The event lacks a field that its kind of event always has.
    pub fn holds(&self, fields: &Fields) -> Result<bool> {
        self.0.holds(fields)
    }
}

impl Node {
    fn holds(&self, fields: &Fields) -> Result<bool> {
        Ok(match self {
            Self::Any(nodes) => {
                for node in nodes {
                    if node.holds(fields)? {
                        return Ok(true);
                    }
                }
                false
            }
            Self::All(nodes) => {
                for node in nodes {
                    if !node.holds(fields)? {
                        return Ok(false);
                    }
                }
                true
            }
            Self::Not(node) => !node.holds(fields)?,
            Self::Compare(left, operator, right) => operator.holds(left.value(fields)?, right.value(fields)?)?,
        })
    }
}

impl Operand {
    fn value<'a>(&'a self, fields: &'a Fields) -> Result<&'a Value> {
        match self {
            Self::Literal(value) => Ok(value),
            Self::Field(name) => {
                fields.find(name).ok_or_else(|| Error::msg(format!("this event has no field `{name}`")))
            }
        }
    }
}

impl Operator {
    fn holds(self, left: &Value, right: &Value) -> Result<bool> {
        Ok(match (self, left, right) {
            (Self::Equal, left, right) => left == right,
            (Self::NotEqual, left, right) => left != right,
            (Self::Less, Value::Number(left), Value::Number(right)) => left < right,
            (Self::AtMost, Value::Number(left), Value::Number(right)) => left <= right,
            (Self::Greater, Value::Number(left), Value::Number(right)) => left > right,
            (Self::AtLeast, Value::Number(left), Value::Number(right)) => left >= right,
            _ => return Err(Error::msg("what is compared is no number")),
        })
    }
}

/// An operand before it is known what it is compared with.
#[derive(Clone)]
enum Read {
    Field(String, Kind),
    Value(Value, Kind),
    /// Digits after `0x`: bytes, or a number where one is wanted.
    Hex(String),
}

impl Read {
    fn shown(&self) -> String {
        match self {
            Self::Field(name, kind) => format!("`{name}` is {kind}"),
            Self::Value(value, kind) => format!("`{value}` is {kind}"),
            Self::Hex(digits) => format!("`0x{digits}` is bytes"),
        }
    }

    /// What it is beside something of this kind.
    fn beside(&self, other: &Self) -> Result<(Operand, Kind), String> {
        match self {
            Self::Field(name, kind) => Ok((Operand::Field(name.clone()), *kind)),
            Self::Value(value, kind) => Ok((Operand::Literal(value.clone()), *kind)),
            Self::Hex(digits) => {
                if matches!(other, Self::Field(_, Kind::Number) | Self::Value(_, Kind::Number)) {
                    let number = U256::from_str_radix(digits, 16).ok().filter(|_| digits.len() <= 64);
                    let number = number.ok_or_else(|| format!("`0x{digits}` has more than 256 bits"))?;
                    return Ok((Operand::Literal(Value::Number(Number::new(false, number))), Kind::Number));
                }
                let bytes = hex::decode(digits).map_err(|error| error.message().to_owned())?;
                let kind = Kind::Bytes(Some(bytes.len()));
                Ok((Operand::Literal(Value::Bytes(bytes)), kind))
            }
        }
    }
}

struct Parser<'a> {
    scanner: Scanner,
    scope: &'a Scope,
    depth: usize,
}

impl Parser<'_> {
    fn any(&mut self) -> Result<Node, Wrong> {
        self.joined("||", Self::all, Node::Any)
    }

    fn all(&mut self) -> Result<Node, Wrong> {
        self.joined("&&", Self::one, Node::All)
    }

    fn joined(
        &mut self,
        by: &str,
        part: impl Fn(&mut Self) -> Result<Node, Wrong>,
        join: impl Fn(Vec<Node>) -> Node,
    ) -> Result<Node, Wrong> {
        let first = part(self)?;
        let mut nodes = vec![first];
        loop {
            self.scanner.blanks();
            if !self.scanner.eat(by) {
                break;
            }
            nodes.push(part(self)?);
        }
        Ok(match (nodes.pop(), nodes.is_empty()) {
            (Some(only), true) => only,
            (last, _) => {
                nodes.extend(last);
                join(nodes)
            }
        })
    }

    fn one(&mut self) -> Result<Node, Wrong> {
        self.scanner.blanks();
        let opens = self.scanner.is_at("(");
        if opens || (self.scanner.is_at("!") && !self.scanner.is_at("!=")) {
            if self.depth == DEPTH_MAX {
                return Err(self.scanner.wrong(format!("more than {DEPTH_MAX} `(` and `!` within each other")));
            }
            self.scanner.bump();
            self.depth += 1;
            let inner = if opens { self.any()? } else { Node::Not(Box::new(self.one()?)) };
            self.depth -= 1;
            self.scanner.blanks();
            if opens && !self.scanner.eat(")") {
                return Err(self.unexpected("`&&`, `||` or `)`"));
            }
            return Ok(inner);
        }
        self.comparison()
    }

    fn comparison(&mut self) -> Result<Node, Wrong> {
        let column = self.scanner.column();
        let left = self.operand()?;
        if self.scanner.eat_word(&["in"]).is_some() {
            return self.list(&left);
        }
        self.scanner.blanks();
        let operator = OPERATORS.iter().find(|(text, _)| self.scanner.eat(text)).map(|(_, operator)| *operator);
        match operator {
            Some(operator) => {
                self.scanner.blanks();
                let column = self.scanner.column();
                let right = self.operand()?;
                compare(&left, operator, &right).map_err(|message| Wrong { column, message })
            }
            None if matches!(self.scanner.peek(), Some('=' | '+' | '-' | '*' | '/' | '%' | '&' | '|')) => {
                // The doubled ones were meant for whoever called this.
                if self.scanner.is_at("&&") || self.scanner.is_at("||") {
                    alone(&left, column)
                } else {
                    Err(self.unexpected("a comparison"))
                }
            }
            None => alone(&left, column),
        }
    }

    /// `[a, b]` after `in`.
    fn list(&mut self, left: &Read) -> Result<Node, Wrong> {
        self.scanner.blanks();
        if !self.scanner.eat("[") {
            return Err(self.unexpected("`[` after `in`, as in: to in [0x…, 0x…]"));
        }
        let mut nodes = Vec::new();
        loop {
            self.scanner.blanks();
            let column = self.scanner.column();
            let item = self.operand()?;
            nodes.push(compare(left, Operator::Equal, &item).map_err(|message| Wrong { column, message })?);
            self.scanner.blanks();
            if self.scanner.eat("]") {
                return Ok(Node::Any(nodes));
            }
            if !self.scanner.eat(",") {
                return Err(self.unexpected("`,` or `]`"));
            }
        }
    }

    fn operand(&mut self) -> Result<Read, Wrong> {
        self.scanner.blanks();
        let column = self.scanner.column();
        match self.scanner.peek() {
            Some(quote @ ('"' | '\'')) => {
                self.scanner.bump();
                let text = self.scanner.take(|c| c != quote);
                if self.scanner.bump().is_none() {
                    return Err(Wrong { column, message: format!("this text has no closing {quote}") });
                }
                Ok(Read::Value(Value::Text(text), Kind::Text))
            }
            Some('0') if self.scanner.eat("0x") => {
                let digits = self.scanner.take(|c| c.is_ascii_alphanumeric());
                match digits.chars().find(|c| !c.is_ascii_hexdigit()) {
                    Some(c) => Err(Wrong { column, message: format!("`{c}` is no hex digit") }),
                    None if digits.is_empty() => Err(Wrong { column, message: "there are no digits after 0x".into() }),
                    None => Ok(Read::Hex(digits)),
                }
            }
            Some(c) if c.is_ascii_digit() || c == '-' => {
                Ok(Read::Value(Value::Number(Number::scan(&mut self.scanner)?), Kind::Number))
            }
            Some(c) if c.is_ascii_alphabetic() || c == '_' => match self.scanner.word().as_str() {
                "true" => Ok(Read::Value(Value::Flag(true), Kind::Flag)),
                "false" => Ok(Read::Value(Value::Flag(false), Kind::Flag)),
                "not" => Err(Wrong { column, message: "write `!` for not".into() }),
                name => match self.scope.find(name) {
                    Some(kind) => Ok(Read::Field(name.to_owned(), kind)),
                    None => Err(Wrong { column, message: self.scope.unknown(name) }),
                },
            },
            _ => Err(self.unexpected("a field, a number, an address or text")),
        }
    }

    fn unexpected(&mut self, wanted: &str) -> Wrong {
        let found = match self.scanner.peek_word().as_str() {
            "" => self.scanner.peek().map_or_else(|| "it ends".to_owned(), |c| format!("there is `{c}`")),
            word => format!("there is `{word}`"),
        };
        let word = self.scanner.peek_word();
        let hint = match (word.as_str(), self.scanner.peek()) {
            ("and", _) | (_, Some('&')) => "; write `&&`",
            ("or", _) | (_, Some('|')) => "; write `||`",
            (_, Some('=')) => "; write `==`",
            (_, Some('+' | '-' | '*' | '/' | '%')) => "; there is no arithmetic",
            _ => "",
        };
        self.scanner.wrong(format!("expected {wanted}, and {found}{hint}"))
    }
}

/// An operand that stands for itself.
fn alone(operand: &Read, column: usize) -> Result<Node, Wrong> {
    let yes = Read::Value(Value::Flag(true), Kind::Flag);
    compare(operand, Operator::Equal, &yes)
        .map_err(|_| Wrong { column, message: format!("{}: compare it with something", operand.shown()) })
}

fn compare(left: &Read, operator: Operator, right: &Read) -> Result<Node, String> {
    let ((left_operand, left_kind), (right_operand, right_kind)) = (left.beside(right)?, right.beside(left)?);
    let fits = match (left_kind, right_kind) {
        (Kind::List, _) | (_, Kind::List) => return Err(format!("{}, and lists cannot be compared", left.shown())),
        (Kind::Bytes(Some(left)), Kind::Bytes(Some(right))) => left == right,
        (Kind::Bytes(_), Kind::Bytes(_)) => true,
        (left, right) => left == right,
    };
    if !fits {
        let address = if [left_kind, right_kind].contains(&Kind::Bytes(Some(20))) {
            "; an address is 0x and 40 digits"
        } else {
            ""
        };
        return Err(format!("{}, and is compared with {right_kind}{address}", left.shown()));
    }
    let ordered = !matches!(operator, Operator::Equal | Operator::NotEqual);
    if ordered && left_kind != Kind::Number {
        return Err(format!("{}: only numbers are more or less; use `==` or `!=`", left.shown()));
    }
    Ok(Node::Compare(left_operand, operator, right_operand))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: &str = "0x00000000000000000000000000000000000000aA";

    fn scope() -> Scope {
        let known = [
            ("value", Kind::Number),
            ("to", Kind::Bytes(Some(20))),
            ("memo", Kind::Text),
            ("ok", Kind::Flag),
            ("ids", Kind::List),
            ("data", Kind::Bytes(None)),
        ];
        Scope(known.map(|(name, kind)| (name.to_owned(), kind)).to_vec())
    }

    fn holds(text: &str) -> bool {
        let mut to = vec![0; 20];
        to[19] = 0xaa;
        let mut fields = Fields::default();
        fields.push("value", Value::Number(Number::from(1_500u64)));
        fields.push("to", Value::Bytes(to));
        fields.push("memo", Value::Text("rent".into()));
        fields.push("ok", Value::Flag(true));
        fields.push("data", Value::Bytes(vec![1, 2]));
        Condition::parse(text, &scope()).unwrap_or_else(|wrong| panic!("{text}: {wrong}")).holds(&fields).unwrap()
    }

    #[test]
    fn what_holds_and_what_does_not() {
        for text in [
            "value >= 1.5e3",
            "value==0x5dc",
            "value > -1 && value < 1e18",
            &format!("to == {ADDRESS}"),
            &format!("to in [0x{}, {ADDRESS}]", "0".repeat(40)),
            "memo == 'rent' || value == 0",
            "memo != \"Rent\"",
            "ok",
            "!(value < 1_000) && !!ok",
            "data == 0x0102",
            "value == 0 || value == 1500 && ok == true",
            "value in [1, 1500]",
            "ok&&value>0",
        ] {
            assert!(holds(text), "{text}");
        }
        for text in ["!ok", "value < 1 ether && memo == 'x'", "(value == 0 || value == 1500) && ok == false"] {
            assert!(!holds(text), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_column_and_what_would_be_right() {
        for (text, column, message) in [
            ("valeu > 1", 1, "`valeu` is not known here; known are value, to, memo, ok, ids, data"),
            ("value > 1 and ok", 11, "expected `&&`, `||` or the end, and there is `and`; write `&&`"),
            ("value = 1", 7, "expected a comparison, and there is `=`; write `==`"),
            ("value + 1 > 2", 7, "expected a comparison, and there is `+`; there is no arithmetic"),
            ("value > 1.5", 9, "this is no whole number: give its unit, as in 1.5e18"),
            ("value", 1, "`value` is a number: compare it with something"),
            ("value && ok", 1, "`value` is a number: compare it with something"),
            ("to == 0xaa", 7, "`to` is an address, and is compared with 1 bytes; an address is 0x and 40 digits"),
            ("to == 0xaag", 7, "`g` is no hex digit"),
            ("to > 5", 6, "`to` is an address, and is compared with a number; an address is 0x and 40 digits"),
            ("memo < 'a'", 8, "`memo` is text: only numbers are more or less; use `==` or `!=`"),
            ("memo == 'a", 9, "this text has no closing '"),
            ("ids == 1", 8, "`ids` is a list, and lists cannot be compared"),
            ("(ok", 4, "expected `&&`, `||` or `)`, and it ends"),
            ("ok &&", 6, "expected a field, a number, an address or text, and it ends"),
            ("ok & ok", 4, "expected a comparison, and there is `&`; write `&&`"),
            ("value in (1)", 10, "expected `[` after `in`, as in: to in [0x…, 0x…], and there is `(`"),
            ("not ok", 1, "write `!` for not"),
            ("", 1, "expected a field, a number, an address or text, and it ends"),
        ] {
            let wrong = Condition::parse(text, &scope()).unwrap_err();
            assert_eq!((wrong.column, wrong.message.as_str()), (column, message), "{text}");
        }
    }

    #[test]
    fn a_condition_is_bounded() {
        let deep = |depth: usize| format!("{}ok{}", "(".repeat(depth), ")".repeat(depth));
        assert!(Condition::parse(&deep(DEPTH_MAX), &scope()).is_ok());
        assert_eq!(Condition::parse(&deep(DEPTH_MAX + 1), &scope()).unwrap_err().column, DEPTH_MAX + 1);
        assert!(Condition::parse(&"!".repeat(100_000), &scope()).is_err());
        assert!(Condition::parse(&format!("ok{}", " ".repeat(CHARS_MAX)), &scope()).is_err());
    }
}
