//! The order of effects, as tables and as a random walk.

use nexum_host_ifaces::{
    Hash,
    outbox::{BlockPoint, Location},
};
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::*;

const BOUNDS: Concurrency = Concurrency { all: 5, per_module: 3, per_destination: 2 };

fn live(module: u32, seq: u64, id: &str, lane: Option<&str>) -> PendingEffect {
    PendingEffect {
        module: ModuleId(module),
        name: format!("m{module}").into(),
        at: Some(Location { seq, ordinal: 0 }),
        id: id.into(),
        key: id.into(),
        lane: lane.map(Into::into),
        release: Release::Committed,
        block: Some(BlockPoint { chain_id: 1, number: seq, hash: Hash::default() }),
        destination: id.split('-').next().unwrap().into(),
        bytes: seq,
        sent_at_ms: seq,
        progress: Progress::default(),
    }
}

const WAIT_MAX: Duration = Duration::from_secs(3_600);

fn started(schedule: &mut Schedule, now_ms: u64) -> Vec<String> {
    std::iter::from_fn(|| schedule.start(now_ms, |_| true)).map(|live| live.id).collect()
}

#[test]
fn a_lane_goes_one_by_one_and_others_pass_it() {
    let mut schedule = Schedule::new(BOUNDS, WAIT_MAX);
    for (seq, id, lane) in [(1, "a-1", Some("x")), (2, "a-2", Some("x")), (3, "b-3", Some("y")), (4, "b-4", None)] {
        schedule.add(live(1, seq, id, lane));
    }
    assert_eq!(started(&mut schedule, 0), ["a-1", "b-3", "b-4"]);
    schedule.again(ModuleId(1), "a-1", Progress { next_attempt_ms: 50, released: true, ..Progress::default() });
    assert!(started(&mut schedule, 0).is_empty(), "the first of the lane waits, and all behind it");
    assert_eq!(schedule.next_due_ms(0, |_| true), Some(50));
    assert_eq!(started(&mut schedule, 50), ["a-1"]);
    schedule.ended(ModuleId(1), "a-1", Some(Location { seq: 1, ordinal: 0 }));
    assert_eq!(started(&mut schedule, 50), ["a-2"]);
}

#[test]
fn what_waits_for_a_clock_that_was_set_back_goes_out() {
    let mut schedule = Schedule::new(BOUNDS, WAIT_MAX);
    schedule.add(live(1, 1, "a-1", Some("x")));
    schedule.add(live(1, 2, "a-2", Some("x")));
    let day_ms = 24 * 3_600_000;
    assert_eq!(started(&mut schedule, day_ms), ["a-1"]);
    let progress = Progress { next_attempt_ms: day_ms + 1_000, released: true, ..Progress::default() };
    schedule.again(ModuleId(1), "a-1", progress);
    assert!(started(&mut schedule, day_ms).is_empty());
    assert!(started(&mut schedule, day_ms + 1_000 - 3_600_000).is_empty(), "as long as any wait may be");
    assert_eq!(started(&mut schedule, 0), ["a-1"]);
}

#[test]
fn what_two_units_sent_goes_with_the_earlier_one() {
    let mut schedule = Schedule::new(BOUNDS, WAIT_MAX);
    for seq in [3, 7, 9] {
        schedule.add(live(1, seq, "a-1", None));
    }
    schedule.rewound(ModuleId(1), 8);
    schedule.rewound(ModuleId(1), 5);
    let left = schedule.start(0, |_| true).unwrap();
    assert_eq!(left.at, Some(Location { seq: 3, ordinal: 0 }), "the first unit that sent it stands");
    schedule.ended(ModuleId(1), "a-1", left.at);
    assert!(started(&mut schedule, 0).is_empty());
    schedule.add(live(1, 3, "a-1", None));
    schedule.rewound(ModuleId(1), 2);
    assert!(started(&mut schedule, 0).is_empty(), "nothing sent it any more");
}

#[test]
fn what_is_left_is_told_apart_by_whether_it_could_go_out() {
    let mut schedule = Schedule::new(BOUNDS, WAIT_MAX);
    for (seq, id, lane) in [(1, "a-1", None), (2, "a-2", Some("x")), (3, "a-3", Some("x")), (4, "a-4", Some("y"))] {
        let mut live = live(1, seq, id, lane);
        live.release = if seq == 2 { Release::Finalized } else { Release::Committed };
        schedule.add(live);
    }
    let left = |schedule: &Schedule| {
        let found = schedule.outstanding().next().map(|(_, left)| left);
        assert_eq!(schedule.is_settled(|_| true), found.is_none_or(|left| left.unsettled == 0));
        assert!(schedule.is_settled(|module| module == "another"));
        found
    };
    let counts = |unsettled, oldest_unsettled_ms, held, oldest_held_ms| {
        Some(Outstanding { unsettled, oldest_unsettled_ms, held, oldest_held_ms, ..Outstanding::default() })
    };
    // What is behind a held one waits as it does.
    assert_eq!(left(&schedule), counts(2, Some(1), 2, Some(2)));
    assert_eq!(started(&mut schedule, 0), ["a-1", "a-4"]);
    assert_eq!(left(&schedule), counts(2, Some(1), 2, Some(2)), "under way is not settled");
    schedule.ended(ModuleId(1), "a-1", Some(Location { seq: 1, ordinal: 0 }));
    schedule.again(ModuleId(1), "a-4", Progress { next_attempt_ms: 1_000_000, ..Progress::default() });
    assert_eq!(left(&schedule), counts(1, Some(4), 2, Some(2)), "nor is what waits for another attempt");
    assert_eq!(started(&mut schedule, 1_000_000), ["a-4"]);
    schedule.ended(ModuleId(1), "a-4", Some(Location { seq: 4, ordinal: 0 }));
    assert_eq!(left(&schedule), counts(0, None, 2, Some(2)));
    schedule.finalized(ModuleId(1), "a-2");
    assert_eq!(left(&schedule), counts(2, Some(2), 0, None));
}

#[test]
fn what_its_destination_has_taken_on_holds_nothing_up_but_its_lane() {
    let mut schedule = Schedule::new(BOUNDS, WAIT_MAX);
    for (seq, id, lane) in [(1, "a-1", Some("x")), (2, "a-2", Some("x")), (3, "a-3", None), (4, "a-4", None)] {
        schedule.add(live(1, seq, id, lane));
    }
    let later = |next_attempt_ms| Progress { next_attempt_ms, released: true, ..Progress::default() };
    assert_eq!(started(&mut schedule, 0), ["a-1", "a-3"]);
    schedule.underway(ModuleId(1), "a-1", later(50), "its receipt".into());
    assert_eq!(started(&mut schedule, 0), ["a-4"], "it takes no room while it is not asked after");
    for id in ["a-3", "a-4"] {
        let seq = schedule.queues[&ModuleId(1)].items[&schedule.find("m1", id).unwrap().1].live.at;
        schedule.ended(ModuleId(1), id, seq);
    }
    let left = |schedule: &Schedule| schedule.outstanding().next().unwrap().1;
    let expected = Outstanding { underway: 2, oldest_underway_ms: Some(1), ..Outstanding::default() };
    assert_eq!(
        (left(&schedule), schedule.is_settled(|_| true)),
        (expected, true),
        "what is behind it waits as it does"
    );
    assert_eq!(schedule.waits("m1"), BTreeMap::from([("a-1".to_owned(), "its receipt".to_owned())]));
    assert_eq!(schedule.waits("m2"), BTreeMap::new());
    assert_eq!(schedule.seize("m1", "a-1"), Some(Err(Some("its receipt".to_owned()))), "it has gone too far");
    // While it is asked after, and when the store does not answer, it is there still.
    assert_eq!(started(&mut schedule, 50), ["a-1"]);
    assert!(schedule.is_settled(|_| true));
    schedule.postponed(ModuleId(1), "a-1", later(60));
    assert_eq!(left(&schedule), expected);
    assert_eq!(schedule.hurry("m1", "a-1"), Some(Ok(())), "it can be asked after at once");
    assert_eq!(started(&mut schedule, 50), ["a-1"]);
    schedule.again(ModuleId(1), "a-1", later(70));
    assert!(!schedule.is_settled(|_| true) && schedule.waits("m1").is_empty(), "one that is to be tried again");
    assert_eq!(started(&mut schedule, 70), ["a-1"]);
    schedule.ended(ModuleId(1), "a-1", Some(Location { seq: 1, ordinal: 0 }));
    assert_eq!(started(&mut schedule, 70), ["a-2"]);
}

#[test]
fn bounds_hold_and_modules_take_turns() {
    let mut schedule = Schedule::new(BOUNDS, WAIT_MAX);
    for seq in 1..=4 {
        schedule.add(live(1, seq, &format!("a-{seq}"), None));
        schedule.add(live(2, seq, &format!("a-{seq}"), None));
        schedule.add(live(3, seq, &format!("b-{seq}"), None));
    }
    let modules: Vec<_> =
        std::iter::from_fn(|| schedule.start(0, |name| name != "m3")).map(|live| live.module.0).collect();
    assert_eq!(modules, [1, 2, 1, 2], "two each per destination, and a module that is not loaded waits");
    assert_eq!(schedule.start(0, |_| true).map(|live| live.module.0), Some(3));
    assert_eq!(schedule.start(0, |_| true), None, "five at once");
    schedule.purged(ModuleId(1));
    assert_eq!(schedule.flying(), 3);
    schedule.ended(ModuleId(1), "a-1", Some(Location { seq: 1, ordinal: 0 }));
    assert_eq!(schedule.flying(), 3);
}

#[test]
fn a_full_destination_does_not_hold_up_the_others() {
    let mut schedule = Schedule::new(BOUNDS, WAIT_MAX);
    for seq in 0..1_000 {
        schedule.add(live(1, seq, &format!("slow-{seq}"), None));
    }
    schedule.add(live(1, 1_000, "quick-1", None));
    assert_eq!(started(&mut schedule, 0), ["slow-0", "slow-1", "quick-1"]);
}

#[test]
fn a_module_has_no_more_under_way_than_it_may() {
    let mut schedule = Schedule::new(BOUNDS, WAIT_MAX);
    for (seq, destination) in (1..).zip(["a", "b", "c", "d", "e"]) {
        schedule.add(live(1, seq, &format!("{destination}-1"), None));
    }
    assert_eq!(started(&mut schedule, 0), ["a-1", "b-1", "c-1"], "each goes somewhere else");
    schedule.ended(ModuleId(1), "b-1", Some(Location { seq: 2, ordinal: 0 }));
    assert_eq!(started(&mut schedule, 0), ["d-1"]);
}

#[test]
fn what_waits_for_a_far_block_does_not_hide_what_is_final() {
    let mut schedule = Schedule::new(BOUNDS, WAIT_MAX);
    for seq in 10..1_010 {
        schedule.add(PendingEffect { release: Release::Finalized, ..live(1, seq, &format!("a-{seq}"), None) });
    }
    schedule.add(PendingEffect { release: Release::Finalized, ..live(2, 7, "b-7", None) });
    schedule.add(PendingEffect { release: Release::Safe, ..live(2, 8, "b-8", None) });
    schedule.add(PendingEffect { release: Release::Safe, ..live(2, 9, "b-9", None) });
    let within = |chain_id, heads, max| -> Vec<_> {
        schedule.held_within(chain_id, &heads, max).into_iter().map(|live| live.id).collect()
    };
    let heads = Heads { safe: Some(8), finalized: Some(7) };
    assert_eq!(within(1, heads, 2), ["b-7", "b-8"]);
    assert!(within(2, heads, 2).is_empty() && within(1, Heads::default(), 2).is_empty());
}

#[test]
fn what_waits_for_finality_goes_when_its_block_is_final() {
    let mut schedule = Schedule::new(BOUNDS, WAIT_MAX);
    schedule.add(PendingEffect { release: Release::Finalized, ..live(1, 1, "a-1", Some("x")) });
    schedule.add(live(1, 2, "a-2", Some("x")));
    schedule.add(PendingEffect { release: Release::Safe, block: None, ..live(1, 3, "b-3", None) });
    assert_eq!(started(&mut schedule, 0), ["b-3"], "an event without a block waits for none");
    assert_eq!(schedule.held().map(|live| &*live.id).collect::<Vec<_>>(), ["a-1"]);
    assert_eq!(schedule.hurry("m1", "a-1"), Some(Err(Obstacle::Held)));
    assert_eq!(schedule.hurry("m1", "a-2"), Some(Err(Obstacle::Behind)));
    assert_eq!(schedule.hurry("m1", "b-3"), Some(Err(Obstacle::Flying)));
    schedule.again(ModuleId(1), "b-3", Progress { next_attempt_ms: 9, ..Progress::default() });
    assert_eq!((schedule.hurry("m1", "b-3"), schedule.hurry("m1", "c-4")), (Some(Ok(())), None));
    assert_eq!(started(&mut schedule, 0), ["b-3"]);
    schedule.finalized(ModuleId(1), "a-1");
    assert_eq!(started(&mut schedule, 0), ["a-1"]);
}

#[test]
fn a_rewind_takes_what_has_not_left_and_frees_its_lane() {
    let mut schedule = Schedule::new(BOUNDS, WAIT_MAX);
    let released = Progress { released: true, next_attempt_ms: 9, ..Progress::default() };
    schedule.add(PendingEffect { progress: released, ..live(1, 5, "a-5", None) });
    for (seq, id) in [(4, "b-4"), (6, "b-6"), (7, "c-7")] {
        schedule.add(live(1, seq, id, Some("x")));
    }
    assert_eq!(started(&mut schedule, 0), ["b-4"]);
    schedule.rewound(ModuleId(1), 4);
    let pending = schedule.pending().next().unwrap();
    assert_eq!((pending.count, pending.bytes), (2, 5 + 4));
    schedule.add(live(1, 5, "c-9", Some("x")));
    schedule.add(live(1, 6, "a-5", None));
    schedule.ended(ModuleId(1), "b-4", Some(Location { seq: 4, ordinal: 0 }));
    assert_eq!(started(&mut schedule, 9), ["c-9", "a-5"]);
    assert_eq!(schedule.pending().next().unwrap().count, 2, "an effect that was sent again is the same one");
}

/// Whatever happens, a lane is never out of order and nothing is started twice or forgotten.
#[test]
fn a_random_walk_keeps_the_promises() {
    for seed in 0..200 {
        let random = &mut StdRng::seed_from_u64(seed);
        let mut schedule = Schedule::new(BOUNDS, WAIT_MAX);
        let mut sent: BTreeMap<String, (u32, Option<String>, u64)> = BTreeMap::new();
        let mut flying: Vec<PendingEffect> = Vec::new();
        let mut ended: Vec<String> = Vec::new();
        let mut now_ms = 0;
        for step in 0..300u64 {
            match random.random_range(0..10) {
                0..4 if step < 250 => {
                    let module = random.random_range(1..4);
                    let lane = random.random_bool(0.6).then(|| format!("l{}", random.random_range(0..2)));
                    let id = format!("d{}-{step}", random.random_range(0..3));
                    schedule.add(live(module, step, &id, lane.as_deref()));
                    sent.insert(id, (module, lane, step));
                }
                4..7 if !flying.is_empty() => {
                    let live = flying.swap_remove(random.random_range(0..flying.len()));
                    if random.random_bool(0.6) {
                        schedule.ended(live.module, &live.id, live.at);
                        ended.push(live.id);
                    } else {
                        let next_attempt_ms = now_ms + random.random_range(0..20);
                        let progress = Progress { released: true, next_attempt_ms, ..Progress::default() };
                        schedule.again(live.module, &live.id, progress);
                    }
                }
                _ => now_ms += random.random_range(0..10),
            }
            while let Some(live) = schedule.start(now_ms, |_| true) {
                let (module, lane, place) = &sent[&live.id];
                for (id, other) in sent.iter().filter(|(_, other)| other.0 == *module && other.1 == *lane) {
                    let before = lane.is_some() && other.2 < *place;
                    assert!(!before || ended.contains(id), "seed {seed}: {} started before {id} ended", live.id);
                }
                assert!(!flying.iter().any(|other| other.id == live.id) && !ended.contains(&live.id));
                flying.push(live);
            }
            assert!(flying.len() <= BOUNDS.all && schedule.flying() == flying.len());
        }
        while !flying.is_empty() {
            for live in std::mem::take(&mut flying) {
                schedule.ended(live.module, &live.id, live.at);
                ended.push(live.id);
            }
            flying.extend(std::iter::from_fn(|| schedule.start(u64::MAX, |_| true)));
        }
        assert_eq!(ended.len(), sent.len(), "seed {seed}");
    }
}
