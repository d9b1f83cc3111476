//! What people are told about a path, above all why it is relayed.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use warren_crypto::NodePublic;
use warren_wire::RegionId;

use crate::events::Hop;
use crate::manager::Paths;
use crate::netcheck::Report;
use crate::peer_paths::PeerPaths;
use crate::select::select;
use crate::sockets::{Family, Sockets};

/// The ways to one peer, for people.
#[derive(Clone, Debug, PartialEq)]
pub struct PathStatus {
    /// Where packets go now (the first way, if there are two).
    pub current: Option<Hop>,
    /// The direct path answered within the last 6.5 s.
    pub trusted: bool,
    /// Round trip by `current`, if it was measured.
    pub latency: Option<Duration>,
    /// The region that packets take, or would take without a direct path.
    pub relay: Option<RegionId>,
    /// One sentence without a full stop: why the path is what it is.
    pub why: String,
    pub candidates: Vec<CandidateStatus>,
    /// When the peer last reached us, or answered, without a relay.
    pub last_direct: Option<Instant>,
    /// When authenticated data last came from it.
    pub last_heard: Option<Instant>,
    /// We sent something to it within the last 45 s.
    pub active: bool,
}

/// One address at which the peer might be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CandidateStatus {
    pub addr: SocketAddr,
    /// How it is known: `map`, `call`, `ping`, `data`.
    pub known_by: Vec<&'static str>,
    /// Of the last pong, and when it came.
    pub answer: Option<(Duration, Instant)>,
}

impl Paths {
    pub fn path_of(&self, peer: &NodePublic, now: Instant) -> PathStatus {
        let Some(paths) = self.peers.get(peer) else { return unknown_peer() };
        let ways = paths.ways(self.is_direct_allowed, |region| self.relays.is_connected(region));
        let current = select(&ways, now).map(|hops| hops.first);
        let latency = match current {
            Some(Hop::Direct { .. }) => paths.best.map(|best| best.measured.latency),
            Some(Hop::Relay { .. }) => paths.relay_latency,
            None => None,
        };
        let relay = self.relay_of(peer);
        let facts = Facts {
            is_direct_allowed: self.is_direct_allowed,
            sockets: &self.sockets,
            report: self.netcheck.report(),
            relay: relay.map(|region| (region, self.relays.is_connected(region))),
            current,
        };
        PathStatus {
            current,
            trusted: paths.trusts_direct(now),
            latency,
            relay,
            why: why(paths, &facts, now),
            candidates: candidates(paths),
            last_direct: paths.last_direct,
            last_heard: paths.last_heard,
            active: paths.is_active(now),
        }
    }
}

fn unknown_peer() -> PathStatus {
    PathStatus {
        current: None,
        trusted: false,
        latency: None,
        relay: None,
        why: "no such peer".into(),
        candidates: Vec::new(),
        last_direct: None,
        last_heard: None,
        active: false,
    }
}

fn candidates(paths: &PeerPaths) -> Vec<CandidateStatus> {
    let status = |(addr, candidate): (&SocketAddr, &crate::candidates::Candidate)| {
        let sources = [
            ("map", candidate.in_map),
            ("call", candidate.in_call),
            ("ping", candidate.pinged_us.is_some()),
            ("data", candidate.heard.is_some()),
        ];
        let known_by = sources.into_iter().filter(|(_, is_known)| *is_known).map(|(name, _)| name).collect();
        CandidateStatus { addr: *addr, known_by, answer: candidate.answer }
    };
    paths.candidates.iter().map(status).collect()
}

struct Facts<'a> {
    is_direct_allowed: bool,
    sockets: &'a Sockets,
    report: Option<&'a Report>,
    /// The region for this peer, and whether we are connected to it.
    relay: Option<(RegionId, bool)>,
    current: Option<Hop>,
}

/// The first reason that explains everything after it.
fn why(paths: &PeerPaths, facts: &Facts<'_>, now: Instant) -> String {
    let direct = why_direct(paths, facts, now);
    match (facts.current, facts.relay) {
        (Some(Hop::Direct { .. }), _) => direct,
        (_, Some((_, true))) => direct,
        (_, Some((region, false))) => format!("{direct}; not connected to relay {region}"),
        (_, None) => format!("{direct}; this peer has no home relay"),
    }
}

fn why_direct(paths: &PeerPaths, facts: &Facts<'_>, now: Instant) -> String {
    if !facts.is_direct_allowed {
        return "direct paths are switched off".into();
    }
    if paths.trusts_direct(now) {
        return "the peer answers here".into();
    }
    if paths.best.is_some() {
        return match paths.is_active(now) {
            true => "the last probes got no answer; packets go by relay as well".into(),
            false => "idle: will be probed again with the next packet".into(),
        };
    }
    if paths.disco_keys().next().is_none() {
        return "this peer shows no disco key, so no direct path can be looked for".into();
    }
    if paths.candidates.len() == 0 {
        return "no endpoints known for this peer".into();
    }
    if let Some(reason) = families_do_not_meet(paths, facts.sockets) {
        return reason;
    }
    let blocked = facts.report.is_some_and(|report| !report.udp && report.stun_asked > 0);
    if paths.unanswered == 0 {
        return if blocked { "udp blocked here".into() } else { "no direct path looked for yet".into() };
    }
    let plural = if paths.unanswered == 1 { "" } else { "s" };
    let silence = format!("no answer to {} probe{plural}", paths.unanswered);
    if blocked {
        return format!("udp blocked here; {silence}");
    }
    let varies_here = facts.report.and_then(|report| report.mapping_varies) == Some(true);
    match (varies_here, paths.mapping_varies == Some(true)) {
        (true, true) => format!("{silence}; mapping varies per destination on both sides"),
        (true, false) => format!("{silence}; mapping varies per destination here"),
        (false, true) => format!("{silence}; mapping varies per destination at the peer"),
        (false, false) => silence,
    }
}

fn families_do_not_meet(paths: &PeerPaths, sockets: &Sockets) -> Option<String> {
    let ours = Family::BOTH.map(|family| sockets.can_use(family));
    let has = |family| paths.candidates.iter().any(|(addr, _)| Family::of(addr) == family);
    let theirs = Family::BOTH.map(has);
    let reason = match (ours, theirs) {
        ([false, false], _) => "no usable udp socket here",
        ([true, false], [false, true]) => "peer has only IPv6 and we only IPv4",
        ([false, true], [true, false]) => "peer has only IPv4 and we only IPv6",
        _ => return None,
    };
    Some(reason.into())
}
