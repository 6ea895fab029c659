//! AWS KMS: `GetPublicKey` and `Sign` of its JSON protocol, in requests that are signed with Signature Version 4.

use alloy_primitives::B256;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use chrono::DateTime;
use hmac::{Hmac, Mac as _};
use nexum_host_ifaces::{HostError, HostErrorKind};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use url::Position;
use zeroize::Zeroizing;

use super::{KmsSigner, secret_header};
use crate::{
    config::{Aws, Provider},
    request::error,
};

const CONTENT_TYPE: &str = "application/x-amz-json-1.1";

/// What is signed, of the longest session tokens: a buffer that grows leaves parts of them behind.
const CANONICAL_BYTES: usize = 8 * 1024;

/// Of one request.
struct Credentials {
    access_key_id: Zeroizing<String>,
    secret_access_key: Zeroizing<String>,
    session_token: Option<Zeroizing<String>>,
}

/// What is signed of a request, besides the credentials.
struct Parts<'a> {
    region: &'a str,
    host: &'a str,
    target: &'a str,
    body: &'a str,
    /// Such as `20261128T070000Z`.
    date: &'a str,
}

impl KmsSigner {
    pub(super) async fn aws_public_key(&self) -> Result<Vec<u8>, HostError> {
        let answer = self.call("TrentService.GetPublicKey", &json!({ "KeyId": self.kms.key })).await?;
        self.field(&answer, "PublicKey")
    }

    pub(super) async fn aws_signature(&self, hash: &B256) -> Result<Vec<u8>, HostError> {
        let body = json!({
            "KeyId": self.kms.key,
            "Message": STANDARD.encode(hash),
            "MessageType": "DIGEST",
            "SigningAlgorithm": "ECDSA_SHA_256",
        });
        let answer = self.call("TrentService.Sign", &body).await?;
        self.field(&answer, "Signature")
    }

    async fn call(&self, target: &str, body: &Value) -> Result<Value, HostError> {
        let Provider::Aws(aws) = &self.kms.provider else { unreachable!("AWS is asked for its own keys") };
        let credentials = self.credentials(aws).await?;
        let (url, body, date) = (&self.server.url, body.to_string(), date(self.clock.now_ms())?);
        let host = &url[Position::BeforeHost..Position::AfterPort];
        let parts = Parts { region: &aws.region, host, target, body: &body, date: &date };
        let authorization = secret_header(&authorization(&credentials, &parts))?;
        let request = self.server.http.post(url.clone());
        let request = request.header("content-type", CONTENT_TYPE).header("x-amz-date", &date);
        let request = request.header("x-amz-target", target).header("authorization", authorization);
        let request = match &credentials.session_token {
            Some(token) => request.header("x-amz-security-token", secret_header(token)?),
            None => request,
        };
        self.exchange(request.body(body)).await
    }

    async fn credentials(&self, aws: &Aws) -> Result<Credentials, HostError> {
        let session_token = match &aws.session_token {
            Some(token) => Some(self.secret(token).await?),
            None => None,
        };
        Ok(Credentials {
            access_key_id: self.secret(&aws.access_key_id).await?,
            secret_access_key: self.secret(&aws.secret_access_key).await?,
            session_token,
        })
    }
}

fn date(now_ms: u64) -> Result<String, HostError> {
    let time = i64::try_from(now_ms).ok().and_then(DateTime::from_timestamp_millis);
    let time = time.ok_or_else(|| error(HostErrorKind::Internal, format!("{now_ms} is no time")))?;
    Ok(time.format("%Y%m%dT%H%M%SZ").to_string())
}

/// The header of that name, as Signature Version 4 wants it.
fn authorization(credentials: &Credentials, parts: &Parts<'_>) -> Zeroizing<String> {
    let Parts { region, host, target, body, date } = parts;
    let token = credentials.session_token.as_ref().map(|token| ("x-amz-security-token", token.as_str()));
    // In the order of their names.
    let headers = [("content-type", CONTENT_TYPE), ("host", *host), ("x-amz-date", *date)];
    let headers: Vec<_> = headers.into_iter().chain(token).chain([("x-amz-target", *target)]).collect();
    let names = headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
    let mut canonical = Zeroizing::new(String::with_capacity(CANONICAL_BYTES));
    canonical.push_str("POST\n/\n\n");
    for (name, value) in headers {
        canonical.extend([name, ":", value, "\n"]);
    }
    canonical.extend(["\n", names.as_str(), "\n", hex::encode(Sha256::digest(body)).as_str()]);
    let day = date.split('T').next().unwrap_or_default();
    let scope = format!("{day}/{region}/kms/aws4_request");
    let signed = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hex::encode(Sha256::digest(canonical.as_bytes())));
    let mut key = Zeroizing::new(["AWS4", credentials.secret_access_key.as_str()].concat().into_bytes());
    for step in [day, *region, "kms", "aws4_request"] {
        key = keyed_hash(&key, step);
    }
    let signature = hex::encode(keyed_hash(&key, &signed).as_slice());
    let id = credentials.access_key_id.as_str();
    Zeroizing::new(format!("AWS4-HMAC-SHA256 Credential={id}/{scope}, SignedHeaders={names}, Signature={signature}"))
}

fn keyed_hash(key: &[u8], text: &str) -> Zeroizing<Vec<u8>> {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { unreachable!("HMAC takes a key of any length") };
    mac.update(text.as_bytes());
    Zeroizing::new(mac.finalize().into_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The signatures are those that botocore 1.44.8 makes.
    #[test]
    fn requests_are_signed_as_aws_signs_them() {
        let date = date(1_795_827_723_000).unwrap();
        assert_eq!(date, "20261128T010203Z");
        let sign = |host: &str, token: Option<&str>| {
            let text = |text: &str| Zeroizing::new(text.to_owned());
            let credentials = Credentials {
                access_key_id: text("AKIDEXAMPLE"),
                secret_access_key: text("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"),
                session_token: token.map(text),
            };
            let (target, body) = ("TrentService.GetPublicKey", "{\"KeyId\":\"alias/one\"}");
            authorization(&credentials, &Parts { region: "eu-central-1", host, target, body, date: &date })
        };
        let aws = "kms.eu-central-1.amazonaws.com";
        for (host, token, names, signature) in [
            (aws, None, "", "9263f31dc845046e58f7b9263c4d5f3ac2b08fc44a3cfd1afb6dd5ff7dfdfe41"),
            ("127.0.0.1:5055", None, "", "79b561ae8e9f33f97582b65d934de90629c8ad0e8631627b7349652b5077a0b9"),
            (
                aws,
                Some("T0KEN//+="),
                "x-amz-security-token;",
                "6dfebd15f97140c03a0a05ea4bcbadc3cd9ad92256f35bf996d735bb8a02465b",
            ),
        ] {
            let wanted = format!(
                "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20261128/eu-central-1/kms/aws4_request, \
                 SignedHeaders=content-type;host;x-amz-date;{names}x-amz-target, Signature={signature}"
            );
            assert_eq!(sign(host, token).as_str(), wanted);
        }
    }
}
