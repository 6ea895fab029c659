//! When a guest gives its thread back besides the fuel that it spends.
//!
//! Invariant: at every tick of the engine's epoch that a guest runs through, its thread is free for others, whatever it was
//! that took so long: instructions that cost little fuel and much time, or calls of the host, which cost none.

use std::time::Duration;

use wasmtime::{Store, UpdateDeadline};

use crate::engine::EPOCH_TICK;

/// A guest that is past its deadline is ended by the timer of its call, which it yields to. Should that be late, its next
/// tick ends it.
const GRACE: Duration = EPOCH_TICK.saturating_mul(2);

/// Has a guest yield at each tick, and ends it past its deadline; `ran` says how long the call at hand has taken.
pub(super) fn hold<T: 'static>(
    store: &mut Store<T>,
    deadline: Duration,
    ran: impl Fn(&T) -> Duration + Send + Sync + 'static,
) {
    store.epoch_deadline_callback(move |context| {
        Ok(match ran(context.data()) >= deadline.saturating_add(GRACE) {
            true => UpdateDeadline::Interrupt,
            false => UpdateDeadline::Yield(1),
        })
    });
}

/// Begins a call: its first turn ends at the next tick.
pub(super) fn begin<T: 'static>(store: &mut Store<T>) {
    store.set_epoch_deadline(1);
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        sync::{
            Arc,
            atomic::{AtomicU64, Ordering},
        },
    };

    use nexum_testkit::wasm::{module, section};
    use wasmtime::{Engine, Func, Instance, Module, Trap, TypedFunc};

    use super::*;
    use crate::engine::settings;

    const DEADLINE: Duration = Duration::from_secs(1);

    /// A function that calls the host without end, each call of which takes a tick, and how often it has.
    async fn caller(ran: Duration) -> (Store<Duration>, TypedFunc<(), ()>, Arc<AtomicU64>) {
        // (import "" "" (func $host)) (func (export "f") (loop (call $host) (br 0)))
        let sections = [
            section(1, &[1, 0x60, 0, 0]),
            section(2, &[1, 0, 0, 0x00, 0]),
            section(3, &[1, 0]),
            section(7, &[1, 1, b'f', 0x00, 1]),
            section(10, &[1, 9, 0, 0x03, 0x40, 0x10, 0, 0x0c, 0, 0x0b, 0x0b]),
        ];
        let engine = Engine::new(&settings()).unwrap();
        let module = Module::new(&engine, module(&sections)).unwrap();
        let mut store = Store::new(&engine, ran);
        store.set_fuel(1 << 40).unwrap();
        hold(&mut store, DEADLINE, |ran| *ran);
        let calls = Arc::<AtomicU64>::default();
        let counted = calls.clone();
        let host = Func::wrap(&mut store, move || {
            counted.fetch_add(1, Ordering::Relaxed);
            engine.increment_epoch();
        });
        begin(&mut store);
        let instance = Instance::new_async(&mut store, &module, &[host.into()]).await.unwrap();
        let function = instance.get_typed_func(&mut store, "f").unwrap();
        (store, function, calls)
    }

    #[tokio::test]
    async fn a_guest_gives_its_thread_back_after_a_call_of_the_host_that_took_long() {
        let (mut store, function, calls) = caller(Duration::ZERO).await;
        let mut called = pin!(function.call_async(&mut store, ()));
        for turn in 1..4 {
            assert!(futures::poll!(called.as_mut()).is_pending());
            assert_eq!(calls.load(Ordering::Relaxed), turn);
        }
    }

    #[tokio::test]
    async fn a_guest_that_is_past_its_deadline_ends_at_the_next_tick() {
        let (mut store, function, calls) = caller(DEADLINE + GRACE).await;
        let error = function.call_async(&mut store, ()).await.unwrap_err();
        assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::Interrupt));
        assert_eq!(calls.load(Ordering::Relaxed), 1);
    }
}
