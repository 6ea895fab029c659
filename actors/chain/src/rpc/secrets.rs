//! Keeping an endpoint's keys out of whatever is shown.
//!
//! A key may stand anywhere in a URL: as a part of the path, a parameter, a password, a label of the host name. A node or
//! what lies before it may quote any piece of it.

use std::borrow::Cow;

use url::Url;

/// So many characters of a secret in a row are not shown.
const QUOTED_CHARS_MIN: usize = 6;
/// Parts of a URL that are shorter are words such as `v3` or `rpc`.
const SECRET_CHARS_MIN: usize = 6;
/// Words of URLs that are no secrets.
const WORDS: [&str; 10] =
    ["mainnet", "sepolia", "ethereum", "polygon", "arbitrum", "optimism", "jsonrpc", "json-rpc", "gateway", "testnet"];
const MASK: &str = "…";

/// The parts of one URL that must not appear in any message.
#[derive(Debug, Clone, Default)]
pub struct Secrets(Vec<String>);

/// Whether a label of a host name is rather a key than a name.
fn is_key_label(label: &str) -> bool {
    let digits = label.bytes().filter(u8::is_ascii_digit).count();
    let plain = label.bytes().all(|byte| byte.is_ascii_alphanumeric());
    label.len() >= 20 && plain && digits >= 4
}

fn decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
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
        let also: Vec<String> = parts.iter().map(|part| decoded(part)).collect();
        parts.extend(also);
        parts.retain(|part| part.len() >= SECRET_CHARS_MIN && !WORDS.contains(&part.to_ascii_lowercase().as_str()));
        parts.sort_by_key(|part| std::cmp::Reverse(part.len()));
        parts.dedup();
        Self(parts.iter().map(|part| part.to_ascii_lowercase()).collect())
    }

    /// The text without any run of characters that is a piece of a secret.
    pub fn clean<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let lower = text.to_ascii_lowercase();
        let mut hidden = vec![false; text.len()];
        let mut found = false;
        for secret in &self.0 {
            let secret = secret.as_bytes();
            for piece in secret.windows(QUOTED_CHARS_MIN.min(secret.len())) {
                let mut from = 0;
                while let Some(at) = find(&lower.as_bytes()[from..], piece) {
                    hidden[from + at..from + at + piece.len()].fill(true);
                    (from, found) = (from + at + 1, true);
                }
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

fn find(text: &[u8], piece: &[u8]) -> Option<usize> {
    text.windows(piece.len()).position(|window| window == piece)
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
        assert_eq!(super::Secrets::default().clean("anything"), "anything");
        assert_eq!(Secrets::of(&"https://example.org/mainnet".parse().unwrap()).clean("mainnet"), "mainnet");
    }
}
