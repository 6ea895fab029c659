//! Posts an alert to a webhook for every matching log.
//!
//! The alerts go through the outbox: one leaves only when its event is committed, is tried until the webhook takes it,
//! and carries a key by which the webhook can tell a repetition. Alerts of one contract arrive in order, because they
//! share a lane. What was given up is kept in state under `lost/`, and a reorg that retracts alerts already sent is
//! followed by a correction.

use nexum_sdk::{
    self as nexum, Config, Log, Outcome, OutcomeStatus, Reorg, Result, hex,
    outbox::{self, Release},
    state::{Item, Map},
};
use serde::Serialize;

/// Alerts that the webhook took.
const DELIVERED: Item<u64> = Item::new("delivered");
/// Why an alert was given up, by its key.
const LOST: Map<String, String> = Map::new("lost");

struct Alerts {
    url: String,
    release: Release,
}

#[derive(Serialize)]
struct Alert<'a> {
    contract: String,
    block: u64,
    transaction: String,
    topics: Vec<String>,
    data: &'a str,
}

#[nexum::module]
impl Alerts {
    #[init]
    fn start(config: Config) -> Result<Self> {
        let release = match config.string("release")? {
            "safe" => Release::Safe,
            "finalized" => Release::Finalized,
            _ => Release::Committed,
        };
        Ok(Self { url: config.string("url")?.to_owned(), release })
    }

    #[on_logs]
    fn alert(&mut self, logs: Vec<Log>) -> Result<()> {
        for log in logs {
            let contract = prefixed(&log.address);
            let data = prefixed(&log.data);
            let alert = Alert {
                contract: contract.clone(),
                block: log.block_number,
                transaction: prefixed(&log.transaction_hash),
                topics: log.topics.iter().map(|topic| prefixed(topic)).collect(),
                data: &data,
            };
            // The block's hash makes it another alert when the log comes again in another block.
            let key = format!("alert-{}-{}", prefixed(&log.block_hash), log.log_index);
            outbox::http("POST", self.url.as_str())
                .json(&alert)?
                .key(key)
                .lane(contract)
                .release(self.release)
                .send()?;
        }
        Ok(())
    }

    #[on_outcome]
    fn told(&mut self, outcome: Outcome) -> Result<()> {
        match outcome.status {
            OutcomeStatus::Delivered(_) => DELIVERED.update(|count| count.unwrap_or(0) + 1).map(drop),
            OutcomeStatus::Failed(reason) | OutcomeStatus::Cancelled(reason) => {
                nexum::warn!("alert {} was not delivered: {reason}", outcome.key);
                LOST.set(&outcome.key, &reason)
            }
        }
    }

    #[on_reorg]
    fn correct(&mut self, reorg: Reorg) -> Result<()> {
        for effect in reorg.released_effects {
            let retracted = format!("{{\"retracted\":\"{}\"}}", effect.key);
            outbox::http("POST", self.url.as_str())
                .header("content-type", "application/json")
                .body(retracted)
                .key(format!("retract-{}", effect.key))
                .send()?;
        }
        Ok(())
    }
}

fn prefixed(bytes: &[u8]) -> String {
    format!("0x{}", hex::encode(bytes))
}
