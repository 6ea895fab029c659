//! What a module's actor keeps room for while it waits for its next message.

use ractor::{Actor as _, ActorRef};

use super::{ModuleActor, Msg, State};

/// Of the future that is kept with every actor, idle or not.
fn of_handling<'a, Handling>(
    _: impl FnOnce(&'a ModuleActor, ActorRef<Msg>, Msg, &'a mut Option<Box<State>>) -> Handling,
) -> usize {
    size_of::<Handling>()
}

#[test]
fn an_idle_actor_keeps_no_room_for_what_it_may_have_to_do() {
    let bytes = of_handling(|actor, myself, message, state| actor.handle(myself, message, state));
    assert!(bytes <= 2048, "{bytes} bytes with every module");
}
