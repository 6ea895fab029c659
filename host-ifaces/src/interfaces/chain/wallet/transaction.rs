//! `eth_sendTransaction`: handed to the transactions actor under a name that the same call of the same event always has, and
//! answered with its hash.
//!
//! Invariant: an event that is tried again sends nothing twice, whatever the attempt before came to. Nothing is handed on that the
//! operator has still to approve: nobody would hear of it.

use std::{sync::Arc, time::Duration};

use serde::Deserialize;
use serde_json::Value;

use super::{account, invalid_params};
use crate::{
    Address, HostError, HostErrorKind,
    bindings::nexum::host::outbox::{AccessListItem, FeePolicy, TransactionEffect},
    call::Call,
    effects::EffectKind as _,
    interfaces::{
        chain::grant::CAPABILITY,
        identity::port::{Admission, IdentityMsg},
    },
    outbox::call_id,
    port::Port,
    transactions::{FailureKind, Intent, SubmitAnswer, TransactionFailure, TransactionsMsg},
};

/// Between two questions after one that has no hash yet.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// EIP-1474: the execution reverted.
const CODE_REVERTED: i32 = 3;

/// The parameter, as JSON-RPC has it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Wanted {
    from: Option<String>,
    to: Option<String>,
    value: Option<String>,
    data: Option<String>,
    input: Option<String>,
    gas: Option<String>,
    gas_price: Option<String>,
    max_fee_per_gas: Option<String>,
    max_priority_fee_per_gas: Option<String>,
    chain_id: Option<String>,
    #[serde(default)]
    access_list: Vec<WantedItem>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WantedItem {
    address: String,
    storage_keys: Vec<String>,
}

/// The transaction that the parameters ask for.
pub(super) fn read(chain_id: u64, params: &str) -> Result<TransactionEffect, String> {
    let [wanted]: [Wanted; 1] = serde_json::from_str(params).map_err(|why| {
        format!("expected the parameters [transaction], without nonce and type, which are chosen here: {why}")
    })?;
    let (gas_price, priority) = (&wanted.gas_price, &wanted.max_priority_fee_per_gas);
    let max_fee_per_gas = &wanted.max_fee_per_gas;
    if let Some(other) = &wanted.chain_id
        && number(other)? != chain_id
    {
        return Err(format!("`chainId` is {other}, and the chain that is asked {chain_id}"));
    }
    let data = match (wanted.data, wanted.input) {
        (Some(data), Some(input)) if data != input => return Err("`data` and `input` differ".to_owned()),
        (data, input) => data.or(input),
    };
    if gas_price.is_some() && (max_fee_per_gas.is_some() || priority.is_some()) {
        return Err("`gasPrice` excludes `maxFeePerGas` and `maxPriorityFeePerGas`".to_owned());
    }
    let most = max_fee_per_gas.as_ref().or(gas_price.as_ref()).map(|text| quantity(text)).transpose()?;
    let priority = priority.as_ref().map(|text| quantity(text)).transpose()?;
    let fees = (most.is_some() || priority.is_some()).then_some(FeePolicy {
        max_fee_per_gas: most,
        max_priority_fee_per_gas: priority,
        market_percent: None,
    });
    let list = wanted.access_list.iter().map(|item| {
        let storage_keys = item.storage_keys.iter().map(|key| bytes(key)).collect::<Result<_, String>>()?;
        Ok::<_, String>(AccessListItem { address: bytes(&item.address)?, storage_keys })
    });
    Ok(TransactionEffect {
        chain_id,
        account: wanted.from.as_deref().map(of_account).transpose()?,
        to: wanted.to.as_deref().map(of_account).transpose()?,
        value: wanted.value.as_deref().map(quantity).transpose()?.unwrap_or_default(),
        data: data.as_deref().map(bytes).transpose()?.unwrap_or_default(),
        gas_limit: wanted.gas.as_deref().map(number).transpose()?,
        fees,
        access_list: list.collect::<Result<_, String>>()?,
        confirmations: None,
        deadline: None,
        skip_simulation: false,
    })
}

fn of_account(text: &str) -> Result<Vec<u8>, String> {
    account(text).map(|account| account.0.to_vec())
}

fn bytes(text: &str) -> Result<Vec<u8>, String> {
    let digits = text.strip_prefix("0x").and_then(|digits| hex::decode(digits).ok());
    digits.ok_or_else(|| "expected bytes as 0x and pairs of hex digits".to_owned())
}

/// A number in hex, big-endian.
fn quantity(text: &str) -> Result<Vec<u8>, String> {
    let wrong = || "expected a number as 0x and 1 to 64 hex digits".to_owned();
    let digits = text.strip_prefix("0x").filter(|digits| (1..=64).contains(&digits.len())).ok_or_else(wrong)?;
    let even = if digits.len() % 2 == 0 { digits.to_owned() } else { format!("0{digits}") };
    let bytes = hex::decode(even).map_err(|_| wrong())?;
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    Ok(bytes[zeros..].to_vec())
}

fn number(text: &str) -> Result<u64, String> {
    let bytes = quantity(text)?;
    match bytes.len() {
        0..=8 => Ok(bytes.iter().fold(0, |number, byte| (number << 8) | u64::from(*byte))),
        _ => Err(format!("`{text}` is larger than any such number")),
    }
}

impl Call {
    /// Sends it, and answers the hash as JSON once its bytes are durable and on their way.
    pub(super) async fn send_transaction(&mut self, chain_id: u64, params: &str) -> Result<String, HostError> {
        let effect = read(chain_id, params).map_err(invalid_params)?;
        effect.granted(self.module(), self.grants())?;
        effect.check("", self.grants())?;
        let (event, ordinal) = self.next_transaction()?;
        let (module, deadline) = (self.module().clone(), self.limits().host_call_deadline);
        let id = call_id(&module, &event, ordinal);
        let (identity, transactions) = (self.ports().of::<IdentityMsg>(), self.ports().of::<TransactionsMsg>());
        let sending = Sending { identity, transactions, module, id, deadline };
        let asked = self.ask("chain.request", &(chain_id, "eth_sendTransaction", params));
        let live = async { sending.hash(&effect).await.map(|hash| Value::String(hash).to_string()) };
        self.reach(asked, CAPABILITY.name(), live).await
    }
}

struct Sending {
    identity: Port<IdentityMsg>,
    transactions: Port<TransactionsMsg>,
    module: Arc<str>,
    /// The name of the transaction for ever.
    id: String,
    deadline: Duration,
}

impl Sending {
    async fn hash(&self, effect: &TransactionEffect) -> Result<String, HostError> {
        let mut waits_for = "the operator's policies".to_owned();
        let done = tokio::time::timeout(self.deadline, self.follow(effect, &mut waits_for)).await;
        done.unwrap_or_else(|_| {
            let message = format!(
                "not sent in time: {waits_for}. It may be sent later; the same call of the same event answers its hash then"
            );
            Err(error(HostErrorKind::Timeout, message))
        })
    }

    async fn follow(&self, effect: &TransactionEffect, waits_for: &mut String) -> Result<String, HostError> {
        let account = self.account(effect).await?;
        let intent = effect.intent(&self.id, &self.module, account)?;
        self.admit(&intent).await?;
        loop {
            let asked = Box::new(intent.clone());
            let submit = |reply| TransactionsMsg::Submit { intent: asked, may_send: true, before: Vec::new(), reply };
            let answer = self.transactions.call(self.deadline, submit).await;
            match answer.map_err(|failed| failed.to_host_error(CAPABILITY.name()))?? {
                SubmitAnswer::Underway { hash: Some(hash), .. } => return Ok(hash.to_string()),
                SubmitAnswer::Mined(mined) => return Ok(mined.hash.to_string()),
                SubmitAnswer::Failed(failure) => return failed(*failure),
                SubmitAnswer::Underway { what, after, hash: None } => {
                    *waits_for = what;
                    tokio::time::sleep(after.min(ASK_EVERY)).await;
                }
            }
        }
    }

    async fn account(&self, effect: &TransactionEffect) -> Result<Address, HostError> {
        let sender = effect.sender(&self.identity, &self.module, self.deadline).await;
        let sender = sender.map_err(|why| error(HostErrorKind::Unavailable, why))?;
        sender.map_err(|why| error(HostErrorKind::Denied, why))
    }

    async fn admit(&self, Intent { id, module, request, .. }: &Intent) -> Result<(), HostError> {
        let (module, intent, request) = (module.clone(), id.clone(), Box::new(request.clone()));
        let admit = |reply| IdentityMsg::Admit { module, intent, request, reply };
        match self.identity.call(self.deadline, admit).await.map_err(|failed| failed.to_host_error("identity"))?? {
            Admission::Allowed => Ok(()),
            Admission::AwaitsApproval { number, .. } => Err(HostError::new(
                "identity",
                HostErrorKind::Unavailable,
                format!(
                    "the operator decides on it (nexumctl approvals show {number}), and a call does not wait for people: once \
                     that is approved, the same call of the same event sends it; a `transaction` effect of the outbox waits"
                ),
            )),
        }
    }
}

/// What became of one that was handed on and has failed: with a receipt it has a hash, as at any node.
fn failed(failure: TransactionFailure) -> Result<String, HostError> {
    let TransactionFailure { kind, message, data, hash } = failure;
    let kind = match (kind, hash) {
        (FailureKind::Reverted, Some(hash)) => return Ok(hash.to_string()),
        (FailureKind::WouldRevert | FailureKind::Reverted, _) => {
            let reverted = error(HostErrorKind::InvalidInput, message).with_code(CODE_REVERTED);
            return Err(match data {
                Some(data) => reverted.with_data(data),
                None => reverted,
            });
        }
        (FailureKind::Refused, _) => HostErrorKind::InvalidInput,
        (FailureKind::Expired, _) => HostErrorKind::Timeout,
        (FailureKind::Denied | FailureKind::Cancelled | FailureKind::Replaced, _) => HostErrorKind::Denied,
    };
    Err(error(kind, message))
}

fn error(kind: HostErrorKind, message: impl Into<String>) -> HostError {
    HostError::new(CAPABILITY.name(), kind, message)
}

#[cfg(test)]
mod tests;
