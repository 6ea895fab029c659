//! WASI's clocks, randomness and printed lines, recorded or played. Shared by the parts of one instance's context.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rand::RngCore as _;
use wasmtime_wasi::{HostMonotonicClock, HostWallClock};

use crate::{
    clock::Clock,
    limits::Meter,
    recording::{LINE_TEXT_BYTES_MAX, LINES_MAX, LogLine, TapeMode, WasiAnswers, meter::RecordedBytes},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Off,
    On,
    Play,
}

struct State {
    mode: Mode,
    answers: WasiAnswers,
    /// How many of each were played.
    played: (usize, usize, usize),
    lines: Vec<LogLine>,
    line_bytes: usize,
    /// Counts the answers, with the other parts of the recording.
    meter: RecordedBytes,
    missing: Vec<String>,
}

#[derive(Clone)]
pub(crate) struct WasiTape(Arc<Mutex<State>>);

impl WasiTape {
    pub fn new(taping: &TapeMode, meter: &RecordedBytes) -> Self {
        let (mode, answers) = match taping {
            TapeMode::Off => (Mode::Off, WasiAnswers { seed: rand::random(), ..WasiAnswers::default() }),
            TapeMode::On(_) => (Mode::On, WasiAnswers { seed: rand::random(), ..WasiAnswers::default() }),
            TapeMode::Play(session) => (Mode::Play, session.wasi.clone()),
        };
        let (played, lines, line_bytes, missing) = ((0, 0, 0), Vec::new(), 0, Vec::new());
        let meter = meter.clone();
        Self(Arc::new(Mutex::new(State { mode, answers, played, lines, line_bytes, meter, missing })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn seed(&self) -> u128 {
        self.state().answers.seed
    }

    /// Begins the next call. What is played stays.
    pub fn begin(&self) {
        let mut state = self.state();
        if state.mode == Mode::On {
            state.answers = WasiAnswers { seed: state.answers.seed, ..WasiAnswers::default() };
            state.lines = Vec::new();
            state.line_bytes = 0;
        }
    }

    pub fn play(&self, answers: &WasiAnswers) {
        let mut state = self.state();
        state.mode = Mode::Play;
        state.answers.clone_from(answers);
        state.played = (0, 0, 0);
        state.lines = Vec::new();
        state.line_bytes = 0;
    }

    pub fn capture(&self) -> (WasiAnswers, Vec<LogLine>) {
        let state = self.state();
        (state.answers.clone(), state.lines.clone())
    }

    pub fn missing(&self) -> Vec<String> {
        self.state().missing.clone()
    }

    pub fn is_playing(&self) -> bool {
        self.state().mode == Mode::Play
    }

    /// A line that the guest printed. Answers whether a further one would be kept too.
    pub fn line(&self, stream: &str, text: &str) -> bool {
        let mut state = self.state();
        if state.mode == Mode::Off {
            return false;
        }
        state.line_bytes += text.len();
        if state.lines.len() >= LINES_MAX || state.line_bytes > LINE_TEXT_BYTES_MAX {
            return false;
        }
        state.lines.push(LogLine { level: stream.to_owned(), text: text.to_owned() });
        true
    }
}

/// Which of WASI's clocks.
#[derive(Debug, Clone, Copy)]
enum Which {
    Wall,
    Monotonic,
}

impl State {
    /// Whether so many bytes more may be kept. When not, what was kept goes at once.
    fn room(&mut self, bytes: usize) -> bool {
        let room = self.mode == Mode::On && self.meter.room(bytes);
        if self.mode == Mode::On && !room {
            self.answers = WasiAnswers { seed: self.answers.seed, ..WasiAnswers::default() };
        }
        room
    }

    fn time(&mut self, which: Which, live: u64) -> u64 {
        let room = self.room(2 * size_of::<u64>());
        let (times, played) = match which {
            Which::Wall => (&mut self.answers.wall_ms, &mut self.played.0),
            Which::Monotonic => (&mut self.answers.monotonic_ns, &mut self.played.1),
        };
        match self.mode {
            Mode::Off => live,
            Mode::On => {
                if room {
                    times.push(live);
                }
                live
            }
            Mode::Play => match times.get(*played) {
                Some(time) => {
                    *played += 1;
                    *time
                }
                None => {
                    self.missing.push(format!("a further reading of WASI's {which:?} clock"));
                    self.missing.dedup();
                    times.last().copied().unwrap_or_default()
                }
            },
        }
    }

    fn random(&mut self, bytes: &mut [u8]) {
        match self.mode {
            Mode::Off => rand::rng().fill_bytes(bytes),
            Mode::On => {
                rand::rng().fill_bytes(bytes);
                if self.room(2 * bytes.len()) {
                    self.answers.random.extend_from_slice(bytes);
                }
            }
            Mode::Play => {
                let from = self.played.2;
                match self.answers.random.get(from..from + bytes.len()) {
                    Some(recorded) => {
                        bytes.copy_from_slice(recorded);
                        self.played.2 += bytes.len();
                    }
                    None => {
                        bytes.fill(0);
                        self.missing.push("further random bytes of WASI".to_owned());
                        self.missing.dedup();
                    }
                }
            }
        }
    }
}

/// WASI's clocks over the engine's.
pub(super) struct TapedClock {
    pub clock: Arc<dyn Clock>,
    pub tape: WasiTape,
}

impl HostWallClock for TapedClock {
    fn resolution(&self) -> Duration {
        Duration::from_millis(1)
    }

    fn now(&self) -> Duration {
        let live = self.clock.now_ms();
        Duration::from_millis(self.tape.state().time(Which::Wall, live))
    }
}

impl HostMonotonicClock for TapedClock {
    fn resolution(&self) -> u64 {
        1
    }

    fn now(&self) -> u64 {
        let live = self.clock.monotonic_ns();
        self.tape.state().time(Which::Monotonic, live)
    }
}

/// WASI draws four bytes for each byte that it answers, one draw at a time; a byte that is drawn costs like so many that
/// are copied.
const DRAWN_BYTE_COST: usize = 16;

/// WASI's randomness, both kinds.
pub(super) struct TapedRandom {
    pub tape: WasiTape,
    pub meter: Arc<Meter>,
}

impl rand_core::TryRng for TapedRandom {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.meter.give(bytes.len() * DRAWN_BYTE_COST);
        self.tape.state().random(bytes);
        Ok(())
    }
}
