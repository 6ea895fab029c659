//! The tape of one instance: notes what the world answered, or answers in its place.

use std::{collections::VecDeque, fmt::Display};

use nexum_records::encoded::encoded;
use serde::Serialize;

use crate::recording::{
    Captured, Exchange, JOURNAL_ROOM, LINE_TEXT_BYTES_MAX, LINES_MAX, LogLine, Session, TapeMode,
    meter::{ENTRY_BYTES, RecordedBytes, encoded_bytes},
};

/// Room that an idle tape keeps for the next event.
const KEPT_ITEMS: usize = 8;

/// Stands among the calls once for the flushes of an event that waited for its end.
const FLUSH_HELD: &str = "local-store.flush-held";

#[derive(Default)]
pub(crate) enum Tape {
    #[default]
    Off,
    On(Box<Recorder>),
    Play(Box<Player>),
}

#[derive(Default)]
pub(crate) struct Recorder {
    exchanges: Vec<Exchange>,
    times: Vec<u64>,
    random: Vec<Vec<u8>>,
    lines: Vec<LogLine>,
    line_bytes: usize,
    flush_held: bool,
    meter: RecordedBytes,
}

#[derive(Default)]
pub(crate) struct Player {
    exchanges: Vec<Option<Exchange>>,
    times: VecDeque<u64>,
    last_time: u64,
    random: VecDeque<Vec<u8>>,
    lines: Vec<LogLine>,
    line_bytes: usize,
    flush_held: bool,
    missing: Vec<String>,
}

/// Where the answer to a call that leaves the module comes from.
pub(crate) enum CallSource {
    /// From the world.
    Live,
    /// From the world, and is noted here.
    Noted(usize),
    Played(Vec<u8>),
    /// There never was one: the event ended while the call waited.
    Unanswered,
    /// Not from the recording.
    Missing,
}

impl Recorder {
    /// Whether so many bytes more may be kept. When not, what was kept goes at once; the lines stay, which are few.
    fn room(&mut self, bytes: usize) -> bool {
        let room = self.meter.room(bytes);
        if !room {
            (self.exchanges, self.times, self.random) = (Vec::new(), Vec::new(), Vec::new());
        }
        room
    }

    /// Encodes what there is room for, counted first.
    fn encode(&mut self, value: &impl Serialize, besides: usize) -> Option<Vec<u8>> {
        let bytes = encoded_bytes(value, self.meter.left()).unwrap_or(usize::MAX);
        if !self.room(bytes.saturating_add(besides)) {
            return None;
        }
        postcard::to_extend(value, Vec::with_capacity(bytes)).ok()
    }
}

fn keep_line(lines: &mut Vec<LogLine>, bytes: &mut usize, level: &str, text: String) {
    *bytes += text.len();
    if lines.len() < LINES_MAX && *bytes <= LINE_TEXT_BYTES_MAX {
        lines.push(LogLine { level: level.to_owned(), text });
    }
}

impl Player {
    /// Noted once: what follows a first miss says little.
    fn miss(&mut self, what: impl Display) {
        if self.missing.len() < LINES_MAX {
            self.missing.push(what.to_string());
        }
    }
}

fn is_journal_room(exchange: &Exchange) -> bool {
    exchange.journal_room().is_some()
}

fn trim<T>(items: &mut Vec<T>) {
    items.clear();
    items.shrink_to(KEPT_ITEMS);
}

impl Tape {
    /// A fresh tape; what it records is counted by `meter`.
    pub fn new(taping: &TapeMode, meter: &RecordedBytes) -> Self {
        match taping {
            TapeMode::Off => Self::Off,
            TapeMode::On(_) => Self::On(Box::new(Recorder { meter: meter.clone(), ..Recorder::default() })),
            TapeMode::Play(session) => {
                let mut tape = Self::Play(Box::default());
                tape.play(session);
                tape
            }
        }
    }

    /// Begins the next call. What is played stays.
    pub fn begin(&mut self) {
        if let Self::On(recorder) = self {
            trim(&mut recorder.exchanges);
            trim(&mut recorder.times);
            trim(&mut recorder.random);
            trim(&mut recorder.lines);
            (recorder.line_bytes, recorder.flush_held) = (0, false);
            recorder.meter.reset();
        }
    }

    /// Bytes that the recording may still keep, its other parts counted; none when it is cut.
    pub fn left(&self) -> usize {
        match self {
            Self::On(recorder) if !recorder.meter.is_cut() => recorder.meter.left(),
            _ => 0,
        }
    }

    pub fn play(&mut self, session: &Session) {
        let exchanges = session.exchanges.iter().cloned().map(Some).collect();
        let flush_held = session.exchanges.iter().any(|exchange| exchange.call == FLUSH_HELD);
        let (times, random) = (session.times.iter().copied().collect(), session.random.iter().cloned().collect());
        *self = Self::Play(Box::new(Player { exchanges, times, random, flush_held, ..Player::default() }));
    }

    pub fn capture(&self) -> Option<Captured> {
        match self {
            Self::Off => None,
            Self::On(recorder) => {
                let Recorder { exchanges, times, random, lines, meter, .. } = &**recorder;
                let session = match meter.is_cut() {
                    true => Session::cut_off(),
                    false => Session {
                        exchanges: exchanges.clone(),
                        times: times.clone(),
                        random: random.clone(),
                        ..Session::default()
                    },
                };
                Some(Captured { session, lines: lines.clone(), ..Captured::default() })
            }
            Self::Play(player) => {
                let (lines, missing) = (player.lines.clone(), player.missing.clone());
                Some(Captured { lines, missing, ..Captured::default() })
            }
        }
    }

    /// An answer of the clock.
    pub fn time(&mut self, live: impl FnOnce() -> u64) -> u64 {
        match self {
            Self::Off => live(),
            Self::On(recorder) => {
                let time = live();
                if recorder.room(2 * size_of::<u64>()) {
                    recorder.times.push(time);
                }
                time
            }
            Self::Play(player) => match player.times.pop_front() {
                Some(time) => {
                    player.last_time = time;
                    time
                }
                None => {
                    player.miss("a further reading of the clock");
                    player.last_time
                }
            },
        }
    }

    /// Random bytes.
    pub fn random(&mut self, len: usize, live: impl FnOnce() -> Vec<u8>) -> Vec<u8> {
        match self {
            Self::Off => live(),
            Self::On(recorder) => {
                let bytes = live();
                if recorder.room(bytes.len() + ENTRY_BYTES) {
                    recorder.random.push(bytes.clone());
                }
                bytes
            }
            Self::Play(player) => match player.random.pop_front().filter(|bytes| bytes.len() == len) {
                Some(bytes) => bytes,
                None => {
                    player.miss(format!("{len} random bytes"));
                    vec![0; len]
                }
            },
        }
    }

    /// How much room the journal had, bytes. What a recording does not say is no bound.
    pub fn journal_room(&mut self, live: impl FnOnce() -> u64) -> u64 {
        match self {
            Self::Off => live(),
            Self::On(recorder) => {
                let room = live();
                if let Some(answer) = recorder.encode(&room, JOURNAL_ROOM.len() + 2 * ENTRY_BYTES) {
                    recorder.exchanges.push(Exchange {
                        call: JOURNAL_ROOM.to_owned(),
                        request: Vec::new(),
                        answer: Some(answer),
                    });
                }
                room
            }
            Self::Play(player) => {
                let said = player.exchanges.iter_mut().find(|said| said.as_ref().is_some_and(is_journal_room));
                let room = said.and_then(Option::take).and_then(|said| said.journal_room());
                room.unwrap_or_else(|| {
                    player.miss("how much room the journal had");
                    u64::MAX
                })
            }
        }
    }

    /// A flush waited for the end of the event.
    pub fn note_flush_held(&mut self) {
        if let Self::On(recorder) = self
            && !recorder.flush_held
            && recorder.room(FLUSH_HELD.len() + 2 * ENTRY_BYTES)
        {
            recorder.flush_held = true;
            let (request, answer) = (Vec::new(), Some(Vec::new()));
            recorder.exchanges.push(Exchange { call: FLUSH_HELD.to_owned(), request, answer });
        }
    }

    /// Whether the flushes of the event that is played waited for its end.
    pub fn flushes_were_held(&self) -> bool {
        matches!(self, Self::Play(player) if player.flush_held)
    }

    /// Keeps a line that was logged, as far as there is room for it.
    pub fn line(&mut self, level: &str, text: String) {
        match self {
            Self::Off => {}
            Self::On(recorder) => keep_line(&mut recorder.lines, &mut recorder.line_bytes, level, text),
            Self::Play(player) => keep_line(&mut player.lines, &mut player.line_bytes, level, text),
        }
    }

    pub fn is_playing(&self) -> bool {
        matches!(self, Self::Play(_))
    }

    /// Begins a call that leaves the module.
    pub fn ask(&mut self, call: &'static str, arguments: &impl Serialize) -> CallSource {
        match self {
            Self::Off => CallSource::Live,
            Self::On(recorder) => {
                let Some(request) = recorder.encode(arguments, call.len() + 2 * ENTRY_BYTES) else {
                    return CallSource::Live;
                };
                recorder.exchanges.push(Exchange { call: call.to_owned(), request, answer: None });
                CallSource::Noted(recorder.exchanges.len() - 1)
            }
            Self::Play(player) => {
                let request = encoded(arguments);
                let same = |exchange: &&mut Option<Exchange>| {
                    exchange.as_ref().is_some_and(|exchange| exchange.call == call && exchange.request == request)
                };
                match player.exchanges.iter_mut().find(same).and_then(Option::take) {
                    Some(Exchange { answer: Some(answer), .. }) => CallSource::Played(answer),
                    Some(_) => CallSource::Unanswered,
                    None => {
                        player.miss(format!("an answer to {call}"));
                        CallSource::Missing
                    }
                }
            }
        }
    }

    pub fn answered(&mut self, index: usize, result: &impl Serialize) {
        // Only a call that was noted has an answer to note, and only this notes one.
        let Self::On(recorder) = self else { unreachable!("an answer is noted where nothing is recorded") };
        if let Some(answer) = recorder.encode(result, ENTRY_BYTES)
            && let Some(exchange) = recorder.exchanges.get_mut(index)
        {
            exchange.answer = Some(answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{HostError, recording::RECORDING_BYTES_MAX};

    fn taping() -> Tape {
        Tape::new(&TapeMode::On(Default::default()), &RecordedBytes::default())
    }

    #[test]
    fn what_was_recorded_is_played_in_order_and_what_is_missing_is_told() {
        let mut tape = taping();
        assert_eq!([tape.time(|| 5), tape.time(|| 7)], [5, 7]);
        assert_eq!(tape.random(2, || vec![1, 2]), [1, 2]);
        for answer in ["one", "two"] {
            let CallSource::Noted(index) = tape.ask("chain.request", &(1u64, "m")) else { panic!() };
            tape.answered(index, &Ok::<_, HostError>(answer.to_owned()));
        }
        assert!(matches!(tape.ask("chain.request", &(1u64, "late")), CallSource::Noted(2)));
        tape.line("info", "hello".into());
        let session = tape.capture().unwrap().session;
        tape.begin();
        assert_eq!(tape.capture().unwrap().session, Session::default());

        let mut played = Tape::new(&TapeMode::Play(session.into()), &RecordedBytes::default());
        assert_eq!([played.time(|| 0), played.time(|| 0), played.time(|| 0)], [5, 7, 7]);
        assert_eq!(played.random(2, Vec::new), [1, 2]);
        for answer in ["one", "two"] {
            let CallSource::Played(bytes) = played.ask("chain.request", &(1u64, "m")) else { panic!() };
            let result: Result<String, HostError> = postcard::from_bytes(&bytes).unwrap();
            assert_eq!(result.unwrap(), answer);
        }
        assert!(matches!(played.ask("chain.request", &(1u64, "late")), CallSource::Unanswered));
        assert!(matches!(played.ask("chain.request", &(1u64, "other")), CallSource::Missing));
        let missing = played.capture().unwrap().missing;
        assert_eq!(missing, ["a further reading of the clock", "an answer to chain.request"]);
    }

    #[test]
    fn how_much_room_the_journal_had_and_that_flushes_waited_is_played() {
        let mut tape = taping();
        assert_eq!([tape.journal_room(|| 70_000), tape.journal_room(|| 9)], [70_000, 9]);
        assert!(!tape.flushes_were_held());
        tape.note_flush_held();
        tape.note_flush_held();
        let session = tape.capture().unwrap().session;
        assert_eq!(session.exchanges.len(), 3, "{session:?}");
        tape.begin();
        tape.note_flush_held();
        assert_eq!(tape.capture().unwrap().session.exchanges.len(), 1, "each event says it anew");

        let mut played = Tape::new(&TapeMode::Play(session.into()), &RecordedBytes::default());
        assert!(played.flushes_were_held());
        assert_eq!([played.journal_room(|| 0), played.journal_room(|| 0)], [70_000, 9]);
        assert_eq!(played.capture().unwrap().missing, Vec::<String>::new());
        assert_eq!(played.journal_room(|| 0), u64::MAX);
        assert_eq!(played.capture().unwrap().missing, ["how much room the journal had"]);
        let mut other = Tape::new(&TapeMode::Play(Default::default()), &RecordedBytes::default());
        assert!(!other.flushes_were_held());
        assert_eq!(other.journal_room(|| 0), u64::MAX);
    }

    #[test]
    fn a_recording_that_grows_too_large_is_cut_says_so_and_keeps_nothing() {
        let mut tape = taping();
        let bytes = RECORDING_BYTES_MAX - ENTRY_BYTES;
        tape.random(bytes, || vec![0; bytes]);
        assert!(!tape.capture().unwrap().session.cut);
        tape.line("info", "kept".into());
        tape.time(|| 1);
        let captured = tape.capture().unwrap();
        assert_eq!(captured.session, Session::cut_off());
        assert_eq!(captured.lines.len(), 1);
        let Tape::On(recorder) = &tape else { panic!() };
        assert_eq!(recorder.random.capacity(), 0, "freed when it was cut, not when the event ends");
        tape.begin();
        assert_eq!(tape.left(), RECORDING_BYTES_MAX);
    }

    #[test]
    fn a_request_and_an_answer_past_the_bound_are_refused_before_they_are_encoded() {
        let mut tape = taping();
        let large = "x".repeat(RECORDING_BYTES_MAX);
        assert!(matches!(tape.ask("chain.request", &(1u64, "m", &large)), CallSource::Live));
        assert_eq!(tape.left(), 0);
        tape.begin();
        let CallSource::Noted(index) = tape.ask("chain.request", &(1u64, "m")) else { panic!() };
        tape.answered(index, &Ok::<_, HostError>(large));
        assert_eq!(tape.capture().unwrap().session, Session::cut_off());
    }
}
