//! Simulated time, and what happens in it: every log line of the engine and of the simulation, in order, each with the
//! time and without anything that two runs of a seed may differ in.

use std::{
    fmt::{self, Write},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use nexum_host_ifaces::clock::Clock;
pub use nexum_host_ifaces::sync::lock;
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

/// When every simulation begins: milliseconds since the Unix epoch.
const EPOCH_MS: u64 = 1_700_000_000_000;

/// The injected clock. It follows the paused time of whichever runtime is at work, and goes on where the one before
/// ended.
#[derive(Default)]
pub struct SimClock {
    /// What had passed when the current runtime began, nanoseconds.
    before_ns: AtomicU64,
    began: Mutex<Option<Instant>>,
    /// How far the calendar is off, milliseconds.
    off_ms: AtomicI64,
}

impl SimClock {
    /// A runtime begins. Called within it.
    pub fn enter(&self) {
        *lock(&self.began) = Some(Instant::now());
    }

    /// It has ended.
    pub fn leave(&self) {
        self.before_ns.store(self.monotonic_ns(), Ordering::Relaxed);
        *lock(&self.began) = None;
    }

    /// Lets time pass while nothing runs.
    pub fn pass(&self, time: Duration) {
        self.before_ns.fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
    }

    pub fn elapsed_ms(&self) -> u64 {
        self.monotonic_ns() / 1_000_000
    }

    /// Sets the calendar forward or back.
    pub fn jump(&self, by_ms: i64) {
        self.off_ms.fetch_add(by_ms, Ordering::Relaxed);
    }
}

impl Clock for SimClock {
    fn now_ms(&self) -> u64 {
        (EPOCH_MS + self.elapsed_ms()).saturating_add_signed(self.off_ms.load(Ordering::Relaxed))
    }

    fn monotonic_ns(&self) -> u64 {
        let since = lock(&self.began).map_or(0, |began| (Instant::now() - began).as_nanos() as u64);
        self.before_ns.load(Ordering::Relaxed) + since
    }
}

/// Print each line as it comes: for a run that does not end.
pub static LIVE: AtomicBool = AtomicBool::new(false);

/// The lines of one run. Clones share them.
#[derive(Clone)]
pub struct Trace {
    clock: Arc<SimClock>,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Trace {
    pub fn new(clock: Arc<SimClock>) -> Self {
        Self { clock, lines: Arc::default() }
    }

    /// What has passed, milliseconds.
    pub fn elapsed_ms(&self) -> u64 {
        self.clock.elapsed_ms()
    }

    /// Notes something that the simulation does or sees.
    pub fn note(&self, what: fmt::Arguments<'_>) {
        self.push(format_args!("{what}"));
    }

    fn push(&self, what: fmt::Arguments<'_>) {
        let ms = self.clock.elapsed_ms();
        let line = format!("{:>7}.{:03} {what}", ms / 1_000, ms % 1_000);
        if LIVE.load(Ordering::Relaxed) {
            println!("{line}");
        }
        lock(&self.lines).push(line);
    }

    pub fn lines(&self) -> Vec<String> {
        lock(&self.lines).clone()
    }

    /// SHA-256 of all lines.
    pub fn digest(&self) -> String {
        let mut hasher = Sha256::new();
        for line in lock(&self.lines).iter() {
            hasher.update(line.as_bytes());
            hasher.update(b"\n");
        }
        hex::encode(&hasher.finalize()[..16])
    }
}

impl Subscriber for Trace {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("nexum")
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        let target = event.metadata().target().split("::").next().unwrap_or_default();
        let level = match *event.metadata().level() {
            Level::ERROR => "! ",
            Level::WARN => "? ",
            _ => "",
        };
        self.push(format_args!("{target}: {level}{}{}", line.message, line.fields));
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string does not fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            // It lies in a directory that is another for each run.
            "path" => Ok(()),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}
