//! Pings that a person asked for, and the rest of what the engine has to say.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use warren_engine::{EngineEvent, InnerPing, InnerPingId};
use warren_path::{Event as PathEvent, Hop, PingId};

use crate::Node;
use crate::actions::{Action, Notice, PingKind, PingNumber, PingResult, Reply};

/// Most pings under way at once; a person asks for one.
const MOST_PINGS: usize = 256;

/// One ping under way: what will be told, but for the answer.
pub(crate) struct Asked {
    id: AskedId,
    result: PingResult,
}

#[derive(Clone, Copy, PartialEq)]
enum AskedId {
    Path(PingId),
    Inner(InnerPingId),
}

impl Node {
    pub(crate) fn start_ping(&mut self, ip: IpAddr, kind: PingKind, size: usize, now: Instant) -> Reply {
        let mut result = PingResult { ip: Some(ip), ..PingResult::default() };
        if self.plan.host.addrs.contains(&ip) {
            result.is_local_ip = true;
            result.error = format!("{ip} is local Warren IP");
            return Reply::Pinged(result);
        }
        let Some(peer) = self.data.peer_at(ip) else {
            result.error = "no matching peer".into();
            return Reply::Pinged(result);
        };
        if let Some(node) = self.plan.engine.peers.iter().find(|node| node.key == peer) {
            result.node_ip = node.addresses.first().map(warren_ip::Prefix::addr);
            result.node_name = node.short_name().to_owned();
        }
        if self.pings.len() >= MOST_PINGS {
            self.pings.pop_first();
        }
        let id = match kind {
            PingKind::Disco => AskedId::Path(self.data.engine.ping_disco(&peer, size, now)),
            PingKind::Tsmp | PingKind::Icmp => {
                let kind = if kind == PingKind::Tsmp { InnerPing::Tsmp } else { InnerPing::Icmp };
                match self.data.engine.ping_inner(kind, ip, now) {
                    Ok(id) => AskedId::Inner(id),
                    Err(error) => {
                        result.error = error.to_string();
                        return Reply::Pinged(result);
                    }
                }
            }
        };
        self.next_ping += 1;
        self.pings.insert(self.next_ping, Asked { id, result });
        Reply::Ping(PingNumber(self.next_ping))
    }

    /// Hears everything that the engine has to say; whether there was anything.
    pub(crate) fn hear_engine(&mut self, now: Instant) -> bool {
        let mut heard = false;
        while let Some(event) = self.data.poll_event() {
            heard = true;
            match event {
                EngineEvent::Path(event) => self.handle_path(event, now),
                EngineEvent::InnerPong { id, hop, latency, .. } => {
                    self.answer_ping(AskedId::Inner(id), Some((hop, latency)))
                }
                EngineEvent::InnerPingTimedOut { id } => self.answer_ping(AskedId::Inner(id), None),
                // Status shows sessions on asking, and a refused connection is told to the application by its own host.
                EngineEvent::SessionReady { .. }
                | EngineEvent::Unreachable { .. }
                | EngineEvent::ConnectionRefused { .. }
                | EngineEvent::DiscoKeySaid { .. } => {}
            }
        }
        heard
    }

    fn handle_path(&mut self, event: PathEvent, now: Instant) {
        match event {
            PathEvent::EndpointsChanged(endpoints) => self.endpoints = endpoints,
            PathEvent::HomeChanged(home) => self.home = home,
            PathEvent::NetInfoChanged(info) => self.net_info = info,
            PathEvent::ReportReady => self.notices.push_back(Notice::NetworkChecked),
            PathEvent::PathChanged { peer, hop: _ } => self.notices.push_back(Notice::PathChanged(peer)),
            PathEvent::WantRelay { region } => {
                self.relays_used.insert(region, now);
            }
            PathEvent::ProbeHttps { region } => self.actions.push_back(Action::ProbeHttps { region }),
            PathEvent::Resolve { name } => self.actions.push_back(Action::Resolve { name }),
            PathEvent::Pong { id, hop, latency, observed: _ } => {
                self.answer_ping(AskedId::Path(id), Some((hop, latency)))
            }
            PathEvent::PingTimedOut { id } => self.answer_ping(AskedId::Path(id), None),
        }
    }

    fn answer_ping(&mut self, id: AskedId, answer: Option<(Hop, Duration)>) {
        let Some(number) = self.pings.iter().find(|(_, asked)| asked.id == id).map(|(number, _)| *number) else {
            return;
        };
        let Some(Asked { mut result, .. }) = self.pings.remove(&number) else { return };
        match answer {
            Some((hop, latency)) => {
                result.latency = latency;
                match hop {
                    Hop::Direct { addr, .. } => result.endpoint = Some(addr),
                    Hop::Relay { region, .. } => {
                        result.region = Some(region);
                        let known = self.plan.engine.relay_map.regions.get(&region);
                        result.region_code = known.map(|region| region.region_code.clone()).unwrap_or_default();
                    }
                }
            }
            None => result.error = "timed out".into(),
        }
        self.notices.push_back(Notice::Ping { number: PingNumber(number), result });
    }
}
