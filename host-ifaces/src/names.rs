//! Names to addresses: lookups on threads of their own, few at a time.
//!
//! The system's resolver blocks a thread for as long as the name servers of a name like. Invariant: those who ask the
//! same `Names` hold no more threads by it than their [`Share`], none of which anything else runs on, and nobody waits
//! for a lookup past [`DEADLINE`]. What is asked for meanwhile is refused once every place is held by a lookup that is
//! late.

use std::{
    collections::HashMap,
    io,
    net::{SocketAddr, ToSocketAddrs as _},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use tokio::sync::{Notify, watch};

use crate::{HostError, HostErrorKind, clock::Clock};

/// How long a lookup is waited for. Resolvers commonly ask again after 5 s.
pub const DEADLINE: Duration = Duration::from_secs(8);
/// How long an answer is used. How long its name server says so is not told.
const KEPT: Duration = Duration::from_secs(10);
/// The same of a failure, which may have passed.
const FAILURE_KEPT: Duration = Duration::from_secs(1);
/// Names whose answer is kept.
const KEPT_MAX: usize = 1_024;
/// Addresses of one name: a connection is tried to one after the other.
const ADDRESSES_MAX: usize = 16;
/// The longest name that DNS knows, with its final dot.
const NAME_BYTES_MAX: usize = 254;

/// Looks one name up, which may block for long. The addresses come with port 0.
pub type LookUp = Arc<dyn Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync>;

/// How this machine looks names up: in `/etc/hosts`, at its name servers, or wherever else it was told.
pub fn look_up_of_this_machine() -> LookUp {
    Arc::new(|name: &str| -> io::Result<Vec<SocketAddr>> {
        Ok((name, 0_u16).to_socket_addrs()?.take(ADDRESSES_MAX).collect())
    })
}

/// How many lookups there may be, and what errors call those who ask.
#[derive(Debug, Clone, Copy)]
pub struct Share {
    /// The interface that errors are of, such as `http`.
    pub domain: &'static str,
    /// What each of those who ask is, such as `module`.
    pub asker: &'static str,
    /// Lookups at once, each with a thread. One takes milliseconds where the name servers answer.
    pub lookups_max: usize,
    /// Of them, those that one asker began.
    pub asker_lookups_max: usize,
}

/// Hears how many lookups have not ended, whenever that changes.
pub type Told = Box<dyn Fn(usize) + Send + Sync>;

/// Addresses, or what the resolver said.
type Answer = Result<Arc<[SocketAddr]>, Arc<str>>;

/// A lookup that has not ended.
struct Running {
    asker: Arc<str>,
    started_ns: u64,
    answer: watch::Receiver<Option<Answer>>,
}

struct Known {
    answer: Answer,
    until_ns: u64,
}

#[derive(Default)]
struct Table {
    running: HashMap<Arc<str>, Running>,
    known: HashMap<Arc<str>, Known>,
}

/// What there is for who asks for a name.
enum Step {
    Known(Answer),
    Wait(watch::Receiver<Option<Answer>>),
    /// Every place is taken, but not for long by the look of it.
    Full,
}

/// Looks names up for all who share it. It outlives who asked, as do the threads of lookups that hang.
pub struct Names {
    share: Share,
    look_up: LookUp,
    clock: Arc<dyn Clock>,
    told: Told,
    table: Mutex<Table>,
    /// Told when a lookup has ended.
    freed: Notify,
}

impl Names {
    pub fn new(share: Share, look_up: LookUp, clock: Arc<dyn Clock>, told: Told) -> Arc<Self> {
        Arc::new(Self { share, look_up, clock, told, table: Mutex::default(), freed: Notify::new() })
    }

    /// The addresses of a name, with port 0; at least one. Whoever asks for a name that is being looked up waits for
    /// the same lookup.
    ///
    /// # Errors
    /// `unavailable` when there is no such name or no answer within [`DEADLINE`], `rate-limited` when the asker's own
    /// lookups have none and hold all of its places, `invalid-input` for what cannot be a name.
    pub async fn resolve(self: &Arc<Self>, asker: &Arc<str>, name: &str) -> Result<Arc<[SocketAddr]>, HostError> {
        if name.len() > NAME_BYTES_MAX {
            let message = format!("a host name of {} bytes, at most {NAME_BYTES_MAX}", name.len());
            return Err(self.error(HostErrorKind::InvalidInput, message));
        }
        let answer = tokio::time::timeout(DEADLINE, self.answer(asker, name));
        let late = |_| self.unavailable(format!("no answer from DNS within {} s", DEADLINE.as_secs()));
        answer.await.map_err(late)??.map_err(|why| self.unavailable(format!("DNS: {why}")))
    }

    async fn answer(self: &Arc<Self>, asker: &Arc<str>, name: &str) -> Result<Answer, HostError> {
        loop {
            // Made before it is looked whether there is room, so that no end is missed in between.
            let freed = self.freed.notified();
            match self.step(asker, name)? {
                Step::Known(answer) => return Ok(answer),
                Step::Wait(mut answer) => {
                    let told = answer.wait_for(Option::is_some).await.map(|told| told.clone());
                    return told
                        .ok()
                        .flatten()
                        .ok_or_else(|| self.unavailable("a DNS lookup ended without an answer".into()));
                }
                Step::Full => freed.await,
            }
        }
    }

    fn step(self: &Arc<Self>, asker: &Arc<str>, name: &str) -> Result<Step, HostError> {
        let now_ns = self.clock.monotonic_ns();
        let is_late = |running: &Running| now_ns.saturating_sub(running.started_ns) >= nanos(DEADLINE);
        let late = |what: &str| format!("{what} had no answer for more than {} s", DEADLINE.as_secs());
        let mut table = self.table();
        if let Some(known) = table.known.get(name).filter(|known| now_ns < known.until_ns) {
            return Ok(Step::Known(known.answer.clone()));
        }
        if let Some(running) = table.running.get(name) {
            return match is_late(running) {
                true => Err(self.unavailable(late("the DNS lookup of this host has"))),
                false => Ok(Step::Wait(running.answer.clone())),
            };
        }
        let own: Vec<_> = table.running.values().filter(|running| running.asker == *asker).collect();
        if own.len() >= self.share.asker_lookups_max {
            if own.into_iter().all(is_late) {
                let (limit, what) = (self.share.asker_lookups_max, self.share.asker);
                let what = format!("{limit} DNS lookups of {what} {asker}, which is the limit, have");
                return Err(self.error(HostErrorKind::RateLimited, late(&what)).with_data("1000"));
            }
            return Ok(Step::Full);
        }
        if table.running.len() >= self.share.lookups_max {
            if table.running.values().all(is_late) {
                let what = format!("{} DNS lookups, which is the limit, have", self.share.lookups_max);
                return Err(self.unavailable(late(&what)));
            }
            return Ok(Step::Full);
        }
        let (told, answer) = watch::channel(None);
        let name: Arc<str> = name.into();
        self.start(name.clone(), told)?;
        // The thread cannot end before this: it would need the lock.
        table.running.insert(name, Running { asker: asker.clone(), started_ns: now_ns, answer: answer.clone() });
        (self.told)(table.running.len());
        Ok(Step::Wait(answer))
    }

    fn start(self: &Arc<Self>, name: Arc<str>, told: watch::Sender<Option<Answer>>) -> Result<(), HostError> {
        let all = self.clone();
        let work = move || {
            let answer: Answer = match (all.look_up)(&name) {
                Ok(addresses) if addresses.is_empty() => Err("the name has no address".into()),
                Ok(addresses) => Ok(addresses.into_iter().take(ADDRESSES_MAX).collect()),
                Err(why) => Err(why.to_string().into()),
            };
            all.end(name, &answer);
            told.send_replace(Some(answer));
            all.freed.notify_waiters();
        };
        let started = thread::Builder::new().name("nexum-dns".into()).spawn(work);
        started.map(drop).map_err(|why| self.unavailable(format!("no thread for a DNS lookup: {why}")))
    }

    fn end(&self, name: Arc<str>, answer: &Answer) {
        let now_ns = self.clock.monotonic_ns();
        let kept = if answer.is_ok() { KEPT } else { FAILURE_KEPT };
        let mut table = self.table();
        table.running.remove(&name);
        (self.told)(table.running.len());
        if table.known.len() >= KEPT_MAX {
            table.known.retain(|_, known| now_ns < known.until_ns);
        }
        if table.known.len() >= KEPT_MAX {
            // Asking anew is cheap.
            table.known.clear();
        }
        table.known.insert(name, Known { answer: answer.clone(), until_ns: now_ns.saturating_add(nanos(kept)) });
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Nothing is left half done by whoever panicked.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn error(&self, kind: HostErrorKind, message: String) -> HostError {
        HostError::new(self.share.domain, kind, message)
    }

    fn unavailable(&self, message: String) -> HostError {
        self.error(HostErrorKind::Unavailable, message)
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Condvar,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    };

    use super::*;

    const SHARE: Share = Share { domain: "http", asker: "module", lookups_max: 32, asker_lookups_max: 4 };

    /// A clock that goes on when it is told to.
    #[derive(Default)]
    struct Hand(AtomicU64);

    impl Hand {
        fn wait(&self, duration: Duration) {
            self.0.fetch_add(nanos(duration), Ordering::Relaxed);
        }
    }

    impl Clock for Hand {
        fn now_ms(&self) -> u64 {
            0
        }

        fn monotonic_ns(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }
    }

    /// A name server that answers nobody until it is told to.
    #[derive(Default)]
    struct Server {
        answers: Mutex<bool>,
        told: Condvar,
        asked: AtomicUsize,
    }

    impl Server {
        fn look_up(&self, name: &str) -> io::Result<Vec<SocketAddr>> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            drop(self.told.wait_while(self.answers.lock().unwrap(), |answers| !*answers).unwrap());
            match name {
                "none.test" => Err(io::Error::other("no such name")),
                _ => Ok(vec![SocketAddr::from(([192, 0, 2, 1], 0)); 100]),
            }
        }

        fn answer(&self) {
            *self.answers.lock().unwrap() = true;
            self.told.notify_all();
        }

        fn asked(&self) -> usize {
            self.asked.load(Ordering::Relaxed)
        }
    }

    struct Asked {
        names: Arc<Names>,
        server: Arc<Server>,
        hand: Arc<Hand>,
        /// How many lookups have not ended, as it was told.
        lookups: Arc<AtomicUsize>,
    }

    fn asked() -> Asked {
        let (server, hand) = (Arc::new(Server::default()), Arc::new(Hand::default()));
        let lookups = Arc::new(AtomicUsize::default());
        let (asked, heard) = (server.clone(), lookups.clone());
        let look_up: LookUp = Arc::new(move |name: &str| -> io::Result<Vec<SocketAddr>> { asked.look_up(name) });
        let told: Told = Box::new(move |count| heard.store(count, Ordering::Relaxed));
        Asked { names: Names::new(SHARE, look_up, hand.clone(), told), server, hand, lookups }
    }

    /// What there is at once for a module that asks for a name.
    fn step(names: &Arc<Names>, module: &str, name: &str) -> String {
        match names.step(&module.into(), name) {
            Ok(Step::Known(answer)) => format!("{:?}", answer.map(|addresses| addresses.len())),
            Ok(Step::Wait(_)) => "wait".to_owned(),
            Ok(Step::Full) => "full".to_owned(),
            Err(error) => format!("{}: {}", error.kind.name(), error.message),
        }
    }

    #[tokio::test]
    async fn names_that_nobody_answers_for_hold_a_few_threads_and_the_next_ones_are_refused_at_once() {
        let Asked { names, server, hand, lookups } = asked();
        for n in 0..SHARE.asker_lookups_max {
            assert_eq!(step(&names, "greedy", &format!("{n}.test")), "wait");
        }
        assert_eq!(step(&names, "greedy", "more.test"), "full");
        // The same name is the same lookup, whoever asks.
        assert_eq!(step(&names, "greedy", "0.test"), "wait");
        assert_eq!(step(&names, "other", "0.test"), "wait");
        for n in SHARE.asker_lookups_max..SHARE.lookups_max {
            assert_eq!(step(&names, &format!("m{n}"), &format!("{n}.test")), "wait");
        }
        assert_eq!(step(&names, "other", "more.test"), "full");
        assert_eq!(lookups.load(Ordering::Relaxed), SHARE.lookups_max);

        hand.wait(DEADLINE);
        assert_eq!(
            step(&names, "greedy", "more.test"),
            "rate-limited: 4 DNS lookups of module greedy, which is the limit, have had no answer for more than 8 s"
        );
        assert_eq!(
            step(&names, "other", "more.test"),
            "unavailable: 32 DNS lookups, which is the limit, have had no answer for more than 8 s"
        );
        assert_eq!(
            step(&names, "other", "0.test"),
            "unavailable: the DNS lookup of this host has had no answer for more than 8 s"
        );

        // Once one of them ends there is room.
        server.answer();
        let found = loop {
            let freed = names.freed.notified();
            match step(&names, "greedy", "0.test") {
                found if found.starts_with("unavailable") => freed.await,
                found => break found,
            }
        };
        assert_eq!(found, format!("Ok({ADDRESSES_MAX})"));
        assert!(names.resolve(&"greedy".into(), "more.test").await.is_ok());
        loop {
            let freed = names.freed.notified();
            if names.table().running.is_empty() {
                break;
            }
            freed.await;
        }
        assert_eq!((server.asked(), lookups.load(Ordering::Relaxed)), (SHARE.lookups_max + 1, 0));
    }

    #[tokio::test]
    async fn one_answer_serves_all_who_ask_for_a_while() {
        let Asked { names, server, hand, .. } = asked();
        server.answer();
        let ask = async |name: &str| names.resolve(&"m".into(), name).await.map_err(|error| error.message);
        for _ in 0..3 {
            assert_eq!(ask("a.test").await.unwrap().len(), ADDRESSES_MAX);
            assert_eq!(ask("none.test").await.unwrap_err(), "DNS: no such name");
        }
        assert_eq!(server.asked(), 2);
        hand.wait(FAILURE_KEPT);
        ask("a.test").await.unwrap();
        ask("none.test").await.unwrap_err();
        assert_eq!(server.asked(), 3);
        hand.wait(KEPT);
        ask("a.test").await.unwrap();
        assert_eq!(server.asked(), 4);
        // What is kept is bounded, too.
        for n in 0..=KEPT_MAX {
            ask(&format!("{n}.test")).await.unwrap();
        }
        assert!(names.table().known.len() <= KEPT_MAX);
        assert!(ask(&"a".repeat(NAME_BYTES_MAX + 1)).await.unwrap_err().contains("at most 254"));
    }
}
