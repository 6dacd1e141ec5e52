//! Addresses as people write them: `1234`, `:1234`, `HOST:PORT`, `[::1]:1234`, `unix:/path`.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// A port on every interface, IPv4 and IPv6.
    AnyInterface(u16),
    /// A port of one host, by name or number.
    Host(String, u16),
    /// A Unix stream socket.
    Unix(PathBuf),
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
            Some(Some(inner)) => inner,
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

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AnyInterface(port) => write!(f, "port {port}"),
            Self::Host(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Host(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Address {
    /// The socket addresses that it stands for, each once; empty for a Unix socket. For every
    /// interface it is the IPv6 wildcard, which serves IPv4 too, and behind it the IPv4 one, for
    /// machines without IPv6.
    ///
    /// # Errors
    /// The resolver's. This call may take as long as the resolver does.
    pub(super) fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        match self {
            Self::Unix(_) => Ok(Vec::new()),
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

/// A socket address as records show it: an IPv4 peer of a dual-stack socket as IPv4.
pub(super) fn shown(address: SocketAddr) -> String {
    match address.ip().to_canonical() {
        // Without the scope, which `SocketAddr` of an IPv4 address has not.
        ip @ std::net::IpAddr::V4(_) => SocketAddr::new(ip, address.port()).to_string(),
        std::net::IpAddr::V6(_) => address.to_string(),
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
        for bad in [
            "", ":", "x", "65536", "-1", "+1", "::1", "::1:80", "[::1]", "[::1:80", "host:",
            "unix:", "1 ",
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
