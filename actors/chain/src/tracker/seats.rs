//! Who waits: each module's sources have a seat each, and one pull at a time.

use std::sync::Arc;

use nexum_host_ifaces::{
    event::{Cursor, Part, SourceId},
    interfaces::chain::port::{AnswerSize, Interest},
};

use super::{Effect, Seat, Tracker, Waiting};
use crate::scan::Position;

impl Tracker {
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Takes a pull. Returns the seat that its answer will name.
    pub fn pull(
        &mut self,
        module: Arc<str>,
        source: SourceId,
        token: u64,
        after: Option<&Cursor>,
        interest: &Arc<Interest>,
        size: AnswerSize,
    ) -> usize {
        let seat = self.seat(module, source, interest);
        let after = match after {
            Some(Cursor::Chain { number, hash, part }) => Some(Position { number: *number, hash: *hash, part: *part }),
            // The cursor of another kind of source is as good as none.
            Some(Cursor::Cron { .. } | Cursor::Number { .. }) | None => None,
        };
        let at = after.unwrap_or(Position { number: 0, hash: None, part: Part::Block });
        let (why, why_since_ns) = (None, self.now_ns);
        let waiting = Waiting {
            token,
            after,
            at,
            verified: false,
            back: None,
            skipped: 0,
            size,
            reading: false,
            why,
            why_since_ns,
        };
        let Some(taken) = self.seats[seat].as_mut() else {
            unreachable!("seat {seat} was given out, and nobody has it")
        };
        if taken.waiting.replace(waiting).is_none() {
            self.waiting += 1;
        }
        self.settle(seat);
        self.plan();
        seat
    }

    fn seat(&mut self, module: Arc<str>, source: SourceId, interest: &Arc<Interest>) -> usize {
        let key = (module, source);
        if let Some(index) = self.seat_of.get(&key) {
            let index = *index;
            // `forget` removes a seat and its name together.
            let Some(seat) = self.seats[index].as_mut() else {
                unreachable!("seat {index} has a name, and nobody has it")
            };
            if !Arc::ptr_eq(&seat.interest, interest) {
                let watch = self.interests.add(interest);
                self.interests.remove(&seat.watch);
                seat.interest = interest.clone();
                seat.watch = watch;
            }
            return index;
        }
        let watch = self.interests.add(interest);
        let seat =
            Seat { module: key.0.clone(), source: key.1.clone(), interest: interest.clone(), watch, waiting: None };
        let index = match self.free.pop() {
            Some(index) => {
                self.seats[index] = Some(seat);
                index
            }
            None => {
                self.seats.push(Some(seat));
                self.seats.len() - 1
            }
        };
        self.seat_of.insert(key, index);
        index
    }

    /// Drops a module's seats; returns them.
    pub fn forget(&mut self, module: &str) -> Vec<usize> {
        let indices: Vec<usize> = self
            .seats
            .iter()
            .enumerate()
            .filter(|(_, seat)| seat.as_ref().is_some_and(|seat| &*seat.module == module))
            .map(|(index, _)| index)
            .collect();
        for index in &indices {
            if let Some(seat) = self.seats[*index].take() {
                let Some(left) = self.waiting.checked_sub(usize::from(seat.waiting.is_some())) else {
                    unreachable!("more pulls are forgotten than wait")
                };
                self.waiting = left;
                self.interests.remove(&seat.watch);
                self.seat_of.remove(&(seat.module, seat.source));
                self.free.push(*index);
            }
        }
        // The next who sits there may wait with the same token.
        self.effects.retain(|effect| !matches!(effect, Effect::Answer { seat, .. } if indices.contains(seat)));
        indices
    }
}
