//! Reads of state at a block that is named by its hash, of endpoints that know EIP-1898 and of those that do not.
//!
//! Of the latter it is asked by number, and the hash at that number is looked at before and after: an answer between two
//! looks at the same block is that block's. Which endpoint does not know it shows: the same question by number was answered.

use std::{collections::BTreeMap, time::Duration};

use nexum_host_ifaces::{HostError, HostErrorKind, interfaces::chain::port::CODE_BLOCK_GONE};
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::{RpcBackend, endpoint, errors::CallError, form, shape::is_remembered, socket::Payload, wire};
use crate::{backend::Ask, pin::Pin};

/// JSON-RPC 2.0: parse error, invalid request, invalid parameters. So nodes refuse a form of parameters that they do not know.
const CODES_OF_FORM: [i64; 3] = [-32700, -32600, -32602];

/// Which methods an endpoint takes hashes of blocks for, and since when that is known.
#[derive(Debug, Clone, Default)]
pub struct ByHash(BTreeMap<&'static str, (bool, u64)>);

impl ByHash {
    fn takes(&self, method: &str, now_ns: u64) -> Option<bool> {
        self.0.get(method).filter(|(_, since_ns)| is_remembered(*since_ns, now_ns)).map(|(takes, _)| *takes)
    }

    /// Whether there is a method for which it takes none.
    pub fn refuses(&self, now_ns: u64) -> bool {
        self.0.values().any(|(takes, since_ns)| !takes && is_remembered(*since_ns, now_ns))
    }
}

/// Whether the node says that it does not have the block, in whatever words: the question names one, and nothing else.
pub fn lacks_block(error: &CallError) -> bool {
    let CallError::Node { code, message, .. } = error else { return false };
    // What a contract says of itself is no word of the node.
    if error.is_revert() {
        return false;
    }
    let message = message.to_lowercase();
    let words = ["for hash not found", "could not be found", "not currently canonical", "block not found"];
    error.is_unknown_block()
        || (*code == i64::from(CODE_BLOCK_GONE) && !message.contains("range"))
        || words.iter().any(|words| message.contains(words))
}

/// The error when nobody has the block.
pub fn gone(pin: &Pin<'_>, chain_id: u64) -> HostError {
    let message = format!(
        "block {} is not on chain {chain_id} any more: it was reorganized away, or no endpoint that answers has it",
        pin.hash
    );
    HostError::new("chain", HostErrorKind::Unavailable, message).with_code(CODE_BLOCK_GONE)
}

fn lacking() -> CallError {
    let (code, message) = (i64::from(CODE_BLOCK_GONE), "block not found".to_owned());
    CallError::Node { code, message, data: None, unsized_limit: false }
}

impl RpcBackend {
    /// One exchange with one endpoint for a module, which is counted.
    pub(super) async fn exchange(
        &self,
        ask: &Ask<'_>,
        index: usize,
        requests: &[(&str, &RawValue)],
        timeout: Duration,
    ) -> Result<Vec<Payload>, CallError> {
        let purpose = endpoint::Purpose::Module { reply_bytes_max: ask.reply_bytes_max };
        let result = self.shared.send(purpose, index, requests, timeout, false).await;
        let name = &self.shared.endpoints[index].name;
        match &result {
            Ok(answers) => {
                for ((method, _), answer) in requests.iter().zip(answers) {
                    let bytes = answer.as_ref().ok().map(|json| json.get().len());
                    self.usage.sent(ask.module, method, name, bytes);
                }
            }
            // It was not sent.
            Err(CallError::Paced { .. }) => {}
            Err(_) => requests.iter().for_each(|(method, _)| self.usage.sent(ask.module, method, name, None)),
        }
        result
    }

    /// The same for one request that may name its block by the hash.
    pub(super) async fn exchange_pinned(
        &self,
        ask: &Ask<'_>,
        index: usize,
        (request, pin): ((&str, &RawValue), &Pin<'_>),
        timeout: Duration,
    ) -> Result<Vec<Payload>, CallError> {
        let (until, now_ns) = (Instant::now() + timeout, self.shared.clock.monotonic_ns());
        let takes = self.shared.endpoints[index].shape().by_hash.takes(pin.method, now_ns);
        let mut refused = None;
        if takes != Some(false) {
            let result = self.exchange(ask, index, &[request], timeout).await;
            match result {
                Err(error) if takes.is_none() && is_of_form(&error) => refused = Some(error),
                result => {
                    if result.is_ok() {
                        self.shows(index, pin, true);
                    }
                    return result;
                }
            }
        }
        let by_number = self.by_number(ask, index, pin, until).await;
        match (by_number, refused) {
            (Ok(answers), refused) => {
                if refused.is_some() {
                    self.shows(index, pin, false);
                }
                Ok(answers)
            }
            // Nothing else was wrong with the question than how it names the block, or it would have been said.
            (Err(error), _) if lacks_block(&error) => Err(error),
            (Err(_), Some(refused)) => Err(refused),
            (Err(error), None) => Err(error),
        }
    }

    fn shows(&self, index: usize, pin: &Pin<'_>, takes: bool) {
        let now_ns = self.shared.clock.monotonic_ns();
        self.shared.endpoints[index].shape().by_hash.0.insert(pin.method, (takes, now_ns));
    }

    async fn by_number(
        &self,
        ask: &Ask<'_>,
        index: usize,
        pin: &Pin<'_>,
        until: Instant,
    ) -> Result<Vec<Payload>, CallError> {
        let left = || until.saturating_duration_since(Instant::now());
        let hash = pin.hash.to_string();
        let params = endpoint::raw(&(&hash, false))?;
        let block = self.header_of(ask, index, ("eth_getBlockByHash", &params), left()).await?;
        let (number, _) = block.ok_or_else(lacking)?;
        let params = endpoint::raw(&(format!("{number:#x}"), false))?;
        let at_number = ("eth_getBlockByNumber", &*params);
        let is_there = |block: Option<(u64, String)>| block.is_some_and(|(_, told)| told.eq_ignore_ascii_case(&hash));
        if !is_there(self.header_of(ask, index, at_number, left()).await?) {
            return Err(lacking());
        }
        let params =
            RawValue::from_string(pin.by_number(number)).map_err(|error| CallError::nonsense(error.to_string()))?;
        let answers = self.exchange(ask, index, &[(pin.method, &params)], left()).await?;
        match is_there(self.header_of(ask, index, at_number, left()).await?) {
            true => Ok(answers),
            false => Err(lacking()),
        }
    }

    /// Number and hash of a block; none when there is no such block.
    async fn header_of(
        &self,
        ask: &Ask<'_>,
        index: usize,
        request: (&str, &RawValue),
        timeout: Duration,
    ) -> Result<Option<(u64, String)>, CallError> {
        // A block without its transactions is longer than what some modules may be told, and none of them is.
        let ask = Ask { reply_bytes_max: HEADER_BYTES_MAX, ..*ask };
        let answer = self.exchange(&ask, index, &[request], timeout).await?.pop();
        let json = answer.unwrap_or_else(|| Err(CallError::nonsense("it is empty")))?;
        if json.get().trim() == "null" {
            return Ok(None);
        }
        let [number, hash] = form::fields(json.get(), &["number", "hash"]).map_err(CallError::nonsense)?;
        let (Some(number), Some(hash)) = (number, hash) else { return Ok(None) };
        let number = wire::quantity(number).map_err(CallError::nonsense)?;
        let hash = serde_json::from_str(hash).map_err(|error| CallError::nonsense(error.to_string()))?;
        Ok(Some((number, hash)))
    }
}

/// Room for the hashes of a block's transactions.
const HEADER_BYTES_MAX: usize = 4 << 20;

/// Whether the node may have refused how the question is written.
pub fn is_of_form(error: &CallError) -> bool {
    matches!(error, CallError::Node { code, .. } if CODES_OF_FORM.contains(code)) && !lacks_block(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_says_that_it_lacks_a_block_and_no_contract_does() {
        let says = |code: i64, message: &str| {
            let message = message.to_owned();
            lacks_block(&CallError::Node { code, message, data: None, unsized_limit: false })
        };
        for message in ["header for hash not found", "hash 0x12 is not currently canonical", "block not found"] {
            assert!(says(-32000, message), "{message}");
            assert!(!says(3, &format!("execution reverted: {message}")), "{message}");
            assert!(!says(-32000, &format!("execution reverted: {message}")), "{message}");
        }
        assert!(!says(-32000, "insufficient funds"));
    }
}
