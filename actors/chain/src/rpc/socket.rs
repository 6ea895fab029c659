//! JSON-RPC over one WebSocket: which answer belongs to which request, and the heads that a subscription tells.
//!
//! Invariant: every request ends, with its answer, with the connection, or with its caller. What waits is bounded: answers
//! are handed over one at a time, and of heads that nobody takes only the newest few are kept.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde_json::value::RawValue;
use tokio::sync::{mpsc, oneshot};

use super::{
    dial::{Room, Socket},
    envelope::{self, Answer, AnswerId, Packet, SUBSCRIPTION_BYTES_MAX, TOO_MANY},
    errors::CallError,
};

/// Heads that wait to be taken. What is left out is found as a gap.
const HEADS_MAX: usize = 16;
/// One that is longer only says that there is a new head.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Reading one that is longer takes a while; others have their turn before and after.
pub const LARGE_BYTES_MIN: usize = 1 << 20;
/// Requests that wait for an answer.
const PENDING_MAX: usize = 4_096;

pub type Payload = Result<Box<RawValue>, CallError>;

#[derive(Default)]
struct Pending {
    calls: HashMap<u64, oneshot::Sender<Payload>>,
    /// What subscriptions told, newest last: the name of the subscription, and the head.
    heads: VecDeque<(String, Box<RawValue>)>,
    /// Why the connection ended.
    ended: Option<CallError>,
}

/// One connection. The reader ends with its last clone.
#[derive(Clone)]
pub struct Connection {
    to_node: mpsc::Sender<String>,
    room: Arc<Room>,
    pending: Arc<Mutex<Pending>>,
    /// Says that a head was told; there is one taker.
    told: Arc<tokio::sync::Mutex<mpsc::Receiver<()>>>,
}

fn lock(pending: &Mutex<Pending>) -> MutexGuard<'_, Pending> {
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Withdraws a request when its caller is gone.
struct Withdraw<'a>(&'a Mutex<Pending>, u64);

impl Drop for Withdraw<'_> {
    fn drop(&mut self) {
        lock(self.0).calls.remove(&self.1);
    }
}

impl Connection {
    /// Over a socket that takes in what there is room for.
    pub fn over(socket: Socket, room: Arc<Room>) -> Self {
        let Socket { to_node, from_node } = socket;
        let pending = Arc::new(Mutex::new(Pending::default()));
        let (tell, told) = mpsc::channel(1);
        tokio::spawn(read(from_node, room.clone(), pending.clone(), tell));
        Self { to_node, room, pending, told: Arc::new(tokio::sync::Mutex::new(told)) }
    }

    /// Sends one request and waits for its answer, which may have so many bytes.
    pub async fn call(&self, id: u64, text: String, reply_bytes_max: usize) -> Payload {
        let (reply, answer) = oneshot::channel();
        {
            let mut pending = lock(&self.pending);
            if let Some(error) = &pending.ended {
                return Err(error.clone());
            }
            if pending.calls.len() >= PENDING_MAX {
                return Err(CallError::unavailable("too many requests wait for an answer"));
            }
            pending.calls.insert(id, reply);
        }
        let _withdraw = Withdraw(&self.pending, id);
        let awaits = self.room.awaits(reply_bytes_max);
        if self.to_node.send(text).await.is_err() {
            return Err(self.ended());
        }
        let answer = answer.await.unwrap_or_else(|_| Err(self.ended()));
        awaits.answered();
        answer
    }

    pub fn has_ended(&self) -> bool {
        lock(&self.pending).ended.is_some()
    }

    fn ended(&self) -> CallError {
        let ended = lock(&self.pending).ended.clone();
        ended.unwrap_or_else(|| CallError::unavailable("the connection was lost"))
    }

    /// The next head that this subscription tells. What others told before it is forgotten.
    pub async fn head(&self, subscription: &str) -> Result<Box<RawValue>, CallError> {
        let mut told = self.told.lock().await;
        loop {
            {
                let mut pending = lock(&self.pending);
                while let Some((by, head)) = pending.heads.pop_front() {
                    if by == subscription {
                        return Ok(head);
                    }
                }
            }
            if told.recv().await.is_none() {
                return Err(self.ended());
            }
        }
    }
}

fn is_harmless(text: &str) -> bool {
    text.trim().is_empty() || serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}

/// Hands out what the node sends, until the connection ends.
async fn read(
    mut from_node: mpsc::Receiver<Result<String, super::dial::Broken>>,
    room: Arc<Room>,
    pending: Arc<Mutex<Pending>>,
    tell: mpsc::Sender<()>,
) {
    let error = loop {
        let text = match from_node.recv().await {
            Some(Ok(text)) => text,
            Some(Err(broken)) => break CallError::of_broken(broken),
            None => break CallError::unavailable("the connection was lost"),
        };
        // Counted until it is handed out.
        let _held = room.taken();
        // The last clone of the connection is gone.
        if tell.is_closed() {
            return;
        }
        let is_large = text.len() >= LARGE_BYTES_MIN;
        if is_large {
            tokio::task::yield_now().await;
        }
        match envelope::read(&text) {
            Ok(Packet::One(answer)) => deliver(&pending, answer),
            Ok(Packet::Many(answers)) => answers.into_iter().for_each(|answer| deliver(&pending, answer)),
            // No subscription that was taken has such a name.
            Ok(Packet::Note { subscription, .. }) if subscription.len() > SUBSCRIPTION_BYTES_MAX => {}
            Ok(Packet::Note { subscription, result }) => {
                let result = if result.get().len() > HEAD_BYTES_MAX { RawValue::NULL.to_owned() } else { result };
                let heads = &mut lock(&pending).heads;
                if heads.len() == HEADS_MAX {
                    heads.pop_front();
                }
                heads.push_back((subscription, result));
                // Full: it was said already.
                let _ = tell.try_send(());
            }
            // A frame of another protocol's, such as a keep-alive. What is no JSON at all is no node's.
            Err(what) if what != TOO_MANY && is_harmless(&text) => {}
            Err(what) => break CallError::nonsense(what),
        }
        if is_large {
            tokio::task::yield_now().await;
        }
    };
    let mut pending = lock(&pending);
    pending.ended = Some(error.clone());
    for (_, reply) in pending.calls.drain() {
        // The caller may have given up.
        let _ = reply.send(Err(error.clone()));
    }
}

/// Hands out one answer. One with an id that nobody waits for is nobody's: of a request that was given up, or of none.
fn deliver(pending: &Mutex<Pending>, answer: Answer) {
    let mut pending = lock(pending);
    let payload = answer.payload.map_err(CallError::of_node);
    match answer.id {
        AnswerId::Number(id) => match pending.calls.remove(&id) {
            Some(reply) => drop(reply.send(payload)),
            None => tracing::debug!(id, "an answer that nobody waits for"),
        },
        // The node could not tell which request it refuses. Waiting for an answer to any of them may be in vain.
        AnswerId::Missing if payload.is_err() || pending.calls.len() == 1 => {
            for (_, reply) in pending.calls.drain() {
                let _ = reply.send(payload.clone());
            }
        }
        AnswerId::Missing | AnswerId::Other => tracing::debug!("an answer to no request"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::rpc::dial::Meter;

    fn note(subscription: &str, result: &str) -> String {
        let params = format!(r#"{{"subscription":"{subscription}","result":{result}}}"#);
        format!(r#"{{"jsonrpc":"2.0","method":"eth_subscription","params":{params}}}"#)
    }

    #[tokio::test]
    async fn only_the_newest_heads_of_the_subscription_that_is_listened_to_are_told() {
        let (to_node, _asked) = mpsc::channel(1);
        let (node, from_node) = mpsc::channel(1);
        let room = Arc::new(Room::new(1 << 20, &Meter::new(1 << 20), Duration::from_secs(1)));
        let connection = Connection::over(Socket { to_node, from_node }, room);
        // Nobody takes these: another endpoint leads.
        for number in 0..100 {
            node.send(Ok(note("0x1", &number.to_string()))).await.unwrap();
        }
        for number in 200..240 {
            node.send(Ok(note("0x2", &number.to_string()))).await.unwrap();
        }
        node.send(Ok(note("0x2", &format!("\"{}\"", "f".repeat(HEAD_BYTES_MAX))))).await.unwrap();
        node.send(Ok(note("0x1", "100"))).await.unwrap();
        node.send(Ok(note(&"2".repeat(SUBSCRIPTION_BYTES_MAX + 1), "300"))).await.unwrap();
        node.send(Ok(note("0x2", "240"))).await.unwrap();
        // All is read once this fits.
        for _ in 0..2 {
            node.send(Ok(" ".to_owned())).await.unwrap();
        }
        let newest: Vec<String> = (227..240).map(|number| number.to_string()).collect();
        for expected in newest.iter().map(String::as_str).chain(["null", "240"]) {
            assert_eq!(connection.head("0x2").await.unwrap().get(), expected);
        }
        drop(node);
        assert!(connection.head("0x2").await.is_err());
    }

    #[tokio::test]
    async fn more_answers_than_are_ever_asked_for_end_the_connection() {
        let (to_node, mut asked) = mpsc::channel(1);
        let (node, from_node) = mpsc::channel(1);
        let room = Arc::new(Room::new(1 << 20, &Meter::new(1 << 20), Duration::from_secs(1)));
        let connection = Connection::over(Socket { to_node, from_node }, room);
        let call = connection.call(7, "?".to_owned(), 1 << 20);
        let answers = async {
            asked.recv().await.unwrap();
            node.send(Ok(format!("[{}]", vec![r#"{"id":1,"result":1}"#; 10_000].join(",")))).await.unwrap();
        };
        let (answer, ()) = tokio::join!(call, answers);
        assert!(answer.unwrap_err().is_nonsense());
        assert!(connection.has_ended());
    }

    #[tokio::test]
    async fn an_answer_with_an_id_that_no_request_has_is_nobodys() {
        for odd in ["\"keepalive\"", "-1", "1.5", "{\"a\":1}", "999999999"] {
            let (to_node, mut asked) = mpsc::channel(2);
            let (node, from_node) = mpsc::channel(1);
            let room = Arc::new(Room::new(1 << 20, &Meter::new(1 << 20), Duration::from_secs(1)));
            let connection = Connection::over(Socket { to_node, from_node }, room);
            let call = |id: u64| connection.call(id, "?".to_owned(), 1 << 20);
            let answers = async {
                asked.recv().await.unwrap();
                asked.recv().await.unwrap();
                for said in [r#""result":"0x1""#, r#""error":{"code":-32000,"message":"no"}"#] {
                    node.send(Ok(format!(r#"{{"id":{odd},{said}}}"#))).await.unwrap();
                }
                node.send(Ok(r#"[{"id":8,"result":8},{"id":7,"result":7}]"#.to_owned())).await.unwrap();
            };
            let (seven, eight, ()) = tokio::join!(call(7), call(8), answers);
            assert_eq!((seven.unwrap().get(), eight.unwrap().get()), ("7", "8"), "{odd}");
            // Whoever waits alone may take an answer without any id to be for it.
            let answers = async {
                asked.recv().await.unwrap();
                node.send(Ok(format!(r#"{{"id":{odd},"result":"0x1"}}"#))).await.unwrap();
                node.send(Ok(r#"{"id":null,"result":9}"#.to_owned())).await.unwrap();
            };
            let (nine, ()) = tokio::join!(call(9), answers);
            assert_eq!(nine.unwrap().get(), "9", "{odd}");
        }
    }
}
