//! What became of a module's effects; there for every module that asks for the outbox.

use std::sync::Arc;

use nexum_host_ifaces::{
    capability::Capability,
    event::{Cursor, Part, SourceId},
    grants::Grant,
    interfaces::outbox::CAPABILITY,
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
    asked.contains(&CAPABILITY).then(source)
}

impl Source for OutcomeSource {
    fn id(&self) -> &SourceId {
        &self.id
    }

    fn is_served(&self, reach: &Reach<'_>) -> bool {
        reach.grants.get(CAPABILITY) == Some(Grant::Served)
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
            Cursor::Number { number } => (*number, Part::Block),
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use nexum_host_ifaces::{
        grants::{AskedCapabilities, Grants},
        interfaces::{chain::CAPABILITY as CHAIN, logging::CAPABILITY as LOGGING},
        ports::Ports,
    };

    use super::*;
    use crate::sources::source::Outcomes;

    struct Nobody;

    impl Outcomes for Nobody {
        fn pull(&self, _: SourceId, _: u64, _: Pull) -> Result<(), PortError> {
            unreachable!("nobody is asked")
        }

        fn forget(&self, _: Arc<str>) -> Result<(), PortError> {
            unreachable!("nobody is asked")
        }
    }

    #[test]
    fn it_is_there_for_whoever_asks_for_the_outbox_and_served_where_the_outbox_is() {
        assert!(given(&[LOGGING, CHAIN]).is_none());
        let source = given(&[LOGGING, CAPABILITY]).unwrap();
        assert_eq!(source.id().as_str(), "outbox");
        let is_served = |denied: &[Capability]| {
            let asked = AskedCapabilities { required: &[], optional: &[CAPABILITY] };
            let provided = BTreeSet::from([CAPABILITY]);
            let grants = Grants::decide(asked, &provided, &denied.iter().copied().collect()).unwrap();
            source.is_served(&Reach { ports: &Ports::unbound([]), grants: &grants, outcomes: &Nobody })
        };
        assert!(is_served(&[]) && !is_served(&[CAPABILITY]));
    }
}
