//! Questions to a chain: what they are in JSON-RPC, and what their answers mean.
//!
//! Nothing here decides anything. An answer that cannot be read is an error, never a guess.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use nexum_host_ifaces::{
    Hash, HostError, HostErrorKind,
    interfaces::chain::port::{ChainMsg, ChainStatus, EndpointAnswer},
    interfaces::identity::port::TransactionRequest,
    port::{Pending, Port},
};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    classify::{Class, classify},
    fees::Market,
    queue::{Call, Facts, Found, Simulated, Votes},
    record::{Mined, QueueKey},
    voices::{majority, middle, of_revert},
};

/// One answer; blocks come without their transactions, so that only the hashes of these take room.
const REPLY_BYTES_MAX: usize = 4 << 20;
/// How long an endpoint may take.
pub const DEADLINE: Duration = Duration::from_secs(10);
/// Blocks that the market is read from.
const FEE_BLOCKS: u64 = 10;
/// Endpoints that are asked where they may differ.
const ENDPOINTS_MAX: usize = 3;
/// Receipts that are asked for at once.
const HASHES_AT_ONCE: usize = 32;
/// Receipts of one nonce that are looked at: there is one, and each endpoint may tell another one.
const RECEIPTS_MAX: usize = 4;
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

    async fn status(&self) -> Result<ChainStatus, HostError> {
        Asked(self.port.ask(ChainMsg::Status).map_err(|error| error.to_host_error("chain"))).answer().await
    }

    /// What the chain and the account are like now. How many transactions the account has is asked of several endpoints, at
    /// the head of the chain that is followed, so that those that are right say the same.
    ///
    /// # Errors
    /// Says what could not be asked or read, or on what the endpoints do not agree.
    pub async fn facts(&self, queue: &QueueKey) -> Result<Facts, String> {
        let account = queue.account.to_string();
        let status = self.status().await.map_err(|error| error.message)?;
        let (head, _) = status.head.ok_or("no head has been read")?;
        let blocks = self.ask_each("eth_getBlockByNumber", &json!([hex(head), false]));
        let counts = self.ask_each("eth_getTransactionCount", &json!([account, hex(head)]));
        let balances = self.ask_each("eth_getBalance", &json!([account, hex(head)]));
        let histories = self.ask_each("eth_feeHistory", &json!([hex(FEE_BLOCKS), hex(head), [50]]));
        let [blocks, counts, balances] = [blocks.answer().await, counts.answer().await, balances.answer().await]
            .map(|answers| answers.map_err(|error| error.message));
        let (blocks, counts, balances) = (blocks?, counts?, balances?);
        // A chain without a base fee may not know the question.
        let histories = told(histories.answer().await.unwrap_or_default(), history).unwrap_or_default();
        let market = self.market(blocks, &histories).await?;
        // Whoever does not know that block has no say.
        let counts = told(counts, |count| number(count).ok_or("an account without a nonce"))?;
        let disagree = |who: String| format!("how many transactions the account has at block {head}: {who}");
        let (nonce, voices) = majority(&counts).map_err(disagree)?;
        let balances = told(balances, |balance| wei(balance).ok_or("an account without a balance"))?;
        // Where they do not agree, it has no more than the least that one of them says.
        let least = || balances.iter().map(|(_, balance)| *balance).min().unwrap_or(0);
        let balance = majority(&balances).map_or_else(|_| least(), |(balance, _)| balance);
        Ok(Facts { head, nonce, voices, configured: status.endpoints.len(), balance, market })
    }

    /// What the chain takes, as none of several endpoints alone says: what is offered on top of the base fee is paid in full.
    async fn market(&self, blocks: Vec<EndpointAnswer>, histories: &[(String, History)]) -> Result<Market, String> {
        // Whoever does not know that block has no say.
        let base_fees = told(blocks, |block| {
            block.is_object().then(|| wei(&block["baseFeePerGas"])).ok_or("no block at the head")
        })?;
        // Some endpoints do not tell it: what others say is left aside where these are not more.
        let histories = if histories.len() * 2 > base_fees.len() { histories } else { &[] };
        let Some(base_fee) = middle(base_fees.into_iter().map(|(_, fee)| fee)).flatten() else {
            let gas_price = self.price("eth_gasPrice").await?;
            return Ok(Market::Legacy { gas_price });
        };
        let base_fee_next = middle(histories.iter().filter_map(|(_, history)| history.base_fee));
        // Without it, the most that it can be.
        let base_fee = base_fee_next.unwrap_or(base_fee.saturating_add(base_fee.div_ceil(8)));
        let priority = match middle(histories.iter().map(|(_, history)| history.priority)) {
            Some(paid) if paid > 0 => paid,
            // Nobody else paid: what the nodes think.
            Some(_) | None => self.price("eth_maxPriorityFeePerGas").await.unwrap_or(1),
        };
        Ok(Market::Dynamic { base_fee, priority })
    }

    /// A price that endpoints make up their own minds about.
    async fn price(&self, method: &str) -> Result<u128, String> {
        let answers = self.ask_each(method, &json!([])).answer().await.map_err(|error| error.message)?;
        let prices = told(answers, |price| wei(price).ok_or("a price that is no number"))?;
        middle(prices.into_iter().map(|(_, price)| price)).ok_or_else(|| "no endpoint tells a price".to_owned())
    }

    /// The receipts that are there, of the hashes that were asked for.
    ///
    /// # Errors
    /// Says what could not be asked or read; then nothing is known of any of them.
    pub async fn receipts(&self, hashes: &[Hash]) -> Result<Vec<Found>, String> {
        let ask = |hash: &Hash| self.ask("eth_getTransactionReceipt", &json!([hash.to_string()]));
        let (mut found, mut failed) = (Vec::new(), None);
        for some in hashes.chunks(HASHES_AT_ONCE) {
            let asked: Vec<_> = some.iter().map(|hash| (hash, ask(hash))).collect();
            for (hash, asked) in asked {
                match read(asked.answer().await).and_then(|receipt| mined(&receipt, hash)) {
                    Ok(receipt) => found.extend(receipt),
                    Err(error) => failed = Some(error),
                }
            }
        }
        match failed {
            // One of them is enough.
            Some(error) if found.is_empty() => Err(error),
            _ => {
                found.truncate(RECEIPTS_MAX);
                Ok(self.held_against_the_chain(found).await)
            }
        }
    }

    /// Receipts with what the chain that is followed has at their heights.
    async fn held_against_the_chain(&self, found: Vec<Mined>) -> Vec<Found> {
        let numbers: Vec<u64> = found.iter().map(|mined| mined.block_number).collect();
        // Mostly there is none.
        if numbers.is_empty() {
            return Vec::new();
        }
        let gone = |error: nexum_host_ifaces::port::PortError| error.to_host_error("chain");
        let asked = |reply| ChainMsg::Followed { numbers: numbers.clone(), reply };
        let followed = Asked(self.port.ask(asked).map_err(gone)).answer().await.unwrap_or_default();
        let mut all = Vec::with_capacity(found.len());
        for (at, mined) in found.into_iter().enumerate() {
            let known = followed.get(at).copied().flatten();
            // Older than what is kept: whoever is on that chain is asked.
            let followed = match known {
                Some(hash) => Some(hash),
                None => self.hash_at(mined.block_number).await,
            };
            all.push(Found { mined, followed });
        }
        all
    }

    async fn hash_at(&self, number: u64) -> Option<Hash> {
        let (head, _) = self.status().await.ok()?.head?;
        // Not read yet.
        if number > head {
            return None;
        }
        let asked = |reply| ChainMsg::Hashes { numbers: vec![number], reply };
        let hashes = Asked(self.port.ask(asked).map_err(|error| error.to_host_error("chain"))).answer().await;
        hashes.ok()?.ok()?.first().copied()
    }

    /// What several endpoints say of a nonce.
    pub async fn votes(&self, queue: &QueueKey, nonce: u64, hashes: &[Hash], block: u64) -> Votes {
        let counts = self.ask_each("eth_getTransactionCount", &json!([queue.account.to_string(), hex(block)]));
        let ask = |hash: &Hash| self.ask_each("eth_getTransactionReceipt", &json!([hash.to_string()]));
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
        // Who said something of every hash, and who has a receipt of one.
        let (mut answered, mut have) = (None::<BTreeSet<String>>, BTreeMap::<String, Option<Mined>>::new());
        for some in hashes.chunks(HASHES_AT_ONCE) {
            let asked: Vec<_> = some.iter().map(|hash| (hash, ask(hash))).collect();
            for (hash, asked) in asked {
                let mut heard = BTreeSet::new();
                for EndpointAnswer { endpoint, answer } in asked.answer().await.unwrap_or_default() {
                    match read(Ok(answer)).and_then(|receipt| mined(&receipt, hash)) {
                        Ok(Some(mined)) => {
                            // Of one nonce there is one receipt: whoever has two has none.
                            have.entry(endpoint.clone()).and_modify(|one| *one = None).or_insert(Some(mined));
                        }
                        Ok(None) => {}
                        Err(_) => continue,
                    }
                    heard.insert(endpoint);
                }
                answered = Some(match answered {
                    Some(before) => before.intersection(&heard).cloned().collect(),
                    None => heard,
                });
            }
        }
        // Whoever has a receipt has said enough.
        let mut answered = answered.unwrap_or_default();
        answered.extend(have.keys().cloned());
        votes.against =
            against.iter().filter(|endpoint| answered.contains(*endpoint) && !have.contains_key(*endpoint)).count();
        votes.answered = answered.len();
        votes.found = self.held_against_the_chain(have.into_values().flatten().collect()).await;
        if let Ok(status) = self.status().await {
            votes.configured = status.endpoints.len();
        }
        votes
    }

    /// Runs a transaction without sending it. Of a revert on a block that is named the other endpoints are asked, too.
    pub async fn simulate(&self, call: &Call) -> Simulated {
        let block = call.block.map_or_else(|| "pending".to_owned(), hex);
        let params = json!([call_object(&call.request, call.gas_limit), block]);
        let run = (!call.skip).then(|| self.ask("eth_call", &params));
        let estimate = call.gas_limit.is_none().then(|| self.ask_each("eth_estimateGas", &params));
        let ran = match run {
            Some(run) => run.answer().await.and_then(|answer| answer).err().map(|error| failed(&error)),
            None => None,
        };
        let (method, come_to) = match (ran, estimate, call.gas_limit) {
            (Some(failed), ..) => ("eth_call", failed),
            (None, Some(estimate), _) => ("eth_estimateGas", estimated(estimate.answer().await)),
            (None, None, Some(gas)) => ("eth_call", Simulated::Succeeds { gas }),
            (None, None, None) => unreachable!("a call without a limit is estimated"),
        };
        if call.block.is_none() || !matches!(come_to, Simulated::Reverts { .. }) {
            return come_to;
        }
        let each = self.ask_each(method, &params);
        let connected = self
            .status()
            .await
            .map_or(usize::MAX, |status| status.endpoints.iter().filter(|endpoint| endpoint.connected).count());
        let of_each = |answer: EndpointAnswer| match answer.answer {
            Ok(_) => Simulated::Succeeds { gas: 0 },
            Err(error) => failed(&error),
        };
        let others: Vec<Simulated> = each.answer().await.unwrap_or_default().into_iter().map(of_each).collect();
        of_revert(come_to, &others, connected)
    }
}

/// What estimates come to: the middle one, of two the higher, since what runs out of gas is paid and fails. A revert where
/// more say that than tell one.
fn estimated(answers: Result<Vec<EndpointAnswer>, HostError>) -> Simulated {
    let answers = match answers {
        Ok(answers) => answers.into_iter().map(|answer| one_estimated(answer.answer)).collect::<Vec<_>>(),
        Err(error) => return failed(&error),
    };
    let gas = |answer: &Simulated| match answer {
        Simulated::Succeeds { gas } => Some(Reverse(*gas)),
        _ => None,
    };
    let told: Vec<Reverse<u64>> = answers.iter().filter_map(gas).collect();
    let reverts: Vec<&Simulated> =
        answers.iter().filter(|answer| matches!(answer, Simulated::Reverts { .. })).collect();
    match (middle(told.iter().copied()), reverts.first()) {
        (_, Some(revert)) if reverts.len() > told.len() => (*revert).clone(),
        (Some(Reverse(gas)), _) => Simulated::Succeeds { gas },
        (None, _) => {
            let nobody = || Simulated::Unknown("no endpoint is connected".to_owned());
            answers.first().cloned().unwrap_or_else(nobody)
        }
    }
}

fn one_estimated(answer: Answer) -> Simulated {
    match answer {
        Ok(gas) => match serde_json::from_str(&gas).ok().and_then(|gas| number(&gas)) {
            Some(gas) => Simulated::Succeeds { gas },
            None => Simulated::Unknown(format!("an estimate that is no number: {gas}")),
        },
        Err(error) => failed(&error),
    }
}

/// Sends bytes to the endpoints. The message is on its way when this returns, so that those of a queue keep their order.
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
        return Simulated::Reverts { message: error.message.clone(), data, agreed: false };
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
        succeeded: match &receipt["status"] {
            // Chains from before Byzantium say nothing of it.
            Value::Null => true,
            Value::Bool(succeeded) => *succeeded,
            _ => count("status")? == 1,
        },
        gas_used: count("gasUsed")?,
        effective_gas_price: wei(&receipt["effectiveGasPrice"]).unwrap_or(0),
        contract: receipt["contractAddress"].as_str().map(str::parse).transpose()?,
    }))
}

fn read(answer: Result<Answer, HostError>) -> Result<Value, String> {
    let text = answer.and_then(|answer| answer).map_err(|error| error.message)?;
    serde_json::from_str(&text).map_err(|error| format!("an answer that is no JSON: {error}"))
}

/// What each endpoint told.
///
/// # Errors
/// What one of them said instead, where none told anything.
fn told<T>(
    answers: Vec<EndpointAnswer>,
    read_as: impl Fn(&Value) -> Result<T, &'static str>,
) -> Result<Vec<(String, T)>, String> {
    let (mut told, mut failed) = (Vec::new(), "no endpoint is connected".to_owned());
    for EndpointAnswer { endpoint, answer } in answers {
        match read(Ok(answer)).and_then(|value| read_as(&value).map_err(str::to_owned)) {
            Ok(value) => told.push((endpoint, value)),
            Err(error) => failed = error,
        }
    }
    if told.is_empty() { Err(failed) } else { Ok(told) }
}

/// What one endpoint says was paid lately.
#[derive(Debug, Clone, Copy)]
struct History {
    /// Of the block after the head.
    base_fee: Option<u128>,
    /// The median of what was paid on top; zero where nobody paid.
    priority: u128,
}

fn history(answer: &Value) -> Result<History, &'static str> {
    let fees = answer["baseFeePerGas"].as_array().ok_or("no history of fees")?;
    let rewards = answer["reward"].as_array().into_iter().flatten();
    let mut paid: Vec<u128> = rewards.filter_map(|block| wei(block.get(0)?)).filter(|paid| *paid > 0).collect();
    paid.sort_unstable();
    Ok(History { base_fee: fees.last().and_then(wei), priority: paid.get(paid.len() / 2).copied().unwrap_or(0) })
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

/// `"0x1a"`, and `"26"` or `26`, as some nodes say it. What does not fit counts as the most that fits.
fn wei(value: &Value) -> Option<u128> {
    if let Some(number) = value.as_u64() {
        return Some(number.into());
    }
    let text = value.as_str()?;
    let (digits, radix) = text.strip_prefix("0x").map_or((text, 10), |digits| (digits, 16));
    let is_whole = !digits.is_empty() && digits.chars().all(|digit| digit.is_digit(radix));
    is_whole.then(|| u128::from_str_radix(digits, radix).unwrap_or(u128::MAX))
}

/// No chain has blocks, nonces or gas beyond half of what fits; below that, adding a few goes well.
fn number(value: &Value) -> Option<u64> {
    u64::try_from(wei(value)?).ok().filter(|number| *number <= u64::MAX / 2)
}

#[cfg(test)]
mod tests;
