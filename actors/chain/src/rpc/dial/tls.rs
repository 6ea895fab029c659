//! TLS of WebSockets, with the certificates of the system.

use std::{io, sync::Arc};

use rustls_native_certs::CertificateResult;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{ClientConfig, RootCertStore, pki_types::ServerName},
};
use url::{Host, Url};

/// TLS over a stream to the host of a URL.
pub(super) async fn connect<S>(url: &Url, stream: S) -> io::Result<TlsStream<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let host = match url.host() {
        Some(Host::Domain(name)) => name.to_owned(),
        Some(Host::Ipv4(address)) => address.to_string(),
        Some(Host::Ipv6(address)) => address.to_string(),
        None => String::new(),
    };
    let host = ServerName::try_from(host).map_err(|_| io::Error::other("the host has no name that TLS knows"))?;
    let CertificateResult { certs, errors, .. } = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // One that cannot be read counts for nothing.
    let (usable, _) = roots.add_parsable_certificates(certs);
    if usable == 0 {
        let why = errors.first().map_or_else(String::new, |error| format!(": {error}"));
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("the system has no certificates{why}")));
    }
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    TlsConnector::from(Arc::new(config)).connect(host, stream).await
}
