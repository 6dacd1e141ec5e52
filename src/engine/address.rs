//! Addresses as people write them: `1234`, `:1234`, `HOST:PORT`, `[::1]:1234`, `unix:/path`, `systemd`,
//! `systemd:NAME`; and networks: `10.0.0.0/8`, `2001:db8::/32`.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net};

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// A port on every interface, IPv4 and IPv6.
    AnyInterface(u16),
    /// A port of one host, by name or number.
    Host(String, u16),
    /// A Unix stream socket.
    Unix(PathBuf),
    /// Sockets that systemd listens on and hands over: those of this name, or all.
    Systemd(Option<String>),
}

/// The text is not an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidAddress(&'static str);

impl fmt::Display for InvalidAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}; an address is PORT, HOST:PORT, [IPV6]:PORT or unix:PATH",
            self.0
        )
    }
}

impl std::error::Error for InvalidAddress {}

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                "" => Err(InvalidAddress("the path is missing")),
                _ => Ok(Self::Unix(path.into())),
            };
        }
        if text == "systemd" {
            return Ok(Self::Systemd(None));
        }
        if let Some(name) = text.strip_prefix("systemd:") {
            return match name {
                "" => Err(InvalidAddress("the name is missing")),
                // systemd.socket(5), FileDescriptorName=.
                _ if name.contains(':') => Err(InvalidAddress("such a name has no colon")),
                _ => Ok(Self::Systemd(Some(name.to_owned()))),
            };
        }
        let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
        let port = match port.parse() {
            Ok(port) if !port_has_sign(text) => port,
            _ if !text.contains(':') && !text.is_empty() => {
                return Err(InvalidAddress("the port is missing"));
            }
            _ => return Err(InvalidAddress("the port is not a number from 0 to 65535")),
        };
        if host.is_empty() || host == "*" {
            return Ok(Self::AnyInterface(port));
        }
        let name = match host.strip_prefix('[').map(|host| host.strip_suffix(']')) {
            Some(Some(inner)) if is_ipv6(inner) => inner,
            Some(Some(_)) => return Err(InvalidAddress("only an IPv6 address stands in brackets")),
            Some(None) => return Err(InvalidAddress("the closing bracket is missing")),
            None if host.contains(':') => {
                return Err(InvalidAddress("an IPv6 address stands in brackets"));
            }
            None => host,
        };
        Ok(Self::Host(name.to_owned(), port))
    }
}

/// Rust reads `+80` as a number; a port has no sign.
fn port_has_sign(text: &str) -> bool {
    text.rsplit(':')
        .next()
        .is_some_and(|port| port.starts_with('+'))
}

/// An IPv6 address, with the zone of a link-local one behind it or without: `fe80::1%eth0`. Anything
/// else in brackets would, as it is shown, be another address: `[*]:80` the port on every interface.
fn is_ipv6(text: &str) -> bool {
    let (address, zone) = match text.split_once('%') {
        Some((address, zone)) => (address, Some(zone)),
        None => (text, None),
    };
    address.parse::<Ipv6Addr>().is_ok() && zone != Some("")
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AnyInterface(port) => write!(f, "port {port}"),
            Self::Host(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Host(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Systemd(None) => f.write_str("systemd"),
            Self::Systemd(Some(name)) => write!(f, "systemd:{name}"),
        }
    }
}

impl Address {
    /// The socket addresses that it stands for, each once; empty for what is none. For every
    /// interface it is the IPv6 wildcard, which serves IPv4 too, and behind it the IPv4 one, for
    /// machines without IPv6.
    ///
    /// # Errors
    /// The resolver's. This call may take as long as the resolver does.
    pub(super) fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        match self {
            Self::Unix(_) | Self::Systemd(_) => Ok(Vec::new()),
            Self::AnyInterface(port) => Ok(vec![
                (Ipv6Addr::UNSPECIFIED, *port).into(),
                (Ipv4Addr::UNSPECIFIED, *port).into(),
            ]),
            Self::Host(host, port) => {
                let mut found: Vec<SocketAddr> = Vec::new();
                for address in (host.as_str(), *port).to_socket_addrs()? {
                    if !found.contains(&address) {
                        found.push(address);
                    }
                }
                Ok(found)
            }
        }
    }
}

/// A network in CIDR notation (RFC 4632, section 3.1; RFC 4291, section 2.3), or one address. One of
/// IPv4-mapped addresses is an IPv4 network: as that its peers are shown, and matched.
///
/// # Errors
/// The text is none, or names an address within the network instead of the network.
pub fn network(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    let network = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => text.parse::<IpNet>().map_err(|_| {
            "a network is an address, alone or with the length of its prefix, as in 10.0.0.0/8"
                .to_owned()
        })?,
    };
    if network.addr() != network.network() {
        return Err(format!(
            "{} is an address in the network {}: write one of the two",
            network.addr(),
            network.trunc()
        ));
    }
    Ok(as_ipv4(network).unwrap_or(network))
}

/// The IPv4 network that a network of IPv4-mapped addresses stands for (RFC 4291, section 2.5.5.2).
fn as_ipv4(network: IpNet) -> Option<IpNet> {
    /// Bits in front of the IPv4 address.
    const MAPPED_BITS: u8 = 96;
    let IpAddr::V6(address) = network.addr() else {
        return None;
    };
    let bits = network.prefix_len().checked_sub(MAPPED_BITS)?;
    let network = Ipv4Net::new(address.to_ipv4_mapped()?, bits).ok()?;
    Some(network.into())
}

/// A socket address as records show it: an IPv4 peer of a dual-stack socket as IPv4.
pub(super) fn shown(address: SocketAddr) -> String {
    match address.ip().to_canonical() {
        // Without the scope, which `SocketAddr` of an IPv4 address has not.
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, address.port()).to_string(),
        IpAddr::V6(_) => address.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<Address>) {
        assert_eq!(text.parse().ok(), expected, "{text}");
    }

    fn host(name: &str, port: u16) -> Option<Address> {
        Some(Address::Host(name.to_owned(), port))
    }

    #[test]
    fn addresses_are_read_as_people_write_them() {
        check("1234", Some(Address::AnyInterface(1234)));
        check(":1234", Some(Address::AnyInterface(1234)));
        check("*:0", Some(Address::AnyInterface(0)));
        check("localhost:80", host("localhost", 80));
        check("10.0.0.1:80", host("10.0.0.1", 80));
        check("[::1]:80", host("::1", 80));
        check(
            "unix:/run/x.sock",
            Some(Address::Unix("/run/x.sock".into())),
        );
        check("systemd", Some(Address::Systemd(None)));
        check(
            "systemd:plc",
            Some(Address::Systemd(Some("plc".to_owned()))),
        );
        // That host is still to be had.
        check("systemd.:80", host("systemd.", 80));
        for bad in ["systemd:", "systemd:a:b", "systemd:a:1"] {
            check(bad, None);
        }
        for bad in [
            "", ":", "x", "65536", "-1", "+1", "::1", "::1:80", "[::1]", "[::1:80", "host:",
            "unix:", "1 ",
        ] {
            check(bad, None);
        }
    }

    fn check_network(text: &str, expected: Result<&str, &str>) {
        let read = network(text).map(|network| network.to_string());
        match (read, expected) {
            (Ok(read), Ok(expected)) => assert_eq!(read, expected, "{text}"),
            (Err(error), Err(part)) => assert!(error.contains(part), "{text}: {error}"),
            (read, _) => panic!("{text}: {read:?}"),
        }
    }

    #[test]
    fn networks_are_read_as_people_write_them() {
        check_network("10.0.0.0/8", Ok("10.0.0.0/8"));
        check_network("192.0.2.1", Ok("192.0.2.1/32"));
        check_network("2001:db8::/32", Ok("2001:db8::/32"));
        check_network("::1", Ok("::1/128"));
        check_network("0.0.0.0/0", Ok("0.0.0.0/0"));
        check_network("::ffff:192.0.2.0/120", Ok("192.0.2.0/24"));
        check_network("::ffff:192.0.2.1", Ok("192.0.2.1/32"));
        check_network("::/0", Ok("::/0"));
        check_network(" ::1", Ok("::1/128"));
        for bad in [
            "",
            "10",
            "10.0.0.0/33",
            "10.0.0.0/",
            "/8",
            "host/8",
            "::/129",
            "10.0.0.0/-1",
            "[::1]",
            "10.0.0.0 /8",
            "10.0.0.0/08x",
        ] {
            check_network(bad, Err("a network is"));
        }
        // It may be that host or the network that is meant: the one is much more than the other.
        check_network("10.0.0.5/8", Err("in the network 10.0.0.0/8"));
        check_network("2001:db8::1/32", Err("in the network 2001:db8::/32"));
    }

    #[test]
    fn brackets_hold_nothing_but_an_ipv6_address() {
        check("[fe80::1%eth0]:80", host("fe80::1%eth0", 80));
        check("[::ffff:192.0.2.1]:80", host("::ffff:192.0.2.1", 80));
        for bad in [
            "[]:80",
            "[*]:80",
            "[localhost]:80",
            "[192.0.2.1]:80",
            "[[::1]]:80",
            "[fe80::1%]:80",
            "[%eth0]:80",
        ] {
            check(bad, None);
        }
    }

    #[test]
    fn an_ipv4_peer_is_shown_as_ipv4() {
        let shown = |text: &str| shown(text.parse().expect("an address"));
        assert_eq!(shown("[::ffff:192.0.2.1]:5"), "192.0.2.1:5");
        assert_eq!(shown("192.0.2.1:5"), "192.0.2.1:5");
        assert_eq!(shown("[2001:db8::1]:5"), "[2001:db8::1]:5");
    }
}
