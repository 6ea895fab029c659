//! Effects over JSON-RPC: one request to a chain, what a node's answer means, and what became of a transaction that it
//! refuses.

use std::time::Duration;

use serde_json::{Value, json};
use sha3::{Digest, Keccak256};

use super::kind::{ANSWER_BYTES_MAX, Attempting, EffectKind, Verdict, invalid, missing, retry};
use crate::{
    Hash, HostError, HostErrorKind,
    bindings::nexum::host::outbox::{Effect, RpcEffect},
    grants::{Grant, Grants},
    interfaces::chain::{
        grant::CAPABILITY as CHAIN,
        port::{CODE_OVER_BUDGET, ChainMsg},
    },
    port::Port,
};

/// What an answer may take; modules are told of the beginning.
const REPLY_BYTES_MAX: usize = 8 << 20;
/// JSON-RPC 2.0, section 5.1.
const INTERNAL_ERROR: i32 = -32603;
const SEND_RAW: &str = "eth_sendRawTransaction";

#[async_trait::async_trait]
impl EffectKind for RpcEffect {
    fn name(&self) -> &'static str {
        "rpc"
    }

    fn destination(&self) -> String {
        format!("chain:{}", self.chain_id)
    }

    fn bytes(&self) -> usize {
        self.method.len() + self.params.len()
    }

    fn stripped(&self) -> Effect {
        Effect::Rpc(Self { params: String::new(), ..self.clone() })
    }

    fn payload(&self) -> Value {
        json!({ "chain_id": self.chain_id, "method": self.method, "params": self.params })
    }

    fn granted(&self, module: &str, grants: &Grants) -> Result<(), HostError> {
        if grants.get(CHAIN) != Some(Grant::Served) {
            return Err(missing(CHAIN, module, "effects over RPC"));
        }
        grants.rpc(module, self.chain_id, &self.method)
    }

    fn check(&self, _key: &str, _grants: &Grants) -> Result<(), HostError> {
        match serde_json::from_str::<Value>(&self.params) {
            Ok(params) if params.is_array() => Ok(()),
            _ => Err(invalid("`params` is not the JSON text of an array")),
        }
    }

    async fn attempt(&self, with: &Attempting<'_>) -> Verdict {
        let Self { chain_id, method, params } = self;
        let Some(port) = with.ports.chain(*chain_id) else {
            return Verdict::Failed(format!("chain {chain_id} has no port"));
        };
        let verdict = of_rpc(self, request(with, port, method, params).await);
        match (verdict, transaction_hash(self)) {
            // So a node also answers to a transaction that is on the chain by now.
            (Verdict::Failed(refusal), Some(hash)) => {
                let found = request(with, port, "eth_getTransactionByHash", &format!("[\"{hash}\"]")).await;
                of_refused_transaction(refusal, &hash, with.again, found)
            }
            (verdict, _) => verdict,
        }
    }
}

async fn request(
    with: &Attempting<'_>,
    port: &Port<ChainMsg>,
    method: &str,
    params: &str,
) -> Result<String, HostError> {
    let (module, budget, deadline) = (with.module.clone(), Some(with.grants.rpc_budget()), with.deadline);
    let (method, params, reply_bytes_max) = (method.to_owned(), params.to_owned(), REPLY_BYTES_MAX);
    let request = |reply| ChainMsg::Request { module, budget, method, params, deadline, reply_bytes_max, reply };
    let answer = port.call(deadline, request).await;
    answer.unwrap_or_else(|error| Err(HostError::new("chain", HostErrorKind::Unavailable, error.to_string())))
}

/// What a node's answer means.
fn of_rpc(effect: &RpcEffect, answer: Result<String, HostError>) -> Verdict {
    let error = match answer {
        Ok(text) => {
            let mut bytes = text.into_bytes();
            bytes.truncate(ANSWER_BYTES_MAX);
            return Verdict::Delivered(bytes);
        }
        Err(error) => error,
    };
    // An attempt before this one arrived, and its answer did not.
    let known = ["already known", "already imported", "known transaction"];
    let lower = error.message.to_ascii_lowercase();
    if effect.method == SEND_RAW && known.iter().any(|words| lower.contains(words)) {
        return Verdict::Delivered(Value::String(error.message).to_string().into_bytes());
    }
    // Nothing was sent.
    if is_over_budget(&error) {
        return over_budget(error);
    }
    match may_pass(&error) || lower.contains("pool is full") {
        true => retry(error.message),
        false => Verdict::Failed(error.message),
    }
}

fn is_over_budget(error: &HostError) -> bool {
    error.code == CODE_OVER_BUDGET && error.kind == HostErrorKind::RateLimited
}

/// It waits for its module's budget, however long that is.
fn over_budget(error: HostError) -> Verdict {
    let after = error.data.and_then(|millis| millis.parse().ok()).map(Duration::from_millis);
    Verdict::Retry { error: error.message, after, counts: false }
}

/// Whether the node is at fault, or busy, and not the effect.
fn may_pass(error: &HostError) -> bool {
    let busy = [HostErrorKind::Unavailable, HostErrorKind::Timeout, HostErrorKind::RateLimited];
    busy.contains(&error.kind) || error.code == INTERNAL_ERROR
}

/// The hash of the transaction that an effect sends; none when it sends none.
fn transaction_hash(effect: &RpcEffect) -> Option<Hash> {
    if effect.method != SEND_RAW {
        return None;
    }
    let params: Vec<String> = serde_json::from_str(&effect.params).ok()?;
    let raw = hex::decode(params.first()?.strip_prefix("0x")?).ok()?;
    Some(Hash(Keccak256::digest(raw).into()))
}

/// What a refused transaction came to. `found` is the node's answer to its hash; `again` says that an attempt before
/// this one may have arrived.
fn of_refused_transaction(refusal: String, hash: &Hash, again: bool, found: Result<String, HostError>) -> Verdict {
    let unknown = |why: &str| format!("not known whether {hash} was carried out before: {refusal}; {why}");
    match found {
        Ok(text) if text.trim() != "null" => {
            Verdict::Delivered(Value::String(hash.to_string()).to_string().into_bytes())
        }
        Ok(_) if again => Verdict::Failed(unknown("the node does not know it")),
        Ok(_) => Verdict::Failed(refusal),
        Err(error) if is_over_budget(&error) => over_budget(error),
        Err(error) if may_pass(&error) => retry(unknown(&error.message)),
        Err(error) => Verdict::Failed(unknown(&error.message)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ractor::{Actor, ActorProcessingErr, ActorRef};

    use super::*;
    use crate::{clock::SystemClock, ports::Ports};

    /// A node that refuses what it is sent, and knows whatever it is asked for.
    struct Node;

    impl Actor for Node {
        type Msg = ChainMsg;
        type State = ();
        type Arguments = ();

        async fn pre_start(&self, _: ActorRef<ChainMsg>, (): ()) -> Result<(), ActorProcessingErr> {
            Ok(())
        }

        async fn handle(&self, _: ActorRef<ChainMsg>, message: ChainMsg, _: &mut ()) -> Result<(), ActorProcessingErr> {
            if let ChainMsg::Request { method, params, reply, .. } = message {
                let refusal = HostError::new("chain", HostErrorKind::InvalidInput, "nonce too low");
                drop(reply.send(if method == SEND_RAW { Err(refusal) } else { Ok(format!("{method} {params}")) }));
            }
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_transaction_that_is_refused_is_asked_for_before_it_is_given_up() {
        let (actor, _) = Actor::spawn(None, Node, ()).await.unwrap();
        let ports = Ports::unbound([1, 2]);
        ports.chain(1).unwrap().bind(actor.clone());
        let with = Attempting {
            module: &Arc::from("m"),
            id: "m/1",
            key: "k",
            again: false,
            round: 0,
            deadline: Duration::from_secs(10),
            grants: &Grants::default(),
            ports: &ports,
            clock: &SystemClock::new(),
        };
        let effect = |chain_id, method: &str| RpcEffect { chain_id, method: method.into(), params: "[\"0x\"]".into() };
        let sent = effect(1, SEND_RAW);
        let delivered = format!("\"{}\"", transaction_hash(&sent).unwrap());
        assert_eq!(sent.attempt(&with).await, Verdict::Delivered(delivered.into_bytes()));
        assert_eq!(effect(1, "m").attempt(&with).await, Verdict::Delivered(b"m [\"0x\"]".to_vec()));
        assert_eq!(effect(2, SEND_RAW).attempt(&with).await, retry("chain is not running".into()));
        assert_eq!(effect(3, "m").attempt(&with).await, Verdict::Failed("chain 3 has no port".into()));
        actor.kill();
    }

    #[test]
    fn a_transaction_that_the_node_has_already_was_delivered() {
        let effect = RpcEffect { chain_id: 1, method: "eth_sendRawTransaction".into(), params: "[]".into() };
        let answer =
            |message: &str| of_rpc(&effect, Err(HostError::new("chain", HostErrorKind::InvalidInput, message)));
        assert_eq!(answer("already known"), Verdict::Delivered(b"\"already known\"".to_vec()));
        assert!(matches!(answer("txpool is full"), Verdict::Retry { counts: true, .. }));
        let limited =
            |code: i32| of_rpc(&effect, Err(HostError::new("chain", HostErrorKind::RateLimited, "x").with_code(code)));
        assert!(matches!(limited(-32005), Verdict::Retry { counts: true, .. }), "an endpoint's");
        assert!(matches!(limited(CODE_OVER_BUDGET), Verdict::Retry { counts: false, .. }), "the module's own");
        let internal = HostError::new("chain", HostErrorKind::Internal, "oops");
        assert_eq!(of_rpc(&effect, Err(internal.clone())), Verdict::Failed("oops".into()));
        assert!(matches!(of_rpc(&effect, Err(internal.with_code(-32603))), Verdict::Retry { .. }));
        assert_eq!(answer("nonce too low"), Verdict::Failed("nonce too low".into()));
        assert_eq!(of_rpc(&effect, Ok("\"0x1\"".into())), Verdict::Delivered(b"\"0x1\"".to_vec()));
    }

    #[test]
    fn a_refused_transaction_that_is_on_the_chain_was_delivered() {
        let effect = |method: &str| RpcEffect { chain_id: 1, method: method.into(), params: "[\"0x\"]".into() };
        assert_eq!(transaction_hash(&effect("eth_call")), None);
        let hash = transaction_hash(&effect("eth_sendRawTransaction")).unwrap();
        let text = "0xc5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470";
        assert_eq!(hash.to_string(), text);
        let verdict = |again, found| of_refused_transaction("nonce too low".into(), &hash, again, found);
        let delivered = Verdict::Delivered(format!("\"{text}\"").into_bytes());
        assert_eq!(verdict(true, Ok("{\"hash\": \"0x\"}".into())), delivered);
        assert_eq!(verdict(false, Ok("null".into())), Verdict::Failed("nonce too low".into()));
        let Verdict::Failed(unknown) = verdict(true, Ok("null".into())) else { panic!() };
        assert!(unknown.starts_with(&format!("not known whether {text} was carried out before: nonce too low")));
        let down = Err(HostError::new("chain", HostErrorKind::Unavailable, "no endpoint"));
        assert!(matches!(verdict(true, down), Verdict::Retry { counts: true, .. }));
        let over = HostError::new("chain", HostErrorKind::RateLimited, "used up").with_code(CODE_OVER_BUDGET);
        let waits = Verdict::Retry { error: "used up".into(), after: Some(Duration::from_millis(7)), counts: false };
        assert_eq!(verdict(true, Err(over.with_data("7"))), waits);
    }
}
