//! Desired state becomes true: whole, idempotent, and without touching what stays.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use warren_crypto::NodePublic;
use warren_filter::{Filter, RuleProblem};
use warren_ip::offload::Joiner;
use warren_ip::{Prefix, PrefixMap};
use warren_path::PeerConfig;

use crate::config::{Delivery, EngineConfig, EngineIdentity, EnginePeer};
use crate::counters::DropReason;
use crate::engine::{Engine, PeerState};

impl Engine {
    /// Makes `config` true. Keys, paths and flows of peers that stay are kept; peers that go or expire lose their keys
    /// at once; a changed filter judges the running flows of peers again. Returns the rules that could not be read and
    /// were left out.
    pub fn set(&mut self, config: EngineConfig, now: Instant) -> Vec<RuleProblem> {
        let problems = self.set_filter(&config);
        if config.delivery != self.config.delivery {
            // What was accepted under the old form of delivery is not lost with it.
            while let Some(delivery) = self.joiner.as_mut().filter(|joiner| !joiner.is_empty()) {
                self.deliveries.extend(delivery.take());
            }
            self.joiner = match config.delivery {
                Delivery::Single => None,
                Delivery::Joined { udp } => Some(Joiner::new(udp)),
            };
        }
        self.set_peers(&config.peers);
        self.routes = config
            .peers
            .iter()
            .flat_map(|peer| peer.allowed.iter().map(move |prefix| (*prefix, peer.key)))
            .collect::<PrefixMap<NodePublic>>();
        self.local = config
            .self_addrs
            .iter()
            .map(|addr| Prefix::host(*addr))
            .chain(config.routes_here.iter().copied())
            .collect();
        self.paths.set_peers(path_peers(&config.peers), now);
        self.paths.set_relay_map(config.relay_map.clone(), now);
        self.config = config;
        self.pump(now);
        problems
    }

    /// The node's own keys were rotated: configuration and paths stay, every session begins anew.
    pub fn replace_identity(&mut self, identity: EngineIdentity, now: Instant) {
        self.paths.set_node_key(identity.node.public());
        if identity.disco.public() != self.disco_public {
            self.disco_public = identity.disco.public();
            self.paths.set_disco(identity.disco);
        }
        self.wireguard.replace_secret(identity.node, now);
        self.peers.values_mut().for_each(|state| state.held = None);
    }

    /// Compiling and judging again costs; a map that changes only endpoints skips it.
    fn set_filter(&mut self, config: &EngineConfig) -> Vec<RuleProblem> {
        let mut problems = Vec::new();
        if config.filter != self.config.filter || holders(&config.peers) != holders(&self.config.peers) {
            let holders = holders(&config.peers);
            let (filter, found) = Filter::compile(&config.filter, |cap| holders.get(cap).cloned().unwrap_or_default());
            self.guarded.set_filter(filter);
            problems = found;
        }
        if config.shields_up != self.config.shields_up {
            self.guarded.set_shields_up(config.shields_up);
        }
        problems
    }

    fn set_peers(&mut self, wanted: &[EnginePeer]) {
        let keys: BTreeSet<NodePublic> = wanted.iter().map(|peer| peer.key).collect();
        let gone: Vec<NodePublic> = self.peers.keys().filter(|key| !keys.contains(key)).copied().collect();
        for key in gone {
            self.cut(&key, DropReason::PeerGone);
            self.peers.remove(&key);
        }
        for peer in wanted {
            match self.peers.get_mut(&peer.key) {
                Some(state) => state.config = peer.clone(),
                None => {
                    self.peers.insert(peer.key, PeerState::new(peer.clone()));
                }
            }
            if peer.expired {
                self.cut(&peer.key, DropReason::PeerExpired);
            } else {
                self.wireguard.add_peer(peer.key);
            }
        }
    }

    /// Wipes a peer's keys and lets go of what waits for it.
    fn cut(&mut self, key: &NodePublic, why: DropReason) {
        self.wireguard.remove_peer(key);
        let Some(state) = self.peers.get_mut(key) else { return };
        state.held = None;
        for burst in state.staging.drain() {
            self.counters.drop(why, burst.segment_count());
            self.pool.give(burst.into_buffer());
        }
    }
}

/// Addresses of peers by the node capability that they hold.
fn holders(peers: &[EnginePeer]) -> BTreeMap<String, Vec<Prefix>> {
    let mut holders: BTreeMap<String, Vec<Prefix>> = BTreeMap::new();
    for peer in peers.iter().filter(|peer| !peer.expired) {
        for cap in &peer.caps {
            let own = peer.allowed.iter().filter(|prefix| prefix.is_host()).copied();
            holders.entry(cap.clone()).or_default().extend(own);
        }
    }
    holders
}

fn path_peers(peers: &[EnginePeer]) -> Vec<PeerConfig> {
    peers
        .iter()
        .filter(|peer| !peer.expired)
        .map(|peer| PeerConfig {
            key: peer.key,
            disco: peer.disco,
            endpoints: peer.endpoints.clone(),
            home: peer.home,
            mapping_varies: peer.mapping_varies,
        })
        .collect()
}
