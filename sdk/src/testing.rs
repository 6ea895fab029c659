//! A stand-in for the host when a module's code runs natively: state, log, clock, chain calls, outbox, messages, signatures and
//! content of the current thread, in memory. It is for tests of handlers; limits, rollback and delivery are the host's and are not
//! imitated.
//!
//! ```
//! use nexum_sdk::{state, testing};
//!
//! testing::reset();
//! testing::set_now_ms(1_700_000_000_000);
//! testing::on_chain(|_chain_id, method, _params| match method {
//!     "eth_blockNumber" => Ok("\"0x2a\"".to_owned()),
//!     other => Err(nexum_sdk::Error::msg(format!("unexpected {other}"))),
//! });
//!
//! let head: String = nexum_sdk::chain::call(1, "eth_blockNumber", ())?;
//! state::set("head", &head)?;
//! nexum_sdk::info!("head {head}");
//! assert_eq!(testing::logged(), [(nexum_sdk::Level::Info, "head 0x2a".to_owned())]);
//! # Ok::<(), nexum_sdk::Error>(())
//! ```

use std::cell::RefCell;
use std::collections::BTreeMap;

use crate::bindings::nexum::host::outbox::{Effect, HttpEffect, MessageEffect, Release, TransactionEffect};
use crate::{Level, Message, Outcome, OutcomeStatus, Result};

type Chain = Box<dyn FnMut(u64, &str, &str) -> Result<String>>;
type Signer = Box<dyn FnMut(&[u8], Signed<'_>) -> Result<Vec<u8>>>;

/// What a module has signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signed<'a> {
    Message(&'a [u8]),
    TypedData(&'a str),
}

#[derive(Default)]
struct Host {
    state: BTreeMap<String, Vec<u8>>,
    logged: Vec<(Level, String)>,
    now_ms: u64,
    chain: Option<Chain>,
    accounts: Vec<Vec<u8>>,
    signer: Option<Signer>,
    sent: Vec<Sent>,
    /// Content by its reference.
    content: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The newest updates by owner and topic.
    feeds: BTreeMap<(Vec<u8>, Vec<u8>), Vec<u8>>,
    stored: Vec<Message>,
    published: Vec<(String, Vec<u8>)>,
}

/// An effect that was sent, as the host would keep it.
#[derive(Clone, Debug)]
pub struct Sent {
    pub id: String,
    /// Its id, where the module gave none.
    pub key: String,
    pub release: Release,
    pub lane: Option<String>,
    pub effect: Effect,
}

impl Sent {
    /// The event by which the module would hear what became of it.
    pub fn outcome(&self, status: OutcomeStatus) -> Outcome {
        Outcome { effect_id: self.id.clone(), key: self.key.clone(), attempts: 1, status }
    }

    /// The event by which the module would hear that this transaction is on the chain.
    pub fn mined(&self) -> Outcome {
        let (hash, block) = ("0x".to_owned() + &"aa".repeat(32), "0x".to_owned() + &"bb".repeat(32));
        let mined = serde_json::json!({
            "hash": hash,
            "nonce": 0,
            "block_number": 1,
            "block_hash": block,
            "gas_used": 21_000,
            "effective_gas_price": "1000000000",
        });
        self.outcome(OutcomeStatus::Delivered(mined.to_string().into_bytes()))
    }

    /// The event by which the module would hear why this transaction failed; `kind` as in
    /// [`FailureKind`](crate::transaction::FailureKind), such as `"reverted"`.
    pub fn failed(&self, kind: &str, message: &str) -> Outcome {
        self.outcome(OutcomeStatus::Failed(serde_json::json!({ "kind": kind, "message": message }).to_string()))
    }
}

thread_local! {
    static HOST: RefCell<Host> = RefCell::default();
}

fn with<T>(use_host: impl FnOnce(&mut Host) -> T) -> T {
    HOST.with_borrow_mut(use_host)
}

/// Forgets everything; a test begins with it.
pub fn reset() {
    with(|host| *host = Host::default());
}

/// Sets both clocks.
pub fn set_now_ms(now_ms: u64) {
    with(|host| host.now_ms = now_ms);
}

/// Answers chain requests from now on: (chain id, method, JSON text of params) → JSON text of the result.
pub fn on_chain(answer: impl FnMut(u64, &str, &str) -> Result<String> + 'static) {
    with(|host| host.chain = Some(Box::new(answer)));
}

/// The accounts that the operator gives the module.
pub fn set_accounts(accounts: impl IntoIterator<Item = [u8; 20]>) {
    with(|host| host.accounts = accounts.into_iter().map(|account| account.to_vec()).collect());
}

/// Signs from now on: (account, what) → signature. A host answers 65 bytes, or that a policy denies it.
pub fn on_sign(answer: impl FnMut(&[u8], Signed<'_>) -> Result<Vec<u8>> + 'static) {
    with(|host| host.signer = Some(Box::new(answer)));
}

/// Keeps content for [`remote_store::download`](crate::remote_store::download) and answers its reference: one that this stand-in
/// makes up, the same for the same content.
pub fn store(data: impl Into<Vec<u8>>) -> [u8; 32] {
    let data = data.into();
    let mut reference = [0; 32];
    for (seed, part) in (1u64..).zip(reference.chunks_mut(8)) {
        let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        part.copy_from_slice(&data.iter().fold(seed.wrapping_mul(0xcbf2_9ce4_8422_2325), step).to_be_bytes());
    }
    with(|host| host.content.insert(reference.to_vec(), data));
    reference
}

/// Makes content the newest update of a feed for [`remote_store::read_feed`](crate::remote_store::read_feed). What a module writes
/// is of the first of the accounts of [`set_accounts`].
pub fn set_feed(owner: [u8; 20], topic: [u8; 32], data: impl Into<Vec<u8>>) {
    let data = data.into();
    with(|host| host.feeds.insert((owner.to_vec(), topic.to_vec()), data));
}

/// Every line logged since [`reset`].
pub fn logged() -> Vec<(Level, String)> {
    with(|host| host.logged.clone())
}

/// Every effect sent since [`reset`], in order.
pub fn sent() -> Vec<Sent> {
    with(|host| host.sent.clone())
}

/// The transactions among what was [`sent`].
pub fn transactions() -> Vec<TransactionEffect> {
    let transaction = |sent: Sent| match sent.effect {
        Effect::Transaction(transaction) => Some(transaction),
        _ => None,
    };
    sent().into_iter().filter_map(transaction).collect()
}

/// The HTTP requests among what was [`sent`].
pub fn requests() -> Vec<HttpEffect> {
    let request = |sent: Sent| match sent.effect {
        Effect::Http(request) => Some(request),
        _ => None,
    };
    sent().into_iter().filter_map(request).collect()
}

/// The messages among what was [`sent`].
pub fn messages() -> Vec<MessageEffect> {
    let message = |sent: Sent| match sent.effect {
        Effect::Message(message) => Some(message),
        _ => None,
    };
    sent().into_iter().filter_map(message).collect()
}

/// The messages that a node has stored, in the order of their times.
pub fn set_stored(messages: impl IntoIterator<Item = Message>) {
    with(|host| host.stored = messages.into_iter().collect());
}

/// Topics and payloads of what was published at once since [`reset`].
pub fn published() -> Vec<(String, Vec<u8>)> {
    with(|host| host.published.clone())
}

/// The imports as the bindings declare them.
pub(crate) mod host {
    pub(crate) mod local_store {
        use super::super::with;
        use crate::bindings::nexum::host::local_store::{Entry, Write};
        use crate::bindings::nexum::host::types::HostError;

        pub(crate) fn get(key: &str) -> Result<Option<Vec<u8>>, HostError> {
            Ok(with(|host| host.state.get(key).cloned()))
        }

        pub(crate) fn set(key: &str, value: &[u8]) -> Result<(), HostError> {
            with(|host| host.state.insert(key.to_owned(), value.to_owned()));
            Ok(())
        }

        pub(crate) fn delete(key: &str) -> Result<(), HostError> {
            with(|host| host.state.remove(key));
            Ok(())
        }

        pub(crate) fn list_keys(prefix: &str) -> Result<Vec<String>, HostError> {
            Ok(with(|host| host.state.keys().filter(|key| key.starts_with(prefix)).cloned().collect()))
        }

        pub(crate) fn list_entries(prefix: &str, after: Option<&str>, limit: u32) -> Result<Vec<Entry>, HostError> {
            Ok(with(|host| {
                host.state
                    .iter()
                    .filter(|(key, _)| key.starts_with(prefix) && after.is_none_or(|after| key.as_str() > after))
                    .take(usize::try_from(limit).unwrap_or(usize::MAX))
                    .map(|(key, value)| Entry { key: key.clone(), value: value.clone() })
                    .collect()
            }))
        }

        pub(crate) fn apply(writes: &[Write]) -> Result<(), HostError> {
            for write in writes {
                match write {
                    Write::Put(entry) => set(&entry.key, &entry.value)?,
                    Write::Delete(key) => delete(key)?,
                }
            }
            Ok(())
        }

        pub(crate) fn flush() -> Result<(), HostError> {
            Ok(())
        }
    }

    pub(crate) mod chain {
        use super::super::{Chain, with};
        use crate::Error;
        use crate::bindings::nexum::host::chain::{RpcRequest, RpcResult};
        use crate::bindings::nexum::host::types::HostError;

        pub(crate) fn request(chain_id: u64, method: &str, params: &str) -> Result<String, HostError> {
            // The closure is taken out while it runs, so that it may log or read state itself.
            let mut answer: Chain = with(|host| host.chain.take())
                .ok_or_else(|| Error::msg(format!("no testing::on_chain to answer {method}")))?;
            let result = answer(chain_id, method, params);
            with(|host| {
                host.chain.get_or_insert(answer);
            });
            Ok(result?)
        }

        pub(crate) fn request_batch(chain_id: u64, requests: &[RpcRequest]) -> Result<Vec<RpcResult>, HostError> {
            Ok(requests
                .iter()
                .map(|one| match request(chain_id, &one.method, &one.params) {
                    Ok(text) => RpcResult::Ok(text),
                    Err(error) => RpcResult::Err(error),
                })
                .collect())
        }
    }

    pub(crate) mod identity {
        use super::super::{Signed, Signer, with};
        use crate::Error;
        use crate::bindings::nexum::host::types::HostError;

        pub(crate) fn accounts() -> Result<Vec<Vec<u8>>, HostError> {
            Ok(with(|host| host.accounts.clone()))
        }

        pub(crate) fn sign(account: &[u8], message: &[u8]) -> Result<Vec<u8>, HostError> {
            signed(account, Signed::Message(message))
        }

        pub(crate) fn sign_typed_data(account: &[u8], typed_data: &str) -> Result<Vec<u8>, HostError> {
            signed(account, Signed::TypedData(typed_data))
        }

        fn signed(account: &[u8], what: Signed<'_>) -> Result<Vec<u8>, HostError> {
            // The closure is taken out while it runs, so that it may log or read state itself.
            let mut answer: Signer =
                with(|host| host.signer.take()).ok_or_else(|| Error::msg("no testing::on_sign to sign anything"))?;
            let result = answer(account, what);
            with(|host| {
                host.signer.get_or_insert(answer);
            });
            Ok(result?)
        }
    }

    pub(crate) mod remote_store {
        use super::super::{store, with};
        use crate::bindings::nexum::host::types::HostError;
        use crate::{Error, ErrorKind};

        pub(crate) fn upload(data: &[u8]) -> Result<Vec<u8>, HostError> {
            Ok(store(data).to_vec())
        }

        pub(crate) fn download(reference: &[u8]) -> Result<Vec<u8>, HostError> {
            let found = with(|host| host.content.get(reference).cloned());
            let missing = || {
                let error = Error::new(ErrorKind::InvalidInput, "nothing was stored under this reference");
                error.with_code(404, Some("not-found".to_owned())).in_domain("remote-store")
            };
            Ok(found.ok_or_else(missing)?)
        }

        pub(crate) fn read_feed(owner: &[u8], topic: &[u8]) -> Result<Option<Vec<u8>>, HostError> {
            Ok(with(|host| host.feeds.get(&(owner.to_vec(), topic.to_vec())).cloned()))
        }

        pub(crate) fn write_feed(topic: &[u8], data: &[u8]) -> Result<Vec<u8>, HostError> {
            let owner = with(|host| host.accounts.first().cloned());
            let owner = owner.ok_or_else(|| Error::msg("no testing::set_accounts to write a feed with"))?;
            with(|host| host.feeds.insert((owner, topic.to_vec()), data.to_vec()));
            upload(data)
        }
    }

    pub(crate) mod clock {
        use super::super::with;

        pub(crate) fn now_ms() -> u64 {
            with(|host| host.now_ms)
        }

        pub(crate) fn monotonic_ns() -> u64 {
            with(|host| host.now_ms.saturating_mul(1_000_000))
        }
    }

    pub(crate) mod logging {
        use super::super::with;
        use crate::Level;

        pub(crate) fn log(level: Level, message: &str) {
            with(|host| host.logged.push((level, message.to_owned())));
        }
    }

    pub(crate) mod messaging {
        use super::super::with;
        use crate::Message;
        use crate::bindings::nexum::host::types::HostError;

        pub(crate) fn publish(content_topic: &str, payload: &[u8]) -> Result<(), HostError> {
            with(|host| host.published.push((content_topic.to_owned(), payload.to_owned())));
            Ok(())
        }

        pub(crate) fn query(
            content_topic: &str,
            start_time: Option<u64>,
            end_time: Option<u64>,
            limit: Option<u32>,
        ) -> Result<Vec<Message>, HostError> {
            let (start, end) = (start_time.unwrap_or(0), end_time.unwrap_or(u64::MAX));
            let most = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(100);
            let is_wanted = |message: &&Message| {
                message.content_topic == content_topic && (start..=end).contains(&message.timestamp)
            };
            Ok(with(|host| host.stored.iter().filter(is_wanted).take(most).cloned().collect()))
        }
    }

    pub(crate) mod outbox {
        use super::super::{Sent, with};
        use crate::bindings::nexum::host::outbox::{Effect, EffectId, Options};
        use crate::bindings::nexum::host::types::HostError;

        pub(crate) fn send(effect: &Effect, options: &Options) -> Result<EffectId, HostError> {
            Ok(with(|host| {
                let id = format!("test/{}", host.sent.len());
                let key = options.key.clone().unwrap_or_else(|| id.clone());
                let (release, lane, effect) = (options.release, options.lane.clone(), effect.clone());
                host.sent.push(Sent { id: id.clone(), key, release, lane, effect });
                id
            }))
        }
    }
}
