//! What a fault makes of requests, answers and heads.

use serde_json::{Value, json};

use super::{
    Fault::{self, AddressMax, BatchMax, Behind, Forms, LogsMax, NewHeads, NoBatches, OtherBranch, Syncing},
    Form, Lie, Notice, Refusal, Shared, Whom, ask_node, invented, number,
};

/// What becomes of a request.
pub enum Outcome {
    Told(Value),
    /// An HTTP status with an empty body.
    Status(u16),
    /// The end of the connection.
    Cut,
    Forbidden,
    Huge,
}

/// Fields of blocks and logs that hold numbers of no more than 64 bits.
const NUMBERS: [&str; 9] = [
    "number",
    "timestamp",
    "gasUsed",
    "gasLimit",
    "blockNumber",
    "blockTimestamp",
    "transactionIndex",
    "logIndex",
    "baseFeePerGas",
];

/// What an endpoint says that somebody may not use it any more.
pub fn forbidden(path: &str) -> String {
    let key = path.rsplit('/').next().unwrap_or_default();
    format!("the key {key} of {path} may not be used; see https://example.org{path}?key={key}")
}

/// What a fault says with a status instead of an answer.
pub fn refused(fault: Fault, path: &str) -> Option<(u16, String, String)> {
    match fault {
        Fault::Status(429) => Some((429, "retry-after: 1\r\n".to_owned(), "go away".to_owned())),
        Fault::Status(status) => Some((status, String::new(), "go away".to_owned())),
        Fault::Redirect(port) => Some((302, format!("location: http://127.0.0.1:{port}/\r\n"), String::new())),
        Fault::Forbidden(Whom::Everybody) => Some((403, String::new(), forbidden(path))),
        _ => None,
    }
}

/// Whether a request is one of the test modules', not the engine's own.
fn is_modules(request: &Value) -> bool {
    let method = request["method"].as_str().unwrap_or_default();
    method == "eth_blockNumber" || (method == "eth_getLogs" && request["params"][0]["toBlock"] == "latest")
}

fn meant(whom: Whom, request: &Value) -> bool {
    match whom {
        Whom::Everybody => true,
        Whom::Modules => is_modules(request),
        Whom::Engine => !is_modules(request),
    }
}

fn refusal(id: &Value, code: i64, message: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message}})
}

/// What is answered to a body.
pub async fn body(shared: &Shared, fault: Fault, request: Value) -> Option<Outcome> {
    let Value::Array(requests) = request else { return answer(shared, fault, request).await };
    if fault == NoBatches {
        return Some(Outcome::Told(refusal(&Value::Null, -32_600, "Invalid Request")));
    }
    let mut answers = Vec::new();
    for (nth, request) in requests.into_iter().enumerate() {
        match fault {
            BatchMax(most) if nth >= most => answers.push(refusal(&request["id"], -32_000, "no")),
            _ => match answer(shared, fault, request).await? {
                Outcome::Told(answer) => answers.push(answer),
                other => return Some(other),
            },
        }
    }
    Some(Outcome::Told(Value::Array(answers)))
}

/// What is answered to one request.
pub async fn answer(shared: &Shared, fault: Fault, mut request: Value) -> Option<Outcome> {
    let method = request["method"].as_str().unwrap_or_default().to_owned();
    match fault {
        Fault::Forbidden(whom) if meant(whom, &request) => return Some(Outcome::Forbidden),
        Fault::Without(forbidden) if method == forbidden => return Some(Outcome::Forbidden),
        Fault::NullBlocks if method == "eth_getBlockByNumber" && request["params"][0].as_str()?.starts_with("0x") => {
            let asked = shared.asked.lock().unwrap().get(&method).copied().unwrap_or(0);
            if asked.is_multiple_of(3) {
                return Some(Outcome::Told(json!({"jsonrpc": "2.0", "id": request["id"], "result": null})));
            }
        }
        Fault::Logs(Lie::ByHash) if method == "eth_getBlockReceipts" => {
            return Some(Outcome::Told(refusal(&request["id"], -32_601, "no such method")));
        }
        Fault::Huge(whom) if method == "eth_getLogs" && meant(whom, &request) => return Some(Outcome::Huge),
        AddressMax(most) if request["params"][0]["address"].as_array().is_some_and(|list| list.len() > most) => {
            return Some(Outcome::Told(refusal(&request["id"], -32_602, "invalid argument 0")));
        }
        Fault::FarHead | Fault::FarChain | Fault::NearHead(_) => {
            if let Some(result) = invented::result(shared, fault, &request).await? {
                return Some(Outcome::Told(json!({"jsonrpc": "2.0", "id": request["id"], "result": result})));
            }
        }
        _ => {}
    }
    // An endpoint that is behind has an older `latest`.
    if let Some(at) = behind(fault)
        && method == "eth_getBlockByNumber"
        && request["params"][0] == "latest"
    {
        request["params"][0] = json!(format!("{at:#x}"));
    }
    let mut answer = ask_node(shared, &request).await?;
    match (fault, &*method) {
        (Fault::Lost(lost), method) if method == lost => return Some(Outcome::Cut),
        (LogsMax(most, way), "eth_getLogs") if answer["result"].as_array().is_some_and(|logs| logs.len() > most) => {
            return Some(match way {
                Refusal::Named => Outcome::Told(refusal(&request["id"], -32_008, "Response is too big")),
                Refusal::Vague => Outcome::Told(refusal(&request["id"], -32_000, "that did not work out")),
                Refusal::Missing => Outcome::Told(refusal(&request["id"], -32_001, "resource not found")),
                Refusal::SameRange => {
                    let filter = &request["params"][0];
                    let (from, to) = (number(&filter["fromBlock"]), number(&filter["toBlock"]));
                    let message = format!("query exceeds max results {most}, retry with the range {from}-{to}");
                    Outcome::Told(refusal(&request["id"], -32_602, &message))
                }
                Refusal::Status => Outcome::Status(500),
                Refusal::Cut => Outcome::Cut,
            });
        }
        (Fault::Logs(Lie::Outside), "eth_getLogs") => {
            if let Some(logs) = answer["result"].as_array_mut() {
                add_outside(shared, &request, logs).await?;
            }
        }
        (Fault::Logs(Lie::Sometimes), "eth_getLogs") => {
            let asked = shared.asked.lock().unwrap().get(&method).copied().unwrap_or(0);
            if asked.is_multiple_of(2) {
                answer["result"] = json!([]);
            }
        }
        (Fault::Logs(Lie::Behind(blocks)), "eth_getLogs") => {
            let head = json!({"jsonrpc": "2.0", "id": 1, "method": "eth_blockNumber", "params": []});
            let at = number(&ask_node(shared, &head).await?["result"]).saturating_sub(blocks);
            if let Some(logs) = answer["result"].as_array_mut() {
                logs.retain(|log| number(&log["blockNumber"]) <= at);
            }
        }
        _ => alter(fault, &request, &mut answer),
    }
    Some(Outcome::Told(formed(fault, answer)))
}

/// The newest block that an endpoint which is behind has.
fn behind(fault: Fault) -> Option<u64> {
    match fault {
        Behind(at) | Syncing(at) => Some(at),
        _ => None,
    }
}

fn alter(fault: Fault, request: &Value, answer: &mut Value) {
    let method = request["method"].as_str().unwrap_or_default();
    if let Some(at) = behind(fault) {
        return alter_behind(at, matches!(fault, Syncing(_)), request, answer);
    }
    match (fault, method) {
        (OtherBranch, "eth_getBlockByNumber") if request["params"][0] != "latest" => {
            answer["result"]["hash"] = other_hash(&answer["result"]["hash"]);
        }
        (Fault::Logs(Lie::Everywhere), "eth_getBlockReceipts") => {
            for receipt in answer["result"].as_array_mut().into_iter().flatten() {
                receipt["logs"] = json!([]);
                receipt["logsBloom"] = json!(format!("0x{}", "00".repeat(256)));
            }
        }
        (Fault::Logs(lie), "eth_getLogs") => {
            if let Some(logs) = answer["result"].as_array_mut() {
                alter_logs(lie, request, logs);
            }
        }
        _ => {}
    }
}

/// The same hash from behind.
fn other_hash(hash: &Value) -> Value {
    let hash = hash.as_str().unwrap_or_default();
    let other = hash.chars().rev().collect::<String>().trim_end_matches("x0").to_owned();
    json!(format!("0x{other}"))
}

fn alter_behind(at: u64, says_so: bool, request: &Value, answer: &mut Value) {
    match request["method"].as_str().unwrap_or_default() {
        "eth_syncing" if says_so => {
            let (current, highest) = (format!("{at:#x}"), format!("{:#x}", at + 1_000));
            answer["result"] = json!({"startingBlock": "0x0", "currentBlock": current, "highestBlock": highest});
        }
        "eth_blockNumber" => answer["result"] = json!(format!("{at:#x}")),
        "eth_getBlockByNumber" | "eth_getBlockByHash" if number(&answer["result"]["number"]) > at => {
            answer["result"] = Value::Null;
        }
        "eth_getLogs" => {
            let known = |log: &Value| number(&log["blockNumber"]) <= at;
            let logs = answer["result"].as_array().cloned().unwrap_or_default();
            if request["params"][0].get("blockHash").is_some() && !logs.iter().all(known) {
                *answer = refusal(&answer["id"], -32_000, "unknown block");
            } else {
                answer["result"] = logs.into_iter().filter(known).collect();
            }
        }
        _ => {}
    }
}

fn alter_logs(lie: Lie, request: &Value, logs: &mut Vec<Value>) {
    match lie {
        Lie::Empty | Lie::Everywhere => logs.clear(),
        Lie::OtherBlock => {
            for log in logs {
                log["blockHash"] = json!(format!("0x{}", "ab".repeat(32)));
            }
        }
        Lie::Invented => {
            if let Some(mut log) = logs.last().cloned() {
                log["logIndex"] = json!(format!("{:#x}", number(&log["logIndex"]) + 1));
                log["topics"] = json!([format!("0x{}", "cd".repeat(32))]);
                logs.push(log);
            }
        }
        Lie::Removed => {
            for log in logs {
                log["removed"] = json!(true);
            }
        }
        Lie::LeftOut => {
            if !logs.is_empty() {
                logs.remove(0);
            }
        }
        Lie::LeftOutOf { from, to, by_hash } => {
            if by_hash || request["params"][0].get("blockHash").is_none() {
                logs.retain(|log| !(from..=to).contains(&number(&log["blockNumber"])));
            }
        }
        Lie::ByHash => {
            if request["params"][0].get("blockHash").is_some() {
                logs.clear();
            }
        }
        Lie::OneIndex => logs.iter_mut().for_each(|log| log["logIndex"] = json!("0x0")),
        Lie::PerTransaction => {
            let mut next: std::collections::BTreeMap<String, u64> = Default::default();
            for log in logs {
                let index = next.entry(log["transactionHash"].to_string()).or_default();
                log["logIndex"] = json!(format!("{index:#x}"));
                *index += 1;
            }
        }
        Lie::Outside | Lie::Sometimes | Lie::Behind(_) => {}
    }
}

/// Adds the logs that are in no receipt, each as the last of its block.
async fn add_outside(shared: &Shared, request: &Value, logs: &mut Vec<Value>) -> Option<()> {
    let filter = &request["params"][0];
    let ask =
        |method: &str, block: Value| json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": [block, false]});
    let asked: Vec<Value> = match filter.get("blockHash") {
        Some(hash) => vec![ask("eth_getBlockByHash", hash.clone())],
        None => {
            let to = match filter["toBlock"].as_str() {
                Some("latest") | None => u64::MAX,
                Some(_) => number(&filter["toBlock"]),
            };
            let head = json!({"jsonrpc": "2.0", "id": 1, "method": "eth_blockNumber", "params": []});
            let to = to.min(number(&ask_node(shared, &head).await?["result"]));
            let numbers = (number(&filter["fromBlock"])..=to).filter(|number| number.is_multiple_of(3));
            numbers.map(|number| ask("eth_getBlockByNumber", json!(format!("{number:#x}")))).collect()
        }
    };
    let blocks = match &*asked {
        [] => return Some(()),
        [one] => vec![ask_node(shared, one).await?],
        several => ask_node(shared, &several.into()).await?.as_array()?.clone(),
    };
    let blocks = blocks.into_iter().map(|mut answer| answer["result"].take());
    for block in blocks.filter(|block| block.is_object() && number(&block["number"]).is_multiple_of(3)) {
        let before = logs.iter().filter(|log| log["blockNumber"] == block["number"]).count();
        let mut log = invented::log(filter, &block);
        log["logIndex"] = json!(format!("{before:#x}"));
        let transactions = block["transactions"].as_array().map_or(0, Vec::len);
        log["transactionIndex"] = json!(format!("{transactions:#x}"));
        logs.push(log);
    }
    logs.sort_by_key(|log| (number(&log["blockNumber"]), number(&log["logIndex"])));
    Some(())
}

/// Alters a head that the node tells. False when it is not told.
pub async fn notice(shared: &Shared, fault: Fault, head: &mut Value) -> Option<bool> {
    if let Some(at) = behind(fault) {
        // An endpoint that is behind has not seen it yet.
        return Some(number(&head["number"]) <= at);
    }
    match fault {
        Fault::FarHead | Fault::FarChain | Fault::NearHead(_) => *head = invented::head(shared, fault).await?,
        NewHeads(Notice::OtherHash) => head["hash"] = other_hash(&head["hash"]),
        NewHeads(Notice::OwnHash) => invented::sealed_otherwise(head)?,
        NewHeads(Notice::WithoutHash) => _ = head.as_object_mut()?.remove("hash"),
        NewHeads(Notice::Never) => return Some(false),
        NewHeads(Notice::NumberOnly) => *head = json!({"number": head["number"]}),
        _ => {}
    }
    Some(true)
}

/// An answer or a notification in the forms that the fault wants.
pub fn formed(fault: Fault, mut answer: Value) -> Value {
    let Forms(forms) = fault else { return answer };
    for form in forms {
        match form {
            Form::IdAsText => {
                if let Some(id) = answer["id"].as_u64() {
                    answer["id"] = json!(id.to_string());
                }
            }
            Form::ErrorNull => {
                if answer.get("result").is_some() {
                    answer["error"] = Value::Null;
                }
            }
            Form::NullForNoLogs => {
                if answer["result"].as_array().is_some_and(Vec::is_empty) {
                    answer["result"] = Value::Null;
                }
            }
            form => {
                let told = if answer.get("params").is_some() { "params" } else { "result" };
                if let Some(told) = answer.get_mut(told) {
                    each_object(told, &mut |object| write_in(*form, object));
                }
            }
        }
    }
    answer
}

fn each_object(value: &mut Value, alter: &mut dyn FnMut(&mut serde_json::Map<String, Value>)) {
    match value {
        Value::Array(list) => list.iter_mut().for_each(|item| each_object(item, alter)),
        Value::Object(object) => {
            alter(object);
            object.values_mut().for_each(|inner| each_object(inner, alter));
        }
        _ => {}
    }
}

fn write_in(form: Form, object: &mut serde_json::Map<String, Value>) {
    let is_log = object.contains_key("logIndex");
    let is_block = object.contains_key("parentHash");
    match form {
        Form::BloomEmpty if is_block => _ = object.insert("logsBloom".into(), json!("0x")),
        Form::TotalDifficultyZero if is_block => _ = object.insert("totalDifficulty".into(), json!("0x0")),
        Form::BloomAbsent if is_block => _ = object.remove("logsBloom"),
        Form::RemovedNull if is_log => _ = object.insert("removed".into(), Value::Null),
        Form::TimeZero if is_log => _ = object.insert("blockTimestamp".into(), json!("0x0")),
        Form::Xdc => {
            for name in ["address", "miner"] {
                if let Some(digits) = object.get(name).and_then(Value::as_str).and_then(|text| text.strip_prefix("0x"))
                {
                    let address = json!(format!("xdc{digits}"));
                    object.insert(name.into(), address);
                }
            }
        }
        Form::TimeMillis => {
            for name in ["timestamp", "blockTimestamp"] {
                if let Some(time) = object.get_mut(name) {
                    *time = json!(format!("{:#x}", number(time) * 1_000));
                }
            }
        }
        Form::TimeWrong if is_log => {
            let time = number(&object["blockNumber"]) + 1;
            object.insert("blockTimestamp".into(), json!(format!("{time:#x}")));
        }
        Form::TopicsNull if is_log && object["topics"].as_array().is_some_and(Vec::is_empty) => {
            object.insert("topics".into(), Value::Null);
        }
        Form::Decimal | Form::Zeros => {
            for (_, value) in object.iter_mut().filter(|(name, value)| NUMBERS.contains(&&***name) && value.is_string())
            {
                let told = number(value);
                *value = if form == Form::Decimal { json!(told) } else { json!(format!("0x{told:016x}")) };
            }
        }
        Form::Capitals => {
            for value in object.values_mut() {
                if let Some(digits) = value.as_str().and_then(|text| text.strip_prefix("0x")) {
                    *value = json!(format!("0x{}", digits.to_ascii_uppercase()));
                }
            }
        }
        _ => {}
    }
}
