//! What became of a module's effects; there for every module that asks for the outbox.

use std::sync::Arc;

use nexum_host_ifaces::{
    event::{Cursor, Part, SourceId},
    grants::{Capability, Grant},
    outbox,
    port::PortError,
};

use super::{
    kind::SourceKind,
    source::{Calendar, Due, Now, Pull, Reach, Shown, Source},
};

pub(super) const KIND: SourceKind = SourceKind { subscriptions: &[], fields: &[], given: Some(given), known: None };

#[derive(Debug)]
pub(crate) struct OutcomeSource {
    id: SourceId,
}

fn given(asked: &[Capability]) -> Option<Box<dyn Source>> {
    let source = || -> Box<dyn Source> { Box::new(OutcomeSource { id: SourceId::new(outbox::SOURCE) }) };
    asked.contains(&Capability::Outbox).then(source)
}

impl Source for OutcomeSource {
    fn id(&self) -> &SourceId {
        &self.id
    }

    fn is_served(&self, reach: &Reach<'_>) -> bool {
        reach.grants.get(Capability::Outbox) == Some(Grant::Served)
    }

    fn pull(&self, reach: &Reach<'_>, pull: Pull) -> Result<(), PortError> {
        // A stub sends nothing, so that nothing comes back.
        if !self.is_served(reach) {
            return Ok(());
        }
        let after = pull.after.as_ref().map_or(0, |after| self.position(after).0);
        reach.outcomes.pull(self.id.clone(), after, pull)
    }

    fn forget(&self, reach: &Reach<'_>, module: Arc<str>) -> Result<(), PortError> {
        reach.outcomes.forget(module)
    }

    fn position(&self, cursor: &Cursor) -> (u64, Part) {
        match cursor {
            Cursor::Outbox { number } => (*number, Part::Block),
            other => unreachable!("the position among outcomes is a number, not {other}"),
        }
    }

    /// What waits there is the outbox's to say.
    fn due(&self, _: Option<&Cursor>, _: &Now<'_>) -> Due {
        Due::No
    }

    fn shown(&self, _: &Calendar<'_>) -> Vec<Shown> {
        vec![Shown { what: "what becomes of the effects that it sends".to_owned(), next_ms: None }]
    }
}
