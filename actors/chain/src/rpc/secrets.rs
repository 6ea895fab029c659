//! Keeping an endpoint's keys out of whatever is shown.
//!
//! A key may stand anywhere in a URL: as a part of the path, a parameter, a password, a label of the host name. A node or
//! what lies before it may quote any piece of it.

use std::{borrow::Cow, collections::HashSet};

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde_json::Value;
use url::Url;

use super::envelope::DATA_BYTES_MAX;

/// So many characters of a secret in a row are not shown.
const QUOTED_CHARS_MIN: usize = 6;
/// Bytes in hexadecimal digits may have a short run of a secret by chance; not one that is as long as this.
const HEX_CHARS_MIN: usize = 16;
/// Text within text is looked through so deep.
const ENCODED_TIMES_MAX: usize = 4;
/// Parts of a URL that are shorter are words such as `v3` or `rpc`.
const SECRET_CHARS_MIN: usize = 6;
/// Words of URLs that are no secrets.
const WORDS: [&str; 10] =
    ["mainnet", "sepolia", "ethereum", "polygon", "arbitrum", "optimism", "jsonrpc", "json-rpc", "gateway", "testnet"];
const MASK: &str = "…";

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// What must not appear in any message: every run of [`QUOTED_CHARS_MIN`] characters of the secret parts of URLs, in lower
/// case. Of a secret that was cut, any such run that is left is known, too.
#[derive(Clone, Default)]
pub struct Secrets {
    runs: HashSet<[u8; QUOTED_CHARS_MIN]>,
    /// Those of the secret parts as they are, and as bytes in hexadecimal digits.
    long: HashSet<[u8; HEX_CHARS_MIN]>,
}

/// Whether a label of a host name is rather a key than a name.
fn is_key_label(label: &str) -> bool {
    let digits = label.bytes().filter(u8::is_ascii_digit).count();
    let plain = label.bytes().all(|byte| byte.is_ascii_alphanumeric());
    label.len() >= 20 && plain && digits >= 4
}

fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// Without padding, in the alphabet that is not the one for URLs.
fn base64(text: &str) -> String {
    let mut encoded = String::new();
    for three in text.as_bytes().chunks(3) {
        let word =
            three.iter().zip([16, 8, 0]).fold(0_usize, |word, (byte, shift)| word | (usize::from(*byte) << shift));
        let sixes = [18, 12, 6, 0].map(|shift| char::from(BASE64[(word >> shift) & 63]));
        encoded.extend(&sixes[..=three.len()]);
    }
    encoded
}

/// Every run of so many characters.
fn runs<const CHARS: usize>(lower: &str) -> impl Iterator<Item = [u8; CHARS]> {
    lower.as_bytes().windows(CHARS).filter_map(|run| <[u8; CHARS]>::try_from(run).ok())
}

/// Marks what stands in a known run, and says whether any does.
fn mark<const CHARS: usize>(known: &HashSet<[u8; CHARS]>, lower: &str, hidden: &mut [bool]) -> bool {
    let mut found = false;
    for (at, _) in runs::<CHARS>(lower).enumerate().filter(|(_, run)| known.contains(run)) {
        hidden[at..at + CHARS].fill(true);
        found = true;
    }
    found
}

/// The text with what stands for other characters in JSON, and in a URL, replaced by those.
fn unescaped(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        plain.push_str(before);
        let hex = after.strip_prefix(['u', 'U']).and_then(|digits| digits.get(..4));
        let code = hex.and_then(|digits| u32::from_str_radix(digits, 16).ok()).and_then(char::from_u32);
        rest = match code {
            Some(character) => {
                plain.push(character);
                &after[5..]
            }
            // A quotation mark, a slash: it stands for itself.
            None => after,
        };
    }
    plain.push_str(rest);
    decoded(&plain)
}

/// Replaces every text of a JSON value, and every name.
fn each_text(value: Value, replace: &impl Fn(&str) -> String) -> Value {
    match value {
        Value::String(text) => Value::String(replace(&text)),
        Value::Array(items) => Value::Array(items.into_iter().map(|item| each_text(item, replace)).collect()),
        Value::Object(fields) => {
            let replaced = fields.into_iter().map(|(name, value)| (replace(&name), each_text(value, replace)));
            Value::Object(replaced.collect())
        }
        other => other,
    }
}

/// How user and password stand in a header of HTTP, where there are any.
fn credentials(url: &Url) -> Vec<String> {
    let (user, password) = (url.username(), url.password().unwrap_or_default());
    if user.is_empty() && password.is_empty() {
        return Vec::new();
    }
    let encoded = [format!("{user}:{password}"), format!("{}:{}", decoded(user), decoded(password))];
    let encoded = encoded.iter().map(|pair| base64(pair));
    encoded.flat_map(|pair| [pair.replace('+', "-").replace('/', "_"), pair]).collect()
}

/// What else a part of a URL is where it is quoted: without what stands for other characters, and with more of it.
fn other_forms(part: &str) -> [String; 4] {
    let plain = decoded(part);
    let encoded = utf8_percent_encode(&plain, NON_ALPHANUMERIC).to_string();
    let twice = utf8_percent_encode(part, NON_ALPHANUMERIC).to_string();
    [decoded(&part.replace('+', " ")), encoded, twice, plain]
}

/// Scheme, host and port of a URL; a host name's labels that look like keys are left out.
pub fn public_name(url: &Url) -> String {
    let host = url.host_str().unwrap_or("?");
    let labels = host.split('.').map(|label| if is_key_label(label) { MASK } else { label });
    let host = labels.collect::<Vec<_>>().join(".");
    match url.port_or_known_default() {
        Some(port) => format!("{}://{host}:{port}", url.scheme()),
        None => format!("{}://{host}", url.scheme()),
    }
}

impl Secrets {
    pub fn of(url: &Url) -> Self {
        let mut parts: Vec<String> = url.path().split('/').map(str::to_owned).collect();
        parts.extend([url.password(), Some(url.username()), url.fragment()].into_iter().flatten().map(str::to_owned));
        parts.extend(url.query().into_iter().flat_map(|query| query.split('&')).map(|pair| {
            let value = pair.split_once('=').map_or(pair, |(_, value)| value);
            value.to_owned()
        }));
        parts.extend(
            url.host_str().into_iter().flat_map(|host| host.split('.')).filter(|l| is_key_label(l)).map(str::to_owned),
        );
        parts.retain(|part| part.len() >= SECRET_CHARS_MIN && !WORDS.contains(&part.to_ascii_lowercase().as_str()));
        let also: Vec<String> = parts.iter().flat_map(|part| other_forms(part)).collect();
        parts.extend(also);
        parts.extend(credentials(url));
        let mut secrets = Self::default();
        for part in &parts {
            let lower = part.to_ascii_lowercase();
            secrets.runs.extend(runs::<QUOTED_CHARS_MIN>(&lower));
            // Letters are other bytes in upper case.
            let hex = [part, &lower, &part.to_ascii_uppercase()].map(hex::encode);
            secrets.long.extend(hex.iter().chain([&lower]).flat_map(|text| runs::<HEX_CHARS_MIN>(text)));
        }
        secrets
    }

    /// Those of several URLs.
    pub fn all<'a>(each: impl IntoIterator<Item = &'a Self>) -> Self {
        each.into_iter().fold(Self::default(), |mut all, secrets| {
            all.runs.extend(&secrets.runs);
            all.long.extend(&secrets.long);
            all
        })
    }

    /// The text without any run of characters that is a piece of a secret. Where there is one once what stands for other
    /// characters is replaced, all of the text is shown like that.
    pub fn clean<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut inner = None::<String>;
        for _ in 0..ENCODED_TIMES_MAX {
            let outer = inner.as_deref().unwrap_or(text);
            if !outer.contains(['\\', '%']) {
                break;
            }
            inner = Some(unescaped(outer));
        }
        match inner.as_deref().map(|inner| self.hidden(inner)) {
            Some(Cow::Owned(clean)) => Cow::Owned(clean),
            _ => self.hidden(text),
        }
    }

    /// The same of an error's data: bytes in hexadecimal digits, which are a contract's and have no more than a whole
    /// secret taken out; or JSON, of which every text is cleaned; or any text. As it was where it has none.
    pub fn clean_data(&self, data: &str) -> String {
        if data.strip_prefix("0x").is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit())) {
            let mut hidden = vec![false; data.len()];
            let found = mark(&self.long, &data.to_ascii_lowercase(), &mut hidden);
            return if found { masked(data, &hidden) } else { data.to_owned() };
        }
        let Cow::Owned(clean) = self.clean(data) else { return data.to_owned() };
        let written = match serde_json::from_str(data) {
            Ok(value) => each_text(value, &|text| self.clean(text).into_owned()).to_string(),
            // It was cut, or is no JSON.
            Err(_) => clean,
        };
        // What is no text of it may be one, too: a number.
        let written = self.clean(&written);
        written[..written.floor_char_boundary(DATA_BYTES_MAX)].to_owned()
    }

    /// The text without what stands in it as it is.
    fn hidden<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let lower = text.to_ascii_lowercase();
        let mut hidden = vec![false; text.len()];
        let (short, long) = (mark(&self.runs, &lower, &mut hidden), mark(&self.long, &lower, &mut hidden));
        if short || long { Cow::Owned(masked(text, &hidden)) } else { Cow::Borrowed(text) }
    }
}

fn masked(text: &str, hidden: &[bool]) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut masked = false;
    for (at, character) in text.char_indices() {
        match (hidden[at], masked) {
            (true, false) => clean.push_str(MASK),
            (true, true) => {}
            (false, _) => clean.push(character),
        }
        masked = hidden[at];
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(url: &str) -> Secrets {
        Secrets::of(&url.parse().unwrap())
    }

    #[test]
    fn a_name_never_holds_a_key() {
        let cases = [
            ("https://user:pass@mainnet.example.org/v3/0123456789?key=abc#x", "https://mainnet.example.org:443"),
            ("ws://127.0.0.1:8545", "ws://127.0.0.1:8545"),
            ("wss://node.example.org/ws", "wss://node.example.org:443"),
            ("https://0a1b2c3d4e5f60718293a4b5c6d7e8f9.eth.example.org", "https://….eth.example.org:443"),
        ];
        for (url, name) in cases {
            assert_eq!(public_name(&url.parse().unwrap()), name);
        }
    }

    #[test]
    fn whatever_piece_of_a_key_is_quoted_is_cut_out() {
        let url =
            "https://me:hunter2-2@0a1b2c3d4e5f60718293a4b5c6d7e8f9.example.org/v3/AbCdEf0123456789?apikey=ZYX%2B987654";
        let secrets = secrets(url);
        let cases = [
            ("no such project AbCdEf0123456789", "no such project …"),
            ("no such project abcdef0123456789!", "no such project …!"),
            ("https://x/v3/AbCdEf0123456789?a", "https://x/v3/…?a"),
            ("key AbCdEf… is unknown", "key …… is unknown"),
            ("ZYX+987654 and ZYX%2B987654", "… and …"),
            ("host 0a1b2c3d4e5f60718293a4b5c6d7e8f9.example.org", "host ….example.org"),
            ("hunter2-2", "…"),
            ("nothing of it: v3 apikey example.org", "nothing of it: v3 apikey example.org"),
        ];
        for (text, clean) in cases {
            assert_eq!(secrets.clean(text), clean, "{text}");
        }
        let other = Secrets::all([&secrets, &self::secrets("https://example.org/zyxwvut-9")]);
        assert_eq!(other.clean("AbCdEf0123456789 zyxwvut-9 else"), "… … else");
        assert_eq!(super::Secrets::default().clean("anything"), "anything");
        assert_eq!(Secrets::of(&"https://example.org/mainnet".parse().unwrap()).clean("mainnet"), "mainnet");
    }

    #[test]
    fn what_is_left_of_a_key_that_was_cut_is_cut_out_too() {
        let key = "AbCdEf0123456789GhIjKl";
        let secrets = secrets(&format!("https://example.org/v3/{key}"));
        for left in QUOTED_CHARS_MIN..=key.len() {
            assert_eq!(
                secrets.clean(&format!("`https://example.org/v3/{}…`", &key[..left])),
                "`https://example.org/v3/……`"
            );
            assert_eq!(secrets.clean(&format!("…{}`", &key[key.len() - left..])), "……`");
        }
    }

    #[test]
    fn a_key_is_known_however_it_is_encoded() {
        assert_eq!(["", "f", "fo", "foo", "foob"].map(base64), ["", "Zg", "Zm8", "Zm9v", "Zm9vYg"]);
        let cases = [
            (
                "https://user:p%40ss-w0rd@example.org/",
                "Authorization: Basic dXNlcjpwQHNzLXcwcmQ=",
                "Authorization: Basic …=",
            ),
            ("https://user:p%40ss-w0rd@example.org/", "dXNlcjpwQHNzLXcwcmQ", "…"),
            ("https://user:%3F%3F%3E%3E%3E%3Ex@example.org/", "dXNlcjo/Pz4+Pj54", "…"),
            ("https://user:%3F%3F%3E%3E%3E%3Ex@example.org/", "dXNlcjo_Pz4-Pj54", "…"),
            ("https://tokenxyz@example.org/", "dG9rZW54eXo6", "…"),
            ("https://user:p%40ss-w0rd@example.org/", "p@ss-w0rd p%40ss-w0rd p%40ss%2Dw0rd p%2540ss-w0rd", "… … … …"),
            ("https://example.org/?key=a+b/c+d=", "a b/c d= and a+b/c+d=", "… and …"),
        ];
        for (url, text, clean) in cases {
            assert_eq!(secrets(url).clean(text), clean, "{text}");
        }
    }

    const KEY: &str = "AbCdEf0123456789GhIjKl";

    fn with_key(text: &str) -> String {
        let escaped: String = KEY.chars().map(|character| format!("\\u{:04x}", u32::from(character))).collect();
        let percent: String = KEY.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let hex = hex::encode(KEY);
        text.replace("KEY", KEY).replace("ESCAPED", &escaped).replace("PERCENT", &percent).replace("HEX", &hex)
    }

    #[test]
    fn a_key_is_known_within_text_within_text() {
        let secrets = secrets(&format!("https://example.org/v3/{KEY}"));
        let cases = [
            ("no KEY", "no …"),
            (r#"HTTP status 403: {"key":"ESCAPED"}"#, r#"HTTP status 403: {"key":"…"}"#),
            (r#"{\"key\":\"\ESCAPED\"}"#, r#"{"key":"…"}"#),
            ("KEY and ESCAPED and PERCENT", "… and … and …"),
            (r"AbC\u0064Ef012345", "…"),
            ("bytes 0xHEX", "bytes 0x…"),
            (r"100 % of C:\u00zz\ are well", r"100 % of C:\u00zz\ are well"),
        ];
        for (text, clean) in cases {
            assert_eq!(secrets.clean(&with_key(text)), clean, "{text}");
        }
    }

    #[test]
    fn data_is_cleaned_in_every_text_and_stays_what_it_is() {
        let secrets = secrets(&format!("https://example.org/v3/{KEY}"));
        let cases = [
            ("0xKEY", "0x…"),
            ("0x08c379a0 KEY", "0x08c379a0 …"),
            (r#"{"a":["ESCAPED",{"ESCAPED":"x\/PERCENT"}],"b":1e3}"#, r#"{"a":["…",{"…":"x/…"}],"b":1000.0}"#),
            // The name of the first one is told twice: readers take the last.
            (r#"{"a":"ESCAPED","a":"x"}"#, r#"{"a":"x"}"#),
            (r#"{"a":"ESCAPED"#, r#"{"a":"…"#),
            (r#"{"a":"x\/y","b":1e3}"#, r#"{"a":"x\/y","b":1e3}"#),
            ("0x08c379a0HEX00", "0x08c379a0…00"),
        ];
        for (data, clean) in cases {
            assert_eq!(secrets.clean_data(&with_key(data)), clean, "{data}");
        }
        // A key of hexadecimal digits: whole, and a run of six that a contract's bytes may have by chance.
        let secrets = self::secrets("https://example.org/0a1b2c3d4e5f60718293a4b5c6d7e8f9");
        assert_eq!(secrets.clean_data("0x110A1B2C3D4E5F60718293A4B5C6D7E8F922"), "0x11…22");
        assert_eq!(secrets.clean_data("0x110a1b2c22"), "0x110a1b2c22");
        let long = format!(r#"{{"key":"0a1b2c3d4e5f60718293","x":"{}"}}"#, "é".repeat(DATA_BYTES_MAX));
        assert!(secrets.clean_data(&long).len() <= DATA_BYTES_MAX);
    }
}
