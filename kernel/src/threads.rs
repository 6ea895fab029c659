//! The threads that an engine runs on, and the processors that they keep to.
//!
//! Whoever wakes a thread on a machine that is busy may find it behind another one of ours while a processor works for
//! somebody less urgent: the system moves threads to where it is idle, and that is nowhere then. So each worker keeps to
//! a processor of its own, where it is served at once, and slow work keeps to half of them.

use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use nexum_host_ifaces::sync::lock;
use rustix::{
    process::{getpid, nice},
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};
use tokio::runtime::{Builder, Runtime};

/// How much less slow threads count than the others, as `nice` says it: one hundredth of a processor that others want.
const NICE: i32 = 19;

/// The executor of everything that is not slow, with a thread for each processor. `pinned`: each keeps to its own.
///
/// # Errors
/// A thread cannot be started.
pub fn executor(pinned: bool) -> io::Result<Runtime> {
    let workers = thread::available_parallelism().map_or(1, usize::from);
    // With a share of the processors that is less than their number nobody knows which are ours.
    let processors = processors().filter(|all| pinned && workers == all.len());
    let mut builder = Builder::new_multi_thread();
    builder.enable_all().worker_threads(workers);
    let Some(all) = processors else { return builder.build() };
    let (kept, seats) = (Arc::new(AtomicUsize::new(0)), Mutex::new(Vec::with_capacity(workers)));
    builder.on_thread_start({
        let all = all.clone();
        // A thread does not know yet whether it will be a worker, and has inherited what its starter keeps to.
        move || keep_to(&all)
    });
    // Only workers park, and one without a task does at once. Blocking work waits elsewhere, on threads that keep to nothing.
    builder.on_thread_park({
        let kept = kept.clone();
        move || {
            if kept.load(Ordering::Relaxed) == workers {
                return;
            }
            let (me, mut seats) = (thread::current().id(), lock(&seats));
            if let Some(own) = all.get(seats.len()).filter(|_| !seats.contains(&me)) {
                keep_to(std::slice::from_ref(own));
                seats.push(me);
                kept.store(seats.len(), Ordering::Relaxed);
            }
        }
    });
    let runtime = builder.build()?;
    while kept.load(Ordering::Relaxed) < workers {
        thread::yield_now();
    }
    Ok(runtime)
}

/// The executor of what may wait: half as many threads, of the lowest priority. `pinned`: they keep to half of the
/// processors.
pub(crate) fn slow_executor(pinned: bool) -> io::Result<Runtime> {
    let processors = processors().unwrap_or_default();
    let half: Vec<usize> = processors.iter().copied().skip(processors.len() / 2).collect();
    // Whoever needs it first may itself keep to one processor, so that the system would say that there is one.
    let workers = half.len().max(1);
    let lower = move || {
        if let Err(error) = nice(NICE) {
            tracing::warn!("slow modules run at the priority of the others: {error}");
        }
        keep_to(if pinned { &half } else { &processors });
    };
    Builder::new_multi_thread()
        .enable_all()
        .worker_threads(workers)
        .thread_name("nexum-slow")
        .on_thread_start(lower)
        .build()
}

/// The processors that this process may use, by number; `None` when they cannot be told.
fn processors() -> Option<Vec<usize>> {
    let all = sched_getaffinity(Some(getpid())).ok()?;
    Some((0..CpuSet::MAX_CPU).filter(|processor| all.is_set(*processor)).collect())
}

/// Lets the calling thread run on these alone. Where that is not allowed it runs where it did.
fn keep_to(processors: &[usize]) {
    if processors.is_empty() {
        return;
    }
    let mut set = CpuSet::new();
    processors.iter().for_each(|processor| set.set(*processor));
    if let Err(error) = sched_setaffinity(None, &set) {
        tracing::debug!("a thread runs on any processor: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mine() -> Vec<usize> {
        let mine = sched_getaffinity(None).unwrap();
        (0..CpuSet::MAX_CPU).filter(|processor| mine.is_set(*processor)).collect()
    }

    #[test]
    fn workers_keep_to_processors_of_their_own_and_slow_ones_to_half_of_them() {
        let all = processors().unwrap();
        let fast = executor(true).unwrap();
        let worker = fast.block_on(fast.spawn(async { mine() })).unwrap();
        let shared = std::thread::available_parallelism().unwrap().get() != all.len();
        assert_eq!(worker.len(), if shared { all.len() } else { 1 }, "{worker:?}");
        let blocking = fast.block_on(fast.spawn_blocking(mine)).unwrap();
        assert_eq!(blocking, all, "what blocks runs anywhere");
        let slow = fast.block_on(fast.spawn(async { slow_executor(true).unwrap() })).unwrap();
        assert_eq!(slow.metrics().num_workers(), all.len().div_ceil(2), "made on a thread that keeps to one");
        let of_slow = || (mine(), rustix::process::nice(0).unwrap());
        let half: Vec<usize> = all[all.len() / 2..].to_vec();
        assert_eq!(slow.block_on(slow.spawn(async move { of_slow() })).unwrap(), (half, NICE));
        let slow = fast.block_on(fast.spawn(async { slow_executor(false).unwrap() })).unwrap();
        assert_eq!(slow.block_on(slow.spawn(async { mine() })).unwrap(), all, "free, whoever made it");
        let anywhere = executor(false).unwrap();
        assert_eq!(anywhere.block_on(anywhere.spawn(async { mine() })).unwrap(), all);
    }

    #[test]
    fn blocking_work_that_comes_at_once_never_gets_the_thread_of_a_worker() {
        let all = processors().unwrap();
        for _ in 0..30 {
            let fast = executor(true).unwrap();
            let blocking: Vec<_> = (0..2 * all.len().min(8)).map(|_| fast.spawn_blocking(mine)).collect();
            for ran_on in blocking {
                assert_eq!(fast.block_on(ran_on).unwrap(), all);
            }
        }
    }
}
