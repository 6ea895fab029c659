//! Keeping one endpoint connected: checks its chain, follows its heads while it leads, looks after it while it does
//! not, and begins anew after every failure.

use std::{convert::Infallible, sync::Arc, time::Duration};

use alloy::pubsub::RawSubscription;
use serde_json::value::RawValue;
use tokio::{
    sync::{broadcast, mpsc, watch},
    time::{Instant, MissedTickBehavior},
};

use super::{
    Shared,
    endpoint::{Endpoint, raw},
    errors::CallError,
    scoreboard::Scoreboard,
    wire,
};
use crate::{backend::Seen, header::Header};

/// First wait before connecting again; doubles.
const RECONNECT_MIN: Duration = Duration::from_millis(250);
/// A node that was away for long is picked up this soon after its return.
const RECONNECT_MAX: Duration = Duration::from_secs(5);
/// A node of another chain is looked at again this often: somebody may have put it right.
const REFUSED_AGAIN: Duration = Duration::from_secs(30);
/// Whoever asks to be left alone is looked at again after this long at the latest.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Standby endpoints are asked for their head at most and at least this often.
const PROBE_MIN: Duration = Duration::from_millis(100);
const PROBE_MAX: Duration = Duration::from_secs(10);

/// Why a session ended.
enum Ended {
    Failed(CallError),
    WrongChain(u64),
}

impl From<CallError> for Ended {
    fn from(error: CallError) -> Self {
        Self::Failed(error)
    }
}

/// The task's view of one endpoint.
pub struct Line {
    shared: Arc<Shared>,
    index: usize,
    heads: mpsc::Sender<Seen>,
    leader: watch::Receiver<Option<usize>>,
    /// Subscriptions made, so that the first one does not count as a reconnect.
    subscribed: bool,
}

impl Line {
    pub fn new(shared: Arc<Shared>, index: usize, heads: mpsc::Sender<Seen>) -> Self {
        let leader = shared.leader.subscribe();
        Self { shared, index, heads, leader, subscribed: false }
    }

    fn endpoint(&self) -> &Endpoint {
        &self.shared.endpoints[self.index]
    }

    fn leads(&mut self) -> bool {
        *self.leader.borrow_and_update() == Some(self.index)
    }

    /// Runs until it is dropped.
    pub async fn run(mut self) {
        let mut wait = RECONNECT_MIN;
        loop {
            let began = Instant::now();
            let pause;
            let ended = match self.session().await {
                Err(ended) => ended,
                Ok(never) => match never {},
            };
            self.endpoint().disconnect();
            let chain_id = self.shared.config.chain_id;
            let name = self.endpoint().name.clone();
            match ended {
                Ended::WrongChain(found) => {
                    let reason = format!("refused: it serves chain {found}, not chain {chain_id}");
                    if self.shared.update(|board, _| board.refuse(self.index, reason.clone())) {
                        tracing::error!(chain_id, endpoint = %name, "{reason}");
                    }
                    tokio::time::sleep(REFUSED_AGAIN).await;
                    continue;
                }
                Ended::Failed(error) => {
                    let message = error.message();
                    pause = error.retry_after();
                    let lost = |board: &mut Scoreboard, now| {
                        let was_up = board.down(self.index, now, message.clone());
                        // Whether it can be reached says the connection; how well it serves, the score.
                        if was_up {
                            board.failed(self.index);
                        }
                        was_up
                    };
                    if self.shared.update(lost) {
                        tracing::warn!(chain_id, endpoint = %name, error = %message, "endpoint lost");
                    } else {
                        tracing::debug!(chain_id, endpoint = %name, error = %message, "endpoint still not reached");
                    }
                }
            }
            // A session that held for a while was a success.
            if began.elapsed() > RECONNECT_MAX {
                wait = RECONNECT_MIN;
            }
            tokio::time::sleep(wait.max(pause.min(PAUSE_MAX))).await;
            wait = (wait * 2).min(RECONNECT_MAX);
        }
    }

    async fn session(&mut self) -> Result<Infallible, Ended> {
        let timeout = self.shared.config.timeout;
        self.endpoint().connect(timeout).await.inspect_err(|error| self.endpoint().went_wrong(error))?;
        let chain_id = self.ask("eth_chainId", "[]").await?;
        let chain_id = wire::quantity(chain_id.get()).map_err(|error| CallError::nonsense(error.to_string()))?;
        if chain_id != self.shared.config.chain_id {
            return Err(Ended::WrongChain(chain_id));
        }
        self.probe().await?;
        self.shared.update(|board, now| board.up(self.index, now));
        tracing::info!(chain_id, endpoint = %self.endpoint().name, "endpoint connected");
        loop {
            let served = if !self.leads() {
                self.stand_by().await
            } else if self.endpoint().is_ws() {
                self.listen().await
            } else {
                self.poll().await
            };
            match served {
                // It is there, and asks for fewer requests: another one leads meanwhile, if there is one.
                Err(error) if error.is_rate_limit() => {
                    self.shared.let_down(self.index, &error);
                    let pause = error.retry_after().max(self.shared.config.poll_interval).max(PROBE_MIN).min(PAUSE_MAX);
                    tokio::time::sleep(pause).await;
                }
                served => served?,
            }
        }
    }

    async fn ask(&self, method: &str, params: &str) -> Result<Box<RawValue>, CallError> {
        let params = RawValue::from_string(params.to_owned()).map_err(|e| CallError::nonsense(e.to_string()))?;
        let began_ns = self.shared.clock.monotonic_ns();
        let answer = self.endpoint().call_now(method, &params, self.shared.config.timeout).await?;
        self.shared.answered(self.index, began_ns);
        Ok(answer)
    }

    /// Asks for the number of the head.
    async fn probe(&self) -> Result<u64, CallError> {
        let number = self.ask("eth_blockNumber", "[]").await?;
        let number = wire::quantity(number.get()).map_err(|error| CallError::nonsense(error.to_string()))?;
        self.shared.update(|board, now| board.head(self.index, number, now));
        Ok(number)
    }

    async fn latest(&self) -> Result<Header, CallError> {
        let json = self.ask("eth_getBlockByNumber", r#"["latest",false]"#).await?;
        let header = wire::header(json.get()).map_err(|error| CallError::nonsense(error.to_string()))?;
        header.ok_or_else(|| CallError::nonsense("there is no latest block"))
    }

    async fn tell(&self, header: Header) {
        let number = header.number;
        self.shared.update(|board, now| board.head(self.index, number, now));
        let seen = Seen { header, seen_ns: self.shared.clock.monotonic_ns() };
        // When nobody listens the actor is stopping.
        let _ = self.heads.send(seen).await;
    }

    /// Another endpoint leads: make sure that this one could.
    async fn stand_by(&mut self) -> Result<(), CallError> {
        let every = (self.shared.config.stall_after / 3).clamp(PROBE_MIN, PROBE_MAX);
        tokio::select! {
            _ = self.leader.changed() => Ok(()),
            () = tokio::time::sleep(every) => {
                self.probe().await?;
                self.compare().await
            }
        }
    }

    /// Asks for a block that the followed chain has, too.
    async fn compare(&self) -> Result<(), CallError> {
        let Some(number) = self.shared.agreement().asked_for() else { return Ok(()) };
        let json = match self.ask("eth_getBlockByNumber", by_number(number)?.get()).await {
            // It says so in its own words when it does not have the block yet, and whether it is there `probe` has found out.
            Err(error @ CallError::Node { .. }) if !error.is_rate_limit() => return Ok(()),
            answer => answer?,
        };
        let header = wire::header(json.get()).map_err(|error| CallError::nonsense(error.to_string()))?;
        // One that is behind does not have it yet.
        if let Some(header) = header {
            self.shared.compare(self.index, number, header.hash);
        }
        Ok(())
    }

    /// Leads over HTTP.
    async fn poll(&mut self) -> Result<(), CallError> {
        let mut ticks = tokio::time::interval(self.shared.config.poll_interval.max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = None;
        while self.leads() {
            tokio::select! {
                _ = self.leader.changed() => {}
                _ = ticks.tick() => {
                    let header = self.latest().await?;
                    if told != Some(header.hash) {
                        told = Some(header.hash);
                        self.tell(header).await;
                    } else {
                        // Others may have gone ahead meanwhile.
                        self.shared.update(|board, now| board.head(self.index, header.number, now));
                    }
                }
            }
        }
        Ok(())
    }

    /// Leads over a WebSocket.
    async fn listen(&mut self) -> Result<(), CallError> {
        if std::mem::replace(&mut self.subscribed, true) {
            let labels = [self.shared.config.chain_id.to_string()];
            self.shared.metrics.reconnects.with_label_values(&labels).inc();
        }
        let (mut items, local) = match self.endpoint().subscribe_heads(self.shared.config.timeout).await {
            Ok(subscription) => subscription,
            Err(error) if error.is_rate_limit() => return Err(error),
            // A node without subscriptions can still be asked.
            Err(CallError::Node { message, .. }) => {
                tracing::warn!(endpoint = %self.endpoint().name, %message, "no subscriptions here, polling");
                return self.poll().await;
            }
            Err(error) => return Err(error),
        };
        let result = self.take_heads(&mut items).await;
        // What failed otherwise ends the connection, and the subscription with it.
        if result.as_ref().map_or_else(CallError::is_rate_limit, |()| true) {
            self.endpoint().unsubscribe(local);
        }
        result
    }

    async fn take_heads(&mut self, items: &mut RawSubscription) -> Result<(), CallError> {
        // Whatever came between the last connection and this one.
        let header = self.latest().await?;
        let mut newest = header.number;
        self.tell(header).await;
        let stall_after = self.shared.config.stall_after;
        let mut quiet_until = Instant::now() + stall_after;
        while self.leads() {
            tokio::select! {
                biased;
                _ = self.leader.changed() => {}
                item = items.recv() => match item {
                    Ok(json) => {
                        let header = wire::header(json.get()).map_err(|e| CallError::nonsense(e.to_string()))?;
                        if let Some(header) = header {
                            newest = header.number;
                            quiet_until = Instant::now() + stall_after;
                            self.tell(header).await;
                        }
                    }
                    // The next head reveals the gap, and it is fetched.
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => {
                        return Err(CallError::unavailable("the connection was lost"));
                    }
                },
                () = tokio::time::sleep_until(quiet_until) => {
                    // A quiet chain and a dead node look the same until the node is asked.
                    if self.probe().await? > newest {
                        return Err(CallError::unavailable("the subscription fell silent"));
                    }
                    quiet_until = Instant::now() + stall_after;
                }
            }
        }
        Ok(())
    }
}

/// Parameters of `eth_getBlockByNumber`.
pub fn by_number(number: u64) -> Result<Box<RawValue>, CallError> {
    raw(&(format!("{number:#x}"), false))
}
