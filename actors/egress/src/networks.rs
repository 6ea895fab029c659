//! Hosts and networks that no module reaches: what the operator denies, and what is not the public internet, unless the
//! operator allows it.
//!
//! Invariant: an address is judged by what is reached through it. One that has an IPv4 address inside, as those of
//! translators and tunnels have, is judged by both.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use nexum_host_ifaces::interfaces::http::grant::{self, Allowlist};
use url::Host;

const fn v4(address: [u8; 4], length: u8) -> IpNet {
    let [a, b, c, d] = address;
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length))
}

/// By the first three groups of its address.
const fn v6(groups: [u16; 3], length: u8) -> IpNet {
    let [a, b, c] = groups;
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), length))
}

/// What is not the public internet, by the names that people know it by: what IANA's registries of special-purpose
/// addresses say is not reached from everywhere, and of IPv6 all that is not assigned. The first that fits is told.
const CLOSED: [(IpNet, &str); 35] = [
    (v4([0, 0, 0, 0], 32), "unspecified"),
    (v4([0, 0, 0, 0], 8), "reserved"),
    (v4([10, 0, 0, 0], 8), "private"),
    (v4([100, 64, 0, 0], 10), "carrier-grade NAT"),
    (v4([127, 0, 0, 0], 8), "loopback"),
    (v4([169, 254, 0, 0], 16), "link-local"),
    (v4([172, 16, 0, 0], 12), "private"),
    // The host below a virtual machine, which tells this one its secrets.
    (v4([168, 63, 129, 16], 32), "cloud provider's"),
    (v4([192, 0, 0, 0], 24), "reserved"),
    (v4([192, 0, 2, 0], 24), "documentation"),
    (v4([192, 88, 99, 0], 24), "6to4 relay"),
    (v4([192, 168, 0, 0], 16), "private"),
    (v4([198, 18, 0, 0], 15), "benchmark"),
    (v4([198, 51, 100, 0], 24), "documentation"),
    (v4([203, 0, 113, 0], 24), "documentation"),
    (v4([224, 0, 0, 0], 4), "multicast"),
    (v4([255, 255, 255, 255], 32), "broadcast"),
    (v4([240, 0, 0, 0], 4), "reserved"),
    (v6([0, 0, 0], 128), "unspecified"),
    (IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128)), "loopback"),
    (v6([0, 0, 0], 96), "IPv4-compatible"),
    (v6([0x64, 0xff9b, 1], 48), "local NAT64"),
    (v6([0x100, 0, 0], 64), "discard"),
    (v6([0x2001, 0, 0], 32), "Teredo"),
    (v6([0x2001, 2, 0], 48), "benchmark"),
    (v6([0x2001, 0xdb8, 0], 32), "documentation"),
    (v6([0x2001, 0, 0], 23), "reserved"),
    (v6([0x3fff, 0, 0], 20), "documentation"),
    (v6([0xfc00, 0, 0], 7), "unique-local"),
    (v6([0xfe80, 0, 0], 10), "link-local"),
    (v6([0xfec0, 0, 0], 10), "site-local"),
    (v6([0xff00, 0, 0], 8), "multicast"),
    // The public addresses are those of 2000::/3.
    (v6([0, 0, 0], 3), "reserved"),
    (v6([0x4000, 0, 0], 2), "reserved"),
    (v6([0x8000, 0, 0], 1), "reserved"),
];

/// NAT64's own network: where it is used, every host that has IPv4 alone has its address there.
const NAT64: IpNet = v6([0x64, 0xff9b, 0], 96);

/// An entry as networks are written: a network, or one address. Of an IPv4 address inside an IPv6 one the usual form.
///
/// # Errors
/// What would be right.
fn network(text: &str) -> Result<IpNet, String> {
    let wrong = |meant: String| {
        Err(format!("`{text}`: expected a network such as 10.0.0.0/8 or fd00::/8, or one address{meant}"))
    };
    let written = text.trim();
    let Ok(found) = written.parse::<IpNet>().or_else(|_| written.parse::<IpAddr>().map(IpNet::from)) else {
        return wrong(String::new());
    };
    let meant = match found.trunc() {
        IpNet::V6(inside) if inside.prefix_len() >= 96 => match inside.addr().to_ipv4_mapped() {
            Some(address) => IpNet::V4(Ipv4Net::new_assert(address, inside.prefix_len() - 96)),
            None => IpNet::V6(inside),
        },
        network => network,
    };
    if meant == found { Ok(found) } else { wrong(format!("; write `{meant}`")) }
}

/// What the operator says of hosts and addresses. The default denies no host, and allows no network that is closed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rules {
    allowed: Vec<IpNet>,
    denied: Vec<IpNet>,
    denied_hosts: Allowlist,
}

impl Rules {
    /// The rules of `[egress]`: networks that are allowed although they are closed, and hosts, `*.suffix` and networks
    /// that are denied whatever else holds.
    ///
    /// # Errors
    /// The entry that cannot be used, as its key and its place in the list, and what would be right.
    pub fn new(allow_networks: &[String], deny: &[String]) -> Result<Self, (String, String)> {
        let mut rules = Self::default();
        for (index, entry) in allow_networks.iter().enumerate() {
            rules.allowed.push(network(entry).map_err(|wrong| (format!("allow_networks.{index}"), wrong))?);
        }
        let mut hosts = Vec::new();
        for (index, entry) in deny.iter().enumerate() {
            let wrong = |wrong: String| (format!("deny.{index}"), wrong);
            let begin = entry.split('/').next().unwrap_or_default().trim();
            if entry.contains('/') && begin.parse::<IpAddr>().is_ok() {
                rules.denied.push(network(entry).map_err(wrong)?);
                continue;
            }
            let host = grant::pattern(entry).map_err(wrong)?;
            match Host::parse(&host) {
                Ok(Host::Ipv4(address)) => rules.denied.push(IpNet::from(IpAddr::from(address))),
                Ok(Host::Ipv6(address)) => rules.denied.push(IpNet::from(IpAddr::from(address).to_canonical())),
                // A suffix is no host.
                Ok(Host::Domain(_)) | Err(_) => hosts.push(host),
            }
        }
        rules.denied_hosts = Allowlist::new(hosts);
        Ok(rules)
    }

    /// Whether the operator denies a host by its name.
    pub(crate) fn denies(&self, host: &Host<&str>) -> bool {
        self.denied_hosts.allows(host)
    }

    /// Why no module reaches an address, if so; a sentence goes on with it behind the address.
    pub(crate) fn refusal(&self, address: IpAddr) -> Option<String> {
        let told = |form: IpAddr| if form == address { String::new() } else { format!(", which is {form}") };
        for form in forms(address) {
            if let Some(network) = self.denied.iter().find(|network| network.contains(&form)) {
                return Some(format!("{}, denied by the operator: [egress] deny has {network}", told(form)));
            }
        }
        forms(address).find_map(|form| {
            let (network, kind) = CLOSED.iter().find(|(network, _)| network.contains(&form))?;
            let is_open = NAT64.contains(&form) || self.allowed.iter().any(|allowed| allowed.contains(&form));
            let closed = "closed to modules unless the operator has it in [egress] allow_networks";
            (!is_open).then(|| format!("{}, in the {kind} network {network}, {closed}", told(form)))
        })
    }
}

/// An address in its usual form, and the IPv4 address inside it.
fn forms(address: IpAddr) -> impl Iterator<Item = IpAddr> {
    let address = address.to_canonical();
    let inside = match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => inside(address),
    };
    [Some(address), inside.map(IpAddr::V4)].into_iter().flatten()
}

/// The IPv4 address that packets to an IPv6 address are sent on to, where its form says so.
fn inside(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [_, _, a, b, c, d, .., w, x, y, z] = address.octets();
    let last = Ipv4Addr::new(w, x, y, z);
    match address.segments() {
        // The unspecified address and that of the loopback.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        // Compatible, and translated.
        [0, 0, 0, 0, 0, 0, _, _] | [0, 0, 0, 0, 0xffff, 0, _, _] => Some(last),
        // NAT64, everywhere and of one network.
        [0x64, 0xff9b, 0, 0, 0, 0, _, _] | [0x64, 0xff9b, 1, ..] => Some(last),
        // 6to4.
        [0x2002, ..] => Some(Ipv4Addr::new(a, b, c, d)),
        // Teredo turns every bit of it round.
        [0x2001, 0, ..] => Some(Ipv4Addr::from_bits(!last.to_bits())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(allow: &[&str], deny: &[&str]) -> Result<Rules, (String, String)> {
        let owned = |entries: &[&str]| entries.iter().map(|entry| (*entry).to_owned()).collect::<Vec<_>>();
        Rules::new(&owned(allow), &owned(deny))
    }

    fn refusal(rules: &Rules, address: &str) -> Option<String> {
        rules.refusal(address.parse().unwrap())
    }

    #[test]
    fn what_is_not_the_public_internet_is_refused_in_whatever_form_it_is_written() {
        for (address, network) in [
            ("127.0.0.1", "loopback network 127.0.0.0/8"),
            ("127.255.255.254", "loopback network 127.0.0.0/8"),
            ("0.0.0.0", "unspecified network 0.0.0.0/32"),
            ("0.1.2.3", "reserved network 0.0.0.0/8"),
            ("10.0.0.1", "private network 10.0.0.0/8"),
            ("172.16.0.1", "private network 172.16.0.0/12"),
            ("172.31.255.255", "private network 172.16.0.0/12"),
            ("192.168.1.1", "private network 192.168.0.0/16"),
            ("169.254.169.254", "link-local network 169.254.0.0/16"),
            ("100.64.0.1", "carrier-grade NAT network 100.64.0.0/10"),
            ("100.100.100.200", "carrier-grade NAT network 100.64.0.0/10"),
            ("168.63.129.16", "cloud provider's network 168.63.129.16/32"),
            ("192.0.0.192", "reserved network 192.0.0.0/24"),
            ("192.0.2.1", "documentation network 192.0.2.0/24"),
            ("192.88.99.1", "6to4 relay network 192.88.99.0/24"),
            ("198.19.255.255", "benchmark network 198.18.0.0/15"),
            ("198.51.100.7", "documentation network 198.51.100.0/24"),
            ("203.0.113.7", "documentation network 203.0.113.0/24"),
            ("224.0.0.1", "multicast network 224.0.0.0/4"),
            ("240.0.0.1", "reserved network 240.0.0.0/4"),
            ("255.255.255.255", "broadcast network 255.255.255.255/32"),
            ("::", "unspecified network ::/128"),
            ("::1", "loopback network ::1/128"),
            ("::8.8.8.8", "IPv4-compatible network ::/96"),
            ("::ffff:0:8.8.8.8", "reserved network ::/3"),
            ("::ffff:127.0.0.1", "which is 127.0.0.1, in the loopback network 127.0.0.0/8"),
            ("::ffff:a9fe:a9fe", "which is 169.254.169.254, in the link-local network 169.254.0.0/16"),
            ("64:ff9b::10.0.0.1", "which is 10.0.0.1, in the private network 10.0.0.0/8"),
            ("64:ff9b::a9fe:a9fe", "which is 169.254.169.254, in the link-local network 169.254.0.0/16"),
            ("64:ff9b:1::8.8.8.8", "local NAT64 network 64:ff9b:1::/48"),
            ("64:ff9b:2::1", "reserved network ::/3"),
            ("100::1", "discard network 100::/64"),
            ("100:0:0:1::1", "reserved network ::/3"),
            ("2002:a9fe:a9fe::1", "which is 169.254.169.254, in the link-local network 169.254.0.0/16"),
            ("2002:7f00:1::", "which is 127.0.0.1, in the loopback network 127.0.0.0/8"),
            ("2001:0:808:808::f7f7:f7f7", "Teredo network 2001::/32"),
            ("2001:2::1", "benchmark network 2001:2::/48"),
            ("2001:20::1", "reserved network 2001::/23"),
            ("2001:db8::1", "documentation network 2001:db8::/32"),
            ("3fff::1", "documentation network 3fff::/20"),
            ("5f00::1", "reserved network 4000::/2"),
            ("fc00::1", "unique-local network fc00::/7"),
            ("fd00:ec2::254", "unique-local network fc00::/7"),
            ("fe80::1", "link-local network fe80::/10"),
            ("febf::1", "link-local network fe80::/10"),
            ("fec0::1", "site-local network fec0::/10"),
            ("ff02::1", "multicast network ff00::/8"),
            ("e000::1", "reserved network 8000::/1"),
        ] {
            let told = refusal(&Rules::default(), address).unwrap_or_else(|| panic!("{address} is reached"));
            let closed = "closed to modules unless the operator has it in [egress] allow_networks";
            assert!(told.ends_with(&format!("{network}, {closed}")), "{address}{told}");
        }
        for address in [
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.1",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "2002:808:808::1",
            "2001:200::1",
            "2001:4860:4860::8888",
            "2606:4700::1111",
            "2a00:1450::1",
        ] {
            assert_eq!(refusal(&Rules::default(), address), None, "{address}");
        }
    }

    #[test]
    fn what_the_operator_allows_is_reached_in_every_form_and_nothing_beside_it() {
        let open = rules(&["127.0.0.0/8", "::1/128", " 10.1.2.3 ", "fd12::/16"], &[]).unwrap();
        let reached = ["127.0.0.1", "127.9.9.9", "::ffff:127.0.0.1", "::1", "10.1.2.3", "64:ff9b::10.1.2.3", "fd12::1"];
        for address in reached {
            assert_eq!(refusal(&open, address), None, "{address}");
        }
        for address in ["10.1.2.4", "::", "0.0.0.0", "fd13::1", "::127.0.0.1", "169.254.169.254"] {
            assert!(refusal(&open, address).is_some(), "{address}");
        }
        // A tunnel that is allowed leads to no address that is not.
        let tunnels = rules(&["2001::/32", "64:ff9b:1::/48", "::/96"], &[]).unwrap();
        for (address, through) in [
            ("2001:0:808:808::f7f7:f7f7", None),
            ("2001:0:808:808::f5ff:fffe", Some("10.0.0.1")),
            ("64:ff9b:1::8.8.8.8", None),
            ("64:ff9b:1::127.0.0.1", Some("127.0.0.1")),
            ("::127.0.0.1", Some("127.0.0.1")),
        ] {
            let told = refusal(&tunnels, address);
            assert_eq!(told.is_some(), through.is_some(), "{address}: {told:?}");
            let through = through.map_or_else(String::new, |through| format!(", which is {through}, in the "));
            assert!(told.unwrap_or_default().starts_with(&through), "{address}");
        }
    }

    #[test]
    fn what_the_operator_denies_is_refused_whatever_is_allowed() {
        let deny = ["*.Internal", "b\u{fc}cher.example.", "127.1", "8.8.8.0/24", "2606:4700::/32", "::ffff:9.9.9.9"];
        let denying = rules(&["127.0.0.0/8"], &deny).unwrap();
        for (host, denied) in [
            ("db.internal", true),
            ("a.b.INTERNAL.", true),
            ("internal", false),
            ("db.internal.example", false),
            ("xn--bcher-kva.example", true),
            ("a.org", false),
        ] {
            let host = Host::parse(host).unwrap().to_string();
            assert_eq!(denying.denies(&Host::Domain(host.as_str())), denied, "{host}");
        }
        for (address, network) in [
            ("127.0.0.1", "127.0.0.1/32"),
            ("::ffff:127.0.0.1", "127.0.0.1/32"),
            ("8.8.8.8", "8.8.8.0/24"),
            ("64:ff9b::8.8.8.8", "8.8.8.0/24"),
            ("2002:808:808::1", "8.8.8.0/24"),
            ("9.9.9.9", "9.9.9.9/32"),
            ("2606:4700::1", "2606:4700::/32"),
        ] {
            let told = refusal(&denying, address).unwrap();
            assert!(told.ends_with(&format!(", denied by the operator: [egress] deny has {network}")), "{told}");
        }
        assert_eq!((refusal(&denying, "127.0.0.2"), refusal(&denying, "8.8.4.4")), (None, None));
    }

    #[test]
    fn an_entry_that_stands_for_nothing_is_refused_with_what_would_be_right() {
        let expected = "expected a network such as 10.0.0.0/8 or fd00::/8, or one address";
        for (entry, meant) in [
            ("localhost", ""),
            ("10.0.0.0/33", ""),
            ("10.0.0.0/", ""),
            ("", ""),
            ("fe80::1%eth0", ""),
            ("10.0.0.1/8", "; write `10.0.0.0/8`"),
            ("fd00::1/8", "; write `fd00::/8`"),
            ("::ffff:10.0.0.0/104", "; write `10.0.0.0/8`"),
            ("::ffff:10.0.0.1", "; write `10.0.0.1/32`"),
        ] {
            let wrong = rules(&["127.0.0.1", entry], &[]).unwrap_err();
            assert_eq!(wrong, ("allow_networks.1".to_owned(), format!("`{entry}`: {expected}{meant}")));
        }
        for (entry, wrong) in [
            ("10.0.0.1/8", "; write `10.0.0.0/8`"),
            ("::/129", expected),
            ("https://a.org/", "; write `a.org`"),
            (".internal", "; write `*.internal`"),
            ("*", "expected an exact host, or *.suffix, without scheme, port and path"),
        ] {
            let (key, told) = rules(&[], &[entry]).unwrap_err();
            assert!(key == "deny.0" && told.ends_with(wrong), "{key}: {told}");
        }
    }
}
