//! A store, an identity and a chain in memory, which share one world.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use nexum_host_ifaces::{
    Address, Hash,
    interfaces::{
        chain::port::{ChainMsg, ChainStatus, EndpointAnswer},
        identity::port::{Admission, IdentityMsg, SignedTransaction, TransactionRequest, Wei},
    },
    store::StoreMsg,
    transactions::{FeePolicy, Intent},
};
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};

pub const ACCOUNT: Address = Address([9; 20]);
const BLOCK: Hash = Hash([7; 32]);

/// What outlives the actors.
#[derive(Default)]
pub struct World {
    pub durable: Mutex<BTreeMap<Vec<u8>, Vec<u8>>>,
    /// The data of everything that was signed.
    pub signed: Mutex<Vec<Vec<u8>>>,
    /// Everything that was broadcast.
    pub sent: Mutex<Vec<Arc<[u8]>>>,
    /// Whether what is sent is in a block.
    mined: Mutex<bool>,
}

impl World {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// From now on all that is broadcast is in the first block.
    pub fn mine(&self) {
        *self.mined.lock().unwrap() = true;
    }

    fn is_mined(&self) -> bool {
        *self.mined.lock().unwrap()
    }

    fn head(&self) -> u64 {
        if self.is_mined() { 5 } else { 0 }
    }

    /// Different bytes, in a block.
    fn nonce(&self) -> usize {
        let sent: std::collections::BTreeSet<Arc<[u8]>> = self.sent.lock().unwrap().iter().cloned().collect();
        if self.is_mined() { sent.len() } else { 0 }
    }

    fn answer(&self, method: &str, params: &str) -> String {
        let (head, nonce) = (self.head(), self.nonce());
        match method {
            "eth_getBlockByNumber" => format!(r#"{{"number":"{head:#x}","baseFeePerGas":"0xa"}}"#),
            "eth_getTransactionCount" => format!(r#""{nonce:#x}""#),
            "eth_getBalance" => r#""0xffffffffffffffffffff""#.to_owned(),
            "eth_estimateGas" => r#""0x5208""#.to_owned(),
            "eth_getTransactionReceipt" => {
                let sent = self.sent.lock().unwrap();
                let found = sent.iter().map(|raw| hash_of(raw)).find(|hash| params.contains(&hash.to_string()));
                match found.filter(|_| self.is_mined()) {
                    Some(hash) => format!(
                        r#"{{"transactionHash":"{hash}","blockHash":"{BLOCK}","blockNumber":"0x1","gasUsed":"0x5208","status":"0x1"}}"#
                    ),
                    None => "null".to_owned(),
                }
            }
            _ => r#""0x1""#.to_owned(),
        }
    }
}

fn hash_of(raw: &[u8]) -> Hash {
    let mut hash = [1; 32];
    hash[..raw.len()].copy_from_slice(raw);
    Hash(hash)
}

pub fn intent(number: u8, again: bool) -> Intent {
    let id = format!("intent {number}");
    Intent {
        id: if again { format!("{id}~1") } else { id },
        module: "m".into(),
        request: TransactionRequest {
            chain_id: 1,
            account: ACCOUNT,
            to: Some(Address([1; 20])),
            value: Wei::from(1),
            data: vec![number],
            access_list: Vec::new(),
        },
        gas_limit: None,
        fees: FeePolicy::default(),
        confirmations: 1,
        deadline_ms: None,
        skip_simulation: false,
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
        _: SupervisionEvent,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}

pub struct Store(pub Arc<World>);

impl Actor for Store {
    type Msg = StoreMsg;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<StoreMsg>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(&self, _: ActorRef<StoreMsg>, message: StoreMsg, (): &mut ()) -> Result<(), ActorProcessingErr> {
        let mut durable = self.0.durable.lock().unwrap();
        match message {
            StoreMsg::WriteRecords { writes, reply, .. } => {
                for write in writes {
                    match write.value {
                        Some(value) => durable.insert(write.key, value),
                        None => durable.remove(&write.key),
                    };
                }
                // Whoever asked may be gone.
                let _ = reply.send(Ok(()));
            }
            StoreMsg::Records { prefix, after, limit, reply, .. } => {
                let wanted = |key: &Vec<u8>| key.starts_with(&prefix) && after.as_ref().is_none_or(|after| key > after);
                let found = durable.iter().filter(|(key, _)| wanted(key)).take(limit);
                let _ = reply.send(Ok(found.map(|(key, value)| (key.clone(), value.clone())).collect()));
            }
            other => return Err(format!("not expected: {other:?}").into()),
        }
        Ok(())
    }
}

/// Allows everything.
pub struct Identity(pub Arc<World>);

impl Actor for Identity {
    type Msg = IdentityMsg;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<IdentityMsg>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(
        &self,
        _: ActorRef<IdentityMsg>,
        message: IdentityMsg,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        match message {
            IdentityMsg::Admit { reply, .. } => drop(reply.send(Ok(Admission::Allowed))),
            IdentityMsg::FeeCeiling { reply, .. } => drop(reply.send(Ok(None))),
            IdentityMsg::SignTransaction { transaction, reply, .. } => {
                let data = transaction.request.data;
                self.0.signed.lock().unwrap().push(data.clone());
                let raw = [data, vec![0]].concat();
                let hash = hash_of(&raw);
                drop(reply.send(Ok(SignedTransaction { raw, hash })));
            }
            other => return Err(format!("not expected: {other:?}").into()),
        }
        Ok(())
    }
}

/// One endpoint, which takes everything.
pub struct Chain(pub Arc<World>);

impl Actor for Chain {
    type Msg = ChainMsg;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<ChainMsg>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(&self, _: ActorRef<ChainMsg>, message: ChainMsg, (): &mut ()) -> Result<(), ActorProcessingErr> {
        let world = &self.0;
        let one = |answer| vec![EndpointAnswer { endpoint: "n".to_owned(), answer: Ok(answer) }];
        match message {
            ChainMsg::Request { method, params, reply, .. } => {
                drop(reply.send(Ok(world.answer(&method, &params))));
            }
            ChainMsg::RequestEach { method, params, reply, .. } => {
                drop(reply.send(one(world.answer(&method, &params))));
            }
            ChainMsg::Broadcast { raw, reply, .. } => {
                world.sent.lock().unwrap().push(raw);
                drop(reply.send(one(r#""0x1""#.to_owned())));
            }
            ChainMsg::Followed { numbers, reply } => {
                drop(reply.send(numbers.iter().map(|_| Some(BLOCK)).collect()));
            }
            ChainMsg::Status(reply) => drop(reply.send(ChainStatus {
                chain_id: 1,
                name: "fake".to_owned(),
                connected: true,
                head: Some((world.head(), BLOCK)),
                safe: None,
                finalized: None,
                blocks_behind: 0,
                endpoints: Vec::new(),
                waiting_modules: 0,
                reorgs: 0,
                learnt: Vec::new(),
                waits: Vec::new(),
                more_waits: 0,
            })),
            other => return Err(format!("not expected: {other:?}").into()),
        }
        Ok(())
    }
}
