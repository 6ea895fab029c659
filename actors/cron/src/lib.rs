//! The cron actor: ticks for modules that pull them.
//!
//! `schedule` says when a schedule fires, `due` what a pull is owed now; both are pure. `actor` holds the pulls that
//! wait and one timer. What a tick means to a module is the kernel's business.

mod actor;
mod due;
mod schedule;

pub use actor::{Args, CronActor, spawn};
pub use schedule::{check, next_after};
