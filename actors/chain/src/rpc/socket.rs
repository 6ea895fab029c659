//! JSON-RPC over one WebSocket: which answer belongs to which request, and the heads that a subscription tells.
//!
//! Invariant: every request ends, with its answer, with the connection, or with its caller. What waits is bounded: answers
//! are handed over one at a time, and of heads that nobody takes only the newest few are kept.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde_json::value::RawValue;
use tokio::sync::{mpsc, oneshot};

use super::{
    dial::Socket,
    envelope::{self, Answer, AnswerId, Packet},
    errors::CallError,
};

/// Heads that wait to be taken. What is left out is found as a gap.
const HEADS_MAX: usize = 16;
/// Requests that wait for an answer.
const PENDING_MAX: usize = 4_096;

pub type Payload = Result<Box<RawValue>, CallError>;

#[derive(Default)]
struct Pending {
    calls: HashMap<u64, oneshot::Sender<Payload>>,
    /// The subscription whose heads count.
    subscription: Option<String>,
    /// Why the connection ended.
    ended: Option<CallError>,
}

/// One connection. The reader ends with its last clone.
#[derive(Clone)]
pub struct Connection {
    to_node: mpsc::Sender<String>,
    pending: Arc<Mutex<Pending>>,
    /// What the subscription told, newest last; there is one taker.
    heads: Arc<tokio::sync::Mutex<mpsc::Receiver<Box<RawValue>>>>,
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
    pub fn over(socket: Socket) -> Self {
        let Socket { to_node, from_node } = socket;
        let pending = Arc::new(Mutex::new(Pending::default()));
        let (told, heads) = mpsc::channel(HEADS_MAX);
        tokio::spawn(read(from_node, pending.clone(), told));
        Self { to_node, pending, heads: Arc::new(tokio::sync::Mutex::new(heads)) }
    }

    /// Sends one request and waits for its answer.
    pub async fn call(&self, id: u64, text: String) -> Payload {
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
        if self.to_node.send(text).await.is_err() {
            return Err(self.ended());
        }
        answer.await.unwrap_or_else(|_| Err(self.ended()))
    }

    /// From here on only what this subscription tells counts.
    pub fn listen_to(&self, subscription: String) {
        lock(&self.pending).subscription = Some(subscription);
    }

    pub fn has_ended(&self) -> bool {
        lock(&self.pending).ended.is_some()
    }

    fn ended(&self) -> CallError {
        let ended = lock(&self.pending).ended.clone();
        ended.unwrap_or_else(|| CallError::unavailable("the connection was lost"))
    }

    /// The next head that the subscription tells.
    pub async fn head(&self) -> Result<Box<RawValue>, CallError> {
        let head = self.heads.lock().await.recv().await;
        head.ok_or_else(|| self.ended())
    }
}

fn is_harmless(text: &str) -> bool {
    text.trim().is_empty() || serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}

/// Hands out what the node sends, until the connection ends.
async fn read(
    mut from_node: mpsc::Receiver<Result<String, super::dial::Broken>>,
    pending: Arc<Mutex<Pending>>,
    told: mpsc::Sender<Box<RawValue>>,
) {
    let error = loop {
        let text = match from_node.recv().await {
            Some(Ok(text)) => text,
            Some(Err(broken)) => break CallError::of_broken(broken),
            None => break CallError::unavailable("the connection was lost"),
        };
        // The last clone of the connection is gone.
        if told.is_closed() {
            return;
        }
        match envelope::read(&text) {
            Ok(Packet::One(answer)) => deliver(&pending, answer),
            Ok(Packet::Many(answers)) => answers.into_iter().for_each(|answer| deliver(&pending, answer)),
            // Full: the next head reveals what was left out.
            Ok(Packet::Note { subscription, result }) => {
                let counts = lock(&pending).subscription.as_ref().is_none_or(|ours| *ours == subscription);
                if counts {
                    drop(told.try_send(result));
                }
            }
            // A frame of another protocol's, such as a keep-alive. What is no JSON at all is no node's.
            Err(_) if is_harmless(&text) => {}
            Err(what) => break CallError::nonsense(what),
        }
    };
    let mut pending = lock(&pending);
    pending.ended = Some(error.clone());
    for (_, reply) in pending.calls.drain() {
        // The caller may have given up.
        let _ = reply.send(Err(error.clone()));
    }
}

fn deliver(pending: &Mutex<Pending>, answer: Answer) {
    let mut pending = lock(pending);
    let payload = answer.payload.map_err(CallError::of_node);
    match (answer.id, payload) {
        (AnswerId::Number(id), payload) => {
            if let Some(reply) = pending.calls.remove(&id) {
                let _ = reply.send(payload);
            }
        }
        // The node could not tell which request it refuses. Waiting for an answer to any of them may be in vain.
        (AnswerId::Missing | AnswerId::Other, Err(error)) => {
            for (_, reply) in pending.calls.drain() {
                let _ = reply.send(Err(error.clone()));
            }
        }
        (AnswerId::Missing | AnswerId::Other, Ok(result)) if pending.calls.len() == 1 => {
            for (_, reply) in pending.calls.drain() {
                let _ = reply.send(Ok(result.clone()));
            }
        }
        (AnswerId::Missing | AnswerId::Other, Ok(_)) => {}
    }
}
