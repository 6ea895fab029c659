//! What the marks of begun events promise, on files and over deaths of the process.

use std::{collections::BTreeSet, mem};

use futures::{FutureExt as _, future::BoxFuture};
use nexum_host_ifaces::{Hash, event::EventId};
use tempfile::TempDir;

use super::*;

fn block(number: u64) -> EventId {
    EventId::Block { chain_id: 1, number, hash: Default::default() }
}

fn open(dir: &TempDir) -> Arc<Marks> {
    Arc::new(Marks::open(&dir.path().join("begun"), 3, Arc::new(SystemClock::new())).unwrap())
}

const COMPONENT: Hash = Hash([7; 32]);

/// Begins something that runs at once.
fn begin(slot: &Slot, what: What<'_>) -> Begun {
    slot.begin(what).now_or_never().expect("nothing else runs")
}

/// The process dies while this module is at something: nothing of it is dropped.
fn die_at(marks: &Arc<Marks>, module: &str, what: What<'_>) {
    std::mem::forget(begin(&marks.slot(module), what));
}

fn die(marks: &Arc<Marks>, module: &str, id: &EventId) {
    die_at(marks, module, What::Event(id));
}

fn suspects(marks: &Marks) -> usize {
    marks.suspects.load(Ordering::Relaxed)
}

#[test]
fn an_event_that_ends_the_process_each_time_is_counted_until_it_is_too_often() {
    let dir = TempDir::new().unwrap();
    for deaths in 0..3 {
        let marks = open(&dir);
        let slot = marks.slot("killer");
        assert_eq!(slot.deadly(What::Event(&block(7))), None, "after {deaths} deaths");
        // What it does before it comes there again ends well.
        begin(&slot, What::Load(COMPONENT)).ended();
        begin(&slot, What::Event(&EventId::Init)).ended();
        begin(&slot, What::Event(&block(6))).ended();
        die(&marks, "killer", &block(7));
    }
    let marks = open(&dir);
    let slot = marks.slot("killer");
    assert_eq!(slot.deadly(What::Event(&block(7))), Some(3));
    assert_eq!(slot.deadly(What::Event(&block(8))), None, "another event");
    assert_eq!(marks.slot("other").deadly(What::Event(&block(7))), None, "the same event of another module");
    slot.clear(What::Event(&block(7)));
    assert_eq!(open(&dir).slot("killer").deadly(What::Event(&block(7))), None);
}

#[test]
fn a_suspect_runs_alone_and_clears_itself_when_it_only_was_a_neighbour() {
    let dir = TempDir::new().unwrap();
    let marks = open(&dir);
    die(&marks, "killer", &block(7));
    die(&marks, "neighbour", &block(7));

    let marks = open(&dir);
    let [killer, neighbour, third] = ["killer", "neighbour", "third"].map(|module| marks.slot(module));
    assert!(!killer.died_alone(COMPONENT) && !neighbour.died_alone(COMPONENT), "it may have been either");
    let other = begin(&third, What::Event(&block(7)));
    let id = block(7);
    let mut suspect = Box::pin(neighbour.begin(What::Event(&id)));
    assert!(suspect.as_mut().now_or_never().is_none(), "while another event runs");
    other.ended();
    let alone = suspect.now_or_never().expect("now it is alone");
    assert!(third.begin(What::Event(&block(8))).now_or_never().is_none(), "while a suspect runs");
    alone.ended();
    die(&marks, "killer", &block(7));

    let marks = open(&dir);
    assert!(marks.slot("killer").died_alone(COMPONENT) && !marks.slot("neighbour").died_alone(COMPONENT));
    marks.slot("killer").counted();
    assert!(!marks.slot("killer").died_alone(COMPONENT), "once");
    let counts = |module| {
        let place = marks.slot(module).place.unwrap();
        marks.deaths(place.index, What::Event(&block(7)).key())
    };
    assert_eq!((counts("killer"), counts("neighbour")), (2, 0));
    // Without suspects nothing waits for anything.
    begin(&marks.slot("killer"), What::Event(&block(7))).ended();
    let _one = begin(&marks.slot("neighbour"), What::Event(&block(8)));
    let _other = begin(&marks.slot("third"), What::Event(&block(8)));
}

#[test]
fn an_engine_that_is_stopped_in_order_leaves_no_suspect() {
    let dir = TempDir::new().unwrap();
    for _ in 0..5 {
        let marks = open(&dir);
        assert!(!marks.has_suspects());
        marks.close();
        die(&marks, "slow", &block(7));
    }
    // An event that is cut short is not one that has ended, and no death either.
    let marks = open(&dir);
    drop(begin(&marks.slot("slow"), What::Event(&block(7))));
    assert!(!open(&dir).has_suspects());
}

#[test]
fn what_nobody_here_wrote_counts_for_nothing() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("begun");
    let marks = open(&dir);
    die(&marks, "a", &block(1));
    die(&marks, "b", &block(1));
    let whole = fs::read(&path).unwrap();
    let suspects = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        suspects(&open(&dir))
    };
    assert_eq!(suspects(&whole), 2);
    let longer = [whole.as_slice(), [0; 77].as_slice()].concat();
    let cases: [(&[u8], usize); 5] =
        [(b"", 0), (b"{}", 0), (&[0xff; 4096], 0), (&whole[..whole.len() - 1], 1), (&longer, 2)];
    for (bytes, left) in cases {
        assert_eq!(suspects(bytes), left, "{} bytes", bytes.len());
    }
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x20;
        assert!(suspects(&damaged) < 2, "byte {at}");
    }
    let endless = vec![0; usize::try_from(file::BYTES_MAX).unwrap() + 1];
    assert_eq!(suspects(&endless), 0);
}

#[test]
fn an_operator_forgives_a_start_and_forgets_a_module() {
    let dir = TempDir::new().unwrap();
    let starts = |marks: &Arc<Marks>| marks.slot("m").deadly(What::Event(&EventId::Init));
    for _ in 0..3 {
        die(&open(&dir), "m", &EventId::Init);
    }
    let marks = open(&dir);
    assert_eq!(starts(&marks), Some(3));
    marks.forgive("m");
    assert_eq!((starts(&marks), starts(&open(&dir))), (None, None));
    die(&open(&dir), "m", &block(1));
    let marks = open(&dir);
    marks.forgive("m");
    assert!(marks.has_suspects(), "an event is no start");
    marks.forget("m");
    assert!(!marks.has_suspects() && !open(&dir).has_suspects());
}

#[test]
fn without_a_file_nothing_is_marked_and_nothing_waits() {
    let marks = Arc::new(Marks::none());
    let slot = marks.slot("m");
    die(&marks, "m", &block(1));
    let _begun = begin(&slot, What::Event(&block(1)));
    assert_eq!(slot.deadly(What::Event(&block(1))), None);
    assert!(!slot.died_alone(COMPONENT));
}

#[test]
fn what_waits_for_its_turn_is_shown_until_it_has_it() {
    let dir = TempDir::new().unwrap();
    die(&open(&dir), "killer", &block(7));
    let marks = open(&dir);
    let [killer, other] = ["killer", "other"].map(|module| marks.slot(module));
    assert!(marks.waits().is_empty());
    let reasons = || marks.waits().into_iter().map(|(name, wait)| (name, wait.reason)).collect::<Vec<_>>();
    let (first, second) = (block(7), block(8));
    let running = begin(&other, What::Event(&first));
    let mut suspect = Box::pin(killer.begin(What::Event(&first)));
    assert!(suspect.as_mut().now_or_never().is_none());
    assert_eq!(reasons(), [("killer".to_owned(), ALONE)]);
    running.ended();
    let mut next = Box::pin(other.begin(What::Event(&second)));
    assert!(next.as_mut().now_or_never().is_none(), "the suspect is first");
    assert_eq!(reasons(), [("killer".to_owned(), ALONE), ("other".to_owned(), OTHERS)]);
    let since_ns = marks.waits()["other"].since_ns;
    assert!(next.as_mut().now_or_never().is_none());
    assert_eq!(marks.waits()["other"].since_ns, since_ns, "it counts from the beginning");
    let alone = suspect.now_or_never().expect("now it is alone");
    assert_eq!(reasons(), [("other".to_owned(), OTHERS)]);
    drop(next);
    assert!(reasons().is_empty(), "whoever gives up waits for nothing");
    alone.ended();
}

#[test]
fn a_suspect_that_panics_is_none_any_more() {
    let dir = TempDir::new().unwrap();
    die(&open(&dir), "m", &block(1));
    let marks = open(&dir);
    let slot = marks.slot("m");
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _at = begin(&slot, What::Event(&block(1)));
        panic!("as wanted");
    }));
    assert!(panicked.is_err() && suspects(&marks) == 0 && suspects(&open(&dir)) == 0);
}

#[test]
fn a_load_runs_beside_an_event_and_neither_unmarks_the_other() {
    let dir = TempDir::new().unwrap();
    let marks = open(&dir);
    die(&marks, "m", &block(1));
    die_at(&marks, "m", What::Load(COMPONENT));
    let marks = open(&dir);
    assert_eq!(suspects(&marks), 2);
    let slot = marks.slot("m");
    assert!(!slot.died_alone(COMPONENT), "either may have done it");
    // One is cleared while the other is under way again: the process dies of that.
    die(&marks, "m", &block(1));
    slot.clear(What::Load(COMPONENT));
    let marks = open(&dir);
    assert_eq!((suspects(&marks), marks.slot("m").died_alone(COMPONENT)), (1, true));
    let (slot, id) = (marks.slot("m"), block(1));
    let loading = begin(&slot, What::Load(COMPONENT));
    assert!(slot.begin(What::Event(&id)).now_or_never().is_none(), "a suspect runs alone");
    loading.ended();
}

#[test]
fn what_an_operator_tries_is_counted_and_not_the_modules_to_pay_for() {
    let (dir, other) = (TempDir::new().unwrap(), Hash([8; 32]));
    let retry = EventId::Retry { seq: 5 };
    for what in [What::Event(&retry), What::Trial(other), What::Load(other)] {
        for _ in 0..3 {
            die_at(&open(&dir), "m", what);
        }
        let marks = open(&dir);
        let slot = marks.slot("m");
        assert!(!slot.died_alone(COMPONENT), "{what:?}");
        assert_eq!(slot.deadly(what), Some(3), "{what:?}");
        marks.forgive("m");
        assert_eq!((slot.deadly(what), suspects(&open(&dir))), (None, 0), "{what:?}");
    }
    die_at(&open(&dir), "m", What::Load(COMPONENT));
    assert!(open(&dir).slot("m").died_alone(COMPONENT), "the load of what runs");
}

#[test]
fn nobody_died_alone_when_a_mark_cannot_be_read() {
    let dir = TempDir::new().unwrap();
    let marks = open(&dir);
    let _at_nothing = marks.slot("damaged");
    die(&marks, "m", &block(1));
    let path = dir.path().join("begun");
    let whole = fs::read(&path).unwrap();
    assert!(open(&dir).slot("m").died_alone(COMPONENT));
    let mut damaged = whole;
    let at = usize::try_from(file::mark_offset(0, 0)).unwrap();
    damaged[at] ^= 1;
    fs::write(&path, damaged).unwrap();
    let marks = open(&dir);
    assert_eq!((suspects(&marks), marks.slot("m").died_alone(COMPONENT)), (1, false));
}

#[test]
fn modules_that_there_are_not_any_more_leave_no_suspect() {
    let dir = TempDir::new().unwrap();
    let marks = open(&dir);
    die(&marks, "gone", &block(1));
    die(&marks, "here", &block(1));
    let marks = open(&dir);
    marks.keep(|name| name == "here");
    assert_eq!((suspects(&marks), suspects(&open(&dir))), (1, 1));
}

#[test]
fn the_slot_of_an_unloaded_module_is_used_again_once_nobody_writes_there() {
    let dir = TempDir::new().unwrap();
    let marks = open(&dir);
    let kept = marks.slot("kept");
    let late = marks.slot("unloaded");
    marks.forget("unloaded");
    let another = marks.slot("another");
    let index = |slot: &Slot| slot.place.as_ref().unwrap().index;
    assert_eq!((index(&kept), index(&late), index(&another)), (0, 1, 2), "somebody may still write to 1");
    drop(late);
    for n in 0..2 * file::SLOTS_MAX {
        let name = format!("m{n}");
        assert_eq!(index(&marks.slot(&name)), 1, "{name}");
        marks.forget(&name);
    }
    // What is still written there is nobody's.
    marks.mark(1, 0, Some(9));
    die(&marks, "kept", &block(1));
    let marks = open(&dir);
    assert!(suspects(&marks) == 1 && marks.slot("kept").died_alone(COMPONENT));
}

/// What a module is at while a process lives.
enum At {
    Nothing,
    Waits(BoxFuture<'static, Begun>),
    Runs(Begun),
}

const MODULES: usize = 4;
const BLOCKS: u64 = 6;

/// Processes one after the other, in which modules handle their blocks in any order and beside each other. Some blocks
/// always end the process, and now and then it is stopped in order.
fn live(seed: u64) {
    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut below = |bound: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        usize::try_from(random % bound as u64).unwrap()
    };
    let dir = TempDir::new().unwrap();
    let all = (0..MODULES).flat_map(|module| (1..=BLOCKS).map(move |number| (module, number)));
    let deadly: BTreeSet<(usize, u64)> = all.filter(|_| below(6) == 0).collect();
    let (mut next, mut charged) = ([1; MODULES], [0; MODULES]);
    let (mut lost, mut deaths) = (BTreeSet::new(), BTreeMap::new());
    while next.iter().any(|next| *next <= BLOCKS) {
        let marks = open(&dir);
        let slots: Vec<Slot> = (0..MODULES).map(|module| marks.slot(&format!("m{module}"))).collect();
        for (slot, charged) in slots.iter().zip(&mut charged) {
            *charged += u32::from(slot.died_alone(COMPONENT));
            slot.counted();
        }
        let mut at: Vec<At> = (0..MODULES).map(|_| At::Nothing).collect();
        let mut dies = false;
        while !dies && next.iter().any(|next| *next <= BLOCKS) {
            if below(60) == 0 {
                marks.close();
                break;
            }
            let module = below(MODULES);
            let (number, id, slot) = (next[module], block(next[module]), &slots[module]);
            at[module] = match mem::replace(&mut at[module], At::Nothing) {
                At::Nothing if number > BLOCKS => At::Nothing,
                At::Nothing if slot.deadly(What::Event(&id)).is_some() => {
                    assert!(lost.insert((module, number)), "seed {seed}: lost twice");
                    slot.clear(What::Event(&id));
                    next[module] += 1;
                    At::Nothing
                }
                At::Nothing => {
                    let slot = slot.clone();
                    At::Waits(Box::pin(async move { slot.begin(What::Event(&id)).await }))
                }
                At::Waits(mut turn) => match turn.as_mut().now_or_never() {
                    Some(begun) => At::Runs(begun),
                    None => At::Waits(turn),
                },
                At::Runs(begun) if deadly.contains(&(module, number)) => {
                    dies = below(2) == 0;
                    *deaths.entry((module, number)).or_insert(0) += u32::from(dies);
                    At::Runs(begun)
                }
                At::Runs(begun) => {
                    begun.ended();
                    next[module] += 1;
                    At::Nothing
                }
            };
        }
        if dies {
            // Nothing that follows is of that process any more.
            let left = fs::read(dir.path().join("begun")).unwrap();
            drop(at);
            fs::write(dir.path().join("begun"), left).unwrap();
        }
    }
    assert_eq!(lost, deadly, "seed {seed}");
    assert!(deaths.values().all(|deaths| *deaths <= DEATHS_MAX), "seed {seed}: {deaths:?}");
    for (module, charged) in charged.into_iter().enumerate() {
        let own: u32 = deaths.iter().filter(|((of, _), _)| *of == module).map(|(_, deaths)| *deaths).sum();
        assert!(charged <= own, "seed {seed}: module {module} pays for {charged} of its {own} deaths");
    }
}

#[test]
fn whoever_ends_the_process_loses_that_event_and_nobody_else_pays() {
    (1..=200).for_each(live);
}
