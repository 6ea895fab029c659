//! Compiling in a process of its own: this very program with `compile-component`, limits, and nothing of the engine's
//! environment.
//!
//! Invariant: whatever a component makes the compiler do, it ends, and the engine holds none of the memory that it takes. A
//! component is judged by the processor time that its compiler took, never by what the machine did meanwhile: time that
//! went by while others had the processor, and a kill by somebody else, are held against nobody and tried again.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::Path,
    process::{Child, ChildStderr, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, sync_channel},
    },
    time::Duration,
};

use nexum_host_ifaces::Hash;
use nexum_kernel::{
    compile::{Compile, CompileLimits, Refusal},
    engine::{EngineError, WasmEngine},
};

use crate::{
    command::compile::{COMPONENT, MEMORY, SURROUNDINGS},
    config::{self, Period},
};

/// The program that runs here, also when its file was replaced by another version meanwhile.
const THIS_PROGRAM: &str = "/proc/self/exe";
/// The compiler's last words, of which more is not kept.
const SAID_BYTES_MAX: u64 = 4 * 1024;
/// What the standard library says when memory is denied, before it aborts.
const MEMORY_DENIED: &str = "memory allocation of";
/// The exit code of a program that panicked.
const PANICKED: i32 = 101;
/// A compilation has this many times its processor time before it is ended: as much as a quarter of a processor takes.
const PATIENCE: u32 = 4;
/// How often is looked whether anybody still wants what it makes.
const LOOK: Duration = Duration::from_millis(100);

/// The wasm engine of a state directory, whose components strangers have made. For the one that holds the directory.
pub fn engine(config: &config::Engine) -> Result<WasmEngine, EngineError> {
    Ok(limited(&config.state_dir.join("cache"), config.compile_limits())?.without_drafts())
}

/// A wasm engine for components of strangers, beside one that may work with the same cache.
pub fn limited(cache_dir: &Path, limits: CompileLimits) -> Result<WasmEngine, EngineError> {
    let engine = WasmEngine::new(cache_dir)?;
    Ok(engine.compiled_by(Arc::new(ChildProcess { limits }), limits.max_component_bytes))
}

struct ChildProcess {
    limits: CompileLimits,
}

/// How a compiler ended.
struct Ended {
    status: ExitStatus,
    /// What it had of the processors.
    processor: Duration,
    /// Whether it was ended because its time was over.
    late: bool,
}

impl Compile for ChildProcess {
    fn compile(&self, component: File, hash: Hash, code: File, wanted: &dyn Fn() -> bool) -> Result<(), Refusal> {
        let failed = |error: io::Error| Refusal::Surroundings(format!("its compiler does not run: {error}"));
        let mut child = self.start(component, hash, code).map_err(failed)?;
        // Its end closes its stderr.
        let told = match child.stderr.take().map(listen) {
            Some(Ok(told)) => told,
            Some(Err(error)) => return end(child).map_err(failed).and(Err(failed(error))),
            None => return end(child).map_err(failed).and(Err(failed(io::Error::other("it has no stderr")))),
        };
        let said = self.hear(&told, wanted);
        let late = said.is_err();
        let ended = if late { end(child) } else { reap(child) };
        let (status, processor) = ended.map_err(failed)?;
        if late && !wanted() && !status.success() {
            return Err(Refusal::Surroundings("nobody waits for it any more".to_owned()));
        }
        let said = said.or_else(|_| told.recv()).unwrap_or_default();
        self.verdict(&Ended { status, processor, late }, String::from_utf8_lossy(&said).trim())
    }
}

impl ChildProcess {
    /// How long it may last, whatever it has of the processors.
    fn patience(&self) -> Duration {
        self.limits.timeout.saturating_mul(PATIENCE)
    }

    /// What it says at its end. Fails when its time is over, or nobody wants what it makes any more.
    fn hear(&self, told: &Receiver<Vec<u8>>, wanted: &dyn Fn() -> bool) -> Result<Vec<u8>, RecvTimeoutError> {
        let mut left = self.patience();
        loop {
            let step = left.min(LOOK);
            left -= step;
            match told.recv_timeout(step) {
                Err(RecvTimeoutError::Timeout) if wanted() && !left.is_zero() => {}
                heard => return heard,
            }
        }
    }

    fn start(&self, component: File, hash: Hash, code: File) -> io::Result<Child> {
        let CompileLimits { max_component_bytes, max_memory_bytes, timeout } = self.limits;
        // Whole seconds are all that can be set.
        let max_processor_s = timeout.as_secs().saturating_add(u64::from(timeout.subsec_nanos() > 0));
        Command::new(THIS_PROGRAM)
            .arg0("nexum")
            .arg("compile-component")
            .args(["--sha256".to_owned(), hash.to_string()])
            .args(["--max-component-bytes".to_owned(), max_component_bytes.to_string()])
            .args(["--max-memory-bytes".to_owned(), max_memory_bytes.to_string()])
            .args(["--max-processor-s".to_owned(), max_processor_s.to_string()])
            .env_clear()
            .current_dir("/")
            .stdin(component)
            .stdout(code)
            .stderr(Stdio::piped())
            .spawn()
    }

    /// What the end of the process means.
    fn verdict(&self, ended: &Ended, said: &str) -> Result<(), Refusal> {
        let Ended { status, processor, late } = ended;
        let CompileLimits { max_memory_bytes, timeout, .. } = self.limits;
        let slow =
            || Refusal::Component(format!("it takes longer than [engine] compile_timeout = {}", Period(timeout)));
        let large = || {
            let limit = format!("[engine] max_compile_memory_bytes = {max_memory_bytes}");
            Refusal::Component(format!("it takes more memory than {limit}"))
        };
        let at_fault = || Refusal::Component(format!("its compiler failed at it, {status}: {said}"));
        if let Some(signal) = status.signal() {
            return Err(match signal {
                libc::SIGXCPU => slow(),
                libc::SIGXFSZ => large(),
                libc::SIGABRT if said.contains(MEMORY_DENIED) => large(),
                // What a program does to itself, such as when its stack ends.
                libc::SIGABRT | libc::SIGSEGV | libc::SIGILL | libc::SIGFPE | libc::SIGTRAP => at_fault(),
                // Where the signal before it was not heard.
                libc::SIGKILL if *processor >= timeout => slow(),
                libc::SIGKILL if *late => Refusal::Surroundings(format!(
                    "its compiler was not done in {}, of which it had {} of a processor: the machine is busy",
                    Period(self.patience()),
                    Period(*processor)
                )),
                libc::SIGKILL => Refusal::Surroundings(
                    "its compiler was killed by somebody else, as the system does when memory is short".to_owned(),
                ),
                _ => Refusal::Surroundings(format!("its compiler was ended by somebody else: {status}")),
            });
        }
        let is = |code: u8| status.code() == Some(i32::from(code));
        if status.success() {
            return Ok(());
        }
        Err(match status.code() {
            _ if is(MEMORY) => large(),
            _ if is(COMPONENT) => Refusal::Component(said.to_owned()),
            _ if is(SURROUNDINGS) => Refusal::Surroundings(said.to_owned()),
            Some(PANICKED) => at_fault(),
            _ => Refusal::Surroundings(format!("its compiler does not run: {status}: {said}")),
        })
    }
}

/// Ends a process. One that has ended by itself in this moment keeps its own status.
fn end(mut child: Child) -> io::Result<(ExitStatus, Duration)> {
    let _ = child.kill();
    reap(child)
}

/// Waits for the end of a process: its status, and the processor time that it took. Nothing can be asked of it afterwards.
fn reap(child: Child) -> io::Result<(ExitStatus, Duration)> {
    let id = libc::pid_t::try_from(child.id()).map_err(io::Error::other)?;
    loop {
        #[allow(unsafe_code, reason = "wait4 writes to two values of its own types, for which all zeros is a value")]
        let (reaped, status, usage) = unsafe {
            let (mut status, mut usage): (libc::c_int, libc::rusage) = (0, std::mem::zeroed());
            (libc::wait4(id, &raw mut status, 0, &raw mut usage), status, usage)
        };
        if reaped == id {
            let processor = time(usage.ru_utime).saturating_add(time(usage.ru_stime));
            return Ok((ExitStatus::from_raw(status), processor));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

fn time(value: libc::timeval) -> Duration {
    let part = |number: i64| u64::try_from(number).unwrap_or_default();
    Duration::from_secs(part(value.tv_sec)).saturating_add(Duration::from_micros(part(value.tv_usec)))
}

/// Hears out what a process says, on a thread of its own; tells the beginning of it when the process has ended.
fn listen(mut stderr: ChildStderr) -> io::Result<Receiver<Vec<u8>>> {
    let (tell, told) = sync_channel(1);
    std::thread::Builder::new().name("nexum-compile".to_owned()).spawn(move || {
        let mut said = Vec::new();
        // What cannot be read is not shown.
        let _ = stderr.by_ref().take(SAID_BYTES_MAX).read_to_end(&mut said);
        // Nobody wants the rest, but the process must not wait for somebody to read it.
        let _ = io::copy(&mut stderr, &mut io::sink());
        let _ = tell.send(said);
    })?;
    Ok(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(1500);

    /// What it means that a compiler ended with this status of `wait`, after so much processor time.
    fn verdict(raw: i32, processor: Duration, late: bool, said: &str) -> Result<(), Refusal> {
        let limits = CompileLimits { max_component_bytes: 1, max_memory_bytes: 1 << 26, timeout: TIMEOUT };
        ChildProcess { limits }.verdict(&Ended { status: ExitStatus::from_raw(raw), processor, late }, said)
    }

    /// The same of one that had hardly any.
    fn at_once(raw: i32, said: &str) -> Result<(), Refusal> {
        verdict(raw, Duration::from_millis(20), false, said)
    }

    fn exit(code: u8) -> i32 {
        i32::from(code) << 8
    }

    fn is_passing(verdict: &Result<(), Refusal>) -> bool {
        matches!(verdict, Err(Refusal::Surroundings(_)))
    }

    #[test]
    fn an_end_by_a_limit_names_the_setting_and_stays() {
        let slow = Err(Refusal::Component("it takes longer than [engine] compile_timeout = 1500ms".to_owned()));
        let large = "it takes more memory than [engine] max_compile_memory_bytes = 67108864";
        let large = Err(Refusal::Component(large.to_owned()));
        assert_eq!(verdict(libc::SIGXCPU, TIMEOUT, false, ""), slow);
        assert_eq!(verdict(libc::SIGKILL, TIMEOUT, true, ""), slow);
        assert_eq!(verdict(libc::SIGKILL, TIMEOUT, false, ""), slow);
        assert_eq!(at_once(libc::SIGXFSZ, ""), large);
        assert_eq!(at_once(libc::SIGABRT, "memory allocation of 8 bytes failed"), large);
        assert_eq!(at_once(exit(MEMORY), "memory ran out"), large);
    }

    #[test]
    fn what_the_machine_and_others_do_to_a_compiler_says_nothing_of_a_component() {
        let busy = verdict(libc::SIGKILL, Duration::from_millis(1400), true, "");
        let said = "its compiler was not done in 6s, of which it had 1400ms of a processor: the machine is busy";
        assert_eq!(busy, Err(Refusal::Surroundings(said.to_owned())));
        let killed = at_once(libc::SIGKILL, "");
        assert!(matches!(&killed, Err(Refusal::Surroundings(said)) if said.contains("memory is short")), "{killed:?}");
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGBUS, libc::SIGSYS] {
            assert!(is_passing(&at_once(signal, "")), "{signal}");
        }
        // It was done in the moment in which its time was over.
        assert_eq!(verdict(exit(0), TIMEOUT, true, ""), Ok(()));
        let bad = Err(Refusal::Component("bad magic".to_owned()));
        assert_eq!(verdict(exit(COMPONENT), Duration::ZERO, true, "bad magic"), bad);
    }

    #[test]
    fn only_what_is_around_a_compiler_lets_a_component_be_tried_again() {
        assert_eq!(at_once(exit(0), "a warning"), Ok(()));
        assert_eq!(at_once(exit(COMPONENT), "bad magic"), Err(Refusal::Component("bad magic".to_owned())));
        let full = "its machine code cannot be written: No space left on device";
        assert_eq!(at_once(exit(SURROUNDINGS), full), Err(Refusal::Surroundings(full.to_owned())));
        assert!(is_passing(&at_once(exit(2), "unexpected argument")));
        assert!(matches!(at_once(PANICKED << 8, "panicked at"), Err(Refusal::Component(_))));
        for signal in [libc::SIGSEGV, libc::SIGABRT, libc::SIGILL] {
            assert!(matches!(at_once(signal, "its stack ended"), Err(Refusal::Component(_))), "{signal}");
        }
    }

    #[test]
    fn processor_time_is_what_a_process_took_and_not_what_went_by() {
        let shell = |script: &str| Command::new("sh").args(["-c", script]).spawn().unwrap();
        let (status, idle) = end(shell("exec sleep 600")).unwrap();
        assert_eq!(status.signal(), Some(libc::SIGKILL));
        let (status, busy) = reap(shell("i=0; while [ $i -lt 200000 ]; do i=$((i + 1)); done; exit 7")).unwrap();
        assert_eq!(status.code(), Some(7));
        assert!(busy > idle && busy > Duration::from_millis(10), "{busy:?} and {idle:?}");
    }
}
