//! The actor under tokio's paused time: nothing waits, and a calendar clock that can jump.

use std::sync::atomic::{AtomicI64, Ordering};

use nexum_host_ifaces::cron::{Missed, Schedule};
use ractor::call_t;
use tokio::{sync::mpsc, time::Instant};

use super::*;

const START: u64 = 1_700_000_000_000 - 1_700_000_000_000 % 60_000;

/// The paused clock of tokio, and how far the calendar was moved against it.
struct Calendar {
    started: Instant,
    moved_ms: AtomicI64,
}

impl Clock for Calendar {
    fn now_ms(&self) -> u64 {
        let elapsed = self.started.elapsed().as_millis() as u64;
        (START + elapsed).saturating_add_signed(self.moved_ms.load(Ordering::Relaxed))
    }

    fn monotonic_ns(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }
}

/// A module's end: passes the answers on.
struct Inbox;

impl Actor for Inbox {
    type Msg = SourceReply;
    type State = mpsc::Sender<SourceReply>;
    type Arguments = mpsc::Sender<SourceReply>;

    async fn pre_start(
        &self,
        _: ActorRef<SourceReply>,
        sender: mpsc::Sender<SourceReply>,
    ) -> Result<mpsc::Sender<SourceReply>, ActorProcessingErr> {
        Ok(sender)
    }

    async fn handle(
        &self,
        _: ActorRef<SourceReply>,
        reply: SourceReply,
        sender: &mut mpsc::Sender<SourceReply>,
    ) -> Result<(), ActorProcessingErr> {
        Ok(sender.send(reply).await?)
    }
}

struct Fixture {
    clock: Arc<Calendar>,
    cron: ActorRef<CronMsg>,
    inbox: ActorRef<SourceReply>,
    replies: mpsc::Receiver<SourceReply>,
}

impl Fixture {
    async fn new() -> Self {
        let clock = Arc::new(Calendar { started: Instant::now(), moved_ms: AtomicI64::new(0) });
        let (sender, replies) = mpsc::channel(64);
        let (inbox, _) = Actor::spawn(None, Inbox, sender).await.unwrap();
        let (cron, _) = spawn(Args { clock: clock.clone() }, inbox.get_cell()).await.unwrap();
        Self { clock, cron, inbox, replies }
    }

    fn pull(&self, token: u64, schedule: Schedule, after: Option<u64>) {
        let pull = CronPull {
            module: "m".into(),
            source: SourceId::new(format!("cron:{schedule:?}")),
            token,
            schedule: Arc::new(schedule),
            missed: Missed::Skip,
            after,
            max: 10,
            to: self.inbox.get_derived(),
        };
        self.cron.send_message(CronMsg::Pull(pull)).unwrap();
    }

    /// Token, times and position of the next answer.
    async fn answer(&mut self) -> (u64, Vec<u64>, u64) {
        let SourceReply { token, answer, .. } = self.replies.recv().await.unwrap();
        let Answer::Events { deliveries, progress: Some(Cursor::Cron { fired_at }), .. } = answer else {
            panic!("{answer:?}")
        };
        let times = deliveries.iter().map(|delivery| match (&*delivery.event, &delivery.id, &delivery.cursor) {
            (Event::Tick(tick), EventId::Tick { fired_at, .. }, Cursor::Cron { fired_at: cursor }) => {
                assert!(tick.fired_at == *fired_at && fired_at == cursor);
                *fired_at
            }
            other => panic!("{other:?}"),
        });
        (token, times.collect(), fired_at)
    }
}

fn every(period_ms: u64) -> Schedule {
    Schedule::Every { period_ms }
}

#[tokio::test(start_paused = true)]
async fn ticks_come_when_they_are_due_and_not_before() {
    let mut fixture = Fixture::new().await;
    fixture.pull(1, every(10_000), None);
    assert_eq!(fixture.answer().await, (1, vec![], START));
    let mut after = START;
    for token in 2..6 {
        fixture.pull(token, every(10_000), Some(after));
        assert_eq!(fixture.answer().await, (token, vec![after + 10_000], after + 10_000));
        after += 10_000;
        assert_eq!(fixture.clock.now_ms(), after);
    }
    // Longer than the timer dares to sleep.
    fixture.pull(9, Schedule::Cron("0 * * * *".into()), Some(after));
    let (_, times, _) = fixture.answer().await;
    assert_eq!(times, [fixture.clock.now_ms()]);
    assert_eq!(times[0] % 3_600_000, 0);
}

#[tokio::test(start_paused = true)]
async fn schedules_do_not_wait_for_each_other_and_a_later_pull_replaces_the_earlier() {
    let mut fixture = Fixture::new().await;
    fixture.pull(1, every(60_000), Some(START));
    fixture.pull(2, every(7_000), Some(START));
    fixture.pull(3, every(7_000), Some(START));
    let status = call_t!(fixture.cron, CronMsg::Status, 1_000).unwrap();
    assert_eq!((status.schedules, status.next_in_ms), (2, Some(7_000 - START % 7_000)));
    assert_eq!(fixture.answer().await.0, 3);
    assert_eq!(fixture.answer().await, (1, vec![START + 60_000], START + 60_000));
    let status = call_t!(fixture.cron, CronMsg::Status, 1_000).unwrap();
    assert_eq!((status.schedules, status.next_in_ms), (0, None));
}

#[tokio::test(start_paused = true)]
async fn a_module_that_is_forgotten_gets_nothing() {
    let mut fixture = Fixture::new().await;
    fixture.pull(1, every(10_000), Some(START));
    fixture.cron.send_message(CronMsg::Forget { module: "m".into() }).unwrap();
    fixture.pull(2, every(20_000), Some(START));
    assert_eq!(fixture.answer().await.0, 2);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_ahead_is_noticed_at_the_next_look() {
    let mut fixture = Fixture::new().await;
    let day = 86_400_000;
    fixture.pull(1, every(day), Some(START));
    let status = call_t!(fixture.cron, CronMsg::Status, 1_000).unwrap();
    let next = START + status.next_in_ms.unwrap();
    fixture.clock.moved_ms.store((next - START) as i64, Ordering::Relaxed);
    assert_eq!(fixture.answer().await.1, [next]);
    assert!(fixture.clock.monotonic_ns() <= LOOK_MS_MAX * 1_000_000);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_was_wrong_and_is_set_back_starts_the_schedule_anew() {
    let mut fixture = Fixture::new().await;
    let year = 365 * 86_400_000u64;
    fixture.clock.moved_ms.store(year as i64, Ordering::Relaxed);
    fixture.pull(1, every(60_000), Some(START + year));
    assert_eq!(call_t!(fixture.cron, CronMsg::Status, 1_000).unwrap().next_in_ms, Some(60_000));
    fixture.clock.moved_ms.store(0, Ordering::Relaxed);
    let (token, times, progress) = fixture.answer().await;
    assert_eq!((token, times), (1, vec![]));
    assert_eq!(progress, fixture.clock.now_ms());
}

#[tokio::test(start_paused = true)]
async fn a_schedule_that_cannot_be_read_is_stuck_with_the_reason() {
    let mut fixture = Fixture::new().await;
    fixture.pull(1, Schedule::Cron("nonsense".into()), Some(START));
    let reply = fixture.replies.recv().await.unwrap();
    assert!(matches!(reply.answer, Answer::Stuck { reason } if reason.contains("1 fields instead of 5")));
}
