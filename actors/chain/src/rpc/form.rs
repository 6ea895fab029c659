//! The forms in which nodes write numbers, hashes and bytes, and the walk through objects and lists. One tolerant reader
//! for all of them.
//!
//! A form is accepted when only one value can be meant by it, and what is accepted is accepted everywhere. Nothing here
//! builds a tree or recurses, so that an answer of any depth costs no more than its length. An error quotes at most
//! [`QUOTED_CHARS_MAX`] characters of what was read.
//!
//! Leaves to others: which fields must be there, and what their values mean.

use std::fmt;

use alloy::primitives::U256;
use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeOwned, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess},
};
use serde_json::value::RawValue;

/// Longest piece of what was read that an error quotes.
pub const QUOTED_CHARS_MAX: usize = 60;
const HEX_DIGITS_MAX: usize = 64;
/// Digits of the largest number of 256 bits.
const DECIMAL_DIGITS_MAX: usize = 78;
/// Whole floating point numbers up to this one are exact.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// A number that fits 64 bits: `"0x1a"`, `"0X1A"`, `"0x001a"`, `"26"`, `" 26.0 "`, `26`, `26.0`, and `"0x"` for zero.
///
/// Digits without `0x` are decimal ones, so letters among them are refused, as is nothing at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quantity(pub u64);

/// The same of up to 256 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wide(pub U256);

/// So many bytes in hexadecimal digits, with or without `0x`. Zeros in front may be left out, and there may be too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fixed<const N: usize>(pub [u8; N]);

/// Any number of bytes in hexadecimal digits, with or without `0x`; `""` and `"0x"` are no bytes.
///
/// An odd number of digits is refused. Somebody left zeros out, and how many bytes were meant cannot be told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Data(pub Vec<u8>);

/// The beginning of what was read, for an error.
pub fn quote(text: &str) -> String {
    let mut quoted: String = text.chars().take(QUOTED_CHARS_MAX).map(printable).collect();
    if text.chars().nth(QUOTED_CHARS_MAX).is_some() {
        quoted.pop();
        quoted.push('…');
    }
    format!("`{quoted}`")
}

/// The same character, or a blank for one that would upset a terminal or a line of a log.
pub fn printable(character: char) -> char {
    let turns = matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}');
    if character.is_control() || turns { ' ' } else { character }
}

/// What kind of JSON begins here.
pub fn kind(json: &str) -> &'static str {
    match json.trim_start().bytes().next() {
        None => "nothing",
        Some(b'{') => "an object",
        Some(b'[') => "a list",
        Some(b'"') => "a text",
        Some(b't' | b'f') => "true or false",
        Some(b'n') => "null",
        Some(b'-' | b'0'..=b'9') => "a number",
        Some(_) => "no JSON",
    }
}

/// What `serde_json` says, with no more of the text than an error may quote.
pub fn words(error: &serde_json::Error) -> String {
    let said = error.to_string();
    let place = said.rfind(" at line ").filter(|_| error.is_data());
    let said = &said[..place.unwrap_or(said.len())];
    // Texts of the wrong type are quoted whole.
    let quoted = said.find("string \"").map(|at| at + "string ".len()).zip(said.rfind("\", expected"));
    match quoted {
        Some((from, to)) if from < to => format!("{}{}{}", &said[..from], quote(&said[from + 1..to]), &said[to + 1..]),
        _ => said.to_owned(),
    }
}

/// One value of JSON.
pub fn read<T: DeserializeOwned>(json: &str) -> Result<T, String> {
    serde_json::from_str(json).map_err(|error| words(&error))
}

/// The value of a field, unless it is absent, null or an empty text: then nothing was told.
pub fn optional<T: DeserializeOwned>(name: &str, json: Option<&str>) -> Result<Option<T>, String> {
    match json.map(str::trim) {
        None | Some("null" | "" | "\"\"") => Ok(None),
        Some(json) => read(json).map(Some).map_err(|error| format!("`{name}`: {error}")),
    }
}

/// The value of a field that must be there.
pub fn required<T: DeserializeOwned>(name: &str, json: Option<&str>) -> Result<T, String> {
    optional(name, json)?.ok_or_else(|| format!("it has no `{name}`"))
}

/// Whether a flag is up: `true`, `"true"`, `1`, `"0x1"`; down when nothing was told.
pub fn flag(name: &str, json: Option<&str>) -> Result<bool, String> {
    let json = json.map(str::trim);
    match json.map(|json| json.trim_matches('"').to_ascii_lowercase()).as_deref() {
        None | Some("null" | "" | "false" | "0" | "0x0" | "0x") => Ok(false),
        Some("true" | "1" | "0x1") => Ok(true),
        Some(_) => Err(format!("`{name}`: {} is neither true nor false", quote(json.unwrap_or_default()))),
    }
}

struct Names<'n>(&'n [&'n str]);

impl<'de> DeserializeSeed<'de> for Names<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<usize>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl de::Visitor<'_> for Names<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<Option<usize>, E> {
        Ok(self.0.iter().position(|wanted| *wanted == name))
    }
}

struct Fields<'n, const N: usize>(&'n [&'n str; N]);

impl<'de, const N: usize> de::Visitor<'de> for Fields<'_, N> {
    type Value = [Option<&'de str>; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = [None; N];
        while let Some(at) = map.next_key_seed(Names(self.0))? {
            match at {
                Some(at) => found[at] = Some(map.next_value::<&'de RawValue>()?.get()),
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(found)
    }
}

/// The JSON of these fields of an object. Of a field that is there twice the last counts, as in JavaScript and Go.
pub fn fields<'a, const N: usize>(json: &'a str, names: &[&str; N]) -> Result<[Option<&'a str>; N], String> {
    if kind(json) != "an object" {
        return Err(format!("it is {} where an object is expected: {}", kind(json), quote(json)));
    }
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let found = deserializer.deserialize_map(Fields(names)).map_err(|error| error.to_string())?;
    deserializer.end().map_err(|error| error.to_string())?;
    Ok(found)
}

struct Items<'f, 'a> {
    take: &'f mut dyn FnMut(&'a str) -> Result<(), String>,
    refused: &'f mut Option<String>,
}

impl<'a> de::Visitor<'a> for Items<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(item) = list.next_element::<&'a RawValue>()? {
            if let Err(error) = (self.take)(item.get()) {
                *self.refused = Some(error);
                return Err(de::Error::custom("refused"));
            }
        }
        Ok(())
    }
}

/// Hands over the JSON of a list's items one by one, until one is refused.
pub fn items<'a>(json: &'a str, mut take: impl FnMut(&'a str) -> Result<(), String>) -> Result<(), String> {
    if kind(json) != "a list" {
        return Err(format!("it is {} where a list is expected: {}", kind(json), quote(json)));
    }
    let mut refused = None;
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let walked = deserializer.deserialize_seq(Items { take: &mut take, refused: &mut refused });
    match (refused, walked.and_then(|()| deserializer.end())) {
        (Some(error), _) => Err(error),
        (None, walked) => walked.map_err(|error| error.to_string()),
    }
}

fn digits(text: &str) -> Option<&str> {
    text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"))
}

fn wide(text: &str) -> Result<U256, String> {
    let trimmed = text.trim();
    let (digits, radix, digits_max) = match digits(trimmed) {
        Some(hex) => (hex, 16, HEX_DIGITS_MAX),
        // A fraction of zeros only is none.
        None => match trimmed.split_once('.') {
            Some((whole, fraction)) if !fraction.is_empty() && fraction.bytes().all(|byte| byte == b'0') => {
                (whole, 10, DECIMAL_DIGITS_MAX)
            }
            _ => (trimmed, 10, DECIMAL_DIGITS_MAX),
        },
    };
    let is_digit = |byte: u8| if radix == 16 { byte.is_ascii_hexdigit() } else { byte.is_ascii_digit() };
    if !digits.bytes().all(is_digit) || (digits.is_empty() && radix == 10) {
        return Err(format!("{} is no number", quote(text)));
    }
    let significant = digits.trim_start_matches('0');
    let too_large = || format!("{} is too large", quote(text));
    if significant.len() > digits_max {
        return Err(too_large());
    }
    match significant {
        "" => Ok(U256::ZERO),
        significant => U256::from_str_radix(significant, radix).map_err(|_| too_large()),
    }
}

struct Number;

impl de::Visitor<'_> for Number {
    type Value = U256;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number")
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<U256, E> {
        Ok(U256::from(number))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<U256, E> {
        u64::try_from(number).map(U256::from).map_err(|_| E::custom(format!("{number} is below zero")))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<U256, E> {
        if number.fract() != 0.0 || number < 0.0 {
            return Err(E::custom(format!("{number:e} is no whole number")));
        }
        match number <= EXACT_MAX {
            true => Ok(U256::from(number as u64)),
            false => Err(E::custom(format!("{number:e} is not exact"))),
        }
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<U256, E> {
        wide(text).map_err(E::custom)
    }
}

impl<'de> Deserialize<'de> for Wide {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Number).map(Self)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = deserializer.deserialize_any(Number)?;
        u64::try_from(number).map(Self).map_err(|_| de::Error::custom(format!("{number:#x} does not fit 64 bits")))
    }
}

/// Bytes in hexadecimal digits. A zero is put before an odd number of digits where that is `padded`.
struct Hex {
    padded: bool,
}

impl de::Visitor<'_> for Hex {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes in hexadecimal digits")
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Vec<u8>, E> {
        // serde would quote all of its digits.
        Err(E::custom("a number where bytes in hexadecimal digits are expected"))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<u8>, E> {
        let trimmed = text.trim();
        // An address of XDC Network begins with its letters.
        let hex = digits(trimmed).or_else(|| trimmed.strip_prefix("xdc")).unwrap_or(trimmed);
        let bytes = match hex.len() % 2 {
            0 => hex::decode(hex),
            _ if self.padded => hex::decode(format!("0{hex}")),
            _ => return Err(E::custom(format!("{} has an odd number of digits", quote(text)))),
        };
        bytes.map_err(|_| E::custom(format!("{} is not in hexadecimal digits", quote(text))))
    }
}

impl<'de> Deserialize<'de> for Data {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Hex { padded: false }).map(Self)
    }
}

impl<'de, const N: usize> Deserialize<'de> for Fixed<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = deserializer.deserialize_any(Hex { padded: true })?;
        let wrong = || de::Error::custom(format!("{} bytes where {N} are expected", bytes.len()));
        // Nothing at all is not a number with its zeros left out.
        if bytes.is_empty() && N > 0 {
            return Err(wrong());
        }
        let (excess, rest) = bytes.split_at(bytes.len().saturating_sub(N));
        if excess.iter().any(|byte| *byte != 0) {
            return Err(wrong());
        }
        let mut fixed = [0; N];
        fixed[N - rest.len()..].copy_from_slice(rest);
        Ok(Self(fixed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `Err` holds a piece of the error.
    fn check<T: DeserializeOwned + PartialEq + fmt::Debug>(cases: &[(&str, Result<T, &str>)]) {
        for (json, expected) in cases {
            match (read::<T>(json), expected) {
                (Ok(value), Ok(expected)) => assert_eq!(value, *expected, "{json}"),
                (Err(error), Err(expected)) => {
                    assert!(error.contains(expected), "{json}: {error}");
                    assert!(error.len() < 200, "{error}");
                }
                (result, _) => panic!("{json}: {result:?}"),
            }
        }
    }

    #[test]
    fn numbers_are_written_in_many_forms() {
        let zeros = format!("\"0x{}1a\"", "0".repeat(1_000));
        let long = format!("\"{}\"", "9".repeat(1_000));
        let n = |number| Ok(Quantity(number));
        check(&[
            (r#""0x1a""#, n(26)),
            (r#""0X1A""#, n(26)),
            (r#""0x001a""#, n(26)),
            (r#"" 0x1a\n""#, n(26)),
            (r#""0x""#, n(0)),
            (r#""0x0""#, n(0)),
            (r#""26""#, n(26)),
            (r#""0026""#, n(26)),
            (r#""26.00""#, n(26)),
            ("26", n(26)),
            ("26.0", n(26)),
            ("2.6e1", n(26)),
            ("-0.0", n(0)),
            ("18446744073709551615", n(u64::MAX)),
            (r#""0xffffffffffffffff""#, n(u64::MAX)),
            (zeros.as_str(), n(26)),
            (r#""0x10000000000000000""#, Err("does not fit 64 bits")),
            (long.as_str(), Err("too large")),
            ("1e300", Err("not exact")),
            ("1e400", Err("out of range")),
            ("-1", Err("below zero")),
            ("2.5", Err("no whole number")),
            (r#""""#, Err("`` is no number")),
            (r#""1a""#, Err("`1a` is no number")),
            (r#""0x1_0""#, Err("no number")),
            (r#""1_0""#, Err("no number")),
            (r#""+1""#, Err("no number")),
            (r#""-0x1""#, Err("no number")),
            (r#""26.""#, Err("no number")),
            (r#""26.5""#, Err("no number")),
            ("true", Err("invalid type: boolean")),
            ("null", Err("invalid type: null")),
            ("[[[[1]]]]", Err("invalid type: sequence")),
            ("{}", Err("invalid type: map")),
        ]);
        let max = format!("\"{}\"", U256::MAX);
        let above = max.replace("5\"", "6\"");
        check(&[
            (max.as_str(), Ok(Wide(U256::MAX))),
            (above.as_str(), Err("too large")),
            (r#""0x1""#, Ok(Wide(U256::from(1)))),
        ]);
    }

    #[test]
    fn zeros_are_left_out_of_hashes_or_put_before_addresses() {
        check(&[
            (r#""0x0102""#, Ok(Fixed([1, 2]))),
            (r#""0X0aF0""#, Ok(Fixed([10, 240]))),
            (r#""xdc0af0""#, Ok(Fixed([10, 240]))),
            (r#""0102""#, Ok(Fixed([1, 2]))),
            (r#""0x102""#, Ok(Fixed([1, 2]))),
            (r#""0x2""#, Ok(Fixed([0, 2]))),
            (r#""0x0""#, Ok(Fixed([0, 0]))),
            (r#""0x00000102""#, Ok(Fixed([1, 2]))),
            (r#""0x010203""#, Err("3 bytes where 2 are expected")),
            (r#""0x""#, Err("0 bytes")),
            (r#""""#, Err("0 bytes")),
            (r#""0xzz00""#, Err("not in hexadecimal digits")),
            (r#""0xé""#, Err("not in hexadecimal digits")),
            ("12", Err("invalid type: integer")),
            ("1e308", Err("a number where bytes")),
        ]);
    }

    #[test]
    fn an_odd_number_of_digits_is_no_data() {
        check(&[
            (r#""0x00ff""#, Ok(Data(vec![0, 255]))),
            (r#""00ff""#, Ok(Data(vec![0, 255]))),
            (r#""0x""#, Ok(Data(vec![]))),
            (r#""""#, Ok(Data(vec![]))),
            (r#""0x0""#, Err("odd number of digits")),
            (r#""0x123""#, Err("odd number of digits")),
            (r#""hello!""#, Err("not in hexadecimal digits")),
        ]);
    }

    #[test]
    fn an_error_quotes_the_beginning_only() {
        assert_eq!(quote("a\u{0}b\u{202e}c"), "`a b c`");
        let quoted = quote(&"é".repeat(1_000));
        assert_eq!(quoted.chars().count(), QUOTED_CHARS_MAX + 2);
        assert!(quoted.ends_with("é…`"));
        assert_eq!(quote(&"a".repeat(QUOTED_CHARS_MAX)), format!("`{}`", "a".repeat(QUOTED_CHARS_MAX)));
    }

    #[test]
    fn a_text_of_the_wrong_type_is_quoted_no_further() {
        let error = serde_json::from_str::<Vec<u8>>(&format!("\"{}\"", "x".repeat(1_000))).unwrap_err();
        let quoted = format!("{}…", "x".repeat(QUOTED_CHARS_MAX - 1));
        assert_eq!(words(&error), format!("invalid type: string `{quoted}`, expected a sequence"));
    }

    #[test]
    fn fields_that_are_there_twice_or_deep_do_not_confuse() {
        let deep = format!(r#"{{"skip":{}{},"a":1}}"#, "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(fields(&deep, &["a"]), Ok([Some("1")]));
        assert_eq!(fields(r#"{"a":1,"b":null,"a" : [2] }"#, &["a", "b", "c"]), Ok([Some("[2]"), Some("null"), None]));
        assert_eq!(fields(r#"{"\u0061":1}"#, &["a"]), Ok([Some("1")]));
        for (json, expected) in [("[1]", "a list"), ("", "nothing"), (r#"{"a":1"#, "EOF"), ("{} x", "trailing")] {
            let error = fields(json, &["a"]).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_list_is_left_at_the_first_item_that_is_refused() {
        let mut seen = Vec::new();
        let result = items("[1, [2], 3, nonsense", |item| {
            seen.push(item.to_owned());
            if item == "3" { Err("no".to_owned()) } else { Ok(()) }
        });
        assert_eq!((result, seen.join(" ")), (Err("no".to_owned()), "1 [2] 3".to_owned()));
        assert!(items("\"text\"", |_| Ok(())).unwrap_err().contains("a text"));
    }

    #[test]
    fn flags_are_told_in_many_forms() {
        for json in [None, Some("null"), Some("false"), Some("\"false\""), Some("0"), Some("\"\""), Some("\"0x0\"")] {
            assert_eq!(flag("removed", json), Ok(false), "{json:?}");
        }
        for json in ["true", "\"true\"", "\"True\"", "1", "\"0x1\""] {
            assert_eq!(flag("removed", Some(json)), Ok(true), "{json}");
        }
        assert!(flag("removed", Some("[]")).unwrap_err().contains("`removed`"));
    }
}
