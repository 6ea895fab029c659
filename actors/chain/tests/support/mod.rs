//! What the tests of the chain actor share: a module's side of the port, and starting actors.
#![allow(dead_code, reason = "not every test uses all of it")]

pub mod anvil;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use nexum_chain::{Args, Budgets, ChainConfig, ChainMetrics, History, Network, Source, Usage, mock::MockChain};
use nexum_host_ifaces::{
    Hash, HostError,
    clock::{Clock, SystemClock},
    event::{Answer, Cursor, Delivery, EventId, Part, SourceId, SourceReply},
    interfaces::chain::port::{AnswerSize, Blocks, ChainMsg, ChainPull, ChainStatus, Hold, Interest, LogFilter},
    names::look_up_of_this_machine,
    port::Port,
    store::StoreMsg,
    types::{Event, Log},
};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::mpsc;

/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

struct Mailbox;

impl Actor for Mailbox {
    type Msg = SourceReply;
    type State = mpsc::Sender<SourceReply>;
    type Arguments = mpsc::Sender<SourceReply>;

    async fn pre_start(
        &self,
        _: ActorRef<SourceReply>,
        to: mpsc::Sender<SourceReply>,
    ) -> Result<Self::State, ActorProcessingErr> {
        Ok(to)
    }

    async fn handle(
        &self,
        _: ActorRef<SourceReply>,
        reply: SourceReply,
        to: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let _ = to.send(reply).await;
        Ok(())
    }
}

/// A store that keeps nothing but what it is sent.
pub struct Sink;

impl Actor for Sink {
    type Msg = StoreMsg;
    type State = mpsc::Sender<StoreMsg>;
    type Arguments = mpsc::Sender<StoreMsg>;

    async fn pre_start(
        &self,
        _: ActorRef<StoreMsg>,
        to: mpsc::Sender<StoreMsg>,
    ) -> Result<Self::State, ActorProcessingErr> {
        Ok(to)
    }

    async fn handle(
        &self,
        _: ActorRef<StoreMsg>,
        message: StoreMsg,
        to: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let _ = to.send(message).await;
        Ok(())
    }
}

pub struct Supervisor;

impl Actor for Supervisor {
    type Msg = ();
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<()>,
        _: ractor::SupervisionEvent,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}

pub struct Chain {
    pub actor: ActorRef<ChainMsg>,
    pub registry: prometheus::Registry,
    pub history: History,
}

impl Drop for Chain {
    fn drop(&mut self) {
        self.actor.stop(None);
    }
}

pub async fn start(source: Source) -> Chain {
    start_with(source, History::default()).await
}

pub async fn start_with(source: Source, history: History) -> Chain {
    start_keeping(source, history, None).await
}

pub async fn start_keeping(source: Source, history: History, headers: Option<Port<StoreMsg>>) -> Chain {
    // Shown with a test that fails. The second start of a test finds it set.
    let _ = tracing_subscriber::fmt().with_env_filter("nexum_chain=debug").with_test_writer().try_init();
    let (supervisor, _) = Actor::spawn(None, Supervisor, ()).await.unwrap();
    let registry = prometheus::Registry::new();
    let metrics = ChainMetrics::register(&registry).unwrap();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let chain_id = match &source {
        Source::Rpc(config, _) => config.chain_id,
        Source::Mock(fixture) => fixture.chain_id,
        Source::Manual(chain) => chain.chain_id(),
    };
    let usage = Usage::new(chain_id, BTreeMap::new(), metrics.clone());
    let budgets = Budgets::new(Port::new("store"), clock.clone(), metrics.clone());
    let jitter = Arc::new(|| 0.5);
    let args = Args { source, clock, metrics, history: history.clone(), headers, usage, budgets, jitter };
    let (actor, _) = nexum_chain::spawn(args, supervisor.get_cell()).await.unwrap();
    Chain { actor, registry, history }
}

pub async fn manual(chain: &MockChain) -> Chain {
    start(Source::Manual(chain.clone())).await
}

/// Short times, so that failures are noticed while a test waits.
pub fn config(urls: &[String]) -> ChainConfig {
    let mut config = ChainConfig::new(31337, urls.iter().cloned());
    config.timeout = Duration::from_secs(2);
    config.poll_interval = Duration::from_millis(50);
    config.stall_after = Duration::from_secs(1);
    config
}

pub async fn rpc(urls: &[String]) -> Chain {
    configured(config(urls)).await
}

/// A chain of nodes on this machine.
pub async fn configured(config: ChainConfig) -> Chain {
    let metrics = ChainMetrics::register(&prometheus::Registry::new()).unwrap();
    let network = Network::new(look_up_of_this_machine(), Arc::new(SystemClock::new()), &metrics);
    start(Source::Rpc(config, Arc::new(network))).await
}

impl Chain {
    pub async fn status(&self) -> ChainStatus {
        ractor::call_t!(self.actor, ChainMsg::Status, PATIENCE.as_millis() as u64).unwrap()
    }

    /// Asks for the status until it is as wanted.
    pub async fn status_when(&self, wanted: impl Fn(&ChainStatus) -> bool) -> ChainStatus {
        tokio::time::timeout(PATIENCE, async {
            let mut ticks = tokio::time::interval(Duration::from_millis(20));
            loop {
                ticks.tick().await;
                let status = self.status().await;
                if wanted(&status) {
                    return status;
                }
            }
        })
        .await
        .expect("the status never became as wanted")
    }

    pub async fn request(&self, method: &str, params: &str) -> Result<String, HostError> {
        let (method, params) = (method.to_owned(), params.to_owned());
        let (deadline, reply_bytes_max) = (Duration::from_secs(20), 1 << 20);
        let (module, budget) = ("m".into(), None);
        let message = |reply| ChainMsg::Request { module, budget, method, params, deadline, reply_bytes_max, reply };
        self.actor.call(message, Some(PATIENCE)).await.unwrap().unwrap()
    }

    pub async fn batch(&self, requests: &[(&str, &str)]) -> Result<Vec<Result<String, HostError>>, HostError> {
        let requests = requests.iter().map(|(method, params)| (method.to_string(), params.to_string())).collect();
        let (deadline, reply_bytes_max) = (Duration::from_secs(20), 1 << 20);
        let (module, budget) = ("m".into(), None);
        let message = |reply| ChainMsg::RequestBatch { module, budget, requests, deadline, reply_bytes_max, reply };
        self.actor.call(message, Some(PATIENCE)).await.unwrap().unwrap()
    }

    /// The sum of a metric over all its labels.
    pub fn metric(&self, name: &str) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().filter(|family| family.name() == name);
        family
            .flat_map(|family| family.get_metric())
            .map(|metric| {
                if metric.get_histogram().get_sample_count() > 0 {
                    return metric.get_histogram().get_sample_count() as f64;
                }
                metric.get_counter().get_value() + metric.get_gauge().get_value()
            })
            .sum()
    }

    pub async fn reader(&self, name: &str, interest: Interest) -> Reader {
        let (sender, replies) = mpsc::channel(1_024);
        let (mailbox, _) = Actor::spawn(None, Mailbox, sender).await.unwrap();
        Reader {
            chain: self.actor.clone(),
            mailbox,
            replies,
            module: name.into(),
            source: SourceId::new("chain:31337"),
            interest: Arc::new(interest),
            cursor: None,
            token: 0,
            max: 32,
            skipped: 0,
            reorgs: vec![],
        }
    }
}

pub fn blocks() -> Interest {
    Interest { blocks: Blocks::All, logs: vec![], start_block: None, hold: Hold::Latest }
}

pub fn all_logs() -> LogFilter {
    LogFilter { addresses: Default::default(), topics: Default::default(), from_block: 0 }
}

pub fn logs() -> Interest {
    Interest { blocks: Blocks::None, logs: vec![all_logs()], start_block: None, hold: Hold::Latest }
}

/// A module, as the chain actor sees one.
pub struct Reader {
    chain: ActorRef<ChainMsg>,
    mailbox: ActorRef<SourceReply>,
    replies: mpsc::Receiver<SourceReply>,
    pub module: Arc<str>,
    pub source: SourceId,
    pub interest: Arc<Interest>,
    pub cursor: Option<Cursor>,
    pub token: u64,
    pub max: usize,
    pub skipped: u64,
    pub reorgs: Vec<nexum_host_ifaces::event::Reorg>,
}

impl Reader {
    pub fn pull(&mut self) {
        self.token += 1;
        let pull = ChainPull {
            module: self.module.clone(),
            source: self.source.clone(),
            token: self.token,
            after: self.cursor.clone(),
            interest: self.interest.clone(),
            size: AnswerSize { deliveries_max: self.max, blocks_min: 64 },
            to: self.mailbox.get_derived(),
        };
        self.chain.send_message(ChainMsg::Pull(pull)).unwrap();
    }

    /// The answer to the pull, if it is there already.
    pub fn answered(&mut self) -> Option<Answer> {
        self.replies.try_recv().ok().map(|reply| reply.answer)
    }

    pub async fn answer(&mut self) -> Answer {
        let reply = tokio::time::timeout(PATIENCE, self.replies.recv()).await;
        let reply = reply.expect("the pull was never answered").unwrap();
        assert_eq!(reply.token, self.token);
        assert_eq!(reply.source, self.source);
        reply.answer
    }

    /// The answer to the last pull, whatever becomes of those before.
    pub async fn last_answer(&mut self) -> Answer {
        loop {
            let reply = tokio::time::timeout(PATIENCE, self.replies.recv()).await;
            let reply = reply.expect("the pull was never answered").unwrap();
            if reply.token == self.token {
                return reply.answer;
            }
        }
    }

    /// Pulls, takes the answer and moves the cursor; a reorg moves it to the ancestor.
    pub async fn next(&mut self) -> Vec<Delivery> {
        self.pull();
        match self.answer().await {
            Answer::Events { deliveries, progress, skipped } => {
                self.skipped += skipped;
                if let Some(last) = deliveries.last() {
                    let Cursor::Chain { number: last, .. } = last.cursor else { panic!("{last:?}") };
                    let Some(Cursor::Chain { number, .. }) = progress else { panic!("{progress:?}") };
                    assert!(number >= last);
                }
                self.cursor = progress;
                deliveries
            }
            Answer::Reorg(reorg) => {
                self.cursor = Some(Cursor::block(reorg.ancestor.0, reorg.ancestor.1));
                self.reorgs.push(reorg);
                vec![]
            }
            Answer::Stuck { reason } => panic!("stuck: {reason}"),
        }
    }

    /// Follows the chain until the cursor is past all of block `number` with this hash; what was retracted is dropped.
    pub async fn until(&mut self, number: u64, hash: Option<Hash>, into: &mut Vec<Delivery>) {
        let reached = |cursor: &Option<Cursor>| match cursor {
            Some(Cursor::Chain { number: at, hash: at_hash, part: Part::Block }) => {
                *at > number || (*at == number && (hash.is_none() || *at_hash == hash))
            }
            _ => false,
        };
        let follow = async {
            while !reached(&self.cursor) {
                let reorgs = self.reorgs.len();
                let deliveries = self.next().await;
                if self.reorgs.len() > reorgs {
                    let ancestor = self.reorgs[reorgs].ancestor.0;
                    into.retain(|delivery| delivery.id.block().unwrap().1 <= ancestor);
                }
                into.extend(deliveries);
            }
        };
        tokio::time::timeout(PATIENCE, follow).await.expect("the block was never reached");
    }
}

pub fn id(delivery: &Delivery) -> (&'static str, u64, Hash) {
    match delivery.id {
        EventId::Block { number, hash, .. } => ("block", number, hash),
        EventId::Logs { number, hash, .. } => ("logs", number, hash),
        _ => panic!("{delivery:?}"),
    }
}

pub fn kinds(deliveries: &[Delivery]) -> Vec<(&'static str, u64)> {
    deliveries.iter().map(id).map(|(kind, number, _)| (kind, number)).collect()
}

pub fn logs_of(delivery: &Delivery) -> &[Log] {
    match &*delivery.event {
        Event::Logs(logs) => logs,
        other => panic!("{other:?}"),
    }
}

/// The block events are exactly these blocks, in order.
pub fn assert_blocks(deliveries: &[Delivery], expected: &[(u64, Hash)]) {
    let got: Vec<(u64, Hash)> =
        deliveries.iter().map(id).filter(|id| id.0 == "block").map(|(_, number, hash)| (number, hash)).collect();
    assert_eq!(got, expected);
}
