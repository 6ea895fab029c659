//! The text of a trap's backtrace.
//!
//! Invariant: a frame costs no more than its line may be long. The names are a stranger's, and a mangled one of a few bytes
//! may stand for more text than there is memory for: names of Rust are written out up to a bound, all others stay as they
//! are.

use std::fmt::{self, Display};

use nexum_host_ifaces::bounded::cut;
use wasmtime::WasmBacktrace;

/// A name of a function or of a core module in a backtrace.
const FRAME_NAME_BYTES_MAX: usize = 512;
/// A longer name is not taken for a mangled one of Rust.
const MANGLED_BYTES_MAX: usize = 4 * 1024;

/// A backtrace as wasmtime shows it, but for the names of languages other than Rust.
pub(crate) struct Backtrace<'a>(pub &'a WasmBacktrace);

impl Display for Backtrace<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error while executing at wasm backtrace:")?;
        for (nth, frame) in self.0.frames().iter().enumerate() {
            let line_end = if nth == 0 { "" } else { "\n" };
            write!(f, "{line_end}  {nth:>3}: ")?;
            if let Some(offset) = frame.module_offset() {
                write!(f, "{offset:#8x} - ")?;
            }
            let module = cut(frame.module().name().unwrap_or("<unknown>"), FRAME_NAME_BYTES_MAX);
            write!(f, "{module}!{}", function(frame.func_name(), frame.func_index()))?;
        }
        Ok(())
    }
}

/// What a function is called: the name that the component gives it, or its number.
fn function(name: Option<&str>, index: u32) -> String {
    let Some(name) = name else { return format!("<wasm function {index}>") };
    let mangled = Some(name).filter(|name| name.len() <= MANGLED_BYTES_MAX);
    match mangled.and_then(|name| rustc_demangle::try_demangle(name).ok()) {
        Some(demangled) => cut(demangled, FRAME_NAME_BYTES_MAX),
        None => cut(name, FRAME_NAME_BYTES_MAX),
    }
}

#[cfg(test)]
mod tests {
    use nexum_testkit::wasm;
    use wasmtime::{Engine, Instance, Module, Store};

    use super::*;

    /// A C++ name whose eight levels each name the one below thirteen times: written out it has 13⁸ parts.
    fn explosive() -> String {
        let level = |nth: usize| format!("S_I{}E", format!("S{nth}_").repeat(13));
        format!("_Z1f1AIiE{}", (0..8).map(level).collect::<String>())
    }

    /// The backtrace of a function of this name that traps.
    fn backtrace(name: &str) -> String {
        let [types, functions, code] = wasm::trapping();
        // (export "f" (func 0)), and the name of the function.
        let export = wasm::section(7, &[vec![1], wasm::string("f"), vec![0x00, 0]].concat());
        let names = wasm::custom("name", &wasm::section(1, &[vec![1, 0], wasm::string(name)].concat()));
        let engine = Engine::default();
        let module = Module::new(&engine, wasm::module(&[types, functions, export, code, names])).unwrap();
        let mut store = Store::new(&engine, ());
        let instance = Instance::new(&mut store, &module, &[]).unwrap();
        let function = instance.get_typed_func::<(), ()>(&mut store, "f").unwrap();
        let error = function.call(&mut store, ()).unwrap_err();
        Backtrace(error.downcast_ref().unwrap()).to_string()
    }

    #[test]
    fn a_name_that_stands_for_more_text_than_there_is_memory_for_is_shown_as_it_is() {
        let name = explosive();
        assert!(name.len() < FRAME_NAME_BYTES_MAX, "{}", name.len());
        let shown = backtrace(&name);
        assert!(shown.starts_with("error while executing at wasm backtrace:\n    0: "), "{shown}");
        assert!(shown.ends_with(&format!(" - <unknown>!{name}")), "{shown}");
    }

    #[test]
    fn a_name_of_rust_is_written_out_and_a_long_one_is_cut() {
        let shown = backtrace("_ZN7hostile3act17h0123456789abcdefE");
        assert!(shown.ends_with("!hostile::act::h0123456789abcdef"), "{shown}");
        let long = backtrace(&"x".repeat(50_000));
        assert!(long.len() < 2 * FRAME_NAME_BYTES_MAX && long.ends_with("bytes cut]"), "{}", long.len());
        assert_eq!(function(None, 7), "<wasm function 7>");
    }
}
