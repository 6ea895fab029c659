//! Metrics as JSON: Prometheus' text format, read back.

use serde_json::{Map, Value, json};

/// One object per sample: `name`, `labels`, `value`. Comments are left out; a value that is not finite is a string.
pub fn samples(text: &str) -> Vec<Value> {
    text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()).filter_map(sample).collect()
}

fn sample(line: &str) -> Option<Value> {
    let (name, labels, value) = match line.split_once('{') {
        Some((name, rest)) => {
            let (labels, rest) = labels(rest)?;
            (name, labels, rest)
        }
        None => {
            let (name, value) = line.split_once(' ')?;
            (name, Map::new(), value)
        }
    };
    let value = value.split_whitespace().next()?;
    let number = value.parse::<f64>().ok().and_then(serde_json::Number::from_f64);
    Some(json!({ "name": name, "labels": labels, "value": number.map_or_else(|| Value::from(value), Value::Number) }))
}

/// The labels up to the closing brace, and what follows it.
fn labels(text: &str) -> Option<(Map<String, Value>, &str)> {
    let mut labels = Map::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches(',');
        if let Some(after) = rest.strip_prefix('}') {
            return Some((labels, after));
        }
        let (name, quoted) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut chars = quoted.char_indices();
        let end = loop {
            match chars.next()? {
                (at, '"') => break at + 1,
                (_, '\\') => match chars.next()?.1 {
                    'n' => value.push('\n'),
                    other => value.push(other),
                },
                (_, other) => value.push(other),
            }
        };
        labels.insert(name.to_owned(), value.into());
        rest = &quoted[end..];
    }
}

#[cfg(test)]
mod tests {
    use super::samples;
    use serde_json::json;

    #[test]
    fn samples_are_read_with_their_labels() {
        let text =
            "# HELP a b\n# TYPE a counter\na 3\nb{x=\"1,}\",y=\"q\\\"\\n\"} 0.5\nc_bucket{le=\"+Inf\"} 2\nd NaN\n";
        assert_eq!(
            json!(samples(text)),
            json!([
                { "name": "a", "labels": {}, "value": 3.0 },
                { "name": "b", "labels": { "x": "1,}", "y": "q\"\n" }, "value": 0.5 },
                { "name": "c_bucket", "labels": { "le": "+Inf" }, "value": 2.0 },
                { "name": "d", "labels": {}, "value": "NaN" },
            ])
        );
    }
}
