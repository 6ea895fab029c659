//! JSON-RPC 2.0 envelopes as nodes write them, and requests as they want them.
//!
//! What is between the envelopes is handed on unread. An answer that tells an error is an error, whatever else it tells;
//! one that tells neither result nor error is the result `null` if it is recognizably a node's answer.
//!
//! Leaves to others: which request an answer belongs to, what a result means, and cutting keys out of messages.

use serde_json::value::RawValue;

use super::form::{self, Quantity};

/// Most requests in one batch; public endpoints refuse longer ones.
pub const BATCH_MAX: u64 = 100;
/// Longest piece of a node's own words that is passed on.
pub const MESSAGE_CHARS_MAX: usize = 400;
/// Longest piece of an error's data that is passed on.
pub const DATA_BYTES_MAX: usize = 64 << 10;
/// Longest name of a subscription; nodes write 16 bytes in hexadecimal digits at most.
pub const SUBSCRIPTION_BYTES_MAX: usize = 256;
/// What is said of a batch that is longer than any that is asked for.
pub const TOO_MANY: &str = "it has more answers than are ever asked for";
const NO_REASON: &str = "an error without a reason";

/// What came in one body or one frame.
#[derive(Debug, Clone)]
pub enum Packet {
    One(Answer),
    /// At most [`BATCH_MAX`].
    Many(Vec<Answer>),
    /// What a subscription tells.
    Note {
        subscription: String,
        result: Box<RawValue>,
    },
}

#[derive(Debug, Clone)]
pub struct Answer {
    pub id: AnswerId,
    pub payload: Result<Box<RawValue>, NodeError>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AnswerId {
    /// Also what was told as a text or with a fraction of zeros.
    Number(u64),
    /// Absent, null, or empty.
    Missing,
    /// Anything that no request of this crate has.
    Other,
}

/// An error as the node told it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeError {
    /// 0 when none was told.
    pub code: i64,
    /// At most [`MESSAGE_CHARS_MAX`] characters, and none that controls a terminal.
    pub message: String,
    /// JSON text, cut at [`DATA_BYTES_MAX`]: what was cut is no valid JSON.
    pub data: Option<String>,
}

/// One request.
pub fn request(id: u64, method: &str, params: &RawValue) -> String {
    let method = serde_json::Value::from(method);
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":{method},"params":{}}}"#, params.get())
}

/// Several requests in one body.
pub fn batch(requests: &[(u64, &str, &RawValue)]) -> String {
    let requests: Vec<String> = requests.iter().map(|(id, method, params)| request(*id, method, params)).collect();
    format!("[{}]", requests.join(","))
}

/// What a body or a frame holds. Several objects in a row, such as one per line, are a batch. It is not read on where a
/// batch is longer than any that is asked for.
pub fn read(text: &str) -> Result<Packet, String> {
    let text = text.trim_matches(|character: char| character.is_whitespace() || matches!(character, '\u{feff}' | '\0'));
    match text.bytes().next() {
        None => return Err("it is empty".to_owned()),
        Some(b'<') => return Err(format!("it is HTML or XML where JSON is expected: {}", form::quote(text))),
        Some(b'{') => {}
        Some(b'[') => {
            let mut answers = Vec::new();
            form::items(text, |item| {
                has_room(answers.len())?;
                answers.push(answer_in_batch(item)?);
                Ok(())
            })?;
            return Ok(Packet::Many(answers));
        }
        Some(_) => {
            return Err(format!("it is {} where an answer is expected: {}", form::kind(text), form::quote(text)));
        }
    }
    let mut first = None;
    let mut rest = Vec::new();
    for object in serde_json::Deserializer::from_str(text).into_iter::<&RawValue>() {
        let object = object.map_err(|error| format!("{error}: {}", form::quote(text)))?.get();
        match first {
            None => first = Some(object),
            Some(_) => {
                has_room(rest.len() + 1)?;
                rest.push(answer_in_batch(object)?);
            }
        }
    }
    match first {
        None => Err("it is empty".to_owned()),
        Some(object) if rest.is_empty() => packet(object),
        Some(object) => {
            rest.insert(0, answer_in_batch(object)?);
            Ok(Packet::Many(rest))
        }
    }
}

/// Whether another answer may follow so many of them: nobody is ever asked for more at once.
fn has_room(answers: usize) -> Result<(), String> {
    match (answers as u64) < BATCH_MAX {
        true => Ok(()),
        false => Err(TOO_MANY.to_owned()),
    }
}

/// The id of a subscription as [`Packet::Note`] has it, from the result of subscribing.
pub fn subscription(json: &str) -> Result<String, String> {
    match form::kind(json) {
        _ if json.len() > SUBSCRIPTION_BYTES_MAX => Err(format!("it is too long: {}", form::quote(json))),
        "a text" => form::read(json),
        "a number" => Ok(json.trim().to_owned()),
        kind => Err(format!("it is {kind} where a subscription's id is expected: {}", form::quote(json))),
    }
}

fn answer_in_batch(json: &str) -> Result<Answer, String> {
    match packet(json)? {
        Packet::One(answer) => Ok(answer),
        _ => Err("a notification among answers".to_owned()),
    }
}

fn raw(json: &str) -> Result<Box<RawValue>, String> {
    RawValue::from_string(json.to_owned()).map_err(|error| error.to_string())
}

fn is_null(json: &str) -> bool {
    json.trim() == "null"
}

/// What an object is to this crate.
fn packet(json: &str) -> Result<Packet, String> {
    let names = [
        "id",
        "jsonrpc",
        "result",
        "error",
        "method",
        "params",
        "message",
        "msg",
        "detail",
        "errors",
        "code",
        "status",
        "statusCode",
        "data",
    ];
    let found = form::fields(json, &names)?;
    let [id, version, result, error, method, params, message, msg, detail, errors, code, status, status_code, data] =
        found.map(|field| field.filter(|json| !is_null(json)));
    // `found` tells a result that is null from one that is absent.
    let has_result = found[2].is_some();
    if method.is_some() && !has_result && error.is_none() {
        let [subscription, result] = match params {
            Some(params) if form::kind(params) == "an object" => form::fields(params, &["subscription", "result"])?,
            _ => [None, None],
        };
        let subscription = subscription.filter(|json| !is_null(json)).ok_or("it is a request, not an answer")?;
        let subscription = self::subscription(subscription)?;
        return Ok(Packet::Note { subscription, result: raw(result.unwrap_or("null"))? });
    }
    let outer_code = code.or(status_code).or(status);
    let outer_message = message.or(msg).or(detail).or(errors);
    let payload = match (error, result) {
        (Some(error), Some(result)) if is_no_error(error) => Ok(raw(result)?),
        (Some(error), _) => Err(node_error(error, outer_code, outer_message, data)),
        (None, Some(result)) => Ok(raw(result)?),
        // Gateways before a node answer in forms of their own.
        (None, None) if !has_result && outer_message.is_some() => {
            let message = outer_message.and_then(reason).unwrap_or_else(|| NO_REASON.to_owned());
            Err(NodeError { code: outer_code.and_then(number).unwrap_or(0), message, data: data.map(cut_data) })
        }
        // Serializers that leave out what is null leave out such a result.
        (None, None) if has_result || id.is_some() || version.is_some() => Ok(raw("null")?),
        (None, None) => return Err(format!("it has neither result nor error: {}", form::quote(json))),
    };
    Ok(Packet::One(Answer { id: answer_id(id), payload }))
}

/// Whether what stands beside a result in the place of an error means that there is none.
fn is_no_error(error: &str) -> bool {
    matches!(error.trim(), "\"\"" | "false" | "0" | "[]" | "{}")
}

fn answer_id(json: Option<&str>) -> AnswerId {
    match form::optional::<Quantity>("id", json) {
        Ok(Some(id)) => AnswerId::Number(id.0),
        Ok(None) => AnswerId::Missing,
        Err(_) => AnswerId::Other,
    }
}

fn node_error(
    error: &str,
    outer_code: Option<&str>,
    outer_message: Option<&str>,
    outer_data: Option<&str>,
) -> NodeError {
    let fallback = |code: Option<&str>, message: Option<String>| {
        let code = code.and_then(number).or(outer_code.and_then(number)).unwrap_or(0);
        (code, message.or_else(|| outer_message.and_then(reason)).unwrap_or_else(|| NO_REASON.to_owned()))
    };
    let names = ["code", "message", "data", "error", "reason", "details"];
    match form::fields(error, &names) {
        Ok(found) => {
            let [code, message, data, inner, why, details] = found.map(|field| field.filter(|json| !is_null(json)));
            let data = data.or(outer_data);
            let words = [message, inner, why, details].into_iter().flatten().find_map(reason);
            // Some codes are words.
            let words = words.or_else(|| code.filter(|code| number(code).is_none()).and_then(reason));
            let words = words.or_else(|| data.filter(|data| form::kind(data) == "a text").and_then(reason));
            let (code, message) = fallback(code, words);
            NodeError { code, message, data: data.map(cut_data) }
        }
        Err(_) => {
            let bare = Some(error).filter(|error| form::kind(error) == "a number");
            let (code, message) = fallback(bare, reason(error));
            NodeError { code, message, data: outer_data.map(cut_data) }
        }
    }
}

/// The words in a piece of JSON: those of a text, those of an object's own message, or else the JSON itself.
fn reason(json: &str) -> Option<String> {
    let text = match form::kind(json) {
        "a text" => form::read::<String>(json).unwrap_or_else(|_| json.to_owned()),
        "an object" => {
            let inner = form::fields(json, &["message"]).ok().and_then(|[message]| message);
            let inner = inner.filter(|inner| form::kind(inner) == "a text");
            inner.and_then(|inner| form::read(inner).ok()).unwrap_or_else(|| json.to_owned())
        }
        "null" => return None,
        _ => json.to_owned(),
    };
    let text = text.trim();
    (!matches!(text, "" | "{}" | "[]" | "false")).then(|| short(text))
}

fn short(text: &str) -> String {
    let mut short: String = text.chars().take(MESSAGE_CHARS_MAX).map(form::printable).collect();
    if text.chars().nth(MESSAGE_CHARS_MAX).is_some() {
        short.pop();
        short.push('…');
    }
    short
}

fn cut_data(json: &str) -> String {
    json[..json.floor_char_boundary(DATA_BYTES_MAX)].to_owned()
}

/// A whole number that may be below zero, in any form.
fn number(json: &str) -> Option<i64> {
    let text = json.trim().trim_matches('"').trim();
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text),
    };
    // Only the digits go through the reader that knows all forms, which knows no signs.
    let is_plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.');
    let number = is_plain.then(|| form::read::<Quantity>(&format!("\"{digits}\"")).ok()).flatten()?;
    i64::try_from(number.0).ok().map(|number| sign * number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(json: &str) -> Answer {
        match read(json) {
            Ok(Packet::One(answer)) => answer,
            other => panic!("{json}: {other:?}"),
        }
    }

    fn error(json: &str) -> (i64, String) {
        let error = one(json).payload.unwrap_err();
        (error.code, error.message)
    }

    #[test]
    fn ids_come_back_in_other_forms() {
        use AnswerId::*;
        let cases = [
            ("12", Number(12)),
            ("12.0", Number(12)),
            ("\"12\"", Number(12)),
            ("\"0xc\"", Number(12)),
            ("null", Missing),
            ("\"\"", Missing),
            ("\"abc\"", Other),
            ("-1", Other),
            ("1.5", Other),
            ("[12]", Other),
            ("{}", Other),
        ];
        for (id, expected) in cases {
            assert_eq!(one(&format!(r#"{{"id":{id},"result":1}}"#)).id, expected, "{id}");
        }
        assert_eq!(one(r#"{"result":1}"#).id, Missing);
    }

    #[test]
    fn results_stand_beside_empty_errors() {
        let cases = [
            (r#"{"jsonrpc":"2.0","id":1,"result":"0x1"}"#, "\"0x1\""),
            (r#"{"id":1,"result":{"a": [1]},"error":null}"#, r#"{"a": [1]}"#),
            (r#"{"id":1,"result":[],"error":{}}"#, "[]"),
            (r#"{"id":1,"result":0,"error":""}"#, "0"),
            (r#"{"id":1,"result":false,"error":false}"#, "false"),
            (r#"{"result":null}"#, "null"),
            (r#"{"id":1,"result":null,"message":"OK"}"#, "null"),
            (r#"{"id":1}"#, "null"),
            (r#"{"jsonrpc":"2.0","error":null}"#, "null"),
            ("\u{feff}\r\n {\"id\":1,\"result\":1}\n\0", "1"),
            (r#"{"id":1,"result":1,"result":2}"#, "2"),
            (r#"{"id":1,"method":"eth_call","result":1}"#, "1"),
        ];
        for (json, expected) in cases {
            assert_eq!(one(json).payload.unwrap().get(), expected, "{json}");
        }
    }

    #[test]
    fn errors_come_in_every_shape() {
        let cases = [
            (r#"{"id":1,"error":{"code":-32000,"message":"no"}}"#, -32000, "no"),
            (r#"{"id":1,"result":null,"error":{"code":3,"message":"no"}}"#, 3, "no"),
            (r#"{"id":1,"result":"0x1","error":{"code":3,"message":"no"}}"#, 3, "no"),
            (r#"{"id":1,"error":{"code":"-32000","message":"no"}}"#, -32000, "no"),
            (r#"{"id":1,"error":{"code":-32000.0,"message":"no"}}"#, -32000, "no"),
            (r#"{"id":1,"error":{"code":"SERVER_ERROR"}}"#, 0, "SERVER_ERROR"),
            (r#"{"id":1,"error":{"code":1e99,"message":"no"}}"#, 0, "no"),
            (r#"{"id":1,"error":{"message":"no"}}"#, 0, "no"),
            (r#"{"id":1,"error":{"code":5}}"#, 5, NO_REASON),
            (r#"{"id":1,"error":{"code":5,"message":null,"data":"why"}}"#, 5, "why"),
            (r#"{"id":1,"error":{"code":5,"message":""}}"#, 5, NO_REASON),
            (r#"{"id":1,"error":{"code":5,"message":{"message":"deep"}}}"#, 5, "deep"),
            (r#"{"id":1,"error":{"code":5,"message":{"a":1}}}"#, 5, r#"{"a":1}"#),
            (r#"{"id":1,"error":{"code":5,"message":7}}"#, 5, "7"),
            (r#"{"id":1,"error":"rate limited"}"#, 0, "rate limited"),
            (r#"{"id":1,"error":"rate limited","code":429}"#, 429, "rate limited"),
            (r#"{"id":1,"error":-32005}"#, -32005, "-32005"),
            (r#"{"id":1,"error":true}"#, 0, "true"),
            (r#"{"id":1,"error":{}}"#, 0, NO_REASON),
            (r#"{"id":1,"error":{},"message":"outer"}"#, 0, "outer"),
            (r#"{"id":1,"error":["a"]}"#, 0, r#"["a"]"#),
            (r#"{"error":"Unauthorized"}"#, 0, "Unauthorized"),
            (r#"{"message":"no Route matched with those values"}"#, 0, "no Route matched with those values"),
            (r#"{"statusCode":404,"message":"Not Found","error":"Not Found"}"#, 404, "Not Found"),
            (r#"{"code":-32052,"message":"API key is not allowed"}"#, -32052, "API key is not allowed"),
            (r#"{"errors":[{"message":"x"}]}"#, 0, r#"[{"message":"x"}]"#),
            (r#"{"id":1,"error":{"code":5,"message":"a\u0000b\u001b[31m\nc"}}"#, 5, "a b [31m c"),
        ];
        for (json, code, message) in cases {
            assert_eq!(error(json), (code, message.to_owned()), "{json}");
        }
    }

    #[test]
    fn an_error_is_bounded() {
        let long = "é".repeat(100_000);
        let json = format!(r#"{{"id":1,"error":{{"code":3,"message":"{long}","data":"{long}"}}}}"#);
        let error = one(&json).payload.unwrap_err();
        assert_eq!(error.message.chars().count(), MESSAGE_CHARS_MAX);
        let data = error.data.unwrap();
        assert!(data.len() <= DATA_BYTES_MAX && data.len() > DATA_BYTES_MAX - 4);
        let data = |json: &str| one(json).payload.unwrap_err().data;
        assert_eq!(data(r#"{"error":{"message":"x","data":null}}"#), None);
        assert_eq!(data(r#"{"error":{"message":"x","data":{"data":"0x"}}}"#).as_deref(), Some(r#"{"data":"0x"}"#));
        assert_eq!(data(r#"{"error":{"message":"x"},"data":"0x"}"#).as_deref(), Some("\"0x\""));
    }

    #[test]
    fn batches_come_as_lists_and_as_lines() {
        let many = [
            ("[]", vec![]),
            (r#"[{"id":2,"result":1},{"id":1,"error":"x"}]"#, vec![2, 1]),
            ("{\"id\":1,\"result\":1}\n{\"id\":2,\"result\":2}\r\n\n{\"id\":3}\n", vec![1, 2, 3]),
            (r#"{"id":1,"result":1}{"id":2,"result":2}"#, vec![1, 2]),
        ];
        for (json, expected) in many {
            let Ok(Packet::Many(answers)) = read(json) else { panic!("{json}") };
            let expected: Vec<_> = expected.into_iter().map(AnswerId::Number).collect();
            assert_eq!(answers.iter().map(|answer| answer.id).collect::<Vec<_>>(), expected, "{json}");
        }
    }

    #[test]
    fn a_batch_is_not_read_past_the_longest_that_is_asked_for() {
        let most = usize::try_from(BATCH_MAX).unwrap();
        for (begin, between, end) in [("[", ",", "]"), ("", "\n", ""), ("", "", "")] {
            let answers = |count: usize| vec![r#"{"id":1,"error":1}"#; count].join(between);
            let Ok(Packet::Many(read)) = super::read(&format!("{begin}{}{end}", answers(most))) else { panic!() };
            assert_eq!(read.len(), most);
            // What follows is nothing that could be read.
            let error = super::read(&format!("{begin}{}{between}!", answers(most + 1))).unwrap_err();
            assert_eq!(error, TOO_MANY);
        }
    }

    #[test]
    fn notifications_name_their_subscription_in_words_or_numbers() {
        let cases = [
            (
                r#"{"jsonrpc":"2.0","method":"eth_subscription","params":{"subscription":"0xa","result":{}}}"#,
                "0xa",
                "{}",
            ),
            (r#"{"id":null,"method":"eth_subscription","params":{"subscription":7,"result":1}}"#, "7", "1"),
            (r#"{"method":"x","params":{"subscription":"7"}}"#, "7", "null"),
        ];
        for (json, expected, body) in cases {
            let Ok(Packet::Note { subscription, result }) = read(json) else { panic!("{json}") };
            assert_eq!((subscription.as_str(), result.get()), (expected, body));
        }
        assert_eq!((subscription("7"), subscription("\"7\"")), (Ok("7".to_owned()), Ok("7".to_owned())));
        assert!(subscription("null").unwrap_err().contains("null"));
    }

    #[test]
    fn what_is_no_answer_is_said_in_a_few_words() {
        let page = format!("<html><head><title>502 Bad Gateway</title>{}", "x".repeat(9_000));
        let deep = "[".repeat(1_000_000);
        let cases = [
            ("", "it is empty"),
            (" \n\u{feff}", "it is empty"),
            (page.as_str(), "it is HTML or XML where JSON is expected: `<html><head><title>502 Bad Gateway"),
            ("upstream connect error", "it is no JSON where an answer is expected: `upstream connect error`"),
            ("null", "it is null where an answer"),
            ("\"x\"", "it is a text where an answer"),
            (r#"{"id":1,"result":"#, "EOF"),
            (r#"{"id":1,"result":1}{"id""#, "EOF"),
            (r#"{"id":1} x"#, "expected value"),
            ("{}", "neither result nor error"),
            (r#"{"foo":1}"#, "neither result nor error"),
            ("[{}]", "neither result nor error"),
            ("[null]", "it is null where an object"),
            (r#"{"id":1,"method":"eth_call","params":[]}"#, "a request"),
            (r#"[{"method":"x","params":{"subscription":1}}]"#, "a notification among answers"),
            (deep.as_str(), "EOF"),
        ];
        for (text, expected) in cases {
            let error = read(text).unwrap_err();
            assert!(error.contains(expected), "{error}");
            assert!(error.len() < 160, "{error}");
        }
    }

    #[test]
    fn requests_are_what_the_standard_says() {
        let params = RawValue::from_string(r#"["0x1", false]"#.to_owned()).unwrap();
        let expected = r#"{"jsonrpc":"2.0","id":7,"method":"a\"b","params":["0x1", false]}"#;
        assert_eq!(request(7, "a\"b", &params), expected);
        assert_eq!(batch(&[(7, "a\"b", &params), (7, "a\"b", &params)]), format!("[{expected},{expected}]"));
        assert_eq!(batch(&[]), "[]");
    }
}
