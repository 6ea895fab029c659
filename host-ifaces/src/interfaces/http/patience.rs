//! How long the other side of HTTP asks to be left alone.

use std::time::{Duration, UNIX_EPOCH};

/// The time that it asks for, from the value of `Retry-After`: seconds, or a date, which is held against
/// `now_ms`. What is longer than anything can count is the longest there is.
pub fn retry_after(value: &str, now_ms: u64) -> Option<Duration> {
    let value = value.trim();
    if let Some(seconds) = value.parse::<f64>().ok().filter(|seconds| seconds.is_finite() && *seconds >= 0.0) {
        return Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    let at = date.duration_since(UNIX_EPOCH).ok()?;
    Some(at.saturating_sub(Duration::from_millis(now_ms)))
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
}
