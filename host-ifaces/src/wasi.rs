//! The narrow WASI 0.2 subset that toolchains need: io, clocks, random, an empty environment, stdio into the module's
//! log. The file system interfaces are linked because `std` imports them, with no directory behind them. Those of sockets
//! are linked because other languages' runtimes import them: no socket can be made, and no name looked up. `wasi:http` is that
//! of clients, through the gate of `http.fetch`.

pub(crate) mod http;
pub(crate) mod lookups;
pub(crate) mod stdio;
pub(crate) mod tape;

use std::sync::Arc;

use wasmtime::component::{HasData, Linker, Resource, ResourceTable};
use wasmtime_wasi::{
    WasiCtx, WasiView as _,
    cli::{WasiCli, WasiCliView as _},
    clocks::{WasiClocks, WasiClocksView as _},
    filesystem::{WasiFilesystem, WasiFilesystemView as _},
    p2::bindings::{cli, clocks, filesystem, random, sockets},
    random::WasiRandom,
    sockets::{WasiSockets, WasiSocketsView as _},
};
use wasmtime_wasi_io::{bindings::wasi::io as wasi_io, poll::DynPollable};

use crate::{clock::Clock, host::HostState, limits::Meter};

use self::{
    http::{HasHttp, wasi_http},
    lookups::HasLookups,
    stdio::Stdio,
    tape::{TapedClock, TapedRandom, WasiTape},
};

/// Streams, pollables and timers that a guest may hold at once; the C library holds about ten.
pub(crate) const RESOURCES_MAX: usize = 1_024;
/// Pollables in the list of one `poll`: all that there can be.
const POLL_MAX: usize = RESOURCES_MAX;
/// What a pollable in a list costs, as bytes of arguments: it is looked up and asked.
const POLLABLE_COST_BYTES: usize = 64;
/// One call of WASI may ask for this many random bytes, as one `random.fill` may.
const RANDOM_BYTES_MAX: u64 = crate::interfaces::random::guest::FILL_BYTES_MAX as u64;

/// Import prefixes that `add_to_linker` serves.
pub(crate) const SERVED: &[&str] = &[
    "wasi:io/",
    "wasi:clocks/",
    "wasi:random/",
    "wasi:cli/",
    "wasi:filesystem/",
    "wasi:sockets/",
    "wasi:http/types",
    "wasi:http/outgoing-handler",
];

struct HasIo;

impl HasData for HasIo {
    type Data<'a> = &'a mut ResourceTable;
}

struct HasPolls;

impl HasData for HasPolls {
    type Data<'a> = Polls<'a>;
}

/// `wasi:io/poll` over lists of a bounded length.
pub(crate) struct Polls<'a> {
    pub table: &'a mut ResourceTable,
    pub meter: &'a Meter,
}

impl wasi_io::poll::Host for Polls<'_> {
    async fn poll(&mut self, pollables: Vec<Resource<DynPollable>>) -> wasmtime::Result<Vec<u32>> {
        self.meter.take(pollables.len() * POLLABLE_COST_BYTES);
        if pollables.len() > POLL_MAX {
            let message = format!("poll of {} pollables, at most {POLL_MAX} in one call", pollables.len());
            return Err(wasmtime::Error::msg(message));
        }
        <ResourceTable as wasi_io::poll::Host>::poll(self.table, pollables).await
    }
}

impl wasi_io::poll::HostPollable for Polls<'_> {
    async fn ready(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<bool> {
        <ResourceTable as wasi_io::poll::HostPollable>::ready(self.table, pollable).await
    }

    async fn block(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<()> {
        <ResourceTable as wasi_io::poll::HostPollable>::block(self.table, pollable).await
    }

    fn drop(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<()> {
        <ResourceTable as wasi_io::poll::HostPollable>::drop(self.table, pollable)
    }
}

/// Links the subset, every call counted. What is not here makes a component fail to load.
pub(crate) fn add_to_linker(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    let l = linker;
    wasi_io::error::add_to_linker::<_, HasIo>(l, |t| t.counted().ctx().table)?;
    wasi_io::poll::add_to_linker::<_, HasPolls>(l, |t| t.counted().polls())?;
    wasi_io::streams::add_to_linker::<_, HasIo>(l, |t| t.counted().ctx().table)?;
    clocks::wall_clock::add_to_linker::<_, WasiClocks>(l, |t| t.counted().clocks())?;
    clocks::monotonic_clock::add_to_linker::<_, WasiClocks>(l, |t| t.counted().clocks())?;
    random::random::add_to_linker::<_, WasiRandom>(l, |t| t.counted().ctx().ctx.random())?;
    random::insecure::add_to_linker::<_, WasiRandom>(l, |t| t.counted().ctx().ctx.random())?;
    random::insecure_seed::add_to_linker::<_, WasiRandom>(l, |t| t.counted().ctx().ctx.random())?;
    filesystem::types::add_to_linker::<_, WasiFilesystem>(l, |t| t.counted().filesystem())?;
    filesystem::preopens::add_to_linker::<_, WasiFilesystem>(l, |t| t.counted().filesystem())?;
    cli::exit::add_to_linker::<_, WasiCli>(l, |t| t.counted().cli())?;
    cli::environment::add_to_linker::<_, WasiCli>(l, |t| t.counted().cli())?;
    cli::stdin::add_to_linker::<_, WasiCli>(l, |t| t.counted().cli())?;
    cli::stdout::add_to_linker::<_, WasiCli>(l, |t| t.counted().cli())?;
    cli::stderr::add_to_linker::<_, WasiCli>(l, |t| t.counted().cli())?;
    cli::terminal_input::add_to_linker::<_, WasiCli>(l, |t| t.counted().cli())?;
    cli::terminal_output::add_to_linker::<_, WasiCli>(l, |t| t.counted().cli())?;
    cli::terminal_stdin::add_to_linker::<_, WasiCli>(l, |t| t.counted().cli())?;
    cli::terminal_stdout::add_to_linker::<_, WasiCli>(l, |t| t.counted().cli())?;
    cli::terminal_stderr::add_to_linker::<_, WasiCli>(l, |t| t.counted().cli())?;
    // `context` allows nothing of it, and that is looked at before the system is asked for anything.
    let options = sockets::network::LinkOptions::default();
    sockets::network::add_to_linker::<_, WasiSockets>(l, &options, |t| t.counted().sockets())?;
    sockets::instance_network::add_to_linker::<_, WasiSockets>(l, |t| t.counted().sockets())?;
    sockets::ip_name_lookup::add_to_linker::<_, HasLookups>(l, |t| t.counted().lookups())?;
    sockets::tcp::add_to_linker::<_, WasiSockets>(l, |t| t.counted().sockets())?;
    sockets::tcp_create_socket::add_to_linker::<_, WasiSockets>(l, |t| t.counted().sockets())?;
    sockets::udp::add_to_linker::<_, WasiSockets>(l, |t| t.counted().sockets())?;
    sockets::udp_create_socket::add_to_linker::<_, WasiSockets>(l, |t| t.counted().sockets())?;
    wasi_http::types::add_to_linker::<_, HasHttp>(l, |t| t.counted().http())?;
    wasi_http::outgoing_handler::add_to_linker::<_, HasHttp>(l, |t| t.counted().http())?;
    Ok(())
}

/// A context that grants nothing but stdio into the log, time and randomness.
pub(crate) fn context(clock: &Arc<dyn Clock>, meter: &Arc<Meter>, stdio: &Stdio, tape: &WasiTape) -> WasiCtx {
    let taped_clock = || TapedClock { clock: clock.clone(), tape: tape.clone() };
    let taped_random = || TapedRandom { tape: tape.clone(), meter: meter.clone() };
    WasiCtx::builder()
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false)
        .wall_clock(taped_clock())
        .monotonic_clock(taped_clock())
        .secure_random(taped_random())
        .insecure_random(taped_random())
        .insecure_random_seed(tape.seed())
        .max_random_size(RANDOM_BYTES_MAX)
        .stdout(stdio.stdout.clone())
        .stderr(stdio.stderr.clone())
        .build()
}
