//! Where a module's work runs: on the threads of everybody, or, when its events take long, on threads beside them that
//! the system serves last.
//!
//! A guest gives its thread back every 50 µs, but greedy ones that take turns with everybody still make the others wait,
//! and not all that they do can be interrupted: memory that is touched for the first time, a backtrace of a full stack.
//! On threads of low priority they have what the others leave, and are put aside at once when another has something to do.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Poll,
};

use nexum_host_ifaces::{blocking::Blocking, clock::Clock};
use tokio::{runtime::Runtime, task::JoinSet};

use crate::threads;

/// Of an event, at the mean; from there on a module is slow. Ordinary events take a tenth of it.
const SLOW_NS: u64 = 500_000;
/// And down to here it stays so.
const QUICK_NS: u64 = 250_000;
/// How much of the mean the newest event makes up: one in so many.
const WEIGHT: u64 = 8;
/// What a turn on the slow threads takes that ends with its fuel, about. Calls of the host cost time and no fuel, so that a
/// turn may take two thousand times as long: whoever had such a one then lets go by as many turns as it had for itself, in
/// each of which everybody else has one of theirs. So they share a thread by time, and one that is alone waits for nobody.
const TURN_NS: u64 = 50_000;

/// How long the events of a module keep a thread: by the clock among the others, where even a thread that waits is one
/// less, and in processor time on the slow threads. Outlives its actor.
#[derive(Debug, Default)]
pub struct Pace {
    mean_ns: AtomicU64,
    slow: AtomicBool,
    busy_ns: AtomicU64,
    /// What it had of the slow threads before the others, and has not let go by yet.
    owed_ns: AtomicU64,
}

impl Pace {
    pub fn is_slow(&self) -> bool {
        self.slow.load(Ordering::Relaxed)
    }

    /// How long all of them kept a thread so far, with all that was done around them.
    pub fn busy_ns(&self) -> u64 {
        self.busy_ns.load(Ordering::Relaxed)
    }

    /// Takes in that so many events, one at least, kept a thread for so long.
    fn note(&self, events: u64, busy_ns: u64) {
        self.busy_ns.fetch_add(busy_ns, Ordering::Relaxed);
        let newest = busy_ns / events.max(1);
        let mean = self.mean_ns.load(Ordering::Relaxed);
        let mean = mean - mean / WEIGHT + newest / WEIGHT;
        self.mean_ns.store(mean, Ordering::Relaxed);
        let limit = if self.is_slow() { QUICK_NS } else { SLOW_NS };
        self.slow.store(mean > limit, Ordering::Relaxed);
    }
}

/// The slow threads, made when they are first needed.
pub struct Lanes {
    clock: Arc<dyn Clock>,
    /// Whether there is more than the caller's thread.
    several: bool,
    pinned: bool,
    slow: OnceLock<Option<Runtime>>,
}

impl Lanes {
    /// `pinned`: slow threads keep to half of the processors.
    pub fn new(blocking: Blocking, pinned: bool, clock: Arc<dyn Clock>) -> Self {
        Self { clock, several: blocking == Blocking::Threads, pinned, slow: OnceLock::new() }
    }

    /// Carries out a module's work where its pace lets it run. `handled` counts its events. When this future is dropped,
    /// work on the slow threads ends where it waits next.
    pub async fn run<T: Send + 'static>(
        &self,
        pace: &Pace,
        handled: impl Fn() -> u64,
        work: impl Future<Output = T> + Send + 'static,
    ) -> T {
        let before = handled();
        let clock = self.clock.clone();
        let slow = pace.is_slow().then(|| self.slow()).flatten();
        let (done, busy_ns) = match slow {
            None => {
                let (done, busy_ns, _) = timed(|| clock.monotonic_ns(), u64::MAX, 0, work).await;
                (done, busy_ns)
            }
            Some(slow) => {
                let (done, busy_ns, owed_ns) = in_turns(slow, clock, pace.owed_ns.load(Ordering::Relaxed), work).await;
                pace.owed_ns.store(owed_ns, Ordering::Relaxed);
                (done, busy_ns)
            }
        };
        pace.note(handled() - before, busy_ns);
        done
    }

    /// Carries out what no module is to wait for: on the slow threads, where there are several.
    pub async fn aside<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        match self.slow() {
            None => work.await,
            Some(slow) => in_turns(slow, self.clock.clone(), 0, work).await.0,
        }
    }

    fn slow(&self) -> Option<&Runtime> {
        let made = || {
            let made = threads::slow_executor(self.pinned);
            made.inspect_err(|error| tracing::warn!("slow modules run among the others: {error}")).ok()
        };
        self.slow.get_or_init(|| if self.several { made() } else { None }).as_ref()
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        // It may be the last task of all that drops it, where nothing may wait.
        if let Some(Some(runtime)) = self.slow.take() {
            runtime.shutdown_background();
        }
    }
}

/// [`timed`] work on the slow threads. Ends where it waits next when this future is dropped.
async fn in_turns<T: Send + 'static>(
    slow: &Runtime,
    clock: Arc<dyn Clock>,
    owed_ns: u64,
    work: impl Future<Output = T> + Send + 'static,
) -> (T, u64, u64) {
    let mut tasks = JoinSet::new();
    // Whoever is served last would seem slow for as long as others want the processor.
    let turns = async move { timed(|| clock.thread_ns(), TURN_NS, owed_ns, work).await };
    tasks.spawn_on(turns, slow.handle());
    match tasks.join_next().await {
        Some(Ok(done)) => done,
        Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The threads end with the engine, and whoever waits is about to.
        _ => std::future::pending().await,
    }
}

/// The outcome of some work, how long it kept its thread, and what it owes now, nanoseconds by this clock. It owes what its
/// turns take beyond `turn_ns` each, and lets a turn go by for each `turn_ns` that it owes. Executors serve tasks in the order
/// in which they were woken, so that every other one that is ready has its turn meanwhile.
async fn timed<T>(
    now_ns: impl Fn() -> u64,
    turn_ns: u64,
    mut owed_ns: u64,
    work: impl Future<Output = T>,
) -> (T, u64, u64) {
    let (mut work, mut busy_ns) = (pin!(work), 0);
    let done = poll_fn(|context| {
        if let Some(rest_ns) = owed_ns.checked_sub(turn_ns) {
            owed_ns = rest_ns;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let started_ns = now_ns();
        let polled = work.as_mut().poll(context);
        let took_ns = now_ns().saturating_sub(started_ns);
        busy_ns += took_ns;
        owed_ns = (owed_ns + took_ns).saturating_sub(turn_ns);
        polled
    });
    let done = done.await;
    (done, busy_ns, owed_ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Moves on only when it is told to.
    #[derive(Default)]
    struct Hands {
        time_ns: AtomicU64,
        used_ns: AtomicU64,
    }

    impl Clock for Hands {
        fn now_ms(&self) -> u64 {
            0
        }

        fn monotonic_ns(&self) -> u64 {
            self.time_ns.load(Ordering::Relaxed)
        }

        fn thread_ns(&self) -> u64 {
            self.used_ns.load(Ordering::Relaxed)
        }
    }

    /// Handles one event that keeps its thread for so long; the name of that thread.
    async fn handle(lanes: &Lanes, hands: &Arc<Hands>, pace: &Pace, busy_ns: u64) -> String {
        handle_beside(lanes, hands, pace, busy_ns, 0).await
    }

    /// The same while others take the processor away for so long.
    async fn handle_beside(lanes: &Lanes, hands: &Arc<Hands>, pace: &Pace, busy_ns: u64, away_ns: u64) -> String {
        let (hands, handled) = (hands.clone(), AtomicU64::new(0));
        let work = async move {
            // What it waits for does not count.
            tokio::task::yield_now().await;
            hands.used_ns.fetch_add(busy_ns, Ordering::Relaxed);
            hands.time_ns.fetch_add(busy_ns + away_ns, Ordering::Relaxed);
            std::thread::current().name().unwrap_or_default().to_owned()
        };
        lanes.run(pace, || handled.fetch_add(1, Ordering::Relaxed), work).await
    }

    #[tokio::test]
    async fn a_module_is_slow_while_its_events_take_long_on_the_mean() {
        let (hands, pace) = (Arc::new(Hands::default()), Pace::default());
        let lanes = Lanes::new(Blocking::Threads, true, hands.clone());
        let here = std::thread::current().name().unwrap_or_default().to_owned();
        for _ in 0..100 {
            assert_eq!(handle(&lanes, &hands, &pace, 40_000).await, here, "an ordinary event");
        }
        assert_eq!(handle(&lanes, &hands, &pace, 3_000_000).await, here);
        assert_eq!(handle(&lanes, &hands, &pace, 40_000).await, here, "one event that took long is a chance");
        assert_eq!(handle(&lanes, &hands, &pace, 100_000_000).await, here);
        let mut quick = 0;
        while handle(&lanes, &hands, &pace, 40_000).await == "nexum-slow" {
            quick += 1;
        }
        assert!((20..100).contains(&quick), "slow for {quick} quick events more");
    }

    #[tokio::test]
    async fn a_module_that_is_served_last_does_not_stay_slow_for_it() {
        let (hands, pace) = (Arc::new(Hands::default()), Pace::default());
        let lanes = Lanes::new(Blocking::Threads, true, hands.clone());
        handle(&lanes, &hands, &pace, 100_000_000).await;
        assert!(pace.is_slow());
        for _ in 0..100 {
            handle_beside(&lanes, &hands, &pace, 40_000, if pace.is_slow() { 4_000_000 } else { 0 }).await;
        }
        assert!(!pace.is_slow(), "others had the processor");
    }

    #[tokio::test]
    async fn whoever_takes_long_turns_has_no_more_of_a_slow_thread_than_the_others() {
        const MS: u64 = 1_000_000;
        let (hands, honest_ns, greedy_ns) = (Hands::default(), AtomicU64::new(0), AtomicU64::new(0));
        let now_ns = || hands.used_ns.load(Ordering::Relaxed);
        // Until the honest one has had a second.
        let takes = async |turn_ns: u64, had_ns: &AtomicU64| {
            while honest_ns.load(Ordering::Relaxed) < 1_000 * MS {
                hands.used_ns.fetch_add(turn_ns, Ordering::Relaxed);
                had_ns.fetch_add(turn_ns, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        };
        // One after the other and again, as an executor with one thread serves two tasks.
        futures::join!(
            timed(now_ns, TURN_NS, 0, takes(100 * MS, &greedy_ns)),
            timed(now_ns, TURN_NS, 0, takes(TURN_NS, &honest_ns)),
        );
        let greedy_ms = greedy_ns.load(Ordering::Relaxed) / MS;
        assert!((900..=1_200).contains(&greedy_ms), "{greedy_ms} ms, against a second");
    }

    #[tokio::test]
    async fn what_one_event_had_before_the_others_the_next_one_lets_go_by() {
        let (hands, pace) = (Arc::new(Hands::default()), Pace::default());
        let lanes = Lanes::new(Blocking::Threads, true, hands.clone());
        let owed_ns = || pace.owed_ns.load(Ordering::Relaxed);
        handle(&lanes, &hands, &pace, 100_000_000).await;
        assert!(pace.is_slow() && owed_ns() == 0, "it was not on a slow thread");
        handle(&lanes, &hands, &pace, 100_000_000).await;
        assert_eq!(owed_ns(), 100_000_000 - TURN_NS);
        handle(&lanes, &hands, &pace, 40_000).await;
        assert_eq!(owed_ns(), 0);
    }

    #[tokio::test]
    async fn on_one_thread_nothing_is_elsewhere() {
        let (hands, pace) = (Arc::new(Hands::default()), Pace::default());
        let lanes = Lanes::new(Blocking::Inline, true, hands.clone());
        let here = std::thread::current().name().unwrap_or_default().to_owned();
        for _ in 0..3 {
            assert_eq!(handle(&lanes, &hands, &pace, 100_000_000).await, here);
        }
        assert!(pace.is_slow());
        assert_eq!(pace.busy_ns(), 300_000_000, "all of it");
    }

    #[tokio::test]
    async fn slow_work_that_nobody_waits_for_ends() {
        let (hands, pace) = (Arc::new(Hands::default()), Pace::default());
        let lanes = Lanes::new(Blocking::Threads, true, hands.clone());
        handle(&lanes, &hands, &pace, 100_000_000).await;
        let (begun, has_begun) = tokio::sync::oneshot::channel();
        let (alive, mut has_ended) = tokio::sync::mpsc::channel::<()>(1);
        let work = async move {
            let _alive = alive;
            let _ = begun.send(());
            std::future::pending::<()>().await;
        };
        {
            let running = pin!(lanes.run(&pace, || 0, work));
            tokio::select! {
                () = running => panic!("it never ends by itself"),
                begun = has_begun => begun.unwrap(),
            }
        }
        assert_eq!(has_ended.recv().await, None, "it was dropped");
    }
}
