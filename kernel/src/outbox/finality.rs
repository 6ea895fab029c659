//! Effects that wait for their block to be final: the chain is asked how far it is, and whether the block is on it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use nexum_host_ifaces::{
    Hash,
    interfaces::chain::port::{ChainMsg, Final, Tag},
    outbox::{BlockPoint, Ended, PendingEffect, Release},
    port::Port,
    types::OutcomeStatus,
};
use ractor::ActorRef;

use super::{FINALITY_POLL, Msg, State, TaskResult};

const DEADLINE: Duration = Duration::from_secs(10);
/// Effects decided at once, of those whose turn it is; the rest follow with the next look.
const EFFECTS_MAX: usize = 256;
/// Headers asked for at once; public endpoints refuse longer batches.
const HEADERS_MAX: usize = 50;

async fn finality(port: &Port<ChainMsg>, tag: Tag, numbers: Vec<u64>) -> Result<Final, String> {
    let asked = |reply| ChainMsg::Finality { tag, numbers, reply };
    let answer = port.call(DEADLINE, asked).await.map_err(|error| error.to_string())?;
    answer.map_err(|error| error.message)
}

/// How far a chain is final; none where nobody waits for it or the endpoint does not know.
#[derive(Debug, Clone, Copy, Default)]
pub struct Heads {
    pub safe: Option<u64>,
    pub finalized: Option<u64>,
}

impl Heads {
    /// Whether the block of an effect is as far back as it asked for.
    pub(super) fn reach(&self, live: &PendingEffect) -> bool {
        let through = match live.release {
            Release::Committed => Some(u64::MAX),
            Release::Safe => self.safe,
            Release::Finalized => self.finalized,
        };
        live.block.zip(through).is_some_and(|(block, through)| block.number <= through)
    }
}

/// What one tag has no answer to says nothing about the other.
async fn heads(port: &Port<ChainMsg>, chain_id: u64, safe: bool, finalized: bool) -> Heads {
    let head = async |wanted: bool, tag| match wanted {
        true => known(chain_id, finality(port, tag, vec![]).await).through,
        false => None,
    };
    Heads { safe: head(safe, Tag::Safe).await, finalized: head(finalized, Tag::Finalized).await }
}

/// Those of the effects whose block is far enough back indeed, each with whether that block is on the chain.
///
/// How far a chain is final and which blocks it has are asked at once: what one node calls final says nothing about the
/// blocks of another that is behind it, on a branch that is gone.
async fn decide(port: &Port<ChainMsg>, chain_id: u64, effects: Vec<PendingEffect>) -> Vec<(PendingEffect, bool)> {
    let mut decided = Vec::new();
    for (release, tag) in [(Release::Safe, Tag::Safe), (Release::Finalized, Tag::Finalized)] {
        let waiting: Vec<(&PendingEffect, BlockPoint)> = effects
            .iter()
            .filter(|live| live.release == release)
            .filter_map(|live| live.block.map(|block| (live, block)))
            .collect();
        if waiting.is_empty() {
            continue;
        }
        let numbers: BTreeSet<u64> = waiting.iter().map(|(_, block)| block.number).collect();
        let numbers: Vec<u64> = numbers.into_iter().take(HEADERS_MAX).collect();
        let found = known(chain_id, finality(port, tag, numbers.clone()).await);
        let Some(through) = found.through else { continue };
        let hashes = numbers.into_iter().zip(found.hashes).filter(|(number, _)| *number <= through);
        let found: BTreeMap<u64, Hash> = hashes.filter_map(|(number, hash)| Some((number, hash?))).collect();
        for (live, block) in waiting {
            if let Some(hash) = found.get(&block.number) {
                decided.push((live.clone(), *hash == block.hash));
            }
        }
    }
    decided
}

/// What a chain answered; nothing when it failed, and then it is asked again.
fn known<T: Default>(chain_id: u64, answer: Result<T, String>) -> T {
    answer.unwrap_or_else(|error| {
        tracing::debug!(chain_id, "finality is asked for again: {error}");
        T::default()
    })
}

impl State {
    /// Asks every chain that an effect waits for how far it is, unless that was done lately.
    pub(super) fn ask_chains(&mut self, myself: &ActorRef<Msg>) {
        let mut wanted: BTreeMap<u64, (bool, bool)> = BTreeMap::new();
        for live in self.schedule.held() {
            if let Some(block) = live.block.filter(|block| !self.asked.contains(&block.chain_id)) {
                let (safe, finalized) = wanted.entry(block.chain_id).or_default();
                *safe |= live.release == Release::Safe;
                *finalized |= live.release == Release::Finalized;
            }
        }
        for (chain_id, (safe, finalized)) in wanted {
            let Some(port) = self.args.ports.chain(chain_id).cloned() else { continue };
            self.asked.insert(chain_id);
            self.task(myself, async move {
                TaskResult::Heads { chain_id, heads: heads(&port, chain_id, safe, finalized).await }
            });
        }
    }

    /// Asks a chain for the blocks of the effects that it has left far enough behind.
    pub(super) fn decide(&mut self, myself: &ActorRef<Msg>, chain_id: u64, heads: Heads) {
        let effects = self.schedule.held_within(chain_id, &heads, EFFECTS_MAX);
        let port = self.args.ports.chain(chain_id).cloned();
        self.task(myself, async move {
            let effects = match port {
                Some(port) if !effects.is_empty() => decide(&port, chain_id, effects).await,
                _ => Vec::new(),
            };
            if effects.is_empty() {
                tokio::time::sleep(FINALITY_POLL).await;
            }
            TaskResult::Final { chain_id, effects }
        });
    }

    pub(super) fn finalized(&mut self, myself: &ActorRef<Msg>, chain_id: u64, effects: Vec<(PendingEffect, bool)>) {
        self.asked.remove(&chain_id);
        for (live, canonical) in effects {
            if canonical {
                self.schedule.finalized(live.module, &live.id);
            } else if let Some(Ok(live)) = self.schedule.seize(&live.name, &live.id) {
                let attempts = self.attempts.clone();
                self.task(myself, async move {
                    let reason = "its block was retracted before it was final".to_owned();
                    let status = OutcomeStatus::Cancelled(reason);
                    let done = attempts.end(&live, live.progress.clone(), Ended::Retracted, status).await;
                    TaskResult::Attempted { live: Box::new(live), done }
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ractor::{Actor, ActorProcessingErr};

    use super::*;
    use nexum_host_ifaces::{outbox::Progress, store::ModuleId};

    /// A chain that is final through so many blocks each time it is asked, with one of two branches.
    struct Chain;

    impl Actor for Chain {
        type Msg = ChainMsg;
        type State = Vec<(u64, u8)>;
        type Arguments = Vec<(u64, u8)>;

        async fn pre_start(
            &self,
            _: ActorRef<ChainMsg>,
            answers: Vec<(u64, u8)>,
        ) -> Result<Vec<(u64, u8)>, ActorProcessingErr> {
            Ok(answers)
        }

        async fn handle(
            &self,
            _: ActorRef<ChainMsg>,
            message: ChainMsg,
            answers: &mut Vec<(u64, u8)>,
        ) -> Result<(), ActorProcessingErr> {
            let (through, branch) = answers.remove(0);
            if let ChainMsg::Finality { numbers, reply, .. } = message {
                let hashes = numbers.iter().map(|_| Some(Hash([branch; 32]))).collect();
                drop(reply.send(Ok(Final { through: Some(through), hashes })));
            }
            Ok(())
        }
    }

    fn effect(hash: u8) -> PendingEffect {
        PendingEffect {
            module: ModuleId(1),
            name: "m".into(),
            at: None,
            id: format!("m/{hash}"),
            key: "k".into(),
            lane: None,
            release: Release::Finalized,
            block: Some(BlockPoint { chain_id: 1, number: 10, hash: Hash([hash; 32]) }),
            destination: String::new(),
            bytes: 0,
            sent_at_ms: 0,
            progress: Progress::default(),
        }
    }

    async fn decided(answers: [(u64, u8); 2]) -> Vec<(String, bool)> {
        let (actor, _) = Actor::spawn(None, Chain, answers.to_vec()).await.unwrap();
        let port = Port::new("chain");
        port.bind(actor.clone());
        let heads = heads(&port, 1, false, true).await;
        let within = [effect(2), effect(1)].into_iter().filter(|live| heads.reach(live)).collect();
        let decided = decide(&port, 1, within).await;
        actor.kill();
        decided.into_iter().map(|(live, canonical)| (live.id, canonical)).collect()
    }

    #[tokio::test]
    async fn what_was_called_final_before_says_nothing_about_blocks_that_are_told_later() {
        let (far, behind) = ((20, 2), (8, 1));
        assert_eq!(decided([far, far]).await, [("m/2".to_owned(), true), ("m/1".to_owned(), false)]);
        assert!(decided([far, behind]).await.is_empty());
        assert!(decided([behind, far]).await.is_empty());
    }
}
