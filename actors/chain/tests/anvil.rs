//! The actor over real nodes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod support;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use nexum_host_ifaces::{
    Hash, HostErrorKind,
    event::Delivery,
    interfaces::chain::port::{Blocks, Hold, Interest},
};
use serde_json::json;
use support::{
    Reader, all_logs,
    anvil::{Anvil, LOGGER, Liar, Mode, REVERTER, Relay},
    assert_blocks, config, configured, id, logs_of, rpc,
};

fn everything() -> Interest {
    Interest { blocks: Blocks::All, logs: vec![all_logs()], start_block: Some(1), hold: Hold::Latest }
}

/// What was delivered is the chain: every block once, every log once, the logs before their block.
async fn assert_complete(anvil: &Anvil, deliveries: &[Delivery]) {
    assert_blocks(deliveries, &anvil.hashes(1).await);
    let mut logs = vec![];
    let mut block = 0;
    for delivery in deliveries {
        let (kind, number, hash) = id(delivery);
        if kind == "block" {
            assert_eq!(number, block + 1);
            block = number;
            continue;
        }
        assert_eq!(number, block + 1, "logs come before their own block");
        for log in logs_of(delivery) {
            assert_eq!((log.block_number, log.block_hash.as_slice()), (number, hash.0.as_slice()));
            assert!(log.block_timestamp > 1_600_000_000_000, "{}", log.block_timestamp);
            logs.push((log.block_number, log.log_index, log.data.clone()));
        }
    }
    assert_eq!(logs, anvil.logs(1).await);
}

async fn reach_head(reader: &mut Reader, anvil: &Anvil, into: &mut Vec<Delivery>) {
    let (number, hash) = anvil.head().await;
    reader.until(number, Some(hash), into).await;
}

async fn follows_without_gap(anvil: &Anvil, url: String) {
    let chain = rpc(&[url]).await;
    let mut reader = chain.reader("a", everything()).await;
    let mut all = vec![];
    reach_head(&mut reader, anvil, &mut all).await;
    for _ in 0..4 {
        anvil.mine_with_logs(5).await;
        anvil.mine(7).await;
        reach_head(&mut reader, anvil, &mut all).await;
    }
    assert_complete(anvil, &all).await;
    let newest = all.iter().rev().find(|delivery| delivery.id.kind() == "block").unwrap();
    assert!(newest.seen_ns > 0);
    let status = chain.status().await;
    assert!(status.connected);
    assert_eq!(status.blocks_behind, 0);
}

#[tokio::test]
async fn blocks_and_logs_come_without_gap_over_websocket_and_http() {
    let anvil = Anvil::start().await;
    anvil.mine_with_logs(40).await;
    anvil.mine(600).await;
    anvil.mine_with_logs(10).await;
    follows_without_gap(&anvil, anvil.ws()).await;
    follows_without_gap(&anvil, anvil.http()).await;
}

#[tokio::test]
async fn another_endpoint_takes_over_when_one_is_cut_or_stalls_and_the_better_one_returns() {
    let anvil = Anvil::start().await;
    anvil.mine(2).await;
    let (first, second) = (Relay::to(anvil.port).await, Relay::to(anvil.port).await);
    for (urls, mode) in [
        ([first.ws(), second.ws()], Mode::Cut),
        ([first.http(), second.ws()], Mode::Cut),
        ([first.ws(), second.http()], Mode::Stalled),
        ([first.http(), second.http()], Mode::Stalled),
    ] {
        let chain = rpc(&urls).await;
        let mut reader = chain.reader("a", everything()).await;
        let mut all = vec![];
        reach_head(&mut reader, &anvil, &mut all).await;
        chain.status_when(|status| status.endpoints.iter().all(|endpoint| endpoint.healthy)).await;
        first.set(mode);
        anvil.mine_with_logs(6).await;
        reach_head(&mut reader, &anvil, &mut all).await;
        let status = chain.status_when(|status| !status.endpoints[0].healthy).await;
        assert!(status.connected);
        assert!(status.endpoints[0].last_error.is_some());
        assert!(chain.metric("nexum_rpc_fallbacks_total") >= 1.0);
        let answer = chain.request("eth_blockNumber", "[]").await.unwrap();
        assert_eq!(answer, format!("\"{:#x}\"", anvil.head().await.0));
        first.set(Mode::Open);
        chain.status_when(|status| status.endpoints[0].healthy).await;
        second.set(Mode::Cut);
        anvil.mine_with_logs(6).await;
        reach_head(&mut reader, &anvil, &mut all).await;
        second.set(Mode::Open);
        assert_complete(&anvil, &all).await;
    }
}

#[tokio::test]
async fn a_node_that_is_killed_and_started_again_is_picked_up_without_gap() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state.json");
    let mut anvil = Anvil::start_with(&["--state", state.to_str().unwrap()]).await;
    anvil.mine_with_logs(5).await;
    let urls = [anvil.ws()];
    let chain = rpc(&urls).await;
    let mut reader = chain.reader("a", everything()).await;
    let mut all = vec![];
    reach_head(&mut reader, &anvil, &mut all).await;
    for _ in 0..2 {
        anvil.stop();
        chain.status_when(|status| !status.connected).await;
        let error = chain.request("eth_blockNumber", "[]").await.unwrap_err();
        assert_eq!(error.kind, HostErrorKind::Unavailable);
        anvil.start_again();
        anvil.mine_with_logs(10).await;
        reach_head(&mut reader, &anvil, &mut all).await;
    }
    assert_complete(&anvil, &all).await;
    assert!(chain.metric("nexum_subscription_reconnects_total") >= 2.0);
}

#[tokio::test]
async fn a_node_that_is_unreachable_at_boot_is_waited_for() {
    let mut anvil = Anvil::start().await;
    anvil.kill();
    let chain = rpc(&[anvil.ws()]).await;
    let mut reader = chain.reader("a", support::blocks()).await;
    reader.pull();
    let status = chain.status_when(|status| status.endpoints[0].last_error.is_some()).await;
    assert!(!status.connected);
    assert_eq!(status.head, None);
    anvil.start_again();
    reader.answer().await;
    assert!(chain.status().await.connected);
}

#[tokio::test]
async fn a_frozen_node_is_noticed_and_followed_again_when_it_thaws() {
    let anvil = Anvil::start().await;
    anvil.mine(2).await;
    for url in [anvil.ws(), anvil.http()] {
        let chain = rpc(&[url]).await;
        let mut reader = chain.reader("a", everything()).await;
        let mut all = vec![];
        reach_head(&mut reader, &anvil, &mut all).await;
        anvil.signal("STOP");
        chain.status_when(|status| !status.connected).await;
        anvil.signal("CONT");
        anvil.mine_with_logs(4).await;
        reach_head(&mut reader, &anvil, &mut all).await;
        assert_complete(&anvil, &all).await;
    }
}

#[tokio::test]
async fn reorgs_of_any_depth_lead_to_the_same_as_a_fresh_reading() {
    let anvil = Anvil::start().await;
    anvil.mine_with_logs(90).await;
    for url in [anvil.ws(), anvil.http()] {
        let chain = rpc(&[url]).await;
        let mut reader = chain.reader("a", everything()).await;
        let mut all = vec![];
        reach_head(&mut reader, &anvil, &mut all).await;
        for depth in [1_u64, 2, 5, 12, 20] {
            let old_head = anvil.head().await;
            anvil.rpc("anvil_reorg", json!([depth, []])).await;
            anvil.mine_with_logs(2).await;
            reach_head(&mut reader, &anvil, &mut all).await;
            assert_complete(&anvil, &all).await;
            let reorg = reader.reorgs.last().expect("no reorg was told");
            assert_eq!(reorg.old_head, old_head);
            assert_eq!(reorg.ancestor.0, old_head.0 - depth);
        }
        assert_eq!(chain.metric("nexum_reorgs_total"), 5.0);
    }
}

#[tokio::test]
async fn a_batch_is_one_post_and_errors_are_carried() {
    let anvil = Anvil::start().await;
    let counting = Liar::before(&anvil, |_, _| {}).await;
    let mut config = config(&[counting.http() + "/v3/secret0123?key=secret0123"]);
    // No polling in between that would be counted too.
    config.poll_interval = std::time::Duration::from_secs(3_600);
    config.stall_after = std::time::Duration::from_secs(3_600);
    let chain = configured(config).await;
    chain.status_when(|status| status.head.is_some()).await;
    let before = counting.posts.load(Ordering::SeqCst);
    let revert = format!(r#"[{{"to":"{REVERTER}"}},"latest"]"#);
    let answers = chain
        .batch(&[("eth_chainId", "[]"), ("eth_call", &revert), ("eth_blockNumber", "[]"), ("eth_nonsense", "[]")])
        .await
        .unwrap();
    assert_eq!(counting.posts.load(Ordering::SeqCst) - before, 1);
    assert_eq!(answers[0].as_deref().unwrap(), "\"0x7a69\"");
    let error = answers[1].as_ref().unwrap_err();
    assert_eq!((error.kind, error.code), (HostErrorKind::InvalidInput, 3));
    assert_eq!(error.data.as_deref(), Some(format!("{:#066x}", 0x2a).as_str()));
    assert_eq!(answers[2].as_deref().unwrap(), "\"0x0\"");
    assert_eq!(answers[3].as_ref().unwrap_err().code, -32601);
    let error = chain.request("eth_call", &revert).await.unwrap_err();
    assert_eq!(error.data.as_deref(), Some(format!("{:#066x}", 0x2a).as_str()));
    let error = chain.request("eth_call", "[").await.unwrap_err();
    assert_eq!(error.kind, HostErrorKind::InvalidInput);
    let text = prometheus::TextEncoder::new().encode_to_string(&chain.registry.gather()).unwrap();
    assert!(!text.contains("secret0123") && !format!("{:?}", chain.status().await).contains("secret0123"));
    assert!(text.contains(r#"method="other""#), "{text}");
}

#[tokio::test]
async fn an_endpoint_of_another_chain_is_refused_by_name() {
    let (right, wrong) = (Anvil::start().await, Anvil::start_with(&["--chain-id", "5"]).await);
    let chain = rpc(&[wrong.ws(), right.ws()]).await;
    let mut reader = chain.reader("a", everything()).await;
    right.mine_with_logs(3).await;
    wrong.mine(9).await;
    let mut all = vec![];
    reach_head(&mut reader, &right, &mut all).await;
    assert_complete(&right, &all).await;
    let status = chain.status_when(|status| status.endpoints[0].last_error.is_some()).await;
    assert!(!status.endpoints[0].healthy);
    let error = status.endpoints[0].last_error.clone().unwrap();
    assert_eq!(error, "refused: it serves chain 5, not chain 31337");
}

#[tokio::test]
async fn an_endpoint_that_lies_about_logs_is_avoided_and_nothing_is_lost() {
    let anvil = Anvil::start().await;
    anvil.mine(2).await;
    let lies: [fn(&mut serde_json::Value); 2] = [
        |answer| answer["result"] = json!([]),
        |answer| {
            for log in answer["result"].as_array_mut().into_iter().flatten() {
                log["blockHash"] = json!(Hash([7; 32]).to_string());
            }
        },
    ];
    for lie in lies {
        let liar = Liar::before(&anvil, move |request, answer| {
            if request["method"] == "eth_getLogs" {
                lie(answer);
            }
        })
        .await;
        let chain = rpc(&[liar.http(), anvil.http()]).await;
        let mut reader = chain.reader("a", everything()).await;
        let mut all = vec![];
        reach_head(&mut reader, &anvil, &mut all).await;
        anvil.mine_with_logs(3).await;
        reach_head(&mut reader, &anvil, &mut all).await;
        assert_complete(&anvil, &all).await;
        let status = chain.status().await;
        let error = status.endpoints[0].last_error.clone().unwrap_or_default();
        assert!(error.contains("a wrong answer"), "{error}");
    }
}

#[tokio::test]
async fn a_range_that_is_refused_is_halved_until_it_is_not_and_undated_logs_are_dated() {
    let anvil = Anvil::start().await;
    anvil.mine_with_logs(60).await;
    anvil.mine(1_000).await;
    let largest = Arc::new(AtomicUsize::new(0));
    let seen = largest.clone();
    let picky = Liar::before(&anvil, move |request, answer| {
        let filter = &request["params"][0];
        let number = |key: &str| {
            let text = filter[key].as_str().unwrap_or("0x0").trim_start_matches("0x");
            u64::from_str_radix(text, 16).unwrap()
        };
        if request["method"] == "eth_getLogs" && filter.get("fromBlock").is_some() {
            let span = number("toBlock") - number("fromBlock") + 1;
            if span > 25 {
                let error = json!({"code": -32005, "message": "query returned more than 10000 results"});
                *answer = json!({"jsonrpc": "2.0", "id": request["id"], "error": error});
            } else {
                seen.fetch_max(span as usize, Ordering::SeqCst);
                for log in answer["result"].as_array_mut().into_iter().flatten() {
                    log.as_object_mut().unwrap().remove("blockTimestamp");
                }
            }
        }
    })
    .await;
    let chain = rpc(&[picky.http()]).await;
    let mut filter = all_logs();
    filter.addresses.insert(LOGGER.parse().unwrap());
    let interest = Interest { blocks: Blocks::None, logs: vec![filter], start_block: Some(1), hold: Hold::Latest };
    let mut reader = chain.reader("a", interest).await;
    let mut all = vec![];
    reader.until(61, None, &mut all).await;
    let logs: Vec<_> = all.iter().flat_map(logs_of).collect();
    assert!(logs.iter().all(|log| log.block_timestamp > 1_600_000_000_000));
    let got: Vec<_> = logs.iter().map(|log| (log.block_number, log.log_index, log.data.clone())).collect();
    assert_eq!(got, anvil.logs(1).await);
    assert!(largest.load(Ordering::SeqCst) > 10);
}

#[tokio::test]
async fn many_modules_cost_one_subscription_and_one_read_of_logs_per_block() {
    let anvil = Anvil::start().await;
    let counting = Liar::before(&anvil, |_, _| {}).await;
    let chain = rpc(&[counting.http()]).await;
    let mut readers = vec![];
    for nth in 0..200 {
        let interest = Interest { start_block: None, ..everything() };
        let mut reader = chain.reader(&format!("m{nth}"), interest).await;
        reader.next().await;
        reader.pull();
        readers.push(reader);
    }
    anvil.mine_with_logs(1).await;
    for reader in &mut readers {
        reader.answer().await;
    }
    let text = prometheus::TextEncoder::new().encode_to_string(&chain.registry.gather()).unwrap();
    let reads = text.lines().find(|line| line.starts_with("nexum_rpc_requests_total") && line.contains("eth_getLogs"));
    assert!(reads.unwrap().ends_with(" 1"), "{reads:?}");
}
