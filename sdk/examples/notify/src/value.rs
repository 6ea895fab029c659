//! Values that rules compare and messages show.

use std::cmp::Ordering;
use std::fmt;

use nexum_sdk::alloy::primitives::{Address, U256};
use nexum_sdk::hex;

use crate::scanner::{Scanner, Wrong};

/// Bytes of a value that are shown; of longer ones the beginning.
const SHOWN_BYTES_MAX: usize = 64;
/// The largest power of ten that has 256 bits.
const ZEROS_MAX: u32 = 77;

/// A whole number of at most 256 bits, and its sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number {
    negative: bool,
    magnitude: U256,
}

impl Number {
    pub fn new(negative: bool, magnitude: U256) -> Self {
        Self { negative: negative && !magnitude.is_zero(), magnitude }
    }

    /// A signed word as the EVM has it.
    pub fn from_word(word: U256) -> Self {
        if word.bit(255) { Self::new(true, word.wrapping_neg()) } else { Self::new(false, word) }
    }

    /// The number, when it is not negative.
    pub fn unsigned(self) -> Option<U256> {
        (!self.negative).then_some(self.magnitude)
    }

    /// The number in units of ten to the `decimals`, such as wei in ether.
    pub fn scaled(self, decimals: usize) -> String {
        let digits = format!("{:0>width$}", self.magnitude.to_string(), width = decimals + 1);
        let (whole, fraction) = digits.split_at(digits.len() - decimals);
        let fraction = fraction.trim_end_matches('0');
        let (sign, point) = (if self.negative { "-" } else { "" }, if fraction.is_empty() { "" } else { "." });
        format!("{sign}{whole}{point}{fraction}")
    }

    /// Reads a number such as `12`, `1_000`, `-3`, `1.5e18`, `0.2 ether` or `30 gwei`.
    pub fn scan(scanner: &mut Scanner) -> Result<Self, Wrong> {
        let column = scanner.column();
        let wrong = |message: &str| Wrong { column, message: message.to_owned() };
        let digits = |scanner: &mut Scanner| scanner.take(|c| c.is_ascii_digit() || c == '_').replace('_', "");
        let negative = scanner.eat("-");
        let whole = digits(scanner);
        if whole.is_empty() {
            return Err(wrong("a number begins with a digit"));
        }
        let fraction = if scanner.eat(".") { digits(scanner) } else { String::new() };
        let mut zeros = 0;
        if scanner.eat("e") {
            zeros = digits(scanner).parse().map_err(|_| wrong("after `e` comes the number of zeros, as in 1e18"))?;
        }
        zeros = match scanner.eat_word(&["ether", "gwei", "wei"]) {
            Some("ether") => 18u32.saturating_add(zeros),
            Some("gwei") => 9u32.saturating_add(zeros),
            _ => zeros,
        };
        let fraction = fraction.trim_end_matches('0');
        let places = u32::try_from(fraction.len()).unwrap_or(u32::MAX);
        let zeros =
            zeros.checked_sub(places).ok_or_else(|| wrong("this is no whole number: give its unit, as in 1.5e18"))?;
        let too_large = || wrong("this has more than 256 bits");
        let factor = U256::from(10u64).checked_pow(U256::from(zeros)).filter(|_| zeros <= ZEROS_MAX);
        let digits = U256::from_str_radix(&format!("{whole}{fraction}"), 10).map_err(|_| too_large())?;
        let magnitude = factor.and_then(|factor| digits.checked_mul(factor)).ok_or_else(too_large)?;
        Ok(Self::new(negative, magnitude))
    }
}

impl Ord for Number {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self.negative, other.negative) {
            (false, false) => self.magnitude.cmp(&other.magnitude),
            (true, true) => other.magnitude.cmp(&self.magnitude),
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
        }
    }
}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl From<u64> for Number {
    fn from(number: u64) -> Self {
        Self::new(false, U256::from(number))
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.negative { "-" } else { "" })?;
        self.magnitude.fmt(f)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Number(Number),
    Flag(bool),
    Text(String),
    /// Addresses and hashes, too.
    Bytes(Vec<u8>),
    List(Vec<Value>),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Flag(flag) => flag.fmt(f),
            Self::Text(text) => f.write_str(text),
            Self::Bytes(bytes) => match Address::try_from(bytes.as_slice()) {
                Ok(address) => address.fmt(f),
                Err(_) if bytes.len() > SHOWN_BYTES_MAX => {
                    write!(f, "0x{}… ({} bytes)", hex::encode(&bytes[..SHOWN_BYTES_MAX]), bytes.len())
                }
                Err(_) => write!(f, "0x{}", hex::encode(bytes)),
            },
            Self::List(values) => {
                f.write_str("[")?;
                for (at, value) in values.iter().enumerate() {
                    f.write_str(if at == 0 { "" } else { ", " })?;
                    value.fmt(f)?;
                }
                f.write_str("]")
            }
        }
    }
}

/// What a value is, as far as it is known before there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Number,
    Flag,
    Text,
    /// With their length, where it is always the same.
    Bytes(Option<usize>),
    List,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number => f.write_str("a number"),
            Self::Flag => f.write_str("true or false"),
            Self::Text => f.write_str("text"),
            Self::Bytes(Some(20)) => f.write_str("an address"),
            Self::Bytes(Some(length)) => write!(f, "{length} bytes"),
            Self::Bytes(None) => f.write_str("bytes"),
            Self::List => f.write_str("a list"),
        }
    }
}

/// The names that a rule's condition and messages may use. Of two that are equal the first counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scope(pub Vec<(String, Kind)>);

impl Scope {
    pub fn find(&self, name: &str) -> Option<Kind> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, kind)| *kind)
    }

    /// What is wrong with a name that is not known.
    pub fn unknown(&self, name: &str) -> String {
        let mut known: Vec<_> = self.0.iter().map(|(name, _)| name.as_str()).collect();
        known.dedup();
        format!("`{name}` is not known here; known are {}", known.join(", "))
    }
}

/// The values of one event, by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fields(pub Vec<(String, Value)>);

impl Fields {
    pub fn push(&mut self, name: &str, value: Value) {
        self.0.push((name.to_owned(), value));
    }

    pub fn find(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }
}

/// A time as `2026-11-28T09:30:00Z`.
pub fn time(at_ms: u64) -> Value {
    let seconds = at_ms / 1_000;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Years that begin in March, so that the day that a leap year has more is their last; in eras of 400 such years.
    let day = days + 719_468;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = if month < 10 { (year + era * 400, month + 3) } else { (year + era * 400 + 1, month - 9) };
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    Value::Text(format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Result<Number, String> {
        let mut scanner = Scanner::new(text, 200).unwrap();
        Number::scan(&mut scanner).map_err(|wrong| wrong.message)
    }

    #[test]
    fn numbers_as_people_write_them() {
        for (text, shown) in [
            ("12", "12"),
            ("1_000", "1000"),
            ("-3", "-3"),
            ("-0", "0"),
            ("1000000e6", "1000000000000"),
            ("1.5e3", "1500"),
            ("0.20 ether", "200000000000000000"),
            ("30gwei", "30000000000"),
            ("7 wei", "7"),
            ("1e77", &format!("1{}", "0".repeat(77))),
        ] {
            assert_eq!(number(text).unwrap().to_string(), shown, "{text}");
        }
        for (text, wrong) in [
            ("1.5", "this is no whole number: give its unit, as in 1.5e18"),
            ("1e78", "this has more than 256 bits"),
            ("2e77", "this has more than 256 bits"),
            ("1e4294967296", "after `e` comes the number of zeros, as in 1e18"),
            ("-x", "a number begins with a digit"),
        ] {
            assert_eq!(number(text).unwrap_err(), wrong, "{text}");
        }
    }

    #[test]
    fn numbers_compare_and_are_shown_with_their_sign() {
        let word = |text: &str| Number::from_word(U256::from_str_radix(text, 16).unwrap());
        let minus_two = word(&("f".repeat(63) + "e"));
        assert_eq!(minus_two, number("-2").unwrap());
        let mut sorted = [number("3"), number("-5"), Ok(minus_two), number("0")].map(Result::unwrap);
        sorted.sort();
        assert_eq!(sorted.map(|number| number.to_string()), ["-5", "-2", "0", "3"]);
        assert_eq!((minus_two.unsigned(), number("3").unwrap().unsigned()), (None, Some(U256::from(3u64))));
        for (text, decimals, shown) in
            [("1500000", 6, "1.5"), ("1", 6, "0.000001"), ("0", 6, "0"), ("-25", 1, "-2.5"), ("70", 0, "70")]
        {
            assert_eq!(number(text).unwrap().scaled(decimals), shown);
        }
    }

    #[test]
    fn values_are_shown_as_explorers_show_them() {
        let shown = |value: Value| value.to_string();
        let address = hex::decode("5fbdb2315678afecb367f032d93f642f64180aa3").unwrap();
        assert_eq!(shown(Value::Bytes(address)), "0x5FbDB2315678afecb367f032d93F642f64180aa3");
        assert_eq!(shown(Value::Bytes(vec![7; 2])), "0x0707");
        assert!(shown(Value::Bytes(vec![7; 65])).ends_with("07… (65 bytes)"));
        assert_eq!(shown(Value::List(vec![Value::Flag(true), Value::Text("x".into())])), "[true, x]");
        for (at_ms, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400_000, "2000-02-29T00:00:00Z"),
            (1_700_000_000_999, "2023-11-14T22:13:20Z"),
            (4_107_542_399_000, "2100-02-28T23:59:59Z"),
        ] {
            assert_eq!(shown(time(at_ms)), text);
        }
    }
}
