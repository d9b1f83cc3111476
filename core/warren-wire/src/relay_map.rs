//! The relays of a network ("DERP map" on the wire) and how an update merges. control-protocol.md §7.4, §8.7.

use std::collections::BTreeMap;

use crate::RegionId;
use crate::object::wire_object;

wire_object! {
    /// The relays of a network, whole.
    pub struct RelayMap {
        [omit] pub home_params: Option<HomeParams> => "HomeParams",
        [always_entries] pub regions: BTreeMap<RegionId, RelayRegion> => "Regions",
        [omit] pub omit_default_regions: bool => "omitDefaultRegions",
    }
}

wire_object! {
    /// What a map response says about relays: each part may be left out, which keeps what was.
    pub struct RelayMapUpdate {
        [omit] pub home_params: Option<HomeParamsUpdate> => "HomeParams",
        /// `None` keeps regions and `omit_default_regions`; an entry that is `None` is dropped.
        [omit] pub regions: Option<BTreeMap<RegionId, Option<RelayRegion>>> => "Regions",
        [omit] pub omit_default_regions: bool => "omitDefaultRegions",
    }
}

wire_object! {
    /// How a node chooses its home relay.
    pub struct HomeParams {
        /// Factor on the measured latency: under 1 attracts, over 1 repels.
        [entries] pub region_score: BTreeMap<RegionId, f64> => "RegionScore",
    }
}

wire_object! {
    /// [`HomeParams`] in an update: absent scores keep what was, empty ones clear.
    pub struct HomeParamsUpdate {
        [omit] pub region_score: Option<BTreeMap<RegionId, f64>> => "RegionScore",
    }
}

wire_object! {
    /// Relays that stand close together and forward among themselves.
    pub struct RelayRegion {
        [always] pub region_id: RegionId => "RegionID",
        /// Short code, e.g. `fra`.
        [always] pub region_code: String => "RegionCode",
        [always] pub region_name: String => "RegionName",
        [omit] pub latitude: f64 => "Latitude",
        [omit] pub longitude: f64 => "Longitude",
        /// Deprecated: never choose it as home.
        [omit] pub avoid: bool => "Avoid",
        /// Neither measure it nor choose it as home.
        [omit] pub no_measure_no_home: bool => "NoMeasureNoHome",
        [always] pub nodes: Vec<RelayNode> => "Nodes",
    }
}

wire_object! {
    /// One relay server.
    pub struct RelayNode {
        /// Unique, e.g. `900a`.
        [always] pub name: String => "Name",
        [always] pub region_id: RegionId => "RegionID",
        [always] pub host_name: String => "HostName",
        /// Another name in its certificate, or `sha256-raw:` and the hex digest of a self-signed leaf.
        [omit] pub cert_name: String => "CertName",
        /// A literal address; empty asks DNS, `none` switches the family off.
        [omit] pub ipv4: String => "IPv4",
        [omit] pub ipv6: String => "IPv6",
        /// 0 means 3478, −1 means none. See [`RelayNode::stun_port`].
        [omit] pub stun_port_raw: i32 => "STUNPort",
        [omit] pub stun_only: bool => "STUNOnly",
        /// 0 means 443. See [`RelayNode::derp_port`].
        [omit] pub derp_port_raw: i32 => "DERPPort",
        [omit] pub insecure_for_tests: bool => "InsecureForTests",
        [omit] pub stun_test_ip: String => "STUNTestIP",
        [omit] pub can_port_80: bool => "CanPort80",
    }
}

impl RelayNode {
    /// The UDP port to ask for STUN, if any.
    pub fn stun_port(&self) -> Option<u16> {
        match self.stun_port_raw {
            0 => Some(3478),
            port => u16::try_from(port).ok(),
        }
    }

    /// The TCP port of the relay itself; a nonsensical number counts as the default.
    pub fn derp_port(&self) -> u16 {
        match u16::try_from(self.derp_port_raw) {
            Ok(0) | Err(_) => 443,
            Ok(port) => port,
        }
    }
}

impl RelayMap {
    /// Takes over what an update says and keeps the rest.
    pub fn merge(&mut self, update: RelayMapUpdate) {
        if let Some(regions) = update.regions {
            self.regions = regions.into_iter().filter_map(|(id, region)| Some((id, region?))).collect();
            self.omit_default_regions = update.omit_default_regions;
        }
        if let Some(region_score) = update.home_params.and_then(|params| params.region_score) {
            self.home_params = Some(HomeParams { region_score });
        }
    }

    /// The update that turns any relay map into this one.
    pub fn to_update(&self) -> RelayMapUpdate {
        let region_score = self.home_params.as_ref().map(|params| params.region_score.clone()).unwrap_or_default();
        RelayMapUpdate {
            home_params: Some(HomeParamsUpdate { region_score: Some(region_score) }),
            regions: Some(self.regions.iter().map(|(id, region)| (*id, Some(region.clone()))).collect()),
            omit_default_regions: self.omit_default_regions,
        }
    }
}
