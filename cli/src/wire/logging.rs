//! The engine's log: lines to stderr as the operator wants them, and as JSON to whoever follows them over the admin API.
//!
//! Invariant: one event is one line, whatever a module or a node wrote into it, and nobody who logs waits for a reader.

mod queue;

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    fmt::{self, Write as _},
    fs::File,
    io::{self, IsTerminal, Write},
    mem,
    os::fd::AsFd,
    time::Duration,
};

use anyhow::Context;
use nexum_gateway::LogTap;
use prometheus::IntCounter;
use tracing::{
    Level, Metadata,
    field::{Field, Visit},
};
use tracing_subscriber::{
    EnvFilter, Layer,
    field::RecordFields,
    filter::filter_fn,
    fmt::{FormatFields, MakeWriter, format::Writer, time::FormatTime},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use self::queue::Queue;
use crate::{
    config::{Engine, LogFormat},
    render::foreign::{self, Escaping},
};

/// Lines kept for `nexumctl logs`, and that a slow reader may fall behind: a minute of ten busy modules. A line is at most
/// some 8 KiB, as modules' lines are cut there.
const LINES: usize = 2048;
/// How long the end of the process waits for a reader of stderr.
const FLUSH_DEADLINE: Duration = Duration::from_secs(1);

/// What is logged at the level that the operator asks for.
fn directives(level: &str) -> String {
    // ractor wraps every message of every actor in a span; lines say which module they are about anyway. Of the libraries
    // that speak with the world only what is wrong is told, unless the operator names them.
    let quiet = "ractor=warn,hyper=info,hyper_util=info,reqwest=info,rustls=info,tokio_tungstenite=info";
    format!("{quiet},{level}")
}

/// Libraries that write whole requests and addresses, with the keys in them, whoever asks for it and in whatever part.
const TELLTALES: [&str; 3] = ["hyper_util", "reqwest", "tungstenite"];

/// Whether an event may be logged at all.
fn may_be_told(metadata: &Metadata<'_>) -> bool {
    let library = metadata.target().split("::").next().unwrap_or_default();
    *metadata.level() <= Level::INFO || !TELLTALES.contains(&library)
}

/// The process's log.
#[derive(Clone)]
pub struct Log {
    /// Everything that is logged also goes here.
    pub tap: LogTap,
    queue: Queue,
}

impl Log {
    /// Counts the lines that stderr did not take.
    pub fn dropped_total(&self) -> &IntCounter {
        self.queue.dropped_total()
    }

    /// Waits for stderr to take what was logged, but not long.
    pub fn flush(&self) {
        self.queue.flush(FLUSH_DEADLINE);
    }
}

/// Sets the process's log up, and lets panics go there, too.
pub fn install(engine: &Engine) -> anyhow::Result<Log> {
    let log = Log { tap: LogTap::new(LINES), queue: Queue::new()? };
    let filter = EnvFilter::try_new(directives(&engine.log_level)).context("[engine] log_level")?;
    let format = engine.log_format;
    // A handle of its own: whoever else writes to stderr does not wait for the lock that a stuck write would hold.
    let sink = io::stderr().as_fd().try_clone_to_owned().context("stderr")?;
    log.queue.carry_to(File::from(sink), move |count| notice(format, count)).context("no thread for the log")?;
    let lines = Lines { queue: log.queue.clone(), format };
    let stderr = tracing_subscriber::fmt::layer().with_writer(lines);
    let stderr = match format {
        LogFormat::Pretty => stderr.fmt_fields(Fields).with_ansi(io::stderr().is_terminal()).boxed(),
        LogFormat::Json => stderr.json().flatten_event(true).with_span_list(false).boxed(),
    };
    let tapped = tracing_subscriber::fmt::layer().json().flatten_event(true).with_span_list(false);
    tracing_subscriber::registry()
        .with(filter)
        .with(filter_fn(may_be_told))
        .with(stderr)
        .with(tapped.with_writer(Tapped(log.tap.clone())))
        .try_init()
        .context("the log is set up twice")?;
    std::panic::set_hook(Box::new(tell_panic));
    Ok(log)
}

/// What std would write to stderr, which nobody may read.
fn tell_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    let said = panic.to_string().replace('\n', " ");
    // Captured when RUST_BACKTRACE asks for it.
    let backtrace = Backtrace::capture();
    match backtrace.status() {
        BacktraceStatus::Captured => tracing::error!(target: "panic", thread, %backtrace, "{said}"),
        _ => tracing::error!(target: "panic", thread, "{said}"),
    }
}

/// The line that stands where lines were dropped.
fn notice(format: LogFormat, count: u64) -> String {
    let mut time = String::new();
    // A clock that cannot be read leaves the time out.
    let _ = tracing_subscriber::fmt::time::SystemTime.format_time(&mut Writer::new(&mut time));
    let message = "log lines were dropped: whoever reads stderr was too slow";
    match format {
        LogFormat::Pretty => format!("{time}  WARN log: {count} {message}\n"),
        LogFormat::Json => {
            let line = serde_json::json!({
                "timestamp": time, "level": "WARN", "message": message, "dropped": count, "target": "log",
            });
            format!("{line}\n")
        }
    }
}

/// Fields as text, `message name=value`, with what others wrote made safe.
struct Fields;

impl<'writer> FormatFields<'writer> for Fields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut visitor = Visitor { writer, begun: false, result: Ok(()) };
        fields.record(&mut visitor);
        visitor.result
    }
}

struct Visitor<'writer> {
    writer: Writer<'writer>,
    begun: bool,
    result: fmt::Result,
}

impl Visitor<'_> {
    fn write(&mut self, name: &str, value: &dyn fmt::Debug) -> fmt::Result {
        if mem::replace(&mut self.begun, true) {
            self.writer.write_char(' ')?;
        }
        if name != "message" {
            let name = name.strip_prefix("r#").unwrap_or(name);
            match self.writer.has_ansi_escapes() {
                true => write!(self.writer, "\x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m")?,
                false => write!(self.writer, "{name}=")?,
            }
        }
        write!(Escaping(&mut self.writer), "{value:?}")
    }
}

impl Visit for Visitor<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.record_debug(field, &format_args!("{value}")),
            _ => self.record_debug(field, &value),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Those of the `log` crate's records are in the line already.
        if self.result.is_ok() && !field.name().starts_with("log.") {
            self.result = self.write(field.name(), value);
        }
    }
}

/// To stderr, by way of the queue.
#[derive(Clone)]
struct Lines {
    queue: Queue,
    format: LogFormat,
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

impl Write for Lines {
    /// Called once for each line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self.format {
            LogFormat::Pretty => self.queue.push(line),
            LogFormat::Json => self.queue.push(foreign::json(&String::from_utf8_lossy(line)).as_bytes()),
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Clone)]
struct Tapped(LogTap);

impl MakeWriter<'_> for Tapped {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

impl Write for Tapped {
    /// Called once for each line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.send(&*foreign::json(String::from_utf8_lossy(line).trim_end()));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(line);
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What one line of a module and one error become.
    fn logged(ansi: bool) -> String {
        let kept = Kept::default();
        let writer = kept.clone();
        let layer = tracing_subscriber::fmt::layer().with_writer(move || writer.clone());
        let layer = layer.fmt_fields(Fields).with_ansi(ansi).without_time();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let line = "a\n2026-01-01T00:00:00Z ERROR nexum: forged\x1b[2J\u{9b}m\u{202e}";
            let error = io::Error::other("b\nforged\x1b[A");
            tracing::info!(target: "module", module = "m", %error, "{line}");
        });
        String::from_utf8(kept.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn a_module_forges_no_line_and_sends_nothing_to_the_terminal() {
        let expected = " INFO module: a\\n2026-01-01T00:00:00Z ERROR nexum: forged\\u{1b}[2J\\u{9b}m\\u{202e} \
                        module=\"m\" error=b\\nforged\\u{1b}[A\n";
        assert_eq!(logged(false), expected);
        let coloured = logged(true);
        assert_eq!(coloured.matches('\n').count(), 1, "{coloured:?}");
        assert!(!coloured.contains("\x1b[2J") && !coloured.contains("\x1b[A"), "{coloured:?}");
        assert!(coloured.contains("\x1b[3mmodule\x1b[0m"), "{coloured:?}");
    }

    #[test]
    fn no_library_tells_of_whole_requests_whatever_the_operator_asks() {
        let kept = Kept::default();
        let writer = kept.clone();
        let layer = tracing_subscriber::fmt::layer().with_writer(move || writer.clone()).with_ansi(false);
        let level = "trace,tungstenite::handshake=trace,reqwest::connect=trace,hyper_util=trace";
        let filter = EnvFilter::try_new(directives(level)).unwrap();
        let subscriber = tracing_subscriber::registry().with(filter).with(filter_fn(may_be_told)).with(layer);
        tracing::subscriber::with_default(subscriber, || {
            tracing::trace!(target: "tungstenite::handshake::client", "GET /v2/k3y");
            tracing::debug!(target: "reqwest::connect", "https://rpc.example.org/k3y");
            tracing::debug!(target: "hyper_util::client", "https://rpc.example.org/k3y");
            tracing::info!(target: "reqwest", "said");
            tracing::trace!(target: "nexum_chain", "told");
        });
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        assert!(!text.contains("k3y") && text.contains("said") && text.contains("told"), "{text}");
    }

    #[test]
    fn what_tells_of_dropped_lines_is_a_line_of_its_form() {
        let json: serde_json::Value = serde_json::from_str(&notice(LogFormat::Json, 7)).unwrap();
        assert_eq!((json["dropped"].as_u64(), json["level"].as_str()), (Some(7), Some("WARN")));
        let text = notice(LogFormat::Pretty, 7);
        assert!(text.ends_with("  WARN log: 7 log lines were dropped: whoever reads stderr was too slow\n"), "{text}");
    }
}
