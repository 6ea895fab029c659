//! Why something was not done, as the client and the service hand it on, and as a module hears it.

use nexum_host_ifaces::{HostError, HostErrorKind, interfaces::remote_store::port::error};
use nexum_swarm::{Unreadable, node::Failure};

/// What became of a request to a node instead of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    pub failure: Failure,
    /// What the node answered; 0 where it did not.
    pub status: u16,
    /// For people; names the node.
    pub text: String,
}

impl From<Trouble> for HostError {
    fn from(Trouble { failure, status, text }: Trouble) -> Self {
        let kind = match failure {
            Failure::NotFound | Failure::Refused => HostErrorKind::InvalidInput,
            Failure::Denied => HostErrorKind::Denied,
            Failure::Busy => HostErrorKind::RateLimited,
            Failure::Slow => HostErrorKind::Timeout,
            Failure::BatchFull
            | Failure::BatchUnusable
            | Failure::Syncing
            | Failure::Failed
            | Failure::Unreachable
            | Failure::Half
            | Failure::Corrupt => HostErrorKind::Unavailable,
        };
        // The data of `rate-limited` is a time.
        let data = if failure == Failure::Busy { "1000" } else { failure.name() };
        error(kind, text).with_code(status.into()).with_data(data)
    }
}

/// Content that cannot be read whoever brings it.
pub fn unreadable(why: Unreadable) -> HostError {
    let data = match why {
        Unreadable::TooLarge { .. } => "too-large",
        Unreadable::ErasureCodes => "erasure-codes",
        Unreadable::NoTree => "no-tree",
    };
    error(HostErrorKind::InvalidInput, why.to_string()).with_data(data)
}

#[cfg(test)]
mod tests {
    use nexum_host_ifaces::interfaces::remote_store::port::WAITS_FOR_OPERATOR;

    use super::*;

    #[test]
    fn effects_wait_for_the_operator_in_exactly_the_cases_that_say_so() {
        for failure in [
            Failure::NotFound,
            Failure::BatchFull,
            Failure::BatchUnusable,
            Failure::Syncing,
            Failure::Refused,
            Failure::Failed,
            Failure::Denied,
            Failure::Unreachable,
            Failure::Slow,
            Failure::Half,
            Failure::Corrupt,
        ] {
            let told = HostError::from(Trouble { failure, status: 402, text: "t".into() });
            assert_eq!((told.code, told.data.as_deref()), (402, Some(failure.name())));
            assert_eq!(WAITS_FOR_OPERATOR.contains(&failure.name()), failure.waits_for_the_operator(), "{failure:?}");
        }
        let data = |why| unreadable(why).data;
        assert_eq!(data(Unreadable::NoTree).as_deref(), Some("no-tree"));
        assert_eq!(data(Unreadable::TooLarge { bytes: 9, bytes_max: 8 }).as_deref(), Some("too-large"));
        let busy = HostError::from(Trouble { failure: Failure::Busy, status: 429, text: "t".into() });
        assert_eq!((busy.kind, busy.data.as_deref()), (HostErrorKind::RateLimited, Some("1000")));
    }
}
