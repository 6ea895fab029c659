//! Keeping secrets out of what a module is told: answers and errors that repeat one have `***` in its place.
//!
//! Servers repeat what they were sent: in a `Location`, in a page that says what was wrong, in the description of a webhook.
//! A server that means to pass a secret on can write it in a thousand ways; this is against those that do not mean to.

use std::{borrow::Cow, collections::BTreeSet, ops::Range, sync::Arc};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use memchr::memmem;
use nexum_host_ifaces::{
    interfaces::http::port::{Header, Response},
    secrets::MASK,
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use zeroize::Zeroizing;

use super::{placeholder::encoded, value::Value};

/// What is shorter would be found where it is not meant.
const FORM_BYTES_MIN: usize = 6;
/// The parts of a secret that are secrets by themselves: what follows `Bearer`, the last part of `T0/B0/x`.
const PART_BYTES_MIN: usize = 16;

/// How one secret may look where it is repeated.
pub(super) struct Forms(Vec<Zeroizing<Vec<u8>>>);

impl Forms {
    /// Of a secret that is not there.
    pub fn none() -> Self {
        Self(Vec::new())
    }

    pub fn of(value: &Value) -> Self {
        let mut forms = BTreeSet::<Vec<u8>>::new();
        let text = value.as_text();
        let split = |text: &str| -> Vec<String> {
            let parts = text.split(['/', ' ', ':', ',', '=']).filter(|part| part.len() >= PART_BYTES_MIN);
            parts.map(str::to_owned).collect()
        };
        forms.insert(value.bytes().to_vec());
        forms.extend(text.map(split).into_iter().flatten().map(String::into_bytes));
        let plain: Vec<Zeroizing<Vec<u8>>> = forms.iter().cloned().map(Zeroizing::new).collect();
        for plain in &plain {
            forms.extend(in_base64(plain).map(String::into_bytes));
            let Ok(plain) = std::str::from_utf8(plain) else { continue };
            let encoded = [
                encoded(plain, false).into_owned(),
                encoded(plain, true).into_owned(),
                utf8_percent_encode(plain, NON_ALPHANUMERIC).to_string(),
                // A form, and JSON as some write it.
                encoded(plain, true).replace("%20", "+"),
                plain.replace('\\', "\\\\").replace('"', "\\\""),
                plain.replace('\\', "\\\\").replace('"', "\\\"").replace('/', "\\/"),
            ];
            forms.extend(encoded.iter().map(|form| small_hex(form)).map(String::into_bytes));
            forms.extend(encoded.map(String::into_bytes));
        }
        forms.retain(|form| form.len() >= FORM_BYTES_MIN);
        Self(forms.into_iter().map(Zeroizing::new).collect())
    }
}

/// The same with small letters as digits of what is percent-encoded.
fn small_hex(encoded: &str) -> String {
    let mut small = String::with_capacity(encoded.len());
    let mut since = usize::MAX;
    for c in encoded.chars() {
        since = if c == '%' { 0 } else { since.saturating_add(1) };
        small.push(if since <= 2 { c.to_ascii_lowercase() } else { c });
    }
    small
}

/// What is certain of some bytes in Base64, wherever they stand in what is encoded: a character has six bits, and the first
/// and the last ones may be a neighbour's.
fn in_base64(bytes: &[u8]) -> impl Iterator<Item = String> {
    let shifted = (0..3_usize).map(|before| {
        let shifted = Zeroizing::new([&[0_u8; 2][..before], bytes].concat());
        // Characters that have a bit of what is before.
        let first = (before * 8).div_ceil(6);
        let last = usize::from(!shifted.len().is_multiple_of(3));
        let certain = |encoded: String| encoded[first..encoded.len().saturating_sub(last).max(first)].to_owned();
        [certain(STANDARD_NO_PAD.encode(&*shifted)), certain(URL_SAFE_NO_PAD.encode(&*shifted))]
    });
    shifted.collect::<Vec<_>>().into_iter().flatten()
}

/// The secrets that the servers which one request reached may know.
#[derive(Default)]
pub(crate) struct Exposed(Vec<Arc<Forms>>);

impl Exposed {
    pub(super) fn add(&mut self, forms: &Arc<Forms>) {
        if !self.0.iter().any(|known| Arc::ptr_eq(known, forms)) {
            self.0.push(forms.clone());
        }
    }

    fn each(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().flat_map(|forms| &forms.0).map(|form| form.as_slice())
    }

    /// Whether one of them stands in a URL.
    pub fn is_in(&self, url: &str) -> bool {
        !self.places_in_any_case(url).is_empty()
    }

    /// What is told of an error.
    pub fn clean_message(&self, text: &str) -> String {
        let clean = hidden(text.as_bytes(), self.places_in_any_case(text));
        String::from_utf8_lossy(&clean).into_owned()
    }

    /// Where they stand in a text that has names of hosts, which are in small letters.
    fn places_in_any_case(&self, text: &str) -> Vec<Range<usize>> {
        let lower = Zeroizing::new(text.to_ascii_lowercase());
        let forms = self.each().map(|form| Zeroizing::new(form.to_ascii_lowercase()));
        forms.flat_map(|form| places(lower.as_bytes(), &form).collect::<Vec<_>>()).collect()
    }

    /// The answer as the module gets it. Of a body that was cut, what may be the beginning of a secret at its end is
    /// cut, too. Of one that is packed nothing can be told, and nothing is left.
    pub fn clean(&self, mut response: Response, is_whole: bool) -> Response {
        if self.0.is_empty() {
            return response;
        }
        if response.headers.iter().any(is_packed) {
            response.body = Vec::new();
        }
        for Header { value, .. } in &mut response.headers {
            if let Cow::Owned(clean) = self.cleaned(value.as_bytes()) {
                *value = String::from_utf8_lossy(&clean).into_owned();
            }
        }
        if let Cow::Owned(clean) = self.cleaned(&response.body) {
            response.body = clean;
        }
        if !is_whole {
            let begun = self.each().map(|form| begun(&response.body, form)).max().unwrap_or(0);
            response.body.truncate(response.body.len() - begun);
        }
        response
    }

    fn cleaned<'a>(&self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        hidden(bytes, self.each().flat_map(|form| places(bytes, form)).collect())
    }
}

fn places<'a>(bytes: &'a [u8], form: &'a [u8]) -> impl Iterator<Item = Range<usize>> + 'a {
    memmem::find_iter(bytes, form).map(|at| at..at + form.len())
}

/// The bytes with a mask in these places; those that touch or overlap are one.
fn hidden(bytes: &[u8], mut places: Vec<Range<usize>>) -> Cow<'_, [u8]> {
    if places.is_empty() {
        return Cow::Borrowed(bytes);
    }
    places.sort_unstable_by_key(|place| (place.start, place.end));
    let (mut clean, mut at) = (Vec::with_capacity(bytes.len()), 0);
    for place in places {
        if at == 0 || place.start > at {
            clean.extend_from_slice(&bytes[at..place.start]);
            clean.extend_from_slice(MASK.as_bytes());
        }
        at = at.max(place.end);
    }
    clean.extend_from_slice(&bytes[at..]);
    Cow::Owned(clean)
}

/// How many bytes at the end of a body are the beginning of a form, and not all of it.
fn begun(body: &[u8], form: &[u8]) -> usize {
    (1..form.len()).rev().find(|length| body.ends_with(&form[..*length])).unwrap_or(0)
}

/// Whether a header says that the body is not as it is.
fn is_packed(header: &Header) -> bool {
    let names = ["content-encoding", "transfer-encoding"];
    let plain =
        |coding: &str| ["", "identity", "chunked"].iter().any(|plain| coding.trim().eq_ignore_ascii_case(plain));
    names.iter().any(|name| header.name.eq_ignore_ascii_case(name)) && !header.value.split(',').all(plain)
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    const KEY: &str = "T0/B0/s3cr3t+?>abcdefghij";

    fn exposed(value: &str) -> Exposed {
        let mut exposed = Exposed::default();
        exposed.add(&Arc::new(Forms::of(&Value::text(value.as_bytes().to_vec()).unwrap())));
        exposed
    }

    fn answer(headers: &[(&str, &str)], body: &[u8]) -> Response {
        let header = |(name, value): &(&str, &str)| Header { name: (*name).into(), value: (*value).into() };
        Response { status: 200, headers: headers.iter().map(header).collect(), body: body.to_vec() }
    }

    fn cleaned(value: &str, body: &str) -> String {
        String::from_utf8(exposed(value).clean(answer(&[], body.as_bytes()), true).body).unwrap()
    }

    #[test]
    fn a_secret_is_hidden_however_it_is_repeated() {
        for (body, clean) in [
            ("no webhook KEY here, KEY", "no webhook *** here, ***"),
            ("KEYKEY", "***"),
            ("/T0/B0/s3cr3t+%3F%3Eabcdefghij/", "/***/"),
            ("?a=T0%2FB0%2Fs3cr3t%2B%3F%3Eabcdefghij&b", "?a=***&b"),
            ("?a=T0%2fB0%2fs3cr3t%2b%3f%3eabcdefghij&b", "?a=***&b"),
            (r#"{"url":"T0\/B0\/s3cr3t+?>abcdefghij"}"#, r#"{"url":"***"}"#),
            ("the last part s3cr3t+?>abcdefghij alone", "the last part *** alone"),
            ("T0/B0/s3cr3t is not all of it", "T0/B0/s3cr3t is not all of it"),
            ("", ""),
        ] {
            assert_eq!(cleaned(KEY, &body.replace("KEY", KEY)), clean, "{body}");
        }
        assert_eq!(cleaned("Bearer 0123456789abcdef", "token 0123456789abcdef is wrong"), "token *** is wrong");
        // Too short to be told from other texts.
        assert_eq!(cleaned("12345", "12345"), "12345");
        assert_eq!(cleaned("123456", "12345 123456"), "12345 ***");
    }

    #[test]
    fn a_secret_is_hidden_in_base64_wherever_it_stands_in_it() {
        for around in ["", "u:", "us:", "usr:"] {
            for after in ["", "x", "xy", "xyz"] {
                let text = format!("{around}{KEY}{after}");
                for encoded in [STANDARD.encode(&text), STANDARD_NO_PAD.encode(&text), URL_SAFE_NO_PAD.encode(&text)] {
                    let clean = cleaned(KEY, &format!("Basic {encoded}"));
                    let left = clean.trim_start_matches("Basic ").replace(MASK, "");
                    let bound = around.len() * 4 / 3 + after.len() * 4 / 3 + 6;
                    assert!(clean.contains(MASK) && left.len() <= bound, "{text}: {clean}");
                }
            }
        }
    }

    #[test]
    fn headers_are_cleaned_as_the_body_is_and_errors_in_any_case() {
        let exposed = exposed(KEY);
        let clean = exposed.clean(answer(&[("location", &format!("https://b.org/{KEY}")), ("x", "y")], b"x"), true);
        assert_eq!(clean, answer(&[("location", "https://b.org/***"), ("x", "y")], b"x"));
        let host = format!("host `{}.evil.test` is not allowed", "s3cr3t+?>ABCdefghij");
        assert_eq!(exposed.clean_message(&host), "host `***.evil.test` is not allowed");
        assert_eq!(exposed.clean_message("f\u{fc}r nobody"), "f\u{fc}r nobody");
        assert!(exposed.is_in(&format!("https://b.org/{KEY}")) && !exposed.is_in("https://b.org/T0/B0/"));
        assert!(exposed.is_in(&format!("https://b.org/{}", KEY.to_lowercase())));
    }

    #[test]
    fn of_a_body_that_was_cut_no_beginning_of_a_secret_is_left() {
        let exposed = exposed(KEY);
        for length in 1..KEY.len() {
            let body = format!("so: {}", &KEY[..length]);
            let clean = |is_whole| exposed.clean(answer(&[], body.as_bytes()), is_whole).body;
            assert_eq!(clean(false), b"so: ", "{body}");
            assert_eq!(clean(true).len(), body.len());
        }
        assert_eq!(exposed.clean(answer(&[], b"fine"), false).body, b"fine");
    }

    #[test]
    fn what_cannot_be_looked_through_is_left_out() {
        let exposed = exposed(KEY);
        for (name, value, left) in [
            ("Content-Encoding", "gzip", 0),
            ("content-encoding", "identity, br", 0),
            ("transfer-encoding", "gzip, chunked", 0),
            ("content-encoding", "identity", 4),
            ("transfer-encoding", "chunked", 4),
            ("content-type", "gzip", 4),
        ] {
            assert_eq!(exposed.clean(answer(&[(name, value)], b"body"), true).body.len(), left, "{name}: {value}");
        }
        // Nobody who knows a secret was asked.
        let packed = answer(&[("content-encoding", "gzip")], KEY.as_bytes());
        assert_eq!(Exposed::default().clean(packed.clone(), false), packed);
    }
}
