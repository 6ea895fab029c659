//! What must hold of every reader whatever a node says: the properties that `fixtures/fuzz` checks on what it finds, and
//! the tests here on the kept corpus and on thousands of damaged answers.
//!
//! A property panics where it does not hold. It takes any bytes; those that are no UTF-8 never reach a reader.

use serde_json::value::RawValue;

use super::{
    envelope::{self, Answer, AnswerId, NodeError, Packet},
    form::QUOTED_CHARS_MAX,
    wire,
};
use crate::proof;

/// What an error says besides what it quotes.
const ERROR_CHARS_MAX: usize = 160;

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

/// An error is one line of bounded length that quotes little of what was read.
fn check_error(read: &str, error: &str) {
    assert!(error.chars().count() <= ERROR_CHARS_MAX, "{error}");
    assert!(!error.is_empty() && !error.chars().any(char::is_control), "{error:?}");
    let longest = error.split('`').map(|piece| piece.chars().count()).max().unwrap_or_default();
    let quotes = read.chars().count() > QUOTED_CHARS_MAX && error.contains(read);
    assert!(longest <= ERROR_CHARS_MAX && !quotes, "{error}");
}

/// A header is what it was when it is read again, told twice over, or told within more fields.
pub fn header(bytes: &[u8]) {
    let json = text(bytes);
    let read = wire::header(json);
    assert_eq!(wire::header(json), read);
    match &read {
        Err(error) => check_error(json, error),
        Ok(None) => assert!(json.trim().len() <= 4),
        Ok(Some(header)) => {
            assert_ne!(header.hash.0, [0; 32]);
            let empty = header.bloom.as_ref().is_some_and(|bloom| bloom.is_zero());
            assert!(!empty || header.gas_used == Some(0));
            let inner = json.trim().trim_start_matches('{');
            assert_eq!(wire::header(&format!(r#"{{"zzz":[{{"hash":0}}],{inner}"#)), read);
            // Whatever names a block may be a notification of it.
            assert_eq!(wire::head(json).map(|head| head.map(|head| head.number)), Ok(Some(Some(header.number))));
        }
    }
}

/// A head names a block by its number or its hash.
pub fn head(bytes: &[u8]) {
    let json = text(bytes);
    match wire::head(json) {
        Err(error) => check_error(json, &error),
        Ok(None) => assert!(json.trim().len() <= 4),
        Ok(Some(head)) => assert!(head.number.is_some() || head.hash.is_some_and(|hash| hash.0 != [0; 32])),
    }
}

/// A number is read back from all the forms it can be written in.
pub fn quantity(bytes: &[u8]) {
    let json = text(bytes);
    match wire::quantity(json) {
        Err(error) => check_error(json, &error),
        Ok(number) => {
            for form in [
                format!("\"{number:#x}\""),
                format!("\"0X0{number:X}\""),
                format!("\"{number}.0\""),
                number.to_string(),
            ] {
                assert_eq!(wire::quantity(&form), Ok(number), "{form}");
            }
        }
    }
}

/// Logs are in order, each in a place of its own, whole, and no more than what was told.
pub fn logs(bytes: &[u8]) {
    let json = text(bytes);
    let read = wire::logs(1, json);
    assert_eq!(wire::logs(1, json), read);
    let logs = match read {
        Err(error) => return check_error(json, &error),
        Ok(logs) => logs,
    };
    let told: usize = logs.iter().map(|read| read.log.data.len() + 32 * read.log.topics.len()).sum();
    // Topics may leave out their zeros; a log has at least its fields' names.
    assert!(told <= 64 * json.len() && logs.len() * 100 <= json.len(), "{} logs of {} bytes", logs.len(), json.len());
    for pair in logs.windows(2) {
        let (a, b) = (&pair[0].log, &pair[1].log);
        assert!((a.block_number, a.log_index) < (b.block_number, b.log_index));
        assert!(a.block_number != b.block_number || a.block_hash == b.block_hash);
        assert!(a.block_number != b.block_number || pair[0].renumbered == pair[1].renumbered);
    }
    for read in &logs {
        let log = &read.log;
        assert!(log.topics.len() <= 4 && log.topics.iter().all(|topic| topic.len() == 32));
        assert_eq!((log.address.len(), log.block_hash.len(), log.transaction_hash.len()), (20, 32, 32));
        assert_eq!(read.dated, log.block_timestamp != 0);
    }
    // All of it told twice is the same.
    let list = json.trim().strip_prefix('[').and_then(|list| list.strip_suffix(']'));
    if let Some(list) = list.filter(|list| !list.trim().is_empty()) {
        assert_eq!(wire::logs(1, &format!("[{list},{list}]")), Ok(logs));
    }
}

fn check_node_error(error: &NodeError) {
    assert!(error.message.chars().count() <= envelope::MESSAGE_CHARS_MAX && !error.message.is_empty());
    assert!(!error.message.chars().any(char::is_control), "{error:?}");
    assert!(error.data.as_ref().is_none_or(|data| data.len() <= envelope::DATA_BYTES_MAX));
}

fn one(text: &str) -> Answer {
    match envelope::read(text) {
        Ok(Packet::One(answer)) => answer,
        other => panic!("{text}: {other:?}"),
    }
}

/// What an envelope holds comes back out of one of ours, and a request is told from an answer.
pub fn envelope(bytes: &[u8]) {
    let text = text(bytes);
    let (answers, result) = match envelope::read(text) {
        Err(error) => return check_error(text, &error),
        Ok(Packet::One(answer)) => (vec![answer], None),
        Ok(Packet::Many(answers)) => (answers, None),
        Ok(Packet::Note { result, .. }) => (Vec::new(), Some(result)),
    };
    assert!(answers.len() * 7 <= text.len() + 7);
    if let Some(result) = result {
        check_result(&result);
    }
    for answer in answers {
        match answer.payload {
            Ok(result) => check_result(&result),
            Err(error) => check_node_error(&error),
        }
    }
}

fn check_result(result: &RawValue) {
    let answer = one(&format!(r#"{{"jsonrpc":"2.0","id":7,"result":{}}}"#, result.get()));
    assert_eq!(answer.id, AnswerId::Number(7));
    assert!(answer.payload.is_ok_and(|again| again.get() == result.get()));
    let request = envelope::request(7, "eth_\"x\"", result);
    let fields = super::form::fields(&request, &["jsonrpc", "id", "method", "params"]);
    assert_eq!(fields, Ok([Some("\"2.0\""), Some("7"), Some(r#""eth_\"x\"""#), Some(result.get())]));
    // Params that name a subscription make a notification of it.
    assert!(!matches!(envelope::read(&request), Ok(Packet::One(_) | Packet::Many(_))));
}

/// Receipts have the root and the logs that they had, and the logs count from 0.
pub fn receipts(bytes: &[u8]) {
    let json = text(bytes);
    let receipts = match proof::receipts(1, json) {
        Err(error) => return check_error(json, &error),
        Ok(receipts) => receipts,
    };
    assert!(receipts.count * 50 <= json.len() && receipts.logs.len() * 15 <= json.len());
    assert!((0..).zip(&receipts.logs).all(|(index, log)| log.log_index == index && log.topics.len() <= 4));
    assert!(proof::receipts(1, json).is_ok_and(|again| again.root == receipts.root && again.logs == receipts.logs));
}

#[cfg(test)]
mod tests {
    use nexum_testkit::corpus;

    use super::*;

    type Property = fn(&[u8]);
    const MUTATIONS: u64 = 3_000;
    const ODD: [&str; 24] = [
        "null",
        "\"\"",
        "\"0x\"",
        "\"0x0\"",
        "0",
        "-1",
        "1e400",
        "1.5",
        "12.0",
        "true",
        "\"false\"",
        "[]",
        "{}",
        "[null]",
        "\"0xzz\"",
        "\"\\u0000\"",
        "\"\\ud800\"",
        "\"é\"",
        "18446744073709551616",
        "\"0X1A\"",
        "\"26\"",
        "{\"a\":1}",
        "\"0x0000000000000000000000000000000000000000000000000000000000000000\"",
        "\u{feff}",
    ];

    /// xorshift64*: the same damage on every machine.
    struct Dice(u64);

    impl Dice {
        fn roll(&mut self, sides: usize) -> usize {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % sides.max(1)
        }
    }

    /// Where the values after colons and commas begin and end, as far as a glance can tell.
    fn values(text: &[u8]) -> Vec<(usize, usize)> {
        let starts = (0..text.len()).filter(|at| matches!(text[*at], b':' | b',' | b'['));
        let ends = |start: usize| {
            let rest = &text[start..];
            start + rest.iter().position(|byte| matches!(byte, b',' | b'}' | b']')).unwrap_or(rest.len())
        };
        starts.map(|at| (at + 1, ends(at + 1))).collect()
    }

    fn damage(text: &mut Vec<u8>, other: &[u8], dice: &mut Dice) {
        let from = dice.roll(text.len());
        let to = (from + 1 + dice.roll(40)).min(text.len());
        match dice.roll(8) {
            0 if !text.is_empty() => text[from] ^= 1 << dice.roll(7),
            1 => drop(text.drain(from..to)),
            2 => {
                let piece = text[from..to].to_vec();
                drop(text.splice(from..from, piece));
            }
            3 => text.truncate(from),
            4 => {
                let depth = 1 << dice.roll(14);
                drop(text.splice(from..from, std::iter::repeat_n(b"[{\""[dice.roll(3)], depth)));
            }
            5 => {
                let start = dice.roll(other.len());
                let end = (start + dice.roll(200)).min(other.len());
                drop(text.splice(from..to, other[start..end].iter().copied()));
            }
            _ => {
                let values = values(text);
                if let Some((start, end)) = values.get(dice.roll(values.len())) {
                    drop(text.splice(*start..*end, ODD[dice.roll(ODD.len())].bytes()));
                }
            }
        }
    }

    #[test]
    fn every_reader_bears_its_corpus_and_damage_to_it() {
        let readers: [(&str, Property); 6] = [
            ("header", header),
            ("head", head),
            ("logs", logs),
            ("envelope", envelope),
            ("quantity", quantity),
            ("receipts", receipts),
        ];
        for (name, property) in readers {
            let seeds = corpus(name);
            seeds.iter().for_each(|seed| property(seed));
            let mut dice = Dice(0x6e65_7875_6d00_0001);
            for _ in 0..MUTATIONS {
                let mut text = seeds[dice.roll(seeds.len())].clone();
                for _ in 0..=dice.roll(4) {
                    let other = &seeds[dice.roll(seeds.len())];
                    damage(&mut text, other, &mut dice);
                }
                property(&text);
            }
        }
    }

    #[test]
    fn depth_and_length_cost_no_more_than_their_reading() {
        let readers: [Property; 6] = [header, head, logs, envelope, quantity, receipts];
        let deep = ["[", "{\"a\":", "[{\"logs\":", "{\"result\":"].map(|open| open.repeat(200_000));
        let zeros = "0".repeat(1_000_000);
        let long = [
            format!("\"0x{zeros}\""),
            format!("\"{zeros}\""),
            format!("1{zeros}"),
            format!("[{}]", ["0"; 100_000].join(",")),
            format!("[{}]", ["{}"; 100_000].join(",")),
            format!("{{{}}}", ["\"number\":1"; 100_000].join(",")),
            format!(r#"{{"error":"{zeros}"}}"#),
            format!(r#"{{"error":1{zeros}}}"#),
            format!(r#"{{"error":{{"code":"{zeros}","message":[{zeros}]}}}}"#),
            format!("{}1", "\u{feff}".repeat(100_000)),
        ];
        for text in deep.iter().chain(&long) {
            for reader in readers {
                reader(text.as_bytes());
            }
        }
    }
}
