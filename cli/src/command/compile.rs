//! `compile-component`: the process in which an engine has one component compiled, so that a component which makes the
//! compiler work or allocate without end costs this process and not the engine.
//!
//! Invariant: the limits are in force before the first byte of the component is read. What they are is decided by
//! `wire::compiler`, which also says what an end of this process means.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::fd::AsFd as _,
    process::ExitCode,
};

use nexum_kernel::compile::{Refusal, compile_alone};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, nice, set_parent_process_death_signal, setrlimit};

use crate::args::compile::CompileComponent;

/// Exit codes, besides 0 for success and what others use.
pub const COMPONENT: u8 = 1;
pub const SURROUNDINGS: u8 = 3;
pub const MEMORY: u8 = 4;

/// A little behind the events of modules, and far before what slow modules do, which are put aside.
const NICE: i32 = 5;
/// When memory is short, the system is to end this process rather than the engine. This is the largest there is.
const OOM_SCORE: &str = "1000";

pub fn compile_component(wanted: &CompileComponent) -> ExitCode {
    let Err(refusal) = confine(wanted).and_then(|()| compile(wanted)) else { return ExitCode::SUCCESS };
    // An engine that does not listen has the exit code.
    let _ = writeln!(io::stderr(), "{refusal}");
    ExitCode::from(match refusal {
        Refusal::Component(_) => COMPONENT,
        Refusal::Memory => MEMORY,
        Refusal::Surroundings(_) => SURROUNDINGS,
    })
}

fn confine(wanted: &CompileComponent) -> Result<(), Refusal> {
    let unset = |error: io::Error| Refusal::Surroundings(format!("the limits of its compiler cannot be set: {error}"));
    // Nobody would take what is made. An engine that is gone already leaves the limit on processor time.
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| unset(error.into()))?;
    let (memory, processor_s) = (wanted.max_memory_bytes, wanted.max_processor_s);
    for (resource, soft, hard) in [
        (Resource::Core, 0, 0),
        (Resource::Data, memory, memory),
        (Resource::Fsize, memory, memory),
        // At the soft one the signal says why the process ends.
        (Resource::Cpu, processor_s, processor_s.saturating_add(1)),
    ] {
        lower(resource, soft, hard).map_err(unset)?;
    }
    // Where these are not allowed, the limits hold without them.
    let _ = fs::write("/proc/self/oom_score_adj", OOM_SCORE);
    let _ = nice(NICE);
    Ok(())
}

/// Sets a limit, or leaves the one that is there and lower.
fn lower(resource: Resource, soft: u64, hard: u64) -> io::Result<()> {
    let hard = getrlimit(resource).maximum.map_or(hard, |most| most.min(hard));
    setrlimit(resource, Rlimit { current: Some(soft.min(hard)), maximum: Some(hard) })?;
    Ok(())
}

fn compile(wanted: &CompileComponent) -> Result<(), Refusal> {
    let code = compile_alone(io::stdin().lock(), wanted.sha256, wanted.max_component_bytes)?;
    let unwritten = |error: io::Error| Refusal::Surroundings(format!("its machine code cannot be written: {error}"));
    // A file of its own: stdout would look for lines.
    let mut into = File::from(io::stdout().as_fd().try_clone_to_owned().map_err(unwritten)?);
    into.write_all(&code).map_err(unwritten)
}
