//! Log lines for people: the engine sends JSON objects.

use serde_json::{Map, Value};

use super::foreign::shown;

/// Keys that have a place of their own in the line.
const PLACED: [&str; 7] = ["timestamp", "level", "target", "message", "module", "span", "spans"];

/// `21:50:03.123 INFO  price-watch: message key=value`. A line that is not understood is shown whole.
pub fn line(text: &str) -> String {
    let Ok(Value::Object(fields)) = serde_json::from_str(text) else { return shown(text).into_owned() };
    if let Some(missed) = fields.get("missed").filter(|_| fields.len() == 1) {
        return format!("… {missed} lines missed: this reader was too slow");
    }
    let field = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default();
    let time = field("timestamp");
    let time = time.split_once('T').map_or(time, |(_, time)| time).trim_end_matches('Z');
    let time = time.get(..12).unwrap_or(time);
    let who = match module(&fields) {
        Some(module) => module,
        None => field("target"),
    };
    let mut line = format!("{time} {:5} {who}: {}", field("level"), field("message"));
    for (name, value) in fields.iter().filter(|(name, value)| !PLACED.contains(&name.as_str()) && !value.is_null()) {
        match value {
            Value::String(text) => line += &format!(" {name}={text}"),
            other => line += &format!(" {name}={other}"),
        }
    }
    shown(&line).into_owned()
}

fn module(fields: &Map<String, Value>) -> Option<&str> {
    let span = fields.get("span").and_then(|span| span.get("module"));
    fields.get("module").or(span).and_then(Value::as_str)
}

#[cfg(test)]
mod tests {
    use super::line;

    #[test]
    fn lines_read_well() {
        let json = r#"{"timestamp":"2026-11-20T21:50:03.123456Z","level":"INFO","message":"price 3","target":"module","module":"price-watch","chain":1,"block":null}"#;
        assert_eq!(line(json), "21:50:03.123 INFO  price-watch: price 3 chain=1");
        let json = r#"{"timestamp":"2026-11-20T21:50:03.1Z","level":"WARN","message":"slow","target":"nexum_store"}"#;
        assert_eq!(line(json), "21:50:03.1 WARN  nexum_store: slow");
        assert_eq!(line(r#"{"missed":3}"#), "… 3 lines missed: this reader was too slow");
        assert_eq!(line("plain"), "plain");
        let json =
            r#"{"timestamp":"2026-11-20T21:50:03.1Z","level":"INFO","message":"a\n21:50:03.2 ERROR b","module":"m"}"#;
        assert_eq!(line(json), "21:50:03.1 INFO  m: a\\n21:50:03.2 ERROR b");
    }
}
