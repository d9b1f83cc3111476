//! The addresses at which this node tells others to reach it. data-plane.md §4.2.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use warren_wire::{Endpoint, EndpointKind};

use crate::netcheck::Report;
use crate::sockets::{Family, Sockets};

/// What STUN saw stays advertised for so long after it was last seen.
const REMEMBER: Duration = Duration::from_secs(5 * 60 + 10);
/// Of one IP address no more ports than this are remembered, the oldest go.
const MAX_PER_IP: usize = 6;
/// A call-me-maybe must not name addresses older than this: NAT mappings are commonly held for 30 s.
const FRESH: Duration = Duration::from_secs(27);
/// More addresses than this are not advertised.
const MAX_ENDPOINTS: usize = 48;
/// An address beside the newest is advertised once so many answers saw it.
const SEEN_OFTEN: u32 = 2;

/// Our endpoints, as advertised, and what we remember of those before.
#[derive(Debug, Default)]
pub(crate) struct OwnEndpoints {
    /// Best first.
    current: Vec<Endpoint>,
    remembered: BTreeMap<SocketAddr, (EndpointKind, Instant)>,
    refreshed: Option<Instant>,
}

impl OwnEndpoints {
    pub fn addrs(&self) -> Vec<SocketAddr> {
        self.current.iter().map(|endpoint| endpoint.addr).collect()
    }

    pub fn is_fresh(&self, now: Instant) -> bool {
        self.refreshed.is_some_and(|at| now < at + FRESH)
    }

    /// The addresses belonged to another network.
    pub fn forget(&mut self) {
        self.remembered.clear();
        self.refreshed = None;
    }

    /// A look at the network is over. Returns the new list if it names other addresses than before.
    pub fn handle_report(&mut self, report: &Report, sockets: &Sockets, now: Instant) -> Option<Vec<Endpoint>> {
        self.refreshed = Some(now);
        for endpoint in by_stun(report, sockets) {
            self.remember(endpoint, now);
        }
        self.handle_sockets(sockets, Some(report), now)
    }

    /// Sockets or interfaces changed. Returns the new list if it names other addresses than before.
    pub fn handle_sockets(
        &mut self,
        sockets: &Sockets,
        report: Option<&Report>,
        now: Instant,
    ) -> Option<Vec<Endpoint>> {
        self.remembered.retain(|_, (_, at)| now < *at + REMEMBER);
        let mut listed = BTreeSet::new();
        let now_seen = report.map(|report| by_stun(report, sockets)).unwrap_or_default();
        let now_seen = now_seen.into_iter().filter(|endpoint| self.remembered.contains_key(&endpoint.addr));
        let before = self.remembered.iter().map(|(addr, (kind, _))| Endpoint { addr: *addr, kind: *kind });
        let local = sockets.local_endpoints().into_iter();
        let local = local.map(|addr| Endpoint { addr, kind: EndpointKind::LOCAL });
        let all = now_seen.chain(before).chain(local).filter(|endpoint| listed.insert(endpoint.addr));
        let new: Vec<Endpoint> = all.take(MAX_ENDPOINTS).collect();
        let as_set = |list: &[Endpoint]| list.iter().copied().collect::<BTreeSet<_>>();
        let differs = as_set(&new) != as_set(&self.current);
        self.current = new;
        differs.then(|| self.current.clone())
    }

    fn remember(&mut self, endpoint: Endpoint, now: Instant) {
        self.remembered.insert(endpoint.addr, (endpoint.kind, now));
        let of_ip = self.remembered.iter().filter(|(addr, _)| addr.ip() == endpoint.addr.ip());
        let mut of_ip: Vec<(Instant, SocketAddr)> = of_ip.map(|(addr, (_, at))| (*at, *addr)).collect();
        of_ip.sort();
        for (_, oldest) in of_ip.iter().take(of_ip.len().saturating_sub(MAX_PER_IP)) {
            self.remembered.remove(oldest);
        }
    }
}

/// What the report says about addresses of ours: IPv4 before IPv6, the newest before others that were seen often.
fn by_stun(report: &Report, sockets: &Sockets) -> Vec<Endpoint> {
    let mut endpoints = Vec::new();
    for (family, global) in [(Family::V4, report.global_v4), (Family::V6, report.global_v6)] {
        let often = report.seen.iter().filter(|(addr, count)| Family::of(addr) == family && **count >= SEEN_OFTEN);
        let addrs = global.into_iter().chain(often.map(|(addr, _)| *addr));
        endpoints.extend(addrs.map(|addr| Endpoint { addr, kind: EndpointKind::STUN }));
    }
    // Where the router maps every destination anew, a person may have forwarded our port by hand.
    if let (Some(true), Some(global), Some(socket)) = (report.mapping_varies, report.global_v4, sockets.get(Family::V4))
    {
        let addr = SocketAddr::new(global.ip(), socket.bound.port());
        endpoints.push(Endpoint { addr, kind: EndpointKind::STUN_LOCAL_PORT });
    }
    endpoints
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{LocalSocket, SocketId};

    fn sockets() -> Sockets {
        let bound = "0.0.0.0:41641".parse().expect("an address");
        Sockets::new(vec![LocalSocket { id: SocketId::V4, bound }], vec!["10.0.0.2".parse().expect("an address")])
    }

    fn seen_as(addr: &str, now: Instant) -> Report {
        Report { udp: true, global_v4: Some(addr.parse().expect("an address")), ..Report::empty(now) }
    }

    fn texts(endpoints: Option<Vec<Endpoint>>) -> Vec<String> {
        endpoints.unwrap_or_default().iter().map(|endpoint| format!("{} {}", endpoint.addr, endpoint.kind.0)).collect()
    }

    #[test]
    fn what_stun_saw_comes_before_the_local_network() {
        let now = warren_simnet::beginning();
        let mut own = OwnEndpoints::default();
        let list = own.handle_report(&seen_as("198.51.100.1:1111", now), &sockets(), now);
        assert_eq!(texts(list), ["198.51.100.1:1111 2", "10.0.0.2:41641 1"]);
        assert_eq!(own.handle_report(&seen_as("198.51.100.1:1111", now), &sockets(), now), None, "nothing is new");
    }

    #[test]
    fn an_address_that_was_seen_before_stays_for_five_minutes() {
        let now = warren_simnet::beginning();
        let mut own = OwnEndpoints::default();
        own.handle_report(&seen_as("198.51.100.1:1111", now), &sockets(), now);
        let later = now + Duration::from_secs(60);
        let list = own.handle_report(&seen_as("198.51.100.1:2222", later), &sockets(), later);
        assert_eq!(texts(list), ["198.51.100.1:2222 2", "198.51.100.1:1111 2", "10.0.0.2:41641 1"]);
        let list = own.handle_report(&seen_as("198.51.100.1:2222", later), &sockets(), now + REMEMBER);
        assert_eq!(texts(list), ["198.51.100.1:2222 2", "10.0.0.2:41641 1"]);
    }

    #[test]
    fn a_router_that_changes_its_mind_fills_six_places_only() {
        let now = warren_simnet::beginning();
        let mut own = OwnEndpoints::default();
        let mut last = None;
        for port in 1..=20u16 {
            let now = now + Duration::from_secs(u64::from(port));
            last = own.handle_report(&seen_as(&format!("198.51.100.1:{port}"), now), &sockets(), now).or(last);
        }
        assert_eq!(texts(last).len(), MAX_PER_IP + 1);
    }

    #[test]
    fn a_varying_mapping_also_offers_the_local_port_at_the_global_address() {
        let now = warren_simnet::beginning();
        let report = Report { mapping_varies: Some(true), ..seen_as("198.51.100.1:1111", now) };
        let list = OwnEndpoints::default().handle_report(&report, &sockets(), now);
        assert_eq!(texts(list), ["198.51.100.1:1111 2", "198.51.100.1:41641 4", "10.0.0.2:41641 1"]);
    }
}
