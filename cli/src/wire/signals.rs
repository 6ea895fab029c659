//! The signals that end an engine in order. Those of a person at a terminal are among them: what they would do otherwise is
//! to end the process in the middle of an event.

use std::{future, io};

use tokio::signal::unix::{Signal, SignalKind, signal};

pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    quit: Signal,
    /// Absent where whoever started the process had it ignored, as `nohup` does.
    hangup: Option<Signal>,
}

impl Signals {
    pub fn new() -> io::Result<Self> {
        // Before any is listened for. Where this cannot be read, the signal has done what it does by default.
        let is_ignored = std::fs::read_to_string("/proc/self/status").is_ok_and(|status| ignores_hangup(&status));
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            quit: signal(SignalKind::quit())?,
            hangup: if is_ignored { None } else { Some(signal(SignalKind::hangup())?) },
        })
    }

    /// Waits for one.
    pub async fn any(&mut self) {
        let Self { interrupt, terminate, quit, hangup } = self;
        let hung_up = async {
            match hangup {
                Some(hangup) => hangup.recv().await,
                None => future::pending().await,
            }
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = quit.recv() => {}
            _ = hung_up => {}
        }
    }

    /// Waits for one that somebody sends who does not want to wait. Of a terminal that was closed both the system and the
    /// shell tell, so that another hangup says nothing new.
    pub async fn second(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.quit.recv() => {}
        }
    }
}

/// Whether a process with this `/proc/self/status` ignores SIGHUP, which is the first signal.
fn ignores_hangup(status: &str) -> bool {
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::ignores_hangup;

    #[test]
    fn a_status_says_what_is_ignored() {
        let status = |mask: &str| format!("Name:\tnexum\nSigBlk:\tffffffffffffffff\nSigIgn:\t{mask}\nSigCgt:\t01\n");
        assert!(ignores_hangup(&status("0000000000001001")));
        assert!(!ignores_hangup(&status("0000000000001000")));
        assert!(!ignores_hangup(&status("?")) && !ignores_hangup(""));
    }
}
