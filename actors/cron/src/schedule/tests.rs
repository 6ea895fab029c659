//! Tables of expressions and times.

use chrono::{Datelike, TimeZone, Timelike};

use super::*;

fn plan(expression: &str) -> Plan {
    Plan::new(&Schedule::Cron(expression.to_owned())).unwrap()
}

fn at(text: &str) -> u64 {
    let text = if text.contains('T') { text.to_owned() } else { format!("{text}T00:00:00") };
    millis(Utc.from_utc_datetime(&text.parse().unwrap()))
}

fn shown(at_ms: u64) -> String {
    time(at_ms).unwrap().format("%a %Y-%m-%dT%H:%M:%S").to_string()
}

#[test]
fn expressions_fire_when_cron_would() {
    // 2024-01-01 is a Monday.
    let cases = [
        ("*/5 * * * *", "2024-01-01T00:00:00", "Mon 2024-01-01T00:05:00"),
        ("*/5 * * * *", "2024-01-01T00:04:59", "Mon 2024-01-01T00:05:00"),
        ("30 6 * * *", "2024-01-01T06:30:00", "Tue 2024-01-02T06:30:00"),
        ("*/10 * * * * *", "2024-01-01T00:00:55", "Mon 2024-01-01T00:01:00"),
        ("0 0 29 2 *", "2024-03-01", "Tue 2028-02-29T00:00:00"),
        ("0 0 31 * *", "2024-01-31", "Sun 2024-03-31T00:00:00"),
        ("0 0 1 JAN *", "2024-01-01", "Wed 2025-01-01T00:00:00"),
        // Days of the week: 0 and 7 are Sunday, names mean the same.
        ("0 0 * * 0", "2024-01-01", "Sun 2024-01-07T00:00:00"),
        ("0 0 * * 7", "2024-01-01", "Sun 2024-01-07T00:00:00"),
        ("0 0 * * 1", "2024-01-01", "Mon 2024-01-08T00:00:00"),
        ("0 0 * * 5-7", "2024-01-01", "Fri 2024-01-05T00:00:00"),
        ("0 0 * * 6,0", "2024-01-06", "Sun 2024-01-07T00:00:00"),
        ("0 0 * * mon-fri", "2024-01-05", "Mon 2024-01-08T00:00:00"),
        ("0 0 * * Sunday", "2024-01-01", "Sun 2024-01-07T00:00:00"),
        ("0 0 * * */2", "2024-01-01", "Tue 2024-01-02T00:00:00"),
        ("0 0 * * 1-5/2", "2024-01-01", "Wed 2024-01-03T00:00:00"),
        ("0 0 * * 4/2", "2024-01-04", "Sat 2024-01-06T00:00:00"),
        ("0 0 * * ?", "2024-01-01", "Tue 2024-01-02T00:00:00"),
        // Both days restricted: either is enough. One is: only that one counts.
        ("0 0 13 * 5", "2024-01-01", "Fri 2024-01-05T00:00:00"),
        ("0 0 13 * 5", "2024-01-12", "Sat 2024-01-13T00:00:00"),
        ("0 0 13 * *", "2024-01-01", "Sat 2024-01-13T00:00:00"),
    ];
    for (expression, after, expected) in cases {
        assert_eq!(shown(plan(expression).next(at(after)).unwrap()), expected, "`{expression}` after {after}");
    }
}

#[test]
fn what_cannot_be_used_is_refused_with_what_would_be_right() {
    let cases = [
        ("* * * *", "4 fields instead of 5"),
        ("0 0 0 1 1 * 2024", "7 fields instead of 5"),
        ("", "0 fields"),
        ("@daily", "shorthands with @ are not known"),
        ("61 * * * *", "Minutes must be at most 59."),
        ("*/0 * * * *", "the step `/0` in `*/0`"),
        ("*/x * * * *", "the step `/x`"),
        ("0 0 * * 8", "`8` is no day of the week: 0 to 7, or SUN to SAT"),
        ("0 0 * * FOO", "`FOO` is no day of the week"),
        ("0 0 * * 5-1", "runs backwards"),
        ("0 0 * * 6-0", "runs backwards"),
        ("0 0 * * FRI-MON", "runs backwards"),
        ("0 0 * * FRI#2", "`#` in `FRI#2` is not known"),
        ("0 0 * * 5L", "`5L` is no day of the week"),
        ("0 0 * * FRIGHT", "`FRIGHT` is no day of the week"),
        ("0 0 L * *", "L"),
        ("0 0 15W * *", "W"),
        ("H H * * *", "H"),
        ("0~30 * * * *", "`~` in `0~30`"),
        ("+1 * * * *", "`+` in `+1`"),
        ("1,2, * * * *", "nothing stands on one side of a comma in `1,2,`"),
        ("1--2 * * * *", "1--2"),
        ("0 24 * * *", "Hours must be at most 23."),
        ("0 0 30 2 *", "it never fires"),
        ("0 0 * FOO *", "FOO"),
        ("ü * * * *", "a schedule is `minute hour"),
    ];
    for (expression, expected) in cases {
        let error = check(&Schedule::Cron(expression.to_owned())).unwrap_err();
        assert!(error.contains(expected), "`{expression}`: {error}");
        assert!(error.contains("like `*/5 * * * *`"), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    let every = |period_ms| check(&Schedule::Every { period_ms });
    assert_eq!(every(0).unwrap_err(), "a period of 0 ms is too short: at least 100 ms");
    assert_eq!(every(u64::MAX).unwrap_err(), format!("a period of {} ms is too long: at most 366 days", u64::MAX));
    assert_eq!(every(30_000), Ok(()));
}

#[test]
fn fields_that_run_on_are_refused() {
    let cases = [
        ("*5 * * * *", "`*5` is no minute: 0 to 59; `*` stands alone or before a step"),
        ("0 *5 * * *", "`*5` is no hour: 0 to 23"),
        ("0 0 *5 * *", "`*5` is no day of the month: 1 to 31"),
        ("0 0 * *5 *", "`*5` is no month: 1 to 12, or JAN to DEC"),
        ("0 0 * * *5", "`*5` is no day of the week"),
        ("0 0 5JAN * *", "`5JAN` is no day of the month"),
        ("0 0 * JAN5 *", "`JAN5` is no month"),
        ("5* * * * * *", "`5*` is no second"),
        ("5* * * * *", "`5*` is no minute"),
        ("** * * * *", "`**` is no minute"),
        ("* *5 * * * *", "`*5` is no minute"),
        ("0 0 1-5* * *", "`5*` in `1-5*` is no day of the month"),
        ("0 0 1-5-7 * *", "`5-7` in `1-5-7` is no day of the month"),
        ("0 0 ?* * *", "`?*` is no day of the month"),
        ("0 0 ?/2 * *", "`?` in `?/2` is no day of the month: 1 to 31; `?` stands alone"),
        ("0 0 ?,1 * *", "`?` is no day of the month: 1 to 31; `?` stands alone"),
        ("0 0 * * ?/2", "`?` in `?/2` is no day of the week"),
        ("? * * * *", "`?` is no minute: 0 to 59; `?` stands alone, and for a day"),
        ("0 0 * ? *", "`?` is no month"),
        ("*-5 * * * *", "`*` in `*-5` is no minute"),
        ("-5 * * * *", "`` in `-5` is no minute"),
        ("*/5/2 * * * *", "the step `/5/2`"),
        ("/5 * * * *", "`` in `/5` is no minute"),
        ("5-1 * * * *", "`5-1` runs backwards: Minutes are 0 to 59"),
        ("0 0 * DEC-JAN *", "runs backwards"),
        ("0 0 0 * *", "Days of the month must be at least 1."),
        ("0 0 * 13 *", "Months must be at most 12."),
        ("4294967296 * * * *", "Minutes must be at most 59."),
        ("JAN * * * *", "`JAN` is no minute"),
    ];
    for (expression, expected) in cases {
        let error = check(&Schedule::Cron(expression.to_owned())).unwrap_err();
        assert!(error.contains(expected), "`{expression}`: {error}");
    }
}

#[test]
fn a_step_beyond_its_span_is_refused() {
    for (expression, expected) in [
        ("*/60 * * * *", "the step `/60` in `*/60` is beyond the span of 59 that it has there"),
        ("*/70 * * * *", "the step `/70` in `*/70` is beyond the span of 59"),
        ("0-59/60 * * * *", "the step `/60` in `0-59/60` is beyond the span of 59"),
        ("5,1-10/20 * * * *", "the step `/20` in `1-10/20` is beyond the span of 9"),
        ("59/2 * * * *", "the step `/2` in `59/2` is beyond the span of 0"),
        ("0 */36 * * *", "the step `/36` in `*/36` is beyond the span of 23"),
        ("0 0 */31 * *", "the step `/31` in `*/31` is beyond the span of 30"),
        ("0 0 1 JAN-MAR/3 *", "the step `/3` in `JAN-MAR/3` is beyond the span of 2"),
        ("0 0 * * */8", "the step `/8` in `*/8` is beyond the span of 7"),
        ("*/4294967295 * * * *", "is beyond the span of 59"),
    ] {
        let error = check(&Schedule::Cron(expression.to_owned())).unwrap_err();
        assert!(error.contains(expected), "`{expression}`: {error}");
        assert!(error.contains("write a longer period as such, like every = \"90m\""), "{error}");
    }
}

#[test]
fn items_of_a_list_are_read_each() {
    for (expression, same) in [
        ("0 0 1 JAN/3 *", "0 0 1 1,4,7,10 *"),
        ("0 0 1 january-MAR,12 *", "0 0 1 1,2,3,12 *"),
        ("50/4 * * * *", "50,54,58 * * * *"),
        ("0 0 1 * 1,1,SUN,7", "0 0 1 * 0,1"),
        ("*/59 5 * * *", "0,59 5 * * *"),
        ("1-10/9 5-5/1 * * *", "1,10 5 * * *"),
        // Sunday is the last of the week, too.
        ("0 0 * * */7", "0 0 * * 0"),
        ("*,5 0-23/1 ? * ?", "* * * * *"),
        ("05,007 * * * *", "5,7 * * * *"),
    ] {
        let times = |text: &str| plan(text).times(at("2024-01-01"), at("2026-01-01")).take(999).collect::<Vec<_>>();
        assert_eq!(times(expression), times(same), "{expression}");
    }
}

#[test]
fn a_period_is_aligned_to_the_epoch() {
    let plan = Plan::new(&Schedule::Every { period_ms: 30_000 }).unwrap();
    assert_eq!(plan.next(0), Some(30_000));
    assert_eq!(plan.next(29_999), Some(30_000));
    assert_eq!(plan.next(30_000), Some(60_000));
    assert_eq!(plan.last(59_999), Some(30_000));
    assert_eq!(plan.count(29_999, 90_000, 100), 3);
    assert_eq!(plan.times(29_999, 90_000).collect::<Vec<_>>(), [30_000, 60_000, 90_000]);
    assert_eq!(plan.next(u64::MAX), None);
}

#[test]
fn going_back_finds_what_going_forward_passes() {
    let expressions = ["*/7 3 * * *", "0 0 31 * *", "0 12 29 2 *", "0 0 13 * 5", "15 30 4 1,15 */3 *", "0 0 * * 6"];
    for expression in expressions {
        let plan = plan(expression);
        let (from, until) = (at("2023-11-05T10:11:12"), at("2029-01-01"));
        let times: Vec<u64> = plan.times(from, until).take(3000).collect();
        assert!(times.len() >= 2, "{expression}");
        for pair in times.windows(2) {
            for now in [pair[0], pair[0] + 1, pair[0] + 999, pair[0] + 1_000, pair[1] - 1] {
                assert_eq!(plan.last(now).map(shown), Some(shown(pair[0])), "`{expression}` at {}", shown(now));
            }
            assert_eq!(plan.count(pair[0], pair[1], 9), 1);
        }
        assert_eq!(plan.count(from, times[1], 99), 2);
        assert_eq!(plan.count(from, times[1], 1), 1);
    }
}

#[test]
fn a_year_of_hours_equals_a_plain_search() {
    let plan = plan("0 */6 1-7,20 2-11 1,3");
    let fires = |at_ms: u64| {
        let at = time(at_ms).unwrap();
        let day = (1..=7).contains(&at.day()) || at.day() == 20;
        let weekday = [1, 3].contains(&at.weekday().num_days_from_sunday());
        at.hour().is_multiple_of(6) && (2..=11).contains(&at.month()) && (day || weekday)
    };
    let (from, until) = (at("2024-01-01"), at("2025-01-01"));
    let expected: Vec<u64> = (from..=until).step_by(3_600_000).filter(|at| fires(*at)).collect();
    assert_eq!(plan.times(from, until).collect::<Vec<_>>(), expected);
}

/// A table made with a reference implementation.
#[test]
fn expressions_fire_when_the_reference_says() {
    let mut rows = 0;
    for line in include_str!("reference.tsv").lines().filter(|line| !line.starts_with('#')) {
        let [expression, after, expected] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let times: Vec<String> = plan(expression)
            .times(at(after), at("2100-01-01"))
            .take(5)
            .map(|at_ms| time(at_ms).unwrap().format("%Y-%m-%dT%H:%M:%S").to_string())
            .collect();
        assert_eq!(times.join(" "), expected, "`{expression}` after {after}");
        rows += 1;
    }
    assert!(rows > 400);
}

#[test]
fn a_range_that_ends_on_a_sunday_goes_on_to_the_next_one() {
    for expression in ["0 0 * * SAT-SUN", "0 0 * * sat-Sunday", "0 0 * * 6-7", "0 0 * * SAT-7", "0 0 * * 6,0"] {
        let times: Vec<String> = plan(expression).times(at("2024-01-01"), at("2024-01-15")).map(shown).collect();
        let weekend = ["Sat 2024-01-06", "Sun 2024-01-07", "Sat 2024-01-13", "Sun 2024-01-14"];
        assert_eq!(times, weekend.map(|day| format!("{day}T00:00:00")), "{expression}");
    }
}
