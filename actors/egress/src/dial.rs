//! Where a request is connected to: the addresses of its host, once they are checked, and no others; or the proxy.
//!
//! Invariant: the address that is dialled is one that was checked for this very request. So a name that means something
//! else a moment later changes nothing, and the client looks no names up by itself.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::Arc,
};

use nexum_host_ifaces::{HostError, HostErrorKind};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::watch;
use url::{Host, Url};

use crate::{client::error, names::Resolver, networks::Rules, proxy::Proxy};

tokio::task_local! {
    /// The checked addresses of the request that this task sends. The client resolves where it sends, as it keeps no
    /// connections.
    pub(crate) static CHECKED: Vec<SocketAddr>;
}

/// Answers the client with what was checked.
pub(crate) struct Checked;

impl Resolve for Checked {
    fn resolve(&self, _: Name) -> Resolving {
        let checked = CHECKED.try_with(Vec::clone);
        Box::pin(async move {
            let addresses = checked.map_err(|_| "no address was checked for this connection")?;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// Where requests may be connected to, as the operator and the engine itself have it.
#[derive(Clone)]
pub(crate) struct Gate {
    pub names: Arc<Resolver>,
    /// Where the engine itself listens.
    pub listeners: watch::Receiver<Vec<SocketAddr>>,
    pub rules: Arc<Rules>,
    pub proxy: Option<Proxy>,
}

impl Gate {
    /// The addresses that a request to `url` may be connected to: those of its host, or of the proxy that sends it on.
    ///
    /// # Errors
    /// Those of `Resolver::resolve`, and `denied` when one of the host's addresses leads to a listener of the engine,
    /// when no module reaches any of them, or when the operator denies the host. A proxy looks the host up itself: that
    /// it is not found here is no error then.
    pub async fn addresses(&self, module: &Arc<str>, url: &Url) -> Result<Vec<SocketAddr>, HostError> {
        if url.host().is_some_and(|host| self.rules.denies(&host)) {
            let message = format!("{} is denied to modules by the operator: [egress] deny has it", place(url));
            return Err(error(HostErrorKind::Denied, message));
        }
        let checked = match self.find(module, url).await {
            Ok(found) => self.checked(url, found)?,
            Err(HostError { kind: HostErrorKind::Unavailable, .. }) if self.proxy.is_some() => Vec::new(),
            Err(why) => return Err(why),
        };
        let Some(proxy) = &self.proxy else { return Ok(checked) };
        let found = self.find(module, proxy.url()).await;
        found.map_err(|why| HostError { message: format!("the proxy {}", why.message), ..why })
    }

    /// The addresses of a URL's host, with its port.
    async fn find(&self, module: &Arc<str>, url: &Url) -> Result<Vec<SocketAddr>, HostError> {
        let mut found: Vec<SocketAddr> = match url.host() {
            Some(Host::Ipv4(address)) => vec![SocketAddr::from((address, 0))],
            Some(Host::Ipv6(address)) => vec![SocketAddr::from((address, 0))],
            Some(Host::Domain(name)) => {
                let found = self.names.resolve(module, name).await;
                found.map_err(|why| HostError { message: format!("{}: {}", place(url), why.message), ..why })?.to_vec()
            }
            None => return Err(error(HostErrorKind::InvalidInput, "the URL has no host")),
        };
        let port = url.port_or_known_default().unwrap_or(0);
        found.iter_mut().for_each(|address| address.set_port(port));
        Ok(found)
    }

    /// Those of a host's addresses that modules may reach: one that they may not is left out as long as there are
    /// others.
    fn checked(&self, url: &Url, found: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, HostError> {
        let own = self.listeners.borrow().clone();
        let (mut checked, mut refused, mut unknown) = (Vec::new(), None, None);
        for address in found {
            match (leads_to(address, &own, is_of_this_machine), self.rules.refusal(address.ip())) {
                (Ok(Some(listener)), _) => {
                    let message = format!("{} is the engine's own listener {listener}, closed to modules", place(url));
                    return Err(error(HostErrorKind::Denied, message));
                }
                (_, Some(why)) => refused = refused.or(Some(format!("{}{why}", address.ip()))),
                (Ok(None), None) => checked.push(address),
                (Err(why), None) => unknown = Some(why),
            }
        }
        match (refused, unknown) {
            _ if !checked.is_empty() => Ok(checked),
            (Some(why), _) => Err(error(HostErrorKind::Denied, format!("{} leads to {why}", place(url)))),
            (None, Some(why)) => {
                let message = format!("{}: cannot tell whether it is the engine's own listener: {why}", place(url));
                Err(error(HostErrorKind::Unavailable, message))
            }
            (None, None) => Ok(checked),
        }
    }
}

/// Scheme, host and port: paths and queries may hold secrets.
fn place(url: &Url) -> String {
    url.origin().ascii_serialization()
}

/// The one of the engine's listeners that a connection to this address would reach.
fn leads_to(
    to: SocketAddr,
    listeners: &[SocketAddr],
    is_of_this_machine: impl Fn(IpAddr) -> io::Result<bool>,
) -> io::Result<Option<SocketAddr>> {
    // An IPv4 address may be written inside an IPv6 one.
    let ip = to.ip().to_canonical();
    for &listener in listeners.iter().filter(|listener| listener.port() == to.port()) {
        let at = listener.ip().to_canonical();
        // The unspecified address is this machine to whoever connects, and all of its addresses to whoever listens.
        if ip.is_unspecified() || ip == at || (at.is_unspecified() && is_of_this_machine(ip)?) {
            return Ok(Some(listener));
        }
    }
    Ok(None)
}

/// Whether this is one of the machine's own addresses: only those can be bound. Where `ip_nonlocal_bind` is set it is
/// true of any, so that more is refused than must be.
fn is_of_this_machine(ip: IpAddr) -> io::Result<bool> {
    match UdpSocket::bind((ip, 0)) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engines_listeners_are_found_in_whatever_form_their_address_comes() {
        let own = |ip: IpAddr| Ok(ip.is_loopback() || ip == IpAddr::from([10, 0, 0, 5]));
        let found = |to: &str, listener: &str| {
            leads_to(to.parse().unwrap(), &["192.0.2.1:1".parse().unwrap(), listener.parse().unwrap()], own).unwrap()
        };
        for (to, listener) in [
            ("127.0.0.1:9090", "127.0.0.1:9090"),
            ("[::ffff:127.0.0.1]:9090", "127.0.0.1:9090"),
            ("0.0.0.0:9090", "127.0.0.1:9090"),
            ("[::]:9090", "127.0.0.1:9090"),
            ("[::ffff:0.0.0.0]:9090", "127.0.0.1:9090"),
            ("[::1]:9090", "[::1]:9090"),
            ("127.0.0.7:9090", "0.0.0.0:9090"),
            ("10.0.0.5:9090", "0.0.0.0:9090"),
            ("[::ffff:10.0.0.5]:9090", "[::]:9090"),
        ] {
            assert_eq!(found(to, listener), Some(listener.parse().unwrap()), "{to}");
        }
        for (to, listener) in [
            ("127.0.0.1:9091", "127.0.0.1:9090"),
            ("10.0.0.5:9090", "127.0.0.1:9090"),
            ("192.0.2.9:9090", "0.0.0.0:9090"),
        ] {
            assert_eq!(found(to, listener), None, "{to}");
        }
    }

    #[test]
    fn the_machine_knows_its_own_addresses() {
        assert!(is_of_this_machine(IpAddr::from([127, 0, 0, 9])).unwrap());
        // Reserved for documentation.
        let elsewhere = is_of_this_machine(IpAddr::from([192, 0, 2, 1])).unwrap();
        let nonlocal = std::fs::read_to_string("/proc/sys/net/ipv4/ip_nonlocal_bind").unwrap_or_default();
        assert_eq!(elsewhere, nonlocal.trim() == "1");
    }
}
