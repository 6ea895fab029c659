//! Following the heads that a WebSocket tells.
//!
//! A head is a hint to look: what it tells is never worth more than the block that can be read.

use nexum_host_ifaces::Hash;
use serde_json::value::RawValue;
use tokio::time::{Instant, MissedTickBehavior};

use super::{Ended, EndpointTask, PROBE_MIN};
use crate::{
    header::Header,
    rpc::{errors::CallError, wire},
};

/// What a subscription's head comes to.
enum Hinted {
    /// It was told before.
    Nothing,
    Header(Header),
    /// The endpoint is to be asked for this block, or for its newest. One that does not go on from the head that was told
    /// last may be of a reorg, or told late.
    Ask {
        number: Option<u64>,
        sealed: Option<Hash>,
    },
}

impl EndpointTask {
    /// What it was subscribed to before is not wanted any more.
    pub(super) async fn unsubscribe(&mut self) {
        if let Some(subscription) = self.subscription.take() {
            self.endpoint().unsubscribe(&subscription).await;
        }
    }

    /// Leads over a WebSocket.
    pub(super) async fn listen(&mut self) -> Result<(), Ended> {
        if std::mem::replace(&mut self.subscribed, true) {
            let labels = [self.shared.config.chain_id.to_string()];
            self.shared.metrics.reconnects.with_label_values(&labels).inc();
        }
        self.unsubscribe().await;
        match self.endpoint().subscribe_heads(self.shared.config.timeout).await {
            Ok(subscription) => {
                self.subscription = Some(subscription.clone());
                self.take_heads(&subscription).await
            }
            Err(error) if error.is_rate_limit() => Err(error.into()),
            // A node without subscriptions can still be asked, whether it says so or nothing.
            Err(error) if error.is_silence() || matches!(error, CallError::Node { .. }) => {
                let message = self.shared.said(&error);
                tracing::warn!(endpoint = %self.endpoint().name, %message, "no subscriptions here, polling");
                self.poll().await
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Only a header whose hash is that of its fields is as good as the block itself, once the endpoint has shown that it
    /// tells the block itself: some give the block another hash. `before` is the head that was told last.
    fn hinted(&self, json: &RawValue, before: (u64, Hash)) -> Hinted {
        let head = wire::head(json.get()).ok().flatten();
        if head.as_ref().is_some_and(|head| (head.number, head.hash) == (Some(before.0), Some(before.1))) {
            return Hinted::Nothing;
        }
        let header = wire::header(json.get()).ok().flatten().filter(|header| header.receipts_root.is_some());
        let number = header.as_ref().map(|header| header.number).or(head.and_then(|head| head.number));
        let number = number.filter(|number| *number > before.0);
        let sealed = header.as_ref().map(|header| header.hash);
        match header.filter(|_| number.is_some() && self.tells_blocks) {
            Some(header) => Hinted::Header(self.shared.trusting(header)),
            None => Hinted::Ask { number, sealed },
        }
    }

    async fn take_heads(&mut self, subscription: &str) -> Result<(), Ended> {
        // Whatever came between the last connection and this one.
        let header = self.latest().await?;
        let (mut newest, mut asked) = ((header.number, header.hash), Instant::now());
        self.tells_blocks = false;
        let mut told = self.tell(header).await;
        let stall_after = self.shared.config.stall_after;
        let mut quiet_until = Instant::now() + stall_after;
        // What was not admitted is looked at again.
        let mut again = tokio::time::interval(PROBE_MIN.max(self.shared.config.poll_interval));
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut syncing = self.syncing_again();
        let (shared, index) = (self.shared.clone(), self.index);
        while self.leads() {
            tokio::select! {
                biased;
                _ = self.leader.changed() => {}
                _ = syncing.tick() => if self.shared.board().is_syncing(self.index) {
                    self.look_at_syncing().await?;
                },
                head = shared.endpoints[index].next_head(subscription) => {
                    let header = match self.hinted(&head?, newest) {
                        Hinted::Nothing => continue,
                        Hinted::Header(header) => header,
                        Hinted::Ask { number, sealed } => {
                            // However often it tells something, it is not asked more often than this.
                            let is_soon = asked.elapsed() < PROBE_MIN;
                            tokio::time::sleep_until(asked + PROBE_MIN).await;
                            asked = Instant::now();
                            // A node may tell of a block before it can be read, and after a pause there may be newer ones.
                            let block = match number.filter(|_| !is_soon) {
                                Some(number) => self.block(Some(number)).await?,
                                None => None,
                            };
                            match block {
                                Some(block) => {
                                    self.tells_blocks = sealed == Some(block.hash);
                                    block
                                }
                                None => self.latest().await?,
                            }
                        }
                    };
                    quiet_until = Instant::now() + stall_after;
                    newest = (header.number, header.hash);
                    told = self.tell(header).await;
                }
                () = shared.poke[index].notified() => self.check_chain_if_doubted().await?,
                _ = again.tick(), if !told => {
                    let header = self.latest().await?;
                    newest = (header.number, header.hash);
                    told = self.tell(header).await;
                }
                () = tokio::time::sleep_until(quiet_until) => {
                    // A quiet chain and a dead node look the same until the node is asked.
                    if self.probe().await? > newest.0 {
                        return Err(CallError::unavailable("the subscription fell silent").into());
                    }
                    quiet_until = Instant::now() + stall_after;
                }
            }
        }
        Ok(())
    }
}
