//! The cron actor: ticks for modules that pull them.
//!
//! `schedule` says when a schedule fires, `due` what a pull is owed now; both are pure. `actor` holds the pulls that
//! wait and one timer. What a tick means to a module is the kernel's business.

mod actor;
mod due;
mod schedule;
#[cfg(any(test, feature = "fuzzing"))]
mod torture;

pub use actor::{Args, CronActor, spawn};
pub use schedule::{check, next_after};

/// What must hold of schedules, for the fuzz targets.
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod readers {
    pub use crate::torture::schedule;
}
