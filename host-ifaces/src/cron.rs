//! The port of the cron actor.

use std::sync::Arc;

use ractor::RpcReplyPort;
use serde::{Deserialize, Serialize};

use crate::{
    event::{SourceId, Subscriber},
    ports::Service,
};

/// When a schedule fires.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Schedule {
    /// A 5-field (minute first) or 6-field (second first) cron expression, in UTC.
    Cron(String),
    /// Every so many milliseconds, aligned to the Unix epoch so that restarts do not move it.
    Every { period_ms: u64 },
}

/// What happens to the runs missed while the module was down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Missed {
    #[default]
    Skip,
    /// One tick, with the newest missed time.
    Once,
    All,
}

/// One module's request for the next ticks of one schedule.
#[derive(Debug, Clone)]
pub struct CronPull {
    pub module: Arc<str>,
    pub source: SourceId,
    pub token: u64,
    pub schedule: Arc<Schedule>,
    pub missed: Missed,
    /// The last scheduled time handled, milliseconds; `None` on the very first pull: answer at once with no delivery and
    /// `progress` = now, so that the starting point is durable.
    pub after: Option<u64>,
    /// At most this many ticks in the answer.
    pub max: usize,
    pub to: Subscriber,
}

/// State of the cron actor, for the tree.
#[derive(Debug, Clone, Default, Serialize)]
pub struct CronStatus {
    pub schedules: usize,
    /// Milliseconds until the next tick of any schedule.
    pub next_in_ms: Option<u64>,
}

#[derive(Debug)]
pub enum CronMsg {
    /// Must answer once, when the schedule next fires or at once when runs were missed. Replaces an earlier pull of the
    /// same module and source.
    Pull(CronPull),
    /// Drop whatever this module waits for.
    Forget { module: Arc<str> },
    /// Must reply.
    Status(RpcReplyPort<CronStatus>),
    /// The actor's own timer; from anyone else it changes nothing.
    Wake,
}

impl Service for CronMsg {
    const NAME: &'static str = "cron";
}

/// The first time after the given one at which a schedule fires, milliseconds; none when it fires no more.
pub type ScheduleNext = Arc<dyn Fn(&Schedule, u64) -> Option<u64> + Send + Sync>;

/// Whether a schedule can be used; the message says what would be right. Implemented by the cron actor's crate and handed
/// to the manifest check, so that the kernel needs no cron parser.
pub type ScheduleCheck = Arc<dyn Fn(&Schedule) -> Result<(), String> + Send + Sync>;
