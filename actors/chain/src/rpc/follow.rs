//! Keeping one endpoint connected: checks its chain, follows its heads while it leads, looks after it while it does
//! not, and begins anew after every failure.

mod subscription;

use std::{
    convert::Infallible,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use serde_json::value::RawValue;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior},
};

use super::{
    Shared,
    agreement::Told,
    endpoint::{Endpoint, Purpose, raw},
    errors::CallError,
    scoreboard::Scoreboard,
    wire,
};
use crate::{ChainConfig, backend::Seen, header::Header};

/// First wait before connecting again; doubles.
const RECONNECT_MIN: Duration = Duration::from_millis(250);
/// A node that was away for long is picked up this soon after its return.
const RECONNECT_MAX: Duration = Duration::from_secs(5);
/// One that came up and was lost again may have cut a question of ours that is too large for it: it answers others.
const RECONNECT_UP_MAX: Duration = Duration::from_secs(1);
/// A node of another chain is looked at again this often: somebody may have put it right.
const REFUSED_AGAIN: Duration = Duration::from_secs(30);
/// Whoever asks to be left alone is looked at again after this long at the latest.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Standby endpoints are asked for their head at most and at least this often.
const PROBE_MIN: Duration = Duration::from_millis(100);
const PROBE_MAX: Duration = Duration::from_secs(10);
/// What an endpoint said of a block counts until it did not say so for this many looks.
const LOOKS_UPHELD: u32 = 3;
/// One that has this many blocks above a block, and says that there is no such block, does not have the chain.
const LACKS_BELOW: u64 = 3;
/// A head that is not followed has the others asked for theirs at most this often.
const POKE_MIN: Duration = Duration::from_millis(500);
/// At the start the others are waited for this long before one alone is followed.
const GRACE_MAX: Duration = Duration::from_secs(3);

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
pub struct EndpointTask {
    shared: Arc<Shared>,
    index: usize,
    heads: mpsc::Sender<Seen>,
    leader: watch::Receiver<Option<usize>>,
    /// Subscriptions made, so that the first one does not count as a reconnect.
    subscribed: bool,
    /// The one that its connection has.
    subscription: Option<String>,
    /// A header that the subscription told was the block itself.
    tells_blocks: bool,
    /// When it was last compared with the followed chain, and when it last had the others asked for their heads.
    looked: Instant,
    poked: Option<Instant>,
    /// It stands by, did not have the newest block when that was wanted, and is asked again after this long.
    again: Option<Duration>,
    /// How long it was left alone when it last asked for fewer requests without a word about how long, and how many answers
    /// it had given by then.
    left_alone: (Duration, u64),
}

impl EndpointTask {
    pub fn new(shared: Arc<Shared>, index: usize, heads: mpsc::Sender<Seen>) -> Self {
        let leader = shared.leader.subscribe();
        Self {
            shared,
            index,
            heads,
            leader,
            subscribed: false,
            subscription: None,
            tells_blocks: false,
            looked: Instant::now(),
            poked: None,
            again: None,
            left_alone: (Duration::ZERO, 0),
        }
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
            let (pause, longest);
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
                    let message = self.shared.said(&error);
                    pause = error.retry_after();
                    let lost = |board: &mut Scoreboard, now| {
                        let was_up = board.down(self.index, now, message.clone());
                        // Whether it can be reached says the connection; how well it serves, the score.
                        if was_up {
                            board.failed(self.index, now);
                        }
                        was_up
                    };
                    let was_up = self.shared.update(lost);
                    longest = match was_up {
                        _ if error.is_rate_limit() => PAUSE_MAX,
                        true => RECONNECT_UP_MAX,
                        false => RECONNECT_MAX,
                    };
                    if was_up {
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
            wait = wait.min(longest);
            tokio::time::sleep(wait.max(pause.min(PAUSE_MAX))).await;
            wait *= 2;
        }
    }

    async fn session(&mut self) -> Result<Infallible, Ended> {
        let timeout = self.shared.config.timeout;
        self.subscription = None;
        self.endpoint().connect(timeout).await.inspect_err(|error| self.endpoint().went_wrong(error))?;
        self.check_chain().await?;
        self.look_at_syncing().await?;
        self.probe().await?;
        self.looked = Instant::now();
        self.shared.came_up(self.index);
        tracing::info!(chain_id = self.shared.config.chain_id, endpoint = %self.endpoint().name, "endpoint connected");
        loop {
            let served = if !self.leads() {
                self.unsubscribe().await;
                self.stand_by().await
            } else if self.endpoint().is_ws() {
                self.listen().await
            } else {
                self.poll().await
            };
            match served {
                // It is there, and asks for fewer requests: another one leads meanwhile, if there is one.
                Err(Ended::Failed(error)) if error.is_rate_limit() => {
                    self.leave_alone(&error).await;
                }
                served => served?,
            }
        }
    }

    /// It asks for fewer requests. Where it does not say for how long, it is left alone for twice as long as the last time,
    /// unless it has answered anything since.
    async fn leave_alone(&mut self, error: &CallError) {
        let least = self.shared.config.poll_interval.clamp(PROBE_MIN, PAUSE_MAX);
        let (before, answers) = (self.left_alone, self.endpoint().answers());
        let told = error.retry_after();
        let pause = match told.is_zero() && answers == before.1 {
            true => (before.0 * 2).clamp(least, PAUSE_MAX),
            false => least,
        };
        self.left_alone = (pause, answers);
        let pause = pause.max(told).min(PAUSE_MAX);
        // It must not lead before it is looked after again.
        self.shared.let_down_for(self.index, error, pause.max(told));
        // Nobody else leads, or is any better.
        if self.leads() {
            let said = self.shared.said(error);
            let why = format!("it asks for fewer requests, and is asked again after {pause:?}: {said}");
            self.shared.holds_back(self.index, why);
        }
        tokio::time::sleep(pause).await;
    }

    async fn check_chain(&self) -> Result<(), Ended> {
        self.shared.is_chain_doubted[self.index].store(false, Ordering::Relaxed);
        let chain_id = self.ask("eth_chainId", "[]").await?;
        let chain_id = wire::quantity(chain_id.get()).map_err(CallError::nonsense)?;
        match chain_id == self.shared.config.chain_id {
            true => Ok(()),
            false => Err(Ended::WrongChain(chain_id)),
        }
    }

    /// Whatever stands behind an address may change. When it told what cannot be, it is asked again which chain it serves.
    async fn check_chain_if_doubted(&self) -> Result<(), Ended> {
        match self.shared.is_chain_doubted[self.index].load(Ordering::Relaxed) {
            true => self.check_chain().await,
            false => Ok(()),
        }
    }

    async fn ask(&self, method: &str, params: &str) -> Result<Box<RawValue>, CallError> {
        let params = RawValue::from_string(params.to_owned()).map_err(|e| CallError::nonsense(e.to_string()))?;
        let began_ns = self.shared.clock.monotonic_ns();
        let answer = self.endpoint().call_now(Purpose::Head, method, &params, self.shared.config.timeout).await?;
        self.shared.answered(self.index, began_ns);
        Ok(answer)
    }

    /// Asks whether the endpoint says itself that it does not have the chain yet. Not every node knows the question, and what
    /// stands before it may forbid it in any form. Whether it can be reached at all the other questions show.
    async fn look_at_syncing(&self) -> Result<(), CallError> {
        let syncing = match self.ask("eth_syncing", "[]").await {
            Ok(answer) => wire::is_syncing(answer.get()),
            Err(error) if error.is_rate_limit() => return Err(error),
            Err(CallError::Node { .. }) => false,
            // It says nothing new.
            Err(_) => return Ok(()),
        };
        self.shared.update(|board, _| board.syncing(self.index, syncing));
        Ok(())
    }

    /// Asks for the number of the head.
    async fn probe(&self) -> Result<u64, CallError> {
        let number = self.ask("eth_blockNumber", "[]").await?;
        let number = wire::quantity(number.get()).map_err(CallError::nonsense)?;
        self.shared.agreement().head(self.index, number);
        self.shared.update(|board, now| board.head(self.index, number, now));
        Ok(number)
    }

    /// A block by its number, or the newest; none when the endpoint does not have it.
    async fn block(&self, number: Option<u64>) -> Result<Option<Header>, CallError> {
        let params = match number {
            Some(number) => by_number(number)?,
            None => raw(&("latest", false))?,
        };
        let json = match self.ask("eth_getBlockByNumber", params.get()).await {
            // It says so in its own words when it does not have the block yet.
            Err(error @ CallError::Node { .. }) if number.is_some() && !error.is_rate_limit() => return Ok(None),
            answer => answer?,
        };
        let header = wire::header(json.get()).map_err(CallError::nonsense)?;
        match (number, header) {
            (Some(number), Some(header)) if header.number != number => {
                Err(CallError::nonsense(format!("block {} for block {number}", header.number)))
            }
            (_, header) => Ok(header.map(|header| self.shared.trusting(header))),
        }
    }

    async fn latest(&self) -> Result<Header, CallError> {
        let latest = self.block(None).await?.ok_or_else(|| CallError::nonsense("there is no latest block"))?;
        self.shared.agreement().head(self.index, latest.number);
        Ok(latest)
    }

    /// Hands a head to the actor, if it may be followed. False when it has to be told again.
    async fn tell(&mut self, header: Header) -> bool {
        let (number, hash) = (header.number, header.hash);
        let grace = GRACE_MAX.min(self.shared.config.timeout);
        let grace_ns = self.shared.began_ns.saturating_add(u64::try_from(grace.as_nanos()).unwrap_or(u64::MAX));
        let (admitted, is_over) = self.shared.update(|board, now| {
            let admitted = board.admits(self.index, number, now, grace_ns);
            board.promise(self.index, number, hash, now);
            (admitted, board.is_over(self.index))
        });
        if !admitted {
            let why = match is_over {
                true => format!("its head {number} is far above that of the others"),
                false => "the others have not been heard yet".to_owned(),
            };
            self.shared.holds_back(self.index, why);
            // Whether the others are there by now, they are asked at once.
            if self.poked.is_none_or(|poked| poked.elapsed() >= POKE_MIN) {
                self.poked = Some(Instant::now());
                self.shared.poke(true);
            }
            return false;
        }
        if !self.shared.is_believable(self.index, &header).await {
            self.shared.holds_back(self.index, format!("its head {number} has a hash that is not that of its fields"));
            return false;
        }
        self.shared.goes_on();
        let seen = Seen { header, seen_ns: self.shared.clock.monotonic_ns() };
        // When nobody listens the actor is stopping.
        let _ = self.heads.send(seen).await;
        true
    }

    /// How often it is looked at while nothing is heard of it.
    fn every(&self) -> Duration {
        look_every(&self.shared.config)
    }

    /// Another endpoint leads: make sure that this one could. However often it is poked, and whoever leads meanwhile, it is
    /// compared with the followed chain in time.
    async fn stand_by(&mut self) -> Result<(), Ended> {
        self.check_chain_if_doubted().await?;
        let look_at = self.looked + self.every();
        if Instant::now() >= look_at {
            if self.shared.board().is_syncing(self.index) {
                self.look_at_syncing().await?;
            }
            self.look().await?;
            // One that cannot be asked is not taken for one that was.
            self.looked = Instant::now();
            return Ok(());
        }
        let again = self.again.map(|pause| (Instant::now() + pause, pause)).filter(|(at, _)| *at < look_at);
        let shared = self.shared.clone();
        tokio::select! {
            _ = self.leader.changed() => Ok(()),
            () = shared.poke[self.index].notified() => {
                // However often it is poked, it is not asked more often than this.
                tokio::time::sleep(PROBE_MIN).await;
                self.check_chain_if_doubted().await?;
                Ok(self.look_at_newest(PROBE_MIN).await?)
            }
            () = tokio::time::sleep_until(again.map_or(look_at, |(at, _)| at)) => match again {
                Some((_, pause)) => Ok(self.look_at_newest(pause).await?),
                None => Ok(()),
            }
        }
    }

    /// Somebody waits for this endpoint to have the newest block. Until it has that it is asked again, less and less often.
    async fn look_at_newest(&mut self, pause: Duration) -> Result<(), CallError> {
        let header = self.latest().await?;
        let told = Told { number: header.number, hash: header.hash, sealed: header.receipts_root.is_some() };
        self.shared.update(|board, now| {
            board.head(self.index, header.number, now);
            if board.is_ahead(self.index) {
                board.promise(self.index, header.number, header.hash, now);
            }
        });
        let wanted = self.shared.agreement().asked_for(header.number, true);
        match wanted {
            Some(number) if number == header.number => self.shared.compare(self.index, number, Some(told)),
            Some(number) => self.compare_at(number, header.number).await?,
            None => {}
        }
        let has_it = header.number >= self.shared.tip.load(Ordering::Relaxed);
        self.again = (!has_it).then_some(pause * 2);
        Ok(())
    }

    /// Looks at the head, and at a block that the followed chain has, too.
    async fn look(&mut self) -> Result<(), CallError> {
        self.again = None;
        let mut head = self.probe().await?;
        if self.shared.board().is_ahead(self.index) {
            // What it says of a block that the others do not have yet shows later whether it was right.
            let header = self.latest().await?;
            head = header.number;
            self.shared.update(|board, now| {
                board.head(self.index, header.number, now);
                board.promise(self.index, header.number, header.hash, now);
            });
        }
        let settled = self.shared.agreement().asked_for(head, false);
        match settled {
            Some(number) => self.compare_at(number, head).await,
            None => Ok(()),
        }
    }

    /// Compares a block with the one of the followed chain. `head` is how far this endpoint is.
    async fn compare_at(&self, number: u64, head: u64) -> Result<(), CallError> {
        match self.block(Some(number)).await? {
            Some(header) => {
                let told = Told { number, hash: header.hash, sealed: header.receipts_root.is_some() };
                self.shared.compare(self.index, number, Some(told));
            }
            None if head >= number.saturating_add(LACKS_BELOW) => self.shared.compare(self.index, number, None),
            // One that is behind does not have it yet.
            None => {}
        }
        Ok(())
    }

    /// How often an endpoint that says it does not have the chain yet is asked whether it still does.
    fn syncing_again(&self) -> tokio::time::Interval {
        let mut again = tokio::time::interval(self.every());
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        again
    }

    /// Leads over HTTP.
    async fn poll(&mut self) -> Result<(), Ended> {
        let mut syncing = self.syncing_again();
        let mut ticks = tokio::time::interval(self.shared.config.poll_interval.max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while self.leads() {
            tokio::select! {
                _ = self.leader.changed() => {}
                // Nobody else is there, or is any better.
                _ = syncing.tick() => if self.shared.board().is_syncing(self.index) {
                    self.look_at_syncing().await?;
                },
                _ = ticks.tick() => {
                    self.check_chain_if_doubted().await?;
                    let header = self.latest().await?;
                    self.tell(header).await;
                }
            }
        }
        Ok(())
    }
}

fn look_every(config: &ChainConfig) -> Duration {
    (config.stall_after / 3).clamp(PROBE_MIN, PROBE_MAX)
}

/// How long an endpoint's last word about a block counts that it does not say again. Meanwhile it may ask to be left
/// alone, and take its time for the answers of a look.
pub fn upheld_for_ns(config: &ChainConfig) -> u64 {
    let every = look_every(config);
    let looks = every.saturating_mul(LOOKS_UPHELD).max(PAUSE_MAX.saturating_add(every));
    let upheld_for = looks.saturating_add(config.timeout.saturating_mul(2));
    u64::try_from(upheld_for.as_nanos()).unwrap_or(u64::MAX)
}

/// Parameters of `eth_getBlockByNumber`.
pub fn by_number(number: u64) -> Result<Box<RawValue>, CallError> {
    raw(&(format!("{number:#x}"), false))
}
