//! Recent log lines and the live stream of them, for `nexumctl logs`.
//!
//! Invariant: bounded. A reader that falls behind is told how many lines it missed; nobody waits for it. The history is
//! filled only when somebody asks: an idle receiver of the channel is the history until then.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use nexum_host_ifaces::sync::lock;
use serde::Deserialize;
use tokio::sync::broadcast::{
    self, Receiver, Sender,
    error::{RecvError, TryRecvError},
};

/// Where the engine's log lines (JSON objects, one per line, no line end) pass by on their way to stderr.
#[derive(Clone)]
pub struct LogTap {
    sender: Sender<Arc<str>>,
    history: Arc<Mutex<History>>,
    capacity: usize,
}

struct History {
    lines: VecDeque<Arc<str>>,
    pending: Receiver<Arc<str>>,
}

impl LogTap {
    /// Keeps the last `capacity` lines, and lets a live reader fall behind by as many.
    pub fn new(capacity: usize) -> Self {
        let (sender, pending) = broadcast::channel(capacity);
        let history = Arc::new(Mutex::new(History { lines: VecDeque::new(), pending }));
        Self { sender, history, capacity }
    }

    /// Hands on one line; never waits.
    pub fn send(&self, line: impl Into<Arc<str>>) {
        // The history's own receiver is always there, so that this cannot fail.
        let _ = self.sender.send(line.into());
    }

    /// The last lines, and what comes after them.
    pub(crate) fn follow(&self) -> Follow {
        // Subscribed before the history is drained, so that no line falls between them; `seen` takes out the doubles.
        let live = self.sender.subscribe();
        let mut history = lock(&self.history);
        loop {
            match history.pending.try_recv() {
                Ok(line) => {
                    if history.lines.len() == self.capacity {
                        history.lines.pop_front();
                    }
                    history.lines.push_back(line);
                }
                Err(TryRecvError::Lagged(_)) => history.lines.clear(),
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        Follow { recent: history.lines.clone(), seen: history.lines.clone(), live }
    }
}

/// One reader: first the recent lines, then the live ones.
pub(crate) struct Follow {
    recent: VecDeque<Arc<str>>,
    seen: VecDeque<Arc<str>>,
    live: Receiver<Arc<str>>,
}

/// What a reader gets next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Line(Arc<str>),
    /// The reader was too slow for so many lines.
    Missed(u64),
}

impl Follow {
    /// The recent line that comes next, if there is one left.
    pub fn recent(&mut self) -> Option<Arc<str>> {
        self.recent.pop_front()
    }

    /// Whether one of the recent lines that are left is about this module.
    pub fn has_line_about(&self, module: &str) -> bool {
        self.recent.iter().any(|line| is_about(line, module))
    }

    /// The next live line; `None` when the engine stops.
    pub async fn live(&mut self) -> Option<Next> {
        loop {
            match self.live.recv().await {
                Ok(line) if self.seen.front().is_some() && self.was_seen(&line) => {}
                Ok(line) => return Some(Next::Line(line)),
                Err(RecvError::Lagged(missed)) => return Some(Next::Missed(missed)),
                Err(RecvError::Closed) => return None,
            }
        }
    }

    fn was_seen(&mut self, line: &Arc<str>) -> bool {
        let seen = self.seen.iter().any(|seen| Arc::ptr_eq(seen, line));
        if !seen {
            self.seen.clear();
        }
        seen
    }
}

#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    module: Option<std::borrow::Cow<'a, str>>,
    #[serde(borrow)]
    span: Option<Span<'a>>,
}

#[derive(Deserialize)]
struct Span<'a> {
    #[serde(borrow)]
    module: Option<std::borrow::Cow<'a, str>>,
}

/// Whether a line is about this module: it, or the span it was logged in, carries the name.
pub(crate) fn is_about(line: &str, module: &str) -> bool {
    let Ok(fields) = serde_json::from_str::<Fields<'_>>(line) else { return false };
    let named = [fields.module, fields.span.and_then(|span| span.module)];
    named.into_iter().flatten().any(|name| name == module)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn recent_lines_come_once_and_a_slow_reader_is_told() {
        let tap = LogTap::new(4);
        for n in 0..6 {
            tap.send(format!("{n}"));
        }
        let mut follow = tap.follow();
        let recent: Vec<_> = std::iter::from_fn(|| follow.recent()).collect();
        assert_eq!(recent.iter().map(|line| &**line).collect::<Vec<_>>(), ["2", "3", "4", "5"]);
        tap.send("6");
        assert_eq!(follow.live().await, Some(Next::Line("6".into())));
        for n in 7..13 {
            tap.send(format!("{n}"));
        }
        assert_eq!(follow.live().await, Some(Next::Missed(2)));
        assert_eq!(follow.live().await, Some(Next::Line("9".into())));
        assert_eq!(tap.follow().recent().as_deref(), Some("9"));
    }

    #[test]
    fn a_line_is_about_the_module_in_its_fields_or_its_span() {
        assert!(is_about(r#"{"level":"INFO","module":"a","message":"x"}"#, "a"));
        assert!(is_about(r#"{"level":"INFO","span":{"module":"a","name":"event"}}"#, "a"));
        assert!(!is_about(r#"{"level":"INFO","module":"ab"}"#, "a"));
        assert!(!is_about("not json", "a"));
    }
}
