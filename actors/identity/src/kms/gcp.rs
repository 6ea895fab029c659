//! Cloud KMS of Google: `publicKey` and `asymmetricSign` of a version of a key, with the bearer token of a service account.

use alloy_primitives::B256;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use nexum_host_ifaces::HostError;
use reqwest::RequestBuilder;
use serde_json::json;
use zeroize::Zeroizing;

use super::{KmsSigner, secret_header};
use crate::config::Provider;

const PEM_BEGIN: &str = "-----BEGIN PUBLIC KEY-----";
const PEM_END: &str = "-----END PUBLIC KEY-----";

impl KmsSigner {
    pub(super) async fn gcp_public_key(&self) -> Result<Vec<u8>, HostError> {
        let url = self.gcp_url("/publicKey");
        let answer = self.exchange(self.authorized(self.server.http.get(url)).await?).await?;
        let key = answer["pem"].as_str().and_then(of_pem);
        key.ok_or_else(|| self.server.unavailable("its answer has no `pem` with a public key"))
    }

    pub(super) async fn gcp_signature(&self, hash: &B256) -> Result<Vec<u8>, HostError> {
        // The algorithm is the key's: it is called SHA-256 there, and hashes nothing.
        let body = json!({ "digest": { "sha256": STANDARD.encode(hash) } }).to_string();
        let request = self.server.http.post(self.gcp_url(":asymmetricSign"));
        let request = request.header("content-type", "application/json").body(body);
        let answer = self.exchange(self.authorized(request).await?).await?;
        self.field(&answer, "signature")
    }

    fn gcp_url(&self, rest: &str) -> url::Url {
        let mut url = self.server.url.clone();
        url.set_path(&format!("/v1/{}{rest}", self.kms.key));
        url
    }

    async fn authorized(&self, request: RequestBuilder) -> Result<RequestBuilder, HostError> {
        let Provider::Gcp { token } = &self.kms.provider else { unreachable!("Google is asked for its own keys") };
        let token = self.secret(token).await?;
        let bearer = Zeroizing::new(["Bearer ", token.as_str()].concat());
        Ok(request.header("authorization", secret_header(&bearer)?))
    }
}

fn of_pem(pem: &str) -> Option<Vec<u8>> {
    let text = pem.trim().strip_prefix(PEM_BEGIN)?.strip_suffix(PEM_END)?;
    STANDARD.decode(text.split_ascii_whitespace().collect::<String>()).ok()
}
