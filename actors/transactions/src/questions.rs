//! Questions to a chain: what they are in JSON-RPC, and what their answers mean.
//!
//! Nothing here decides anything. An answer that cannot be read is an error, never a guess.

use std::{sync::Arc, time::Duration};

use nexum_host_ifaces::{
    Hash, HostError, HostErrorKind,
    interfaces::chain::port::{ChainMsg, EndpointAnswer},
    interfaces::identity::port::TransactionRequest,
    port::{Pending, Port},
};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    classify::{Class, classify},
    fees::Market,
    lane::{Call, Facts, Simulated, Votes},
    record::{LaneKey, Mined},
};

/// One answer; blocks come without their transactions, so that only the hashes of these take room.
const REPLY_BYTES_MAX: usize = 4 << 20;
/// How long an endpoint may take.
pub const DEADLINE: Duration = Duration::from_secs(10);
/// Blocks that the market is read from.
const FEE_BLOCKS: u64 = 10;
/// Endpoints that are asked where they may differ.
const ENDPOINTS_MAX: usize = 3;
/// What a contract returned, bytes: as much as an outcome carries.
const REVERT_BYTES_MAX: usize = 1_024;

/// The way to one chain, for one module.
#[derive(Clone)]
pub struct Chain {
    pub port: Port<ChainMsg>,
    pub module: Arc<str>,
}

type Answer = Result<String, HostError>;

/// A question whose answer is on its way.
struct Asked<R>(Result<Pending<R>, HostError>);

impl<R> Asked<R> {
    async fn answer(self) -> Result<R, HostError> {
        let gone = |error: nexum_host_ifaces::port::PortError| error.to_host_error("chain");
        match timeout(DEADLINE, self.0?.answer()).await {
            Ok(answer) => answer.map_err(gone),
            Err(_) => Err(HostError::new("chain", HostErrorKind::Timeout, "the chain did not answer in time")),
        }
    }
}

impl Chain {
    /// Sends the question; several can be under way at once.
    fn ask(&self, method: &str, params: &Value) -> Asked<Answer> {
        let (module, method, params) = (self.module.clone(), method.to_owned(), params.to_string());
        let (deadline, reply_bytes_max) = (DEADLINE, REPLY_BYTES_MAX);
        // A lane is shared, and what was signed is followed: no module's budget holds it up.
        let budget = None;
        let request = |reply| ChainMsg::Request { module, budget, method, params, deadline, reply_bytes_max, reply };
        Asked(self.port.ask(request).map_err(|error| error.to_host_error("chain")))
    }

    fn ask_each(&self, method: &str, params: &Value) -> Asked<Vec<EndpointAnswer>> {
        let (module, method, params) = (self.module.clone(), method.to_owned(), params.to_string());
        let (deadline, reply_bytes_max, endpoints_max) = (DEADLINE, REPLY_BYTES_MAX, ENDPOINTS_MAX);
        let request =
            |reply| ChainMsg::RequestEach { module, method, params, endpoints_max, deadline, reply_bytes_max, reply };
        Asked(self.port.ask(request).map_err(|error| error.to_host_error("chain")))
    }

    /// What the chain and the account are like now.
    ///
    /// # Errors
    /// Says what could not be asked or read.
    pub async fn facts(&self, lane: &LaneKey) -> Result<Facts, String> {
        let account = lane.account.to_string();
        let block = self.ask("eth_getBlockByNumber", &json!(["latest", false]));
        let count = self.ask("eth_getTransactionCount", &json!([account, "latest"]));
        let balance = self.ask("eth_getBalance", &json!([account, "latest"]));
        let history = self.ask("eth_feeHistory", &json!([hex(FEE_BLOCKS), "latest", [50]]));
        let (block, count) = (read(block.answer().await)?, read(count.answer().await)?);
        // A chain without a base fee may not know the question.
        let (balance, history) = (read(balance.answer().await)?, read(history.answer().await).unwrap_or_default());
        let market = self.market(&block, &history).await?;
        Ok(Facts {
            head: number(&block["number"]).ok_or("a block without a number")?,
            nonce: number(&count).ok_or("an account without a nonce")?,
            balance: wei(&balance).ok_or("an account without a balance")?,
            market,
        })
    }

    async fn market(&self, block: &Value, history: &Value) -> Result<Market, String> {
        let Some(base_fee) = wei(&block["baseFeePerGas"]) else {
            let price = read(self.ask("eth_gasPrice", &json!([])).answer().await)?;
            return Ok(Market::Legacy { gas_price: wei(&price).ok_or("a gas price that is no number")? });
        };
        // The last one is of the block to come; without it, the most that it can be.
        let next = history["baseFeePerGas"].as_array().and_then(|fees| wei(fees.last()?));
        let base_fee = next.unwrap_or(base_fee.saturating_add(base_fee.div_ceil(8)));
        let rewards = history["reward"].as_array().into_iter().flatten();
        let mut rewards: Vec<u128> = rewards.filter_map(|block| wei(block.get(0)?)).filter(|paid| *paid > 0).collect();
        rewards.sort_unstable();
        let priority = match rewards.get(rewards.len() / 2) {
            Some(median) => *median,
            // Nobody else paid: what the node thinks.
            None => read(self.ask("eth_maxPriorityFeePerGas", &json!([])).answer().await)
                .ok()
                .and_then(|fee| wei(&fee))
                .unwrap_or(1),
        };
        Ok(Market::Dynamic { base_fee, priority })
    }

    /// The receipts that are there, of the hashes that were asked for.
    ///
    /// # Errors
    /// Says what could not be asked or read; then nothing is known of any of them.
    pub async fn receipts(&self, hashes: &[Hash]) -> Result<Vec<Mined>, String> {
        let ask = |hash: &Hash| self.ask("eth_getTransactionReceipt", &json!([hash.to_string()]));
        let asked: Vec<_> = hashes.iter().map(|hash| (hash, ask(hash))).collect();
        let (mut found, mut failed) = (Vec::new(), None);
        for (hash, asked) in asked {
            match read(asked.answer().await).and_then(|receipt| mined(&receipt, hash)) {
                Ok(receipt) => found.extend(receipt),
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            // One of them is enough.
            Some(error) if found.is_empty() => Err(error),
            _ => Ok(found),
        }
    }

    /// What several endpoints say of a nonce.
    pub async fn votes(&self, lane: &LaneKey, nonce: u64, hashes: &[Hash], block: u64) -> Votes {
        let counts = self.ask_each("eth_getTransactionCount", &json!([lane.account.to_string(), hex(block)]));
        let ask = |hash: &Hash| self.ask_each("eth_getTransactionReceipt", &json!([hash.to_string()]));
        let asked: Vec<_> = hashes.iter().map(|hash| (hash, ask(hash))).collect();
        let status = Asked(self.port.ask(ChainMsg::Status).map_err(|error| error.to_host_error("chain")));
        let mut votes = Votes { configured: usize::MAX, ..Votes::default() };
        let mut against = Vec::new();
        for EndpointAnswer { endpoint, answer } in counts.answer().await.unwrap_or_default() {
            match read(Ok(answer)).ok().and_then(|count| number(&count)) {
                Some(count) if count > nonce => against.push(endpoint),
                Some(_) => votes.unused += 1,
                // Whoever does not know that block has no say.
                None => {}
            }
        }
        for (hash, asked) in asked {
            let answers = asked.answer().await.unwrap_or_default();
            let receipt = |EndpointAnswer { endpoint, answer }| {
                let receipt = read(Ok(answer)).and_then(|receipt| mined(&receipt, hash));
                (endpoint, receipt)
            };
            let mut without = Vec::new();
            for (endpoint, receipt) in answers.into_iter().map(receipt) {
                match receipt {
                    Ok(Some(mined)) => votes.found = Some(mined),
                    Ok(None) => without.push(endpoint),
                    Err(_) => {}
                }
            }
            against.retain(|endpoint| without.contains(endpoint));
        }
        votes.against = against.len();
        if let Ok(status) = status.answer().await {
            votes.configured = status.endpoints.len();
        }
        votes
    }

    /// Runs a transaction without sending it.
    pub async fn simulate(&self, call: &Call) -> Simulated {
        let block = if call.pending { "pending" } else { "latest" };
        let object = call_object(&call.request, call.gas_limit);
        let run = (!call.skip).then(|| self.ask("eth_call", &json!([object, block])));
        let estimate = call.gas_limit.is_none().then(|| self.ask("eth_estimateGas", &json!([object, block])));
        if let Some(run) = run
            && let Err(error) = run.answer().await.and_then(|answer| answer)
        {
            return failed(&error);
        }
        match (estimate, call.gas_limit) {
            (Some(estimate), _) => match estimate.answer().await.and_then(|answer| answer) {
                Ok(gas) => match serde_json::from_str(&gas).ok().and_then(|gas| number(&gas)) {
                    Some(gas) => Simulated::Succeeds { gas },
                    None => Simulated::Unknown(format!("an estimate that is no number: {gas}")),
                },
                Err(error) => failed(&error),
            },
            (None, Some(gas)) => Simulated::Succeeds { gas },
            (None, None) => unreachable!("a call without a limit is estimated"),
        }
    }
}

/// Sends bytes to the endpoints. The message is on its way when this returns, so that those of a lane keep their order.
pub fn broadcast(port: Port<ChainMsg>, raw: Arc<[u8]>) -> impl Future<Output = Vec<(Class, String)>> + Send + 'static {
    let send = |reply| ChainMsg::Broadcast { raw, deadline: DEADLINE, reply };
    let asked = Asked(port.ask(send).map_err(|error| error.to_host_error("chain")));
    async move {
        match asked.answer().await {
            Ok(answers) => answers.into_iter().map(|answer| said(&answer.answer)).collect(),
            Err(error) => vec![said(&Err(error))],
        }
    }
}

fn said(answer: &Answer) -> (Class, String) {
    let words = answer.as_ref().map_or_else(|error| error.message.clone(), Clone::clone);
    (classify(answer), words)
}

fn call_object(request: &TransactionRequest, gas_limit: Option<u64>) -> Value {
    let mut object = json!({
        "from": request.account.to_string(),
        "value": quantity(&request.value.0),
        "data": format!("0x{}", hex::encode(&request.data)),
    });
    if let Some(to) = request.to {
        object["to"] = json!(to.to_string());
    }
    if let Some(gas_limit) = gas_limit {
        object["gas"] = json!(hex(gas_limit));
    }
    if !request.access_list.is_empty() {
        let item = |(address, keys): &(nexum_host_ifaces::Address, Vec<Hash>)| {
            let keys: Vec<_> = keys.iter().map(ToString::to_string).collect();
            json!({ "address": address.to_string(), "storageKeys": keys })
        };
        object["accessList"] = request.access_list.iter().map(item).collect();
    }
    object
}

/// A call that an endpoint did not carry out.
fn failed(error: &HostError) -> Simulated {
    let message = error.message.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|words| message.contains(words));
    if matches!(error.kind, HostErrorKind::Timeout | HostErrorKind::Unavailable | HostErrorKind::RateLimited) {
        return Simulated::Unknown(error.message.clone());
    }
    if classify(&Err(error.clone())) == Class::InsufficientFunds {
        return Simulated::Poor;
    }
    // Clients differ in the code; those that use none for it say so.
    let reverts = ["revert", "vm execution error", "invalid opcode", "out of gas", "gas required exceeds allowance"];
    if error.code == 3 || says(&reverts) {
        let data = error.data.clone().filter(|data| data.starts_with("0x"));
        let data = data.map(|data| data.chars().take(2 + 2 * REVERT_BYTES_MAX).collect());
        return Simulated::Reverts { message: error.message.clone(), data };
    }
    Simulated::Unknown(error.message.clone())
}

/// The receipt of a transaction, if there is one; of a block that is still being made there is none.
fn mined(receipt: &Value, of: &Hash) -> Result<Option<Mined>, String> {
    if receipt.is_null() || receipt["blockHash"].is_null() {
        return Ok(None);
    }
    let text = |field: &str| receipt[field].as_str().ok_or(format!("a receipt without {field}"));
    let count = |field: &str| number(&receipt[field]).ok_or(format!("a receipt without {field}"));
    let hash: Hash = text("transactionHash")?.parse()?;
    if hash != *of {
        return Err(format!("a receipt of {hash} instead of {of}"));
    }
    Ok(Some(Mined {
        hash,
        block_number: count("blockNumber")?,
        block_hash: text("blockHash")?.parse()?,
        // Chains from before Byzantium say nothing of it.
        succeeded: number(&receipt["status"]).is_none_or(|status| status == 1),
        gas_used: count("gasUsed")?,
        effective_gas_price: wei(&receipt["effectiveGasPrice"]).unwrap_or(0),
        contract: receipt["contractAddress"].as_str().map(str::parse).transpose()?,
    }))
}

fn read(answer: Result<Answer, HostError>) -> Result<Value, String> {
    let text = answer.and_then(|answer| answer).map_err(|error| error.message)?;
    serde_json::from_str(&text).map_err(|error| format!("an answer that is no JSON: {error}"))
}

fn hex(number: u64) -> String {
    format!("{number:#x}")
}

/// Without leading zeros, as quantities are.
fn quantity(number: &[u8; 32]) -> String {
    let digits = hex::encode(number);
    let digits = digits.trim_start_matches('0');
    format!("0x{}", if digits.is_empty() { "0" } else { digits })
}

fn digits(value: &Value) -> Option<&str> {
    value.as_str()?.strip_prefix("0x")
}

/// No chain has blocks, nonces or gas beyond half of what fits; below that, adding a few goes well.
fn number(value: &Value) -> Option<u64> {
    u64::from_str_radix(digits(value)?, 16).ok().filter(|number| *number <= u64::MAX / 2)
}

/// What does not fit counts as the most that fits.
fn wei(value: &Value) -> Option<u128> {
    let digits = digits(value)?;
    let whole = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    whole.then(|| u128::from_str_radix(digits, 16).unwrap_or(u128::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_and_written_as_quantities() {
        assert_eq!(hex(255), "0xff");
        assert_eq!(number(&json!("0x10")), Some(16));
        assert_eq!(number(&json!(16)), None);
        assert_eq!(number(&json!("0x7fffffffffffffff")), Some(u64::MAX / 2));
        for wrong in [json!("0x8000000000000000"), json!("0x"), json!("0x1g"), json!("10"), json!(null), json!(["0x1"])]
        {
            assert_eq!(number(&wrong), None, "{wrong}");
        }
        assert_eq!(wei(&json!("0x")), None);
        assert_eq!(wei(&json!(format!("0x{}", "f".repeat(40)))), Some(u128::MAX));
        let mut value = [0; 32];
        assert_eq!(quantity(&value), "0x0");
        value[30] = 1;
        assert_eq!(quantity(&value), "0x100");
    }

    #[test]
    fn only_a_revert_is_a_revert() {
        let error =
            |kind, code, message: &str| HostError::new("chain", kind, message).with_code(code).with_data("0x08c379a0");
        let reverted = failed(&error(HostErrorKind::InvalidInput, 3, "execution reverted: no"));
        assert_eq!(
            reverted,
            Simulated::Reverts { message: "execution reverted: no".into(), data: Some("0x08c379a0".into()) }
        );
        let poor = failed(&error(HostErrorKind::InvalidInput, -32000, "insufficient funds for transfer"));
        assert_eq!(poor, Simulated::Poor);
        for (kind, message) in
            [(HostErrorKind::Timeout, "execution reverted"), (HostErrorKind::InvalidInput, "no archive")]
        {
            assert!(matches!(failed(&error(kind, -32000, message)), Simulated::Unknown(_)));
        }
        let long =
            error(HostErrorKind::InvalidInput, 3, "execution reverted").with_data(format!("0x{}", "00".repeat(5_000)));
        let Simulated::Reverts { data: Some(data), .. } = failed(&long) else { panic!() };
        assert_eq!(data.len(), 2 + 2 * REVERT_BYTES_MAX);
    }

    #[test]
    fn a_receipt_without_a_block_is_none() {
        let of = Hash([1; 32]);
        assert_eq!(mined(&Value::Null, &of), Ok(None));
        assert_eq!(mined(&json!({ "transactionHash": "0x", "blockHash": null }), &of), Ok(None));
        let hash = of.to_string();
        let mut receipt = json!({
            "transactionHash": hash, "blockHash": hash, "blockNumber": "0x5", "gasUsed": "0x5208", "status": "0x0",
            "effectiveGasPrice": "0x7", "contractAddress": null,
        });
        let read = mined(&receipt, &of).unwrap().unwrap();
        assert_eq!((read.block_number, read.succeeded, read.gas_used, read.effective_gas_price), (5, false, 21_000, 7));
        let other = Hash([2; 32]);
        assert_eq!(mined(&receipt, &other), Err(format!("a receipt of {hash} instead of {other}")));
        receipt["blockNumber"] = Value::Null;
        assert_eq!(mined(&receipt, &of), Err("a receipt without blockNumber".to_owned()));
    }
}
