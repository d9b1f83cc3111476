//! The network under this node as the host describes it, and what a change of it means.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use warren_os::{DefaultRoute, Uplinks};

use crate::clock::suspended;

/// A sleep longer than this ends connections at routers and servers; a shorter one they do not notice.
const LONG_SLEEP: Duration = Duration::from_secs(30);

/// Addresses of the host on its uplinks, and the ways out of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Underlay {
    /// In order, so that the same ones are the same list.
    pub(crate) addrs: Vec<IpAddr>,
    routes: Vec<DefaultRoute>,
}

/// What is different now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Change {
    /// An address or a way is gone: streams over it would notice only when they time out.
    pub(crate) has_lost: bool,
    /// An address or a way came: what could not be reached before perhaps can be now.
    pub(crate) has_gained: bool,
}

impl Underlay {
    /// As the kernel says it is, without the mesh's own interface.
    pub(crate) fn look(mesh_interface: &str) -> io::Result<Self> {
        let Uplinks { addrs, routes } = Uplinks::look(mesh_interface)?;
        Ok(Self { addrs: addrs.into_iter().collect(), routes })
    }

    /// From `old` to this.
    pub(crate) fn since(&self, old: &Self) -> Change {
        let is_missing = |here: &Self, there: &Self| {
            there.addrs.iter().any(|addr| !here.addrs.contains(addr))
                || there.routes.iter().any(|route| !here.routes.contains(route))
        };
        Change { has_lost: is_missing(self, old), has_gained: is_missing(old, self) }
    }
}

impl Change {
    /// Whether nothing that was measured holds any more.
    pub(crate) fn is_other_network(self) -> bool {
        self.has_lost || self.has_gained
    }
}

/// Notices that the host slept: nothing changed for it, and everything for those outside.
pub(crate) struct Sleep {
    before: Duration,
}

impl Sleep {
    pub(crate) fn new() -> Self {
        Self { before: suspended() }
    }

    /// Whether the host has slept for long since the last call.
    pub(crate) fn was_long(&mut self) -> bool {
        self.take(suspended())
    }

    fn take(&mut self, total: Duration) -> bool {
        let slept = total.saturating_sub(std::mem::replace(&mut self.before, total));
        slept > LONG_SLEEP
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn underlay(addrs: &[&str], gateways: &[&str]) -> Underlay {
        let route = |gateway: &&str| {
            let gateway: IpAddr = gateway.parse().unwrap();
            DefaultRoute { is_ipv6: gateway.is_ipv6(), interface: 2, gateway: Some(gateway) }
        };
        Underlay {
            addrs: addrs.iter().map(|addr| addr.parse().unwrap()).collect(),
            routes: gateways.iter().map(route).collect(),
        }
    }

    #[track_caller]
    fn check(old: (&[&str], &[&str]), new: (&[&str], &[&str]), has_lost: bool, has_gained: bool) {
        let change = underlay(new.0, new.1).since(&underlay(old.0, old.1));
        assert_eq!(change, Change { has_lost, has_gained });
        assert_eq!(change.is_other_network(), has_lost || has_gained);
    }

    #[test]
    fn addresses_and_default_routes_come_and_go() {
        let (one, two): (&[&str], &[&str]) = (&["10.0.0.2"], &["10.0.0.2", "192.0.2.7"]);
        let (via, other): (&[&str], &[&str]) = (&["10.0.0.1"], &["10.0.0.9"]);
        check((one, via), (one, via), false, false);
        check((one, via), (two, via), false, true);
        check((two, via), (one, via), true, false);
        check((one, via), (one, other), true, true);
        check((one, &[]), (one, via), false, true);
        check((one, via), (one, &[]), true, false);
        check((one, via), (&[], &[]), true, false);
    }

    #[test]
    fn only_a_long_sleep_counts_and_only_once() {
        let mut sleep = Sleep { before: Duration::from_secs(100) };
        assert!(!sleep.take(Duration::from_secs(100)));
        assert!(!sleep.take(Duration::from_secs(120)));
        assert!(sleep.take(Duration::from_secs(151)));
        assert!(!sleep.take(Duration::from_secs(151)));
    }
}
