//! The narrow WASI 0.2 subset that toolchains need: io, clocks, random, an empty environment, stdio into the module's
//! log. The file system interfaces are linked because `std` imports them, with no directory behind them. Those of sockets
//! are linked because other languages' runtimes import them: no socket can be made, and no name looked up.

mod tape;

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use tokio::io::AsyncWrite;
use wasmtime::component::{Linker, ResourceTable};
use wasmtime_wasi::{
    WasiCtx, WasiView as _,
    cli::{IsTerminal, StdoutStream, WasiCli, WasiCliView as _},
    clocks::{WasiClocks, WasiClocksView as _},
    filesystem::{WasiFilesystem, WasiFilesystemView as _},
    p2::{
        OutputStream, Pollable, StreamResult,
        bindings::{cli, clocks, filesystem, random, sockets},
    },
    random::WasiRandom,
    sockets::{WasiSockets, WasiSocketsView as _},
};

use crate::{
    clock::Clock,
    host::HostState,
    logging::{LINE_BYTES_MAX, LogBudget},
};

pub use tape::WasiAnswers;
pub(crate) use tape::WasiTape;
use tape::{TapedClock, TapedRandom};

/// Import prefixes that `add_to_linker` serves.
pub(crate) const SERVED: &[&str] =
    &["wasi:io/", "wasi:clocks/", "wasi:random/", "wasi:cli/", "wasi:filesystem/", "wasi:sockets/"];

/// Streams, pollables and other handles that one instance may hold at once; one more traps. A handle is memory of the
/// engine that `max_memory_bytes` does not count, and a guest waits for a few at a time.
const HANDLES_MAX: usize = 10_000;

/// The table of what a guest holds handles of.
pub(crate) fn table() -> ResourceTable {
    let mut table = ResourceTable::new();
    table.set_max_capacity(HANDLES_MAX);
    table
}

struct HasIo;

impl wasmtime::component::HasData for HasIo {
    type Data<'a> = &'a mut wasmtime::component::ResourceTable;
}

/// Links the subset. What is not here makes a component fail to load.
pub(crate) fn add_to_linker(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    use wasmtime_wasi_io::bindings::wasi::io as wasi_io;
    let l = linker;
    wasi_io::error::add_to_linker::<_, HasIo>(l, |t| t.ctx().table)?;
    wasi_io::poll::add_to_linker::<_, HasIo>(l, |t| t.ctx().table)?;
    wasi_io::streams::add_to_linker::<_, HasIo>(l, |t| t.ctx().table)?;
    clocks::wall_clock::add_to_linker::<_, WasiClocks>(l, HostState::clocks)?;
    clocks::monotonic_clock::add_to_linker::<_, WasiClocks>(l, HostState::clocks)?;
    random::random::add_to_linker::<_, WasiRandom>(l, |t| t.ctx().ctx.random())?;
    random::insecure::add_to_linker::<_, WasiRandom>(l, |t| t.ctx().ctx.random())?;
    random::insecure_seed::add_to_linker::<_, WasiRandom>(l, |t| t.ctx().ctx.random())?;
    filesystem::types::add_to_linker::<_, WasiFilesystem>(l, HostState::filesystem)?;
    filesystem::preopens::add_to_linker::<_, WasiFilesystem>(l, HostState::filesystem)?;
    cli::exit::add_to_linker::<_, WasiCli>(l, HostState::cli)?;
    cli::environment::add_to_linker::<_, WasiCli>(l, HostState::cli)?;
    cli::stdin::add_to_linker::<_, WasiCli>(l, HostState::cli)?;
    cli::stdout::add_to_linker::<_, WasiCli>(l, HostState::cli)?;
    cli::stderr::add_to_linker::<_, WasiCli>(l, HostState::cli)?;
    cli::terminal_input::add_to_linker::<_, WasiCli>(l, HostState::cli)?;
    cli::terminal_output::add_to_linker::<_, WasiCli>(l, HostState::cli)?;
    cli::terminal_stdin::add_to_linker::<_, WasiCli>(l, HostState::cli)?;
    cli::terminal_stdout::add_to_linker::<_, WasiCli>(l, HostState::cli)?;
    cli::terminal_stderr::add_to_linker::<_, WasiCli>(l, HostState::cli)?;
    // `context` allows nothing of it, and that is looked at before the system is asked for anything.
    let options = sockets::network::LinkOptions::default();
    sockets::network::add_to_linker::<_, WasiSockets>(l, &options, HostState::sockets)?;
    sockets::instance_network::add_to_linker::<_, WasiSockets>(l, HostState::sockets)?;
    sockets::ip_name_lookup::add_to_linker::<_, WasiSockets>(l, HostState::sockets)?;
    sockets::tcp::add_to_linker::<_, WasiSockets>(l, HostState::sockets)?;
    sockets::tcp_create_socket::add_to_linker::<_, WasiSockets>(l, HostState::sockets)?;
    sockets::udp::add_to_linker::<_, WasiSockets>(l, HostState::sockets)?;
    sockets::udp_create_socket::add_to_linker::<_, WasiSockets>(l, HostState::sockets)?;
    Ok(())
}

/// A context that grants nothing but stdio into the log, time and randomness.
pub(crate) fn context(module: &Arc<str>, clock: &Arc<dyn Clock>, dropped: &Arc<AtomicU64>, tape: &WasiTape) -> WasiCtx {
    let taped_clock = || TapedClock { clock: clock.clone(), tape: tape.clone() };
    let log = |stream| StdioLog {
        module: module.clone(),
        stream,
        clock: clock.clone(),
        dropped: dropped.clone(),
        tape: tape.clone(),
        lines: Arc::new(Mutex::new(Lines { partial: String::new(), budget: LogBudget::new(clock.monotonic_ns()) })),
    };
    WasiCtx::builder()
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false)
        .wall_clock(taped_clock())
        .monotonic_clock(taped_clock())
        .secure_random(TapedRandom(tape.clone()))
        .insecure_random(TapedRandom(tape.clone()))
        .insecure_random_seed(tape.seed())
        .stdout(log("stdout"))
        .stderr(log("stderr"))
        .build()
}

struct Lines {
    partial: String,
    budget: LogBudget,
}

/// Turns what a guest writes to stdout or stderr into log lines, at the module's log rate.
#[derive(Clone)]
struct StdioLog {
    module: Arc<str>,
    stream: &'static str,
    clock: Arc<dyn Clock>,
    /// Lines over the rate; read and set to nothing with each event.
    dropped: Arc<AtomicU64>,
    tape: WasiTape,
    lines: Arc<Mutex<Lines>>,
}

impl StdioLog {
    fn take(&self, bytes: &[u8]) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.partial.push_str(&String::from_utf8_lossy(bytes));
        while let Some(end) =
            lines.partial.find('\n').or((lines.partial.len() > LINE_BYTES_MAX).then_some(LINE_BYTES_MAX))
        {
            let end = lines.partial.floor_char_boundary(end);
            let rest = lines.partial.split_off(end);
            let line = std::mem::replace(&mut lines.partial, rest.strip_prefix('\n').unwrap_or(&rest).to_owned());
            self.tape.line(self.stream, &line);
            // A replay prints nothing: what it says is compared.
            if self.tape.is_playing() {
                continue;
            }
            if lines.budget.take(self.clock.monotonic_ns()).is_some() {
                let (module, stream) = (&*self.module, self.stream);
                tracing::info!(target: "module", module, stream, "{line}");
            } else {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
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
        self.take(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(64 * 1024)
    }
}
