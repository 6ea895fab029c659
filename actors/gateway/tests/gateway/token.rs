//! Who gets in over TCP.

use super::*;

#[tokio::test]
async fn what_only_begins_or_ends_like_the_token_does_not_get_in() {
    let fixture = Fixture::start().await;
    let target = Target::Tcp(fixture.addresses.admin_tcp.unwrap());
    let long = format!("Bearer s3cret{}", "x".repeat(1_000));
    let wrong = [
        "Bearer s3crets",
        "Bearer s3cret s3cret",
        "Bearer s3cret,",
        "Bearer s3creT",
        "Bearer x3cret",
        "Bearer s",
        "Bearer  s3cret",
        "Basic s3cret",
        "Bearers3cret",
        long.as_str(),
    ];
    for shown in wrong {
        for (method, path) in [("GET", "/v1/tree"), ("POST", "/v1/shutdown"), ("GET", "/v1/no/such/path")] {
            let answer = http::send(&target, method, path, &[("authorization", shown)], None).await;
            assert_eq!(answer.status, 401, "{shown:?} {path}");
        }
    }
    assert_eq!(fixture.engine.orders(), [""; 0]);
    for shown in ["Bearer s3cret", "bearer s3cret", "BEARER s3cret"] {
        let answer = http::send(&target, "GET", "/v1/tree", &[("authorization", shown)], None).await;
        assert_eq!(answer.status, 200, "{shown}");
    }
}
