//! Makes a module's health durable: what its failures have left of its budget, and whether it is to run.

use std::{sync::Arc, time::Duration};

use nexum_host_ifaces::{
    port::Port,
    store::{ModuleHealth, ModuleId, ModuleInfo, StoreError, StoreMsg},
};

/// What a change of it came to: how it is now, or why it was not to be changed.
pub type Changed = Result<ModuleHealth, String>;

/// What is stored of a module, its health included.
///
/// # Errors
/// What the store says, or that it does not answer in time.
pub async fn read(store: &Port<StoreMsg>, deadline: Duration, name: &Arc<str>) -> Result<ModuleInfo, String> {
    let opened = store.call(deadline, |reply| StoreMsg::Open { name: name.clone(), reply }).await;
    let info: Result<ModuleInfo, StoreError> = opened.map_err(|error| error.to_string())?;
    info.map_err(|error| error.to_string())
}

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
    let module = read(store, deadline, name).await?.id;
    put_of(store, deadline, module, health).await
}

/// Reads it, has it changed, and answers when that is durable.
///
/// # Errors
/// What the store says, or that it does not answer in time.
pub async fn change(
    store: &Port<StoreMsg>,
    deadline: Duration,
    name: &Arc<str>,
    change: impl FnOnce(&mut ModuleHealth) -> Result<(), String>,
) -> Result<Changed, String> {
    let ModuleInfo { id, mut health, .. } = read(store, deadline, name).await?;
    if let Err(reason) = change(&mut health) {
        return Ok(Err(reason));
    }
    put_of(store, deadline, id, health.clone()).await.map(|()| Ok(health))
}

async fn put_of(
    store: &Port<StoreMsg>,
    deadline: Duration,
    module: ModuleId,
    health: ModuleHealth,
) -> Result<(), String> {
    let health = Box::new(health);
    let put = store.call(deadline, |reply| StoreMsg::PutHealth { module, health, reply }).await;
    put.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}
