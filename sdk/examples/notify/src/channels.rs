//! Where alerts go, and in which form each place wants them.
//!
//! Invariant: nothing that came from elsewhere can begin a placeholder of a secret, since every `$` of it is written as
//! `\u0024` in the JSON that leaves.

use nexum_sdk::outbox::{Effect, HttpEffect, Release};
use nexum_sdk::{Config, Result, http, outbox};
use serde_json::{Map, Value as Json, json};

use crate::settings::Table;
use crate::template::{Markup, Message, Template};
use crate::value::Fields;

const PAGERDUTY_URL: &str = "https://events.pagerduty.com/v2/enqueue";
/// Of Discord's link previews, and of nothing else.
const DISCORD_NO_PREVIEWS: u32 = 4;
/// What each place takes of a message; the length is counted in units of UTF-16, of which no place takes fewer than it says.
const SLACK_UNITS_MAX: usize = 4_000;
const DISCORD_UNITS_MAX: usize = 2_000;
const TELEGRAM_UNITS_MAX: usize = 4_096;
const PAGERDUTY_UNITS_MAX: usize = 1_024;
/// Of a webhook or a mail, which have limits of their own.
const UNITS_MAX: usize = 3_000;
/// Bytes of a template of a body.
const BODY_BYTES_MAX: usize = 8_192;

/// What is to be said.
pub struct Alert<'a> {
    pub rule: &'a str,
    pub title: &'a str,
    pub severity: &'a str,
    pub words: Words<'a>,
    /// Alerts that the cooldown kept back since the last one.
    pub more: u64,
    pub is_over: bool,
    /// The same for all that is said of one thing, so that its end is told as such.
    pub incident: &'a str,
    pub fields: &'a Fields,
}

pub enum Words<'a> {
    Template(&'a Template),
    Fixed(&'a str),
}

impl Alert<'_> {
    fn text(&self, markup: Markup, units_max: usize) -> Result<String> {
        // It stands behind a message that is cut, too.
        let more = if self.more > 0 { format!(" ({} more since the last)", self.more) } else { String::new() };
        let mut message = Message::new(markup, units_max - more.len());
        if self.is_over {
            message.text("Over: ");
        }
        match self.words {
            Words::Template(template) => template.write(self.fields, &mut message)?,
            Words::Fixed(text) => message.text(text),
        }
        // Chats refuse a message without a character to read.
        if message.is_blank() {
            message.text(self.title);
        }
        Ok(message.finish() + &more)
    }

    /// The fields as text, for whoever reads them by name.
    fn values(&self) -> Json {
        let mut values = Map::new();
        for (name, value) in &self.fields.0 {
            let mut text = Message::new(Markup::Plain, 300);
            text.value(&value.to_string());
            // The first of two counts, as in messages.
            values.entry(name.as_str()).or_insert_with(|| text.finish().into());
        }
        Json::Object(values)
    }
}

enum Kind {
    Webhook,
    Slack,
    Discord,
    Telegram { chat_id: String },
    PagerDuty { routing_key: String },
    Body(Vec<Part>),
}

/// A piece of a body that the operator wrote.
#[derive(Debug, PartialEq)]
enum Part {
    Text(String),
    Subject,
    Message,
    Severity,
    Rule,
}

pub struct Channel {
    pub name: String,
    kind: Kind,
    url: String,
    headers: Vec<(String, String)>,
}

impl Channel {
    /// Every `[config.channels.NAME]`.
    pub fn all(config: &Config) -> Result<Vec<Self>> {
        Table::all(config, "channels", "channel")?.into_iter().map(Self::read).collect()
    }

    fn read(mut table: Table<'_>) -> Result<Self> {
        let name = table.name.to_owned();
        let word = table.needed_text("kind")?;
        let given = table.text("url")?;
        let body = if matches!(word, "webhook" | "email") { table.text("body")? } else { None };
        let kind = match (word, body) {
            (_, Some(body)) => Kind::Body(parts(body).map_err(|message| table.wrong(format!("`body` {message}")))?),
            ("webhook", None) => Kind::Webhook,
            ("email", None) => {
                let example =
                    "body = '{\"to\": \"ops@example.org\", \"subject\": \"{{subject}}\", \"text\": \"{{text}}\"}'";
                return Err(
                    table.wrong(format!("`body` is missing: the JSON that the mail service wants, such as {example}"))
                );
            }
            ("slack", None) => Kind::Slack,
            ("discord", None) => Kind::Discord,
            ("telegram", None) => Kind::Telegram { chat_id: table.needed_text("chat_id")?.to_owned() },
            ("pagerduty", None) => Kind::PagerDuty { routing_key: table.needed_text("routing_key")?.to_owned() },
            _ => {
                let known = "webhook, slack, discord, telegram, pagerduty or email";
                return Err(table.wrong(format!("`kind` is {known}")));
            }
        };
        let url = match (given, &kind) {
            (Some(url), _) => url.to_owned(),
            (None, Kind::PagerDuty { .. }) => PAGERDUTY_URL.to_owned(),
            (None, _) => return Err(table.wrong("`url` is missing")),
        };
        // What is wrong with it is not repeated: it may hold a secret.
        let host = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
        let host = host.and_then(|rest| rest.split(['/', '?']).next()).unwrap_or_default();
        if host.is_empty() || host.contains(['$', '{', '@', ' ']) {
            return Err(table.wrong("`url` begins with https:// and a host; a ${secret:…} comes after the host"));
        }
        let mut headers: Vec<(String, String)> =
            table.below("headers")?.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
            headers.push(("content-type".to_owned(), "application/json".to_owned()));
        }
        table.end()?;
        Ok(Self { name, kind, url, headers })
    }

    /// Whether it has to be told of the end of what it was told of.
    pub fn keeps_incidents(&self) -> bool {
        matches!(self.kind, Kind::PagerDuty { .. })
    }

    /// The body of the request that says this here.
    pub fn body(&self, alert: &Alert<'_>) -> Result<String> {
        Ok(match &self.kind {
            Kind::Webhook => safe(&json!({
                "rule": alert.rule,
                "title": alert.title,
                "severity": alert.severity,
                "state": if alert.is_over { "over" } else { "alert" },
                "incident": alert.incident,
                "message": alert.text(Markup::Plain, UNITS_MAX)?,
                "values": alert.values(),
            })),
            Kind::Slack => safe(&json!({
                "text": alert.text(Markup::Slack, SLACK_UNITS_MAX)?,
                "mrkdwn": false,
                "unfurl_links": false,
                "unfurl_media": false,
            })),
            Kind::Discord => safe(&json!({
                "content": alert.text(Markup::Discord, DISCORD_UNITS_MAX)?,
                "allowed_mentions": { "parse": [] },
                "flags": DISCORD_NO_PREVIEWS,
            })),
            Kind::Telegram { chat_id } => safe(&json!({
                "chat_id": chat_id,
                // Without a parse_mode nothing is markup.
                "text": alert.text(Markup::Plain, TELEGRAM_UNITS_MAX)?,
                "link_preview_options": { "is_disabled": true },
            })),
            Kind::PagerDuty { routing_key } => {
                let mut event = json!({
                    "event_action": if alert.is_over { "resolve" } else { "trigger" },
                    "dedup_key": alert.incident,
                });
                if !alert.is_over {
                    event["payload"] = json!({
                        "summary": alert.text(Markup::Plain, PAGERDUTY_UNITS_MAX)?,
                        "source": "nexum",
                        "component": alert.rule,
                        "severity": alert.severity,
                        "custom_details": alert.values(),
                    });
                }
                // The key is the operator's, and mostly a placeholder.
                let key = Json::from(routing_key.as_str());
                format!("{{\"routing_key\":{key},{}", safe(&event).trim_start_matches('{'))
            }
            Kind::Body(parts) => {
                let mut body = String::new();
                for part in parts {
                    match part {
                        Part::Text(text) => body.push_str(text),
                        Part::Subject => body.push_str(&inner(alert.title)),
                        Part::Message => body.push_str(&inner(&alert.text(Markup::Plain, UNITS_MAX)?)),
                        Part::Severity => body.push_str(&inner(alert.severity)),
                        Part::Rule => body.push_str(&inner(alert.rule)),
                    }
                }
                body
            }
        })
    }

    /// What sends a body here.
    pub fn request(&self, body: String, key: &str, release: Release) -> Effect<HttpEffect> {
        let request = outbox::http("POST", self.url.as_str()).body(body).key(key).release(release);
        self.headers.iter().fold(request, |request, (name, value)| request.header(name.as_str(), value.as_str()))
    }
}

/// Why an answer with a status of success is a refusal nevertheless: there are chats that say it in the body alone.
pub fn refusal(answer: &[u8]) -> Option<String> {
    let answer: Json = serde_json::from_slice(answer).ok()?;
    let is_false = |name: &str| answer.get(name).and_then(Json::as_bool) == Some(false);
    let has_code = answer.get("errcode").and_then(Json::as_i64).is_some_and(|code| code != 0);
    if !(is_false("ok") || is_false("success") || has_code) {
        return None;
    }
    let why = ["error", "description", "errmsg", "message"].iter().find_map(|name| answer.get(name)?.as_str());
    let mut told = Message::new(Markup::Plain, UNITS_MAX);
    told.value(why.unwrap_or("the answer does not say why"));
    Some(told.finish())
}

/// JSON without a `$`.
fn safe(value: &Json) -> String {
    value.to_string().replace('$', "\\u0024")
}

/// A JSON string without its quotes.
fn inner(text: &str) -> String {
    let quoted = http::json_string(text);
    quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default().to_owned()
}

/// Reads a body with `{{subject}}`, `{{text}}`, `{{severity}}` and `{{rule}}` within its strings.
fn parts(body: &str) -> Result<Vec<Part>, String> {
    if body.len() > BODY_BYTES_MAX {
        return Err(format!("has more than {BODY_BYTES_MAX} bytes"));
    }
    let mut parts = Vec::new();
    let mut rest = body;
    while let Some((text, after)) = rest.split_once("{{") {
        let Some((name, after)) = after.split_once("}}") else { return Err("has a `{{` without its `}}`".to_owned()) };
        parts.push(Part::Text(text.to_owned()));
        parts.push(match name.trim() {
            "subject" => Part::Subject,
            "text" => Part::Message,
            "severity" => Part::Severity,
            "rule" => Part::Rule,
            _ => return Err("knows {{subject}}, {{text}}, {{severity}} and {{rule}}".to_owned()),
        });
        rest = after;
    }
    parts.push(Part::Text(rest.to_owned()));
    if !parts.contains(&Part::Message) {
        return Err("has no {{text}}".to_owned());
    }
    let sample: String =
        parts.iter().map(|part| if let Part::Text(text) = part { text.as_str() } else { "x" }).collect();
    let is_json = serde_json::from_str::<Json>(&sample);
    is_json.map_err(|error| format!("is no JSON, once {{{{text}}}} is filled in: line {}", error.line()))?;
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::{Kind as ValueKind, Number, Scope, Value};
    use nexum_sdk::Value as ConfigValue;

    fn channel(entries: &[(&str, &str)]) -> Result<Channel> {
        let config: Config =
            entries.iter().map(|(key, value)| (format!("channels.ops.{key}"), ConfigValue::from(*value))).collect();
        Channel::all(&config).map(|mut channels| channels.remove(0))
    }

    const MEMO: &str = "<!channel> ${secret:slack} \"@everyone\"";

    fn body(entries: &[(&str, &str)], is_over: bool, more: u64) -> String {
        let scope = Scope(vec![("memo".into(), ValueKind::Text), ("value".into(), ValueKind::Number)]);
        let template = Template::parse("{value}: {memo}", &scope).unwrap();
        let mut fields = Fields::default();
        fields.push("memo", Value::Text(MEMO.into()));
        fields.push("value", Value::Number(Number::from(5u64)));
        let words = Words::Template(&template);
        let (rule, title, incident) = ("big", "Big $ move", "big/0xab-1");
        let alert = Alert { rule, title, severity: "critical", words, more, is_over, incident, fields: &fields };
        channel(entries).unwrap().body(&alert).unwrap()
    }

    fn json_of(entries: &[(&str, &str)], is_over: bool, more: u64) -> Json {
        let body = body(entries, is_over, more);
        assert!(!body.contains("${secret:slack}"), "what a chain says has a secret put in: {body}");
        serde_json::from_str(&body).unwrap()
    }

    const URL: (&str, &str) = ("url", "https://hooks.slack.com/services/${secret:slack}");

    #[test]
    fn each_place_gets_what_it_wants() {
        let slack = json_of(&[("kind", "slack"), URL], false, 3);
        let text = "5: &lt;!channel&gt; ${secret:slack} \"@everyone\" (3 more since the last)";
        assert_eq!((&slack["text"], &slack["mrkdwn"]), (&text.into(), &false.into()));

        let discord = json_of(&[("kind", "discord"), URL], false, 0);
        assert_eq!(discord["content"], "5: \\<!channel\\> ${secret:slack} \"\\@everyone\"");
        assert_eq!(discord["allowed_mentions"], json!({ "parse": [] }));

        let telegram = json_of(&[("kind", "telegram"), URL, ("chat_id", "-100")], true, 0);
        assert_eq!((&telegram["chat_id"], telegram.get("parse_mode")), (&"-100".into(), None));
        assert_eq!(telegram["text"], format!("Over: 5: {MEMO}"));

        let webhook = json_of(&[("kind", "webhook"), URL], false, 0);
        assert_eq!((&webhook["rule"], &webhook["state"]), (&"big".into(), &"alert".into()));
        assert_eq!(webhook["values"], json!({ "memo": MEMO, "value": "5" }));
    }

    fn text_of(kind: &[(&str, &str)], name: &str, words: &str, more: u64) -> String {
        let (template, fields) = (Template::parse(words, &Scope::default()).unwrap(), Fields::default());
        let alert = Alert {
            rule: "big",
            title: "Big move",
            severity: "info",
            words: Words::Template(&template),
            more,
            is_over: false,
            incident: "big/1",
            fields: &fields,
        };
        let said: Json = serde_json::from_str(&channel(kind).unwrap().body(&alert).unwrap()).unwrap();
        said.pointer(name).unwrap().as_str().unwrap().to_owned()
    }

    #[test]
    fn no_place_gets_more_than_it_takes_or_nothing_to_read() {
        let (slack, discord) = ([("kind", "slack"), URL], [("kind", "discord"), URL]);
        let telegram = [("kind", "telegram"), URL, ("chat_id", "1")];
        let pager = [("kind", "pagerduty"), ("routing_key", "k")];
        let places = [
            (&slack[..], "/text", 4_000),
            (&discord[..], "/content", 2_000),
            (&telegram[..], "/text", 4_096),
            (&pager[..], "/payload/summary", 1_024),
        ];
        for (kind, name, units_max) in places {
            // Two units each.
            for long in ["\u{1f514}".repeat(4_096), "<".repeat(4_096)] {
                let text = text_of(kind, name, &long, 12);
                assert!(text.ends_with("… [cut] (12 more since the last)"), "{text}");
                let units = text.encode_utf16().count();
                assert!(units <= units_max && units > units_max - 4, "{name}: {units}");
            }
            assert_eq!(text_of(kind, name, " ", 0), " Big move");
        }
    }

    #[test]
    fn a_refusal_with_a_status_of_success_is_one() {
        for (answer, why) in [
            (r#"{"ok":false,"error":"channel_not_found"}"#, Some("channel_not_found")),
            (
                r#"{"ok":false,"error_code":400,"description":"Bad Request: chat not found"}"#,
                Some("Bad Request: chat not found"),
            ),
            (r#"{"errcode":310000,"errmsg":"keywords not in content"}"#, Some("keywords not in content")),
            (r#"{"success":false}"#, Some("the answer does not say why")),
            (r#"{"ok":true,"error":"x"}"#, None),
            (r#"{"errcode":0,"errmsg":"ok"}"#, None),
            (r#"{"status":"success","dedup_key":"x"}"#, None),
            (r#"[{"ok":false}]"#, None),
            ("ok", None),
            ("", None),
        ] {
            assert_eq!(refusal(answer.as_bytes()).as_deref(), why, "{answer}");
        }
    }

    #[test]
    fn a_pager_is_told_of_the_beginning_and_the_end_of_one_incident() {
        let entries = [("kind", "pagerduty"), ("routing_key", "${secret:pager}")];
        let begun = json_of(&entries, false, 0);
        assert_eq!((&begun["routing_key"], &begun["event_action"]), (&"${secret:pager}".into(), &"trigger".into()));
        assert_eq!((&begun["dedup_key"], &begun["payload"]["severity"]), (&"big/0xab-1".into(), &"critical".into()));
        let over = json_of(&entries, true, 0);
        assert_eq!((&over["event_action"], &over["dedup_key"]), (&"resolve".into(), &begun["dedup_key"]));
        assert_eq!(over.get("payload"), None);
        assert!(body(&entries, false, 0).contains("\"${secret:pager}\""), "the operator's placeholder stays");
        assert_eq!(channel(&entries).unwrap().url, PAGERDUTY_URL);
    }

    #[test]
    fn a_body_of_the_operators_own_is_filled_in_and_stays_json() {
        let template = r#"{"key": "${secret:mail}", "to": ["a@x"], "subject": "[{{severity}}] {{subject}}", "html": "{{ text }}"}"#;
        let mail = json_of(&[("kind", "email"), URL, ("body", template)], false, 0);
        assert_eq!((&mail["key"], &mail["subject"]), (&"${secret:mail}".into(), &"[critical] Big $ move".into()));
        assert_eq!(mail["html"], format!("5: {MEMO}"));
    }

    #[test]
    fn what_is_wrong_is_said_with_the_channel() {
        let wrong = |entries: &[(&str, &str)]| channel(entries).err().unwrap().to_string();
        for (entries, expected) in [
            (&[("kind", "irc"), URL][..], "`kind` is webhook, slack, discord, telegram, pagerduty or email"),
            (&[("kind", "slack")], "`url` is missing"),
            (
                &[("kind", "slack"), ("url", "hooks.slack.com/x")],
                "`url` begins with https:// and a host; a ${secret:…} comes after the host",
            ),
            (
                &[("kind", "slack"), ("url", "https://${secret:x}/")],
                "`url` begins with https:// and a host; a ${secret:…} comes after the host",
            ),
            (&[("kind", "telegram"), URL], "`chat_id` is missing"),
            (&[("kind", "slack"), URL, ("body", "{}")], "`body` is not known here; known are kind, url"),
            (
                &[("kind", "email"), URL, ("body", "{\"a\": {{text}}")],
                "`body` is no JSON, once {{text}} is filled in: line 1",
            ),
            (&[("kind", "email"), URL, ("body", "{\"a\": \"b\"}")], "`body` has no {{text}}"),
        ] {
            assert_eq!(wrong(entries), format!("channel `ops`: {expected}"));
        }
        assert!(wrong(&[("kind", "email"), URL]).contains("`body` is missing: the JSON that the mail service wants"));
    }
}
