//! An account of the operator: what the nodes of each chain have of its transactions, and the services of the engine that send
//! them, which are the real ones.
//!
//! The nodes of a chain share what they were sent. A transaction does something in every block that it is in, so each may be on
//! the chain once, whatever is sent again. It carries what its module meant as its data.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::Arc,
    time::Duration,
};

use alloy::{
    consensus::{Transaction as _, TxEnvelope},
    eips::eip2718::Decodable2718 as _,
};
use nexum_cli::status;
use nexum_host_ifaces::{
    Address, blocking::Blocking, clock::Clock, interfaces::identity::port::IdentityMsg, ports::Ports,
    transactions::TransactionsMsg,
};
use nexum_identity::{AnyOf, IdentityMetrics, Method, Policy, Settings, config::Target};
use nexum_kernel::ServiceSpec;
use nexum_transactions::{ChainSettings, TransactionsMetrics};
use prometheus::Registry;
use serde_json::{Value, json};

use crate::{
    block::Block,
    chance::Chance,
    endpoints::{Outcome, Refusal},
    engine::{Actors, Machine},
    receiver::Hit,
    world::{Hash, hexed},
};

/// What stands for the chain where effects name a host.
pub const PAID_HOST: &str = "pay.example";

/// Whom modules may send to.
const PAID: [u8; 20] = [0xee; 20];
const ACCOUNT: &str = "0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266";
const PASSWORD: &str = "simulated";
/// A key that everybody knows, under a password that takes no time.
const KEY_FILE: &str = r#"{"version":4,"address":"0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266","crypto":{
    "kdf":{"function":"pbkdf2","message":"","params":{"dklen":32,"c":1,"prf":"hmac-sha256",
        "salt":"0101010101010101010101010101010101010101010101010101010101010101"}},
    "checksum":{"function":"sha256","params":{},
        "message":"f50da2da202911ef0989bb69778105c56e944ad8f2048744b8241548de71f5d9"},
    "cipher":{"function":"aes-128-ctr","params":{"iv":"02020202020202020202020202020202"},
        "message":"e022daa247ba375b47ed2e4fc8e202d8b8d04f604308dcb90cd659fe9ff740b1"}}}"#;

/// What a unit of gas costs, wei, in a quiet time.
const BASE_FEE: u128 = 7;
/// Blocks that modules want a transaction to be deep, its own counted.
const CONFIRMATIONS: u64 = 3;

/// A transaction that nodes were sent.
#[derive(Debug, Clone)]
struct Sent {
    hash: Hash,
    nonce: u64,
    fee_max: u128,
    /// Its data: module, path and event.
    said: String,
    /// It was so deep that somebody may have been told that it is final: it stays with the nodes when its block goes.
    deep: bool,
}

impl Sent {
    fn read(mut raw: &[u8]) -> Option<Self> {
        let transaction = TxEnvelope::decode_2718(&mut raw).ok()?;
        let said = String::from_utf8(transaction.input().to_vec()).ok()?;
        let (hash, nonce) = (transaction.tx_hash().0, transaction.nonce());
        Some(Self { hash, nonce, fee_max: transaction.max_fee_per_gas(), said, deep: false })
    }
}

/// The account on one chain.
pub struct Accounts {
    chance: Chance,
    /// What waits for a block, by nonce.
    pool: BTreeMap<u64, Sent>,
    /// What was ever in a block.
    known: BTreeMap<Hash, Sent>,
    /// Hashes of what is in a block, by the block's.
    mined: BTreeMap<Hash, Vec<Hash>>,
    base_fee: u128,
    poor: bool,
    calm: bool,
}

impl Accounts {
    pub fn new(chance: Chance) -> Self {
        let (pool, known, mined) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { chance, pool, known, mined, base_fee: BASE_FEE, poor: false, calm: false }
    }

    /// The account's nonce after the blocks of a view up to this one.
    fn nonce(&self, view: &[Arc<Block>], through: u64) -> u64 {
        let blocks = view.iter().take_while(|block| block.number <= through);
        blocks.map(|block| self.mined.get(&block.hash).map_or(0, |mined| mined.len() as u64)).sum()
    }

    /// A block was made on the chain, which ends with it. Fees, the balance and what nodes remember change with time.
    pub fn mine(&mut self, canon: &[Arc<Block>]) {
        if self.chance.percent(10) {
            self.base_fee = *self.chance.pick(&[BASE_FEE, BASE_FEE, 60, 400]);
            self.poor = self.chance.percent(20);
        }
        if self.chance.percent(5) {
            self.pool.retain(|_, sent| sent.deep);
        }
        if self.chance.percent(70) {
            self.include(canon, canon.len().saturating_sub(1));
        }
    }

    /// Puts what can be in a block into the one at this place.
    fn include(&mut self, canon: &[Arc<Block>], place: usize) {
        let Some(block) = canon.get(place).map(|block| block.hash).filter(|_| !self.pool.is_empty()) else { return };
        let mut nonce = self.nonce(canon, u64::MAX);
        self.pool = self.pool.split_off(&nonce);
        while let Some(sent) = self.pool.first_entry().filter(|sent| *sent.key() == nonce) {
            if sent.get().fee_max < self.base_fee {
                return;
            }
            let sent = sent.remove();
            self.mined.entry(block).or_default().push(sent.hash);
            self.known.insert(sent.hash, sent);
            nonce += 1;
        }
    }

    /// The highest blocks go, `depth` of them. Nodes forget some of what was in them.
    pub fn orphan(&mut self, canon: &[Arc<Block>], depth: u64) {
        let gone = canon.len().saturating_sub(usize::try_from(depth).unwrap_or(usize::MAX));
        for (place, block) in canon.iter().enumerate().skip(gone) {
            let deep = canon.len() - place >= CONFIRMATIONS as usize;
            for hash in self.mined.get(&block.hash).into_iter().flatten() {
                let mut sent = self.known[hash].clone();
                sent.deep |= deep;
                if sent.deep || self.chance.percent(50) {
                    self.pool.entry(sent.nonce).or_insert(sent);
                }
            }
        }
    }

    /// No more blocks come: what is in the last ones, and what arrives from now on, counts as being in one as deep as anybody asks
    /// for.
    pub fn calm_down(&mut self, canon: &[Arc<Block>]) {
        (self.calm, self.poor, self.base_fee) = (true, false, BASE_FEE);
        let (_, last) = canon.split_at(canon.len().min(Self::deep(canon) + 1));
        let late: Vec<Hash> = last.iter().filter_map(|block| self.mined.remove(&block.hash)).flatten().collect();
        if let Some(deep) = canon.get(Self::deep(canon)) {
            self.mined.entry(deep.hash).or_default().extend(late);
        }
        self.include_deep(canon);
    }

    fn include_deep(&mut self, canon: &[Arc<Block>]) {
        self.include(canon, Self::deep(canon));
    }

    /// The place of a block that is deep enough.
    fn deep(canon: &[Arc<Block>]) -> usize {
        canon.len().saturating_sub(CONFIRMATIONS as usize + 1)
    }

    /// Bytes come to a node, whose answer then has this outcome. What the node says to them; nothing when it was not reached, or
    /// they are no transaction.
    pub fn sent(&mut self, canon: &[Arc<Block>], params: &Value, outcome: Outcome) -> Option<Result<Value, Refusal>> {
        let sent = Sent::read(&hex::decode(params[0].as_str()?.strip_prefix("0x")?).ok()?)?;
        let arrives = match outcome {
            Outcome::Answer => true,
            Outcome::Refused | Outcome::Status(429) => false,
            Outcome::Lost | Outcome::Status(_) | Outcome::Error => self.chance.percent(50),
        };
        arrives.then(|| self.take(canon, sent).map_err(|words| (-32_000, words.to_owned())))
    }

    fn take(&mut self, canon: &[Arc<Block>], sent: Sent) -> Result<Value, &'static str> {
        if sent.nonce < self.nonce(canon, u64::MAX) {
            return Err("nonce too low");
        }
        match self.pool.get(&sent.nonce) {
            Some(there) if there.hash == sent.hash => return Err("already known"),
            Some(there) if sent.fee_max * 10 < there.fee_max * 11 => return Err("replacement transaction underpriced"),
            Some(_) | None => {}
        }
        if self.poor {
            return Err("insufficient funds for gas * price + value");
        }
        let hash = hexed(sent.hash);
        self.pool.insert(sent.nonce, sent);
        if self.calm {
            self.include_deep(canon);
        }
        Ok(hash.into())
    }

    /// What a node with this view says of the account; nothing when it is asked for something else.
    pub fn answer(&self, view: &[Arc<Block>], method: &str, params: &Value) -> Option<Result<Value, Refusal>> {
        let quantity = |number: u128| Ok(json!(format!("{number:#x}")));
        Some(match method {
            "eth_getTransactionCount" => {
                let head = view.last().map_or(0, |block| block.number);
                let named = params[1].as_str().and_then(|text| text.strip_prefix("0x"));
                match named.map_or(Ok(head), |digits| u64::from_str_radix(digits, 16)) {
                    Ok(through) if through <= head => quantity(self.nonce(view, through).into()),
                    Ok(_) | Err(_) => Err((-32_000, "header not found".to_owned())),
                }
            }
            "eth_getBalance" => quantity(if self.poor { 0 } else { 1 << 80 }),
            "eth_feeHistory" => Ok(json!({
                "oldestBlock": "0x0",
                "baseFeePerGas": [format!("{BASE_FEE:#x}"), format!("{:#x}", self.base_fee)],
                "reward": [["0x1"]],
            })),
            "eth_maxPriorityFeePerGas" => quantity(1),
            "eth_call" => Ok(json!("0x")),
            "eth_estimateGas" => quantity(30_000),
            "eth_getTransactionReceipt" => Ok(self.receipt(view, params[0].as_str().unwrap_or_default())),
            _ => return None,
        })
    }

    fn receipt(&self, view: &[Arc<Block>], hash: &str) -> Value {
        let has =
            |block: &&Arc<Block>| self.mined.get(&block.hash).into_iter().flatten().any(|mined| hexed(mined) == hash);
        let Some(block) = view.iter().find(has) else { return Value::Null };
        json!({
            "transactionHash": hash,
            "blockHash": hexed(block.hash),
            "blockNumber": format!("{:#x}", block.number),
            "gasUsed": "0x7530",
            "effectiveGasPrice": format!("{BASE_FEE:#x}"),
            "status": "0x1",
            "contractAddress": null,
        })
    }

    /// What the transactions of a chain did, in their order. Transfers of nothing did nothing.
    pub fn hits(&self, canon: &[Arc<Block>]) -> Vec<Hit> {
        let mined = canon.iter().filter_map(|block| self.mined.get(&block.hash)).flatten();
        mined.filter_map(|hash| hit(&self.known[hash].said)).collect()
    }
}

fn hit(said: &str) -> Option<Hit> {
    let [module, path, body] = said.split(' ').collect::<Vec<_>>().try_into().ok()?;
    Some(Hit {
        module: module.into(),
        host: PAID_HOST.into(),
        path: path.into(),
        key: format!("own/{body}"),
        body: body.into(),
    })
}

/// The services that sign and send, where a module has an account.
pub fn services(
    machine: &Machine,
    ports: &Arc<Ports>,
    clock: &Arc<dyn Clock>,
    registry: &Registry,
    actors: &Actors,
) -> Result<Vec<ServiceSpec>, String> {
    let payers: Vec<&str> =
        machine.scenario.modules.iter().filter(|plan| plan.pays).map(|plan| plan.name.as_str()).collect();
    if payers.is_empty() {
        return Ok(Vec::new());
    }
    let keystore = machine.directory.join("keys");
    put_key(&keystore).map_err(|error| error.to_string())?;
    let account: Address = ACCOUNT.parse()?;
    let policy = |module: &&str| Policy {
        methods: BTreeSet::from([Method::Transaction]),
        chains: AnyOf::Any,
        to: AnyOf::Of(vec![Target::Account(Address(PAID))]),
        selectors: AnyOf::Any,
        ..Policy::new(*module, account)
    };
    let settings = Settings {
        keystore: Some(keystore),
        password: Some(PASSWORD.to_owned().into()),
        policies: payers.iter().map(policy).collect(),
        ..Settings::default()
    };
    let metrics = IdentityMetrics::register(registry).map_err(|error| error.to_string())?;
    let identity = actors.service("identity", ports.with::<IdentityMsg>(), status::identity, {
        let (ports, clock) = (ports.clone(), clock.clone());
        move |supervisor| {
            let (settings, ports, clock, metrics) = (settings.clone(), ports.clone(), clock.clone(), metrics.clone());
            let args = nexum_identity::Args { settings, ports, clock, blocking: Blocking::Inline, metrics };
            async move { nexum_identity::spawn(args, supervisor).await.map(|(actor, _)| actor) }
        }
    });
    let sending = ChainSettings { poll: Duration::from_secs(2), max_in_flight: 4, ..ChainSettings::default() };
    let chains: BTreeMap<u64, ChainSettings> =
        machine.scenario.chains.iter().map(|plan| (plan.id, sending.clone())).collect();
    let metrics = TransactionsMetrics::register(registry).map_err(|error| error.to_string())?;
    let transactions = actors.service("transactions", ports.with::<TransactionsMsg>(), status::transactions, {
        let (ports, clock) = (ports.clone(), clock.clone());
        move |supervisor| {
            let (chains, ports, clock, metrics) = (chains.clone(), ports.clone(), clock.clone(), metrics.clone());
            let args = nexum_transactions::Args { chains, ports, clock, metrics };
            async move { nexum_transactions::spawn(args, supervisor).await.map(|(actor, _)| actor) }
        }
    });
    Ok(vec![identity, transactions])
}

fn put_key(keystore: &Path) -> std::io::Result<()> {
    let file = keystore.join("key.json");
    fs::create_dir_all(keystore)?;
    fs::write(&file, KEY_FILE)?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600))
}
