//! Names to addresses for modules, on threads that nothing else runs on.

use std::{net::SocketAddr, sync::Arc};

pub use nexum_host_ifaces::names::{LookUp, look_up_of_this_machine};
use nexum_host_ifaces::{
    HostError,
    clock::Clock,
    names::{Names, Share},
};

use crate::metrics::EgressMetrics;

/// What modules may hold of threads.
const SHARE: Share = Share { domain: "http", asker: "module", lookups_max: 32, asker_lookups_max: 4 };

/// Looks names up for all modules. It outlives the actor, as do the threads of lookups that hang.
pub struct Resolver(Arc<Names>);

impl Resolver {
    pub fn new(look_up: LookUp, clock: Arc<dyn Clock>, metrics: &EgressMetrics) -> Arc<Self> {
        let gauge = metrics.lookups.clone();
        let told = move |lookups: usize| gauge.set(i64::try_from(lookups).unwrap_or(i64::MAX));
        Arc::new(Self(Names::new(SHARE, look_up, clock, Box::new(told))))
    }

    /// The addresses of a name, with port 0; at least one.
    ///
    /// # Errors
    /// Those of [`Names::resolve`]; the module is the one who asks.
    pub(crate) async fn resolve(&self, module: &Arc<str>, name: &str) -> Result<Arc<[SocketAddr]>, HostError> {
        self.0.resolve(module, name).await
    }
}
