//! Effects that no actor carries out yet, so that none is taken: messages to a topic.

use serde_json::{Value, json};

use super::kind::EffectKind;
use crate::{
    HostError,
    bindings::nexum::host::outbox::{Effect, MessageEffect},
    grants::Grants,
};

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
