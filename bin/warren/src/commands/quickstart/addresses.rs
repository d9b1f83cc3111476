//! At which address others may reach this machine, best first.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use anyhow::{Context, Result, bail};
use warren_os::{DEFAULT_INTERFACE, Uplinks};

/// Hosts for the address that machines are told, best first: what a person `wanted`, else the one told `before` if it
/// is still this machine's, else the best found.
pub(super) fn choose(wanted: Option<&str>, before: &str) -> Result<Vec<String>> {
    let found = Uplinks::look(DEFAULT_INTERFACE).context("ask the kernel for this machine's addresses")?.addrs;
    let mut hosts: Vec<String> =
        rank(found.into_iter().collect(), default_source()).iter().map(ToString::to_string).collect();
    if let Some(wanted) = wanted {
        let wanted = wanted.trim_matches(['[', ']']);
        if url::Host::parse(&in_url(wanted)).is_err() {
            bail!("\"{wanted}\" is neither an address nor a name");
        }
        put_first(&mut hosts, wanted);
    } else if !before.is_empty() {
        let is_name = before.parse::<IpAddr>().is_err();
        if is_name || hosts.iter().any(|host| host == before) {
            put_first(&mut hosts, before);
        } else {
            eprintln!(
                "warren: this machine had the address {before}, under which other machines joined, and has it no more; \
                 they find it again once it does (or choose: --address HOST)"
            );
        }
    }
    Ok(hosts)
}

/// A host as it stands in a URL.
pub(super) fn in_url(host: &str) -> String {
    if host.parse::<Ipv6Addr>().is_ok() { format!("[{host}]") } else { host.to_owned() }
}

fn put_first(hosts: &mut Vec<String>, first: &str) {
    hosts.retain(|host| host != first);
    hosts.insert(0, first.to_owned());
}

/// The address from which this machine speaks to the internet. Nothing is sent.
fn default_source() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // Any address of the internet does; this one is set aside for documentation.
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

/// Public before private, IPv4 before IPv6 of the same reach, the interface that leads outwards before others; loopback
/// only where there is nothing else.
fn rank(found: Vec<IpAddr>, outwards: Option<IpAddr>) -> Vec<IpAddr> {
    let mut ranked: Vec<(u8, IpAddr)> =
        found.into_iter().filter_map(|address| Some((class(address, outwards)?, address))).collect();
    ranked.sort();
    ranked.dedup();
    if ranked.is_empty() {
        return vec![Ipv4Addr::LOCALHOST.into()];
    }
    ranked.into_iter().map(|(_, address)| address).collect()
}

/// Smaller is better; `None` is of no use to others.
fn class(address: IpAddr, outwards: Option<IpAddr>) -> Option<u8> {
    match address {
        IpAddr::V4(v4) if v4.is_loopback() || v4.is_link_local() || v4.is_unspecified() => None,
        // A mesh's range, ours or another's: whoever is not in it cannot reach it.
        IpAddr::V4(v4) if v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64 => None,
        IpAddr::V4(v4) if !v4.is_private() => Some(0),
        IpAddr::V4(_) if Some(address) == outwards => Some(1),
        IpAddr::V4(_) => Some(2),
        IpAddr::V6(v6)
            if v6.is_loopback() || v6.is_unicast_link_local() || v6.is_unspecified() || v6.is_multicast() =>
        {
            None
        }
        IpAddr::V6(v6) if v6.segments()[..3] == [0xfd7a, 0x115c, 0xa1e0] => None,
        IpAddr::V6(v6) if v6.is_unique_local() => Some(4),
        IpAddr::V6(_) => Some(3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(found: &str, outwards: Option<&str>, expect: &str) {
        let parse = |text: &str| text.parse::<IpAddr>().expect("an address");
        let ranked = rank(found.split_whitespace().map(parse).collect(), outwards.map(parse));
        let ranked: Vec<String> = ranked.iter().map(ToString::to_string).collect();
        assert_eq!(ranked.join(" "), expect);
    }

    #[test]
    fn the_address_that_most_machines_reach_comes_first() {
        check(
            "127.0.0.1 172.17.0.1 192.168.1.5 ::1 fe80::1 fd00::5 2001:db8::5",
            Some("192.168.1.5"),
            "192.168.1.5 172.17.0.1 2001:db8::5 fd00::5",
        );
        check("10.0.0.2 203.0.113.7", Some("10.0.0.2"), "203.0.113.7 10.0.0.2");
    }

    #[test]
    fn addresses_of_a_mesh_are_not_offered_and_loopback_is_the_last_resort() {
        check("100.64.0.3 fd7a:115c:a1e0::3 169.254.1.1", None, "127.0.0.1");
        check("100.128.0.3", None, "100.128.0.3");
    }

    #[test]
    fn what_a_person_names_wins_and_must_be_a_host() {
        assert_eq!(choose(Some("vpn.example.net"), "").expect("a name")[0], "vpn.example.net");
        assert_eq!(choose(Some("[2001:db8::1]"), "x").expect("an address")[0], "2001:db8::1");
        assert_eq!(choose(None, "vpn.example.net").expect("a name")[0], "vpn.example.net");
        assert!(choose(Some("a b"), "").is_err());
        assert_eq!(in_url("2001:db8::1"), "[2001:db8::1]");
    }
}
