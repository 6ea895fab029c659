//! What only `nexumctl` does: the tree, log lines, dead letters, effects, metrics, and stopping the engine.

use std::time::Duration;

use http_body_util::BodyExt;
use hyper::Method;
use nexum_admin_api::{
    Dropped, Effect, Inspection, Letter, QueryRequest, RestartRequest, Resumed, Retried, RetryRequest, Stopped,
    tree::{Node, ServiceReport},
};
use nexum_records::rpc::RpcUsage;
use serde_json::{json, value::RawValue};

use super::{block_on, done};
use crate::{
    args::{Dlq, Operator, Outbox, Output, Service, crash::Crash},
    client::{Client, part},
    exit::Failure,
    hand_on,
    render::{self, foreign, print, print_as_is, print_json, print_json_line},
};

/// How often `tree --watch` looks again.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);

/// Carries out a command of `nexumctl` alone.
pub fn operator(command: Operator, output: &Output) -> Result<(), Failure> {
    // Reading a recording takes an engine's code. A file with a token may be one that can be read once, so that there is no
    // client before.
    if matches!(command, Operator::Crash(Crash::Show { .. })) {
        return hand_on::to_nexum();
    }
    block_on(Box::pin(async move {
        let client = Client::new(output)?;
        match command {
            Operator::Tree { watch } => tree(&client, watch, output).await,
            Operator::Logs { follow, module } => logs(&client, follow, module.as_deref(), output).await,
            Operator::Dlq(command) => dlq(&client, command, output).await,
            Operator::Crash(command) => super::crash::crash(&client, command, output).await,
            Operator::Outbox(command) => outbox(&client, command, output).await,
            Operator::Tx(command) => super::accounts::tx(&client, command, output).await,
            Operator::Approvals(command) => super::accounts::approvals(&client, command, output).await,
            Operator::Audit(command) => super::accounts::audit(&client, command, output).await,
            Operator::Service(command) => service(&client, command, output).await,
            Operator::Rpc { module } => rpc(&client, module.as_deref(), output).await,
            Operator::Query { module, method, params } => query(&client, &module, method, params).await,
            Operator::Metrics => {
                let text = client.text("/v1/metrics").await?;
                match output.json {
                    true => print_json(&render::metrics::samples(&text)),
                    false => print(&text),
                }
            }
            Operator::Drain(wait) => super::drain(&client, "/v1/drain", &wait, output).await,
            Operator::Resume => {
                let resumed: Resumed = client.post("/v1/resume", &()).await?;
                match output.json {
                    true => print_json(&resumed),
                    false => {
                        let line = |name: &String| format!("{}: resumed\n", foreign::shown(name));
                        print(&resumed.resumed.iter().map(line).collect::<String>())
                    }
                }
            }
            Operator::Shutdown => {
                let stopped: Stopped = client.post("/v1/shutdown", &()).await?;
                if output.json {
                    return print_json(&stopped);
                }
                let line = |line: &String| format!("  not finished: {}\n", foreign::shown(line));
                let unfinished: String = stopped.unfinished.iter().map(line).collect();
                print(&format!("stopped\n{unfinished}"))
            }
        }
    }))
}

/// What is asked: a method with its parameters, or an object that has both.
fn question(method: String, params: Option<String>) -> Result<(String, Option<String>), Failure> {
    let wrong = |what: &str, error: serde_json::Error| Failure::usage(format!("{what} is not JSON: {error}"));
    if let Some(params) = &params {
        serde_json::from_str::<&RawValue>(params).map_err(|error| wrong("what the method takes", error))?;
    }
    if !method.trim_start().starts_with('{') {
        return Ok((method, params));
    }
    if params.is_some() {
        return Err(Failure::usage("give either METHOD and its JSON, or an object with `method` and `params`"));
    }
    let asked: QueryRequest = serde_json::from_str(&method).map_err(|error| wrong("the question", error))?;
    Ok((asked.method, asked.params.map(|params| params.get().to_owned())))
}

async fn query(client: &Client, module: &str, method: String, params: Option<String>) -> Result<(), Failure> {
    let (method, params) = question(method, params)?;
    let params = params.map(|params| format!("&params={}", part(&params))).unwrap_or_default();
    let path = format!("/v1/modules/{}/query?method={}{params}", part(module), part(&method));
    // The engine bounds how long a module may take.
    let answer = client.patient(None).text(&path).await?;
    print(&format!("{}\n", foreign::json(&answer)))
}

async fn tree(client: &Client, watch: bool, output: &Output) -> Result<(), Failure> {
    let colours = render::colours();
    let mut ticks = tokio::time::interval(WATCH_INTERVAL);
    loop {
        ticks.tick().await;
        let tree: Node = client.get("/v1/tree").await?;
        match (output.json, watch) {
            (true, false) => return print_json(&tree),
            (true, true) => print_json_line(&tree)?,
            (false, false) => {
                return print_as_is(render::tree::tree(&tree, colours, render::width()).as_bytes());
            }
            // To the upper left corner, draw, clear what is left of the drawing before.
            (false, true) => {
                let drawn = render::tree::tree(&tree, colours, render::width()).replace('\n', "\x1b[K\n");
                print_as_is(format!("\x1b[H{drawn}\x1b[J").as_bytes())?;
            }
        }
    }
}

async fn logs(client: &Client, follow: bool, module: Option<&str>, output: &Output) -> Result<(), Failure> {
    let mut path = format!("/v1/logs?follow={follow}");
    if let Some(module) = module {
        path += &format!("&module={}", part(module));
    }
    let mut body = client.stream(&path).await?;
    // What is followed may be silent for long.
    let patient = if follow { client.patient(None) } else { client.clone() };
    let (mut rest, mut is_silent) = (Vec::new(), true);
    while let Some(frame) = patient.awaited(async { Ok(body.frame().await) }).await? {
        let frame = frame.map_err(|error| Failure::unreachable(format!("the engine broke off: {error}")))?;
        rest.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<_> = rest.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line[..end]);
            let shown = if output.json { foreign::json(&line).into_owned() } else { render::logs::line(&line) };
            print(&format!("{shown}\n"))?;
            is_silent = false;
        }
    }
    // Of one that is gone there may be lines, and one that is followed may be yet to come.
    match module.filter(|_| is_silent && !follow) {
        Some(module) => known(client, module).await,
        None => Ok(()),
    }
}

/// Refuses the name of a module that is not loaded and of which nothing is kept.
async fn known(client: &Client, module: &str) -> Result<(), Failure> {
    match client.get::<Inspection>(&format!("/v1/modules/{}/inspect", part(module))).await {
        Err(failure) if failure.code == Failure::not_found("").code => Err(failure),
        // Lines are wanted most where little else is answered.
        _ => Ok(()),
    }
}

async fn service(client: &Client, command: Service, output: &Output) -> Result<(), Failure> {
    match command {
        Service::List => {
            let services: Vec<ServiceReport> = client.get("/v1/services").await?;
            match output.json {
                true => print_json(&services),
                false => print(&render::report::services(&services)),
            }
        }
        Service::Restart { name, kill } => {
            let body = json!(RestartRequest { kill });
            client.order(Method::POST, &format!("/v1/services/{}/restart", part(&name)), Some(body)).await?;
            match output.json {
                true => print_json(&json!({ "service": name, "done": "restarted" })),
                false => print(&format!("{name}: restarted\n")),
            }
        }
    }
}

async fn rpc(client: &Client, module: Option<&str>, output: &Output) -> Result<(), Failure> {
    let query = module.map(|module| format!("?module={}", part(module))).unwrap_or_default();
    let usage: RpcUsage = client.get(&format!("/v1/rpc{query}")).await?;
    match output.json {
        true => print_json(&usage),
        false => print(&render::rpc::usage(&usage)),
    }
}

async fn dlq(client: &Client, command: Dlq, output: &Output) -> Result<(), Failure> {
    let path = |module: &str, seq: u64| format!("/v1/modules/{}/dlq/{seq}", part(module));
    match command {
        Dlq::List { module } => {
            let letters: Vec<Letter> = client.get(&format!("/v1/modules/{}/dlq", part(&module))).await?;
            match output.json {
                true => print_json(&letters),
                false => print(&render::report::letters(&letters)),
            }
        }
        Dlq::Show { module, seq } => {
            let letter: Letter = client.get(&path(&module, seq)).await?;
            match output.json {
                true => print_json(&letter),
                false => print(&render::report::letter(&letter)),
            }
        }
        Dlq::Retry { module, seq } => {
            client.order(Method::POST, &format!("{}/retry", path(&module, seq)), None).await?;
            done(output, &module, &format!("event of dead letter {seq} is delivered again"))
        }
        Dlq::RetryAll { module, keep_going } => {
            let path = format!("/v1/modules/{}/dlq/retry", part(&module));
            // One order for each letter, however many there are.
            let retried: Retried = client.patient(None).post(&path, &RetryRequest { keep_going }).await?;
            match output.json {
                true => print_json(&retried)?,
                false => print(&render::report::retried(&retried))?,
            }
            match retried.failed.is_empty() && retried.stopped.is_none() {
                true => Ok(()),
                false => Err(Failure { code: 1, message: String::new() }),
            }
        }
        Dlq::DropAll { module, yes: false } => Err(Failure::usage(format!(
            "this forgets every event that {module} could not handle: say --yes, perhaps after `dlq list --json`"
        ))),
        Dlq::DropAll { module, .. } => {
            let dropped: Dropped = client.patient(None).delete(&format!("/v1/modules/{}/dlq", part(&module))).await?;
            match output.json {
                true => print_json(&dropped),
                false => print(&format!("{module}: {} dead letters dropped\n", dropped.dropped)),
            }
        }
        Dlq::Drop { module, seq } => {
            client.order(Method::DELETE, &path(&module, seq), None).await?;
            done(output, &module, &format!("dead letter {seq} dropped"))
        }
    }
}

async fn outbox(client: &Client, command: Outbox, output: &Output) -> Result<(), Failure> {
    let path = |module: &str, id: &str| format!("/v1/modules/{}/outbox/{}", part(module), part(id));
    match command {
        Outbox::List { module, limit } => {
            let path = format!("/v1/modules/{}/outbox?limit={limit}", part(&module));
            let effects: Vec<Effect> = client.get(&path).await?;
            match output.json {
                true => print_json(&effects),
                false => print(&render::outbox::effects(&effects)),
            }
        }
        Outbox::Show { module, id } => {
            let effect: Effect = client.get(&path(&module, &id)).await?;
            match output.json {
                true => print_json(&effect),
                false => print(&render::outbox::effect(&effect)),
            }
        }
        Outbox::Retry { module, id } => {
            client.order(Method::POST, &format!("{}/retry", path(&module, &id)), None).await?;
            done(output, &module, &format!("effect {id} goes out as soon as it can"))
        }
        Outbox::Cancel { module, id } => {
            client.order(Method::DELETE, &path(&module, &id), None).await?;
            done(output, &module, &format!("effect {id} cancelled"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_a_method_with_json_or_an_object_with_both() {
        let asked = |method: &str, params: Option<&str>| {
            question(method.to_owned(), params.map(str::to_owned)).map_err(|failure| failure.message)
        };
        assert_eq!(asked("count", None), Ok(("count".to_owned(), None)));
        let exact = "{\"of\": 123456789012345678901234567890}";
        assert_eq!(asked("count", Some(exact)), Ok(("count".to_owned(), Some(exact.to_owned()))));
        let object = format!("{{\"method\": \"count\", \"params\": {exact}}}");
        assert_eq!(asked(&object, None), Ok(("count".to_owned(), Some(exact.to_owned()))));
        assert!(asked("count", Some("{of}")).unwrap_err().starts_with("what the method takes is not JSON"));
        assert!(
            asked("{\"metod\": \"count\"}", None).unwrap_err().starts_with("the question is not JSON: unknown field")
        );
        assert!(asked(&object, Some("1")).is_err());
    }
}
