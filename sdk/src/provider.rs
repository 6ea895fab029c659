//! alloy's typed provider over the host's `chain` interface. A transport like any other, except that it answers before
//! its future is polled: a host call blocks. A packet with one request becomes `chain.request`, a batch one
//! `chain.request-batch`, so alloy's batches and multicalls reach the wire as they were composed.

use std::error::Error as StdError;
use std::future::{Future, IntoFuture};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use alloy_json_rpc::{
    ErrorPayload, RequestPacket, Response, ResponsePacket, ResponsePayload, RpcError, SerializedRequest,
};
use alloy_network::Ethereum;
use alloy_provider::RootProvider;
use alloy_rpc_client::RpcClient;
use alloy_transport::{TransportError, TransportErrorKind, TransportFut};
use serde_json::value::RawValue;
use tower::Service;

use crate::bindings::nexum::host::chain::{RpcRequest, RpcResult};
use crate::bindings::nexum::host::types::{HostError, HostErrorKind};
use crate::{Error, ErrorKind, raw};

pub use alloy_provider::Provider;

/// JSON-RPC code of a method that the host or the node does not offer.
const METHOD_DENIED: i32 = -32601;

/// A chain that the manifest names, as an alloy provider. Making one costs an allocation and no host call.
///
/// ```no_run
/// use nexum_sdk::{Provider, block_on, provider};
/// let head = block_on(provider(1).get_block_number())?;
/// # Ok::<(), nexum_sdk::Error>(())
/// ```
///
/// It has no fillers: a module's transactions are filled and signed by the host. What needs a background task does not
/// work: subscriptions, polling watchers and waiting for a receipt.
pub fn provider(chain_id: u64) -> RootProvider<Ethereum> {
    RootProvider::new(RpcClient::new(HostTransport { chain_id }, true))
}

/// Runs a future of this provider to its end.
///
/// # Panics
/// When the future waits for something that no host call brings, such as a timer or another task.
pub fn block_on<F: IntoFuture>(future: F) -> F::Output {
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    let woken = Arc::new(Woken(AtomicBool::new(false)));
    let waker = Waker::from(Arc::clone(&woken));
    let mut future = pin!(future.into_future());
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        assert!(woken.0.swap(false, Ordering::Relaxed), "the future waits for something that no host call brings");
    }
}

/// alloy's transport for one chain. [`provider`] makes it; it is public for an `RpcClient` with layers of its own.
#[derive(Clone, Copy, Debug)]
pub struct HostTransport {
    pub chain_id: u64,
}

impl Service<RequestPacket> for HostTransport {
    type Response = ResponsePacket;
    type Error = TransportError;
    type Future = TransportFut<'static>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, packet: RequestPacket) -> Self::Future {
        let Self { chain_id } = *self;
        Box::pin(async move {
            match packet {
                RequestPacket::Single(request) => single(chain_id, &request).map(ResponsePacket::Single),
                RequestPacket::Batch(requests) => batch(chain_id, &requests).map(ResponsePacket::Batch),
            }
        })
    }
}

fn single(chain_id: u64, request: &SerializedRequest) -> Result<Response, TransportError> {
    let answer = raw::chain::request(chain_id, request.method(), params(request));
    Ok(Response { id: request.id().clone(), payload: payload(answer)? })
}

fn batch(chain_id: u64, requests: &[SerializedRequest]) -> Result<Vec<Response>, TransportError> {
    let calls: Vec<_> = requests
        .iter()
        .map(|request| RpcRequest { method: request.method().to_owned(), params: params(request).to_owned() })
        .collect();
    let answers = raw::chain::request_batch(chain_id, &calls).map_err(transport_error)?;
    requests
        .iter()
        .zip(answers)
        .map(|(request, answer)| {
            let payload = match answer {
                RpcResult::Ok(text) => payload(Ok(text))?,
                // One refused call must not hide the answers of the others, so even the host's refusal is a payload.
                RpcResult::Err(error) => ResponsePayload::Failure(error_payload(error)),
            };
            Ok(Response { id: request.id().clone(), payload })
        })
        .collect()
}

fn params(request: &SerializedRequest) -> &str {
    request.params().map_or("[]", RawValue::get)
}

/// An answer of the node, good or bad, is a payload; what kept the host from getting one is a transport error.
fn payload(answer: Result<String, HostError>) -> Result<ResponsePayload, TransportError> {
    match answer {
        Ok(text) => RawValue::from_string(text)
            .map(ResponsePayload::Success)
            .map_err(|error| TransportError::deser_err(error, "the host's answer")),
        Err(error) if from_node(&error) => Ok(ResponsePayload::Failure(error_payload(error))),
        Err(error) => Err(transport_error(error)),
    }
}

fn from_node(error: &HostError) -> bool {
    /// Below are JSON-RPC codes such as 3 (reverted), and the negative ones; from here on it is an HTTP status.
    const HTTP_STATUS_MIN: i32 = 100;
    match error.kind {
        HostErrorKind::InvalidInput | HostErrorKind::Internal => error.code != 0 && error.code < HTTP_STATUS_MIN,
        _ => false,
    }
}

fn error_payload(error: HostError) -> ErrorPayload {
    // As a JSON string, because that is how nodes send revert bytes and how alloy looks for them.
    let data = error.data.and_then(|text| serde_json::value::to_raw_value(&text).ok());
    ErrorPayload { code: error.code.into(), message: error.message.into(), data }
}

fn transport_error(error: HostError) -> TransportError {
    let transient = Error::from_host(error.clone()).kind().is_transient();
    let error = Box::new(error);
    RpcError::Transport(if transient {
        TransportErrorKind::Custom(error)
    } else {
        TransportErrorKind::NonRetryable(error)
    })
}

/// The module's error for an alloy error, when it stands for an answer of the node.
pub(crate) fn typed_error(error: &(dyn StdError + 'static)) -> Option<Error> {
    let transport = match error.downcast_ref::<alloy_contract::Error>() {
        Some(alloy_contract::Error::TransportError(transport)) => transport,
        Some(_) => return None,
        None => error.downcast_ref::<TransportError>()?,
    };
    match transport {
        RpcError::ErrorResp(payload) => {
            let data = payload
                .data
                .as_deref()
                .map(|raw| serde_json::from_str::<String>(raw.get()).unwrap_or_else(|_| raw.get().to_owned()));
            let code = i32::try_from(payload.code).unwrap_or_default();
            let kind = if code == METHOD_DENIED { ErrorKind::Denied } else { ErrorKind::InvalidInput };
            Some(Error::new(kind, &payload.message).in_domain("chain").with_code(code, data))
        }
        RpcError::Transport(TransportErrorKind::Custom(inner) | TransportErrorKind::NonRetryable(inner)) => {
            inner.downcast_ref::<HostError>().map(|host| Error::from_host(host.clone()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use alloy_primitives::{Address, U256};
    use alloy_rpc_types_eth::TransactionRequest;

    fn host_error(kind: ErrorKind, code: i32, data: Option<&str>) -> Error {
        Error::new(kind, "execution reverted").in_domain("chain").with_code(code, data.map(str::to_owned))
    }

    #[test]
    fn a_single_request_and_its_params() {
        testing::reset();
        testing::on_chain(|chain_id, method, params| {
            assert_eq!((chain_id, method), (5, "eth_getBalance"));
            assert_eq!(params, r#"["0x1111111111111111111111111111111111111111","latest"]"#);
            Ok("\"0x2a\"".to_owned())
        });
        let balance = block_on(provider(5).get_balance(Address::repeat_byte(0x11))).unwrap();
        assert_eq!(balance, U256::from(42));
    }

    #[test]
    fn a_batch_keeps_its_order_and_each_error() {
        testing::reset();
        testing::on_chain(|_, method, params| match method {
            "eth_chainId" if params == "[]" => Ok("\"0x5\"".to_owned()),
            "eth_blockNumber" => Err(host_error(ErrorKind::Denied, -32601, None)),
            other => Err(Error::msg(other)),
        });
        let provider = provider(5);
        let mut batch = alloy_rpc_client::BatchRequest::new(provider.client());
        let chain = batch.add_call::<_, U256>("eth_chainId", &()).unwrap();
        let head = batch.add_call::<_, U256>("eth_blockNumber", &()).unwrap();
        block_on(async {
            batch.send().await.unwrap();
            assert_eq!(chain.await.unwrap(), U256::from(5));
            let error = head.await.unwrap_err();
            assert_eq!(error.as_error_resp().map(|payload| payload.code), Some(-32601));
            assert_eq!(Error::from(error).kind(), ErrorKind::Denied);
        });
    }

    #[test]
    fn a_revert_keeps_code_and_bytes_through_alloy() {
        testing::reset();
        testing::on_chain(|_, _, _| Err(host_error(ErrorKind::InvalidInput, 3, Some("0x08c379a0"))));
        let error = block_on(provider(5).call(TransactionRequest::default())).unwrap_err();
        let payload = error.as_error_resp().unwrap();
        assert_eq!(payload.code, 3);
        assert_eq!(payload.as_revert_data().unwrap().as_ref(), [0x08, 0xc3, 0x79, 0xa0]);
        let error = Error::from(error);
        assert_eq!((error.domain(), error.kind(), error.code()), ("chain", ErrorKind::InvalidInput, 3));
        assert_eq!(error.revert_data(), Some(vec![0x08, 0xc3, 0x79, 0xa0]));
    }

    #[test]
    fn a_transport_failure_keeps_its_kind_through_alloy() {
        testing::reset();
        for (kind, code) in [(ErrorKind::Timeout, 0), (ErrorKind::RateLimited, 429), (ErrorKind::Unsupported, -32002)] {
            testing::on_chain(move |_, _, _| Err(host_error(kind, code, Some("1500"))));
            let error = Error::from(block_on(provider(5).get_block_number()).unwrap_err());
            assert_eq!((error.kind(), error.code(), error.data()), (kind, code, Some("1500")));
        }
    }

    #[test]
    #[should_panic(expected = "no host call brings")]
    fn a_future_that_nothing_wakes_is_a_panic_and_not_a_hang() {
        block_on(std::future::pending::<()>());
    }
}
