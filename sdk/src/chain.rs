//! JSON-RPC to a chain that the manifest names, as plain text or JSON values. With the feature `alloy`,
//! [`provider`](crate::provider) puts alloy's typed interface on top.
//!
//! Calls are immediate and at-least-once: a retried event repeats them. Errors keep the node's numeric code, and the
//! bytes of a revert in [`Error::revert_data`](crate::Error::revert_data).

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::bindings::nexum::host::chain::{RpcRequest, RpcResult};
use crate::{Context, Error, Result, raw};

/// The block that the event at hand is of, in the place of `"latest"`, for `eth_call`, `eth_getBalance`, `eth_getCode`,
/// `eth_getProof`, `eth_getStorageAt` and `eth_getTransactionCount`. The host asks by the block's hash, so that another attempt
/// at the event, and a replay of it, read what the first one read; and modules that ask the same share one request.
///
/// Only events of a block of the chain that is asked have one: blocks and logs. With alloy, `BlockId::hash` of the block does
/// the same. Where the block was reorganized away, the error is one that [`Error::is_block_gone`] knows.
///
/// ```no_run
/// use nexum_sdk::chain;
/// let balance: String = chain::call(1, "eth_getBalance", ("0xd8dA6BF26964aF9D7eEd9e03E53415D37aA96045", chain::THIS_BLOCK))?;
/// # Ok::<(), nexum_sdk::Error>(())
/// ```
pub const THIS_BLOCK: &str = "this-block";

/// One request of a batch: a method, and the JSON text of its `params` array.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub params: String,
}

/// Calls `method` with `params` (anything that serialises to a JSON array) and reads its result.
///
/// ```no_run
/// let balance: String = nexum_sdk::chain::call(1, "eth_getBalance", ("0xd8dA6BF26964aF9D7eEd9e03E53415D37aA96045", "latest"))?;
/// # Ok::<(), nexum_sdk::Error>(())
/// ```
///
/// # Errors
/// `Unsupported` (−32002) for a chain that is not the module's, `Denied` (−32601) for a method that it may not call,
/// `Unavailable`, `Timeout` or `RateLimited` when no endpoint answers, `RateLimited` (−32029) when the module has used up the
/// budget that the operator gives it, and the node's own errors.
pub fn call<T: DeserializeOwned>(chain_id: u64, method: &str, params: impl Serialize) -> Result<T> {
    let text = request(chain_id, method, &serde_json::to_string(&params)?)?;
    serde_json::from_str(&text).context(format_args!("the answer to {method}"))
}

/// Calls `method` with the JSON text of its `params` array; returns the JSON text of the result.
///
/// # Errors
/// As [`call`].
pub fn request(chain_id: u64, method: &str, params: &str) -> Result<String> {
    raw::chain::request(chain_id, method, params).map_err(Error::from_host)
}

/// One JSON-RPC batch on the wire. The answers have the length and order of `requests`, each with its own error.
///
/// # Errors
/// As [`call`], when the batch as a whole could not be sent; `InvalidInput` for more than 100 requests.
pub fn request_batch(chain_id: u64, requests: Vec<Request>) -> Result<Vec<Result<String>>> {
    let requests: Vec<_> =
        requests.into_iter().map(|Request { method, params }| RpcRequest { method, params }).collect();
    let answers = raw::chain::request_batch(chain_id, &requests).map_err(Error::from_host)?;
    Ok(answers
        .into_iter()
        .map(|answer| match answer {
            RpcResult::Ok(text) => Ok(text),
            RpcResult::Err(error) => Err(Error::from_host(error)),
        })
        .collect())
}
