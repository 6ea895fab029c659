//! The tables: what is kept, each with its keys, its codec, its reads and its writes.
//!
//! To add one: a tag in `table` (or a column family there, with its options in `open`), a file, and its line in `TABLES`.
//! What a rewind makes of it is said in `rewind`.

pub(crate) mod headers;
pub(crate) mod journal;
pub(crate) mod letters;
pub(crate) mod modules;
pub(crate) mod outbox;
pub(crate) mod outcomes;
pub(crate) mod progress;
pub(crate) mod receipts;
pub(crate) mod recordings;
pub(crate) mod redelivery;
pub(crate) mod rewinds;
pub(crate) mod state;
pub(crate) mod table;

/// Everything that holds records of modules under their number: a purge empties it.
pub(crate) const TABLES: [table::Table; 15] = [
    state::TABLE,
    journal::TABLE,
    recordings::TABLE,
    modules::RECORD,
    modules::HEALTH,
    modules::REORGS,
    letters::TABLE,
    outbox::LIVE,
    outbox::ENDED,
    outbox::RETRACTED,
    progress::TABLE,
    outcomes::TABLE,
    receipts::TABLE,
    rewinds::TABLE,
    redelivery::TABLE,
];
