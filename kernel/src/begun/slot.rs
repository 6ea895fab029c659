//! The marks of one module, as its actor and whoever loads for it use them.

use std::sync::Arc;

use nexum_host_ifaces::Hash;
use tokio::sync::OwnedSemaphorePermit;

use super::{
    Marks,
    what::{Kind, What},
};

/// The marks of one module.
#[derive(Clone)]
pub struct Slot {
    /// Absent: nothing is marked.
    pub(super) place: Option<Arc<Place>>,
}

/// A slot of the file that somebody uses. As long as there is one, nobody else gets that slot.
pub(super) struct Place {
    pub marks: Arc<Marks>,
    pub index: usize,
}

impl Slot {
    /// Marks that something begins, once it may: the first attempt since the process died of it runs alone. The module
    /// itself is at one thing at a time.
    pub async fn begin(&self, what: What<'_>) -> Begun {
        let Some(place) = &self.place else { return Begun { at: None, _turn: None } };
        let (nth, key) = (what.mark(), what.key());
        let turn = place.marks.turn(place.index, nth, key).await;
        place.marks.mark(place.index, nth, Some(key));
        Begun { at: Some(At { place: place.clone(), nth, key }), _turn: turn }
    }

    /// How often the process died of it, once that is too often.
    pub fn deadly(&self, what: What<'_>) -> Option<u32> {
        let place = self.place.as_ref().filter(|place| place.marks.has_suspects())?;
        let deaths = place.marks.deaths(place.index, what.key());
        (deaths >= place.marks.deaths_max).then_some(deaths)
    }

    /// It is done with otherwise.
    pub fn clear(&self, what: What<'_>) {
        if let Some(place) = &self.place {
            let key = what.key();
            place.marks.retain(place.index, |suspect| suspect != key);
        }
    }

    /// Whether the process last died of this module, as it is with this component, and no other can be the cause, and that
    /// is not counted yet. What an operator tries, a retry or another version, is not the module's to pay for.
    pub fn died_alone(&self, component: Hash) -> bool {
        let own = |key: u64| match Kind::of(key) {
            Kind::Load => key == What::Load(component).key(),
            Kind::Init | Kind::Event => true,
            Kind::Retry | Kind::Trial => false,
        };
        self.place.as_ref().is_some_and(|place| place.marks.lock()[place.index].alone.is_some_and(own))
    }

    /// That is counted.
    pub fn counted(&self) {
        if let Some(place) = &self.place {
            place.marks.lock()[place.index].alone = None;
        }
    }
}

/// Something that a module is at. When it is dropped the module is not at it any more, unless the process dies first.
#[must_use = "the module is at it for as long as this is kept"]
pub struct Begun {
    at: Option<At>,
    _turn: Option<OwnedSemaphorePermit>,
}

struct At {
    place: Arc<Place>,
    nth: usize,
    key: u64,
}

impl At {
    fn clear(&self) {
        self.place.marks.retain(self.place.index, |suspect| suspect != self.key);
    }
}

impl Begun {
    /// It has come to its end, well or badly: it is no suspect any more.
    pub fn ended(self) {
        self.at.iter().for_each(At::clear);
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        // Nothing is marked for whoever has no slot of the file.
        let Some(at) = &self.at else { return };
        // A panic is an end too, and one that the process outlives.
        if std::thread::panicking() {
            at.clear();
        }
        at.place.marks.mark(at.place.index, at.nth, None);
    }
}
