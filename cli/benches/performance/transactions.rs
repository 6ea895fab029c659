//! Transactions of an account: how soon a log is answered with one, and how many are mined in a second. The floor is a program
//! that does the same with alloy alone, against the same node, and that forgets everything when it dies.
//!
//! Both are watched from outside: the time begins when the node tells a bystander of the block, and ends when it tells another
//! one of the transaction, or when the last one is mined. A node whose connections wait to fill their packets tells the same one
//! nothing further for 40 ms: they are two, and each was told nothing for longer than that.

use std::{
    fs,
    future::ready,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Duration,
};

use alloy::{
    network::EthereumWallet,
    primitives::{Address, B256, U256},
    providers::{DynProvider, Provider, ProviderBuilder},
    rpc::types::{Filter, TransactionRequest},
};
use alloy_signer_local::PrivateKeySigner;
use futures::{StreamExt, stream};
use nexum_testkit::{
    ACCOUNTS, EMITTER, KEYSTORE, PATIENCE, SENDS_TRANSACTIONS, bundle, import_key, manifest, transfer_policy,
};
use nexum_testkit_engine::CHAIN;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    dispatch::now,
    figures::{Figures, Goal, quantile},
    process::{Anvil, Engine},
};

/// Whoever makes the logs: not the account that is measured.
const OTHER: &str = ACCOUNTS[1].0;
/// Not counted: until connections are there and code is warm.
const WARM_UP: usize = 5;
/// Between two blocks while many are sent.
const BLOCK_TIME: Duration = Duration::from_millis(50);
/// What the bare program has under way at once.
const AT_ONCE: usize = 16;
/// What the engine has in flight at once: as many as are signed for one module at once.
const IN_FLIGHT: usize = 64;
/// Modules that share the account while many are sent: one event may not send them all.
const SENDERS: usize = 2;

/// How many answers are timed, and how many transactions are sent at once.
pub struct Sizes {
    pub answers: usize,
    pub transactions: usize,
}

pub fn of_an_account(figures: &mut Figures, sizes: &Sizes) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let anvil = Anvil::start();
    let (node, pool, emitters) = runtime.block_on(async {
        let connected = async || ProviderBuilder::new().connect(&anvil.ws()).await.unwrap().erased();
        let (node, pool) = (connected().await, connected().await);
        let mut emitters = Vec::new();
        for _ in 0..SENDERS {
            emitters.push(deploy(&node).await);
        }
        (node, pool, emitters)
    });
    let engine = paying(&anvil, &emitters);
    let (ours, our_rate) = runtime.block_on(async {
        let ours = answers_ms((&node, &pool), emitters[0], sizes.answers, async || {}).await;
        (ours, rate(&node, &emitters, sizes.transactions, async {}).await)
    });
    engine.end();
    let (floor, floor_rate) = runtime.block_on(bare(&anvil, (&node, &pool), &emitters, sizes));
    for (name, of, goal) in [("p50", 0.5, 10.0), ("p99", 0.99, 10.0)] {
        let (value, floor) = (quantile(&ours, of), quantile(&floor, of));
        let name = format!("log seen to transaction at the node, {name}");
        figures.add(name, value, "ms", Some(floor), Goal::Most(goal));
    }
    let name = format!("{} transactions of one account, mined", sizes.transactions);
    figures.add(name, our_rate, "transactions/s", Some(floor_rate), Goal::Slower(2.0));
}

/// An engine with a module for each emitter, which sends a transfer for every log of it; all from one account.
fn paying(anvil: &Anvil, emitters: &[Address]) -> Engine {
    let dir = TempDir::with_prefix("nexum-bench.").unwrap();
    let account = import_key(env!("CARGO_BIN_EXE_nexum"), dir.path(), 0);
    let names: Vec<String> = (0..emitters.len()).map(|nth| format!("payer-{nth}")).collect();
    let policies: String = names.iter().map(|name| transfer_policy(name, account, "")).collect();
    let config = format!(
        "[[chains]]\nchain_id = {CHAIN}\nname = \"anvil\"\n[[chains.endpoints]]\nurl = \"{}\"\n\
         [chains.rpc]\npoll_interval = \"25ms\"\n[chains.transactions]\nmax_in_flight = {IN_FLIGHT}\n{KEYSTORE}{policies}",
        anvil.ws()
    );
    let modules = names.iter().zip(emitters).map(|(name, emitter)| {
        let subscription = format!("kind = \"log\"\nchain_id = {CHAIN}\naddress = \"{emitter}\"\nstart_block = 1");
        let block = format!("kind = \"block\"\nchain_id = {CHAIN}");
        (sender(dir.path(), name, &block, &subscription), String::new())
    });
    let modules: Vec<_> = modules.collect();
    Engine::start(dir, &config, &modules)
}

/// A bundle of the sender with another subscription.
fn sender(dir: &Path, name: &str, block: &str, subscription: &str) -> PathBuf {
    let to = dir.join(name);
    fs::create_dir_all(&to).unwrap();
    symlink(bundle("sender").join("module.wasm"), to.join("module.wasm")).unwrap();
    let mut changes = SENDS_TRANSACTIONS.to_vec();
    changes.extend([("mode = \"lane\"", "mode = \"transfer\""), (block, subscription)]);
    fs::write(to.join("nexum.toml"), manifest("sender", name, &changes)).unwrap();
    to
}

/// The same by a program of a few lines: nonces in memory, gas and fees as alloy fills them in.
async fn bare(
    anvil: &Anvil,
    (node, pool): (&DynProvider, &DynProvider),
    emitters: &[Address],
    sizes: &Sizes,
) -> (Vec<f64>, f64) {
    let signer: PrivateKeySigner = ACCOUNTS[0].1.parse().unwrap();
    let account = signer.address();
    let wallet = EthereumWallet::from(signer);
    let program = ProviderBuilder::new().wallet(wallet).connect(&anvil.ws()).await.unwrap();
    let transfer = |to: Address| TransactionRequest::default().from(account).to(to).value(U256::ONE);
    // What the engine has left at the node is mined first.
    mine(node).await;
    let mut logs = program.subscribe_logs(&Filter::new().address(emitters[0])).await.unwrap();
    let respond = async || {
        let log = logs.recv().await.unwrap();
        let to = Address::from_slice(&log.data().data[12..32]);
        // Nobody waits for its receipt.
        drop(program.send_transaction(transfer(to)).await.unwrap());
    };
    let answers = answers_ms((node, pool), emitters[0], sizes.answers, respond).await;
    mine(node).await;
    let first = node.get_transaction_count(account).await.unwrap();
    let program = &program;
    let sending = stream::iter(0..sizes.transactions as u64).map(|nth| {
        let transaction = transfer(receiver(nth)).nonce(first + nth);
        async move { drop(program.send_transaction(transaction).await.unwrap()) }
    });
    let sending = sending.buffer_unordered(AT_ONCE).for_each(|()| ready(()));
    (answers, rate(node, emitters, sizes.transactions, sending).await)
}

/// For each of some logs of an emitter, one per block: milliseconds from the block to the transaction that it leads to.
/// `respond` is what this process does about a log.
async fn answers_ms(
    (node, pool): (&DynProvider, &DynProvider),
    emitter: Address,
    count: usize,
    mut respond: impl AsyncFnMut(),
) -> Vec<f64> {
    let mut heads = node.subscribe_blocks().await.unwrap();
    let mut pending = pool.subscribe_pending_transactions().await.unwrap();
    let mut answers = Vec::new();
    for nth in 0..WARM_UP + count {
        let call = emit(node, emitter, nth as u64).await;
        let answered = async {
            while pending.recv().await.unwrap() != call {}
            tokio::time::sleep(BLOCK_TIME).await;
            let mined = async {
                heads.recv().await.unwrap();
                let seen = now();
                pending.recv().await.unwrap();
                seen.elapsed()
            };
            let (elapsed, (), ()) = tokio::join!(mined, respond(), mine(node));
            elapsed
        };
        let elapsed = tokio::time::timeout(PATIENCE, answered).await.unwrap();
        answers.push(elapsed.as_secs_f64() * 1e3);
    }
    answers.split_off(WARM_UP)
}

/// Transactions per second, from the block with as many logs until the last transaction is mined. `respond` is what this
/// process does about the logs.
async fn rate(node: &DynProvider, emitters: &[Address], count: usize, respond: impl Future<Output = ()>) -> f64 {
    // What went before is mined.
    mine(node).await;
    let account: Address = ACCOUNTS[0].0.parse().unwrap();
    let before = node.get_transaction_count(account).await.unwrap();
    for nth in 0..count {
        emit(node, emitters[nth % emitters.len()], nth as u64).await;
    }
    let mut heads = node.subscribe_blocks().await.unwrap();
    mine(node).await;
    heads.recv().await.unwrap();
    let seen = now();
    let mined = async {
        while node.get_transaction_count(account).await.unwrap() < before + count as u64 {
            tokio::time::sleep(BLOCK_TIME).await;
            mine(node).await;
        }
        count as f64 / seen.elapsed().as_secs_f64()
    };
    let (rate, ()) = tokio::time::timeout(PATIENCE, async { tokio::join!(mined, respond) }).await.unwrap();
    rate
}

async fn mine(node: &DynProvider) {
    let _: Value = node.raw_request("evm_mine".into(), json!([])).await.unwrap();
}

async fn deploy(node: &DynProvider) -> Address {
    let creation = json!([{"from": OTHER, "data": EMITTER, "gas": "0x100000"}]);
    let hash: B256 = node.raw_request("eth_sendTransaction".into(), creation).await.unwrap();
    mine(node).await;
    let receipt: Value = node.raw_request("eth_getTransactionReceipt".into(), json!([hash])).await.unwrap();
    receipt["contractAddress"].as_str().unwrap().parse().unwrap()
}

/// Leaves a call at the node that emits a log with the receiver of this number; the call's hash.
async fn emit(node: &DynProvider, emitter: Address, nth: u64) -> B256 {
    let call = json!([{"from": OTHER, "to": emitter, "data": receiver(nth).into_word(), "gas": "0xc350"}]);
    node.raw_request("eth_sendTransaction".into(), call).await.unwrap()
}

/// An account that is nobody's.
fn receiver(nth: u64) -> Address {
    Address::from_word(B256::from(U256::from(0xbeef_0000 + nth)))
}
