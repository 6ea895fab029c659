//! What a module can be at, and the key by which the next process knows it again.

use std::hash::{Hash as _, Hasher as _};

use nexum_host_ifaces::{Hash, event::EventId};

use super::file::Fnv;

/// What a module can be at.
#[derive(Debug, Clone, Copy)]
pub enum What<'a> {
    /// This component is verified and linked for it, beside whatever it is at.
    Load(Hash),
    Event(&'a EventId),
    /// A version with this component is tried in the place of the running one.
    Trial(Hash),
}

/// What a key says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Load,
    Init,
    Event,
    /// A dead letter is delivered again.
    Retry,
    Trial,
}

/// The kind is in the highest bits of a key.
const KIND_SHIFT: u32 = 61;

impl What<'_> {
    /// Enough of its name to know it again, in this build of the engine.
    pub(super) fn key(self) -> u64 {
        let mut hash = Fnv::default();
        match self {
            Self::Load(component) | Self::Trial(component) => component.hash(&mut hash),
            // It is told with the head of the moment, which another attempt may find moved on.
            Self::Event(EventId::Reorg { chain_id, nth, .. }) => (1_u8, chain_id, nth).hash(&mut hash),
            Self::Event(id) => (2_u8, id).hash(&mut hash),
        }
        let name = hash.finish() & ((1 << KIND_SHIFT) - 1);
        name | (self.kind().number() << KIND_SHIFT)
    }

    fn kind(self) -> Kind {
        match self {
            Self::Load(_) => Kind::Load,
            Self::Event(EventId::Init) => Kind::Init,
            Self::Event(EventId::Retry { .. }) => Kind::Retry,
            Self::Event(_) => Kind::Event,
            Self::Trial(_) => Kind::Trial,
        }
    }

    /// Which of a module's marks is its own: a load runs beside the module.
    pub(super) fn mark(self) -> usize {
        match self {
            Self::Load(_) => 1,
            Self::Event(_) | Self::Trial(_) => 0,
        }
    }
}

impl Kind {
    fn number(self) -> u64 {
        match self {
            Self::Load => 0,
            Self::Init => 1,
            Self::Event => 2,
            Self::Retry => 3,
            Self::Trial => 4,
        }
    }

    /// The kind of what has this key.
    pub(super) fn of(key: u64) -> Self {
        match key >> KIND_SHIFT {
            0 => Self::Load,
            1 => Self::Init,
            3 => Self::Retry,
            4 => Self::Trial,
            _ => Self::Event,
        }
    }

    /// For the log.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Load => "the load of a component",
            Self::Init => "init",
            Self::Event => "an event",
            Self::Retry => "the retry of a dead letter",
            Self::Trial => "the trial of another version",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reorg_that_is_told_with_another_head_is_the_same_event() {
        let told = |head: u8, nth| {
            let new_head = Hash([head; 32]);
            What::Event(&EventId::Reorg { chain_id: 1, old_head: Default::default(), new_head, nth }).key()
        };
        assert_eq!(told(1, 7), told(2, 7));
        assert_ne!(told(1, 7), told(1, 8));
    }

    #[test]
    fn a_key_says_what_it_stands_for() {
        let (component, block) = (Hash([7; 32]), EventId::Block { chain_id: 1, number: 2, hash: Hash([3; 32]) });
        let all = [
            (What::Load(component), Kind::Load),
            (What::Event(&EventId::Init), Kind::Init),
            (What::Event(&block), Kind::Event),
            (What::Event(&EventId::Retry { seq: 5 }), Kind::Retry),
            (What::Trial(component), Kind::Trial),
        ];
        for (what, kind) in all {
            assert_eq!(Kind::of(what.key()), kind, "{what:?}");
            assert_eq!(all.iter().filter(|(other, _)| other.key() == what.key()).count(), 1, "{what:?}");
        }
        assert_ne!(What::Load(component).key(), What::Load(Hash([8; 32])).key());
    }
}
