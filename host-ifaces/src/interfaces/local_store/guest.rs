//! What a guest calls of `local-store`: reads and writes of the unit's state, and `flush`.

use wasmtime::component::{HasData, Linker};

use crate::{
    HostError, HostErrorKind,
    bindings::nexum::host::local_store::{self, Entry, Write},
    call::Call,
    grants::{LIBRARY_STATE, Library},
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

    /// A key or the beginning of one, as the state has it: those of a library are below its own prefix, and no module has any
    /// there.
    fn placed(&self, what: &str, key: String) -> Result<String, HostError> {
        let key = match self.call.library() {
            Some(library) => library.prefix().to_owned() + &key,
            None if key.starts_with(LIBRARY_STATE) => {
                return Err(invalid(format!("{what} that begins with U+10FFFF, as those of libraries do")));
            }
            None => key,
        };
        check_key(what, &key)?;
        Ok(key)
    }

    /// Of what was listed, what the caller may see, with its own names: keys of libraries come after all others.
    fn own(&self, mut entries: Vec<(String, Vec<u8>)>) -> Vec<(String, Vec<u8>)> {
        match self.call.library().map(Library::prefix) {
            Some(prefix) => entries.iter_mut().for_each(|(key, _)| drop(key.drain(..prefix.len()))),
            None => {
                let own = entries.iter().take_while(|(key, _)| !key.starts_with(LIBRARY_STATE)).count();
                entries.truncate(own);
            }
        }
        entries
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
        let key = self.placed("a key", key)?;
        let value = self.unit.state().get(&key);
        self.unit.state().note_read(key);
        if let Ok(Some(value)) = &value {
            self.call.give(value.len());
        }
        value
    }

    fn set(&mut self, key: String, value: Vec<u8>) -> Result<(), HostError> {
        self.write_call("set", key.len() + value.len())?;
        let key = self.placed("a key", key)?;
        let done = self.unit.state().put(key, Some(value));
        self.store_called();
        done
    }

    fn delete(&mut self, key: String) -> Result<(), HostError> {
        self.write_call("delete", key.len())?;
        let key = self.placed("a key", key)?;
        let done = self.unit.state().put(key, None);
        self.store_called();
        done
    }

    fn list_keys(&mut self, prefix: String) -> Result<Vec<String>, HostError> {
        self.store_call(prefix.len())?;
        let prefix = self.placed("a prefix", prefix)?;
        self.unit.state().note_scan(&prefix, None, LIST_ENTRIES_MAX + 1);
        let entries = self.unit.state().list(&prefix, None, LIST_ENTRIES_MAX + 1, usize::MAX);
        self.store_called();
        let entries = self.own(entries?);
        if entries.len() > LIST_ENTRIES_MAX {
            return Err(invalid(format!(
                "more than {LIST_ENTRIES_MAX} keys start with `{prefix}`: page with list-entries"
            )));
        }
        Ok(entries.into_iter().map(|(key, _)| key).collect())
    }

    fn list_entries(&mut self, prefix: String, after: Option<String>, limit: u32) -> Result<Vec<Entry>, HostError> {
        self.store_call(prefix.len() + after.as_ref().map_or(0, String::len))?;
        let prefix = self.placed("a prefix", prefix)?;
        let after = after.map(|after| self.placed("`after`", after)).transpose()?;
        let limit = (limit as usize).min(LIST_ENTRIES_MAX);
        self.unit.state().note_scan(&prefix, after.as_deref(), limit);
        let entries = self.unit.state().list(&prefix, after.as_deref(), limit, self.call.limits().max_reply_bytes);
        self.store_called();
        let mut entries = self.own(entries?);
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
        let placed = |write: Write| match write {
            Write::Put(Entry { key, value }) => self.placed("a key", key).map(|key| Write::Put(Entry { key, value })),
            Write::Delete(key) => self.placed("a key", key).map(Write::Delete),
        };
        let writes = writes.into_iter().map(placed).collect::<Result<Vec<_>, _>>()?;
        let done = self.unit.state().apply(writes);
        self.store_called();
        done
    }

    async fn flush(&mut self) -> Result<(), HostError> {
        self.write_call("flush", 0)?;
        if let Some(library) = self.call.library() {
            // The writes so far are the module's, too, and it alone knows whether they may stand without the rest.
            let message = format!("library `{}` may not flush: its module may", library.name());
            return Err(HostError::new("local-store", HostErrorKind::Denied, message));
        }
        self.unit.flush(self.call).await
    }
}
