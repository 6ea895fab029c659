//! Transactions of the operator's accounts: handed on to the transactions actor under the effect's id, and asked after
//! until they are final. What the operator takes up again after it failed is handed on under an id of its own.
//!
//! Invariant: once one was handed on, nothing but that actor says what became of it. Whatever else goes wrong is waited for,
//! since a transaction that is said to have failed and is mined after all would be made twice.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};

use super::kind::{Attempting, EffectKind, Verdict, hex, invalid, short};
use crate::{
    Address, Hash, HostError, HostErrorKind,
    bindings::nexum::host::outbox::{Effect, FeePolicy, TransactionEffect},
    grants::Grants,
    interfaces::identity::{
        grant::TRANSACTION,
        port::{ACCESS_LIST_MAX, DATA_BYTES_MAX, IdentityMsg, TransactionRequest, Wei},
    },
    port::Port,
    transactions::{self, FailureKind, Intent, SubmitAnswer, TransactionFailure, TransactionsMsg},
};

/// Blocks that an effect may ask for at most: two weeks of Ethereum's.
const CONFIRMATIONS_MAX: u32 = 100_000;
/// What a module may have its fees be of the market's at most, percent.
const MARKET_PERCENT_MAX: u32 = 1_000_000;
/// Milliseconds since the epoch that no deadline is before: a smaller number is one of seconds.
const DEADLINE_MS_MIN: u64 = 1_000_000_000_000;
/// Data that people are shown of one, bytes.
const SHOWN_BYTES_MAX: usize = 4 * 1024;
/// Data of a failure, hex digits with 0x.
const FAILURE_DATA_CHARS_MAX: usize = 2 + 2 * 1_024;
/// Times that one was taken up again, of which the ends still count.
const ROUNDS_MAX: usize = 1_000;
/// How long a service that does not answer is left alone.
const SERVICE_WAIT: Duration = Duration::from_secs(1);

#[async_trait::async_trait]
impl EffectKind for TransactionEffect {
    fn name(&self) -> &'static str {
        "transaction"
    }

    fn destination(&self) -> String {
        format!("chain:{}", self.chain_id)
    }

    fn bytes(&self) -> usize {
        let parts = [&self.account, &self.to].into_iter().flatten().map(Vec::len).sum::<usize>();
        let list = self.access_list.iter();
        let list = list.map(|item| item.address.len() + item.storage_keys.iter().map(Vec::len).sum::<usize>());
        let fees = self.fees.iter().flat_map(|fees| [&fees.max_fee_per_gas, &fees.max_priority_fee_per_gas]);
        let fees = fees.flatten().map(Vec::len).sum::<usize>();
        parts + self.value.len() + self.data.len() + fees + list.sum::<usize>()
    }

    /// Entries without a byte take something, too.
    fn overhead(&self) -> usize {
        let keys = self.access_list.iter().map(|item| size_of_val(item.storage_keys.as_slice()));
        size_of_val(self.access_list.as_slice()) + keys.sum::<usize>()
    }

    fn stripped(&self) -> Effect {
        Effect::Transaction(Self { data: Vec::new(), access_list: Vec::new(), fees: None, ..self.clone() })
    }

    fn payload(&self) -> Value {
        let (to, bytes) = (self.to.as_deref().map(hex), self.data.len());
        let shown = self.data.get(..SHOWN_BYTES_MAX).unwrap_or(&self.data);
        let mut payload = json!({
            "chain_id": self.chain_id, "account": self.account.as_deref().map(hex), "to": to,
            "value": decimal(&self.value), "data_bytes": bytes, "data": hex(shown),
        });
        // Without a receiver the data is code.
        if let Some(selector) = self.data.get(..4).filter(|_| self.to.is_some()) {
            payload["selector"] = Value::String(hex(selector));
        }
        payload
    }

    fn granted(&self, module: &str, grants: &Grants) -> Result<(), HostError> {
        grants.may_sign(TRANSACTION)?;
        grants.chain(module, self.chain_id)
    }

    fn is_followed(&self) -> bool {
        true
    }

    fn check(&self, _key: &str, _grants: &Grants) -> Result<(), HostError> {
        self.request(Address::default())?;
        if let Some(account) = &self.account {
            address("the account", account)?;
        }
        if self.to.is_none() && self.data.is_empty() {
            return Err(invalid("neither a receiver nor data: expected one of the two"));
        }
        if self.gas_limit == Some(0) {
            return Err(invalid("a gas limit of 0: leave it out to have it estimated"));
        }
        fee_policy(self.fees.as_ref())?;
        match self.confirmations {
            Some(count) if !(1..=CONFIRMATIONS_MAX).contains(&count) => {
                Err(invalid(format!("{count} confirmations: expected 1 to {CONFIRMATIONS_MAX}")))
            }
            _ if self.deadline.is_some_and(|deadline| deadline < DEADLINE_MS_MIN) => {
                Err(invalid("a deadline long past: expected milliseconds since the Unix epoch"))
            }
            _ => Ok(()),
        }
    }

    async fn attempt(&self, with: &Attempting<'_>) -> Verdict {
        let (account, unresolved) = match self.sender(&with.ports.of(), with.module, with.deadline).await {
            Ok(Ok(account)) => (account, None),
            Ok(Err(why)) if !with.again => return failed(TransactionFailure::denied(why)),
            // It may have been handed on before: then it is known by its id, whatever account is named now.
            Ok(Err(why)) => (Address::default(), Some(why)),
            Err(what) => return Verdict::Underway { what, after: SERVICE_WAIT },
        };
        let intent = match self.intent(&intent_id(with.id, with.round), with.module, account) {
            Ok(intent) => Box::new(intent),
            Err(error) => return failed(TransactionFailure::denied(error.message)),
        };
        // A retry that was refused leaves nothing: the one before it may be mined all the same.
        let before = (0..with.round).rev().take(ROUNDS_MAX).map(|round| intent_id(with.id, round)).collect();
        // One that may have been handed on is asked after whatever is granted by now, and not handed on anew.
        let may_send = self.granted(with.module, with.grants).is_ok();
        let submit = |reply| TransactionsMsg::Submit { intent, may_send, before, reply };
        let answer = with.ports.of::<TransactionsMsg>().call(with.deadline, submit).await;
        let verdict = of_transactions(answer.unwrap_or_else(|error| Err(error.to_host_error("transactions"))));
        match (verdict, unresolved) {
            (Err(failure), Some(why)) if failure.kind == FailureKind::Denied && failure.hash.is_none() => {
                failed(TransactionFailure::denied(why))
            }
            (Err(failure), _) => failed(*failure),
            (Ok(verdict), _) => verdict,
        }
    }
}

impl TransactionEffect {
    /// The account that it names, or the one that the policy gives its module; an inner error where that is not one. Fails
    /// while nobody can be asked.
    pub(crate) async fn sender(
        &self,
        identity: &Port<IdentityMsg>,
        module: &Arc<str>,
        deadline: Duration,
    ) -> Result<Result<Address, String>, String> {
        if let Some(account) = &self.account {
            return Ok(address("the account", account).map_err(|error| error.message));
        }
        let (asking, chain_id) = (module.clone(), Some(self.chain_id));
        let asked = |reply| IdentityMsg::Accounts { module: asking, chain_id, reply };
        let accounts = match identity.call(deadline, asked).await {
            Ok(Ok(accounts)) => accounts,
            Ok(Err(error)) => return Err(error.message),
            Err(error) => return Err(error.to_string()),
        };
        Ok(match accounts.as_slice() {
            [account] => Ok(*account),
            [] => Err(format!("no policy gives module {module} an account on chain {}", self.chain_id)),
            several => {
                let named = several.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                Err(format!("policies give module {module} several accounts: name one of {named}"))
            }
        })
    }

    fn request(&self, account: Address) -> Result<TransactionRequest, HostError> {
        if self.data.len() > DATA_BYTES_MAX {
            return Err(invalid(format!("data of {} bytes, at most {DATA_BYTES_MAX}", self.data.len())));
        }
        let entries = self.access_list.iter().map(|item| 1 + item.storage_keys.len()).sum::<usize>();
        if entries > ACCESS_LIST_MAX {
            return Err(invalid(format!("an access list of {entries} addresses and keys, at most {ACCESS_LIST_MAX}")));
        }
        let access_list = self.access_list.iter().map(|item| {
            let key = |key: &Vec<u8>| {
                let wrong = || invalid(format!("a storage key of {} bytes: expected 32", key.len()));
                key.as_slice().try_into().map(Hash).map_err(|_| wrong())
            };
            let keys = item.storage_keys.iter().map(key).collect::<Result<Vec<Hash>, HostError>>()?;
            Ok::<_, HostError>((address("an address of the access list", &item.address)?, keys))
        });
        let value = Wei::of_bytes(&self.value);
        Ok(TransactionRequest {
            chain_id: self.chain_id,
            account,
            to: self.to.as_deref().map(|to| address("the receiver", to)).transpose()?,
            value: value.ok_or_else(|| invalid(format!("a value of {} bytes, at most 32", self.value.len())))?,
            data: self.data.clone(),
            access_list: access_list.collect::<Result<_, HostError>>()?,
        })
    }

    pub(crate) fn intent(&self, id: &str, module: &Arc<str>, account: Address) -> Result<Intent, HostError> {
        Ok(Intent {
            id: id.to_owned(),
            module: module.clone(),
            request: self.request(account)?,
            gas_limit: self.gas_limit,
            fees: fee_policy(self.fees.as_ref())?,
            confirmations: self.confirmations.unwrap_or(1),
            deadline_ms: self.deadline,
            skip_simulation: self.skip_simulation,
        })
    }
}

/// The intent of an effect. One that had failed for good and is taken up again is another transaction.
fn intent_id(effect: &str, round: u32) -> String {
    match round {
        0 => effect.to_owned(),
        round => format!("{effect}~{round}"),
    }
}

impl TransactionFailure {
    fn denied(message: String) -> Self {
        Self { kind: FailureKind::Denied, message, data: None, hash: None }
    }
}

fn address(what: &str, bytes: &[u8]) -> Result<Address, HostError> {
    Address::try_from(bytes).map_err(|_| invalid(format!("{what} has {} bytes: expected 20", bytes.len())))
}

fn fee_policy(fees: Option<&FeePolicy>) -> Result<transactions::FeePolicy, HostError> {
    let Some(fees) = fees else { return Ok(transactions::FeePolicy::default()) };
    let wei = |what: &str, bytes: &Option<Vec<u8>>| {
        let Some(bytes) = bytes else { return Ok(None) };
        let mut wide = [0; 16];
        let place = wide.len().checked_sub(bytes.len()).and_then(|from| wide.get_mut(from..));
        let Some(place) = place else {
            return Err(invalid(format!("{what} of {} bytes, at most 16", bytes.len())));
        };
        place.copy_from_slice(bytes);
        Ok(Some(u128::from_be_bytes(wide)))
    };
    if let Some(percent) = fees.market_percent.filter(|percent| !(1..=MARKET_PERCENT_MAX).contains(percent)) {
        return Err(invalid(format!("{percent} percent of the market: expected 1 to {MARKET_PERCENT_MAX}")));
    }
    Ok(transactions::FeePolicy {
        max_fee_per_gas: wei("a fee per gas", &fees.max_fee_per_gas)?,
        max_priority_fee_per_gas: wei("a priority fee per gas", &fees.max_priority_fee_per_gas)?,
        market_percent: fees.market_percent,
    })
}

/// What the answer of the transactions actor means; a failure as it is.
fn of_transactions(answer: Result<SubmitAnswer, HostError>) -> Result<Verdict, Box<TransactionFailure>> {
    let error = match answer {
        Ok(SubmitAnswer::Underway { what, after, .. }) => return Ok(Verdict::Underway { what, after }),
        Ok(SubmitAnswer::Failed(failure)) => return Err(failure),
        Ok(SubmitAnswer::Mined(mined)) => {
            return Ok(Verdict::Delivered(json!(*mined).to_string().into_bytes()));
        }
        Err(error) => error,
    };
    match error.kind {
        HostErrorKind::InvalidInput | HostErrorKind::Denied => Err(Box::new(TransactionFailure::denied(error.message))),
        _ => Ok(Verdict::Underway { what: error.message, after: SERVICE_WAIT }),
    }
}

/// A failure as JSON, which is never cut: what is long in it is.
fn failed(failure: TransactionFailure) -> Verdict {
    let is_short_hex = |data: &String| {
        let digits = data.strip_prefix("0x").unwrap_or("?");
        data.len() <= FAILURE_DATA_CHARS_MAX && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
    };
    let TransactionFailure { kind, message, data, hash } = failure;
    let failure = TransactionFailure { kind, message: short(message), data: data.filter(is_short_hex), hash };
    Verdict::Failed(json!(failure).to_string())
}

/// A big-endian number of any size, in decimal.
fn decimal(bytes: &[u8]) -> String {
    // Little-endian, nine digits each.
    let mut parts: Vec<u64> = Vec::new();
    for byte in bytes {
        let mut carry = u64::from(*byte);
        for part in &mut parts {
            carry += *part * 256;
            *part = carry % 1_000_000_000;
            carry /= 1_000_000_000;
        }
        if carry > 0 {
            parts.push(carry);
        }
    }
    let mut text = parts.pop().unwrap_or(0).to_string();
    parts.iter().rev().for_each(|part| text.push_str(&format!("{part:09}")));
    text
}

#[cfg(test)]
mod tests;
