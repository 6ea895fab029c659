//! Every kind of value, right and wrong, and what is said of it.

use super::*;

const SCHEMA: &str = r#"{"kind":"table","fields":[
  {"name":"url","doc":"Whom to ask.","type":{"kind":"text"}},
  {"name":"every","type":{"kind":"integer","min":0,"max":9223372036854775807},"min":1,"max":100,"default":10},
  {"name":"small","type":{"kind":"integer","min":-128,"max":127},"optional":true},
  {"name":"amount","type":{"kind":"unsigned"},"optional":true,"max":"100000000000000000000"},
  {"name":"strict","type":{"kind":"boolean"},"default":false},
  {"name":"wait","type":{"kind":"duration"},"default":"5s","min":"1s","max":"1h"},
  {"name":"room","type":{"kind":"bytes"},"default":"1MiB","max":"1GiB"},
  {"name":"floor","type":{"kind":"wei"},"default":"0.5 ether","max":"10 ether"},
  {"name":"pool","type":{"kind":"address"},"optional":true},
  {"name":"mode","type":{"kind":"choice","of":["fast","safe"]},"default":"safe"},
  {"name":"hook","type":{"kind":"secret"},"optional":true},
  {"name":"tags","type":{"kind":"list","item":{"kind":"text"}},"default":[],"max_items":2},
  {"name":"levels","type":{"kind":"list","item":{"kind":"integer","min":0,"max":255}},"optional":true,"min":5},
  {"name":"limits","type":{"kind":"table","fields":[{"name":"low","type":{"kind":"integer","min":0,"max":9}}]},"optional":true},
  {"name":"rules","type":{"kind":"table","fields":[],"open":true}}
]}"#;

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

fn schema() -> Table {
    Table::parse(SCHEMA).unwrap()
}

/// What is said of one value beside those that are needed.
fn said(key: &str, value: Value) -> Option<String> {
    let values = [("url".to_owned(), text("u")), (key.to_owned(), value)];
    schema().check(&values).err().map(|problem| problem.to_string())
}

#[test]
fn what_fits_is_taken() {
    for (key, value) in [
        ("every", Value::Integer(100)),
        ("small", Value::Integer(-128)),
        ("amount", text("100000000000000000000")),
        ("amount", Value::Integer(7)),
        ("strict", Value::Boolean(true)),
        ("wait", text("1h")),
        ("room", Value::Integer(1 << 30)),
        ("floor", text("10 ether")),
        ("floor", Value::Integer(0)),
        ("pool", text("0x5FbDB2315678afecb367f032d93F642f64180aa3")),
        ("mode", text("fast")),
        ("hook", text("slack")),
        ("tags", Value::List(vec![text("a"), text("b")])),
        ("levels", Value::List(vec![Value::Integer(5), Value::Integer(255)])),
        ("limits.low", Value::Integer(9)),
        ("rules.any.thing", Value::Boolean(true)),
    ] {
        assert_eq!(said(key, value), None, "{key}");
    }
}

#[test]
fn what_does_not_fit_is_told_what_does_and_never_repeated() {
    for (key, value, wanted) in [
        ("url", Value::Integer(1), "url: expected text, not a number"),
        ("every", Value::Integer(0), "every: expected a whole number from 1 to 100"),
        ("every", text("k3y"), "every: expected a whole number from 1 to 100"),
        ("small", Value::Integer(128), "small: expected a whole number from -128 to 127"),
        (
            "amount",
            text("100000000000000000001"),
            "amount: expected a whole number, in quotes where it is large, at most 100000000000000000000",
        ),
        ("strict", text("k3y"), "strict: expected true or false, not text"),
        ("wait", text("999ms"), "wait: expected a duration such as \"90s\" or \"1h30m\" from 1s to 1h"),
        ("wait", Value::Integer(5), "wait: expected a duration such as \"90s\" or \"1h30m\" from 1s to 1h"),
        ("room", text("2GiB"), "room: expected a size such as \"64MiB\", or a number of bytes, at most 1GiB"),
        (
            "floor",
            text("k3y"),
            "floor: expected an amount such as \"1.5 ether\", \"30 gwei\" or \"1000 wei\", at most 10 ether",
        ),
        ("pool", text("k3y"), "pool: expected an address: 0x and 40 hex digits"),
        ("mode", text("k3y"), "mode: expected one of fast, safe"),
        ("tags", text("k3y"), "tags: expected a list, each item text, not text"),
        ("tags", Value::List(vec![text("a"), Value::Integer(3)]), "tags: item 2: expected text"),
        ("tags", Value::List(vec![text("a"); 3]), "tags: has 3 items: expected at most 2"),
        ("levels", Value::List(vec![Value::Integer(4)]), "levels: item 1: expected a whole number from 5 to 255"),
        ("limits", Value::Integer(1), "limits: is a table: write [config.limits]"),
        ("limits.high", Value::Integer(1), "limits.high: unknown key, did you mean `limits.low`?"),
        ("evry", Value::Integer(1), "evry: unknown key, did you mean `every`?"),
        (
            "every.second",
            Value::Integer(1),
            "every.second: lies in what is no table: expected a whole number from 1 to 100",
        ),
    ] {
        let message = said(key, value).unwrap_or_else(|| panic!("{key} was taken"));
        assert_eq!(message, wanted);
        assert!(!message.contains("k3y"));
    }
    assert!(
        said("hook", text("https://k3y"))
            .is_some_and(|message| message.starts_with("hook: expected the name of a secret"))
    );
    assert!(
        said("bogus-setting", text("k3y")).unwrap().starts_with("bogus-setting: unknown key; known are url, every")
    );
}

#[test]
fn what_is_needed_must_be_there() {
    let missing = |values: &[(String, Value)]| schema().check(values).map_err(|problem| problem.to_string());
    assert_eq!(missing(&[]), Err("url: is missing: expected text".to_owned()));
    let misspelt = [("ulr".to_owned(), text("u"))];
    assert_eq!(missing(&misspelt), Err("ulr: unknown key, did you mean `url`?".to_owned()), "rather than missing");
    assert_eq!(
        missing(&[("url".to_owned(), text("u"))]),
        Ok(()),
        "an optional table may be left out with all it needs"
    );
}

#[test]
fn a_schema_that_contradicts_itself_is_none() {
    let of = |field: &str| Table::parse(&format!(r#"{{"kind":"table","fields":[{field}]}}"#)).map(drop);
    let error = of(r#"{"name":"a","type":{"kind":"duration"},"default":5}"#).unwrap_err();
    assert!(error.starts_with("a: its default: expected a duration"), "{error}");
    let error = of(r#"{"name":"a","type":{"kind":"duration"},"min":"soon"}"#).unwrap_err();
    assert_eq!(error, "a: one of its bounds is none of its type");
    assert!(of(r#"{"name":"a","type":{"kind":"colour"}}"#).is_err());
    assert_eq!(Table::parse(r#"{"kind":"text"}"#), Err("its outermost type is no table".to_owned()));
    assert!(Table::parse(&"[".repeat(10_000)).is_err() && Table::parse(&" ".repeat(SCHEMA_BYTES_MAX + 1)).is_err());
}

#[test]
fn an_optional_table_is_there_with_the_first_key_in_it() {
    let field = |name: &str| format!(r#"{{"name":"{name}","type":{{"kind":"text"}}}}"#);
    let table = format!(r#"{{"kind":"table","fields":[{},{}]}}"#, field("x"), field("y"));
    let table = format!(r#"{{"name":"a","optional":true,"type":{table}}}"#);
    let schema = Table::parse(&format!(r#"{{"kind":"table","open":true,"fields":[{table}]}}"#)).unwrap();
    let check = |keys: &[&str]| {
        let values: Vec<_> = keys.iter().map(|key| ((*key).to_owned(), text("v"))).collect();
        schema.check(&values).map_err(|problem| problem.to_string())
    };
    assert_eq!(check(&["A", "a-b", "ab", "b.x"]), Ok(()));
    assert_eq!(check(&["a.x", "a-b"]), Err("a.y: is missing: expected text".to_owned()));
    assert_eq!(check(&["a.y", "a.x"]), Ok(()));
}

#[test]
fn no_key_of_a_schema_is_longer_than_one_of_a_configuration() {
    let of = |table: usize, field: usize| {
        let field = format!(r#"{{"name":"{}","type":{{"kind":"text"}}}}"#, "f".repeat(field));
        let fields = format!(r#"{{"kind":"table","fields":[{field}]}}"#);
        let table = format!(r#"{{"name":"{}","type":{fields}}}"#, "t".repeat(table));
        Table::parse(&format!(r#"{{"kind":"table","fields":[{table}]}}"#)).map(drop)
    };
    assert_eq!(of(200, KEY_BYTES_MAX - 201), Ok(()));
    assert_eq!(of(200, KEY_BYTES_MAX - 200), Err("a key of 257 bytes: expected at most 256".to_owned()));
    assert!(of(KEY_BYTES_MAX + 1, 1).is_err());
}

#[test]
fn a_choice_is_of_so_many_words() {
    let of = |count: usize, item: bool| {
        let words: Vec<String> = (0..count).map(|number| format!("\"{number}\"")).collect();
        let choice = format!(r#"{{"kind":"choice","of":[{}]}}"#, words.join(","));
        let kind = if item { format!(r#"{{"kind":"list","item":{choice}}}"#) } else { choice };
        Table::parse(&format!(r#"{{"kind":"table","fields":[{{"name":"a","type":{kind}}}]}}"#)).map(drop)
    };
    for item in [false, true] {
        assert_eq!(of(CHOICES_MAX, item), Ok(()));
        assert_eq!(of(CHOICES_MAX + 1, item), Err("a: 1025 words to choose from: expected at most 1024".to_owned()));
    }
}

#[test]
fn a_schema_is_told_to_other_tools() {
    let told = schema().json_schema();
    assert_eq!(told["required"], serde_json::json!(["url"]));
    assert_eq!(told["properties"]["url"]["description"], "Whom to ask.");
    let every = &told["properties"]["every"];
    assert_eq!((&every["minimum"], &every["maximum"], &every["default"]), (&1.into(), &100.into(), &10.into()));
    assert_eq!(told["properties"]["tags"]["maxItems"], 2);
    assert_eq!(told["properties"]["limits"]["required"], serde_json::json!(["low"]));
    assert_eq!(
        (&told["additionalProperties"], &told["properties"]["rules"]["additionalProperties"]),
        (&false.into(), &true.into())
    );
}

#[test]
fn a_table_is_needed_as_soon_as_something_of_it_is() {
    let told_of = |rest: &str| {
        let of = |name: &str, kind: &str| format!(r#"{{"kind":"table","fields":[{{"name":"{name}","type":{kind}}}]}}"#);
        let file = format!(r#"{{"kind":"table","fields":[{{"name":"file","type":{{"kind":"text"}}{rest}}}]}}"#);
        let table = Table::parse(&of("api", &of("key", &file))).unwrap();
        (table.check(&[]).is_ok(), table.json_schema())
    };
    let (is_empty_taken, told) = told_of("");
    assert!(!is_empty_taken);
    assert_eq!(told["required"], serde_json::json!(["api"]));
    assert_eq!(told["properties"]["api"]["required"], serde_json::json!(["key"]));
    for whatever in [r#","optional":true"#, r#","default":"f""#] {
        let (is_empty_taken, told) = told_of(whatever);
        assert!(is_empty_taken);
        assert_eq!(told["required"], serde_json::json!([]));
    }
}
