//! Every figure of nexum beside its floor, measured in the same run: `make bench`.
//!
//! Writes `target/bench.json` and `docs/reference/performance.md`. Short by default; `NEXUM_BENCH=full` takes the larger
//! sizes. A figure that misses its goal is reported as missed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a program that prints figures and ends at a failed step"
)]

mod dispatch;
mod figures;
mod libraries;
mod lifecycle;
mod process;
mod recording;
mod transactions;

use figures::Figures;
use nexum_host_ifaces::recording::TapeMode;
use nexum_kernel::engine::MapLimit;

/// Whether these sizes are asked for: `smoke`, `short` or `full`.
#[allow(clippy::disallowed_methods, reason = "set by the Makefile")]
fn is_size(name: &str) -> bool {
    std::env::var("NEXUM_BENCH").is_ok_and(|size| size == name)
}

/// Numbers of modules to measure with: the larger one is what this machine has memory maps for, when that is less.
fn sizes(full: bool) -> Vec<usize> {
    const LARGE: usize = 10_000;
    let room = MapLimit::of_this_machine().map_or(LARGE, MapLimit::instances);
    if full && room < LARGE {
        println!("{LARGE} modules do not fit: vm.max_map_count has room for {room}, the rest is refused");
    }
    if full { vec![1_000, LARGE.min(room)] } else { vec![1_000] }
}

fn main() {
    // Cargo asks benches of every kind for their tests; there are none here.
    if std::env::args().any(|argument| argument == "--list" || argument == "--test") {
        return;
    }
    nexum_cli::allocator::tune();
    let full = is_size("full");
    // `cargo bench --bench performance -- dispatch` measures one part and writes nothing.
    let part = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let wanted = |name: &str| part.as_ref().is_none_or(|part| part == name);
    let mut figures = Figures::default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        if wanted("lifecycle") {
            lifecycle::cold_start(&mut figures).await;
            lifecycle::restart_after_a_trap(&mut figures).await;
        }
        if wanted("dispatch") {
            for modules in sizes(full) {
                dispatch::in_memory(&mut figures, modules).await;
            }
        }
        if wanted("libraries") {
            libraries::calls(&mut figures).await;
        }
        if wanted("recording") {
            recording::overhead(&mut figures).await;
        }
        // To be counted from outside, each alone.
        match part.as_deref() {
            Some("recording-none") => recording::alone(TapeMode::Off).await,
            Some("recording-failures") => recording::alone(TapeMode::On(Default::default())).await,
            _ => {}
        }
        if wanted("durable") {
            dispatch::durable(&mut figures, 1_000).await;
            dispatch::one_durable_event(&mut figures).await;
        }
    });
    drop(runtime);
    if wanted("process") {
        process::idle_engine(&mut figures);
        for modules in sizes(full) {
            process::many_modules(&mut figures, modules);
        }
        process::head_to_guest(&mut figures, 100, if full { 100 } else { 30 });
        process::noisy_neighbour(&mut figures, if full { 400 } else { 100 });
    }
    if wanted("transactions") {
        let (answers, transactions) = if is_size("smoke") { (10, 100) } else { (if full { 500 } else { 100 }, 500) };
        transactions::of_an_account(&mut figures, &transactions::Sizes { answers, transactions });
    }
    if part.is_none() {
        #[allow(clippy::disallowed_methods, reason = "set by the Makefile")]
        if let Ok(file) = std::env::var("NEXUM_BENCH_LINES") {
            figures.import(&std::fs::read_to_string(file).unwrap());
        }
        figures.write(full);
    }
}
