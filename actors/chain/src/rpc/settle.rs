//! Settling what one block's logs are when an answer is doubtful: by proof, and where there is none by agreement.
//!
//! The receipts of a block lead to the root in its header, whose hash is that of its fields. So whoever brings them has the
//! truth, however it is ranked. Where a chain cannot be proven, what two endpoints say counts, or what one says twice.
//! Invariant: what nobody can settle fails with a reason that names the block and the endpoints. It is never skipped.

use std::time::Duration;

use nexum_host_ifaces::types::Log;
use serde_json::json;

use super::{
    RpcBackend,
    endpoint::{Purpose, raw},
    errors::CallError,
    logs::{Claim, has_gaps},
    trust::Provable,
};
use crate::{
    config::Verify,
    filter::{Union, allows, is_doubtful},
    header::Header,
    proof,
    tracker::Failure,
};

/// How long a second opinion is worth waiting for at an endpoint that seems to be down.
pub(super) const WITNESS: Duration = Duration::from_secs(1);
/// One that is alone is asked once more after this long: it may not have indexed the block's logs yet.
pub(super) const INDEXING: Duration = Duration::from_millis(100);
const LEFT_OUT: &str = "a block's logs were left out";
const NOT_OF_RECEIPTS: &str = "logs that are in none of the block's receipts";

/// The logs of a block, and who says that they are the truth.
pub(super) struct Settled {
    pub logs: Vec<Log>,
    pub by: By,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// Its receipts.
    Proof,
    /// What several endpoints said, held against each other and the header.
    Several,
    /// Nobody else: the one that could be asked said it again.
    Itself,
}

/// What receipts say of a block.
enum Proof {
    /// All logs of the block.
    Logs(Vec<Log>),
    /// Endpoints tell receipts that do not lead to the header, the same ones.
    Impossible,
    /// Nobody has them.
    None(String),
}

impl RpcBackend {
    /// The logs of one block that the union covers, whatever it takes. `claims` is what endpoints have said so far.
    pub(super) async fn settle(
        &self,
        header: &Header,
        union: &Union,
        mut claims: Vec<Claim>,
    ) -> Result<Settled, Failure> {
        let (verify, provable, outside) = {
            let trust = self.shared.trust();
            (trust.verify, trust.receipts(), trust.has_outside_logs())
        };
        let may_prove = match verify {
            Verify::Off => false,
            Verify::Doubt => header.receipts_root.is_some() && provable != Provable::No,
            Verify::Always => true,
        };
        if !may_prove {
            return self.agree(header, union, &mut claims).await;
        }
        let why = match self.prove(header).await {
            Proof::Logs(all) => {
                self.shared.trust().proven();
                let mut truth: Vec<Log> = all.into_iter().filter(|log| union.covers(log)).collect();
                truth.iter_mut().for_each(|log| log.block_timestamp = header.timestamp_s.saturating_mul(1_000));
                return self.weigh(header, union, truth, claims, verify, outside).await;
            }
            Proof::Impossible => "its receipts do not lead to its header".to_owned(),
            Proof::None(why) => why,
        };
        match verify {
            Verify::Always => Err(Failure::Failed(format!("block {} cannot be proven: {why}", header.number))),
            _ => self.agree(header, union, &mut claims).await,
        }
    }

    /// Compares what was said with what is proven.
    async fn weigh(
        &self,
        header: &Header,
        union: &Union,
        truth: Vec<Log>,
        claims: Vec<Claim>,
        verify: Verify,
        outside: bool,
    ) -> Result<Settled, Failure> {
        let proven = |logs: Vec<Log>| Ok(Settled { logs, by: By::Proof });
        let mut more = Vec::new();
        for claim in claims {
            let has_all = truth.iter().all(|log| claim.logs.iter().any(|told| is_same(told, log)));
            match (has_all, claim.logs.len() > truth.len()) {
                (true, false) => {}
                (true, true) => more.push(claim),
                (false, _) => self.shared.lied(claim.index, LEFT_OUT),
            }
        }
        if more.is_empty() && !outside {
            return proven(truth);
        }
        // Some chains have logs that are in no receipt. That is only known from what endpoints agree on.
        if verify == Verify::Always && !outside {
            more.iter().for_each(|claim| self.shared.lied(claim.index, NOT_OF_RECEIPTS));
            return proven(truth);
        }
        let suspects: Vec<usize> = more.iter().map(|claim| claim.index).collect();
        match self.agree(header, union, &mut more).await {
            Ok(agreed) if truth.iter().all(|log| agreed.logs.iter().any(|told| is_same(told, log))) => {
                if agreed.logs.len() > truth.len() {
                    let news = self.shared.trust().outside_logs();
                    self.say_if(news, header, "some logs of this chain are in none of the block's receipts");
                    self.blooms_leave_out(header, &agreed.logs);
                }
                Ok(agreed)
            }
            // Nobody could say whether there are such logs.
            Err(failure) if outside || more.len() < 2 => Err(failure),
            _ => {
                suspects.into_iter().for_each(|index| self.shared.lied(index, NOT_OF_RECEIPTS));
                proven(truth)
            }
        }
    }

    fn say_if(&self, news: bool, header: &Header, what: &str) {
        if news {
            tracing::warn!(chain_id = self.shared.config.chain_id, block = header.number, "{what}");
        }
    }

    /// Learns that this chain's blooms cannot be relied on, when these logs, which are the truth, show it.
    fn blooms_leave_out(&self, header: &Header, logs: &[Log]) {
        let left_out = header.promises().is_some_and(|bloom| logs.iter().any(|log| !allows(bloom, log)));
        if left_out {
            let news = self.shared.trust().bloom_leaves_out();
            self.say_if(
                news,
                header,
                "the blooms of this chain leave out logs: every block's logs are read from now on",
            );
        }
    }

    /// All logs of a block from receipts that lead to its header.
    async fn prove(&self, header: &Header) -> Proof {
        let Some(root) = header.receipts_root else {
            return Proof::None("the hash of its header is not that of its fields".to_owned());
        };
        let mut why = "no endpoint may be used".to_owned();
        let mut wrong: Vec<(usize, nexum_host_ifaces::Hash)> = Vec::new();
        let mut was_heard = true;
        let order = self.shared.order();
        let alone = order.len() == 1;
        // One that is alone is asked again before the chain is taken for one that cannot be proven.
        let twice = order.iter().copied().filter(|_| alone);
        for index in order.iter().copied().chain(twice) {
            if self.shared.endpoints[index].shape().receipts == Some(false) {
                why = format!("{} does not serve receipts", self.shared.name(index));
                continue;
            }
            match self.receipts_from(index, header).await {
                Ok(receipts) if proof::proves(root, &receipts) => {
                    let proof::Receipts { mut logs, count, gas_used, .. } = receipts;
                    tracing::debug!(block = header.number, receipts = count, gas_used, logs = logs.len(), "proven");
                    for log in &mut logs {
                        (log.block_number, log.block_hash) = (header.number, header.hash.0.to_vec());
                    }
                    for (index, _) in wrong {
                        self.shared.lied(index, "receipts that do not lead to the block's header");
                    }
                    return Proof::Logs(logs);
                }
                Ok(receipts) => {
                    why = format!("the receipts of {} do not lead to its header", self.shared.name(index));
                    let same = wrong.iter().any(|(_, other)| *other == receipts.root);
                    wrong.push((index, receipts.root));
                    if same {
                        if self.shared.trust().unproven() {
                            self.say_if(
                                true,
                                header,
                                "the receipts of this chain do not lead to its headers: it cannot be proven",
                            );
                        }
                        return Proof::Impossible;
                    }
                }
                Err(error) => {
                    was_heard &= matches!(error, CallError::Node { .. }) && !error.is_rate_limit();
                    why = format!("{}: {}", self.shared.name(index), self.shared.said(&error));
                }
            }
        }
        if was_heard {
            self.shared.trust().proof_missed();
        }
        Proof::None(why)
    }

    async fn receipts_from(&self, index: usize, header: &Header) -> Result<proof::Receipts, CallError> {
        let mut failure = CallError::nonsense("it is empty");
        // Not every node takes a hash here.
        for block in [header.hash.to_string(), format!("{:#x}", header.number)] {
            let params = raw(&[&block])?;
            let request = [("eth_getBlockReceipts", &*params)];
            let patience = match self.shared.is_up(index) {
                true => self.shared.config.timeout,
                false => self.shared.config.timeout.min(WITNESS),
            };
            let question = self.shared.endpoints[index].large.begin();
            let answer = self.shared.send(Purpose::Proof, index, &request, patience, true).await;
            drop(question);
            match answer
                .and_then(|mut answers| answers.pop().unwrap_or_else(|| Err(CallError::nonsense("it is empty"))))
            {
                Ok(json) => match proof::receipts(self.shared.config.chain_id, json.get()) {
                    Ok(receipts) => {
                        self.shared.endpoints[index].shape().receipts = Some(true);
                        let names_other = receipts.logs.iter().any(|log| log.block_hash != header.hash.0);
                        let fits = header.receipts_root.is_some_and(|root| proof::proves(root, &receipts));
                        // By number they may be those of another branch.
                        let by_number = !block.starts_with(&header.hash.to_string());
                        match fits || !(names_other || by_number) {
                            true => return Ok(receipts),
                            false => failure = CallError::nonsense("receipts of another block"),
                        }
                    }
                    // Such as `null` for a block that is not there.
                    Err(what) => failure = CallError::nonsense(what),
                },
                Err(error @ CallError::Node { code: -32_601, .. }) => {
                    self.shared.endpoints[index].shape().receipts = Some(false);
                    return Err(error);
                }
                Err(error @ CallError::Node { .. }) if !error.is_rate_limit() => failure = error,
                Err(error) => return Err(error),
            }
        }
        Err(failure)
    }

    /// What endpoints agree on: two of them, or one that is alone twice. An answer that has what the bloom promises counts
    /// more than one that lacks it.
    async fn agree(&self, header: &Header, union: &Union, claims: &mut Vec<Claim>) -> Result<Settled, Failure> {
        let several = |logs: Vec<Log>| Ok(Settled { logs, by: By::Several });
        let itself = |logs: Vec<Log>| Ok(Settled { logs, by: By::Itself });
        let mut failure = None;
        for index in self.shared.order() {
            if let Some(winner) = self.winner(header, union, claims) {
                return several(winner);
            }
            if claims.iter().any(|claim| claim.index == index) {
                continue;
            }
            let mut patience = self.shared.config.timeout;
            if !claims.is_empty() && !self.shared.is_up(index) {
                // Whoever seemed to be down may be back, and is not worth a long wait at each block.
                patience = patience.min(WITNESS);
            }
            let purpose = if claims.is_empty() { Purpose::Logs } else { Purpose::SecondOpinion };
            if purpose == Purpose::SecondOpinion {
                self.shared.confirms();
            }
            match self.claim_of_block(index, header, union, patience, purpose).await {
                Ok(claim) => claims.push(claim),
                Err(error) => failure = Some(error),
            }
        }
        if let Some(winner) = self.winner(header, union, claims) {
            return several(winner);
        }
        let named = |claim: &Claim| format!("{} tells {}", self.shared.name(claim.index), claim.logs.len());
        match &**claims {
            [] => Err(failure.unwrap_or_else(|| Failure::Failed("no endpoint may be used".into()))),
            // Nobody else could say anything.
            [only] => {
                tokio::time::sleep(INDEXING).await;
                let patience = self.shared.config.timeout;
                let again = self.claim_of_block(only.index, header, union, patience, Purpose::SecondOpinion).await?;
                if again.logs == only.logs {
                    self.blooms_leave_out(header, &again.logs);
                    return itself(again.logs);
                }
                let index = only.index;
                if let Some(winner) = self.winner(header, union, &[only.clone(), again.clone()]) {
                    return itself(winner);
                }
                let last = self.claim_of_block(index, header, union, patience, Purpose::SecondOpinion).await?;
                match last.logs == again.logs {
                    true => itself(last.logs),
                    false => {
                        let name = self.shared.name(index);
                        Err(Failure::Failed(format!("{name} tells other logs of block {} each time", header.number)))
                    }
                }
            }
            all => {
                // Nothing proves or promises anything. Leaving logs out is what nodes do that have forgotten them.
                let mut full = all.iter().filter(|claim| !claim.logs.is_empty());
                if header.promises().is_none()
                    && let Some(first) = full.next()
                    && full.all(|claim| claim.logs == first.logs)
                {
                    let empty = all.iter().filter(|claim| claim.logs.is_empty());
                    empty.for_each(|claim| self.shared.lied(claim.index, LEFT_OUT));
                    return several(first.logs.clone());
                }
                let told = all.iter().map(named).collect::<Vec<_>>().join(", ");
                let what = format!("endpoints contradict each other about the logs of block {}: {told}", header.number);
                Err(Failure::Failed(what))
            }
        }
    }

    /// The answer that counts, if there is one by now; the others lied.
    fn winner(&self, header: &Header, union: &Union, claims: &[Claim]) -> Option<Vec<Log>> {
        let keeps = |claim: &Claim| match header.promises() {
            _ if has_gaps(union, &claim.logs) => false,
            Some(bloom) => !is_doubtful(union, bloom, &claim.logs) && claim.logs.iter().all(|log| allows(bloom, log)),
            None => claims.iter().any(|other| has_gaps(union, &other.logs)),
        };
        let supporters = |claim: &Claim| claims.iter().filter(|other| other.logs == claim.logs).count();
        let kept: Vec<&Claim> = claims.iter().filter(|claim| !claim.logs.is_empty() && keeps(claim)).collect();
        let winner = match &*kept {
            // What the bloom promises is there, and nobody has anything else that it promises.
            [first, rest @ ..] if claims.len() > 1 && rest.iter().all(|other| other.logs == first.logs) => Some(*first),
            _ => claims.iter().max_by_key(|claim| supporters(claim)).filter(|claim| supporters(claim) > 1),
        }?;
        for claim in claims.iter().filter(|claim| claim.logs != winner.logs) {
            self.shared.lied(claim.index, LEFT_OUT);
        }
        self.blooms_leave_out(header, &winner.logs);
        Some(winner.logs.clone())
    }
}

/// Whether two tell of the same log, as far as receipts say.
fn is_same(one: &Log, other: &Log) -> bool {
    (one.transaction_index, &one.address, &one.topics, &one.data)
        == (other.transaction_index, &other.address, &other.topics, &other.data)
}

/// The filter of `eth_getLogs` for one block.
pub(super) fn of_block(union: &Union, header: &Header, by_hash: bool) -> serde_json::Value {
    let mut filter = union.to_json();
    if by_hash {
        filter.insert("blockHash".into(), json!(header.hash.to_string()));
    } else {
        let number = json!(format!("{:#x}", header.number));
        filter.insert("fromBlock".into(), number.clone());
        filter.insert("toBlock".into(), number);
    }
    serde_json::Value::Object(filter)
}
