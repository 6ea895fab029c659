//! The times of a schedule.

use std::{iter, sync::Arc};

use nexum_host_ifaces::{
    cron::{CronMsg, CronPull, Missed, Schedule},
    event::{Cursor, EventId, Part, SourceId},
    port::PortError,
    store::RedeliveryItem,
    types::{Event, Tick},
};

use super::{
    kind::{SourceKind, SubscriptionKind},
    reading::Reading,
    source::{Calendar, Due, Now, Pull, Reach, Shown, Source},
    written::{Field, Shape, Written},
};
use crate::manifest::{
    ceilings,
    values::{Finding, duration},
};

pub(super) const KIND: SourceKind = SourceKind {
    subscriptions: &[SubscriptionKind {
        name: "cron",
        alias: None,
        takes: &["schedule", "every", "missed"],
        read: schedule,
    }],
    fields: &[
        Field::new("missed", Shape::Text),
        Field::new("schedule", Shape::Text),
        Field::new("every", Shape::Length),
    ],
    given: None,
    known: Some(known),
};

#[derive(Debug)]
pub(crate) struct CronSource {
    id: SourceId,
    schedule: Arc<Schedule>,
    missed: Missed,
}

impl CronSource {
    pub(crate) fn new(schedule: Schedule, missed: Missed) -> Self {
        let id = match &schedule {
            Schedule::Cron(expression) => format!("cron:{expression}"),
            Schedule::Every { period_ms } => format!("cron:every={period_ms}ms"),
        };
        Self { id: SourceId::new(id), schedule: Arc::new(schedule), missed }
    }
}

impl Source for CronSource {
    fn id(&self) -> &SourceId {
        &self.id
    }

    fn is_served(&self, _: &Reach<'_>) -> bool {
        true
    }

    fn pull(&self, reach: &Reach<'_>, pull: Pull) -> Result<(), PortError> {
        let Pull { module, token, after, every_event: _, deliveries_max: max, to } = pull;
        let (source, schedule, missed) = (self.id.clone(), self.schedule.clone(), self.missed);
        let after = after.map(|after| self.position(&after).0);
        reach.ports.of().cast(CronMsg::Pull(CronPull { module, source, token, schedule, missed, after, max, to }))
    }

    fn forget(&self, reach: &Reach<'_>, module: Arc<str>) -> Result<(), PortError> {
        reach.ports.of().cast(CronMsg::Forget { module })
    }

    fn position(&self, cursor: &Cursor) -> (u64, Part) {
        match cursor {
            Cursor::Cron { fired_at } => (*fired_at, Part::Block),
            other => unreachable!("a schedule's position is a time, not {other}"),
        }
    }

    /// Before its first position nothing is due: it begins when it is asked for the first time.
    fn due(&self, at: Option<&Cursor>, now: &Now<'_>) -> Due {
        let next = at.and_then(|at| (now.next)(&self.schedule, self.position(at).0));
        if next.is_some_and(|next| next <= now.now_ms) { Due::Yes } else { Due::No }
    }

    fn shown(&self, calendar: &Calendar<'_>) -> Vec<Shown> {
        let when = match &*self.schedule {
            Schedule::Cron(expression) => format!("schedule `{expression}` in UTC"),
            Schedule::Every { period_ms } => format!("every {}", length(*period_ms)),
        };
        let missed = match self.missed {
            Missed::Skip => "missed runs are skipped",
            Missed::Once => "the newest of missed runs is delivered",
            Missed::All => "missed runs are delivered too",
        };
        let after = |at: u64| (calendar.next)(&self.schedule, at);
        let next_ms = iter::successors(after(calendar.now_ms), |at| after(*at)).take(calendar.times).collect();
        vec![Shown { what: format!("{when}; {missed}"), next_ms: Some(next_ms) }]
    }
}

/// A tick says no more than its time.
fn known(item: &RedeliveryItem) -> Option<Event> {
    match &item.event {
        EventId::Tick { fired_at, .. } => Some(Event::Tick(Tick { fired_at: *fired_at })),
        _ => None,
    }
}

/// A whole number and a unit, the largest that leaves one.
fn length(ms: u64) -> String {
    const UNITS: [(&str, u64); 4] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)];
    match UNITS.iter().find(|(_, unit)| ms > 0 && ms.is_multiple_of(*unit)) {
        Some((name, unit)) => format!("{}{name}", ms / unit),
        None => format!("{ms}ms"),
    }
}

fn schedule(written: &Written, reading: &mut Reading<'_>) -> Result<(), Finding> {
    let (schedule, at) = match (written.text("schedule"), written.length("every")) {
        (Some(text), None) => {
            ceilings::text(text, "schedule", ceilings::SCHEDULE_BYTES_MAX)?;
            (Schedule::Cron(text.get_ref().clone()), text.span())
        }
        (None, Some(text)) => {
            let period_ms = duration(text)?.as_millis() as u64;
            if period_ms < 1000 {
                return Err((text.span(), "every: expected at least \"1s\"".into()));
            }
            (Schedule::Every { period_ms }, text.span())
        }
        _ => return Err((written.span.clone(), "a cron subscription needs either schedule or every".into())),
    };
    let missed = match written.text("missed").map(|missed| (missed.get_ref().as_str(), missed.span())) {
        None | Some(("skip", _)) => Missed::Skip,
        Some(("once", _)) => Missed::Once,
        Some(("all", _)) => Missed::All,
        Some((other, span)) => {
            let message = format!("missed = `{other}`: a cron subscription takes \"skip\", \"once\" or \"all\"");
            return Err((span, message));
        }
    };
    (reading.schedules)(&schedule).map_err(|message| (at.clone(), message))?;
    let source = CronSource::new(schedule, missed);
    if reading.has(source.id()) {
        return Err((at, "this schedule is subscribed twice".into()));
    }
    reading.add(Box::new(source));
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use nexum_host_ifaces::cron::ScheduleNext;

    use super::*;

    #[test]
    fn a_tick_is_due_when_its_time_has_come() {
        let next: ScheduleNext = Arc::new(|_, after| Some(after + 100));
        let heads = BTreeMap::new();
        let source = CronSource::new(Schedule::Every { period_ms: 100 }, Missed::Skip);
        let due = |at: Option<u64>| {
            let at = at.map(|fired_at| Cursor::Cron { fired_at });
            source.due(at.as_ref(), &Now { heads: &heads, next: &next, now_ms: 1_000 })
        };
        assert_eq!((due(Some(900)), due(Some(901)), due(None)), (Due::Yes, Due::No, Due::No));
    }

    #[test]
    fn a_period_is_told_in_the_largest_unit_that_fits() {
        let told = [90_000, 60_000, 7_200_000, 172_800_000, 1_500].map(length);
        assert_eq!(told, ["90s", "1m", "2h", "2d", "1500ms"]);
    }

    #[test]
    fn the_key_of_a_cursor_tells_the_schedule() {
        let id = |schedule| CronSource::new(schedule, Missed::All).id().to_string();
        assert_eq!(id(Schedule::Cron("*/5 * * * *".to_owned())), "cron:*/5 * * * *");
        assert_eq!(id(Schedule::Every { period_ms: 30_000 }), "cron:every=30000ms");
    }
}
