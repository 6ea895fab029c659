//! How much one WebSocket may take in until its next message is whole, and for how long.
//!
//! A message comes in any number of frames, and of those the library tells nothing before the last one. So bytes are
//! counted where they come in, below TLS, and forgotten when a message is whole. What comes between messages, such as
//! pings, is forgotten at a slow pace. Invariant: neither frames without content nor ones without end are read for ever.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::{Broken, Held, Meter};

/// What a message may take while no answer is waited for: a notification.
pub const UNASKED_BYTES_MAX: usize = 1 << 20;
/// A message must be whole this long after its first byte, or twice as long as a request may take.
const WHOLE_WITHIN_MIN: Duration = Duration::from_secs(60);
const WHOLE_WITHIN_MAX: Duration = Duration::from_secs(86_400);
/// What comes between messages is forgotten at this pace.
const FORGOTTEN_BYTES_PER_SECOND: usize = 1 << 10;
/// What is around a message: frames, records of TLS, and what was read of the next message already.
const AROUND_BYTES_MAX: usize = 256 << 10;
/// A long message may take more around it: its own length divided by this.
const AROUND_PARTS: usize = 64;
/// Messages that nobody asked for, and control frames: heads, pings, what another protocol has besides.
const UNASKED_PER_SECOND_MAX: usize = 1_024;
const SECOND: Duration = Duration::from_secs(1);

/// What one connection may take in.
pub struct Room {
    max: usize,
    whole_within: Duration,
    meter: Meter,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Answers that are waited for: how many of each length that they may have.
    awaited: BTreeMap<usize, usize>,
    /// The longest that nobody waits for any more, and until when it may still come.
    late: Option<(usize, Instant)>,
    /// What came in since the last message was whole.
    coming: Option<Coming>,
    /// Messages that nobody has taken yet, oldest first.
    whole: VecDeque<Held>,
    /// Requests of which no message came yet that could be their answer.
    asked: usize,
    /// When a second began, and how much came in it that nobody asked for.
    second: Option<(Instant, usize)>,
    /// Why nothing more is read.
    broken: Option<Broken>,
}

struct Coming {
    held: Held,
    began: Instant,
    /// Until then what came between messages is forgotten.
    forgotten: Instant,
}

impl Room {
    /// For messages of at most `max` bytes, the bytes of which are counted in `meter`, where a request takes `timeout`.
    pub fn new(max: usize, meter: &Meter, timeout: Duration) -> Self {
        let whole_within = timeout.saturating_mul(2).clamp(WHOLE_WITHIN_MIN, WHOLE_WITHIN_MAX);
        Self { max, whole_within, meter: meter.clone(), state: Mutex::default() }
    }

    /// The longest message that is ever taken, in bytes.
    pub fn message_bytes_max(&self) -> usize {
        self.max
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An answer of at most so many bytes is waited for, until this is dropped.
    pub fn awaits(self: &Arc<Self>, bytes_max: usize) -> Awaits {
        let mut state = self.state();
        *state.awaited.entry(bytes_max).or_default() += 1;
        state.asked += 1;
        drop(state);
        Awaits { room: self.clone(), bytes_max, is_answered: false }
    }

    /// So many bytes came in.
    fn take_in(&self, bytes: usize) -> Result<(), Broken> {
        let now = Instant::now();
        let mut state = self.state();
        let late = state.late.filter(|(_, until)| now < *until).map(|(bytes, _)| bytes);
        let awaited = state.awaited.last_key_value().map(|(bytes, _)| *bytes);
        let bytes_max = awaited.max(late).unwrap_or(0).max(UNASKED_BYTES_MAX).min(self.max);
        let begin = || Coming { held: self.meter.begin(), began: now, forgotten: now };
        let coming = state.coming.get_or_insert_with(begin);
        let seconds = now.saturating_duration_since(coming.forgotten).as_secs();
        coming.forgotten += Duration::from_secs(seconds);
        let forgotten = usize::try_from(seconds).unwrap_or(usize::MAX).saturating_mul(FORGOTTEN_BYTES_PER_SECOND);
        match forgotten < coming.held.bytes {
            true => coming.held.shrink(forgotten),
            false if forgotten > 0 => *coming = begin(),
            false => {}
        }
        coming.held.grow(bytes)?;
        if coming.held.bytes > bytes_max.saturating_add(AROUND_BYTES_MAX.max(bytes_max / AROUND_PARTS)) {
            return Err(Broken::TooLarge { bytes_max });
        }
        if now.saturating_duration_since(coming.began) > self.whole_within {
            return Err(Broken::Lost(format!("a message was not whole after {:?}", self.whole_within)));
        }
        Ok(())
    }

    /// So many messages and control frames came in.
    pub(super) fn count(&self, frames: usize) -> Result<(), Broken> {
        if frames == 0 { Ok(()) } else { self.count_at(Instant::now(), frames) }
    }

    fn count_at(&self, now: Instant, frames: usize) -> Result<(), Broken> {
        let mut state = self.state();
        let unasked = frames.saturating_sub(state.asked);
        state.asked = state.asked.saturating_sub(frames);
        let second = state.second.filter(|(began, _)| now.saturating_duration_since(*began) < SECOND);
        let (began, before) = second.unwrap_or((now, 0));
        let unasked = before.saturating_add(unasked);
        state.second = Some((began, unasked));
        match unasked > UNASKED_PER_SECOND_MAX {
            true => Err(Broken::TooMany(format!(
                "more than {UNASKED_PER_SECOND_MAX} messages and pings in a second that nobody asked for"
            ))),
            false => Ok(()),
        }
    }

    /// Nothing more is read, for this reason.
    pub(super) fn fail(&self, broken: Broken) -> io::Error {
        self.state().broken = Some(broken);
        io::Error::other("there is no room for more")
    }

    /// A message is whole; [`Room::taken`] tells of it.
    pub(super) fn whole(&self) {
        let mut state = self.state();
        let held = state.coming.take().map_or_else(|| self.meter.begin(), |coming| coming.held);
        state.whole.push_back(held);
    }

    /// What the oldest message takes that is whole and was not taken yet. It is free again when this is dropped.
    pub fn taken(&self) -> Option<Held> {
        self.state().whole.pop_front()
    }

    /// Why reading failed, if it was for want of room.
    pub(super) fn broken(&self) -> Option<Broken> {
        self.state().broken.clone()
    }
}

/// An answer that is waited for.
pub struct Awaits {
    room: Arc<Room>,
    bytes_max: usize,
    is_answered: bool,
}

impl Awaits {
    /// It came. One that is dropped without it may still come.
    pub fn answered(mut self) {
        self.is_answered = true;
    }
}

impl Drop for Awaits {
    fn drop(&mut self) {
        let mut state = self.room.state();
        let count = state.awaited.get_mut(&self.bytes_max);
        let left = count.map_or(0, |count| {
            *count -= 1;
            *count
        });
        if left == 0 {
            state.awaited.remove(&self.bytes_max);
        }
        if !self.is_answered {
            let now = Instant::now();
            let before = state.late.filter(|(_, until)| now < *until).map_or(0, |(bytes, _)| bytes);
            state.late = Some((before.max(self.bytes_max), now + self.room.whole_within));
        }
    }
}

/// A stream of which no more is read than there is room for.
pub(super) struct Bounded<S> {
    stream: S,
    room: Arc<Room>,
}

impl<S> Bounded<S> {
    pub fn new(stream: S, room: Arc<Room>) -> Self {
        Self { stream, room }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        Poll::Ready(match buf.filled().len() - before {
            // The other side has closed it.
            0 => Ok(()),
            bytes => this.room.take_in(bytes).map_err(|broken| this.room.fail(broken)),
        })
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 8 << 20;

    fn room(whole_within: Duration) -> (Meter, Arc<Room>) {
        let meter = Meter::new(2 * MAX);
        let room = Room { whole_within, ..Room::new(MAX, &meter, Duration::ZERO) };
        (meter, Arc::new(room))
    }

    /// So much comes in before it is refused. On a machine that stands still for a moment it is a little more.
    fn assert_takes(room: &Room, bytes_max: usize, why: &str) {
        let piece = 4 << 10;
        let mut bytes = 0;
        let broken = loop {
            match room.take_in(piece) {
                Ok(()) => bytes += piece,
                Err(broken) => break broken,
            }
        };
        assert_eq!(broken, Broken::TooLarge { bytes_max }, "{why}");
        let expected = bytes_max + AROUND_BYTES_MAX;
        assert!((expected..expected + (1 << 20)).contains(&bytes), "{why}: {bytes}");
    }

    #[test]
    fn a_message_is_no_longer_than_what_is_waited_for() {
        let room = || room(Duration::from_secs(3_600));
        assert_takes(&room().1, UNASKED_BYTES_MAX, "nobody waits");
        let (meter, awaited) = room();
        let [one, other] = [2 << 20, 4 << 20].map(|bytes| awaited.awaits(bytes));
        other.answered();
        assert_takes(&awaited, 2 << 20, "one waits");
        one.answered();
        awaited.whole();
        assert!(meter.held() > 0);
        drop(awaited.taken());
        assert!(awaited.taken().is_none());
        assert_eq!(meter.held(), 0, "what was taken is free again");
        assert_takes(&awaited, UNASKED_BYTES_MAX, "nobody waits any more");
        let late = room().1;
        drop(late.awaits(3 << 20));
        assert_takes(&late, 3 << 20, "it may be late");
        let most = room().1;
        let _waits = most.awaits(usize::MAX);
        assert_takes(&most, MAX, "never more than the connection takes");
        // Each is whole, and nobody takes them.
        let (_meter, full) = room();
        let broken = (0..100).find_map(|_| {
            let took = full.take_in(UNASKED_BYTES_MAX).err();
            full.whole();
            took
        });
        assert!(matches!(broken, Some(Broken::Lost(_))), "{broken:?}");
    }

    #[test]
    fn a_message_must_be_whole_in_time() {
        let (_meter, room) = room(Duration::ZERO);
        let broken = loop {
            match room.take_in(1) {
                // The clock goes on, however coarse it is.
                Ok(()) => std::thread::yield_now(),
                Err(broken) => break broken,
            }
        };
        assert_eq!(broken, Broken::Lost("a message was not whole after 0ns".into()));
        room.whole();
        assert_eq!(room.take_in(1), Ok(()), "the next one has its own time");
    }

    #[test]
    fn what_nobody_asked_for_is_bounded_in_each_second() {
        let (_meter, room) = room(Duration::from_secs(3_600));
        let mut now = Instant::now();
        for _ in 0..3 {
            assert_eq!(room.count_at(now, UNASKED_PER_SECOND_MAX), Ok(()));
            now += SECOND;
        }
        assert!(matches!(room.count_at(now, UNASKED_PER_SECOND_MAX + 1), Err(Broken::TooMany(_))));
        now += SECOND;
        for _ in 0..10_000 {
            room.awaits(1).answered();
        }
        let answers = room.count_at(now, 10_000 + UNASKED_PER_SECOND_MAX);
        assert_eq!(answers, Ok(()), "there is one to each request");
        assert!(matches!(room.count_at(now, 1), Err(Broken::TooMany(_))));
    }
}
