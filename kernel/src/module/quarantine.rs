//! Events that the module could not handle: to the dead letters, and out of them again on the operator's word.
//!
//! Invariants: an event is set aside with everything known about its failure in the unit that moves the cursor past it,
//! or not at all. A retry that fails costs its letter an attempt and the module nothing.

use std::sync::{Arc, atomic::Ordering};

use nexum_host_ifaces::{
    event::{Delivery, EventId},
    store::{
        Attempt, DEAD_LETTERS_BYTES_MAX, DeadLetter, ModuleHealth, ModuleInfo, ModuleRecord, Standing, StoreError,
        StoreMsg, UnitKind,
    },
    types::Event,
};

use super::{Args, Exit, Running, STORE_DEADLINE, State, recording};
use crate::{
    admin::{AdminError, AdminReply},
    begun::What,
    instance::Instance,
    restart::Decision,
};

impl State {
    pub(super) async fn on_retry(&mut self, seq: u64, reply: AdminReply<()>) -> Result<(), Exit> {
        let Some(running) = &mut self.running else {
            let error = AdminError::Unavailable("the module is not running".into());
            let _ = reply.send(Err(error));
            return Ok(());
        };
        // Looked up only now: an order before this one may have retried or dropped it.
        let letter = match letter(&self.args, seq).await {
            Ok(letter) => letter,
            Err(error) => {
                let _ = reply.send(Err(error));
                return Ok(());
            }
        };
        // It would take the process, and everybody in it, once more.
        if let Some(deaths) = running.begun.deadly(What::Event(&EventId::Retry { seq })) {
            let name = self.args.name();
            let reason = format!(
                "the process died {deaths} times while letter {seq} was retried: it stays as it is until another version \
                 runs, or `nexumctl module restart {name}`"
            );
            let _ = reply.send(Err(AdminError::FailedAgain(reason)));
            return Ok(());
        }
        let done = running.retry(&self.args, letter).await;
        let (answer, done) = match done {
            Ok(None) => (Ok(()), Ok(())),
            Ok(Some(error)) => (Err(AdminError::FailedAgain(error)), Ok(())),
            Err(exit) => (Err(AdminError::Unavailable(exit.to_string())), Err(exit)),
        };
        // The operator may have gone; the outcome is in the dead letters and the log.
        let _ = reply.send(answer);
        done
    }
}

impl Running {
    /// Sets an event aside, with the last of its attempts. A module whose dead letters are full stops at it instead, so that
    /// none is ever lost.
    pub(super) async fn quarantine(
        &mut self,
        args: &Args,
        index: usize,
        delivery: Delivery,
        attempt: Attempt,
    ) -> Result<(), Exit> {
        let source = self.feeds.id(index).clone();
        if let Some(full) = self.full(args).await? {
            // What the module handled before this event stands.
            self.settle(args).await?;
            return Err(full);
        }
        self.health.attempts.remove(&source);
        let host = self.instance.host();
        host.begin(&delivery.id);
        let moved = Some((source, delivery.cursor.clone()));
        let mut unit = host.seal(UnitKind::Quarantined, moved, 0);
        tracing::error!(
            module = %args.name(), event = %delivery.id, letter = unit.entry.seq, attempts = attempt.count,
            "event moved to the dead letters: {}", attempt.error
        );
        // It is told again when the unit is undone: the letter goes with the unit.
        if let Event::Reorg(told) = &*delivery.event {
            unit.told = Some(Box::new(told.clone()));
        }
        unit.quarantined = Some(Box::new(DeadLetter {
            seq: unit.entry.seq,
            at_ms: unit.entry.at_ms,
            id: delivery.id,
            event: (*delivery.event).clone(),
            component: unit.entry.component,
            attempts: attempt.count,
            error: attempt.error,
            backtrace: attempt.backtrace,
            fuel: attempt.fuel,
        }));
        unit.health = Some(self.health.clone());
        self.send(args, unit);
        args.status.dead_letters.fetch_add(1, Ordering::Relaxed);
        self.feeds.durable(index, delivery.cursor);
        Ok(())
    }

    /// The end of a module that may not set another event aside.
    async fn full(&mut self, args: &Args) -> Result<Option<Exit>, Exit> {
        // Letters that the operator dropped are not seen here, so the store has the word.
        let name = args.name().to_string();
        let info = args.shared.ports.store().call(STORE_DEADLINE, |reply| StoreMsg::Inspect { name, reply }).await??;
        args.status.dead_letters.store(info.dead_letters, Ordering::Relaxed);
        let Some(full) = full(&info, self.host.limits.max_dead_letters) else { return Ok(None) };
        let reason = format!(
            "dead letters full {full}: the next event that it cannot handle would be lost; `nexumctl dlq` retries or \
             drops them"
        );
        tracing::error!(module = %args.name(), "dead: {reason}");
        let standing = Standing::Dead { reason: reason.clone() };
        let health = ModuleHealth { standing, last_error: Some(reason), ..self.health.clone() };
        Ok(Some(Exit::fault(health, Decision::Dead)))
    }

    /// Delivers the event of a dead letter again. `Some` is why it failed again: the letter is then brought up to date,
    /// and the module goes on with a fresh instance.
    async fn retry(&mut self, args: &Args, letter: DeadLetter) -> Result<Option<String>, Exit> {
        let id = EventId::Retry { seq: letter.seq };
        let event = Arc::new(letter.event.clone());
        self.metrics.kind("retry").dispatched.inc();
        let at = self.begun.begin(What::Event(&id)).await;
        let handled = self.instance.handle_again(&id, &letter.id, &event).await;
        self.count_fuel(&handled);
        let failure = match handled {
            Ok(fuel) => {
                let recording = self.handled(args, (&id, &event), fuel);
                let mut unit = self.instance.host().seal(UnitKind::Handled, None, fuel);
                unit.recording = recording;
                unit.resolved = Some(letter.seq);
                self.send(args, unit);
                at.ended();
                self.settle(args).await?;
                args.status.dead_letters.fetch_sub(1, Ordering::Relaxed);
                self.metrics.kind("retry").processed.inc();
                return Ok(None);
            }
            Err(failure) => recording::clip(&failure),
        };
        at.ended();
        if let Some(reason) = self.instance.host().poisoned() {
            return Err(Exit::Environment(reason.to_owned()));
        }
        self.keep_crash(args, Some((&id, &event)), &failure);
        self.metrics.kind("retry").failed.inc();
        args.status.failed.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(module = %args.name(), letter = letter.seq, fuel = failure.fuel, "retry: {}", failure.message);
        let letter = DeadLetter {
            component: self.host.component,
            attempts: letter.attempts.saturating_add(1),
            error: failure.message.clone(),
            backtrace: failure.backtrace,
            fuel: failure.fuel,
            ..letter
        };
        let (module, letter) = (self.host.id, Box::new(letter));
        let put = |reply| StoreMsg::PutDeadLetter { module, letter, reply };
        match args.shared.ports.store().call(STORE_DEADLINE, put).await? {
            // Dropped by the operator meanwhile.
            Ok(()) | Err(StoreError::UnknownDeadLetter { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        self.renew(args).await?;
        Ok(Some(failure.message))
    }

    /// A fresh instance over what is committed, in place of one that failed at something that does not count.
    async fn renew(&mut self, args: &Args) -> Result<(), Exit> {
        // A flush of the failed attempt has moved the record on.
        let record = self.instance.host().record().clone();
        self.start_over(args, record).await
    }

    /// A fresh instance over this record.
    pub(super) async fn start_over(&mut self, args: &Args, record: ModuleRecord) -> Result<(), Exit> {
        let starting = self.begun.begin(What::Event(&EventId::Init)).await;
        let started = match Instance::start(&self.prepared, &self.host, record).await {
            Ok(instance) => {
                self.instance = instance;
                self.init(args).await
            }
            Err(failed) => Err(args.not_started(&self.host, self.health.clone(), failed)),
        };
        // Well or badly: the process has not died of it.
        starting.ended();
        started
    }
}

/// Which bound a module's dead letters have reached.
fn full(info: &ModuleInfo, max: u64) -> Option<String> {
    const MIB: u64 = 1 << 20;
    if info.dead_letters >= max {
        return Some(format!("{}/{max}", info.dead_letters));
    }
    let bytes = info.dead_letter_bytes;
    (bytes >= DEAD_LETTERS_BYTES_MAX).then(|| format!("{}/{} MiB", bytes / MIB, DEAD_LETTERS_BYTES_MAX / MIB))
}

async fn letter(args: &Args, seq: u64) -> Result<DeadLetter, AdminError> {
    let name = args.name().to_string();
    let unavailable = |error: String| AdminError::Unavailable(error);
    let letters = args.shared.ports.store().call(STORE_DEADLINE, |reply| StoreMsg::DeadLetters { name, reply }).await;
    let letters = letters.map_err(|error| unavailable(error.to_string()))?;
    let mut letters = letters.map_err(|error| unavailable(error.to_string()))?.into_iter();
    let unknown = || AdminError::UnknownDeadLetter { module: args.name().to_string(), seq };
    letters.find(|letter| letter.seq == seq).ok_or_else(unknown)
}

#[cfg(test)]
mod tests {
    use nexum_host_ifaces::store::ModuleId;

    use super::*;

    #[test]
    fn dead_letters_are_full_by_their_number_or_by_their_bytes() {
        let of = |dead_letters, dead_letter_bytes| {
            let (record, health) = (ModuleRecord::default(), ModuleHealth::default());
            let name = "m".to_owned();
            full(
                &ModuleInfo {
                    name,
                    id: ModuleId(1),
                    record,
                    health,
                    dead_letters,
                    dead_letter_bytes,
                    redelivery: 0,
                    reorgs: 0,
                },
                3,
            )
        };
        assert_eq!(of(2, DEAD_LETTERS_BYTES_MAX - 1), None);
        assert_eq!(of(3, 0).as_deref(), Some("3/3"));
        assert_eq!(of(1, DEAD_LETTERS_BYTES_MAX).as_deref(), Some("256/256 MiB"));
    }
}
