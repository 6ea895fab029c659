//! What must hold of whatever a store answers: for the fuzzer, and for what it found.

use std::collections::BTreeSet;

use nexum_host_ifaces::event::{Cursor, EventId, SourceId};

use crate::{
    scan::{HANDLED_MAX, Position, Scan},
    wire,
};

const TOPIC: &str = "/app/1/x/proto";
const MAX: usize = 16;

/// Reads an answer as a page, and looks through it from the beginning: each hash is given once, the position goes on with
/// each, and never names more than it may.
pub fn page(bytes: &[u8]) {
    let Ok(page) = wire::page(bytes, Some(TOPIC)) else { return };
    assert!(page.messages.iter().all(|stored| stored.message.content_topic == TOPIC));
    let settled_ns = page.messages.first().map_or(0, |stored| stored.time_ns);
    let mut scan = Scan::new(SourceId::new("message:fuzz"), Position::start(0), settled_ns, MAX, 1);
    if scan.take(page.messages).is_err() {
        unreachable!("one page cannot be out of order with another");
    }
    let scanned = scan.end();
    assert!(scanned.deliveries.len() <= MAX);
    let (mut seen, mut before) = (BTreeSet::new(), 0);
    for delivery in &scanned.deliveries {
        let EventId::Message { hash, .. } = &delivery.id else { unreachable!("{delivery:?}") };
        let Cursor::Message { time_ns, handled, .. } = &delivery.cursor else { unreachable!("{delivery:?}") };
        assert!(seen.insert(*hash) && *time_ns >= before && handled.len() <= HANDLED_MAX);
        before = *time_ns;
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_the_fuzzer_begins_with_and_has_found_is_answered() {
        let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/fuzz/corpus/waku-page");
        let files: Vec<_> = std::fs::read_dir(corpus).unwrap().map(|file| file.unwrap().path()).collect();
        assert!(files.len() > 4);
        for file in files {
            super::page(&std::fs::read(file).unwrap());
        }
    }
}
