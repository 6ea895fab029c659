//! Compiling in a process of its own: this very program with `compile-component`, limits, and nothing of the engine's
//! environment.
//!
//! Invariant: whatever a component makes the compiler do, it ends by `[engine] compile_timeout`, and the engine holds none
//! of the memory that it takes.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    process::{Child, ChildStderr, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        mpsc::{Receiver, sync_channel},
    },
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

/// The wasm engine, whose components strangers have made.
pub fn engine(config: &config::Engine) -> Result<WasmEngine, EngineError> {
    let limits = config.compile_limits();
    let engine = WasmEngine::new(&config.state_dir.join("cache"))?;
    Ok(engine.compiled_by(Arc::new(ChildProcess { limits }), limits.max_component_bytes))
}

struct ChildProcess {
    limits: CompileLimits,
}

impl Compile for ChildProcess {
    fn compile(&self, component: File, hash: Hash, code: File) -> Result<(), Refusal> {
        let failed = |error: io::Error| Refusal::Surroundings(format!("its compiler does not run: {error}"));
        let mut child = self.start(component, hash, code).map_err(failed)?;
        // Its end closes its stderr.
        let told = match child.stderr.take().map(listen) {
            Some(Ok(told)) => told,
            Some(Err(error)) => return end(&mut child).map_err(failed).and(Err(failed(error))),
            None => return end(&mut child).map_err(failed).and(Err(failed(io::Error::other("it has no stderr")))),
        };
        let said = told.recv_timeout(self.limits.timeout);
        let late = said.is_err();
        let ended = if late { end(&mut child) } else { child.wait() };
        let status = ended.map_err(failed)?;
        let said = said.or_else(|_| told.recv()).unwrap_or_default();
        self.verdict(status, late, String::from_utf8_lossy(&said).trim())
    }
}

impl ChildProcess {
    fn start(&self, component: File, hash: Hash, code: File) -> io::Result<Child> {
        let CompileLimits { max_component_bytes, max_memory_bytes, timeout } = self.limits;
        // One thread has no more processor time than there is time. This is for when nobody counts that any more.
        let max_processor_s = timeout.as_secs().saturating_add(1);
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
    fn verdict(&self, status: ExitStatus, late: bool, said: &str) -> Result<(), Refusal> {
        let CompileLimits { max_memory_bytes, timeout, .. } = self.limits;
        let period = Period(timeout);
        let slow = format!("it takes longer than [engine] compile_timeout = {period}");
        let large = format!("it takes more memory than [engine] max_compile_memory_bytes = {max_memory_bytes}");
        let is = |code: u8| status.code() == Some(i32::from(code));
        if status.success() {
            return Ok(());
        }
        Err(match status.signal() {
            _ if late => Refusal::Component(slow),
            Some(libc::SIGXCPU) => Refusal::Component(slow),
            Some(libc::SIGXFSZ) => Refusal::Component(large),
            Some(libc::SIGABRT) if said.contains(MEMORY_DENIED) => Refusal::Component(large),
            Some(libc::SIGKILL) => {
                Refusal::Component("the system ended its compiler, as it does when memory is short".to_owned())
            }
            None if is(MEMORY) => Refusal::Component(large),
            None if is(COMPONENT) => Refusal::Component(said.to_owned()),
            None if is(SURROUNDINGS) => Refusal::Surroundings(said.to_owned()),
            None if status.code() != Some(PANICKED) => {
                Refusal::Surroundings(format!("its compiler does not run: {status}: {said}"))
            }
            _ => Refusal::Component(format!("its compiler failed at it, {status}: {said}")),
        })
    }
}

/// Ends a process. One that has ended by itself in this moment keeps its own status.
fn end(child: &mut Child) -> io::Result<ExitStatus> {
    let _ = child.kill();
    child.wait()
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
    use std::time::Duration;

    #[test]
    fn an_end_by_a_limit_names_the_setting_and_stays() {
        let timeout = Duration::from_millis(1500);
        let limits = CompileLimits { max_component_bytes: 1, max_memory_bytes: 1 << 26, timeout };
        let verdict = |raw, late, said: &str| ChildProcess { limits }.verdict(ExitStatus::from_raw(raw), late, said);
        let slow = Err(Refusal::Component("it takes longer than [engine] compile_timeout = 1500ms".to_owned()));
        let large = "it takes more memory than [engine] max_compile_memory_bytes = 67108864";
        let large = Err(Refusal::Component(large.to_owned()));
        assert_eq!(verdict(libc::SIGKILL, true, ""), slow);
        assert_eq!(verdict(libc::SIGXCPU, false, ""), slow);
        assert_eq!(verdict(libc::SIGXFSZ, false, ""), large);
        assert_eq!(verdict(libc::SIGABRT, false, "memory allocation of 8 bytes failed"), large);
        assert_eq!(verdict(i32::from(MEMORY) << 8, false, "memory ran out"), large);
        // Who was killed by somebody else is not told that it took long.
        assert!(matches!(verdict(libc::SIGKILL, false, ""), Err(Refusal::Component(said)) if said.contains("system")));
    }

    #[test]
    fn only_what_is_around_a_compiler_lets_a_component_be_tried_again() {
        let verdict = |raw, said: &str| {
            let compiler = ChildProcess { limits: CompileLimits::default() };
            compiler.verdict(ExitStatus::from_raw(raw), false, said)
        };
        let exit = |code: u8| i32::from(code) << 8;
        assert_eq!(verdict(exit(0), "a warning"), Ok(()));
        assert_eq!(verdict(exit(COMPONENT), "bad magic"), Err(Refusal::Component("bad magic".to_owned())));
        let full = "its machine code cannot be written: No space left on device";
        assert_eq!(verdict(exit(SURROUNDINGS), full), Err(Refusal::Surroundings(full.to_owned())));
        assert!(matches!(verdict(exit(2), "unexpected argument"), Err(Refusal::Surroundings(_))));
        assert!(matches!(verdict(PANICKED << 8, "panicked at"), Err(Refusal::Component(_))));
        assert!(matches!(verdict(libc::SIGSEGV, ""), Err(Refusal::Component(_))));
    }
}
