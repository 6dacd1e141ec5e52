//! Whether a peer is let in: by its address, and by how many of it are here already.
//!
//! Addresses are compared as they are shown: an IPv4 peer of a dual-stack socket as IPv4.

use core::net::IpAddr;
use std::collections::HashMap;

use ipnet::IpNet;

/// Who may connect.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Only peers of these networks; every peer, where none is named.
    pub allow: Vec<IpNet>,
    /// No peers of these networks, whatever `allow` says.
    pub deny: Vec<IpNet>,
    /// Connections of one address at once.
    pub max_conns_per_ip: Option<usize>,
}

/// Why a peer is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is of a network that is denied.
    Denied,
    /// It is of no network that is allowed.
    NotAllowed,
    /// As many of its address are here as may be.
    TooMany,
}

/// The rules, and who is here.
#[derive(Debug)]
pub(super) struct Admission {
    config: Config,
    /// Connections by address: only of addresses that have any, and only where that is limited.
    here: HashMap<IpAddr, usize>,
}

impl Admission {
    pub(super) fn new(config: Config) -> Self {
        Self {
            config,
            here: HashMap::new(),
        }
    }

    /// Whether one more peer of this address may come. A peer without one, at a Unix socket, may: there
    /// the permissions of folders rule.
    pub(super) fn check(&self, ip: Option<IpAddr>) -> Result<(), Refusal> {
        let Some(ip) = ip.map(|ip| ip.to_canonical()) else {
            return Ok(());
        };
        let Config {
            allow,
            deny,
            max_conns_per_ip,
        } = &self.config;
        let is_in = |networks: &[IpNet]| networks.iter().any(|network| network.contains(&ip));
        if is_in(deny) {
            return Err(Refusal::Denied);
        }
        if !allow.is_empty() && !is_in(allow) {
            return Err(Refusal::NotAllowed);
        }
        let here = || self.here.get(&ip).copied().unwrap_or(0);
        match max_conns_per_ip {
            Some(most) if here() >= *most => Err(Refusal::TooMany),
            _ => Ok(()),
        }
    }

    /// A peer of this address has come. What is returned is to be handed back when it goes.
    pub(super) fn handle_come(&mut self, ip: Option<IpAddr>) -> Option<IpAddr> {
        let ip = ip.filter(|_| self.config.max_conns_per_ip.is_some())?;
        let ip = ip.to_canonical();
        *self.here.entry(ip).or_insert(0) += 1;
        Some(ip)
    }

    /// A peer has gone that had been counted by this address.
    pub(super) fn handle_gone(&mut self, ip: IpAddr) {
        if let Some(here) = self.here.get_mut(&ip) {
            *here -= 1;
            if *here == 0 {
                self.here.remove(&ip);
            }
        }
    }

    /// Addresses that are kept: none without a peer.
    pub(super) fn addresses(&self) -> usize {
        self.here.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(texts: &[&str]) -> Vec<IpNet> {
        let network = |text: &&str| text.parse().expect("a network");
        texts.iter().map(network).collect()
    }

    fn check(allow: &[&str], deny: &[&str], ip: &str, expected: Result<(), Refusal>) {
        let admission = Admission::new(Config {
            allow: networks(allow),
            deny: networks(deny),
            max_conns_per_ip: None,
        });
        let ip = ip.parse().expect("an address");
        assert_eq!(admission.check(Some(ip)), expected, "{ip}");
        assert_eq!(admission.check(None), Ok(()), "a Unix peer");
    }

    #[test]
    fn without_rules_everybody_may_come() {
        check(&[], &[], "192.0.2.1", Ok(()));
        check(&[], &[], "2001:db8::1", Ok(()));
    }

    #[test]
    fn only_allowed_networks_may_come_and_denied_ones_never() {
        let (allow, deny) = (&["192.0.2.0/24", "2001:db8::/32"], &["192.0.2.128/25"]);
        check(allow, deny, "192.0.2.127", Ok(()));
        check(allow, deny, "192.0.2.128", Err(Refusal::Denied));
        check(allow, deny, "192.0.3.1", Err(Refusal::NotAllowed));
        check(allow, deny, "2001:db8:ffff::1", Ok(()));
        check(allow, deny, "2001:db9::1", Err(Refusal::NotAllowed));
        check(&[], deny, "198.51.100.7", Ok(()));
        // More precise or not: who is denied stays out.
        check(
            &["192.0.2.129/32"],
            deny,
            "192.0.2.129",
            Err(Refusal::Denied),
        );
    }

    #[test]
    fn an_ipv4_peer_of_a_dual_stack_socket_is_matched_as_ipv4() {
        check(&["192.0.2.0/24"], &[], "::ffff:192.0.2.1", Ok(()));
        check(
            &[],
            &["192.0.2.0/24"],
            "::ffff:192.0.2.1",
            Err(Refusal::Denied),
        );
        check(&["::/0"], &[], "::ffff:192.0.2.1", Err(Refusal::NotAllowed));
        check(&["0.0.0.0/0"], &[], "::1", Err(Refusal::NotAllowed));
    }

    #[test]
    fn peers_of_one_address_are_counted_as_they_come_and_go() {
        let mut admission = Admission::new(Config {
            max_conns_per_ip: Some(2),
            ..Config::default()
        });
        let [one, mapped, other] = ["192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2"]
            .map(|ip| Some(ip.parse().expect("an address")));
        let counted = admission.handle_come(one).expect("it is counted");
        assert_eq!(admission.check(mapped), Ok(()));
        assert_eq!(admission.handle_come(mapped), Some(counted));
        assert_eq!(admission.check(one), Err(Refusal::TooMany));
        assert_eq!(admission.check(other), Ok(()));
        admission.handle_gone(counted);
        assert_eq!(admission.check(one), Ok(()));
        admission.handle_gone(counted);
        assert_eq!(admission.addresses(), 0);
        // Who has no address is not counted.
        assert_eq!(admission.handle_come(None), None);
    }
}
