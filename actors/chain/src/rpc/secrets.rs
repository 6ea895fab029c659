//! Keeping an endpoint's keys out of whatever is shown.
//!
//! A key may stand anywhere in a URL: as a part of the path, a parameter, a password, a label of the host name. A node or
//! what lies before it may quote any piece of it.

use std::{borrow::Cow, collections::HashSet};

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use url::Url;

/// So many characters of a secret in a row are not shown.
const QUOTED_CHARS_MIN: usize = 6;
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
pub struct Secrets(HashSet<[u8; QUOTED_CHARS_MIN]>);

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
        let mut pieces = HashSet::new();
        for part in &parts {
            let lower = part.to_ascii_lowercase();
            let runs = lower.as_bytes().windows(QUOTED_CHARS_MIN);
            pieces.extend(runs.filter_map(|run| <[u8; QUOTED_CHARS_MIN]>::try_from(run).ok()));
        }
        Self(pieces)
    }

    /// Those of several URLs.
    pub fn all<'a>(each: impl IntoIterator<Item = &'a Self>) -> Self {
        Self(each.into_iter().flat_map(|secrets| secrets.0.iter().copied()).collect())
    }

    /// The text without any run of characters that is a piece of a secret.
    pub fn clean<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let lower = text.to_ascii_lowercase();
        let mut hidden = vec![false; text.len()];
        let mut found = false;
        for (at, run) in lower.as_bytes().windows(QUOTED_CHARS_MIN).enumerate() {
            if self.0.contains(run) {
                hidden[at..at + QUOTED_CHARS_MIN].fill(true);
                found = true;
            }
        }
        if !found {
            return Cow::Borrowed(text);
        }
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
        Cow::Owned(clean)
    }
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
}
