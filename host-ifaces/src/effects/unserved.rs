//! Effects that no actor carries out yet, so that none is taken: transactions of an account, and messages to a topic.

use serde_json::{Value, json};

use super::kind::{EffectKind, hex};
use crate::{
    HostError,
    bindings::nexum::host::outbox::{Effect, MessageEffect, TransactionEffect},
    grants::Grants,
};

impl EffectKind for TransactionEffect {
    fn name(&self) -> &'static str {
        "transaction"
    }

    fn destination(&self) -> String {
        format!("chain:{}", self.chain_id)
    }

    fn bytes(&self) -> usize {
        self.data.len()
    }

    fn stripped(&self) -> Effect {
        Effect::Transaction(Self { data: Vec::new(), ..self.clone() })
    }

    fn payload(&self) -> Value {
        json!({ "chain_id": self.chain_id, "data": hex(&self.data) })
    }

    /// It says what it needs once there is an actor for it.
    fn granted(&self, _module: &str, _grants: &Grants) -> Result<(), HostError> {
        Ok(())
    }
}

impl EffectKind for MessageEffect {
    fn name(&self) -> &'static str {
        "message"
    }

    fn destination(&self) -> String {
        format!("topic:{}", self.content_topic)
    }

    fn bytes(&self) -> usize {
        self.content_topic.len() + self.payload.len()
    }

    fn stripped(&self) -> Effect {
        Effect::Message(Self { payload: Vec::new(), ..self.clone() })
    }

    fn payload(&self) -> Value {
        json!({ "content_topic": self.content_topic })
    }

    /// It says what it needs once there is an actor for it.
    fn granted(&self, _module: &str, _grants: &Grants) -> Result<(), HostError> {
        Ok(())
    }
}
