//! What a guest calls of `local-store`: reads and writes of the unit's state, and `flush`.

use wasmtime::component::{HasData, Linker};

use crate::{
    HostError,
    bindings::nexum::host::local_store::{self, Entry, Write},
    call::Call,
    host::HostState,
    unit::Unit,
    unit::overlay::{LIST_ENTRIES_MAX, check_key, invalid},
};

/// What `local-store` sees of a module's Store.
pub(crate) struct View<'a> {
    pub call: &'a mut Call,
    pub unit: &'a mut Unit,
}

struct HasView;

impl HasData for HasView {
    type Data<'a> = View<'a>;
}

/// The interface for a linker.
pub(crate) fn link(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    local_store::add_to_linker::<_, HasView>(linker, |state| View::of(state))
}

impl<'a> View<'a> {
    pub(crate) fn of(state: &'a mut HostState) -> Self {
        let (call, unit) = state.call_and_unit();
        Self { call, unit }
    }
}

impl View<'_> {
    /// Begins a call with so many bytes of arguments.
    fn store_call(&mut self, argument_bytes: usize) -> Result<(), HostError> {
        self.call.take(argument_bytes);
        self.call.count("local-store")
    }

    /// Begins a call that would change what is kept.
    fn write_call(&mut self, what: &str, argument_bytes: usize) -> Result<(), HostError> {
        self.store_call(argument_bytes)?;
        self.call.may_change("local-store", what)
    }

    /// Ends a call: what it read and copied is counted.
    fn store_called(&mut self) {
        let copied = self.unit.state().take_copied();
        self.call.give(copied);
    }
}

impl local_store::Host for View<'_> {
    fn get(&mut self, key: String) -> Result<Option<Vec<u8>>, HostError> {
        self.store_call(key.len())?;
        check_key("a key", &key)?;
        let value = self.unit.state().get(&key);
        self.unit.state().note_read(key);
        if let Ok(Some(value)) = &value {
            self.call.give(value.len());
        }
        value
    }

    fn set(&mut self, key: String, value: Vec<u8>) -> Result<(), HostError> {
        self.write_call("set", key.len() + value.len())?;
        let done = self.unit.state().put(key, Some(value));
        self.store_called();
        done
    }

    fn delete(&mut self, key: String) -> Result<(), HostError> {
        self.write_call("delete", key.len())?;
        let done = self.unit.state().put(key, None);
        self.store_called();
        done
    }

    fn list_keys(&mut self, prefix: String) -> Result<Vec<String>, HostError> {
        self.store_call(prefix.len())?;
        check_key("a prefix", &prefix)?;
        self.unit.state().note_scan(&prefix, None, LIST_ENTRIES_MAX + 1);
        let entries = self.unit.state().list(&prefix, None, LIST_ENTRIES_MAX + 1, usize::MAX);
        self.store_called();
        let entries = entries?;
        if entries.len() > LIST_ENTRIES_MAX {
            return Err(invalid(format!(
                "more than {LIST_ENTRIES_MAX} keys start with `{prefix}`: page with list-entries"
            )));
        }
        Ok(entries.into_iter().map(|(key, _)| key).collect())
    }

    fn list_entries(&mut self, prefix: String, after: Option<String>, limit: u32) -> Result<Vec<Entry>, HostError> {
        self.store_call(prefix.len() + after.as_ref().map_or(0, String::len))?;
        check_key("a prefix", &prefix)?;
        check_key("`after`", after.as_deref().unwrap_or_default())?;
        let limit = (limit as usize).min(LIST_ENTRIES_MAX);
        self.unit.state().note_scan(&prefix, after.as_deref(), limit);
        let entries = self.unit.state().list(&prefix, after.as_deref(), limit, self.call.limits().max_reply_bytes);
        self.store_called();
        let mut entries = entries?;
        // Cut like by `limit`: the guest pages on from the last key.
        let mut bytes = 0;
        let mut fits = |(key, value): &(String, Vec<u8>)| {
            bytes += key.len() + value.len();
            bytes <= self.call.limits().max_reply_bytes
        };
        let kept = entries.iter().take_while(|entry| fits(entry)).count();
        entries.truncate(kept.max(1));
        Ok(entries.into_iter().map(|(key, value)| Entry { key, value }).collect())
    }

    fn apply(&mut self, writes: Vec<Write>) -> Result<(), HostError> {
        let bytes = |write: &Write| match write {
            Write::Put(Entry { key, value }) => key.len() + value.len(),
            Write::Delete(key) => key.len(),
        };
        self.write_call("apply", writes.iter().map(|write| size_of::<Write>() + bytes(write)).sum())?;
        // The call itself is counted already.
        self.call.count_more(writes.len().saturating_sub(1) as u64);
        let done = self.unit.state().apply(writes);
        self.store_called();
        done
    }

    async fn flush(&mut self) -> Result<(), HostError> {
        self.write_call("flush", 0)?;
        self.unit.flush(self.call).await
    }
}
