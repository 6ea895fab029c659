//! Every bound on one module: what the manifest may ask for, what the operator may lower, and what a Store is held to
//! while it runs. `docs/reference/limits.md` has a row for every function that a guest can call.

use std::sync::atomic::{AtomicU64, Ordering};

pub use nexum_records::limits::Limits;
use wasmtime::{ResourceLimiter, component::Component};

/// A component's tables hold function pointers; the largest real guest seen (CPython) has about 12,000 elements.
pub const TABLE_ELEMENTS_MAX: usize = 20_000;
/// Tables of all instances. Toolchains make two: that of the program and that of the adapter's shim.
pub const TABLES_MAX: usize = 16;
/// Linear memories of all instances. Toolchains make one. Each reserves gigabytes of address space and several memory
/// maps, also while it is empty.
pub const MEMORIES_MAX: usize = 4;
/// Core instances of a component. Toolchains make about four, CPython with its libraries about twenty.
pub const INSTANCES_MAX: usize = 64;
/// Imports of a component, with what is in the interfaces among them. Toolchains that import all of WASI have about four
/// hundred.
pub const IMPORTED_ITEMS_MAX: usize = 2_000;
/// Types of resources among those. WASI has about thirty.
pub const IMPORTED_RESOURCES_MAX: usize = 256;
/// What wasmtime keeps per element of a table.
const TABLE_ELEMENT_BYTES: usize = size_of::<usize>();

/// Arguments of one call of the host, bytes as they are taken over; more traps. The largest honest ones are a state value
/// (8 MiB) and the body of a request (4 MiB).
pub const CALL_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Arguments of one event's calls of the host together, bytes; more traps. Taking them over is work that fuel does not see.
/// A module that writes its whole state anew is at home.
pub const ARGUMENT_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// What the host reads and copies for one event's answers, bytes; more traps. Thirty of the largest answers of a chain.
pub const ANSWER_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Keys that one event's listings go past which the store finds nothing under any more; more traps.
pub const DELETED_KEYS_MAX: u64 = 2 * 1024 * 1024;
/// So many calls of WASI count as one host call: the C library takes about twelve of them to print a line.
pub const WASI_CALLS_PER_HOST_CALL: u64 = 10;
/// Handles of resources that a component has at once, those that it makes for itself included.
pub const HANDLES_MAX: usize = 4_096;

/// Whether a component's memories and tables are so few that it can be instantiated.
///
/// # Errors
/// What there is too much of.
pub fn check_component(component: &Component) -> Result<(), String> {
    // Absent for components that import modules, which nobody provides.
    let Some(needed) = component.resources_required() else { return Ok(()) };
    let counts = [(needed.num_memories, MEMORIES_MAX, "linear memories"), (needed.num_tables, TABLES_MAX, "tables")];
    for (count, max, what) in counts {
        if count as usize > max {
            return Err(format!("the component has {count} {what}, at most {max} are hosted"));
        }
    }
    match needed.max_initial_table_size {
        Some(elements) if elements > TABLE_ELEMENTS_MAX as u64 => {
            Err(format!("the component has a table of {elements} elements, at most {TABLE_ELEMENTS_MAX} are hosted"))
        }
        _ => Ok(()),
    }
}

/// Whether the components of one Store, a module's and its libraries', have so few memories and tables together that they
/// can be instantiated there.
///
/// # Errors
/// What there is too much of.
pub fn check_together<'a>(components: impl IntoIterator<Item = &'a Component>) -> Result<(), String> {
    let (mut memories, mut tables) = (0, 0);
    for needed in components.into_iter().filter_map(Component::resources_required) {
        memories += needed.num_memories as usize;
        tables += needed.num_tables as usize;
    }
    let counts = [(memories, MEMORIES_MAX, "linear memories"), (tables, TABLES_MAX, "tables")];
    match counts.into_iter().find(|(count, max, _)| count > max) {
        None => Ok(()),
        Some((count, max, what)) => {
            Err(format!("the component and its libraries have {count} {what}, at most {max} are hosted together"))
        }
    }
}

/// What the event at hand costs the host besides its calls of `nexum:host`. Shared with the parts of the WASI context.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    wasi_calls: AtomicU64,
    argument_bytes: AtomicU64,
    answer_bytes: AtomicU64,
    lines_dropped: AtomicU64,
}

impl Meter {
    /// Begins the next event.
    pub fn reset(&self) {
        for counter in [&self.wasi_calls, &self.argument_bytes, &self.answer_bytes, &self.lines_dropped] {
            counter.store(0, Ordering::Relaxed);
        }
    }

    pub fn wasi_call(&self) {
        self.wasi_calls.fetch_add(1, Ordering::Relaxed);
    }

    /// Arguments that were taken over.
    pub fn take(&self, bytes: usize) {
        self.argument_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// What was read or copied for an answer.
    pub fn give(&self, bytes: usize) {
        self.answer_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Lines that were printed over the module's rate.
    pub fn drop_lines(&self, lines: u64) {
        self.lines_dropped.fetch_add(lines, Ordering::Relaxed);
    }

    pub fn lines_dropped(&self) -> u64 {
        self.lines_dropped.load(Ordering::Relaxed)
    }

    /// Why the event must end, if it must.
    pub fn overdrawn(&self, host_calls_max: u64) -> Option<String> {
        let wasi_calls_max = host_calls_max.saturating_mul(WASI_CALLS_PER_HOST_CALL);
        let told = [
            (&self.argument_bytes, ARGUMENT_BYTES_MAX, "bytes of arguments to host calls"),
            (&self.answer_bytes, ANSWER_BYTES_MAX, "bytes read and copied for answers of host calls"),
            (&self.wasi_calls, wasi_calls_max, "calls of WASI"),
        ];
        let over = told.into_iter().find(|(counter, max, _)| counter.load(Ordering::Relaxed) > *max);
        over.map(|(_, max, what)| format!("more than {max} {what} in one event"))
    }
}

/// Counts and bounds the memory of one Store.
#[derive(Debug)]
pub struct MemoryLimiter {
    limit_bytes: usize,
    used_bytes: usize,
    /// Requests past the limit, each answered with -1.
    pub denials: u64,
}

impl MemoryLimiter {
    pub fn new(limit_bytes: usize) -> Self {
        Self { limit_bytes, used_bytes: 0, denials: 0 }
    }

    /// Linear memory and tables in use, bytes.
    pub fn used_bytes(&self) -> usize {
        self.used_bytes
    }

    /// Memory and tables together, bytes.
    pub fn limit_bytes(&self) -> usize {
        self.limit_bytes
    }

    /// What grows past its own maximum is refused here too: it would be counted, and then not be there.
    fn grow(&mut self, current: usize, desired: usize, maximum: Option<usize>, unit_bytes: usize) -> bool {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return false;
        }
        let bytes = |units: usize| units.saturating_mul(unit_bytes);
        let used = self.used_bytes.saturating_sub(bytes(current)).saturating_add(bytes(desired));
        if used > self.limit_bytes {
            self.denials += 1;
            return false;
        }
        self.used_bytes = used;
        true
    }
}

impl ResourceLimiter for MemoryLimiter {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(self.grow(current, desired, maximum, 1))
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= TABLE_ELEMENTS_MAX && self.grow(current, desired, maximum, TABLE_ELEMENT_BYTES))
    }

    fn instances(&self) -> usize {
        INSTANCES_MAX
    }

    fn memories(&self) -> usize {
        MEMORIES_MAX
    }

    fn tables(&self) -> usize {
        TABLES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_come_out_of_the_memory_of_the_module() {
        let mut limiter = MemoryLimiter::new(1 << 20);
        assert!(limiter.memory_growing(0, 15 << 16, None).unwrap());
        assert!(limiter.table_growing(0, 8_000, None).unwrap());
        assert_eq!(limiter.used_bytes(), (15 << 16) + 8_000 * size_of::<usize>());
        assert!(!limiter.table_growing(0, 8_000, None).unwrap(), "the second one does not fit");
        assert!(!limiter.memory_growing(15 << 16, 16 << 16, None).unwrap());
        assert_eq!(limiter.denials, 2);
        assert!(limiter.table_growing(8_000, 8_100, None).unwrap());
        assert!(!limiter.memory_growing(0, usize::MAX, None).unwrap(), "nothing wraps around");
    }

    #[test]
    fn what_a_memory_does_not_allow_itself_is_not_counted() {
        let mut limiter = MemoryLimiter::new(1 << 20);
        assert!(limiter.memory_growing(0, 1 << 16, Some(1 << 16)).unwrap());
        for _ in 0..100 {
            assert!(!limiter.memory_growing(1 << 16, 2 << 16, Some(1 << 16)).unwrap());
        }
        assert_eq!((limiter.used_bytes(), limiter.denials), (1 << 16, 0));
    }

    #[test]
    fn an_event_that_costs_too_much_is_told_what_of() {
        let meter = Meter::default();
        meter.take(ARGUMENT_BYTES_MAX as usize);
        meter.give(ANSWER_BYTES_MAX as usize);
        (0..20).for_each(|_| meter.wasi_call());
        assert_eq!(meter.overdrawn(2), None);
        assert_eq!(meter.overdrawn(1).unwrap(), "more than 10 calls of WASI in one event");
        meter.give(1);
        assert!(meter.overdrawn(2).unwrap().contains("for answers of host calls"));
        meter.take(1);
        assert!(meter.overdrawn(2).unwrap().contains("bytes of arguments to host calls"));
        meter.reset();
        assert_eq!(meter.overdrawn(0), None);
    }
}
