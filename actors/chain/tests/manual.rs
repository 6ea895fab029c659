//! The actor over a mock chain that the test moves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod support;

use std::sync::Arc;

use nexum_chain::{
    History, Source,
    mock::{FaultKind, Fixture, MockChain},
};
use nexum_host_ifaces::{
    Address, Hash,
    event::{Answer, Cursor, Part},
    interfaces::chain::port::{Blocks, ChainMsg, Hold, Interest, LogFilter},
    port::Port,
    store::StoreMsg,
};
use ractor::Actor;
use support::{Sink, all_logs, assert_blocks, blocks, kinds, logs, logs_of, manual, start_keeping, start_with};
use tokio::sync::mpsc;

fn chain() -> MockChain {
    MockChain::new(Fixture::empty(31337))
}

fn address(n: u8) -> Address {
    Address([n; 20])
}

fn topic(n: u8) -> Hash {
    Hash([n; 32])
}

fn of_address(n: u8) -> LogFilter {
    LogFilter { addresses: [address(n)].into(), ..all_logs() }
}

#[tokio::test]
async fn a_first_pull_is_answered_with_the_head_and_then_every_block_follows() {
    let chain = chain();
    chain.mine(5);
    let actor = manual(&chain).await;
    let mut reader = actor.reader("a", blocks()).await;
    assert!(reader.next().await.is_empty());
    let (number, hash) = chain.head();
    assert_eq!(reader.cursor, Some(Cursor::block(number, hash)));
    reader.pull();
    chain.mine(3);
    let Answer::Events { deliveries, .. } = reader.answer().await else { panic!("no events") };
    assert_eq!(kinds(&deliveries)[0], ("block", 6));
    assert!(deliveries[0].seen_ns > 0);
    reader.cursor = deliveries.last().map(|delivery| delivery.cursor.clone());
    let mut all = deliveries;
    reader.until(8, None, &mut all).await;
    assert_blocks(&all, &chain.hashes()[6..]);
    assert_eq!(actor.status().await.head, Some(chain.head()));
}

#[tokio::test]
async fn the_hashes_of_the_chain_that_is_followed_are_told_without_asking_anybody() {
    let chain = chain();
    chain.mine(5);
    let actor = manual(&chain).await;
    let mut reader = actor.reader("a", blocks()).await;
    reader.next().await;
    let (number, hash) = chain.head();
    let asked = |reply| ChainMsg::Followed { numbers: vec![number, number + 1], reply };
    let told = actor.actor.call(asked, None).await.unwrap().unwrap();
    assert_eq!(told, [Some(hash), None], "above the head there is none");
}

#[tokio::test]
async fn the_logs_of_a_block_come_before_it_and_history_is_complete() {
    let chain = chain();
    for number in 1..=700_u64 {
        if number % 3 == 0 {
            chain.emit(address(1), vec![topic(1)], vec![number as u8]);
            chain.emit(address(2), vec![topic(2)], vec![number as u8]);
        }
        chain.mine(1);
    }
    let actor = manual(&chain).await;
    let interest = Interest {
        blocks: Blocks::All,
        logs: vec![of_address(1), LogFilter { addresses: [address(2)].into(), from_block: 600, ..all_logs() }],
        start_block: Some(1),
        hold: Hold::Latest,
    };
    let mut reader = actor.reader("a", interest).await;
    let mut all = vec![];
    reader.until(700, None, &mut all).await;
    let expected =
        (1..=700).flat_map(|n| if n % 3 == 0 { vec![("logs", n), ("block", n)] } else { vec![("block", n)] });
    assert_eq!(kinds(&all), expected.collect::<Vec<_>>());
    for delivery in all.iter().filter(|delivery| delivery.id.kind() == "logs") {
        let number = delivery.id.block().unwrap().1;
        assert_eq!(logs_of(delivery).len(), if number >= 600 { 2 } else { 1 });
        let Cursor::Chain { part, .. } = delivery.cursor else { panic!() };
        assert_eq!(part, Part::Logs);
    }
    // Logs alone: the same ones, and the cursor stands after the whole block.
    let mut reader = actor.reader("b", Interest { start_block: Some(1), logs: vec![of_address(1)], ..logs() }).await;
    let mut only_logs = vec![];
    reader.until(699, None, &mut only_logs).await;
    assert_eq!(kinds(&only_logs), (1..=233).map(|n| ("logs", n * 3)).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_cursor_between_the_logs_and_the_block_goes_on_with_the_block() {
    let chain = chain();
    chain.emit(address(1), vec![], vec![]);
    chain.mine(1);
    let actor = manual(&chain).await;
    let interest = Interest { blocks: Blocks::All, logs: vec![all_logs()], start_block: Some(1), hold: Hold::Latest };
    let mut reader = actor.reader("a", interest).await;
    reader.max = 1;
    assert!(reader.next().await.is_empty());
    assert_eq!(kinds(&reader.next().await), [("logs", 1)]);
    assert_eq!(kinds(&reader.next().await), [("block", 1)]);
}

#[tokio::test]
async fn a_reorg_tells_the_ancestor_and_then_the_new_branch_even_when_the_node_forgot_the_old_one() {
    for remembers in [true, false] {
        for depth in [1, 2, 7, 20, 60] {
            let chain = chain();
            if !remembers {
                chain.forget_orphans();
            }
            chain.mine(80);
            let actor = manual(&chain).await;
            let mut reader = actor.reader("a", Interest { start_block: Some(1), ..blocks() }).await;
            let mut all = vec![];
            reader.until(80, None, &mut all).await;
            let old_head = chain.head();
            reader.pull();
            chain.reorg(depth, depth + 1);
            let Answer::Reorg(reorg) = reader.answer().await else { panic!("no reorg of {depth}") };
            assert_eq!(reorg.ancestor, chain.hashes()[80 - depth as usize]);
            assert_eq!(reorg.old_head, old_head);
            assert_eq!(reorg.new_head, chain.head());
            reader.until(81, Some(chain.head().1), &mut all).await;
            assert_blocks(&all, &chain.hashes()[1..]);
            assert_eq!(actor.status().await.reorgs, 1);
            assert_eq!(actor.metric("nexum_reorgs_total"), 1.0);
        }
    }
}

#[tokio::test]
async fn a_shorter_branch_is_followed_before_it_outgrows_the_old_one() {
    let chain = chain();
    chain.mine(30);
    let actor = manual(&chain).await;
    let mut reader = actor.reader("a", Interest { start_block: Some(1), ..blocks() }).await;
    let mut all = vec![];
    reader.until(30, None, &mut all).await;
    reader.pull();
    chain.reorg(10, 2);
    let Answer::Reorg(reorg) = reader.answer().await else { panic!("no reorg") };
    assert_eq!((reorg.ancestor.0, reorg.old_head.0, reorg.new_head.0), (20, 30, 22));
    all.retain(|delivery| delivery.id.block().unwrap().1 <= 20);
    reader.cursor = Some(Cursor::block(reorg.ancestor.0, reorg.ancestor.1));
    chain.mine(20);
    reader.until(42, None, &mut all).await;
    assert_blocks(&all, &chain.hashes()[1..]);
}

#[tokio::test]
async fn a_reorg_while_down_is_found_with_the_kept_headers_and_named_without_them() {
    let chain = chain();
    chain.forget_orphans();
    chain.mine(500);
    let first = manual(&chain).await;
    let mut reader = first.reader("a", blocks()).await;
    reader.next().await;
    let cursor = reader.cursor.clone();
    let ancestor = chain.hashes()[495];
    let kept = first.history.headers();
    drop(first);
    chain.reorg(5, 400);

    let second = start_with(Source::Manual(chain.clone()), History::new(200, kept)).await;
    let mut reader = second.reader("a", blocks()).await;
    reader.cursor = cursor.clone();
    reader.pull();
    let Answer::Reorg(reorg) = reader.answer().await else { panic!("no reorg") };
    assert_eq!(reorg.ancestor, ancestor);

    let third = manual(&chain).await;
    let mut reader = third.reader("a", blocks()).await;
    reader.cursor = cursor;
    reader.pull();
    let Answer::Stuck { reason } = reader.answer().await else { panic!("not stuck") };
    assert!(reason.contains("block 500 of the cursor is on a dead branch"), "{reason}");
}

#[tokio::test]
async fn a_pull_that_replaces_an_answered_one_is_answered_too() {
    let chain = chain();
    chain.mine(100);
    let actor = manual(&chain).await;
    let mut reader = actor.reader("a", Interest { start_block: Some(50), ..blocks() }).await;
    reader.next().await;
    for _ in 0..200 {
        // Both may be taken in before either is answered, as when a service comes back while a module pulls.
        reader.pull();
        reader.pull();
        reader.last_answer().await;
    }
}

#[tokio::test]
async fn nothing_is_delivered_before_the_store_has_the_headers_of_it() {
    let chain = chain();
    chain.mine(100);
    let port = Port::new("store");
    let actor = start_keeping(Source::Manual(chain.clone()), History::default(), Some(port.clone())).await;
    let mut reader = actor.reader("a", Interest { start_block: Some(100), ..blocks() }).await;
    reader.pull();
    actor.status_when(|status| status.head.is_some() && status.waiting_modules == 0).await;
    assert!(reader.answered().is_none(), "the store is down");

    // Pulled anew, as a module does that was started again meanwhile.
    reader.pull();
    actor.status_when(|status| status.waiting_modules == 0).await;
    let (sender, mut stored) = mpsc::channel(1_024);
    let (store, _) = Actor::spawn(None, Sink, sender.clone()).await.unwrap();
    port.bind(store.clone());
    let Answer::Events { progress, .. } = reader.answer().await else { panic!("no events") };
    reader.cursor = progress;
    let mut kept = vec![];
    let mut drain = |stored: &mut mpsc::Receiver<StoreMsg>| {
        while let Ok(message) = stored.try_recv() {
            let StoreMsg::PutHeaders { headers, chain_id: 31337, .. } = message else { panic!("{message:?}") };
            kept.extend(headers.iter().map(|link| link.number));
        }
        kept.sort_unstable();
        kept.clone()
    };
    // Down to where a fork of the head could begin, although nobody was given those blocks.
    assert_eq!(drain(&mut stored), (36..=100).collect::<Vec<_>>());

    // The store dies, and another takes its place.
    port.unbind();
    chain.mine(2);
    actor.status_when(|status| status.head == Some(chain.head())).await;
    reader.pull();
    actor.status_when(|status| status.waiting_modules == 0).await;
    assert!(reader.answered().is_none(), "the headers of two blocks are in memory alone");
    port.bind(store);
    let Answer::Events { deliveries, .. } = reader.answer().await else { panic!("no events") };
    assert_eq!(kinds(&deliveries), [("block", 100), ("block", 101), ("block", 102)]);
    assert_eq!(drain(&mut stored), (36..=102).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_held_subscription_sees_blocks_only_when_they_are_old_enough() {
    let chain = chain();
    chain.mine(40);
    chain.set_safe_lag(4);
    let actor = manual(&chain).await;
    let cases = [(Hold::Confirmations(3), 37), (Hold::Safe, 36), (Hold::Finalized, 32)];
    for (hold, at) in cases {
        let mut reader = actor.reader(&format!("{hold:?}"), Interest { hold, ..blocks() }).await;
        reader.next().await;
        assert_eq!(reader.cursor, Some(Cursor::block(at, chain.hashes()[at as usize].1)), "{hold:?}");
    }
    let mut reader = actor.reader("b", Interest { hold: Hold::Safe, ..blocks() }).await;
    reader.next().await;
    reader.pull();
    chain.reorg(3, 3);
    chain.mine(2);
    let Answer::Events { deliveries, .. } = reader.answer().await else { panic!("a held block was retracted") };
    assert_eq!(kinds(&deliveries)[0], ("block", 37));
    assert_eq!(deliveries[0].cursor, Cursor::block(37, chain.hashes()[37].1));
}

#[tokio::test]
async fn the_newest_block_alone_is_delivered_to_who_asks_for_it_and_the_rest_is_counted() {
    let chain = chain();
    chain.mine(1_000);
    let actor = manual(&chain).await;
    let interest = Interest { blocks: Blocks::Latest, start_block: Some(1), ..blocks() };
    let mut reader = actor.reader("a", interest).await;
    let mut all = vec![];
    reader.until(1_000, None, &mut all).await;
    assert_eq!(kinds(&all), [("block", 1_000)]);
    assert_eq!(reader.skipped, 999);
}

#[tokio::test]
async fn an_idle_cursor_learns_where_it_stands() {
    let chain = chain();
    chain.mine(1);
    let actor = manual(&chain).await;
    let mut reader = actor.reader("a", Interest { logs: vec![of_address(9)], ..logs() }).await;
    reader.next().await;
    reader.pull();
    for _ in 0..63 {
        chain.mine(1);
    }
    actor.status_when(|status| status.head == Some(chain.head())).await;
    assert!(reader.answered().is_none(), "63 blocks are not worth a write");
    chain.mine(1);
    let Answer::Events { deliveries, progress, .. } = reader.answer().await else { panic!() };
    assert!(deliveries.is_empty());
    assert_eq!(progress, Some(Cursor::block(65, chain.head().1)));
}

#[tokio::test]
async fn a_new_pull_replaces_the_old_one_and_forget_drops_it() {
    let chain = chain();
    let actor = manual(&chain).await;
    let mut reader = actor.reader("a", blocks()).await;
    reader.next().await;
    reader.pull();
    reader.pull();
    assert_eq!(actor.status().await.waiting_modules, 1);
    chain.mine(1);
    let Answer::Events { deliveries, progress, .. } = reader.answer().await else { panic!() };
    assert_eq!(deliveries.len(), 1);
    reader.cursor = progress;
    reader.pull();
    actor.actor.send_message(ChainMsg::Forget { module: "a".into() }).unwrap();
    assert_eq!(actor.status().await.waiting_modules, 0);
    chain.mine(1);
    actor.status_when(|status| status.head == Some(chain.head())).await;
    assert!(reader.answered().is_none());
}

#[tokio::test]
async fn events_are_shared_by_all_who_get_the_same() {
    let chain = chain();
    let actor = manual(&chain).await;
    let interest = Interest { blocks: Blocks::All, logs: vec![of_address(1)], ..blocks() };
    let mut readers = vec![];
    for name in ["a", "b"] {
        let mut reader = actor.reader(name, interest.clone()).await;
        reader.next().await;
        reader.pull();
        readers.push(reader);
    }
    chain.emit(address(1), vec![], vec![1]);
    chain.emit(address(2), vec![], vec![2]);
    chain.mine(1);
    let mut events = vec![];
    for reader in &mut readers {
        let Answer::Events { deliveries, .. } = reader.answer().await else { panic!() };
        assert_eq!(kinds(&deliveries), [("logs", 1), ("block", 1)]);
        events.push(deliveries);
    }
    assert!(Arc::ptr_eq(&events[0][0].event, &events[1][0].event));
    assert!(Arc::ptr_eq(&events[0][1].event, &events[1][1].event));
}

#[tokio::test]
async fn a_module_that_comes_later_gets_logs_that_the_blocks_were_not_read_for() {
    let chain = chain();
    let actor = manual(&chain).await;
    let mut first = actor.reader("a", Interest { logs: vec![of_address(1)], ..logs() }).await;
    first.next().await;
    first.pull();
    chain.emit(address(1), vec![], vec![]);
    chain.emit(address(2), vec![], vec![]);
    chain.mine(1);
    first.answer().await;
    let interest = Interest { logs: vec![of_address(2)], start_block: Some(1), ..logs() };
    let mut second = actor.reader("b", interest).await;
    second.next().await;
    let deliveries = second.next().await;
    assert_eq!(kinds(&deliveries), [("logs", 1)]);
    assert_eq!(logs_of(&deliveries[0])[0].address, address(2).0);
}

#[tokio::test]
async fn failed_reads_are_tried_again() {
    let chain = chain();
    let actor = manual(&chain).await;
    let mut reader = actor.reader("a", Interest { blocks: Blocks::All, ..logs() }).await;
    reader.next().await;
    reader.pull();
    chain.fail("logs", FaultKind::Error, 2);
    chain.fail("headers", FaultKind::Error, 2);
    chain.fail("heads", FaultKind::Error, 2);
    chain.emit(address(1), vec![], vec![]);
    chain.mine(1);
    chain.mine(2);
    let mut all = vec![];
    let Answer::Events { deliveries, progress, .. } = reader.answer().await else { panic!() };
    all.extend(deliveries);
    reader.cursor = progress;
    reader.until(3, None, &mut all).await;
    assert_eq!(kinds(&all), [("logs", 1), ("block", 1), ("block", 2), ("block", 3)]);
}

#[tokio::test]
async fn the_demo_fixture_has_a_price_that_moves_and_transfers() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/chains/demo.toml");
    let chain = MockChain::new(Fixture::parse(&path, &std::fs::read_to_string(&path).unwrap()).unwrap());
    chain.mine(60);
    let actor = manual(&chain).await;
    let call = |to: &str, data: &str, block: &str| format!(r#"[{{"to":"{to}","data":"{data}"}},"{block}"]"#);
    let feed = "0x5FbDB2315678afecb367f032d93F642f64180aa3";
    let mut prices = std::collections::BTreeSet::new();
    for block in 1..50 {
        let answer = actor.request("eth_call", &call(feed, "0xfeaf968c", &format!("{block:#x}"))).await.unwrap();
        assert_eq!(answer.len(), 2 + 2 + 5 * 64);
        let price = u64::from_str_radix(&answer[2 + 1 + 64 + 48..2 + 1 + 128], 16).unwrap();
        assert!((280_000_000_000..320_000_000_000).contains(&price), "{price}");
        prices.insert(price);
    }
    assert!(prices.len() > 40, "the price does not move");
    let decimals = actor.request("eth_call", &call(feed, "0x313ce567", "latest")).await.unwrap();
    assert!(decimals.ends_with("08\""), "{decimals}");
    let token = "0xe7f1725E7734CE288F8367e1Bb143E90bb3F0512".parse().unwrap();
    let filter = LogFilter { addresses: [token].into(), ..all_logs() };
    let mut reader = actor.reader("a", Interest { logs: vec![filter], start_block: Some(1), ..logs() }).await;
    let mut transfers = vec![];
    reader.until(60, None, &mut transfers).await;
    assert!(transfers.len() > 25, "{}", transfers.len());
    let answers = actor.batch(&[("eth_blockNumber", "[]"), ("eth_nonsense", "[]")]).await.unwrap();
    assert_eq!(answers[0].as_deref().ok(), Some("\"0x4c\""));
    assert_eq!(answers[1].as_ref().unwrap_err().code, -32601);
}

#[tokio::test]
async fn a_fixture_plays_by_itself_with_its_script_its_reorg_and_its_faults() {
    let text = r#"
        chain_id = 31337
        block_interval_ms = 5
        endless = true
        [[block]]
        logs = [{ address = "0x0101010101010101010101010101010101010101", data = "0x07" }]
        [[reorg]]
        at = 12
        depth = 3
        [[fault]]
        method = "eth_call"
        kind = "error"
        count = 1
        [[call]]
        to = "0x0101010101010101010101010101010101010101"
        sequence = ["0x01", "0x02", "0x03"]
        [[call]]
        to = "0x0101010101010101010101010101010101010101"
        data = "0xdead"
        revert = "0xbeef"
    "#;
    let fixture = Fixture::parse(std::path::Path::new("f.toml"), text).unwrap();
    let actor = support::start(Source::Mock(fixture)).await;
    let interest = Interest { logs: vec![of_address(1)], start_block: Some(1), ..blocks() };
    let mut reader = actor.reader("a", interest).await;
    let mut all = vec![];
    reader.until(20, None, &mut all).await;
    assert_eq!(kinds(&all)[..2], [("logs", 1), ("block", 1)]);
    let numbers: Vec<u64> =
        kinds(&all).iter().filter(|(kind, _)| *kind == "block").map(|(_, number)| *number).collect();
    assert!(numbers.iter().copied().eq(1..=numbers.len() as u64), "{numbers:?}");
    let call = |data: &str, block: &str| {
        format!(r#"[{{"to":"0x0101010101010101010101010101010101010101","data":"{data}"}},"{block}"]"#)
    };
    assert_eq!(actor.request("eth_call", &call("0x", "0x1")).await.unwrap_err().code, -32000);
    assert_eq!(actor.request("eth_call", &call("0x", "0x1")).await.unwrap(), "\"0x02\"");
    assert_eq!(actor.request("eth_call", &call("0x", "latest")).await.unwrap(), "\"0x03\"");
    let error = actor.request("eth_call", &call("0xdead00", "latest")).await.unwrap_err();
    assert_eq!((error.code, error.data.as_deref()), (3, Some("0xbeef")));
}

#[tokio::test]
async fn a_mock_chain_is_one_endpoint_and_takes_no_transactions() {
    let chain = chain();
    chain.mine(5);
    let actor = manual(&chain).await;
    let (deadline, reply_bytes_max) = (std::time::Duration::from_secs(10), 1_000);
    let each = |reply| ChainMsg::RequestEach {
        module: "m".into(),
        method: "eth_blockNumber".into(),
        params: "[]".into(),
        endpoints_max: 8,
        deadline,
        reply_bytes_max,
        reply,
    };
    let answers = actor.actor.call(each, None).await.unwrap().unwrap();
    assert_eq!((answers.len(), answers[0].answer.as_deref()), (1, Ok("\"0x5\"")));
    let broadcast = |reply| ChainMsg::Broadcast { raw: [1, 2].into(), deadline, reply };
    let answers = actor.actor.call(broadcast, None).await.unwrap().unwrap();
    let refusal = answers[0].answer.as_ref().unwrap_err();
    assert_eq!(refusal.message, "the method eth_sendRawTransaction does not exist");
}
