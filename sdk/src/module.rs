//! What a module is to the host: one value made by `init` and called for every event. `#[module]` writes the
//! implementation; the value lives in a [`Slot`], because component exports are free functions.

use std::cell::RefCell;

use crate::bindings::Event;
use crate::bindings::nexum::host::types::{self, HostError};
use crate::{Block, Config, Error, Log, Message, Outcome, Query, Reorg, Result, Tick};

/// A module. An event kind without a handler succeeds and does nothing.
pub trait Module: Sized {
    /// Called once per instance, before any event, under the same rules as an event.
    fn init(config: Config) -> Result<Self>;

    /// A block, after its logs.
    fn on_block(&mut self, _block: Block) -> Result<()> {
        Ok(())
    }

    /// The matching logs of one block, in log-index order; never empty.
    fn on_logs(&mut self, _logs: Vec<Log>) -> Result<()> {
        Ok(())
    }

    /// One firing of a schedule.
    fn on_tick(&mut self, _tick: Tick) -> Result<()> {
        Ok(())
    }

    /// A message of a subscribed content topic.
    fn on_message(&mut self, _message: Message) -> Result<()> {
        Ok(())
    }

    /// The chain changed below blocks that were already handled.
    fn on_reorg(&mut self, _reorg: Reorg) -> Result<()> {
        Ok(())
    }

    /// What became of an outbox entry.
    fn on_outcome(&mut self, _outcome: Outcome) -> Result<()> {
        Ok(())
    }

    /// Answers JSON text to a question about the module's state; on an instance of its own, which changes nothing.
    fn on_query(&self, query: Query) -> Result<String> {
        Err(query.unknown())
    }
}

/// What a handler may return: nothing, or a result whose error converts into [`Error`].
#[diagnostic::on_unimplemented(
    message = "a handler returns `()` or `nexum_sdk::Result<()>`, not `{Self}`",
    label = "this is not what a handler returns"
)]
pub trait HandlerResult {
    fn into_result(self) -> Result<()>;
}

impl HandlerResult for () {
    fn into_result(self) -> Result<()> {
        Ok(())
    }
}

impl<E: Into<Error>> HandlerResult for Result<(), E> {
    fn into_result(self) -> Result<()> {
        self.map_err(Into::into)
    }
}

/// Where the one value of an instance lives between calls.
pub struct Slot<M>(RefCell<Option<M>>);

impl<M: Module> Slot<M> {
    pub const fn empty() -> Self {
        Self(RefCell::new(None))
    }

    pub fn init(&self, config: types::Config) -> Result<(), HostError> {
        let module = M::init(Config::from(config))?;
        self.0.replace(Some(module));
        Ok(())
    }

    pub fn on_event(&self, event: Event) -> Result<(), HostError> {
        let mut slot = self.0.borrow_mut();
        let module = slot.as_mut().ok_or_else(|| Error::msg("an event came before init"))?;
        match event {
            Event::Block(block) => module.on_block(block),
            Event::Logs(logs) => module.on_logs(logs),
            Event::Tick(tick) => module.on_tick(tick),
            Event::Message(message) => module.on_message(message),
            Event::Reorg(reorg) => module.on_reorg(reorg),
            Event::Outcome(outcome) => module.on_outcome(outcome),
        }
        .map_err(HostError::from)
    }

    pub fn query(&self, method: String, params: String) -> Result<String, HostError> {
        let slot = self.0.borrow();
        let module = slot.as_ref().ok_or_else(|| Error::msg("a query came before init"))?;
        module.on_query(Query::from_host(method, params)).map_err(HostError::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Ticks(u64);

    impl Module for Ticks {
        fn init(_config: Config) -> Result<Self> {
            Ok(Self(0))
        }

        fn on_tick(&mut self, tick: Tick) -> Result<()> {
            self.0 += tick.fired_at;
            if self.0 > 10 { Err(Error::msg("too late")) } else { Ok(()) }
        }
    }

    #[test]
    fn a_module_that_answers_no_queries_says_so() {
        let slot = Slot::<Ticks>::empty();
        assert!(slot.query("sum".to_owned(), "null".to_owned()).is_err(), "before init");
        slot.init(Vec::new()).unwrap();
        let error = slot.query("sum".to_owned(), "null".to_owned()).unwrap_err();
        assert_eq!(error.message, "there is no query `sum`");
    }

    #[test]
    fn routes_events_and_ignores_the_unhandled() {
        let slot = Slot::<Ticks>::empty();
        assert!(slot.on_event(Event::Tick(Tick { fired_at: 1 })).is_err(), "before init");
        slot.init(Vec::new()).unwrap();
        slot.on_event(Event::Tick(Tick { fired_at: 4 })).unwrap();
        slot.on_event(Event::Logs(Vec::new())).unwrap();
        let error = slot.on_event(Event::Tick(Tick { fired_at: 7 })).unwrap_err();
        assert_eq!(error.message, "too late");
    }
}
