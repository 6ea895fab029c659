//! Typed cells over the store: one value, or many under a prefix.

use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Key, decode, delete, entries, get, set};
use crate::Result;

/// One typed value under a fixed key. Make it a `const`.
pub struct Item<T> {
    key: &'static str,
    value: PhantomData<fn() -> T>,
}

impl<T> Item<T> {
    pub const fn new(key: &'static str) -> Self {
        Self { key, value: PhantomData }
    }
}

impl<T: Serialize + DeserializeOwned> Item<T> {
    pub fn get(&self) -> Result<Option<T>> {
        get(self.key)
    }

    pub fn set(&self, value: &T) -> Result<()> {
        set(self.key, value)
    }

    /// Replaces the value by what `change` makes of it, and returns the new one.
    pub fn update(&self, change: impl FnOnce(Option<T>) -> T) -> Result<T> {
        let value = change(self.get()?);
        self.set(&value)?;
        Ok(value)
    }

    pub fn delete(&self) -> Result<()> {
        delete(self.key)
    }
}

/// Typed values by typed key, stored as `prefix/key`. Make it a `const`; no two prefixes may be equal, nor may one be
/// another followed by `/`.
pub struct Map<K, V> {
    prefix: &'static str,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K, V> Map<K, V> {
    pub const fn new(prefix: &'static str) -> Self {
        Self { prefix, types: PhantomData }
    }
}

impl<K: Key, V: Serialize + DeserializeOwned> Map<K, V> {
    pub fn get(&self, key: &K) -> Result<Option<V>> {
        get(&self.path(key))
    }

    pub fn set(&self, key: &K, value: &V) -> Result<()> {
        set(&self.path(key), value)
    }

    /// Replaces the value by what `change` makes of it, and returns the new one.
    pub fn update(&self, key: &K, change: impl FnOnce(Option<V>) -> V) -> Result<V> {
        let path = self.path(key);
        let value = change(get(&path)?);
        set(&path, &value)?;
        Ok(value)
    }

    pub fn delete(&self, key: &K) -> Result<()> {
        delete(&self.path(key))
    }

    /// Every entry in key order, read page by page.
    pub fn iter(&self) -> impl Iterator<Item = Result<(K, V)>> + use<K, V> {
        let prefix = format!("{}/", self.prefix);
        let skip = prefix.len();
        entries(&prefix).map(move |entry| {
            let (path, bytes) = entry?;
            Ok((K::from_key(&path[skip..])?, decode(&path, &bytes)?))
        })
    }

    fn path(&self, key: &K) -> String {
        format!("{}/{}", self.prefix, key.to_key())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Batch, SCAN_PAGE, get_bytes, keys, set_bytes};

    const TOTAL: Item<u64> = Item::new("total");
    const SEEN: Map<u64, String> = Map::new("seen");

    #[test]
    fn an_item_is_readable_json() {
        crate::testing::reset();
        assert_eq!(TOTAL.get().unwrap(), None);
        assert_eq!(TOTAL.update(|n| n.unwrap_or(40) + 2).unwrap(), 42);
        assert_eq!(get_bytes("total").unwrap().as_deref(), Some(b"42".as_slice()));
        TOTAL.delete().unwrap();
        assert_eq!(TOTAL.get().unwrap(), None);
    }

    #[test]
    fn a_map_iterates_in_key_order_over_many_pages() {
        crate::testing::reset();
        set_bytes("seen-not", b"{").unwrap();
        let count = u64::from(SCAN_PAGE) * 2 + 3;
        for n in (0..count).rev() {
            SEEN.set(&n, &format!("#{n}")).unwrap();
        }
        let all: Vec<_> = SEEN.iter().collect::<Result<_>>().unwrap();
        assert_eq!(all.len() as u64, count);
        assert!(all.iter().enumerate().all(|(at, (n, text))| *n == at as u64 && *text == format!("#{n}")));
    }

    #[test]
    fn a_value_of_another_type_is_an_error_that_names_the_key() {
        crate::testing::reset();
        set_bytes("total", b"\"text\"").unwrap();
        assert!(TOTAL.get().unwrap_err().to_string().contains("state key `total`"));
    }

    #[test]
    fn a_batch_is_one_write() {
        crate::testing::reset();
        set_bytes("old", b"1").unwrap();
        Batch::new().set("new", &2).unwrap().delete("old").apply().unwrap();
        assert_eq!(keys("").unwrap(), ["new"]);
    }
}
