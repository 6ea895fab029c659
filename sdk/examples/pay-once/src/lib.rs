//! Reserve, then act: pays an amount to the address that each log carries, once, although a payment is a direct call that
//! cannot be undone and an event may be tried again.
//!
//! The payment's nonce is written down and flushed before it is sent. Whatever ends the attempt after that, the next one
//! finds the nonce, and the chain says whether it was used. The account must be this module's alone, and the node must
//! hold its key.

use nexum_sdk::{self as nexum, Config, Error, Log, Result, chain, hex, state, state::Item, state::Map};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// What became of the payment of each log, by block hash and log index: after a reorg the same log is another one.
const PAYMENTS: Map<String, Payment> = Map::new("payment");

/// The newest reservation: nonce and payment. When its event was given up before anything was sent, the nonce is free,
/// and the next payment takes it over.
const NEWEST: Item<(u64, String)> = Item::new("newest");

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Payment {
    /// To be sent with this nonce; whether it was is for the chain to say.
    Reserved {
        nonce: u64,
    },
    Sent,
}

struct PayOnce {
    account: String,
    amount_wei: String,
}

#[nexum::module]
impl PayOnce {
    #[init]
    fn init(config: Config) -> Result<Self> {
        Ok(Self { account: config.string("account")?.to_owned(), amount_wei: config.string("amount_wei")?.to_owned() })
    }

    #[on_logs]
    fn pay_all(&mut self, logs: Vec<Log>) -> Result<()> {
        logs.iter().try_for_each(|log| self.pay(log))
    }

    fn pay(&self, log: &Log) -> Result<()> {
        let key = format!("{}-{}", hex::encode(&log.block_hash), log.log_index);
        let next = self.next_nonce(log.chain_id)?;
        let nonce = match PAYMENTS.get(&key)? {
            Some(Payment::Sent) => return Ok(()),
            Some(Payment::Reserved { nonce }) if nonce < next => {
                nexum::warn!("the attempt before sent payment {key} with nonce {nonce}");
                return PAYMENTS.set(&key, &Payment::Sent);
            }
            Some(Payment::Reserved { nonce }) => nonce,
            None => {
                if let Some((_, given_up)) = NEWEST.get()?.filter(|(nonce, _)| *nonce == next) {
                    PAYMENTS.delete(&given_up)?;
                }
                NEWEST.set(&(next, key.clone()))?;
                PAYMENTS.set(&key, &Payment::Reserved { nonce: next })?;
                // From here on the reservation survives whatever happens to this attempt.
                state::flush()?;
                next
            }
        };
        let payment = json!([{
            "from": self.account,
            "to": recipient(log)?,
            "value": self.amount_wei,
            "nonce": format!("0x{nonce:x}"),
        }]);
        let hash: String = chain::call(log.chain_id, "eth_sendTransaction", payment)?;
        nexum::info!("payment {key} is {hash}");
        PAYMENTS.set(&key, &Payment::Sent)
    }

    /// Counts what was sent and is not mined yet, too.
    fn next_nonce(&self, chain_id: u64) -> Result<u64> {
        let text: String = chain::call(chain_id, "eth_getTransactionCount", (&self.account, "pending"))?;
        u64::from_str_radix(text.trim_start_matches("0x"), 16)
            .map_err(|error| Error::msg(format!("transaction count {text}: {error}")))
    }
}

/// The address in the log's data, one word.
fn recipient(log: &Log) -> Result<String> {
    match log.data.split_at_checked(12) {
        Some((zeros, address)) if address.len() == 20 && zeros.iter().all(|byte| *byte == 0) => {
            Ok(format!("0x{}", hex::encode(address)))
        }
        _ => Err(Error::invalid_input(format!("log {} carries no address", log.log_index))),
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, rc::Rc};

    use nexum_sdk::testing;

    use super::*;

    fn log(log_index: u32, data: Vec<u8>) -> Log {
        Log {
            chain_id: 31337,
            address: vec![9; 20],
            topics: Vec::new(),
            data,
            block_number: 1,
            block_hash: vec![1; 32],
            block_timestamp: 1_000,
            transaction_hash: vec![2; 32],
            transaction_index: 0,
            log_index,
        }
    }

    #[test]
    fn an_attempt_that_fails_after_a_payment_does_not_repeat_it() {
        testing::reset();
        let sent = Rc::new(RefCell::new(Vec::new()));
        let seen = sent.clone();
        testing::on_chain(move |_, method, params| match method {
            "eth_getTransactionCount" => Ok(format!("\"0x{:x}\"", seen.borrow().len())),
            "eth_sendTransaction" => {
                seen.borrow_mut().push(params.to_owned());
                // The node took it, and the answer was lost.
                Err(Error::msg("connection reset"))
            }
            other => Err(Error::msg(format!("unexpected {other}"))),
        });
        let config = [("account", "0xaa".into()), ("amount_wei", "0x1".into())].into_iter().collect();
        let mut module = PayOnce::init(config).unwrap();
        let logs = || vec![log(0, [vec![0; 12], vec![7; 20]].concat())];
        module.pay_all(logs()).unwrap_err();
        module.pay_all(logs()).unwrap();
        module.pay_all(logs()).unwrap();
        assert_eq!(sent.borrow().len(), 1, "{sent:?}");
        assert!(sent.borrow()[0].contains("\"nonce\":\"0x0\""), "{sent:?}");
        module.pay_all(vec![log(1, vec![1; 32])]).unwrap_err();
        assert_eq!(sent.borrow().len(), 1, "a log without an address is not paid");
    }
}
