//! The module's durable state: raw bytes by key, and typed cells over them.
//!
//! Typed values are stored as JSON. It costs bytes against a binary encoding, and buys two things that matter more
//! here: the operator can read the state (`nexum state get`), and an upgraded module can read what its predecessor
//! wrote when fields were added (`#[serde(default)]`) or removed.
//!
//! All writes of an event are applied together when it succeeds. Reads see the event's own writes. A write that would
//! pass the module's `max_state_bytes` fails with [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) and
//! changes nothing.

mod key;
mod typed;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::bindings::nexum::host::local_store::{Entry, Write};
use crate::{Context, Error, Result, raw};

pub use key::Key;
pub use typed::{Item, Map};

/// How many entries one host call reads while a scan goes on: few enough for a small memory limit, many enough that
/// the calls do not dominate.
const SCAN_PAGE: u32 = 256;

/// The typed value of `key`, or `None` when it was never set.
pub fn get<T: DeserializeOwned>(key: &str) -> Result<Option<T>> {
    get_bytes(key)?.map(|bytes| decode(key, &bytes)).transpose()
}

/// Stores `value` under `key`.
pub fn set<T: Serialize + ?Sized>(key: &str, value: &T) -> Result<()> {
    set_bytes(key, &serde_json::to_vec(value)?)
}

/// Removes `key`; nothing happens when it is absent.
pub fn delete(key: &str) -> Result<()> {
    raw::local_store::delete(key).map_err(Error::from_host)
}

/// The bytes of `key` as they are stored.
pub fn get_bytes(key: &str) -> Result<Option<Vec<u8>>> {
    raw::local_store::get(key).map_err(Error::from_host)
}

/// Stores bytes under `key`.
pub fn set_bytes(key: &str, value: &[u8]) -> Result<()> {
    raw::local_store::set(key, value).map_err(Error::from_host)
}

/// Every key that begins with `prefix`, in byte order.
///
/// # Errors
/// `InvalidInput` when there are more than 10,000; [`entries`] has no such limit.
pub fn keys(prefix: &str) -> Result<Vec<String>> {
    raw::local_store::list_keys(prefix).map_err(Error::from_host)
}

/// Every key and value whose key begins with `prefix`, in byte order, read page by page as the iterator advances.
pub fn entries(prefix: &str) -> impl Iterator<Item = Result<(String, Vec<u8>)>> + use<> {
    Scan { prefix: prefix.to_owned(), after: None, page: Vec::new().into_iter(), done: false }
}

/// Several writes that are applied together or not at all, in one host call.
///
/// ```no_run
/// use nexum_sdk::state::Batch;
/// Batch::new().set("low", &1)?.set("high", &9)?.delete("pending").apply()?;
/// # Ok::<(), nexum_sdk::Error>(())
/// ```
#[derive(Default)]
pub struct Batch(Vec<Write>);

impl Batch {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn set<T: Serialize + ?Sized>(self, key: &str, value: &T) -> Result<Self> {
        Ok(self.set_bytes(key, serde_json::to_vec(value)?))
    }

    #[must_use]
    pub fn set_bytes(mut self, key: &str, value: Vec<u8>) -> Self {
        self.0.push(Write::Put(Entry { key: key.to_owned(), value }));
        self
    }

    #[must_use]
    pub fn delete(mut self, key: &str) -> Self {
        self.0.push(Write::Delete(key.to_owned()));
        self
    }

    /// # Errors
    /// `InvalidInput` when one write is refused; then none is applied.
    pub fn apply(self) -> Result<()> {
        raw::local_store::apply(&self.0).map_err(Error::from_host)
    }
}

/// Makes this call's writes so far durable now: they survive a later trap, `Err` or crash, though the event still
/// counts as unhandled and comes again. It is for the marker that must outlive a failure: reserve, flush, act.
pub fn flush() -> Result<()> {
    raw::local_store::flush().map_err(Error::from_host)
}

fn decode<T: DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).context(format_args!("state key `{key}`"))
}

struct Scan {
    prefix: String,
    after: Option<String>,
    page: std::vec::IntoIter<Entry>,
    done: bool,
}

impl Iterator for Scan {
    type Item = Result<(String, Vec<u8>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.page.len() == 0 && !self.done {
            match raw::local_store::list_entries(&self.prefix, self.after.as_deref(), SCAN_PAGE) {
                Ok(page) => {
                    // A short page may also be a host that caps the reply, so only an empty one ends the scan.
                    self.done = page.is_empty();
                    self.after = page.last().map(|entry| entry.key.clone());
                    self.page = page.into_iter();
                }
                Err(error) => {
                    self.done = true;
                    return Some(Err(Error::from_host(error)));
                }
            }
        }
        self.page.next().map(|entry| Ok((entry.key, entry.value)))
    }
}
