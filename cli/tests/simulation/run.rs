//! One run of one scenario: incarnations of the engine one after the other until the world is calm and every module is
//! what it must be, or a difference stays.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use nexum_host_ifaces::{blocking::Blocking, clock::Clock, event::EventId, store::DeadLetter};
use nexum_kernel::{admin::Node, engine::WasmEngine};
use nexum_store::Store;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::{
    chance::Chance,
    choice,
    dial::Net,
    disk::SimDisk,
    engine::{self, Engine, Machine, Moved, Order, Resync, store_directory},
    health::{self, Watch},
    life::{Life, after},
    manifest::Version,
    oracle,
    receiver::Receivers,
    scenario::{ModulePlan, Scenario},
    trace::{SimClock, Trace, lock},
    world::World,
};

/// How long after the world calmed down, or a module was started again by order, everything must be right: many of the
/// longest waits that the engine has, which are five minutes, one after the other. A module that fails at each ninth of a
/// thousand events, three times with growing waits, is busy for an hour. Milliseconds.
const PATIENCE_MS: u64 = 2 * 60 * 60_000;
/// How long what is right must stay right.
const STAYS_MS: u64 = 45_000;
/// The first look at the modules after the calm; further ones come at growing distances once all run.
pub const FIRST_LOOK_MS: u64 = 2_000;

/// Orders to start dead modules again.
const RESTARTS_MAX: u64 = 100;

pub struct Report {
    pub result: Result<(), String>,
    pub trace: Trace,
    pub writes: u64,
    pub crashes: u32,
    pub simulated_ms: u64,
}

/// Where the component lies and machine code is kept.
pub struct Shop {
    pub component: PathBuf,
    pub cache: PathBuf,
}

enum End {
    Crashed,
    Done,
    Failed(String),
}

/// `compare`: with what another engine makes of the same chains that has seen none of it.
pub fn run(seed: u64, scenario: Scenario, shop: &Shop, compare: bool) -> Result<Report, String> {
    let clock = Arc::new(SimClock::default());
    let trace = Trace::new(clock.clone());
    let _subscribed = tracing::subscriber::set_default(trace.clone());
    let directory = directory()?;
    let machine = machine(seed, scenario, shop, directory.path(), clock, &trace)?;
    let world = Arc::new(Mutex::new(World::new(seed, &machine.scenario, trace.clone())));
    let mut life = Life::new(seed, &machine.scenario);
    machine.scenario.chains.iter().for_each(|plan| trace.note(format_args!("{plan:?}")));
    machine.scenario.modules.iter().for_each(|plan| trace.note(format_args!("{plan:?}")));
    let result = loop {
        match incarnation(&machine, &world, &mut life) {
            End::Crashed => start_again(&machine, &world, &mut life),
            End::Done => break Ok(()),
            End::Failed(reason) => break Err(reason),
        }
    };
    let result = unviolated(&machine, result).and_then(|()| match compare {
        true => afresh(seed, &machine, &world, shop),
        false => Ok(()),
    });
    let (writes, crashes) = (machine.disk.writes(), machine.disk.crashes() + machine.disk.deaths());
    Ok(Report { result, trace, writes, crashes, simulated_ms: machine.clock.elapsed_ms() })
}

/// Lets pass what passes until somebody starts the engine again.
fn start_again(machine: &Machine, world: &Mutex<World>, life: &mut Life) {
    machine.clock.pass(life.downtime(machine.disk.died_of_event()));
    lock(world).advance_to(machine.clock.elapsed_ms());
    lock(&machine.receivers).advance_to(machine.clock.elapsed_ms());
    machine.disk.revive();
}

fn unviolated(machine: &Machine, result: Result<(), String>) -> Result<(), String> {
    let mut violations = machine.disk.violations();
    violations.extend_from_slice(lock(&machine.receivers).violations());
    match violations.is_empty() {
        true => result,
        false => Err(violations.join("\n")),
    }
}

/// Lets an engine with nothing behind it, and the modules that can be compared, go through the chains as they are in the end, without any fault, and compares.
fn afresh(seed: u64, machine: &Machine, world: &Arc<Mutex<World>>, shop: &Shop) -> Result<(), String> {
    machine.trace.note(format_args!("AFRESH"));
    let directory = machine.directory.join("afresh");
    let (mut scenario, clock) = (machine.scenario.clone(), machine.clock.clone());
    scenario.modules.retain(|plan| oracle::is_settled(plan, &machine.moved));
    // The account has done on these chains what it was to do.
    scenario.modules.iter_mut().for_each(|plan| plan.pays = false);
    if scenario.modules.is_empty() {
        return Ok(());
    }
    let fresh = self::machine(seed, scenario, shop, &directory, clock, &machine.trace)?;
    fresh.disk.calm_down();
    lock(&fresh.receivers).calm_down();
    let mut life = Life::calm(seed, machine.clock.elapsed_ms());
    let ended = loop {
        match incarnation(&fresh, world, &mut life) {
            End::Crashed if fresh.disk.died_of_event() => start_again(&fresh, world, &mut life),
            End::Crashed => break Err("it ended by itself".to_owned()),
            End::Done => break Ok(()),
            End::Failed(reason) => break Err(reason),
        }
    };
    unviolated(&fresh, ended).map_err(|error| format!("an engine that began anew: {error}"))?;
    let open = |machine: &Machine| {
        let mut options = nexum_store::Options::new(machine.clock.clone(), prometheus::Registry::new());
        options.blocking = Blocking::Inline;
        Store::open(store_directory(&machine.directory), &options).map_err(|error| error.to_string())
    };
    let (ours, anew) = (open(machine)?, open(&fresh)?);
    oracle::same(&machine.scenario, &machine.moved, &ours, &anew)
}

/// In memory where the system has such a directory: nothing here needs a real disk.
fn directory() -> Result<TempDir, String> {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { TempDir::with_prefix_in("nexum-sim-", memory) } else { TempDir::new() };
    made.map_err(|error| error.to_string())
}

fn machine(
    seed: u64,
    scenario: Scenario,
    shop: &Shop,
    directory: &Path,
    clock: Arc<SimClock>,
    trace: &Trace,
) -> Result<Machine, String> {
    let bytes = fs::read(&shop.component)
        .map_err(|error| format!("{}: {error}; `make guests` builds it", shop.component.display()))?;
    let hash = hex::encode(Sha256::digest(&bytes));
    let mut modules = Vec::new();
    for plan in &scenario.modules {
        for version in Version::ALL {
            let bundle = engine::bundle(directory, &plan.name, version);
            let made = fs::create_dir_all(&bundle)
                .and_then(|()| fs::write(bundle.join("nexum.toml"), plan.manifest(version, &hash, &scenario.chains)))
                .and_then(|()| symlink(&shop.component, bundle.join("module.wasm")));
            made.map_err(|error| error.to_string())?;
        }
        modules.push(engine::bundle(directory, &plan.name, Version::First));
    }
    Ok(Machine {
        disk: SimDisk::new(seed, &scenario, trace.clone(), directory),
        receivers: Receivers::new(seed, scenario.receivers.clone(), trace.clone()),
        jitter: Arc::new(Mutex::new(Chance::new(seed, "jitter"))),
        moved: Moved::default(),
        wasm: WasmEngine::without_wall_clock(&shop.cache).map_err(|error| error.to_string())?,
        directory: directory.to_owned(),
        trace: trace.clone(),
        scenario,
        modules,
        clock,
    })
}

fn incarnation(machine: &Machine, world: &Arc<Mutex<World>>, life: &mut Life) -> End {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return End::Failed(error.to_string()),
    };
    runtime.block_on(async {
        machine.clock.enter();
        let end = lifetime(machine, world, life).await;
        // From here on time stands still; it is the runtime's, which ends.
        machine.clock.leave();
        end
    })
}

async fn lifetime(machine: &Machine, world: &Arc<Mutex<World>>, life: &mut Life) -> End {
    machine.trace.note(format_args!("START"));
    let net = Net::new(world.clone(), machine.receivers.clone(), machine.clock.clone());
    let (engine, mut kernel) = match Engine::start(machine, &net).await {
        Ok(started) => started,
        Err(_) if machine.disk.is_dead() => return End::Crashed,
        Err(error) => return End::Failed(format!("the engine does not start: {error}")),
    };
    tokio::select! {
        biased;
        () = machine.disk.died.notified() => End::Crashed,
        ended = kernel.wait() => {
            machine.trace.note(format_args!("THE ENGINE GAVE UP {ended:?}"));
            engine.close();
            machine.disk.give_up();
            End::Crashed
        }
        end = live(machine, &engine, &net, life) => end,
    }
}

async fn live(machine: &Machine, engine: &Engine, net: &Net, life: &mut Life) -> End {
    let (faults, clock) = (&machine.scenario.faults, &machine.clock);
    let mut watch = Watch::new(clock.elapsed_ms());
    let mut watch_at = clock.elapsed_ms() + health::LOOK_MS;
    loop {
        let orders = life.order_at.min(life.upgrade_at).min(life.resync_at).min(life.retry_at);
        let next = [life.calm_at, life.crash_at, life.kill_at, life.jump_at, orders, life.look_at, watch_at];
        let next = next.into_iter().min().unwrap_or(u64::MAX).min(lock(&net.world).next_ms());
        let wait = next.saturating_sub(clock.elapsed_ms()).max(1);
        tokio::time::sleep(Duration::from_millis(wait)).await;
        let now = clock.elapsed_ms();
        let stirred = lock(&net.world).advance_to(now);
        if stirred {
            net.stir();
        }
        if now >= life.calm_at {
            life.calm_at = u64::MAX;
            (life.crash_at, life.kill_at, life.jump_at) = (u64::MAX, u64::MAX, u64::MAX);
            [life.order_at, life.upgrade_at, life.resync_at, life.retry_at] = [u64::MAX; 4];
            machine.trace.note(format_args!("CALM"));
            machine.disk.calm_down();
            lock(&machine.receivers).calm_down();
            lock(&net.world).calm_down(now);
            net.stir();
            (life.look_at, life.calm_since) = (now + FIRST_LOOK_MS, now);
        }
        if now >= life.crash_at {
            life.crash_at = after(&mut life.chance, now, faults.crash_every_ms);
            if machine.disk.may_crash() {
                machine.disk.die("at any moment");
            }
        }
        if now >= life.kill_at {
            life.kill_at = after(&mut life.chance, now, faults.kill_actor_every_ms);
            let nth = life.chance.next();
            let name = engine.kill(nth).await;
            machine.trace.note(format_args!("KILL {name}"));
            watch.anew(now);
        }
        if now >= life.order_at {
            life.order_at = after(&mut life.chance, now, faults.order_every_ms);
            let order = *life.chance.pick(&[Order::Pause, Order::Resume, Order::Resume, Order::Restart]);
            let module = life.chance.pick(&machine.scenario.modules).name.clone();
            watch.ordered(&module, now);
            machine.trace.note(format_args!("ORDER {order:?} {module}"));
            if matches!(order, Order::Pause) {
                life.done.paused(&module);
            }
            tokio::spawn(engine.order(order, module));
        }
        if now >= life.retry_at {
            life.retry_at = after(&mut life.retries, now, faults.retry_every_ms);
            if let Some((module, seq)) = letter(machine, engine, net, &mut life.retries) {
                watch.ordered(&module, now);
                tokio::spawn(engine.retry(module, seq));
            }
        }
        if now >= life.upgrade_at {
            life.upgrade_at = after(&mut life.upgrades, now, faults.upgrade_every_ms);
            let order = Order::Upgrade(*life.upgrades.pick(&Version::ALL));
            let module = life.upgrades.pick(&machine.scenario.modules).name.clone();
            watch.ordered(&module, now);
            machine.trace.note(format_args!("ORDER {order:?} {module}"));
            tokio::spawn(engine.order(order, module));
        }
        if now >= life.resync_at {
            life.resync_at = after(&mut life.resyncs, now, faults.resync_every_ms);
            let plan = life.resyncs.pick(&machine.scenario.modules).clone();
            // One that waits for a choice without need is not helped by chance either.
            let asks = engine.modules().await.into_iter().find(|module| module.name == plan.name);
            let asks = asks.is_some_and(|module| module.summary.contains(choice::ASKS));
            if !plan.chains.is_empty() && !asks {
                let chain = life.resyncs.pick(&plan.chains).chain;
                let head = lock(&net.world).chains[chain].canon.len() as u64 - 1;
                let block = plan.keeps.then(|| life.resyncs.between(head.saturating_sub(20), head));
                watch.ordered(&plan.name, now);
                tokio::spawn(engine.resync(plan.name, machine.scenario.chains[chain].id, block));
            }
        }
        if now >= life.jump_at {
            life.jump_at = after(&mut life.chance, now, faults.jump_every_ms);
            let by_ms = life.chance.between(0, 240_000).cast_signed() - 120_000;
            machine.trace.note(format_args!("JUMP of the calendar by {by_ms} ms"));
            clock.jump(by_ms);
            watch.anew(now);
        }
        if now >= watch_at {
            watch_at = now + health::LOOK_MS;
            if let Some(health) = engine.health().await {
                let checked = watch.check(&machine.scenario, &lock(&net.world), &engine.store, &health, now);
                if let Err(dishonest) = checked {
                    return End::Failed(dishonest);
                }
            }
        }
        if now >= life.look_at
            && let Some(end) = look(machine, engine, net, life, &mut watch, now).await
        {
            return end;
        }
    }
}

/// A dead letter that the operator may have delivered again: of a module that undoes what is retracted, and of a block that
/// is on the chain as it is now.
fn letter(machine: &Machine, engine: &Engine, net: &Net, chance: &mut Chance) -> Option<(String, u64)> {
    let retrying = |plan: &&ModulePlan| plan.retries && machine.moved.of(&plan.name).is_empty();
    let plans: Vec<&ModulePlan> = machine.scenario.modules.iter().filter(retrying).collect();
    if plans.is_empty() {
        return None;
    }
    let name = chance.pick(&plans).name.clone();
    let world = lock(&net.world);
    let stands = |letter: &DeadLetter| match letter.id {
        EventId::Block { chain_id, number, hash } | EventId::Logs { chain_id, number, hash } => {
            let chain = world.chains.iter().find(|chain| chain.plan.id == chain_id);
            let block = chain.and_then(|chain| chain.canon.get(usize::try_from(number).ok()?));
            block.is_some_and(|block| block.hash == hash.0)
        }
        _ => true,
    };
    // One that the store does not know yet has none.
    let letters: Vec<DeadLetter> = engine.store.dead_letters(&name).ok()?.into_iter().filter(stands).collect();
    if letters.is_empty() {
        return None;
    }
    Some((name, chance.pick(&letters).seq))
}

/// Puts a module that waits for a choice onto the chain that it names, if it has to wait for that. Whether it went on there.
async fn choose(machine: &Machine, engine: &Engine, net: &Net, life: &mut Life, name: &str, reason: &str) -> bool {
    let Some(plan) = machine.scenario.modules.iter().find(|plan| plan.name == name) else { return false };
    let mut done = false;
    for source in &plan.chains {
        let chain_id = machine.scenario.chains[source.chain].id;
        let named = [format!("chain {chain_id}:"), format!("chain:{chain_id} "), format!("chain:{chain_id}:")];
        if !named.iter().any(|named| reason.contains(named)) {
            continue;
        }
        if !choice::is_due(&machine.scenario, &machine.scenario.chains[source.chain], reason) {
            machine.trace.note(format_args!("NOT HELPED {name}: {reason}"));
            continue;
        }
        let head = lock(&net.world).chains[source.chain].canon.len() as u64 - 1;
        let block = life.resyncs.between(0, head);
        let mut answer = engine.resync(name.to_owned(), chain_id, plan.keeps.then_some(block)).await;
        if answer == Resync::OutOfReach {
            answer = engine.resync(name.to_owned(), chain_id, Some(block)).await;
        }
        done |= answer == Resync::Done;
    }
    done
}

/// Looks whether everything is as it must be.
async fn look(
    machine: &Machine,
    engine: &Engine,
    net: &Net,
    life: &mut Life,
    watch: &mut Watch,
    now: u64,
) -> Option<End> {
    let modules = engine.modules().await;
    let mut restarted = false;
    for module in &modules {
        let version = module.module.as_ref().map(|facts| facts.version.as_str());
        let order = match module.state.as_str() {
            // Nothing ran when it was told to be this version, so that it was not tried.
            _ if version == Some(Version::Broken.number()) => Order::Upgrade(Version::First),
            "DEAD" if !choice::may_be_dead(&machine.scenario, machine.disk.crashes(), module) => {
                let Node { name, summary, .. } = module;
                return Some(End::Failed(format!("{name} is dead, and has not failed so often: {summary}")));
            }
            "DEAD" => Order::Restart,
            "PAUSED" if !life.done.may_be_paused(&module.name) => {
                return Some(End::Failed(format!("{} is paused, and nobody has ordered that", module.name)));
            }
            "PAUSED" => Order::Resume,
            _ => continue,
        };
        machine.trace.note(format_args!("ORDER {order:?} {}", module.name));
        // When it does not work the module is found so again.
        engine.order(order, module.name.clone()).await;
        watch.ordered(&module.name, now);
        restarted = true;
    }
    for module in modules.iter().filter(|module| module.summary.contains(choice::ASKS)) {
        restarted |= choose(machine, engine, net, life, &module.name, &module.summary).await;
        watch.ordered(&module.name, now);
    }
    // A position above every head is told by its chain.
    for (id, chain) in engine.health().await.map(|health| health.chains).unwrap_or_default() {
        for wait in chain.waits.iter().filter(|wait| wait.reason.contains(choice::ASKS)) {
            if let Some(module) = &wait.module {
                restarted |= choose(machine, engine, net, life, module, &format!("chain {id}: {}", wait.reason)).await;
                watch.ordered(module, now);
            }
        }
    }
    let still: Vec<String> = modules
        .iter()
        .filter(|module| module.state != "RUN")
        .map(|module| format!("{} is {} {}", module.name, module.state, module.summary))
        .collect();
    let running = still.is_empty() && modules.len() == machine.scenario.modules.len();
    let checked = match running {
        true => {
            let mut receivers = lock(&machine.receivers);
            receivers.advance_to(now);
            let (world, begins, lost) = (lock(&net.world), machine.disk.begins(), machine.disk.lost());
            let end = oracle::End {
                world: &world,
                receivers: &receivers,
                begins: &begins,
                moved: &machine.moved,
                lost: &lost,
                deaths_max: machine.scenario.deaths_max,
                now_ms: machine.clock.now_ms(),
            };
            oracle::check(&machine.scenario, &end, &engine.store)
        }
        false => Err(format!("{}: {}", modules.len(), still.join(", "))),
    };
    match checked {
        Ok(()) => {
            let since = *life.right_since.get_or_insert(now);
            if now >= since + STAYS_MS {
                let unfounded = engine.health().await.as_ref().and_then(health::unfounded);
                return Some(unfounded.map_or(End::Done, End::Failed));
            }
            life.look_at = since + STAYS_MS;
        }
        // One whose next tick is a poisoned one is just being started again.
        Err(_) if life.right_since.is_some() && !running => life.look_at = now + FIRST_LOOK_MS,
        Err(difference) if life.right_since.is_some() => {
            return Some(End::Failed(format!("it was right, and then it was not:\n{difference}")));
        }
        Err(difference) => {
            if life.last_difference != difference {
                machine.trace.note(format_args!("NOT YET {difference}"));
                life.last_difference = difference;
            }
            // It goes on where it died; many events may make it die again, but not for ever.
            life.restarts += u64::from(restarted);
            if restarted && life.restarts < RESTARTS_MAX {
                (life.looks, life.calm_since) = (0, now);
            }
            // One that fails now and then is seldom found running by looks that come seldom.
            life.looks += u64::from(running);
            if now > life.calm_since + PATIENCE_MS {
                return Some(End::Failed(life.last_difference.clone()));
            }
            life.look_at = now + (FIRST_LOOK_MS << life.looks.min(10)).min(300_000);
        }
    }
    None
}
