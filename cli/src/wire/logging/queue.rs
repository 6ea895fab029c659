//! Lines on their way to stderr: bounded, and written by a thread of their own.
//!
//! Invariant: whoever logs never waits for whoever reads. What does not fit is dropped, counted, and told in its place.

use std::{
    collections::VecDeque,
    io::{self, Write},
    mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use anyhow::Context;
use prometheus::IntCounter;

/// Lines that wait: the burst of eight modules at once.
pub const LINES_MAX: usize = 4096;
/// Text that waits, bytes: less than a guest's memory, and a thousand lines of the longest that a module may log.
pub const BYTES_MAX: usize = 8 << 20;

enum Item {
    Line(Box<[u8]>),
    /// So many lines were dropped here.
    Dropped(u64),
}

#[derive(Default)]
struct Inner {
    items: VecDeque<Item>,
    bytes: usize,
    /// Lines dropped since one fitted.
    dropped: u64,
    /// The thread has taken an item and not yet written it.
    writing: bool,
}

struct Shared {
    inner: Mutex<Inner>,
    changed: Condvar,
    dropped_total: IntCounter,
}

/// A handle. The queue lives as long as the process.
#[derive(Clone)]
pub struct Queue(Arc<Shared>);

impl Queue {
    pub fn new() -> anyhow::Result<Self> {
        let help = "Lines of the engine's log that stderr did not take in time.";
        let dropped_total = IntCounter::new("nexum_stderr_lines_dropped_total", help).context("metrics")?;
        Ok(Self(Arc::new(Shared { inner: Mutex::default(), changed: Condvar::new(), dropped_total })))
    }

    pub fn dropped_total(&self) -> &IntCounter {
        &self.0.dropped_total
    }

    /// A panic elsewhere does not make the queue wrong: nothing in here can.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a line with its end, or drops it.
    pub fn push(&self, line: &[u8]) {
        let mut inner = self.lock();
        if inner.items.len() >= LINES_MAX || inner.bytes.saturating_add(line.len()) > BYTES_MAX {
            inner.dropped += 1;
            self.0.dropped_total.inc();
            return;
        }
        if inner.dropped > 0 {
            let dropped = mem::take(&mut inner.dropped);
            inner.items.push_back(Item::Dropped(dropped));
        }
        inner.bytes += line.len();
        inner.items.push_back(Item::Line(line.into()));
        drop(inner);
        self.0.changed.notify_all();
    }

    /// Starts the thread that writes to `sink`. `notice` makes the line that says how many were dropped.
    pub fn carry_to(
        &self,
        mut sink: impl Write + Send + 'static,
        notice: impl Fn(u64) -> String + Send + 'static,
    ) -> io::Result<()> {
        let queue = self.clone();
        let carry = move || queue.carry(&mut sink, &notice);
        thread::Builder::new().name("log".to_owned()).spawn(carry).map(drop)
    }

    /// Goes on until the process ends.
    fn carry(&self, sink: &mut impl Write, notice: &impl Fn(u64) -> String) {
        loop {
            self.carry_one(sink, notice);
        }
    }

    /// Waits for the next item and writes it.
    fn carry_one(&self, sink: &mut impl Write, notice: &impl Fn(u64) -> String) {
        let idle = |inner: &mut Inner| inner.items.is_empty() && inner.dropped == 0;
        let waited = self.0.changed.wait_while(self.lock(), idle);
        let mut inner = waited.unwrap_or_else(PoisonError::into_inner);
        let item = inner.items.pop_front();
        let item = item.unwrap_or_else(|| Item::Dropped(mem::take(&mut inner.dropped)));
        if let Item::Line(line) = &item {
            inner.bytes -= line.len();
        }
        inner.writing = true;
        drop(inner);
        let written = match item {
            Item::Line(line) => sink.write_all(&line),
            Item::Dropped(count) => sink.write_all(notice(count).as_bytes()),
        };
        if written.is_err() {
            // There is nowhere else to tell it.
            self.0.dropped_total.inc();
        }
        self.lock().writing = false;
        self.0.changed.notify_all();
    }

    /// Waits until everything is written, at most for `deadline`. Answers whether it is.
    pub fn flush(&self, deadline: Duration) -> bool {
        let busy = |inner: &mut Inner| !inner.items.is_empty() || inner.dropped > 0 || inner.writing;
        let waited = self.0.changed.wait_timeout_while(self.lock(), deadline, busy);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    fn notice(count: u64) -> String {
        format!("{count} dropped\n")
    }

    #[test]
    fn lines_past_the_bound_are_dropped_counted_and_told_where_they_were() {
        let queue = Queue::new().unwrap();
        for n in 0..LINES_MAX + 3 {
            queue.push(format!("{n}\n").as_bytes());
        }
        assert_eq!(queue.dropped_total().get(), 3);
        let mut sink = Vec::new();
        queue.carry_one(&mut sink, &notice);
        queue.push(b"after\n");
        for _ in 0..LINES_MAX + 1 {
            queue.carry_one(&mut sink, &notice);
        }
        let text = String::from_utf8(sink).unwrap();
        let last = format!("{}\n3 dropped\nafter\n", LINES_MAX - 1);
        assert!(text.starts_with("0\n1\n2\n") && text.ends_with(&last), "{}", text.len());
        assert!(queue.flush(Duration::ZERO));
    }

    #[test]
    fn text_is_bounded_too_and_what_was_dropped_last_is_told_without_another_line() {
        let queue = Queue::new().unwrap();
        queue.push("x".repeat(BYTES_MAX).as_bytes());
        queue.push(b"y");
        let mut sink = Vec::new();
        queue.carry_one(&mut sink, &notice);
        queue.carry_one(&mut sink, &notice);
        assert!(sink.ends_with(b"x1 dropped\n") && sink.len() == BYTES_MAX + "1 dropped\n".len());
    }

    /// Says that it was reached, and takes nothing before it may.
    struct Stuck {
        reached: SyncSender<()>,
        may: Receiver<()>,
    }

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.reached.send(());
            let _ = self.may.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn whoever_logs_does_not_wait_for_a_reader_that_does_not_read() {
        let queue = Queue::new().unwrap();
        let ((reached, was_reached), (let_go, may)) = (sync_channel(1), sync_channel(1));
        queue.carry_to(Stuck { reached, may }, notice).unwrap();
        queue.push(b"first\n");
        was_reached.recv().unwrap();
        for _ in 0..2 * LINES_MAX {
            queue.push(b"more\n");
        }
        assert_eq!(queue.dropped_total().get(), LINES_MAX as u64);
        assert!(!queue.flush(Duration::ZERO));
        // With the sender gone every write goes through, and the end comes within any deadline.
        drop((was_reached, let_go));
        assert!(queue.flush(Duration::from_secs(60)));
    }
}
