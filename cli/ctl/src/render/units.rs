//! Numbers for people.

/// `950`, `2.1M`, `1.0G`.
pub fn count(number: u64) -> String {
    scaled(number, 1000.0, &["", "K", "M", "G", "T"], "")
}

/// `1.1/50 MiB`: both in the unit of the larger.
pub fn bytes_of(used: u64, limit: u64) -> String {
    const UNITS: [&str; 4] = ["B", "KiB", "MiB", "GiB"];
    let mut unit = 0;
    let mut scale = 1u64;
    while unit + 1 < UNITS.len() && limit / scale >= 1024 {
        scale *= 1024;
        unit += 1;
    }
    let show = |bytes: u64| {
        let value = bytes as f64 / scale as f64;
        if bytes.is_multiple_of(scale) { format!("{value:.0}") } else { format!("{value:.1}") }
    };
    format!("{}/{} {}", show(used), show(limit), UNITS[unit])
}

/// `512 B`, `1.5 MiB`.
pub fn bytes(number: u64) -> String {
    scaled(number, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB"], " ")
}

fn scaled(number: u64, step: f64, units: &[&str], gap: &str) -> String {
    let mut value = number as f64;
    let mut unit = 0;
    while unit + 1 < units.len() && value >= step {
        value /= step;
        unit += 1;
    }
    if unit == 0 { format!("{number}{gap}{}", units[0]) } else { format!("{value:.1}{gap}{}", units[unit]) }
}

/// `350 ms`, `4 s`, `12 min`, `3 h 10 min`, `2 d 4 h`.
pub fn duration_ms(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0 => format!("{ms} ms"),
        1..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// Milliseconds since the Unix epoch as `2026-11-20 21:50:03 UTC`.
pub fn time_ms(ms: u64) -> String {
    let time = i64::try_from(ms).ok().and_then(chrono::DateTime::from_timestamp_millis);
    time.map_or_else(|| format!("{ms} ms"), |time| time.format("%Y-%m-%d %H:%M:%S UTC").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!([count(0), count(999), count(2_100_000), count(1_000_000_000)], ["0", "999", "2.1M", "1.0G"]);
        assert_eq!(bytes_of(1_153_434, 52_428_800), "1.1/50 MiB");
        assert_eq!(bytes_of(0, 0), "0/0 B");
        assert_eq!(bytes_of(7, 1536), "0.0/1.5 KiB");
        assert_eq!([bytes(512), bytes(1_572_864)], ["512 B", "1.5 MiB"]);
        assert_eq!(
            [350, 4_000, 720_000, 11_400_000, 187_200_000].map(duration_ms),
            ["350 ms", "4 s", "12 min", "3 h 10 min", "2 d 4 h"]
        );
        assert_eq!(time_ms(1_700_000_000_500), "2023-11-14 22:13:20 UTC");
    }
}
