//! Lines of an export from a store that is read without an engine.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use nexum_admin_api::journal::{ExportEnd, ExportHeader, Line};
use nexum_ctl::journal::Take;
use nexum_host_ifaces::{clock::SystemClock, journal::JournalStart, store::StoreError};
use nexum_store::{OpenError, Store};

use crate::{args::journal::Place, exit::Failure, wire};

/// Entries read at once.
const PAGE: usize = 1000;

/// The store of a state directory, or a backup, if one was named.
pub fn place(place: &Place) -> Option<PathBuf> {
    place.state_dir.as_deref().map(wire::store_directory).or_else(|| place.backup.clone())
}

/// Opens a store for reading; an engine may run on it.
pub fn open(directory: &Path) -> Result<Arc<Store>, Failure> {
    let options = nexum_store::Options::new(Arc::new(SystemClock::new()), prometheus::Registry::new());
    Store::open_read_only(directory, &options).map_err(|error| match error {
        OpenError::Missing(_) => Failure::not_found(error.to_string()),
        error => Failure::failed(error.to_string()),
    })
}

/// What a store says of a module, as a failure of the command.
pub fn failed(error: StoreError) -> Failure {
    match error {
        StoreError::UnknownModule(_)
        | StoreError::UnknownUnit { .. }
        | StoreError::UnknownRecording(_)
        | StoreError::UnknownDeadLetter { .. } => Failure::not_found(error.to_string()),
        error => Failure::failed(error.to_string()),
    }
}

/// Reads a module's journal from a store, as an engine would export it.
pub fn store(store: &Store, module: &str, take: Take<'_>) -> Result<(), Failure> {
    let mut page = store.journal_page(module, JournalStart::At(0), PAGE).map_err(failed)?;
    let header = ExportHeader::new(module, &page);
    let mut end = ExportEnd { entries: 0, receipts: 0 };
    take(Line::Journal(header.clone()))?;
    for rewound in store.rewinds(module).map_err(failed)? {
        take(Line::Rewind(rewound))?;
    }
    while let Some(last) = page.entries.last().map(|entry| entry.seq) {
        let mut receipts = page.receipts.into_iter().peekable();
        for entry in page.entries {
            let seq = entry.seq;
            end.entries += 1;
            take(Line::Entry(Box::new(entry.into())))?;
            while let Some(receipt) = receipts.next_if(|receipt| receipt.seq <= seq) {
                end.receipts += 1;
                take(Line::Receipt(receipt))?;
            }
        }
        page = store.journal_page(module, JournalStart::At(last + 1), PAGE).map_err(failed)?;
    }
    take(Line::End(end))
}
