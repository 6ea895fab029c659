//! What it costs to record events in case they fail: the same guest and events with and without.
//!
//! Times on a shared machine say little about a few percent. `perf stat -e instructions:u` around the parts
//! `recording-none` and `recording-failures` counts what they do instead.

use nexum_host_ifaces::{
    recording::TapeMode,
    store::{ModuleRecord, UnitKind},
};
use nexum_kernel::instance::Instance;
use nexum_testkit_engine::block_event;

use crate::{
    dispatch::{Guests, now},
    figures::{Figures, Goal, median},
};

const EVENTS: u64 = 20_000;
const ROUNDS: usize = 9;

/// Events per second of one instance: the guest, and the unit made of what it did.
async fn rate(instance: &mut Instance, first: u64) -> f64 {
    let start = now();
    for number in first..first + EVENTS {
        let (id, event) = block_event(number);
        instance.handle(&id, &event).await.unwrap();
        let unit = instance.host().seal(UnitKind::Handled, None, 0);
        instance.host().send(unit);
        instance.host().settled();
    }
    EVENTS as f64 / start.elapsed().as_secs_f64()
}

async fn instance(guests: &Guests, taping: TapeMode) -> Instance {
    let mut args = guests.args.clone();
    args.taping = taping;
    let mut instance = Instance::start(&guests.prepared, &args, ModuleRecord::default()).await.unwrap();
    instance.init(&Vec::new()).await.unwrap();
    instance
}

/// One kind alone, to be counted from outside.
pub async fn alone(taping: TapeMode) {
    let guests = Guests::new();
    let mut instance = instance(&guests, taping).await;
    for round in 0..ROUNDS as u64 {
        rate(&mut instance, 1 + round * EVENTS).await;
    }
}

pub async fn overhead(figures: &mut Figures) {
    let guests = Guests::new();
    let (mut none, mut failures) =
        (instance(&guests, TapeMode::Off).await, instance(&guests, TapeMode::On(Default::default())).await);
    let (mut floor, mut rates) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS as u64 {
        floor.push(rate(&mut none, 1 + round * EVENTS).await);
        rates.push(rate(&mut failures, 1 + round * EVENTS).await);
    }
    let name = "events of one instance, recorded in case they fail".to_owned();
    figures.add(name, median(rates), "events/s", Some(median(floor)), Goal::Slower(1.1));
}
