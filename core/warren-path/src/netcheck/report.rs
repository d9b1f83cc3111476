//! What a look at the network found.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use warren_wire::{NetInfo, RegionId};

/// What to say where a report would name UPnP, NAT-PMP and PCP.
pub const PORT_MAPPING: &str = "not built yet";

/// How this node sees the internet. Data-plane.md §2.4.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    pub finished: Instant,
    /// Every region was asked, not only the fastest.
    pub is_full: bool,
    /// How many STUN questions were sent.
    pub stun_asked: u32,
    /// A STUN server answered, so UDP works.
    pub udp: bool,
    /// A server answered over IPv4, over IPv6.
    pub ipv4: bool,
    pub ipv6: bool,
    /// There is an IPv6 socket.
    pub os_has_ipv6: bool,
    /// Whether our router shows different servers different addresses of us. `None`: fewer than two places answered
    /// over IPv4.
    pub mapping_varies: Option<bool>,
    /// By which address we were first seen.
    pub global_v4: Option<SocketAddr>,
    pub global_v6: Option<SocketAddr>,
    /// How many answers saw each address, kept over reports while it is seen.
    pub seen: BTreeMap<SocketAddr, u32>,
    /// The lower of both families, or the time of an HTTPS request where UDP is blocked.
    pub region_latency: BTreeMap<RegionId, Duration>,
    pub region_v4_latency: BTreeMap<RegionId, Duration>,
    pub region_v6_latency: BTreeMap<RegionId, Duration>,
    /// The home region that follows from this report and those before.
    pub preferred: Option<RegionId>,
}

impl Report {
    pub(crate) fn empty(finished: Instant) -> Report {
        Report {
            finished,
            is_full: false,
            stun_asked: 0,
            udp: false,
            ipv4: false,
            ipv6: false,
            os_has_ipv6: false,
            mapping_varies: None,
            global_v4: None,
            global_v6: None,
            seen: BTreeMap::new(),
            region_latency: BTreeMap::new(),
            region_v4_latency: BTreeMap::new(),
            region_v6_latency: BTreeMap::new(),
            preferred: None,
        }
    }

    /// What the control server is told. Port mapping stays unsaid: it was not probed.
    pub fn net_info(&self) -> NetInfo {
        let latency = |regions: &BTreeMap<RegionId, Duration>, family: &'static str| {
            let key = move |region: &RegionId| format!("{region}-{family}");
            regions.iter().map(|(region, latency)| (key(region), latency.as_secs_f64())).collect::<Vec<_>>()
        };
        let mut derp_latency = latency(&self.region_v4_latency, "v4");
        derp_latency.extend(latency(&self.region_v6_latency, "v6"));
        NetInfo {
            mapping_varies_by_dest_ip: self.mapping_varies,
            working_ipv6: Some(self.ipv6),
            os_has_ipv6: Some(self.os_has_ipv6),
            working_udp: Some(self.udp),
            preferred_derp: self.preferred,
            derp_latency: derp_latency.into_iter().collect(),
            ..NetInfo::default()
        }
    }
}

/// Whether two descriptions differ in a way that matters to others; latencies move all the time and do not.
pub(crate) fn differs_materially(old: &NetInfo, new: &NetInfo) -> bool {
    let without_latency = |info: &NetInfo| NetInfo { derp_latency: BTreeMap::new(), ..info.clone() };
    without_latency(old) != without_latency(new)
}
