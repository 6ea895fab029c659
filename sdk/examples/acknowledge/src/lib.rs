//! Acknowledges every message of a topic on another one.
//!
//! Each message comes once, whatever becomes of engine and node meanwhile. Its acknowledgement leaves through the outbox, only
//! when the event is committed, and is looked for at the node before it is sent again. What could not be published is kept in
//! state under `lost/`.

use nexum_sdk::{
    self as nexum, Config, Message, Outcome, OutcomeStatus, Result, messaging, outbox,
    state::{Item, Map},
};

/// Messages that were handled.
const SEEN: Item<u64> = Item::new("seen");
/// Acknowledgements that a node took.
const PUBLISHED: Item<u64> = Item::new("published");
/// Why an acknowledgement was given up, by its key.
const LOST: Map<String, String> = Map::new("lost");

struct Acknowledge {
    topic: String,
}

#[nexum::module]
impl Acknowledge {
    #[init]
    fn start(config: Config) -> Result<Self> {
        let topic = config.string("acknowledgements")?.to_owned();
        match messaging::query(&topic, None, None, Some(1_000)) {
            Ok(stored) => nexum::info!("{} acknowledgements are stored", stored.len()),
            Err(error) => nexum::warn!("what is stored is not known: {error}"),
        }
        Ok(Self { topic })
    }

    #[on_message]
    fn acknowledge(&mut self, message: Message) -> Result<()> {
        SEEN.update(|seen| seen.unwrap_or(0) + 1)?;
        let acknowledgement = [b"seen: ".as_slice(), &message.payload].concat();
        outbox::message(self.topic.as_str(), acknowledgement).lane("acknowledgements").send()?;
        Ok(())
    }

    #[on_outcome]
    fn told(&mut self, outcome: Outcome) -> Result<()> {
        match outcome.status {
            OutcomeStatus::Delivered(_) => PUBLISHED.update(|count| count.unwrap_or(0) + 1).map(drop),
            OutcomeStatus::Failed(reason) | OutcomeStatus::Cancelled(reason) => {
                nexum::warn!("acknowledgement {} was not published: {reason}", outcome.key);
                LOST.set(&outcome.key, &reason)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use nexum_sdk::testing;

    use super::*;

    const TOPIC: &str = "/nexum/1/acknowledgements/plain";

    #[test]
    fn a_message_is_counted_and_acknowledged() {
        testing::reset();
        let mut module = Acknowledge { topic: TOPIC.to_owned() };
        let content_topic = "/nexum/1/orders/plain".to_owned();
        module
            .acknowledge(Message { content_topic, payload: b"order 7".to_vec(), timestamp: 2, sender: None })
            .unwrap();
        let acknowledged = testing::messages();
        assert_eq!(acknowledged.len(), 1);
        assert_eq!((acknowledged[0].content_topic.as_str(), &*acknowledged[0].payload), (TOPIC, &b"seen: order 7"[..]));
        let sent = testing::sent();
        module.told(sent[0].outcome(OutcomeStatus::Delivered(b"OK".to_vec()))).unwrap();
        module.told(sent[0].outcome(OutcomeStatus::Failed("no peers".to_owned()))).unwrap();
        assert_eq!((SEEN.get().unwrap(), PUBLISHED.get().unwrap()), (Some(1), Some(1)));
        assert_eq!(LOST.get(&sent[0].key).unwrap(), Some("no peers".to_owned()));
    }
}
