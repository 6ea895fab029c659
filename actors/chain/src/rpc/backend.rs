//! The reads of a chain, as the actor asks for them, over nodes.

use std::{
    sync::{PoisonError, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;
use futures::{StreamExt, stream::FuturesUnordered};
use nexum_host_ifaces::{
    Hash, HostError,
    interfaces::chain::port::{EndpointAnswer, EndpointStatus, Final},
    types::Log,
};
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use super::{
    RpcBackend,
    agreement::Told,
    errors::CallError,
    follow,
    headers::HeaderRequest,
    pinned::{gone, lacks_block},
    requests::{parse_params, to_text},
    socket::Payload,
};
use crate::{
    backend::{Ask, Backend, Bounds, Ranged, SETTLED_DEPTH, Seen, Survey},
    config::BloomUse,
    filter::Union,
    header::Header,
    pin::Pin,
    tracker::{Failure, Tag},
};

/// A fork this deep is no matter of moments.
const DEEP: u64 = 16;

impl RpcBackend {
    /// Blocks far below the newest one are read for a fork that deep, and when there is no more known. Before that is
    /// followed the endpoint must say that it serves this chain.
    async fn serves_fork(&self, numbers: &[u64]) -> Result<(), Failure> {
        let tip = self.shared.tip.load(Ordering::Relaxed);
        let is_deep = numbers.first().is_some_and(|first| first.saturating_add(DEEP) <= tip);
        let leader = *self.shared.leader.borrow();
        match leader.filter(|_| is_deep) {
            Some(index) if self.shared.serves_chain(index).await == Some(false) => {
                self.shared.doubt_chain(index);
                Err(Failure::Failed(format!("{} serves another chain", self.shared.name(index))))
            }
            _ => Ok(()),
        }
    }
}

impl RpcBackend {
    /// An answer as modules are told it. That nobody has the block that was to be read at is an error of its own.
    fn told(&self, (method, params): (&str, &RawValue), answer: Payload) -> Result<String, HostError> {
        match (answer, Pin::of(method, params.get())) {
            (Err(error), Some(pin)) if lacks_block(&error) => Err(gone(&pin, self.shared.config.chain_id)),
            (answer, _) => to_text(answer),
        }
    }
}

#[async_trait]
impl Backend for RpcBackend {
    async fn follow(&self, heads: mpsc::Sender<Seen>) {
        let lines = (0..self.shared.endpoints.len()).map(|index| {
            let line = follow::EndpointTask::new(self.shared.clone(), index, heads.clone());
            line.run()
        });
        let mut lines: FuturesUnordered<_> = lines.collect();
        while lines.next().await.is_some() {}
    }

    async fn headers(&self, numbers: &[u64]) -> Result<Vec<Header>, Failure> {
        self.serves_fork(numbers).await?;
        self.read_headers(HeaderRequest::Blocks, numbers).await.map_err(|failure| self.shared.clean(failure))
    }

    async fn history(&self, numbers: &[u64]) -> Result<Vec<Header>, Failure> {
        self.read_headers(HeaderRequest::History, numbers).await.map_err(|failure| self.shared.clean(failure))
    }

    async fn header(&self, hash: Hash) -> Result<Option<Header>, Failure> {
        self.read_header(hash).await.map_err(|failure| self.shared.clean(failure))
    }

    async fn tagged(&self, tag: Tag) -> Result<Option<Header>, Failure> {
        self.read_tagged(tag).await.map_err(|failure| self.shared.clean(failure))
    }

    async fn finality(&self, tag: Tag, numbers: &[u64]) -> Result<Final, Failure> {
        self.read_finality(tag, numbers).await.map_err(|failure| self.shared.clean(failure))
    }

    async fn block_logs(&self, blocks: &[Header], union: &Union) -> Result<Vec<Vec<Log>>, Failure> {
        self.read_block_logs(blocks, union).await.map_err(|failure| self.shared.clean(failure))
    }

    async fn range_logs(&self, from: u64, to: u64, union: &Union, known: &[Header]) -> Result<Ranged, Failure> {
        self.read_range_logs(from, to, union, known).await.map_err(|failure| self.shared.clean(failure))
    }

    async fn survey(&self, known: &[(u64, Hash)]) -> Survey {
        self.ask_everybody(known).await
    }

    async fn request(&self, method: &str, params: &str, ask: Ask<'_>) -> Result<String, HostError> {
        let params = parse_params(params.to_owned())?;
        let answers = self.persist(&[(method, &params)], &ask).await;
        match answers.map(|mut answers| answers.pop()) {
            Ok(Some(answer)) => self.told((method, &params), answer),
            Ok(None) => Err(CallError::nonsense("it is empty").to_host_error()),
            Err(error) => self.told((method, &params), Err(error)),
        }
    }

    async fn request_batch(
        &self,
        requests: Vec<(String, String)>,
        ask: Ask<'_>,
    ) -> Result<Vec<Result<String, HostError>>, HostError> {
        if requests.is_empty() {
            return Ok(vec![]);
        }
        let mut parsed = Vec::with_capacity(requests.len());
        for (method, params) in requests {
            parsed.push((method, parse_params(params)?));
        }
        let batch: Vec<(&str, &RawValue)> =
            parsed.iter().map(|(method, params)| (method.as_str(), &**params)).collect();
        match self.persist_batch(&batch, &ask).await {
            Ok(answers) => Ok(batch.iter().zip(answers).map(|(request, answer)| self.told(*request, answer)).collect()),
            // A batch of one is sent as a plain request: the node's error is the answer to it.
            Err(error @ CallError::Node { .. }) if batch.len() == 1 => Ok(vec![self.told(batch[0], Err(error))]),
            Err(error) => Err(error.to_host_error()),
        }
    }

    async fn request_each(
        &self,
        method: &str,
        params: &str,
        endpoints_max: usize,
        ask: Ask<'_>,
    ) -> Result<Vec<EndpointAnswer>, HostError> {
        let params = parse_params(params.to_owned())?;
        Ok(self.ask_each(method, &params, endpoints_max, ask).await)
    }

    async fn broadcast(&self, raw: &[u8], deadline: Duration, answers: mpsc::Sender<EndpointAnswer>) {
        self.send_everywhere(raw, deadline, &answers).await;
    }

    fn endpoints(&self) -> Vec<EndpointStatus> {
        let now_ns = self.shared.clock.monotonic_ns();
        let mut endpoints = self.shared.board().status(now_ns);
        for (status, endpoint) in endpoints.iter_mut().zip(&self.shared.endpoints) {
            status.learnt = endpoint.shape().learnt(now_ns);
        }
        endpoints
    }

    fn learnt(&self) -> Vec<String> {
        self.shared.trust().learnt()
    }

    fn read_up_to(&self, tip: u64, header_at: &dyn Fn(u64) -> Option<Header>) {
        let hash_at = |number| header_at(number).map(|header| header.hash);
        let settled = tip.saturating_sub(SETTLED_DEPTH);
        {
            let mut agreement = self.shared.agreement();
            let next = agreement.next(tip, &hash_at);
            let told = |header: Header| Told {
                number: header.number,
                hash: header.hash,
                sealed: header.receipts_root.is_some(),
            };
            agreement.follow(settled, (next..=tip).filter_map(header_at).map(told));
            if let Some((_, by)) = agreement.disputed(self.shared.clock.monotonic_ns()) {
                // It may have the new blocks.
                self.shared.poke[by].notify_one();
            }
        }
        self.shared.update(|board, now| board.redeem(tip, &hash_at, now));
        self.shared.tip.store(tip, Ordering::Relaxed);
        let behind = self.best_head().map_or(0, |best| best.saturating_sub(tip));
        self.shared.blocks_behind.set(i64::try_from(behind).unwrap_or(i64::MAX));
    }

    fn best_head(&self) -> Option<u64> {
        self.shared.board().best_head()
    }

    fn bounds(&self) -> Bounds {
        let leader = *self.shared.leader.borrow();
        let now_ns = self.shared.clock.monotonic_ns();
        let others = leader.is_some_and(|leader| {
            let board = self.shared.board();
            // One that was there a moment ago has a say, too: else whoever is left alone would confirm its own blocks.
            board.others_confirm(leader, now_ns) || board.awaited(now_ns).is_some()
        });
        let agreement = self.shared.agreement();
        let vouched = leader.filter(|_| others).map(|leader| agreement.vouched(leader).unwrap_or(0));
        let disputed = agreement.disputed(now_ns).map(|(number, by)| (number, self.shared.endpoints[by].name.clone()));
        Bounds { vouched, disputed }
    }

    fn held_back(&self) -> Option<(String, u64)> {
        self.shared.held_back.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn turns(&self) -> Vec<(String, u64)> {
        let waits = self.shared.endpoints.iter().filter_map(|endpoint| {
            let (count, since_ns) = endpoint.large_turn.waits()?;
            let what = if count == 1 { "a question".to_owned() } else { format!("{count} questions") };
            let why = "which is asked one at a time since it did not tell those of a block";
            Some((format!("the turn of {what} for logs at {}, {why}", endpoint.name), since_ns))
        });
        waits.collect()
    }

    fn distrusts_blooms(&self) -> bool {
        self.shared.trust().bloom() != BloomUse::Exact
    }

    fn want_vouched(&self, of_anybody: bool) {
        self.shared.poke(of_anybody);
    }

    async fn heard(&self) {
        self.shared.heard.notified().await;
    }

    async fn returned(&self) {
        let mut returns = self.shared.returns.subscribe();
        // The sender lives as long as the endpoints do.
        let _ = returns.changed().await;
    }
}
