//! What a guest calls of `http`: requests to hosts that its grants allow.

use std::{sync::Arc, time::Duration};

use crate::{
    HostError,
    bindings::nexum::host::http,
    call::{Call, not_in_query},
    grants::Grant,
    interfaces::http::grant::CAPABILITY,
    interfaces::http::port::{EgressMsg, Fetch, Header, Request, Response, check},
};

impl http::Host for Call {
    async fn fetch(&mut self, request: Request) -> Result<Response, HostError> {
        // Charged first: a call over the limit has brought its arguments, too.
        let carried = weight(&request.headers, request.body.as_deref().unwrap_or_default());
        self.take(request.method.len() + request.url.len() + carried);
        self.count("http")?;
        // A library is linked once, for events and queries alike.
        if self.grants().get(CAPABILITY) == Some(Grant::NotInQuery) {
            return Err(not_in_query(CAPABILITY.name(), "`http.fetch`"));
        }
        check(&request.method, &request.url, &request.headers, request.body.as_deref(), &self.grants().hosts())?;
        self.request(request).await
    }
}

impl Call {
    /// Sends a request that is charged, counted and checked, and waits for its answer, both of which a recording has.
    pub(crate) async fn request(&mut self, request: Request) -> Result<Response, HostError> {
        let limit = self.limits().host_call_deadline;
        let deadline = request.timeout_ms.map_or(limit, |ms| limit.min(Duration::from_millis(ms.into())));
        let asked = self.ask("http.fetch", &request);
        let fetch = Box::new(Fetch {
            module: self.module().clone(),
            library: self.library().map(|library| library.principal().clone()),
            request,
            allow: Arc::new(self.grants().hosts()),
            deadline,
            max_reply_bytes: self.limits().max_reply_bytes,
            is_effect: false,
        });
        let egress = self.ports().of::<EgressMsg>();
        let live = async {
            let answer = egress.call(deadline, |reply| EgressMsg::Fetch { fetch, reply }).await;
            answer.map_err(|error| error.to_host_error("http"))?
        };
        let response = self.reach(asked, "http", live).await?;
        self.give(weight(&response.headers, &response.body));
        Ok(response)
    }
}

/// What headers and a body take, bytes. Headers without a character take something, too.
pub(crate) fn weight(headers: &[Header], body: &[u8]) -> usize {
    let text: usize = headers.iter().map(|header| header.name.len() + header.value.len()).sum();
    size_of_val(headers) + text + body.len()
}
