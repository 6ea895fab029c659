//! One module's pull of a topic: looks through the store until there is something to give, and waits between looks.
//!
//! A look begins at the module's position, so that whatever became of the one before, nothing is left out. It comes when
//! something was heard live, when the messages that wait are settled, and every now and then in any case.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use nexum_host_ifaces::{
    HostError,
    clock::Clock,
    event::{Answer, Cursor, SourceReply},
    failing::Failing,
    interfaces::messaging::port::MessagePull,
    sync::lock,
};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use crate::{
    metrics::MessagingMetrics,
    nodes::{Nodes, Wanted},
    scan::{Goes, Position, Scan, Scanned},
    settings::Settings,
    wire::Stored,
};

const NS_PER_MS: u64 = 1_000_000;
/// How far a position moves without a message before the module is told: what is lost since is told from it.
const TELL_EVERY_NS: u64 = 10 * 60 * 1_000_000_000;
/// A position that only time moved is this old when the engine was away: then it is asked how far back the store goes.
const AWAY_NS: u64 = 3 * TELL_EVERY_NS / 2;
/// What was heard live is in the store a moment later: so often it is looked for, and with such a pause.
const EAGER_LOOKS: u32 = 10;
const EAGER_PAUSE: Duration = Duration::from_millis(300);
/// After a failed look, doubled up to the last.
const FIRST_BACKOFF: Duration = Duration::from_millis(250);
const LAST_BACKOFF: Duration = Duration::from_secs(5);
/// Pages of one look, from where it gets past its beginning. What is left is looked through by the next.
const PAGES_MAX: usize = 64;

/// What all pulls share.
pub struct Pulls {
    pub nodes: Arc<Nodes>,
    pub settings: Settings,
    pub clock: Arc<dyn Clock>,
    pub metrics: MessagingMetrics,
    /// The last gap, for people.
    pub last_gap: Mutex<Option<String>>,
}

/// What a look comes to.
enum Looked {
    Answer(Answer),
    /// Nothing, and when there may be something at the latest.
    Nothing(Duration),
}

impl Pulls {
    /// Answers a pull, however long it takes until there is something. `wakes` changes when a message was heard; `failing` has
    /// why nothing can be said meanwhile.
    pub async fn serve(&self, pull: &MessagePull, mut wakes: watch::Receiver<u64>, failing: &Mutex<Option<Failing>>) {
        // One that came just now is seldom alone.
        let is_recent = pull.after.as_ref().is_some_and(|after| Position::of(after).names() > 0);
        let mut eager = if is_recent { EAGER_LOOKS } else { 0 };
        let (mut backoff, mut asked_oldest) = (FIRST_BACKOFF, false);
        loop {
            wakes.borrow_and_update();
            let looked = self.look(pull, &mut asked_oldest).await;
            self.note(failing, looked.as_ref().err());
            let pause = match looked {
                Ok(Looked::Answer(answer)) => return give(pull, answer),
                Ok(Looked::Nothing(pause)) => {
                    backoff = FIRST_BACKOFF;
                    pause
                }
                Err(failed) => {
                    tracing::debug!(module = %pull.module, source = %pull.source, error = failed.message, "no look at a store");
                    sleep(backoff).await;
                    backoff = (backoff * 2).min(LAST_BACKOFF);
                    continue;
                }
            };
            let pause = if eager > 0 { pause.min(EAGER_PAUSE) } else { pause };
            eager = match timeout(pause, wakes.changed()).await {
                Ok(Ok(())) => EAGER_LOOKS,
                // Nobody listens any more: the actor is about to end.
                Ok(Err(_)) => return,
                Err(_) => eager.saturating_sub(1),
            };
        }
    }

    fn note(&self, failing: &Mutex<Option<Failing>>, failed: Option<&HostError>) {
        let mut failing = lock(failing);
        let earlier = failing.take();
        *failing = failed.map(|failed| Failing::again(earlier, self.clock.monotonic_ns(), failed.message.clone()));
    }

    async fn look(&self, pull: &MessagePull, asked_oldest: &mut bool) -> Result<Looked, HostError> {
        let now_ms = self.clock.now_ms();
        let disorder_ms = u64::try_from(self.settings.max_disorder.as_millis()).unwrap_or(u64::MAX);
        let settled_ns = now_ms.saturating_sub(disorder_ms).saturating_mul(NS_PER_MS);
        let Some(start) = pull.after.as_ref().map(Position::of) else {
            // It has no position here yet. What is under way now is part of what it gets.
            let history_ms = pull.history.map_or(0, |back| u64::try_from(back.as_millis()).unwrap_or(u64::MAX));
            let start = settled_ns.saturating_sub(history_ms.saturating_mul(NS_PER_MS));
            return Ok(Looked::Answer(only(Position::start(start).cursor())));
        };
        let mut scan =
            Scan::new(pull.source.clone(), start.clone(), settled_ns, pull.deliveries_max, self.clock.monotonic_ns());
        // One more is what the position itself names.
        let mut wanted = Wanted {
            topic: Some(pull.topic.clone()),
            start_ns: Some(start.time_ns),
            end_ns: Some(now_ms.saturating_add(disorder_ms).saturating_mul(NS_PER_MS)),
            count: pull.deliveries_max.saturating_add(start.names() + 1),
            ..Wanted::default()
        };
        let (mut on, mut pages, mut asked, mut is_whole) = (None, 0, 0, false);
        let (mut goes, mut began) = (Goes::On, None);
        while goes == Goes::On && !is_whole && pages < PAGES_MAX {
            let (node, page) = self.nodes.page(on, wanted.clone()).await?;
            on = Some(node);
            asked += 1;
            let first = page.messages.iter().map(|stored| (stored.time_ns, stored.hash)).min();
            // A cursor says that there is more. Some stores find nothing after their own, or begin anew: the next look asks by time.
            if asked > 1 && (first == began || (first.is_none() && scan.is_past(&start))) {
                break;
            }
            began = began.or(first);
            goes = scan.take(page.messages)?;
            // A look that ended where it began would be the same again, however often it came.
            pages += usize::from(scan.is_past(&start));
            match page.next.filter(|_| first.is_some()) {
                Some(next) => wanted.after = Some(next),
                None => is_whole = true,
            }
        }
        let gap = !*asked_oldest && self.is_gone(pull, &start, &mut scan, on, now_ms).await?;
        *asked_oldest = true;
        let has_more = goes == Goes::On && !is_whole;
        let Scanned { deliveries, position } = if has_more { scan.pause() } else { scan.end() };
        if gap || !deliveries.is_empty() || pull.at_once || has_more {
            self.metrics.delivered.inc_by(deliveries.len() as u64);
            return Ok(Looked::Answer(Answer::Events { deliveries, progress: Some(position.cursor()), skipped: 0 }));
        }
        if position.time_ns.saturating_sub(start.time_ns) >= TELL_EVERY_NS {
            return Ok(Looked::Answer(only(position.cursor())));
        }
        let poll = self.settings.poll_interval;
        Ok(Looked::Nothing(match goes {
            // Each moment another one is settled.
            Goes::Waits => poll.min(EAGER_PAUSE),
            Goes::On | Goes::Enough => poll,
        }))
    }

    /// Whether the store no longer goes back to where the module is. Told once: the position moves past what is gone.
    async fn is_gone(
        &self,
        pull: &MessagePull,
        start: &Position,
        scan: &mut Scan,
        node: Option<usize>,
        now_ms: u64,
    ) -> Result<bool, HostError> {
        let now_ns = now_ms.saturating_mul(NS_PER_MS);
        let is_suspect = match start.hash {
            Some(_) => !scan.found(),
            None => now_ns.saturating_sub(start.time_ns) >= AWAY_NS,
        };
        if !is_suspect {
            return Ok(false);
        }
        // Of whatever topic: what a store drops it drops by age.
        let oldest = Wanted { start_ns: Some(1), count: 1, ..Wanted::default() };
        let (_, page) = self.nodes.page(node, oldest).await?;
        let oldest_ns = match page.messages.first() {
            Some(Stored { time_ns, .. }) => *time_ns,
            // What it had is gone, and whether there was more since, nobody knows.
            None if start.hash.is_some() => now_ns,
            None => return Ok(false),
        };
        if oldest_ns <= start.time_ns {
            return Ok(false);
        }
        let told = format!(
            "{} at {}: the store has nothing from before {} ms any more, and the module had come to {} ms",
            pull.module,
            pull.source,
            oldest_ns / NS_PER_MS,
            start.time_ns / NS_PER_MS
        );
        tracing::warn!(
            module = %pull.module, source = %pull.source, from_ms = start.time_ns / NS_PER_MS, to_ms = oldest_ns / NS_PER_MS,
            "messages may be missing: the store no longer has what was before"
        );
        self.metrics.gaps.inc();
        *lock(&self.last_gap) = Some(told);
        scan.lost_before(oldest_ns);
        Ok(true)
    }
}

/// A position without a message.
fn only(cursor: Cursor) -> Answer {
    Answer::Events { deliveries: Vec::new(), progress: Some(cursor), skipped: 0 }
}

fn give(pull: &MessagePull, answer: Answer) {
    let reply = SourceReply { source: pull.source.clone(), token: pull.token, answer };
    if pull.to.send_message(reply).is_err() {
        // It stopped meanwhile; its next instance pulls again.
        tracing::debug!(module = %pull.module, source = %pull.source, "a message came for a module that is gone");
    }
}
