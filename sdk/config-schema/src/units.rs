//! Values with units, as people write them.

use crate::{SECRET_NAME_BYTES_MAX, Value};

/// 2²⁵⁶ − 1.
const LARGEST: &str = "115792089237316195423570985008687907853269984665640564039457584007913129639935";
/// 18 decimals of an ether.
const ETHER_DECIMALS: usize = 18;

/// A duration such as `90s`, `1h30m` or `500ms`, in milliseconds.
pub fn duration_ms(text: &str) -> Option<u64> {
    let mut rest = text.trim();
    let mut sum = 0_u64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        rest = rest[digits..].trim_start();
        let unit = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let ms = match &rest[..unit] {
            "ms" => 1,
            "s" => 1_000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        sum = sum.checked_add(number.checked_mul(ms)?)?;
        rest = rest[unit..].trim_start();
    }
    Some(sum)
}

/// A size such as `64MiB`, `10 kB` or `4096`.
pub fn bytes(value: &Value) -> Option<u64> {
    let text = match value {
        Value::Integer(number) => return u64::try_from(*number).ok(),
        Value::Text(text) => text.trim(),
        _ => return None,
    };
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let unit = match text[digits..].trim() {
        "" | "B" => 1,
        "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(unit)
}

/// An amount such as `1.5 ether`, `30 gwei` or `1000`, which is wei.
pub fn wei(value: &Value) -> Option<u128> {
    let text = match value {
        Value::Integer(number) => return u128::try_from(*number).ok(),
        Value::Text(text) => text.trim(),
        _ => return None,
    };
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic()).trim_end();
    let decimals = match text[number.len()..].trim() {
        "" | "wei" => 0,
        "gwei" => 9,
        "ether" | "eth" => ETHER_DECIMALS,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || fraction.len() > decimals || !is_digits(whole) || !is_digits(fraction) {
        return None;
    }
    // Without its dot it is a whole number of the smallest unit.
    format!("{whole}{fraction:0<decimals$}").parse().ok()
}

/// A whole number of at most 256 bits, in decimal digits.
pub fn digits(text: &str) -> Option<&str> {
    let is_number = !text.is_empty() && text.len() <= LARGEST.len() && text.bytes().all(|byte| byte.is_ascii_digit());
    // Of the same length, the digits order themselves.
    (is_number && (text.len() < LARGEST.len() || text <= LARGEST)).then_some(text)
}

pub fn is_address(text: &str) -> bool {
    text.strip_prefix("0x").is_some_and(|hex| hex.len() == 40 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

pub fn is_secret_name(text: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=SECRET_NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let of = |text: &str, ms| assert_eq!(duration_ms(text), ms, "{text}");
        of("90s", Some(90_000));
        of("1h30m", Some(5_400_000));
        of("1d 500ms", Some(86_400_500));
        for wrong in ["", "90", "s", "1.5s", "-1s", "1w", "99999999999999999999s", "18446744073709551615d"] {
            of(wrong, None);
        }
    }

    #[test]
    fn sizes() {
        let of = |text: &str, size| assert_eq!(bytes(&Value::Text(text.to_owned())), size, "{text}");
        of("64MiB", Some(64 << 20));
        of("10 kB", Some(10_000));
        of("7", Some(7));
        for wrong in ["", "MiB", "1.5MiB", "1 mib", "-1", "99999999999999999GiB"] {
            of(wrong, None);
        }
        assert_eq!((bytes(&Value::Integer(7)), bytes(&Value::Integer(-7))), (Some(7), None));
    }

    #[test]
    fn amounts() {
        let of = |text: &str, amount| assert_eq!(wei(&Value::Text(text.to_owned())), amount, "{text}");
        of("1.5 ether", Some(1_500_000_000_000_000_000));
        of("30gwei", Some(30_000_000_000));
        of("0.000000000000000001 ether", Some(1));
        of("1000", Some(1000));
        of("0 wei", Some(0));
        for wrong in
            ["", "ether", ".5 ether", "1.5", "1.5 wei", "1 finney", "-1 wei", "0.0000000001 gwei", "1.5.0 ether"]
        {
            of(wrong, None);
        }
        of("999999999999999999999999 ether", None);
    }

    #[test]
    fn names_and_numbers() {
        assert!(is_address("0x5FbDB2315678afecb367f032d93F642f64180aa3"));
        assert!(!is_address("5FbDB2315678afecb367f032d93F642f64180aa3") && !is_address("0x5F"));
        assert!(is_secret_name("slack-hook.eu") && !is_secret_name("") && !is_secret_name("a b"));
        assert!(digits("007").is_some() && digits("").is_none() && digits("0x7").is_none());
        assert!(digits(&"9".repeat(77)).is_some() && digits(&"9".repeat(78)).is_none());
        assert!(digits(LARGEST).is_some() && digits(&LARGEST.replace("9935", "9936")).is_none());
        assert!(digits(&format!("0{}", &LARGEST[1..])).is_some() && digits(&format!("0{LARGEST}")).is_none());
    }
}
