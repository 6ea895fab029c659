//! Questions to modules: what is passed on, and how each way not to be answered is told.

use serde_json::{Value, json};

use crate::Fixture;

#[tokio::test]
async fn the_text_of_a_question_reaches_the_module_as_it_was_sent() {
    let fixture = Fixture::start().await;
    let path = "/v1/modules/twap-monitor/query";
    let asked = fixture.post(path, json!({ "method": "echo", "params": { "of": ["a", 1] } })).await;
    assert_eq!((asked.status, asked.body.as_str()), (200, r#"{"of":["a",1]}"#));
    assert!(asked.head.contains("content-type: application/json"), "{}", asked.head);
    // A number that no type of ours holds.
    let exact = "123456789012345678901234567890";
    let asked = fixture.admin("GET", &format!("{path}?method=echo&params={exact}")).await;
    assert_eq!((asked.status, asked.body.as_str()), (200, exact));
    assert_eq!(fixture.admin("GET", &format!("{path}?method=echo")).await.body, "null");
    assert_eq!(fixture.post(path, json!({ "method": "echo" })).await.body, "null");
}

#[tokio::test]
async fn what_is_not_answered_says_why() {
    let fixture = Fixture::start().await;
    let ask = async |method: &str| {
        let answer = fixture.admin("GET", &format!("/v1/modules/m/query?method={method}")).await;
        let error = answer.json()["error"].as_str().map(str::to_owned).unwrap();
        (answer.status, error)
    };
    assert_eq!(ask("spin").await, (504, "module `m` did not answer in time: deadline".to_owned()));
    assert_eq!(ask("trap").await, (502, "module `m` did not answer: trap".to_owned()));
    assert_eq!(ask("busy").await, (429, "m: ask again later".to_owned()));
    assert_eq!(ask("none").await.0, 404);
    assert_eq!(ask("other").await, (404, "there is no query `other`".to_owned()));
    for wrong in ["", "?method=", "?method=a&params={", "?method=a&parms=1"] {
        assert_eq!(fixture.admin("GET", &format!("/v1/modules/m/query{wrong}")).await.status, 400, "{wrong}");
    }
    let unknown = fixture.post("/v1/modules/m/query", json!({ "method": "echo", "parms": Value::Null })).await;
    assert_eq!(unknown.status, 422);
}
