//! Addresses and networks as nobody would write them.
//!
//! * Nothing panics, and what is neither is refused in one sentence.
//! * What an address is shown as means the same address, but for a port on every interface, which is
//!   shown in words.
//! * What the standard library takes for a socket address is that host and that port.
//! * What a network is shown as means the same network, and an address alone the network of it alone.

#![no_main]

use std::net::{IpAddr, SocketAddr};

use libfuzzer_sys::fuzz_target;
use wiretape::engine::address::{Address, network};

fuzz_target!(|text: &str| {
    check_address(text);
    check_network(text);
});

fn check_address(text: &str) {
    let address = match text.parse::<Address>() {
        Ok(address) => address,
        Err(error) => {
            assert!(text.parse::<SocketAddr>().is_err(), "{error}");
            assert!(!error.to_string().contains('\n'));
            return;
        }
    };
    match &address {
        Address::AnyInterface(port) => assert_eq!(address.to_string(), format!("port {port}")),
        Address::Host(..) | Address::Unix(_) | Address::Systemd(_) => {
            assert_eq!(address.to_string().parse(), Ok(address.clone()));
        }
    }
    if let Ok(known) = text.parse::<SocketAddr>() {
        let Address::Host(host, port) = address else {
            panic!("{address} has no host");
        };
        assert_eq!(port, known.port());
        let host = host.split('%').next().unwrap_or_default();
        assert_eq!(host.parse::<IpAddr>(), Ok(known.ip()));
    }
}

fn check_network(text: &str) {
    let address = text.parse::<IpAddr>();
    match network(text) {
        Ok(found) => {
            assert_eq!(network(&found.to_string()), Ok(found));
            if let Ok(address) = address {
                assert_eq!(found.addr(), address.to_canonical());
                assert_eq!(found.prefix_len(), found.max_prefix_len());
            }
        }
        Err(error) => {
            assert!(address.is_err() && !error.contains('\n'), "{error}");
        }
    }
}
