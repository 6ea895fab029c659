//! What may be a secret, by its name or by how it looks, and what is shown in its place.
//!
//! Invariant: whoever shows a configuration or an error asks here, and rather too much is hidden than too little.

use std::{borrow::Cow, mem};

use url::Url;

/// Stands where a secret was.
pub const MASK: &str = "***";

/// Words that say of a value that it is secret, in a name such as `api_key`, `x-api-key` or `apiKey`; also in the plural.
const WORDS: [&str; 18] = [
    "auth",
    "authorization",
    "bearer",
    "cookie",
    "cred",
    "creds",
    "dsn",
    "hmac",
    "jwt",
    "key",
    "oauth",
    "pass",
    "passwd",
    "private",
    "pwd",
    "seed",
    "webhook",
    "xprv",
];
/// The same, also at the end of what is written as one word, such as `authtoken`.
const ENDINGS: [&str; 12] = [
    "accesskey",
    "apikey",
    "credential",
    "mnemonic",
    "passphrase",
    "password",
    "privatekey",
    "secret",
    "secretkey",
    "seedphrase",
    "signingkey",
    "token",
];
/// How keys of well-known services begin.
const PREFIXES: [&str; 18] = [
    "sk-",
    "sk_",
    "pk_live_",
    "rk_live_",
    "whsec_",
    "ghp_",
    "gho_",
    "ghs_",
    "ghu_",
    "github_pat_",
    "glpat-",
    "xoxb-",
    "xoxp-",
    "xapp-",
    "AKIA",
    "AIza",
    "xprv",
    "-----BEGIN",
];
/// What follows such a beginning makes a key of it.
const KEY_CHARS_MIN: usize = 16;
/// Lengths of the phrases that stand for a wallet's seed, words.
const PHRASES: [usize; 5] = [12, 15, 18, 21, 24];
/// What ends a value within a sentence.
const ENDS: &str = "\"'`,;()<>[]{}=";

/// Whether a value of this name is secret, whatever it is.
pub fn is_secret_name(name: &str) -> bool {
    words(name).iter().any(|word| {
        let word = word.trim_end_matches(|c: char| c.is_ascii_digit());
        let singular = word.strip_suffix('s').unwrap_or(word);
        [word, singular].iter().any(|word| WORDS.contains(word) || ENDINGS.iter().any(|end| word.ends_with(end)))
    })
}

/// The words of a name in small letters.
fn words(name: &str) -> Vec<String> {
    let chars: Vec<char> = name.chars().collect();
    let (mut words, mut word) = (Vec::new(), String::new());
    for (at, c) in chars.iter().enumerate() {
        let before = at.checked_sub(1).map(|before| chars[before]);
        let ends_capitals =
            before.is_some_and(char::is_uppercase) && chars.get(at + 1).is_some_and(|c| c.is_lowercase());
        let begins = c.is_uppercase() && (ends_capitals || before.is_some_and(|c| c.is_lowercase() || c.is_numeric()));
        if begins || !c.is_alphanumeric() {
            words.push(mem::take(&mut word));
        }
        if c.is_alphanumeric() {
            word.extend(c.to_lowercase());
        }
    }
    words.push(word);
    words
}

/// Whether this text as a whole looks like a secret, or like an address that has one in it.
pub fn looks_secret(text: &str) -> bool {
    let text = text.trim();
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
    let is_key_in_hex = matches!(digits.len(), 64 | 128) && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_key = PREFIXES.iter().any(|begin| text.starts_with(begin) && text.len() >= begin.len() + KEY_CHARS_MIN);
    is_key_in_hex || is_key || is_web_token(text) || is_phrase(text) || names_a_password(text) || is_secret_url(text)
}

/// Whether a text has a secret somewhere in it, as a sentence or a list has.
pub fn holds_secret(text: &str) -> bool {
    let follows = |word: &str| text.to_lowercase().contains(word);
    let mut pieces = text.split(|c: char| c.is_whitespace() || ENDS.contains(c));
    looks_secret(text) || follows("bearer ") || follows("basic ") || pieces.any(looks_secret)
}

/// Three parts of Base64, of which the first is JSON.
fn is_web_token(text: &str) -> bool {
    let part = |part: &str| part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_=".contains(&byte));
    text.starts_with("eyJ") && text.len() >= KEY_CHARS_MIN && text.contains('.') && text.split('.').all(part)
}

fn is_phrase(text: &str) -> bool {
    let is_word = |word: &str| (3..=8).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_lowercase());
    PHRASES.contains(&text.split_whitespace().count()) && text.split_whitespace().all(is_word)
}

/// `user:password@host`, without a scheme.
fn names_a_password(text: &str) -> bool {
    let Some((user, host)) = text.rsplit_once('@') else { return false };
    let is_part = |part: &str| !part.is_empty() && !part.contains(char::is_whitespace);
    user.contains(':') && !user.contains('/') && is_part(user) && is_part(host)
}

/// Whether a URL has more than a host: all the rest may be a key. What is no URL may be a piece of one.
fn is_secret_url(text: &str) -> bool {
    text.contains("://")
        && !text.contains(char::is_whitespace)
        && Url::parse(text).map_or(true, |url| {
            let rest = url.path().len() > 1 || url.query().is_some() || url.fragment().is_some();
            let user = !url.username().is_empty() || url.password().is_some();
            rest || user || url.host_str().is_some_and(|host| host.split('.').any(is_key_label))
        })
}

/// Whether a label of a host name is rather a key than a name.
fn is_key_label(label: &str) -> bool {
    let digits = label.bytes().filter(u8::is_ascii_digit).count();
    label.len() >= 20 && digits >= 4 && label.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// A URL with scheme, host and port alone: userinfo, path and query are where keys are.
pub fn shown_url(url: &str) -> String {
    let Some(parsed) = Url::parse(url).ok().filter(Url::has_host) else { return MASK.to_owned() };
    let mut shown = format!("{}://", parsed.scheme());
    if !parsed.username().is_empty() || parsed.password().is_some() {
        shown += "***@";
    }
    let host = parsed.host_str().unwrap_or(MASK);
    let labels: Vec<_> = host.split('.').map(|label| if is_key_label(label) { MASK } else { label }).collect();
    shown += &labels.join(".");
    if let Some(port) = parsed.port() {
        shown += &format!(":{port}");
    }
    if parsed.path().len() > 1 {
        shown += "/***";
    }
    if parsed.query().is_some() {
        shown += "?***";
    }
    shown
}

/// A message without what it quotes in backquotes, all of it when any of it may be secret: a value may have backquotes of
/// its own. What would be right is still said, unless that may be secret, too.
pub fn veiled(message: &str, hidden: bool) -> Cow<'_, str> {
    let advice = message.rfind("`: expected ").filter(|at| !hidden && !holds_secret(&message[at + 1..]));
    let (Some(first), Some(last)) = (message.find('`'), advice.or_else(|| message.rfind('`'))) else {
        return Cow::Borrowed(message);
    };
    let (before, after) = (&message[..=first], &message[last..]);
    match message.get(first + 1..last) {
        Some(quoted) if hidden || holds_secret(quoted) => Cow::Owned(format!("{before}{MASK}{after}")),
        _ => Cow::Borrowed(message),
    }
}

/// serde's message about a value of another type than was wanted, without the value: that may be anything, and stand at a
/// place where nobody looks for secrets.
pub fn without_value(message: &str) -> Cow<'_, str> {
    const BEGINNINGS: [&str; 2] = ["invalid type: ", "invalid value: "];
    let begins = BEGINNINGS.iter().filter_map(|begin| message.find(begin).map(|at| at + begin.len())).min();
    let Some(value) = begins else { return veiled(message, false) };
    let ends = message[value..].rfind(", expected ").map_or(message.len(), |end| value + end);
    let kind = message[value..ends].split(['"', '`']).next().unwrap_or_default().trim_end();
    Cow::Owned(format!("{}{kind}{}", &message[..value], &message[ends..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_is_secret() {
        for secret in [
            "key",
            "keys",
            "api_key",
            "apiKey",
            "APIKey",
            "API_KEYS",
            "key2",
            "x-api-key",
            "X-Api-Key",
            "authToken",
            "auth-token",
            "authtoken",
            "tokens",
            "Authorization",
            "cookie",
            "Set-Cookie",
            "dsn",
            "db.dsn",
            "passphrase",
            "mnemonic",
            "credential",
            "credentials",
            "webhook",
            "webhookUrl",
            "pass",
            "pwd",
            "db_passwd",
            "password1",
            "seed",
            "seedPhrase",
            "private",
            "privateKey",
            "privatekey",
            "client_secret",
            "jwt",
            "oauth2",
            "xprv",
        ] {
            assert!(is_secret_name(secret), "{secret}");
        }
        for plain in [
            "",
            "monkey",
            "keyed",
            "threshold",
            "author",
            "authors",
            "passage",
            "compass",
            "seeded",
            "url",
            "interval",
            "hookah",
            "URLs",
            "tokenizer",
            "öffnung",
            "7",
        ] {
            assert!(!is_secret_name(plain), "{plain}");
        }
    }

    #[test]
    fn values_say_what_is_secret() {
        let key = "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318";
        let (in_hex, of_64_bytes) = (format!("0x{key}"), key.repeat(2));
        let phrase = "test test test test test test test test test test test junk";
        for secret in [
            key,
            &in_hex,
            &of_64_bytes,
            phrase,
            "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
            "sk-proj-0123456789abcdef",
            "ghp_0123456789abcdef",
            "xoxb-0123456789-abcdef",
            "postgres://user:pass@db.example.org",
            "user:pass@db.example.org:5432",
            "https://rpc.example.org/v2/k3y",
            "https://rpc.example.org?key=k3y",
            "https://0a1b2c3d4e5f60718293a4b5c6d7e8f9.example.org",
            "https://[half",
        ] {
            assert!(looks_secret(secret) && holds_secret(secret), "{secret}");
            assert!(holds_secret(&format!("found `{secret}`, which is wrong")) || secret == phrase, "{secret}");
        }
        assert!(holds_secret("Authorization: Bearer abc") && holds_secret("[\"x\",\"https://a/k3y\"]"));
        for plain in [
            "",
            "info",
            "12",
            "0xC02aaA39b223FE8D0A0e5C4F27eAD9083C756Cc2",
            "sk-learn",
            "me@example.org",
            "https://example.org/",
            "http://127.0.0.1:8545",
            "costs $5 and ${KEY} stays",
            "bundles/a",
            "registry.example.org/image:1@sha256",
        ] {
            assert!(!holds_secret(plain), "{plain}");
        }
    }

    #[test]
    fn urls_keep_their_host_only() {
        assert_eq!(shown_url("http://localhost:8545"), "http://localhost:8545");
        assert_eq!(shown_url("https://mainnet.example.org/v3/k3y"), "https://mainnet.example.org/***");
        assert_eq!(shown_url("wss://u:p@node.example.org:8546/?key=k3y"), "wss://***@node.example.org:8546?***");
        assert_eq!(shown_url("https://0a1b2c3d4e5f60718293a4b5c6d7e8f9.a.org"), "https://***.a.org");
        for no_url in ["not a url with k3y", "k3y:x", "localhost:8545/k3y"] {
            assert_eq!(shown_url(no_url), "***");
        }
    }

    #[test]
    fn a_quoted_value_is_veiled_with_its_own_backquotes() {
        let message = "`k3y` in `a,k3y` is no log level: expected info";
        assert_eq!(veiled(message, true), "`***` is no log level: expected info");
        assert_eq!(veiled(message, false), message);
        assert_eq!(veiled("`a`k3y` is wrong", true), "`***` is wrong");
        assert_eq!(veiled("unknown capability `https://a/x`k3y`; known", false), "unknown capability `***`; known");
        let advised = "`https://u:k3y@a.org/x`: expected a host; write `a.org`";
        assert_eq!(veiled(advised, false), "`***`: expected a host; write `a.org`");
        let unadvised = "`a.org/k3y`: expected a host; write `https://a.org/k3y`";
        assert_eq!(veiled(unadvised, false), "`***`");
        assert_eq!((&*veiled("a ` alone", true), &*veiled("none", true)), ("a ` alone", "none"));
    }

    #[test]
    fn a_value_of_another_type_is_told_by_its_type() {
        for (message, told) in [
            ("invalid type: string \"k3y\", expected u64", "invalid type: string, expected u64"),
            ("invalid value: integer `-1`, expected u64", "invalid value: integer, expected u64"),
            ("invalid type: map, expected a string", "invalid type: map, expected a string"),
            (
                "x: invalid type: string \"k3y, expected invalid value: k3y\", expected a list at line 1 column 2",
                "x: invalid type: string, expected a list at line 1 column 2",
            ),
            ("missing field `x`", "missing field `x`"),
        ] {
            assert_eq!(without_value(message), told);
        }
    }
}
