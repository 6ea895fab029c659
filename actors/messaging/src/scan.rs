//! What of a topic's stored messages a module is still to be given: pure.
//!
//! A store answers in the order of times, and of hashes where times are the same. A message may come into it later than
//! younger ones, by at most the *disorder*. So what is older than that is *settled*: nothing comes before it any more, and a
//! position is a time and a hash. What is younger is delivered at once, and the position names it until it is settled.
//!
//! Invariant: the names in a position are bounded. When there is no room for another, messages wait until they are settled:
//! then they need none. So a busy topic is late by the disorder, and nothing is lost or given twice.

use std::sync::Arc;

use nexum_host_ifaces::{
    Hash, HostError, HostErrorKind,
    event::{Cursor, Delivery, EventId, HandledMessage, SourceId},
    types::Event,
};

use crate::wire::{Stored, error};

/// Names in a position. It is written with every message: 10 KiB at most.
pub const HANDLED_MAX: usize = 256;

/// How far a module is: what `Cursor::Message` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    pub time_ns: u64,
    pub hash: Option<Hash>,
    /// In the order of times.
    handled: Vec<HandledMessage>,
}

impl Position {
    /// Before everything that has this time.
    pub fn start(time_ns: u64) -> Self {
        Self { time_ns, hash: None, handled: Vec::new() }
    }

    /// # Panics
    /// With the cursor of another kind of source. As if there were none, everything up to now would be left out.
    pub fn of(cursor: &Cursor) -> Self {
        match cursor {
            Cursor::Message { time_ns, hash, handled } => {
                Self { time_ns: *time_ns, hash: *hash, handled: handled.clone() }
            }
            other => unreachable!("a topic's position is a time and a hash, not {other}"),
        }
    }

    pub fn cursor(&self) -> Cursor {
        Cursor::Message { time_ns: self.time_ns, hash: self.hash, handled: self.handled.clone() }
    }

    pub fn names(&self) -> usize {
        self.handled.len()
    }

    /// Everything up to there is settled.
    pub fn settle(&mut self, time_ns: u64, hash: Option<Hash>) {
        if (time_ns, hash) > (self.time_ns, self.hash) {
            (self.time_ns, self.hash) = (time_ns, hash);
            self.handled.retain(|named| (named.time_ns, Some(named.hash)) > (time_ns, hash));
        }
    }

    fn add(&mut self, named: HandledMessage) {
        let place = self.handled.partition_point(|other| *other < named);
        self.handled.insert(place, named);
    }
}

/// Whether a scan wants more of what the store has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goes {
    On,
    /// It has as many as were asked for.
    Enough,
    /// What comes next has to wait until it is settled.
    Waits,
}

/// One look through what a store has from a position on.
#[derive(Debug)]
pub struct Scan {
    source: SourceId,
    position: Position,
    /// Up to this time everything is settled.
    settled_ns: u64,
    deliveries_max: usize,
    /// Given to what is not settled yet: when it was seen.
    seen_ns: u64,
    last: Option<(u64, Hash)>,
    goes: Goes,
    found: bool,
    deliveries: Vec<Delivery>,
}

/// What a scan comes to.
#[derive(Debug)]
pub struct Scanned {
    pub deliveries: Vec<Delivery>,
    pub position: Position,
}

impl Scan {
    pub fn new(source: SourceId, position: Position, settled_ns: u64, deliveries_max: usize, seen_ns: u64) -> Self {
        let (last, goes, found, deliveries) = (None, Goes::On, false, Vec::new());
        Self { source, position, settled_ns, deliveries_max, seen_ns, last, goes, found, deliveries }
    }

    /// Whether the message that the position names as its last was there.
    pub fn found(&self) -> bool {
        self.found
    }

    /// Whether it came any further than where it began.
    pub fn is_past(&self, start: &Position) -> bool {
        self.position != *start
    }

    /// Takes the next page.
    ///
    /// # Errors
    /// That the store does not answer in order, so that nothing can be said of what comes later.
    pub fn take(&mut self, mut messages: Vec<Stored>) -> Result<Goes, HostError> {
        messages.sort_by_key(|message| (message.time_ns, message.hash));
        if let (Some(last), Some(first)) = (self.last, messages.first())
            && (first.time_ns, first.hash) < last
        {
            let message = "the answer of a store: its pages do not follow each other in the order of times";
            return Err(error(HostErrorKind::Unavailable, message));
        }
        for message in messages {
            if self.goes != Goes::On {
                break;
            }
            self.last = Some((message.time_ns, message.hash));
            self.goes = self.next(message);
        }
        Ok(self.goes)
    }

    fn next(&mut self, stored: Stored) -> Goes {
        let Stored { time_ns, hash, message, .. } = stored;
        let (at, settled) = ((time_ns, Some(hash)), time_ns <= self.settled_ns);
        let position = &mut self.position;
        if at <= (position.time_ns, position.hash) {
            self.found |= at == (position.time_ns, position.hash);
            return Goes::On;
        }
        let is_given =
            |delivery: &Delivery| matches!(&delivery.id, EventId::Message { hash: given, .. } if *given == hash);
        let known = position.handled.iter().any(|named| named.hash == hash) || self.deliveries.iter().any(is_given);
        match (settled, known) {
            (true, _) => position.settle(time_ns, Some(hash)),
            (false, true) => {}
            (false, false) => {
                // Whatever is settled comes before it.
                position.settle(self.settled_ns.saturating_add(1), None);
                if position.handled.len() >= HANDLED_MAX {
                    return Goes::Waits;
                }
                position.add(HandledMessage { time_ns, hash });
            }
        }
        if known {
            return Goes::On;
        }
        self.deliveries.push(Delivery {
            id: EventId::Message { source: self.source.clone(), hash },
            event: Arc::new(Event::Message(message)),
            cursor: position.cursor(),
            seen_ns: if settled { 0 } else { self.seen_ns },
        });
        if self.deliveries.len() >= self.deliveries_max { Goes::Enough } else { Goes::On }
    }

    /// Nothing that is this old or older is with the store any more.
    pub fn lost_before(&mut self, time_ns: u64) {
        self.position.settle(time_ns.min(self.settled_ns.saturating_add(1)), None);
    }

    /// The store has no more, or no more is wanted.
    pub fn end(mut self) -> Scanned {
        if self.goes == Goes::On {
            self.position.settle(self.settled_ns.saturating_add(1), None);
        }
        self.pause()
    }

    /// The store has more, which another scan goes through.
    pub fn pause(self) -> Scanned {
        let Self { position, deliveries, .. } = self;
        Scanned { deliveries, position }
    }
}

#[cfg(test)]
mod tests;
