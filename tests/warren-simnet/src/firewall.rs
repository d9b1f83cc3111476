//! What a router or host lets in without translating it: IPv6 everywhere, IPv4 where there is no NAT.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// The rule for UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firewall {
    /// Everything passes.
    Open,
    /// What comes in must answer something that went out within this time.
    Stateful { expiry: Duration },
    /// No UDP in either direction. Streams pass.
    UdpBlocked,
}

impl Firewall {
    /// The usual one: stateful, with three minutes of memory.
    pub const STATEFUL: Firewall = Firewall::Stateful { expiry: Duration::from_secs(180) };
}

/// The flows that went out: inside and outside ends.
#[derive(Clone, Debug, Default)]
pub(crate) struct FirewallState {
    flows: BTreeMap<(SocketAddr, SocketAddr), Instant>,
}

impl FirewallState {
    pub fn lets_out(&mut self, rule: Firewall, src: SocketAddr, dst: SocketAddr, now: Instant) -> bool {
        match rule {
            Firewall::Open => true,
            Firewall::UdpBlocked => false,
            Firewall::Stateful { .. } => {
                self.flows.insert((src, dst), now);
                true
            }
        }
    }

    pub fn lets_in(&mut self, rule: Firewall, src: SocketAddr, dst: SocketAddr, now: Instant) -> bool {
        match rule {
            Firewall::Open => true,
            Firewall::UdpBlocked => false,
            Firewall::Stateful { expiry } => {
                let Some(last) = self.flows.get_mut(&(dst, src)) else { return false };
                if now >= *last + expiry {
                    return false;
                }
                *last = now;
                true
            }
        }
    }
}
