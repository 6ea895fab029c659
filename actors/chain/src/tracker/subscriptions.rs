//! Who waits: each module's sources have a subscription each, and one pull at a time.

use std::sync::Arc;

use nexum_host_ifaces::{
    event::{Cursor, Part, SourceId},
    interfaces::chain::port::{AnswerSize, Interest},
};

use super::{Effect, Subscription, Tracker, Waiting};
use crate::scan::Position;

impl Tracker {
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Takes a pull. Returns the subscription that its answer will name.
    pub fn pull(
        &mut self,
        module: Arc<str>,
        source: SourceId,
        token: u64,
        after: Option<&Cursor>,
        interest: &Arc<Interest>,
        size: AnswerSize,
    ) -> usize {
        let subscription = self.subscription(module, source, interest);
        let after = match after {
            Some(Cursor::Chain { number, hash, part }) => Some(Position { number: *number, hash: *hash, part: *part }),
            // The cursor of another kind of source is as good as none.
            Some(Cursor::Cron { .. } | Cursor::Number { .. } | Cursor::Message { .. }) | None => None,
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
        let Some(taken) = self.subscriptions[subscription].as_mut() else {
            unreachable!("subscription {subscription} was given out, and nobody has it")
        };
        if taken.waiting.replace(waiting).is_none() {
            self.waiting += 1;
        }
        self.settle(subscription);
        self.plan();
        subscription
    }

    fn subscription(&mut self, module: Arc<str>, source: SourceId, interest: &Arc<Interest>) -> usize {
        let key = (module, source);
        if let Some(index) = self.subscription_of.get(&key) {
            let index = *index;
            // `forget` removes a subscription and its name together.
            let Some(subscription) = self.subscriptions[index].as_mut() else {
                unreachable!("subscription {index} has a name, and nobody has it")
            };
            if !Arc::ptr_eq(&subscription.interest, interest) {
                let watch = self.interests.add(interest);
                self.interests.remove(&subscription.watch);
                subscription.interest = interest.clone();
                subscription.watch = watch;
            }
            return index;
        }
        let watch = self.interests.add(interest);
        let subscription = Subscription {
            module: key.0.clone(),
            source: key.1.clone(),
            interest: interest.clone(),
            watch,
            waiting: None,
        };
        let index = match self.free.pop() {
            Some(index) => {
                self.subscriptions[index] = Some(subscription);
                index
            }
            None => {
                self.subscriptions.push(Some(subscription));
                self.subscriptions.len() - 1
            }
        };
        self.subscription_of.insert(key, index);
        index
    }

    /// Drops a module's subscriptions; returns them.
    pub fn forget(&mut self, module: &str) -> Vec<usize> {
        let indices: Vec<usize> = self
            .subscriptions
            .iter()
            .enumerate()
            .filter(|(_, subscription)| {
                subscription.as_ref().is_some_and(|subscription| &*subscription.module == module)
            })
            .map(|(index, _)| index)
            .collect();
        for index in &indices {
            if let Some(subscription) = self.subscriptions[*index].take() {
                let Some(left) = self.waiting.checked_sub(usize::from(subscription.waiting.is_some())) else {
                    unreachable!("more pulls are forgotten than wait")
                };
                self.waiting = left;
                self.interests.remove(&subscription.watch);
                self.subscription_of.remove(&(subscription.module, subscription.source));
                self.free.push(*index);
            }
        }
        // The next who sits there may wait with the same token.
        self.effects
            .retain(|effect| !matches!(effect, Effect::Answer { subscription, .. } if indices.contains(subscription)));
        indices
    }
}
