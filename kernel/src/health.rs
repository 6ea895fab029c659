//! Makes a module's health durable: what its failures have left of its budget, and whether it is to run.

use std::{sync::Arc, time::Duration};

use nexum_host_ifaces::{
    port::Port,
    store::{ModuleHealth, ModuleInfo, StoreError, StoreMsg},
};

/// Answers when it is durable.
///
/// # Errors
/// What the store says, or that it does not answer in time.
pub async fn put(
    store: &Port<StoreMsg>,
    deadline: Duration,
    name: &Arc<str>,
    health: ModuleHealth,
) -> Result<(), String> {
    let opened = store.call(deadline, |reply| StoreMsg::Open { name: name.clone(), reply }).await;
    let info: Result<ModuleInfo, StoreError> = opened.map_err(|error| error.to_string())?;
    let (module, health) = (info.map_err(|error| error.to_string())?.id, Box::new(health));
    let put = store.call(deadline, |reply| StoreMsg::PutHealth { module, health, reply }).await;
    put.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}
