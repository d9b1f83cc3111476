//! What is the case, derived on asking.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use warren_crypto::{NodePublic, UnixTime};
use warren_path::PathStatus;
use warren_wire::{ClientVersion, DnsConfig, NetInfo, RegionId, UserId, UserProfile};

use crate::Node;
use crate::health::HealthItem;
use crate::login::Login;
use crate::plan::is_expired;
use crate::profile::ProfileId;

/// The state as the field names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendState {
    /// Someone must sign in: never registered, logged out, or the key has expired.
    NeedsLogin,
    /// Signed in; an operator must approve the machine.
    NeedsMachineAuth,
    /// Signed in and switched off.
    Stopped,
    /// Waiting for the first map.
    Starting,
    /// Peers may be reached, by a fresh map or the last known one.
    Running,
}

/// How fresh the map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapFreshness {
    /// Whether the server keeps it fresh at this moment.
    pub live: bool,
    /// When its last message came (corrected clock).
    pub at: UnixTime,
    /// How long ago that is.
    pub age: Duration,
}

/// Everything that is the case.
#[derive(Clone, Debug)]
pub struct Status {
    pub state: BackendState,
    /// Whether a server has accepted our node key.
    pub have_node_key: bool,
    /// The page that a person must visit; empty for none.
    pub auth_url: String,
    pub userspace: bool,
    pub profile: ProfileId,
    pub control_url: String,
    pub node_key: NodePublic,
    /// Our addresses in the mesh, while it is up.
    pub addresses: Vec<IpAddr>,
    /// Our own record, from the map.
    pub self_node: Option<warren_wire::Node>,
    pub self_expired: bool,
    /// Peers by id.
    pub peers: Vec<PeerStatus>,
    pub users: BTreeMap<UserId, UserProfile>,
    pub health: Vec<HealthItem>,
    /// The network's name.
    pub domain: String,
    /// The network's DNS suffix, without dots at its ends.
    pub dns_suffix: String,
    pub dns: DnsConfig,
    pub map: Option<MapFreshness>,
    pub home: Option<RegionId>,
    pub net_info: NetInfo,
    pub client_version: ClientVersion,
}

/// One peer.
#[derive(Clone, Debug)]
pub struct PeerStatus {
    /// Its record from the map.
    pub node: warren_wire::Node,
    /// Its key has expired; it is cut off.
    pub is_expired: bool,
    /// Whether the engine has it, so packets may flow.
    pub in_engine: bool,
    /// By which way, and why not directly.
    pub path: Option<PathStatus>,
    pub rx_bytes: u64,
    pub tx_bytes: u64,
    /// By the wall clock.
    pub last_handshake: Option<UnixTime>,
    pub last_send: Option<UnixTime>,
    /// Something was sent in the last two minutes.
    pub is_active: bool,
}

/// A peer counts as active for so long after something was sent to it (a WireGuard key pair's life is two minutes).
const ACTIVE: Duration = Duration::from_secs(120);

impl Node {
    /// The state, derived from all the facts.
    pub fn backend_state(&self, now: Instant, wall: UnixTime) -> BackendState {
        let profile = self.profile();
        let known = profile.keys.registered && !profile.prefs.logged_out;
        // Who signs in again by his own wish keeps running on the old key meanwhile.
        let must_visit = self.login.auth_url().is_some() && !self.login_asked;
        if !known || self.self_expired(now, wall) || must_visit {
            return BackendState::NeedsLogin;
        }
        let authorized = profile.map.as_ref().map(|cached| cached.map.self_node.machine_authorized);
        match authorized {
            _ if !profile.prefs.want_running => BackendState::Stopped,
            None => BackendState::Starting,
            Some(false) => BackendState::NeedsMachineAuth,
            Some(true) => BackendState::Running,
        }
    }

    pub(crate) fn self_expired(&self, now: Instant, wall: UnixTime) -> bool {
        let time = self.clock.time(now, wall);
        self.profile().map.as_ref().is_some_and(|cached| is_expired(&cached.map.self_node, time))
    }

    pub(crate) fn map_is_live(&self) -> bool {
        matches!(self.login, Login::Polling { started: true, .. })
    }

    /// Everything that is the case.
    pub fn status(&self, now: Instant, wall: UnixTime) -> Status {
        let time = self.clock.time(now, wall);
        let profile = self.profile();
        let cached = profile.map.as_ref();
        let map = cached.map(|cached| &cached.map);
        let in_engine: BTreeSet<NodePublic> = self.plan.engine.peers.iter().map(|peer| peer.key).collect();
        Status {
            state: self.backend_state(now, wall),
            have_node_key: profile.keys.registered,
            auth_url: self.login.auth_url().unwrap_or_default().to_owned(),
            userspace: self.userspace,
            profile: profile.id.clone(),
            control_url: profile.prefs.control_url.clone(),
            node_key: profile.keys.node.public(),
            addresses: self.plan.host.addrs.clone(),
            self_node: map.map(|map| map.self_node.clone()),
            self_expired: self.self_expired(now, wall),
            peers: map
                .map(|map| map.peers.values().map(|peer| self.peer_status(peer, &in_engine, now, wall, time)).collect())
                .unwrap_or_default(),
            users: map.map(|map| map.profiles.clone()).unwrap_or_default(),
            health: self.health(now, wall),
            domain: map.map(|map| map.domain.clone()).unwrap_or_default(),
            dns_suffix: map.map(|map| map.dns_suffix().to_owned()).unwrap_or_default(),
            dns: map.map(|map| map.dns.clone()).unwrap_or_default(),
            map: cached.map(|cached| MapFreshness {
                live: self.map_is_live(),
                at: cached.at,
                age: time.saturating_since(cached.at),
            }),
            home: self.home,
            net_info: self.net_info.clone(),
            client_version: map.map(|map| map.client_version.clone()).unwrap_or_default(),
        }
    }

    fn peer_status(
        &self,
        peer: &warren_wire::Node,
        in_engine: &BTreeSet<NodePublic>,
        now: Instant,
        wall: UnixTime,
        time: UnixTime,
    ) -> PeerStatus {
        let in_engine = in_engine.contains(&peer.key);
        let stats = self.data.engine.peer_stats(&peer.key, now).unwrap_or_default();
        let to_wall = |instant: Instant| wall.saturating_sub(now.saturating_duration_since(instant));
        PeerStatus {
            node: peer.clone(),
            is_expired: is_expired(peer, time),
            in_engine,
            path: in_engine.then(|| self.data.engine.paths().path_of(&peer.key, now)),
            rx_bytes: stats.rx_bytes,
            tx_bytes: stats.tx_bytes,
            last_handshake: stats.last_handshake.map(to_wall),
            last_send: stats.last_send.map(to_wall),
            is_active: stats.last_send.is_some_and(|sent| now.saturating_duration_since(sent) < ACTIVE),
        }
    }
}
