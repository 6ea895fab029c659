//! The smallest module worth copying: counts the ticks of its schedule, and notices those that were missed.

use nexum_sdk::{self as nexum, Config, Result, Tick, state::Item};

/// Ticks handled since the state began; it outlives restarts.
const TICKS: Item<u64> = Item::new("ticks");
/// When the last tick was due, in milliseconds since the Unix epoch.
const LAST_MS: Item<u64> = Item::new("last-ms");

struct Heartbeat {
    greeting: String,
    /// A longer pause between two ticks is worth a warning.
    late_after_ms: u64,
}

#[nexum::module]
impl Heartbeat {
    #[init]
    fn init(config: Config) -> Result<Self> {
        Ok(Self { greeting: config.string("greeting")?.to_owned(), late_after_ms: config.parse("late_after_ms")? })
    }

    #[on_tick]
    fn beat(&mut self, tick: Tick) -> Result<()> {
        let ticks = TICKS.update(|ticks| ticks.unwrap_or(0) + 1)?;
        if let Some(last_ms) = LAST_MS.get()? {
            let pause_ms = tick.fired_at.saturating_sub(last_ms);
            if pause_ms > self.late_after_ms {
                nexum::warn!("{pause_ms} ms since the last beat");
            }
        }
        LAST_MS.set(&tick.fired_at)?;
        nexum::info!("{} (beat {ticks})", self.greeting);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nexum_sdk::{Level, testing};

    #[test]
    fn counts_and_notices_a_pause() {
        testing::reset();
        let config = [("greeting", "alive".into()), ("late_after_ms", 7_000.into())].into_iter().collect();
        let mut heartbeat = Heartbeat::init(config).unwrap();
        for fired_at in [5_000, 10_000, 60_000] {
            heartbeat.beat(Tick { fired_at }).unwrap();
        }
        assert_eq!(TICKS.get().unwrap(), Some(3));
        let info = |text: &str| (Level::Info, text.to_owned());
        let pause = (Level::Warn, "50000 ms since the last beat".to_owned());
        assert_eq!(testing::logged(), [info("alive (beat 1)"), info("alive (beat 2)"), pause, info("alive (beat 3)")]);
    }
}
