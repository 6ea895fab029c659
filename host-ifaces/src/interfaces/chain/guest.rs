//! What a guest calls of `chain`: requests that its grants allow, with answers of a bounded size.

use crate::{
    HostError, HostErrorKind,
    bindings::nexum::host::chain::{self, RpcRequest, RpcResult},
    call::Call,
    interfaces::chain::{
        block,
        port::{BATCH_REQUESTS_MAX, ChainMsg, REQUEST_BYTES_MAX},
    },
    port::Port,
};

impl Call {
    fn chain_port(&self, chain_id: u64) -> Result<Port<ChainMsg>, HostError> {
        self.grants().chain(self.module(), chain_id)?;
        let unserved = || HostError::new("chain", HostErrorKind::Internal, format!("chain {chain_id} has no port"));
        self.ports().chain(chain_id).cloned().ok_or_else(unserved)
    }

    /// Begins a call with methods and parameters of so many bytes.
    fn begin_request(&mut self, bytes: usize) -> Result<(), HostError> {
        // Charged first: a call over the limit has brought its arguments, too.
        self.take(bytes);
        self.count("chain")?;
        if bytes > REQUEST_BYTES_MAX {
            let message = format!("a request of {bytes} bytes, at most {REQUEST_BYTES_MAX}");
            return Err(HostError::new("chain", HostErrorKind::InvalidInput, message));
        }
        Ok(())
    }

    /// The parameters, with the block of the event at hand in the place of the tag that stands for it.
    fn at_this_block(&self, chain_id: u64, method: &str, params: String) -> Result<String, HostError> {
        Ok(block::pinned(method, &params, chain_id, self.block_of(chain_id))?.unwrap_or(params))
    }

    fn check_reply(&self, text: String) -> Result<String, HostError> {
        let limit = self.limits().max_reply_bytes;
        self.give(text.len());
        if text.len() > limit {
            let message = format!("the reply of {} bytes is larger than the limit of {limit}", text.len());
            return Err(HostError::new("chain", HostErrorKind::InvalidInput, message));
        }
        Ok(text)
    }
}

impl chain::Host for Call {
    async fn request(&mut self, chain_id: u64, method: String, params: String) -> Result<String, HostError> {
        self.begin_request(method.len() + params.len())?;
        let port = self.chain_port(chain_id)?;
        if let Some(answer) = self.wallet(chain_id, &method, &params).await {
            return self.check_reply(answer?);
        }
        self.grants().method(&method)?;
        let params = self.at_this_block(chain_id, &method, params)?;
        let budget = Some(self.grants().rpc_budget());
        let (deadline, reply_bytes_max) = (self.limits().host_call_deadline, self.limits().max_reply_bytes);
        let asked = self.ask("chain.request", &(chain_id, &method, &params));
        let module = self.module().clone();
        let live = async {
            let request =
                |reply| ChainMsg::Request { module, budget, method, params, deadline, reply_bytes_max, reply };
            let reply = port.call(deadline, request).await;
            reply.map_err(|error| error.to_host_error("chain"))?
        };
        let reply = self.reach(asked, "chain", live).await?;
        self.check_reply(reply)
    }

    async fn request_batch(&mut self, chain_id: u64, requests: Vec<RpcRequest>) -> Result<Vec<RpcResult>, HostError> {
        // Requests without a character take something, too.
        self.take(size_of_val(requests.as_slice()));
        self.begin_request(requests.iter().map(|request| request.method.len() + request.params.len()).sum())?;
        let port = self.chain_port(chain_id)?;
        if requests.len() > BATCH_REQUESTS_MAX {
            let message = format!("{} requests in one batch, at most {BATCH_REQUESTS_MAX}", requests.len());
            return Err(HostError::new("chain", HostErrorKind::InvalidInput, message));
        }
        // What is not allowed, or is a wallet's to answer, is answered here; the rest goes out as one batch and is put back
        // in its place.
        let mut results: Vec<Option<Result<String, HostError>>> = Vec::with_capacity(requests.len());
        let mut allowed = Vec::with_capacity(requests.len());
        for RpcRequest { method, params } in requests {
            if let Some(answer) = self.wallet(chain_id, &method, &params).await {
                // A signature is a call of its own.
                self.count_more(1);
                results.push(Some(answer));
                continue;
            }
            let granted = self.grants().method(&method);
            match granted.and_then(|()| self.at_this_block(chain_id, &method, params)) {
                Ok(params) => {
                    allowed.push((method, params));
                    results.push(None);
                }
                Err(denied) => results.push(Some(Err(denied))),
            }
        }
        let mut answers = Vec::new();
        if !allowed.is_empty() {
            let (deadline, reply_bytes_max) = (self.limits().host_call_deadline, self.limits().max_reply_bytes);
            let sent = allowed.len();
            let asked = self.ask("chain.request-batch", &(chain_id, &allowed));
            let (module, budget) = (self.module().clone(), Some(self.grants().rpc_budget()));
            let live = async {
                let batch = |reply| {
                    let requests = allowed;
                    ChainMsg::RequestBatch { module, budget, requests, deadline, reply_bytes_max, reply }
                };
                let reply = port.call(deadline, batch).await;
                reply.map_err(|error| error.to_host_error("chain"))?
            };
            let reply = self.reach(asked, "chain", live).await?;
            if reply.len() != sent {
                let message = format!("{} answers to a batch of {sent}", reply.len());
                return Err(HostError::new("chain", HostErrorKind::Internal, message));
            }
            answers = reply;
        }
        let mut answers = answers.into_iter();
        let mut total_bytes = 0;
        let mut merged = Vec::with_capacity(results.len());
        let missing = || Err(HostError::new("chain", HostErrorKind::Internal, "an answer is missing"));
        for slot in results {
            merged.push(match slot.or_else(|| answers.next()).unwrap_or_else(missing) {
                Ok(text) => {
                    total_bytes += text.len();
                    RpcResult::Ok(text)
                }
                Err(error) => RpcResult::Err(error),
            });
        }
        self.give(total_bytes);
        if total_bytes > self.limits().max_reply_bytes {
            let limit = self.limits().max_reply_bytes;
            let message = format!("the replies of {total_bytes} bytes are larger than the limit of {limit}");
            return Err(HostError::new("chain", HostErrorKind::InvalidInput, message));
        }
        Ok(merged)
    }
}
