//! Effects that wait for their block to be final: the chain is asked how far it is, and whether the block is on it.

use std::{collections::BTreeMap, time::Duration};

use nexum_host_ifaces::{
    Hash, HostError,
    chain::ChainMsg,
    outbox::{Ended, Live, Release},
    port::Port,
    types::OutcomeStatus,
};
use ractor::ActorRef;
use serde::Deserialize;

use super::{FINALITY_POLL, Found, Msg, State};

const DEADLINE: Duration = Duration::from_secs(10);
/// Effects decided at once; the rest follow with the next look.
const EFFECTS_MAX: usize = 256;

#[derive(Deserialize)]
struct Header {
    number: String,
    hash: Hash,
}

async fn header(port: &Port<ChainMsg>, block: &str) -> Result<Option<(u64, Hash)>, String> {
    let (method, params) = ("eth_getBlockByNumber".to_owned(), format!("[\"{block}\", false]"));
    let asked = |reply| ChainMsg::Request { method, params, deadline: DEADLINE, reply };
    let answer = port.call(DEADLINE, asked).await.map_err(|error| error.to_string())?;
    let text = answer.map_err(|error: HostError| error.message)?;
    let header: Option<Header> = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let Some(Header { number, hash }) = header else { return Ok(None) };
    let number = u64::from_str_radix(number.trim_start_matches("0x"), 16).map_err(|error| error.to_string())?;
    Ok(Some((number, hash)))
}

/// Those of the effects whose block is far enough back, each with whether that block is on the chain.
async fn decide(port: &Port<ChainMsg>, effects: Vec<Live>) -> Result<Vec<(Live, bool)>, String> {
    let mut decided = Vec::new();
    let mut hashes: BTreeMap<u64, Hash> = BTreeMap::new();
    for (release, tag) in [(Release::Safe, "safe"), (Release::Finalized, "finalized")] {
        let waiting: Vec<&Live> = effects.iter().filter(|live| live.release == release).collect();
        if waiting.is_empty() {
            continue;
        }
        let Some((through, _)) = header(port, tag).await? else { continue };
        for live in waiting {
            let Some(block) = live.block.filter(|block| block.number <= through) else { continue };
            let hash = match hashes.get(&block.number) {
                Some(hash) => *hash,
                None => {
                    let Some((_, hash)) = header(port, &format!("0x{:x}", block.number)).await? else { continue };
                    hashes.insert(block.number, hash);
                    hash
                }
            };
            decided.push((live.clone(), hash == block.hash));
        }
    }
    Ok(decided)
}

impl State {
    /// Asks every chain that an effect waits for, unless that was done lately.
    pub(super) fn ask_chains(&mut self, myself: &ActorRef<Msg>) {
        let mut by_chain: BTreeMap<u64, Vec<Live>> = BTreeMap::new();
        for live in self.schedule.held() {
            if let Some(block) = live.block.filter(|block| !self.asked.contains(&block.chain_id)) {
                let waiting = by_chain.entry(block.chain_id).or_default();
                if waiting.len() < EFFECTS_MAX {
                    waiting.push(live.clone());
                }
            }
        }
        for (chain_id, effects) in by_chain {
            let Some(port) = self.args.chains.get(&chain_id).cloned() else { continue };
            self.asked.insert(chain_id);
            self.task(myself, async move {
                let decided = decide(&port, effects).await;
                let effects = match decided {
                    Ok(effects) => effects,
                    Err(error) => {
                        tracing::debug!(chain_id, "finality is asked for again: {error}");
                        Vec::new()
                    }
                };
                if effects.is_empty() {
                    tokio::time::sleep(FINALITY_POLL).await;
                }
                Found::Final { chain_id, effects }
            });
        }
    }

    pub(super) fn finalized(&mut self, myself: &ActorRef<Msg>, chain_id: u64, effects: Vec<(Live, bool)>) {
        self.asked.remove(&chain_id);
        for (live, canonical) in effects {
            if canonical {
                self.schedule.finalized(live.module, &live.id);
            } else if let Some(Ok(live)) = self.schedule.seize(&live.name, &live.id) {
                let courier = self.courier.clone();
                self.task(myself, async move {
                    let reason = "its block was retracted before it was final".to_owned();
                    let status = OutcomeStatus::Cancelled(reason);
                    let done = courier.end(&live, live.progress.clone(), Ended::Retracted, status).await;
                    Found::Done { live: Box::new(live), done }
                });
            }
        }
    }
}
