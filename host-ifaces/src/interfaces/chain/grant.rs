//! What of a chain a module may ask: the chains that it is granted, the methods that only read, and those beyond them that
//! its manifest asks for and the operator allows.

use std::collections::BTreeSet;

use crate::{
    HostError, HostErrorKind,
    bounded::{NAME_BYTES_MAX, cut},
    capability::Capability,
    grants::Grants,
    interfaces::{
        chain::port::{CODE_METHOD_DENIED, CODE_UNKNOWN_CHAIN},
        table::Key,
    },
};

pub const CAPABILITY: Capability = Capability::named("chain");

/// The key of the methods beyond the standard ones.
pub const EXTRA_METHODS: &str = "extra_methods";

pub(super) const TABLE: &[Key] = &[Key {
    name: EXTRA_METHODS,
    is_required: false,
    entries_max: 64,
    entry_bytes_max: 64,
    read: |method| Ok(method.to_owned()),
}];

/// The methods that one module may call and another one may not.
pub(super) fn beyond(grants: &Grants, other: &Grants) -> Vec<String> {
    let all = |grants: &Grants| grants.extra_methods().iter().cloned().collect::<BTreeSet<_>>();
    all(grants).difference(&all(other)).map(|method| format!("method {method}")).collect()
}

/// The methods that every module with a chain may call.
const READ_METHODS: &[&str] = &[
    "eth_blockNumber",
    "eth_call",
    "eth_chainId",
    "eth_estimateGas",
    "eth_feeHistory",
    "eth_gasPrice",
    "eth_maxPriorityFeePerGas",
    "eth_getBalance",
    "eth_getBlockByHash",
    "eth_getBlockByNumber",
    "eth_getBlockReceipts",
    "eth_getCode",
    "eth_getLogs",
    "eth_getProof",
    "eth_getStorageAt",
    "eth_getTransactionByHash",
    "eth_getTransactionCount",
    "eth_getTransactionReceipt",
    "net_version",
];

/// Whether it uses the keys of somebody, or names them.
fn is_wallets(method: &str) -> bool {
    let is_eth =
        |name: &str| name.starts_with("sign") || ["accounts", "requestAccounts", "sendTransaction"].contains(&name);
    let is_its = |prefix| method.starts_with(prefix);
    method.strip_prefix("eth_").is_some_and(is_eth) || is_its("personal_") || is_its("wallet_")
}

impl Grants {
    /// With the methods beyond the standard ones that are both asked for and allowed.
    pub fn with_extra_methods(self, extra_methods: impl IntoIterator<Item = String>) -> Self {
        let tables = self.tables().clone().with(CAPABILITY, EXTRA_METHODS, extra_methods);
        self.with_tables(tables)
    }

    /// The methods that the module may call besides those that every module may.
    pub fn extra_methods(&self) -> &[String] {
        self.tables().list(CAPABILITY, EXTRA_METHODS).map_or(&[], |methods| methods)
    }

    /// Whether the module may ask this of this chain.
    ///
    /// # Errors
    /// `unsupported` (−32002) for a chain that is not granted, `denied` (−32601) for a method.
    pub fn rpc(&self, module: &str, chain_id: u64, method: &str) -> Result<(), HostError> {
        self.chain(module, chain_id)?;
        self.method(method)
    }

    /// Whether the module may ask anything of this chain.
    ///
    /// # Errors
    /// `unsupported` (−32002).
    pub fn chain(&self, module: &str, chain_id: u64) -> Result<(), HostError> {
        if self.chains().contains(&chain_id) {
            return Ok(());
        }
        let message = format!("chain {chain_id} is not available to module {module}");
        Err(HostError::new("chain", HostErrorKind::Unsupported, message).with_code(CODE_UNKNOWN_CHAIN))
    }

    /// Whether the module may call this method, on any chain.
    ///
    /// # Errors
    /// `denied` (−32601).
    pub fn method(&self, method: &str) -> Result<(), HostError> {
        if READ_METHODS.contains(&method) || self.extra_methods().iter().any(|extra| extra == method) {
            return Ok(());
        }
        let name = cut(method, NAME_BYTES_MAX);
        let message = match is_wallets(method) {
            true => format!(
                "method {name} is a wallet's: accounts sign through eth_sendTransaction, personal_sign and eth_signTypedData_v4 \
                 where the manifest lists `identity` in [capabilities] and the method in [capabilities.identity], and a policy \
                 of the operator's ([[identity.policies]]) allows it. A node is asked only what is in `extra_methods` of the \
                 manifest and of the operator's [[modules]]"
            ),
            false => format!("method {name} is not available to modules"),
        };
        Err(HostError::new("chain", HostErrorKind::Denied, message).with_code(CODE_METHOD_DENIED))
    }
}
