//! Every call into the engine, in one file: identity, the wanted configuration, news and facts.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use warren_crypto::{DiscoSecret, NodePublic, NodeSecret, Random, UnixTime};
use warren_engine::{Delivery, Engine, EngineConfig, EngineEvent, EngineIdentity, EnginePeer};
use warren_wire::{CapabilityVersion, Node};

use crate::plan::EnginePlan;

/// The engine, and what it was last told.
pub(crate) struct DataPlane {
    pub engine: Engine,
    delivery: Delivery,
    own_key: NodePublic,
    told: Option<EnginePlan>,
    addresses: BTreeMap<IpAddr, NodePublic>,
    /// What in the filter could not be understood, one sentence each.
    pub filter_problems: Vec<String>,
}

impl DataPlane {
    /// `time` is the corrected wall time: stamps of handshakes follow it, and it does not go back over restarts.
    pub fn new(
        node: &NodeSecret,
        disco: &DiscoSecret,
        delivery: Delivery,
        random: Random,
        now: Instant,
        time: UnixTime,
    ) -> DataPlane {
        let identity = EngineIdentity { node: node.clone(), disco: disco.clone() };
        DataPlane {
            engine: Engine::new(identity, random, now, time),
            delivery,
            own_key: node.public(),
            told: None,
            addresses: BTreeMap::new(),
            filter_problems: Vec::new(),
        }
    }

    /// The node key that is in use.
    pub fn own_key(&self) -> NodePublic {
        self.own_key
    }

    /// Takes another node key; sessions under the old one end.
    pub fn set_identity(&mut self, node: &NodeSecret, disco: &DiscoSecret, now: Instant) {
        if self.own_key == node.public() {
            return;
        }
        self.own_key = node.public();
        let identity = EngineIdentity { node: node.clone(), disco: disco.clone() };
        self.engine.replace_identity(identity, now);
        // The peers are told again, under the new key.
        self.told = None;
    }

    /// Makes the engine so, if it is not.
    pub fn set(&mut self, plan: &EnginePlan, now: Instant) {
        if self.told.as_ref() == Some(plan) {
            return;
        }
        let peers: Vec<EnginePeer> =
            plan.peers.iter().filter(|peer| peer.key != self.own_key && !peer.key.is_zero()).map(engine_peer).collect();
        self.addresses =
            plan.peers.iter().flat_map(|peer| peer.addresses.iter().map(|prefix| (prefix.addr(), peer.key))).collect();
        let config = EngineConfig {
            self_addrs: plan.self_addrs.clone(),
            routes_here: Vec::new(),
            peers,
            filter: plan.filter.clone(),
            shields_up: plan.shields_up,
            relay_map: plan.relay_map.clone(),
            mtu: plan.mtu,
            delivery: self.delivery,
        };
        let problems = self.engine.set(config, now);
        self.filter_problems = problems.iter().map(ToString::to_string).collect();
        self.told = Some(plan.clone());
    }

    /// The peer that has this address, if it may be spoken to now.
    pub fn peer_at(&self, ip: IpAddr) -> Option<NodePublic> {
        self.addresses.get(&ip).copied()
    }

    pub fn poll_event(&mut self) -> Option<EngineEvent> {
        self.engine.poll_event()
    }
}

/// From this capability version on a client takes a disco key that is said inside the tunnel.
const TAKES_DISCO_KEY: CapabilityVersion = CapabilityVersion(144);

fn engine_peer(peer: &Node) -> EnginePeer {
    let net_info = peer.hostinfo.as_ref().and_then(|info| info.net_info.as_ref());
    EnginePeer {
        disco: peer.disco_key,
        endpoints: peer.endpoints.clone(),
        home: peer.home_derp,
        mapping_varies: net_info.and_then(|info| info.mapping_varies_by_dest_ip),
        allowed: peer.routed().to_vec(),
        caps: peer.cap_map.keys().cloned().collect(),
        takes_disco_key: peer.cap >= TAKES_DISCO_KEY,
        ..EnginePeer::new(peer.key)
    }
}
