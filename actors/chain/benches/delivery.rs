//! How fast waiting pulls are answered, and how fast history is read, each against a bare loop in the same run.
//!
//! Prints medians; a figure is a ratio to the floor beside it. The second part needs Anvil.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a program for people"
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::{collections::BTreeSet, sync::Arc};

use alloy::{
    eips::BlockNumberOrTag,
    providers::{Provider, ProviderBuilder},
    rpc::types::Filter,
};
use nexum_chain::mock::{Fixture, MockChain};
use nexum_host_ifaces::{
    clock::{Clock, SystemClock},
    event::{Answer, Cursor, Delivery, EventId, SourceId, SourceReply, Subscriber},
    interfaces::chain::port::{AnswerSize, Blocks, ChainMsg, ChainPull, Hold, Interest},
    types::Event,
};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use serde_json::json;
use support::{all_logs, anvil::Anvil, manual, rpc};
use tokio::sync::mpsc;

const PULLS: usize = 10_000;
const ROUNDS: usize = 15;
const HISTORY_BLOCKS: u64 = 6_000;

/// Counts answers; tells when all are there.
struct Counter;

struct Counting {
    seen: usize,
    all: mpsc::Sender<()>,
}

impl Actor for Counter {
    type Msg = SourceReply;
    type State = Counting;
    type Arguments = mpsc::Sender<()>;

    async fn pre_start(&self, _: ActorRef<SourceReply>, all: mpsc::Sender<()>) -> Result<Counting, ActorProcessingErr> {
        Ok(Counting { seen: 0, all })
    }

    async fn handle(
        &self,
        _: ActorRef<SourceReply>,
        reply: SourceReply,
        state: &mut Counting,
    ) -> Result<(), ActorProcessingErr> {
        state.seen += usize::from(matches!(reply.answer, Answer::Events { .. }));
        if state.seen == PULLS {
            state.seen = 0;
            state.all.send(()).await?;
        }
        Ok(())
    }
}

fn median(mut times: Vec<u64>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2] as f64 / 1e9
}

async fn fan_out(clock: &dyn Clock, interest: Interest, name: &str) {
    let chain = MockChain::new(Fixture::empty(31337));
    let actor = manual(&chain).await;
    let (sender, mut all) = mpsc::channel(4);
    let (counter, _) = Actor::spawn(None, Counter, sender).await.unwrap();
    let to: Subscriber = counter.get_derived();
    let interest = Arc::new(interest);
    let modules: Vec<Arc<str>> = (0..PULLS).map(|n| format!("module-{n}").into()).collect();
    let source = SourceId::new("chain:31337");
    let (mut ours, mut pulling, mut floor) = (vec![], vec![], vec![]);
    for round in 0..ROUNDS as u64 {
        let (number, hash) = chain.head();
        let began = clock.monotonic_ns();
        for module in &modules {
            let pull = ChainPull {
                module: module.clone(),
                source: source.clone(),
                token: round,
                after: Some(Cursor::block(number, hash)),
                interest: interest.clone(),
                size: AnswerSize { deliveries_max: 16, blocks_min: 64 },
                to: to.clone(),
            };
            actor.actor.send_message(ChainMsg::Pull(pull)).unwrap();
        }
        actor.status_when(|status| status.waiting_modules == PULLS).await;
        pulling.push(clock.monotonic_ns() - began);
        chain.emit(nexum_host_ifaces::Address([1; 20]), vec![], vec![0; 64]);
        let began = clock.monotonic_ns();
        chain.mine(1);
        all.recv().await.unwrap();
        ours.push(clock.monotonic_ns() - began);

        let (number, hash) = chain.head();
        let event = Arc::new(Event::Logs(vec![]));
        let began = clock.monotonic_ns();
        for _ in 0..PULLS {
            let id = EventId::Block { chain_id: 1, number, hash };
            let cursor = Cursor::block(number, hash);
            let delivery = Delivery { id, event: event.clone(), cursor: cursor.clone(), seen_ns: 1 };
            let answer = Answer::Events { deliveries: vec![delivery], progress: Some(cursor), skipped: 0 };
            to.send_message(SourceReply { source: source.clone(), token: round, answer }).unwrap();
        }
        all.recv().await.unwrap();
        floor.push(clock.monotonic_ns() - began);
    }
    let (ours, pulling, floor) = (median(ours), median(pulling), median(floor));
    println!(
        "{name}: one head, {PULLS} waiting pulls answered in {:.2} ms = {:.0} k/s; floor (bare send loop) {:.2} ms; \
         ratio {:.2}; taking {PULLS} pulls {:.2} ms",
        ours * 1e3,
        PULLS as f64 / ours / 1e3,
        floor * 1e3,
        ours / floor,
        pulling * 1e3
    );
}

async fn backfill(clock: &dyn Clock) {
    let anvil = Anvil::start().await;
    for nth in 0..HISTORY_BLOCKS / 10 {
        for log in 0..5 {
            anvil.log(nth * 10 + log).await;
        }
        anvil.mine(10).await;
    }
    let url = anvil.http();
    let provider = ProviderBuilder::new().connect_http(url.parse().unwrap());
    let began = clock.monotonic_ns();
    let mut logs = 0;
    for from in (1..=HISTORY_BLOCKS).step_by(2_000) {
        let to = (from + 1_999).min(HISTORY_BLOCKS);
        logs += provider.get_logs(&Filter::new().from_block(from).to_block(to)).await.unwrap().len();
    }
    let bare_logs = (clock.monotonic_ns() - began) as f64 / 1e9;
    let began = clock.monotonic_ns();
    let mut hashes = BTreeSet::new();
    for number in 1..=HISTORY_BLOCKS {
        let block = provider.get_block_by_number(BlockNumberOrTag::Number(number)).await.unwrap().unwrap();
        hashes.insert(block.header.hash);
    }
    let bare_blocks = (clock.monotonic_ns() - began) as f64 / 1e9;

    let interests = [
        (
            "logs",
            bare_logs,
            Interest { blocks: Blocks::None, logs: vec![all_logs()], start_block: Some(1), hold: Hold::Latest },
        ),
        (
            "blocks",
            bare_blocks,
            Interest { blocks: Blocks::All, logs: vec![], start_block: Some(1), hold: Hold::Latest },
        ),
    ];
    for (name, bare, interest) in interests {
        let chain = rpc(std::slice::from_ref(&url)).await;
        chain.status_when(|status| status.head.is_some()).await;
        let mut reader = chain.reader("bench", interest).await;
        reader.max = 256;
        let began = clock.monotonic_ns();
        let mut got = vec![];
        reader.until(HISTORY_BLOCKS - 9, None, &mut got).await;
        let ours = (clock.monotonic_ns() - began) as f64 / 1e9;
        // For `target/bench.json`; the goal is 0.8 times the speed of the bare loop.
        println!(
            "{}",
            json!({
                "name": format!("backfill of {HISTORY_BLOCKS} blocks, {name}"),
                "value": ours * 1e3,
                "unit": "ms",
                "floor": bare * 1e3,
                "ratio": ours / bare,
                "goal": "value / floor ≤ 1.25",
                "met": ours / bare <= 1.25,
            })
        );
        println!(
            "backfill of {HISTORY_BLOCKS} blocks with {logs} logs, {name}: {:.1} ms, {} events; \
             floor (bare alloy loop) {:.1} ms; speed {:.2} × the floor",
            ours * 1e3,
            got.len(),
            bare * 1e3,
            bare / ours
        );
    }
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let clock = SystemClock::new();
    runtime.block_on(async {
        fan_out(&clock, support::blocks(), "blocks").await;
        let both = Interest { logs: vec![all_logs()], ..support::blocks() };
        fan_out(&clock, both, "logs and blocks").await;
        backfill(&clock).await;
    });
}
