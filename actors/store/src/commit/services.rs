//! What is written for services.

use nexum_host_ifaces::store::{
    RECORD_BYTES_MAX, RECORD_KEY_BYTES_MAX, RECORD_WRITES_BYTES_MAX, RECORD_WRITES_MAX, RecordWrite, StoreError,
};

use crate::{
    committer::queue::Turn,
    tables::services::{self, Wanted},
};

impl Turn<'_> {
    /// All of them or, when one of them is not taken, none.
    pub fn write_records(&mut self, service: &str, writes: &[RecordWrite]) -> Result<(), StoreError> {
        check(service, writes)?;
        self.queue.room(self.store)?;
        let group = &mut self.queue.waiting;
        group.is_synced = true;
        let batch = &mut group.batch;
        for RecordWrite { key, value } in writes {
            match value {
                Some(value) => services::put(batch, service, key, value),
                None => services::delete(batch, service, key),
            }
        }
        Ok(())
    }

    /// They are read once what waits is written.
    pub fn read_records(&self, wanted: Wanted) -> Result<Wanted, StoreError> {
        self.queue.room(self.store)?;
        Ok(wanted)
    }
}

fn check(service: &str, writes: &[RecordWrite]) -> Result<(), StoreError> {
    let refused = |what: String| Err(StoreError::Refused(format!("records of `{service}`: {what}")));
    if writes.len() > RECORD_WRITES_MAX {
        return refused(format!("{} in one write: expected at most {RECORD_WRITES_MAX}", writes.len()));
    }
    let mut bytes = 0;
    for RecordWrite { key, value } in writes {
        let value_bytes = value.as_ref().map_or(0, Vec::len);
        if key.len() > RECORD_KEY_BYTES_MAX {
            return refused(format!("a key has {} bytes: expected at most {RECORD_KEY_BYTES_MAX}", key.len()));
        }
        if value_bytes > RECORD_BYTES_MAX {
            return refused(format!("one has {value_bytes} bytes: expected at most {RECORD_BYTES_MAX}"));
        }
        bytes += key.len() + value_bytes;
    }
    if bytes > RECORD_WRITES_BYTES_MAX {
        return refused(format!("{bytes} bytes in one write: expected at most {RECORD_WRITES_BYTES_MAX}"));
    }
    Ok(())
}
