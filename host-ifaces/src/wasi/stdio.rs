//! What a guest prints: lines in the module's log at the module's rate, and the last of stderr for a failure's report.
//!
//! Invariant: a write costs one pass over its bytes, however many lines they are, and what is kept of it is bounded.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use tokio::io::AsyncWrite;
use wasmtime_wasi::{
    cli::{IsTerminal, StdoutStream},
    p2::{OutputStream, Pollable, StreamError, StreamResult},
};

use crate::{
    call::log::{LINE_BYTES_MAX, LINES_PER_SECOND, LogBudget},
    clock::Clock,
    limits::Meter,
    wasi::tape::WasiTape,
};

/// What `check-write` permits to be written at once; a larger write traps. WASI's streams permit about as much.
pub(crate) const WRITE_BYTES_MAX: usize = 64 * 1024;
/// What is kept of stderr, bytes: the message of a panic, and the end of a language runtime's own backtrace.
const LAST_WORDS_BYTES_MAX: usize = 4 * 1024;

/// Both streams of one instance.
pub(crate) struct Stdio {
    pub stdout: StdioLog,
    pub stderr: StdioLog,
}

impl Stdio {
    pub fn new(module: &Arc<str>, clock: &Arc<dyn Clock>, meter: &Arc<Meter>, tape: &WasiTape) -> Self {
        let log = |stream, keeps_last| StdioLog {
            module: module.clone(),
            stream,
            keeps_last,
            clock: clock.clone(),
            meter: meter.clone(),
            tape: tape.clone(),
            lines: Arc::new(Mutex::new(Lines {
                partial: Vec::new(),
                budget: LogBudget::new(clock.monotonic_ns()),
                last: Vec::new(),
            })),
        };
        Self { stdout: log("stdout", false), stderr: log("stderr", true) }
    }

    /// Prints what has not ended with a line end, and answers the last of stderr.
    pub fn end(&self) -> Option<String> {
        self.stdout.end();
        self.stderr.end()
    }
}

struct Lines {
    /// The line that has not ended, at most `LINE_BYTES_MAX`. Bytes, because a character may come in two writes.
    partial: Vec<u8>,
    budget: LogBudget,
    /// The last bytes of the event at hand, at most twice `LAST_WORDS_BYTES_MAX`; only of stderr.
    last: Vec<u8>,
}

impl Lines {
    fn keep_last(&mut self, bytes: &[u8]) {
        let end = &bytes[bytes.len().saturating_sub(LAST_WORDS_BYTES_MAX)..];
        if self.last.len() + end.len() > 2 * LAST_WORDS_BYTES_MAX {
            self.last.drain(..self.last.len().saturating_sub(LAST_WORDS_BYTES_MAX));
        }
        self.last.extend_from_slice(end);
    }

    /// Passes over lines that nobody will see. Answers how many ended.
    fn skip(&mut self, bytes: &[u8]) -> u64 {
        let mut begun = bytes;
        if let Some(end) = bytes.iter().rposition(|byte| *byte == b'\n') {
            self.partial.clear();
            begun = &bytes[end + 1..];
        }
        let room = LINE_BYTES_MAX - self.partial.len();
        self.partial.extend_from_slice(&begun[..begun.len().min(room)]);
        bytes.iter().filter(|byte| **byte == b'\n').count() as u64
    }
}

/// Where a line that is longer than it may be is cut: not within a character.
fn cut(line: &[u8]) -> usize {
    let begins_character = |at: &usize| line.get(*at).is_some_and(|byte| byte & 0xc0 != 0x80);
    (LINE_BYTES_MAX - 3..=LINE_BYTES_MAX).rev().find(begins_character).unwrap_or(LINE_BYTES_MAX)
}

/// Text for people of the last bytes of a stream, at most `LAST_WORDS_BYTES_MAX`; absent when there are none.
fn last_words(bytes: &[u8]) -> Option<String> {
    let bytes = &bytes[bytes.len().saturating_sub(LAST_WORDS_BYTES_MAX)..];
    let within = bytes.iter().take(3).take_while(|byte| **byte & 0xc0 == 0x80).count();
    let text = String::from_utf8_lossy(&bytes[within..]);
    // A guest must not reach the operator's terminal.
    let shown = |c: char| if c.is_control() && !matches!(c, '\n' | '\t') { char::REPLACEMENT_CHARACTER } else { c };
    let text: String = text.trim_end().chars().map(shown).collect();
    let from = text.ceil_char_boundary(text.len().saturating_sub(LAST_WORDS_BYTES_MAX));
    Some(text[from..].to_owned()).filter(|text| !text.is_empty())
}

/// Turns what a guest writes to stdout or stderr into log lines, at the module's log rate.
#[derive(Clone)]
pub(crate) struct StdioLog {
    module: Arc<str>,
    stream: &'static str,
    keeps_last: bool,
    clock: Arc<dyn Clock>,
    meter: Arc<Meter>,
    tape: WasiTape,
    lines: Arc<Mutex<Lines>>,
}

impl StdioLog {
    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, bytes: &[u8]) {
        self.meter.take(bytes.len());
        let mut guard = self.lines();
        let lines = &mut *guard;
        if self.keeps_last {
            lines.keep_last(bytes);
        }
        let mut rest = bytes;
        // Whether anybody would see a further line of this write.
        let mut is_seen = true;
        while is_seen && !rest.is_empty() {
            let window = &rest[..rest.len().min(LINE_BYTES_MAX + 1 - lines.partial.len())];
            let end = match window.iter().position(|byte| *byte == b'\n') {
                Some(end) => {
                    lines.partial.extend_from_slice(&window[..end]);
                    rest = &rest[end + 1..];
                    lines.partial.len()
                }
                None => {
                    lines.partial.extend_from_slice(window);
                    rest = &rest[window.len()..];
                    if lines.partial.len() <= LINE_BYTES_MAX {
                        break;
                    }
                    cut(&lines.partial)
                }
            };
            is_seen = self.print(&mut lines.budget, &String::from_utf8_lossy(&lines.partial[..end]));
            lines.partial.drain(..end);
        }
        if rest.is_empty() {
            return;
        }
        let skipped = lines.skip(rest);
        if !self.tape.is_playing() {
            lines.budget.drop_lines(skipped);
            self.meter.drop_lines(skipped);
        }
    }

    /// Prints a line, or counts it as dropped. Answers whether anybody would see a further one.
    fn print(&self, budget: &mut LogBudget, line: &str) -> bool {
        let is_recorded = self.tape.line(self.stream, line);
        // A replay prints nothing: what it says is compared.
        if self.tape.is_playing() {
            return is_recorded;
        }
        let Some(dropped) = budget.take(self.clock.monotonic_ns()) else {
            self.meter.drop_lines(1);
            return is_recorded;
        };
        let (module, stream) = (&*self.module, self.stream);
        if dropped > 0 {
            tracing::warn!(
                target: "module", module, stream, dropped, "log lines dropped: more than {LINES_PER_SECOND} per second"
            );
        }
        tracing::info!(target: "module", module, stream, "{line}");
        true
    }

    fn end(&self) -> Option<String> {
        let mut guard = self.lines();
        let lines = &mut *guard;
        let partial = std::mem::take(&mut lines.partial);
        if !partial.is_empty() {
            self.print(&mut lines.budget, &String::from_utf8_lossy(&partial));
        }
        last_words(&std::mem::take(&mut lines.last))
    }
}

impl IsTerminal for StdioLog {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for StdioLog {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl AsyncWrite for StdioLog {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let bytes = &bytes[..bytes.len().min(WRITE_BYTES_MAX)];
        self.take(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[async_trait::async_trait]
impl Pollable for StdioLog {
    async fn ready(&mut self) {}
}

impl OutputStream for StdioLog {
    fn write(&mut self, bytes: bytes::Bytes) -> StreamResult<()> {
        if bytes.len() > WRITE_BYTES_MAX {
            let message = format!("a write of {} bytes to {}, at most {WRITE_BYTES_MAX}", bytes.len(), self.stream);
            return Err(StreamError::trap(&message));
        }
        self.take(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        call::log::LINES_BURST,
        limits::ARGUMENT_BYTES_MAX,
        recording::{LINES_MAX, TapeMode, meter::RecordedBytes},
    };
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Stands still, and counts how often it was read.
    #[derive(Default)]
    struct Still(AtomicU64);

    impl Clock for Still {
        fn now_ms(&self) -> u64 {
            0
        }

        fn monotonic_ns(&self) -> u64 {
            self.0.fetch_add(1, Ordering::Relaxed);
            0
        }
    }

    struct Bed {
        clock: Arc<Still>,
        meter: Arc<Meter>,
        tape: WasiTape,
        stdio: Stdio,
    }

    fn bed(taping: &TapeMode) -> Bed {
        let (clock, meter, tape) = (
            Arc::<Still>::default(),
            Arc::<Meter>::default(),
            WasiTape::new(taping, &RecordedBytes::of(taping.pool())),
        );
        let injected: Arc<dyn Clock> = clock.clone();
        let stdio = Stdio::new(&"m".into(), &injected, &meter, &tape);
        Bed { clock, meter, tape, stdio }
    }

    fn recording() -> TapeMode {
        TapeMode::On(Arc::default())
    }

    impl Bed {
        fn lines(&self) -> Vec<String> {
            self.tape.capture().1.into_iter().map(|line| line.text).collect()
        }
    }

    #[test]
    fn a_write_of_line_ends_alone_does_no_work_for_each() {
        let mut bed = bed(&TapeMode::Off);
        let write = vec![b'\n'; WRITE_BYTES_MAX];
        bed.stdio.stdout.write(write.into()).unwrap();
        let lines = WRITE_BYTES_MAX as u64;
        assert_eq!(bed.meter.lines_dropped(), lines - LINES_BURST);
        // Once per stream when it was made, and once per line that was asked for.
        assert_eq!(bed.clock.0.load(Ordering::Relaxed), 2 + LINES_BURST + 1);
        for _ in 0..ARGUMENT_BYTES_MAX / lines {
            bed.stdio.stdout.write(vec![b'\n'; WRITE_BYTES_MAX].into()).unwrap();
        }
        assert!(bed.meter.overdrawn(u64::MAX).unwrap().contains("arguments"), "what is printed is counted");
    }

    #[test]
    fn a_write_past_the_permit_traps() {
        let mut stderr = bed(&TapeMode::Off).stdio.stderr;
        let permit = stderr.check_write().unwrap();
        assert!(stderr.write(vec![b'x'; permit].into()).is_ok());
        let refused = stderr.write(vec![b'x'; permit + 1].into());
        assert!(matches!(refused, Err(StreamError::Trap(_))), "{refused:?}");
        // Zeroes would be made first.
        assert!(stderr.write_zeroes(permit).is_ok());
        let refused = stderr.write_zeroes(usize::MAX);
        assert!(matches!(refused, Err(StreamError::Trap(_))), "{refused:?}");
    }

    #[test]
    fn a_character_in_two_writes_stays_one_and_the_last_line_needs_no_end() {
        let bed = bed(&recording());
        let text = "grüße\n€";
        for byte in text.bytes() {
            bed.stdio.stdout.take(&[byte]);
        }
        assert_eq!(bed.lines(), ["grüße"]);
        bed.stdio.end();
        assert_eq!(bed.lines(), ["grüße", "€"]);
        bed.stdio.end();
        assert_eq!(bed.lines().len(), 2);
    }

    #[test]
    fn a_long_line_is_cut_between_characters_and_loses_nothing() {
        let bed = bed(&recording());
        let text = format!("x{}", "€".repeat(LINE_BYTES_MAX / 3 * 2));
        bed.stdio.stdout.take(text.as_bytes());
        bed.stdio.end();
        let lines = bed.lines();
        assert!(lines.iter().all(|line| line.len() <= LINE_BYTES_MAX));
        assert_eq!(lines.concat(), text);
        // One that just fits is one line.
        let fits = "y".repeat(LINE_BYTES_MAX);
        bed.stdio.stdout.take(format!("{fits}\n").as_bytes());
        assert_eq!(bed.lines()[lines.len()..], [fits]);
    }

    #[test]
    fn dropped_lines_are_recorded_as_a_replay_prints_them() {
        let (recorded, played) = (bed(&recording()), bed(&TapeMode::Play(Arc::default())));
        let text: String = (0..2 * LINES_BURST).map(|n| format!("{n}\n")).collect();
        // The rate is spent already.
        recorded.stdio.stdout.take("\n".repeat(LINES_BURST as usize).as_bytes());
        recorded.tape.begin();
        recorded.stdio.stdout.take(text.as_bytes());
        played.stdio.stdout.take(text.as_bytes());
        assert_eq!((recorded.lines().len(), recorded.lines()), (LINES_MAX, played.lines()));
        assert_eq!((recorded.meter.lines_dropped(), played.meter.lines_dropped()), (2 * LINES_BURST, 0));
    }

    #[test]
    fn the_last_of_stderr_is_kept_for_one_report() {
        let bed = bed(&TapeMode::Off);
        bed.stdio.stdout.take(b"of no concern");
        assert_eq!(bed.stdio.end(), None);
        for n in 0..10_000 {
            bed.stdio.stderr.take(format!("é line {n}\n").as_bytes());
        }
        bed.stdio.stderr.take("panicked: \x1b[31mno\n".as_bytes());
        let last = bed.stdio.end().unwrap();
        assert!(last.len() <= LAST_WORDS_BYTES_MAX && last.len() > LAST_WORDS_BYTES_MAX / 2, "{}", last.len());
        assert!(last.ends_with("é line 9999\npanicked: \u{fffd}[31mno"), "{last}");
        assert_eq!(last.matches('\u{fffd}').count(), 1, "no character is cut");
        assert_eq!(bed.stdio.end(), None, "it belongs to one call");
    }
}
