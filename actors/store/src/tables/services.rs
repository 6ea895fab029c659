//! Records of services: the service's name, 0, and the key that it gave, the value as it is.
//!
//! Invariant: no service sees another's, since no name has a 0.

use nexum_host_ifaces::store::{RECORDS_READ_BYTES_MAX, Records, StoreError};
use rocksdb::WriteBatch;

use super::table::{DEFAULT, Tag, after_prefix};
use crate::db::Read;

/// What the keys of a service begin with.
fn of_service(service: &str) -> Vec<u8> {
    assert!(!service.as_bytes().contains(&0), "the name of a service has a 0");
    let mut key = vec![Tag::Service as u8];
    key.extend_from_slice(service.as_bytes());
    key.push(0);
    key
}

fn key(service: &str, key: &[u8]) -> Vec<u8> {
    let mut whole = of_service(service);
    whole.extend_from_slice(key);
    whole
}

pub(crate) fn put(batch: &mut WriteBatch, service: &str, record: &[u8], value: &[u8]) {
    batch.put(key(service, record), value);
}

pub(crate) fn delete(batch: &mut WriteBatch, service: &str, record: &[u8]) {
    batch.delete(key(service, record));
}

/// Which of them are asked for.
pub(crate) struct Wanted {
    pub service: &'static str,
    pub prefix: Vec<u8>,
    pub after: Option<Vec<u8>>,
    pub limit: usize,
}

/// Those that are wanted, in order. An answer that leaves some out would read like the end of them.
pub(crate) fn read(from: &impl Read, wanted: &Wanted) -> Result<Records, StoreError> {
    let Wanted { service, prefix, after, limit } = wanted;
    let mut first = key(service, prefix);
    // The tag is less than 255, so that there is an end.
    let end = after_prefix(&first).unwrap_or_default();
    if let Some(after) = after.as_ref().filter(|after| *after >= prefix) {
        first = key(service, after);
        first.push(0);
    }
    let mut records = Records::new();
    // What is after every key with that beginning is nothing to look for.
    if first >= end {
        return Ok(records);
    }
    let (named, mut bytes) = (of_service(service).len(), 0);
    for row in from.rows(DEFAULT, (first, end)).take(*limit) {
        let (key, value) = row?;
        let key = key.get(named..).ok_or_else(|| StoreError::Failed("a service's record has no key".into()))?;
        bytes += key.len() + value.len();
        if bytes > RECORDS_READ_BYTES_MAX {
            let at_once = records.len();
            return Err(StoreError::Refused(format!(
                "records of `{service}`: {limit} have more than {RECORDS_READ_BYTES_MAX} bytes, {at_once} do not"
            )));
        }
        records.push((key.to_vec(), value.into_vec()));
    }
    Ok(records)
}
