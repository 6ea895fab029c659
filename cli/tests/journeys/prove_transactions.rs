//! Two modules that share an account and one with an account of its own send with every block, while answers are lost, the pool
//! is wiped, fees jump, money runs out, blocks are taken back, somebody else uses the keys, and the engine is killed between the
//! decision and the receipt. Each transfer is on the chain once, no nonce is missing, and every outcome is told once and true.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    thread,
    time::Duration,
};

use nexum_testkit::ACCOUNTS;
use serde_json::{Value, json};

use super::{
    anvil::Anvil,
    engine::{Setup, eventually},
    outbox::EAGER,
    prove_exactly_once::{Moments, kills},
    proxy::{Fault, Proxy},
    transactions::{Payer, QUICK, assert_each_once, settled, transferring},
};

const PAYERS: [Payer; 3] = [
    Payer { module: "sender", account: 0, first: 0 },
    Payer { module: "second", account: 0, first: 6 },
    Payer { module: "other", account: 1, first: 12 },
];

/// With so many kills nothing that can be drawn may be missing.
const LONG: u64 = 50;
/// Transfers are asked to be this deep, so a reorg replaces fewer blocks.
const CONFIRMATIONS: u64 = 3;
/// Ten thousand ether, as every account of the node begins with.
const RICH: &str = "0x21e19e0c9bab2400000";

/// What goes wrong in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Trouble {
    /// The node takes what it is sent, and the answer does not come back.
    SendsUnanswered,
    /// Every answer breaks off in the middle.
    AnswersTruncated,
    Refused,
    Stalled,
    Disconnected,
    PoolWiped,
    FeesJump,
    AccountDrained,
    KeyUsedElsewhere,
    /// `anvil_reorg`: other blocks in the place of the newest.
    BlocksReplaced,
    /// `evm_revert`: the newest blocks are gone.
    BlocksReverted,
}

const TROUBLES: [Trouble; 11] = [
    Trouble::SendsUnanswered,
    Trouble::AnswersTruncated,
    Trouble::Refused,
    Trouble::Stalled,
    Trouble::Disconnected,
    Trouble::PoolWiped,
    Trouble::FeesJump,
    Trouble::AccountDrained,
    Trouble::KeyUsedElsewhere,
    Trouble::BlocksReplaced,
    Trouble::BlocksReverted,
];

/// When the engine is killed, from a block on with which every module sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kill {
    WithinMillis(u64),
    /// As soon as it has asked the node to run a transfer, without sending it.
    AtSimulation,
    AtBroadcast,
    AtReceipt,
}

const KILLS: [Kill; 6] = [
    Kill::WithinMillis(10),
    Kill::WithinMillis(100),
    Kill::WithinMillis(1_000),
    Kill::AtSimulation,
    Kill::AtBroadcast,
    Kill::AtReceipt,
];

impl Kill {
    fn question(self) -> Option<&'static str> {
        match self {
            Self::WithinMillis(_) => None,
            Self::AtSimulation => Some("eth_estimateGas"),
            Self::AtBroadcast => Some("eth_sendRawTransaction"),
            Self::AtReceipt => Some("eth_getTransactionReceipt"),
        }
    }
}

/// Draws each of some kinds as often as any other, in no order.
struct Deck<T> {
    kinds: Vec<T>,
    left: Vec<T>,
    drawn: BTreeMap<T, u64>,
}

impl<T: Copy + Ord> Deck<T> {
    fn new(kinds: &[T]) -> Self {
        Self { kinds: kinds.to_vec(), left: Vec::new(), drawn: kinds.iter().map(|kind| (*kind, 0)).collect() }
    }

    fn draw(&mut self, moments: &mut Moments) -> T {
        if self.left.is_empty() {
            self.left = self.kinds.clone();
        }
        let at = usize::try_from(moments.below(self.left.len() as u64)).unwrap();
        let kind = self.left.swap_remove(at);
        *self.drawn.entry(kind).or_default() += 1;
        kind
    }
}

/// How often there was each; in the long form none may be missing.
fn table<T: Debug>(what: &str, counts: impl IntoIterator<Item = (T, u64)>) -> String {
    let rows = counts.into_iter().map(|(kind, times)| {
        assert!(times > 0 || kills() < LONG, "{what}: never {kind:?}");
        format!("{:<24} {times:>5}\n", format!("{kind:?}"))
    });
    format!("{what:<24} times\n{}", rows.collect::<String>())
}

fn pause(millis: u64) {
    thread::park_timeout(Duration::from_millis(millis));
}

/// The node, and every block that it ever had, on any branch.
struct Chain<'a> {
    anvil: &'a Anvil,
    branches: BTreeSet<(u64, String)>,
    seen: u64,
    highest: u64,
}

impl<'a> Chain<'a> {
    fn new(anvil: &'a Anvil) -> Self {
        Self { anvil, branches: BTreeSet::new(), seen: 0, highest: 0 }
    }

    fn see(&mut self) {
        let from = self.seen.min(self.anvil.head()).saturating_sub(CONFIRMATIONS).max(1);
        self.branches.extend(self.anvil.blocks(from));
        self.seen = self.anvil.head();
        self.highest = self.highest.max(self.seen);
    }

    fn mine(&mut self) {
        self.anvil.mine();
        self.see();
    }

    /// Whether a block comes every second by itself.
    fn mines_by_itself(&self, yes: bool) {
        self.anvil.rpc("evm_setIntervalMining", json!([u8::from(yes)]));
    }

    /// Lets `take` take blocks away. The chain is as high as it ever was before and after, so that no block goes which is deeper
    /// than transfers have to be.
    fn reorganise(&mut self, take: impl FnOnce(&mut Self)) {
        self.mines_by_itself(false);
        self.regrow();
        take(self);
        self.regrow();
        self.mines_by_itself(true);
    }

    fn regrow(&mut self) {
        self.see();
        while self.seen < self.highest {
            self.mine();
        }
    }

    fn revert(&mut self, depth: u64) {
        let snapshot = self.anvil.snapshot();
        for _ in 0..depth {
            self.mine();
            // Something is sent meanwhile, for the next block.
            pause(200);
        }
        assert_eq!(self.anvil.rpc("evm_revert", json!([snapshot])), true);
    }

    /// Somebody sends from an account without telling the engine.
    fn use_elsewhere(&self, account: &str) {
        let to = format!("0x{}", "99".repeat(20));
        let transfer = json!([{"from": account, "to": to, "value": "0x1", "gas": "0x5208"}]);
        // The engine may be about to take the same nonce.
        eventually("the key is used elsewhere", || self.anvil.try_rpc("eth_sendTransaction", transfer.clone()));
    }
}

fn begin(trouble: Trouble, account: &str, depth: u64, chain: &mut Chain<'_>, proxy: &Proxy) {
    let rpc = |method: &str, params: Value| drop(chain.anvil.rpc(method, params));
    match trouble {
        Trouble::SendsUnanswered => proxy.set(Fault::Lost("eth_sendRawTransaction")),
        Trouble::AnswersTruncated => proxy.set(Fault::Truncated),
        Trouble::Refused => proxy.set(Fault::Status(503)),
        Trouble::Stalled => proxy.set(Fault::Stall),
        Trouble::Disconnected => proxy.set(Fault::Cut),
        Trouble::PoolWiped => rpc("anvil_dropAllTransactions", json!([])),
        Trouble::FeesJump => rpc("anvil_setNextBlockBaseFeePerGas", json!(["0x174876e800"])),
        Trouble::AccountDrained => rpc("anvil_setBalance", json!([account, "0x0"])),
        Trouble::KeyUsedElsewhere => chain.use_elsewhere(account),
        Trouble::BlocksReplaced => chain.reorganise(|chain| chain.anvil.reorg(depth)),
        Trouble::BlocksReverted => chain.reorganise(|chain| chain.revert(depth)),
    }
}

/// Waits for when the engine is to be killed; whether that came. Where nothing gets through it may not.
fn comes(kill: Kill, asked: u64, moments: &mut Moments, proxy: &Proxy) -> bool {
    let Some(question) = kill.question() else {
        let Kill::WithinMillis(most) = kill else { unreachable!("it waits for no question") };
        pause(moments.below(most));
        return true;
    };
    let has_come = || {
        let come = times(proxy, question) > asked;
        if !come {
            pause(2);
        }
        come
    };
    (0..750).any(|_| has_come())
}

/// How often the node was asked this.
fn times(proxy: &Proxy, question: &str) -> u64 {
    proxy.asked().get(question).copied().unwrap_or(0)
}

#[test]
fn prove_transactions_when_everything_around_them_fails() {
    let until = 3 + 5 * kills();
    let anvil = Anvil::start();
    let proxy = Proxy::before(anvil.port());
    let setup = Setup::new().chain(31337, &[proxy.http()]).with(QUICK).with(EAGER);
    let mut engine = transferring(setup, &PAYERS, until, "").start();
    for payer in &PAYERS {
        engine.module_until(payer.module, "runs", |node| node["state"] == "RUN");
    }
    let mut moments = Moments(0x3c6e_f372_fe94_f82b);
    let (mut troubles, mut deaths) = (Deck::new(&TROUBLES), Deck::new(&KILLS));
    let mut came: BTreeMap<Kill, u64> = KILLS.iter().map(|kill| (*kill, 0)).collect();
    let mut chain = Chain::new(&anvil);
    (0..CONFIRMATIONS).for_each(|_| chain.mine());
    chain.mines_by_itself(true);
    for _ in 0..kills() {
        let (trouble, kill) = (troubles.draw(&mut moments), deaths.draw(&mut moments));
        let account = ACCOUNTS[usize::from(moments.below(2) == 1)].0;
        let depth = 1 + moments.below(CONFIRMATIONS - 1);
        // Before there is something to send, or while it is sent.
        let early = moments.below(2) == 0;
        if early {
            begin(trouble, account, depth, &mut chain, &proxy);
        }
        let asked = kill.question().map_or(0, |question| times(&proxy, question));
        chain.mine();
        if !early {
            pause(moments.below(200));
            begin(trouble, account, depth, &mut chain, &proxy);
        }
        *came.entry(kill).or_default() += u64::from(comes(kill, asked, &mut moments, &proxy));
        engine.kill9();
        chain.mine();
        engine.launch();
        pause(moments.below(400));
        proxy.set(Fault::None);
        for (account, _) in &ACCOUNTS {
            anvil.rpc("anvil_setBalance", json!([account, RICH]));
        }
        chain.see();
    }
    while chain.seen < until {
        chain.mine();
    }
    settled(&anvil, &engine, &PAYERS, until);
    chain.mines_by_itself(false);
    assert_each_once(&anvil, &engine, &PAYERS, until);

    // What left because of a block that was taken back stays; nothing left twice.
    let standing: BTreeSet<(u64, String)> = anvil.blocks(1).into_iter().collect();
    let (mut gone, mut stray) = (0, 0);
    for (number, hash) in chain.branches.iter().filter(|block| block.0 <= until && !standing.contains(block)) {
        gone += 1;
        for payer in &PAYERS {
            let balance = anvil.balance(&payer.receiver(hash));
            assert!([0, u128::from(1_000 + number)].contains(&balance), "block {number} {hash}: {balance}");
            stray += u64::from(balance > 0);
        }
    }
    println!("{}", table("what went wrong", troubles.drawn));
    println!("{}", table("to be killed", deaths.drawn));
    println!("{}", table("killed then", came));
    println!(
        "{} modules, {until} blocks: {} transfers, each once; {stray} more of {gone} blocks that were taken back",
        PAYERS.len(),
        PAYERS.len() as u64 * until
    );
    assert!(engine.terminate().success());
}
