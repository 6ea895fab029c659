//! The kernel in its least surroundings, where what is around it can be taken away.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

use std::{sync::atomic::Ordering, time::Duration};

use nexum_host_ifaces::store::StoreMsg;
use nexum_kernel::{
    admin::{AdminError, AdminMsg, ModuleFacts, ModuleSpec, ModulesOrder, Node, Order},
    engine::MapLimit,
};
use nexum_testkit::copies;
use nexum_testkit_engine::{Bed, Disk, Forgetful};
use ractor::Actor;

/// Far more than a loaded machine needs.
const PATIENCE: Duration = Duration::from_secs(60);

fn modules(node: &Node, found: &mut Vec<(String, String, ModuleFacts)>) {
    if let Some(facts) = &node.module {
        found.push((node.name.clone(), node.state.clone(), facts.clone()));
    }
    node.children.iter().for_each(|child| modules(child, found));
}

async fn loaded(bed: &Bed) -> Vec<(String, String, ModuleFacts)> {
    let tree = bed.admin.call(PATIENCE, AdminMsg::Tree).await.unwrap();
    let mut found = Vec::new();
    modules(&tree, &mut found);
    found
}

/// More modules than the process has memory maps for: a clear refusal, and no harm to those that run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_module_without_room_is_refused_with_the_sysctl_and_its_neighbours_run() {
    const FIT: u64 = 3;
    let limit = MapLimit::for_instances(FIT as usize);
    let bed = Bed::with(5, Disk::None, Some(limit)).await;
    tokio::time::timeout(PATIENCE, bed.feed.all_at_head(FIT)).await.unwrap();
    bed.feed.add(4);
    tokio::time::timeout(PATIENCE, bed.feed.all_at_head(FIT)).await.unwrap();

    let reason = format!(
        "3 modules are loaded and vm.max_map_count = {} has room for 3: raise it, such as with `sysctl -w \
         vm.max_map_count={}`",
        limit.0,
        MapLimit::for_instances(8).0
    );
    let all = loaded(&bed).await;
    let (run, refused): (Vec<_>, Vec<_>) = all.iter().partition(|(_, state, _)| state == "RUN");
    assert_eq!((run.len(), refused.len()), (3, 2), "{all:?}");
    assert!(run.iter().all(|(_, _, facts)| facts.events_processed == 4), "{run:?}");
    assert!(
        refused.iter().all(|(_, state, facts)| state == "DEAD" && facts.last_error.as_ref() == Some(&reason)),
        "{refused:?}"
    );

    // By order it is refused the same way, and there is room again when another one leaves.
    let late = copies(bed.dir.path(), "bench", "late", 1).remove(0);
    let load = || {
        let spec = Box::new(ModuleSpec::new(late.clone()));
        bed.admin.call(PATIENCE, |reply| AdminMsg::Modules(ModulesOrder::Load { spec, reply }))
    };
    assert_eq!(load().await.unwrap(), Err(AdminError::Load(reason)));
    let module = run[0].0.clone();
    bed.admin.call(PATIENCE, |reply| AdminMsg::order(module, Order::Unload, reply)).await.unwrap().unwrap();
    assert_eq!(load().await.unwrap(), Ok("late00000".to_owned()));
}

/// The module has stopped for the order by the time the order fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_module_whose_order_could_not_be_kept_goes_on_by_itself() {
    let bed = Bed::start(1, Disk::None).await;
    let module = loaded(&bed).await[0].0.clone();
    let order = |module: String| bed.admin.call(PATIENCE, |reply| AdminMsg::order(module, Order::Pause, reply));
    bed.store.unbind();
    let refused = order(module.clone()).await.unwrap().unwrap_err();
    assert!(matches!(refused, AdminError::Unavailable(_)), "{refused}");
    let (_, state, facts) = loaded(&bed).await.remove(0);
    assert_eq!((&*state, facts.last_error.is_some()), ("RESTART", true), "{facts:?}");
    bed.store.bind(Actor::spawn(None, Forgetful, ()).await.unwrap().0);
    bed.feed.add(4);
    tokio::time::timeout(PATIENCE, bed.feed.all_at_head(1)).await.unwrap();
    order(module).await.unwrap().unwrap();
    assert_eq!(loaded(&bed).await[0].1, "PAUSED");
}

/// A chain that answers with what cannot be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_actor_dies_of_a_block_that_goes_back_and_is_started_again_without_a_unit_of_it() {
    let bed = Bed::start(1, Disk::RocksDb).await;
    bed.feed.add(4);
    tokio::time::timeout(PATIENCE, bed.feed.all_at_head(1)).await.unwrap();
    bed.feed.repeat(2);
    // It asks for what follows again once it is back.
    tokio::time::timeout(PATIENCE, bed.feed.all_at_head(1)).await.unwrap();
    assert_eq!(bed.feed.forgotten.load(Ordering::SeqCst), 1, "it could not withdraw its pulls itself");
    let (name, state, facts) = loaded(&bed).await.remove(0);
    assert_eq!((&*state, facts.restarts), ("RUN", 1), "{facts:?}");
    let error = facts.last_error.unwrap();
    assert!(error.starts_with("host bug: ") && error.contains("would take its source back"), "{error}");

    let info = bed.store.call(PATIENCE, |reply| StoreMsg::Inspect { name, reply }).await.unwrap().unwrap();
    let journal = |reply| StoreMsg::Journal { module: info.id, from_seq: 1, limit: 100, reply };
    let entries = bed.store.call(PATIENCE, journal).await.unwrap().unwrap();
    let handled: Vec<_> = entries.iter().filter_map(|entry| entry.event.block()).map(|(_, number)| number).collect();
    assert_eq!(handled, [1, 2, 3, 4]);
}
