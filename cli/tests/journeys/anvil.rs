//! A real Anvil node, driven block by block.

use std::process::{Child, Stdio};

use nexum_testkit::{ACCOUNTS, EMITTER, anvil, exchange, signal};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::engine::{eventually, free_port};

/// The first of Anvil's unlocked accounts.
pub const ACCOUNT: &str = ACCOUNTS[0].0;

pub struct Anvil {
    port: u16,
    chain_id: u64,
    dir: TempDir,
    /// Of the genesis block, when it is not the time of the start.
    timestamp: Option<u64>,
    child: Option<Child>,
    extra: Vec<String>,
}

impl Anvil {
    /// A node that mines only when told to, and keeps its chain over a restart.
    pub fn start() -> Self {
        Self::with(31337, &[])
    }

    /// The same with more arguments.
    pub fn start_with(extra: &[&str]) -> Self {
        Self::with(31337, extra)
    }

    /// The same for a chain with another id.
    pub fn of_chain(chain_id: u64) -> Self {
        Self::with(chain_id, &[])
    }

    fn with(chain_id: u64, extra: &[&str]) -> Self {
        let dir = TempDir::with_prefix("nexum-anvil.").unwrap();
        let extra = extra.iter().map(|argument| (*argument).to_owned()).collect();
        let mut anvil = Self { port: free_port(), chain_id, dir, timestamp: None, child: None, extra };
        anvil.launch();
        anvil
    }

    pub fn launch(&mut self) {
        let child = anvil(self.port)
            .args(["--chain-id", &self.chain_id.to_string(), "--silent", "--state"])
            .arg(self.dir.path().join("state.json"))
            .args(["--preserve-historical-states"])
            .args(self.timestamp.map(|timestamp| format!("--timestamp={timestamp}")))
            .args(&self.extra)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("anvil: {error}; run `make test-deps`"));
        self.child = Some(child);
        eventually("anvil answers", || self.try_rpc("eth_chainId", json!([])));
    }

    pub fn ws(&self) -> String {
        format!("ws://127.0.0.1:{}", self.port)
    }

    pub fn http(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Another chain with the same id at the same address: the deepest of all forks.
    pub fn begin_anew(&mut self) {
        self.stop();
        std::fs::remove_file(self.dir.path().join("state.json")).unwrap();
        // Another genesis block each time.
        self.timestamp = Some(self.timestamp.map_or(1_700_000_000, |timestamp| timestamp + 1_000));
        self.launch();
    }

    /// Ends the node so that it writes its state, and waits for that.
    pub fn stop(&mut self) {
        let mut child = self.child.take().unwrap();
        signal(child.id(), "TERM");
        child.wait().unwrap();
    }

    pub fn try_rpc(&self, method: &str, params: Value) -> Result<Value, String> {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string();
        let text = exchange(("127.0.0.1", self.port), "POST", "/", &body).map_err(|error| error.to_string())?;
        let (_, body) = text.split_once("\r\n\r\n").ok_or("no body")?;
        let start = body.find('{').ok_or("no JSON")?;
        let end = body.rfind('}').ok_or("no JSON")?;
        let answer: Value = serde_json::from_str(&body[start..=end]).map_err(|error| error.to_string())?;
        match answer.get("result") {
            Some(result) => Ok(result.clone()),
            None => Err(answer["error"].to_string()),
        }
    }

    pub fn rpc(&self, method: &str, params: Value) -> Value {
        self.try_rpc(method, params).unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    pub fn mine(&self) {
        self.rpc("evm_mine", json!([]));
    }

    /// Puts the chain back to this snapshot, and upon it the one empty block that has this timestamp: always the same one.
    pub fn flip(&self, snapshot: &Value, timestamp: u64) -> Value {
        assert_eq!(self.rpc("evm_revert", json!([snapshot])), true);
        let again = self.snapshot();
        self.rpc("evm_setNextBlockTimestamp", json!([timestamp]));
        self.rpc("anvil_setNextBlockBaseFeePerGas", json!(["0x3b9aca00"]));
        self.mine();
        again
    }

    pub fn snapshot(&self) -> Value {
        self.rpc("evm_snapshot", json!([]))
    }

    /// Seconds since the Unix epoch.
    pub fn timestamp(&self) -> u64 {
        number(&self.rpc("eth_getBlockByNumber", json!(["latest", false]))["timestamp"])
    }

    /// Replaces the newest blocks by as many empty ones; what was in them is gone.
    pub fn reorg(&self, depth: u64) {
        self.rpc("anvil_reorg", json!([depth, []]));
    }

    /// Replaces the newest blocks by as many others, which call the emitter: `(word, nth)` in the nth new block.
    pub fn reorg_with(&self, depth: u64, emitter: &str, calls: &[(u64, u64)]) {
        let call = |(word, nth): &(u64, u64)| json!([{"from": ACCOUNT, "to": emitter, "data": format!("0x{word:064x}"), "gas": "0x100000"}, nth]);
        self.rpc("anvil_reorg", json!([depth, calls.iter().map(call).collect::<Vec<_>>()]));
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn head(&self) -> u64 {
        number(&self.rpc("eth_blockNumber", json!([])))
    }

    /// Number of the block that a tag such as `finalized` stands for.
    pub fn number_of(&self, tag: &str) -> u64 {
        number(&self.rpc("eth_getBlockByNumber", json!([tag, false]))["number"])
    }

    /// Deploys a contract that emits one log per call; its address.
    pub fn deploy_emitter(&self) -> String {
        let hash = self.rpc("eth_sendTransaction", json!([{"from": ACCOUNT, "data": EMITTER, "gas": "0x100000"}]));
        self.mine();
        let receipt = self.rpc("eth_getTransactionReceipt", json!([hash]));
        receipt["contractAddress"].as_str().unwrap().to_owned()
    }

    /// Queues a call of the emitter for the next block.
    pub fn emit(&self, emitter: &str, word: u64) {
        self.emit_word(emitter, &format!("{word:064x}"));
    }

    /// The same with any word, 64 hex digits.
    pub fn emit_word(&self, emitter: &str, word: &str) {
        let call = json!([{"from": ACCOUNT, "to": emitter, "data": format!("0x{word}"), "gas": "0x100000"}]);
        self.rpc("eth_sendTransaction", call);
    }

    /// Wei that an account holds at the head.
    pub fn balance(&self, account: &str) -> u128 {
        let balance = self.rpc("eth_getBalance", json!([account, "latest"]));
        u128::from_str_radix(balance.as_str().unwrap().trim_start_matches("0x"), 16).unwrap()
    }

    /// Hash of every block from `from` to the head.
    pub fn blocks(&self, from: u64) -> Vec<(u64, String)> {
        let block = |number: u64| {
            let block = self.rpc("eth_getBlockByNumber", json!([format!("0x{number:x}"), false]));
            (number, block["hash"].as_str().unwrap().to_owned())
        };
        (from..=self.head()).map(block).collect()
    }

    /// Block, log index and transaction of every log of a contract from `from` on.
    pub fn logs(&self, from: u64, address: &str) -> Vec<(u64, u64, String)> {
        let filter = json!([{"fromBlock": format!("0x{from:x}"), "toBlock": "latest", "address": address}]);
        let logs = self.rpc("eth_getLogs", filter);
        let log = |log: &Value| {
            let transaction = log["transactionHash"].as_str().unwrap().to_owned();
            (number(&log["blockNumber"]), number(&log["logIndex"]), transaction)
        };
        logs.as_array().unwrap().iter().map(log).collect()
    }
}

impl Drop for Anvil {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn number(value: &Value) -> u64 {
    u64::from_str_radix(value.as_str().unwrap().trim_start_matches("0x"), 16).unwrap()
}
