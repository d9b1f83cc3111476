//! Which way to a peer is better, as pure functions. data-plane.md §4.4, §4.8.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::events::{Hop, Hops};

/// For so long after a pong a direct path is used alone: two heartbeats of 3 s may be lost on the way, not more.
pub const TRUST: Duration = Duration::from_millis(6500);

/// A direct path that is at least so fast is not worth improving.
pub const GOOD_ENOUGH: Duration = Duration::from_millis(5);

/// So long an address from which authenticated data came may be answered without a pong from it (§4.13).
pub const HEARD: Duration = Duration::from_secs(5);

/// A challenger needs more than this many points over an incumbent without any, so that two equal paths do not alternate.
const HYSTERESIS_POINTS: u64 = 1;

const LOOPBACK_POINTS: u64 = 50;
const LINK_LOCAL_POINTS: u64 = 30;
/// Private addresses are preferred because they cost nothing where public traffic is billed.
const PRIVATE_POINTS: u64 = 20;
const IPV6_POINTS: u64 = 10;

/// A direct path that answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    pub addr: SocketAddr,
    pub latency: Duration,
}

/// Whether to leave `incumbent` for `challenger`. Trust is not compared: an incumbent that is not trusted is replaceable,
/// so the caller passes `None` for it.
pub fn is_better(challenger: &Measured, incumbent: Option<&Measured>) -> bool {
    let Some(incumbent) = incumbent else { return true };
    if challenger.addr == incumbent.addr {
        return false;
    }
    let challenger_points = speed_points(challenger.latency, incumbent.latency) + place_points(challenger.addr.ip());
    let incumbent_points = speed_points(incumbent.latency, challenger.latency) + place_points(incumbent.addr.ip());
    if challenger_points <= HYSTERESIS_POINTS && incumbent_points == 0 {
        return false;
    }
    challenger_points > incumbent_points
}

/// By how many percent `own` is faster than `other`, rounded as whole numbers are divided; 0 if it is not.
fn speed_points(own: Duration, other: Duration) -> u64 {
    if own >= other || other.is_zero() {
        return 0;
    }
    let percent = 100 * own.as_nanos() / other.as_nanos();
    100 - u64::try_from(percent).unwrap_or(100).min(100)
}

fn place_points(ip: IpAddr) -> u64 {
    let place = if ip.is_loopback() {
        LOOPBACK_POINTS
    } else if is_link_local(ip) {
        LINK_LOCAL_POINTS
    } else if is_private(ip) {
        PRIVATE_POINTS
    } else {
        0
    };
    place + if ip.is_ipv6() { IPV6_POINTS } else { 0 }
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_private(),
        IpAddr::V6(v6) => v6.is_unique_local(),
    }
}

/// What is known of the ways to one peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ways {
    /// The best direct address, and until when it is trusted.
    pub direct: Option<(SocketAddr, Instant)>,
    /// Where authenticated data came from, and when.
    pub heard: Option<(SocketAddr, Instant)>,
    /// The relay hop, if there is a region for this peer.
    pub relay: Option<Hop>,
}

/// Where packets go now: a trusted direct path alone; an untrusted one together with the relay; without any, an address
/// from which the peer has just spoken together with the relay; else the relay.
pub fn select(ways: &Ways, now: Instant) -> Option<Hops> {
    if let Some((addr, trusted_until)) = ways.direct {
        let also = if now < trusted_until { None } else { ways.relay };
        return Some(Hops { first: Hop::direct(addr), also });
    }
    let Some(relay) = ways.relay else {
        // With no relay either, the last address that spoke is all there is.
        return ways.heard.map(|(addr, _)| Hops { first: Hop::direct(addr), also: None });
    };
    let heard = ways.heard.filter(|(_, at)| now < *at + HEARD).map(|(addr, _)| Hop::direct(addr));
    Some(Hops { first: relay, also: heard })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str, micros: u64) -> Measured {
        Measured { addr: text.parse().expect("an address"), latency: Duration::from_micros(micros) }
    }

    #[track_caller]
    fn check(challenger: (&str, u64), incumbent: (&str, u64), expect: bool) {
        let (a, b) = (path(challenger.0, challenger.1), path(incumbent.0, incumbent.1));
        assert_eq!(is_better(&a, Some(&b)), expect, "{a:?} over {b:?}");
    }

    #[test]
    fn any_answer_is_better_than_none() {
        assert!(is_better(&path("192.0.2.1:1", 900_000), None));
    }

    #[test]
    fn the_same_address_never_replaces_itself() {
        check(("192.0.2.1:1", 1), ("192.0.2.1:1", 900), false);
    }

    #[test]
    fn one_percent_faster_is_not_worth_a_move_and_two_percent_are() {
        check(("192.0.2.1:1", 99_000), ("192.0.2.2:1", 100_000), false);
        check(("192.0.2.1:1", 98_000), ("192.0.2.2:1", 100_000), true);
        check(("192.0.2.1:1", 100_000), ("192.0.2.2:1", 100_000), false);
    }

    #[test]
    fn a_private_address_wins_unless_it_is_twenty_percent_slower() {
        check(("10.0.0.1:1", 100), ("192.0.2.2:1", 100), true);
        check(("10.0.0.1:1", 100), ("192.0.2.2:1", 81), true);
        check(("10.0.0.1:1", 100), ("192.0.2.2:1", 79), false);
        check(("192.0.2.2:1", 79), ("10.0.0.1:1", 100), true);
    }

    #[test]
    fn ipv6_wins_a_tie_and_loopback_beats_everything_near() {
        check(("[2001:db8::1]:1", 100), ("192.0.2.2:1", 95), true);
        check(("[2001:db8::1]:1", 100), ("192.0.2.2:1", 89), false);
        check(("127.0.0.1:1", 100), ("10.0.0.1:1", 75), true);
        check(("169.254.1.1:1", 100), ("10.0.0.1:1", 100), true);
        check(("[fd00::1]:1", 100), ("10.0.0.1:1", 100), true);
    }

    #[test]
    fn a_faster_path_and_a_slower_one_never_both_win() {
        for (a, b) in [(1, 2), (99, 100), (100, 100), (50, 1000)] {
            let (a, b) = (path("192.0.2.1:1", a), path("[fd00::1]:1", b));
            assert!(!(is_better(&a, Some(&b)) && is_better(&b, Some(&a))));
        }
    }

    #[test]
    fn trust_decides_between_one_way_and_two() {
        let now = warren_simnet::beginning();
        let addr: SocketAddr = "192.0.2.1:1".parse().expect("an address");
        let relay =
            Hop::Relay { region: warren_wire::RegionId(900), peer: warren_crypto::NodePublic::from_bytes([1; 32]) };
        let direct = Hop::direct(addr);
        let trusted = Ways { direct: Some((addr, now + TRUST)), heard: None, relay: Some(relay) };
        assert_eq!(select(&trusted, now), Some(Hops { first: direct, also: None }));
        assert_eq!(select(&trusted, now + TRUST), Some(Hops { first: direct, also: Some(relay) }));

        let heard = Ways { direct: None, heard: Some((addr, now)), relay: Some(relay) };
        assert_eq!(select(&heard, now), Some(Hops { first: relay, also: Some(direct) }));
        assert_eq!(select(&heard, now + HEARD), Some(Hops { first: relay, also: None }));

        let alone = Ways { relay: None, ..heard };
        assert_eq!(select(&alone, now + HEARD * 100), Some(Hops { first: direct, also: None }));
        assert_eq!(select(&Ways::default(), now), None);
    }
}
