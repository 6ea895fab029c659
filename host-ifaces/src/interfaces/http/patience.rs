//! How long the other side of HTTP asks to be left alone.

use std::time::{Duration, UNIX_EPOCH};

use serde_json::Value;

/// The time that it asks for, from the value of `Retry-After`: seconds, or a date, which is held against
/// `now_ms`. What is longer than anything can count is the longest there is.
pub fn retry_after(value: &str, now_ms: u64) -> Option<Duration> {
    let value = value.trim();
    if let Some(time) = value.parse().ok().and_then(seconds) {
        return Some(time);
    }
    let date = httpdate::parse_http_date(value).ok()?;
    let at = date.duration_since(UNIX_EPOCH).ok()?;
    Some(at.saturating_sub(Duration::from_millis(now_ms)))
}

/// The time that the body of an answer asks for: in `retry_after`, as Discord says it, or in the `parameters` of Telegram,
/// both in seconds.
pub fn of_body(body: &[u8]) -> Option<Duration> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let told = body.get("retry_after").or_else(|| body.pointer("/parameters/retry_after"));
    told.and_then(Value::as_f64).and_then(seconds)
}

fn seconds(seconds: f64) -> Option<Duration> {
    let is_time = seconds.is_finite() && seconds >= 0.0;
    is_time.then(|| Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_read_as_seconds_and_as_a_date() {
        let now_ms = 1_700_000_000_000;
        let cases = [
            ("7", Some(Duration::from_secs(7))),
            (" 20.5 ", Some(Duration::from_millis(20_500))),
            ("0", Some(Duration::ZERO)),
            ("99999999999999999999999", Some(Duration::MAX)),
            ("Tue, 14 Nov 2023 22:14:20 GMT", Some(Duration::from_secs(60))),
            ("Tue, 14 Nov 2023 22:13:00 GMT", Some(Duration::ZERO)),
            ("-5", None),
            ("inf", None),
            ("NaN", None),
            ("soon", None),
            ("", None),
        ];
        for (value, after) in cases {
            assert_eq!(retry_after(value, now_ms), after, "{value}");
        }
    }

    /// What the fuzzer begins with.
    #[test]
    fn as_time_goes_by_nobody_is_to_wait_longer() {
        let (now_ms, mut told) = (1_700_000_000_000, 0);
        for seed in nexum_testkit::corpus("retry-after") {
            of_body(&seed);
            let text = String::from_utf8(seed).unwrap();
            let Some(wait) = retry_after(&text, now_ms) else { continue };
            assert!(retry_after(&text, now_ms + 1_000).is_some_and(|later| later <= wait), "{text:?}");
            told += 1;
        }
        assert!(told > 4);
    }

    #[test]
    fn the_body_of_an_answer_may_say_it() {
        for (body, after) in [
            (r#"{"message":"You are being rate limited.","retry_after":64.57,"global":false}"#, Some(64_570)),
            (r#"{"ok":false,"error_code":429,"parameters":{"retry_after":35}}"#, Some(35_000)),
            (r#"{"retry_after":-1}"#, None),
            (r#"{"retry_after":"5"}"#, None),
            (r#"[{"retry_after":5}]"#, None),
            ("rate_limited", None),
            ("", None),
        ] {
            assert_eq!(of_body(body.as_bytes()), after.map(Duration::from_millis), "{body}");
        }
    }
}
