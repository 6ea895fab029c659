//! The engine's log: lines to stderr as the operator wants them, and as JSON to whoever follows them over the admin API.

use std::io::{self, IsTerminal, Write};

use anyhow::Context;
use nexum_gateway::LogTap;
use tracing_subscriber::{EnvFilter, Layer, fmt, fmt::MakeWriter, layer::SubscriberExt, util::SubscriberInitExt};

use crate::config::{Engine, LogFormat};

/// Lines kept for `nexumctl logs`, and that a slow reader may fall behind: a minute of ten busy modules. A line is at most
/// some 8 KiB, as modules' lines are cut there.
const LINES: usize = 2048;

/// What is logged at the level that the operator asks for.
fn directives(level: &str) -> String {
    // ractor wraps every message of every actor in a span; lines say which module they are about anyway. Of the libraries
    // that speak with the world only what is wrong is told, unless the operator names them.
    let quiet = "ractor=warn,hyper=info,hyper_util=info,reqwest=info,rustls=info,tokio_tungstenite=info";
    // It writes whole requests, with the keys in their paths and headers, whoever asks for it.
    let never = "tungstenite=info";
    format!("{quiet},{level},{never}")
}

/// Sets the process's log up. Everything that is logged from now on also goes to the tap.
pub fn install(engine: &Engine) -> anyhow::Result<LogTap> {
    let tap = LogTap::new(LINES);
    let directives = directives(&engine.log_level);
    let filter = EnvFilter::try_new(directives).context("[engine] log_level")?;
    let stderr = fmt::layer().with_writer(io::stderr);
    let stderr = match engine.log_format {
        LogFormat::Pretty => stderr.with_ansi(io::stderr().is_terminal()).boxed(),
        LogFormat::Json => stderr.json().flatten_event(true).with_span_list(false).boxed(),
    };
    let tapped = fmt::layer().json().flatten_event(true).with_span_list(false).with_writer(Tapped(tap.clone()));
    tracing_subscriber::registry()
        .with(filter)
        .with(stderr)
        .with(tapped)
        .try_init()
        .context("the log is set up twice")?;
    Ok(tap)
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
        self.0.send(String::from_utf8_lossy(line).trim_end());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
