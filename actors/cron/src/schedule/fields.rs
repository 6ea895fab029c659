//! The fields of a cron expression, read by a grammar of our own.
//!
//! The crate underneath does not ask for blanks between fields, so one that runs on, as in `*5 * * * *`, would shift all that
//! follow. It is given nothing but `*` and lists of numbers.

use std::collections::BTreeSet;

/// One of the places of an expression.
pub(super) struct Field {
    /// What a value of it is.
    what: &'static str,
    /// What its values are.
    values: &'static str,
    /// What may stand in it.
    right: &'static str,
    least: u32,
    most: u32,
    /// Short and long names of its values, the first that of `first_named`.
    names: &'static [(&'static str, &'static str)],
    first_named: u32,
    /// Whether `?` stands for every day.
    is_day: bool,
    /// Whether the last value is the first again, as Sunday is 0 and 7.
    wraps: bool,
}

pub(super) const SECOND: Field = Field { what: "second", values: "Seconds", ..MINUTE };
pub(super) const MINUTE: Field = Field {
    what: "minute",
    values: "Minutes",
    right: "0 to 59",
    least: 0,
    most: 59,
    names: &[],
    first_named: 0,
    is_day: false,
    wraps: false,
};
pub(super) const HOUR: Field = Field { what: "hour", values: "Hours", right: "0 to 23", most: 23, ..MINUTE };
pub(super) const DAY: Field = Field {
    what: "day of the month",
    values: "Days of the month",
    right: "1 to 31",
    least: 1,
    most: 31,
    is_day: true,
    ..MINUTE
};
pub(super) const MONTH: Field = Field {
    what: "month",
    values: "Months",
    right: "1 to 12, or JAN to DEC",
    least: 1,
    most: 12,
    names: &[
        ("JAN", "JANUARY"),
        ("FEB", "FEBRUARY"),
        ("MAR", "MARCH"),
        ("APR", "APRIL"),
        ("MAY", "MAY"),
        ("JUN", "JUNE"),
        ("JUL", "JULY"),
        ("AUG", "AUGUST"),
        ("SEP", "SEPTEMBER"),
        ("OCT", "OCTOBER"),
        ("NOV", "NOVEMBER"),
        ("DEC", "DECEMBER"),
    ],
    first_named: 1,
    ..MINUTE
};
pub(super) const WEEKDAY: Field = Field {
    what: "day of the week",
    values: "Days of the week",
    right: "0 to 7, or SUN to SAT",
    most: 7,
    names: &[
        ("SUN", "SUNDAY"),
        ("MON", "MONDAY"),
        ("TUE", "TUESDAY"),
        ("WED", "WEDNESDAY"),
        ("THU", "THURSDAY"),
        ("FRI", "FRIDAY"),
        ("SAT", "SATURDAY"),
    ],
    is_day: true,
    wraps: true,
    ..MINUTE
};

impl Field {
    /// What is written in this field, as the crate is to be given it.
    pub(super) fn read(&self, text: &str) -> Result<String, String> {
        check_signs(text)?;
        if text == "*" || (self.is_day && text == "?") {
            return Ok("*".to_owned());
        }
        let mut values = BTreeSet::new();
        for part in text.split(',') {
            let (first, last, step) = self.part(part)?;
            // The crate numbers Sunday 1.
            let numbered = |value: u32| if self.wraps { value % 7 + 1 } else { value };
            values.extend((first..=last).step_by(usize::try_from(step).unwrap_or(usize::MAX)).map(numbered));
        }
        let values: Vec<String> = values.iter().map(u32::to_string).collect();
        Ok(values.join(","))
    }

    /// First and last value of an item of the list, and the step between two.
    fn part(&self, part: &str) -> Result<(u32, u32, u32), String> {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, Some(read_step(step, part)?)),
            None => (part, None),
        };
        // Sunday is 0 and 7: `*` must not name it twice.
        let end = if self.wraps { self.most - 1 } else { self.most };
        let (first, last) = match range.split_once('-') {
            _ if range == "*" => (self.least, end),
            // Whoever writes SAT-SUN means the Sunday that comes then.
            Some((first, last)) => match (self.value(first, part)?, self.value(last, part)?) {
                (first, 0) if self.wraps && first > 0 && last.parse::<u32>().is_err() => (first, self.most),
                range => range,
            },
            // `2/2` goes on from there to the end; that of a week is a Sunday.
            None if step.is_some() => (self.value(range, part)?, self.most),
            None => (self.value(range, part)?, self.value(range, part)?),
        };
        if first > last {
            return Err(format!("`{part}` runs backwards: {} are {}", self.values, self.right));
        }
        let step = step.unwrap_or(1);
        // A field begins anew with its first value: such a step would be taken as another one.
        let span = if range == "*" { self.most - self.least } else { last - first };
        if step > span.max(1) {
            return Err(format!(
                "the step `/{step}` in `{part}` is beyond the span of {span} that it has there: leave it out, or write a \
                 longer period as such, like every = \"90m\""
            ));
        }
        Ok((first, last, step))
    }

    fn value(&self, text: &str, part: &str) -> Result<u32, String> {
        let position = self
            .names
            .iter()
            .position(|(short, long)| text.eq_ignore_ascii_case(short) || text.eq_ignore_ascii_case(long));
        if let Some(index) = position {
            return Ok((self.first_named..).nth(index).unwrap_or(self.most));
        }
        let is_number = !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit());
        match text.parse::<u32>() {
            Ok(value) if is_number && (self.least..=self.most).contains(&value) => return Ok(value),
            // Days of the week are left to the message below, which lists their names, too.
            _ if is_number && !self.wraps => {
                let bound = if text.bytes().all(|digit| digit == b'0') { "least" } else { "most" };
                let limit = if bound == "least" { self.least } else { self.most };
                return Err(format!("`{text}` is no {}: {} must be at {bound} {limit}.", self.what, self.values));
            }
            _ => {}
        }
        let within = if text == part { String::new() } else { format!(" in `{part}`") };
        let hint = match text {
            "?" if self.is_day => "; `?` stands alone",
            _ if text.contains('?') => "; `?` stands alone, and for a day",
            _ if text.contains('*') => "; `*` stands alone or before a step, as in `*/5`",
            _ => "",
        };
        Err(format!("`{text}`{within} is no {}: {}{hint}", self.what, self.right))
    }
}

/// Other programs know more signs: `L`, `W` and `#` pick one day of a month, `H` and `~` a time by chance.
fn check_signs(field: &str) -> Result<(), String> {
    if let Some(sign) = field.chars().find(|sign| !sign.is_ascii_alphanumeric() && !"*?,-/".contains(*sign)) {
        return Err(format!(
            "`{sign}` in `{field}` is not known: a field has numbers, names, and `*`, `,`, `-` and `/`"
        ));
    }
    match field.split(',').any(str::is_empty) {
        true => Err(format!("nothing stands on one side of a comma in `{field}`")),
        false => Ok(()),
    }
}

fn read_step(step: &str, part: &str) -> Result<u32, String> {
    match step.parse::<u32>() {
        Ok(number @ 1..) => Ok(number),
        _ => Err(format!("the step `/{step}` in `{part}` is not a number above 0")),
    }
}
