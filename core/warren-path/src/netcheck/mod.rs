//! How this node sees the internet: which relays answer how fast, by which addresses we appear, and which relay is home.
//! data-plane.md §2.3–§2.6, §1.11.

mod check;
mod home;
mod plan;
mod report;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use warren_crypto::Random;
use warren_relay::stun::TxId as StunTx;
use warren_wire::{RegionId, RelayMap};

pub(crate) use report::differs_materially;
pub use report::{PORT_MAPPING, Report};

use crate::sockets::Sockets;
use check::Check;
pub(crate) use check::StunProbe;
pub(crate) use home::{Home, HomeFacts};
use plan::Target;

/// A full look at least so often.
const FULL_INTERVAL: Duration = Duration::from_secs(5 * 60);

/// An address of a relay's name is looked up again after this: relays move, and names follow.
const NAME_LIFE: Duration = Duration::from_secs(10 * 60);

/// More names of relays than this are not looked up.
const MAX_NAMES: usize = 256;

/// How much of the network to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Depth {
    /// The fastest regions and home; becomes full when the last full one is old.
    Incremental,
    Full,
}

/// What the caller must do for a running check.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Need {
    Resolve(String),
    Https(RegionId),
}

/// The report, how it comes to be, and what was asked along the way.
#[derive(Default)]
pub(crate) struct Netcheck {
    relay_map: RelayMap,
    /// Addresses of names; in use until there are newer ones.
    resolved: BTreeMap<String, Vec<IpAddr>>,
    /// When names were looked up. Those that are missing are looked up again.
    looked_up: BTreeMap<String, Instant>,
    last: Option<Report>,
    last_full: Option<Instant>,
    running: Option<Check>,
    /// One more is wanted when the running one has ended.
    again: Option<Depth>,
    needs: VecDeque<Need>,
}

impl Netcheck {
    pub fn relay_map(&self) -> &RelayMap {
        &self.relay_map
    }

    pub fn set_relay_map(&mut self, relay_map: RelayMap) {
        let names: BTreeSet<String> = plan::names(&relay_map).into_iter().take(MAX_NAMES).collect();
        self.resolved.retain(|name, _| names.contains(name));
        self.looked_up.retain(|name, _| names.contains(name));
        self.relay_map = relay_map;
    }

    /// Returns whether there is somebody else to ask now. A name that was not found keeps its addresses.
    pub fn resolved(&mut self, name: &str, mut addrs: Vec<IpAddr>, now: Instant) -> bool {
        if addrs.is_empty() || !plan::names(&self.relay_map).contains(name) {
            return false;
        }
        // Servers of names like to turn the list round.
        addrs.sort_unstable();
        self.looked_up.insert(name.to_string(), now);
        let before = self.resolved.insert(name.to_string(), addrs);
        if before.as_ref() == self.resolved.get(name) {
            return false;
        }
        // A look that has nobody to ask is worth less than a new one.
        if self.running.as_ref().is_some_and(Check::has_no_servers) {
            self.running = None;
        }
        true
    }

    pub fn report(&self) -> Option<&Report> {
        self.last.as_ref()
    }

    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Starts a look, or asks for one more after the running one.
    pub fn start(&mut self, depth: Depth, sockets: &Sockets, home: Option<RegionId>, now: Instant) {
        if self.running.is_some() {
            self.again = self.again.max(Some(depth));
            return;
        }
        let targets: Vec<Target> = plan::targets(&self.relay_map, &self.resolved, sockets);
        self.looked_up.retain(|_, at| now < *at + NAME_LIFE);
        let unresolved = plan::names(&self.relay_map).into_iter().filter(|name| !self.looked_up.contains_key(name));
        self.needs.extend(unresolved.take(MAX_NAMES).map(Need::Resolve));
        let is_full_due = self.last_full.is_none_or(|last| now >= last + FULL_INTERVAL);
        let last = self.last.as_ref().filter(|last| depth != Depth::Full && !is_full_due && last.udp);
        let sets = match last {
            Some(last) => plan::incremental(&targets, last, home, now),
            None => {
                self.last_full = Some(now);
                plan::full(&targets, now)
            }
        };
        let https = plan::https_regions(&self.relay_map);
        self.running = Some(Check::new(sets, https, last.is_none(), sockets, now));
    }

    /// The network under us is another one: names may mean other addresses there, and nobody sees us as before.
    pub fn forget_network(&mut self) {
        self.looked_up.clear();
        if let Some(last) = &mut self.last {
            last.seen.clear();
        }
    }

    /// Gives up the running look: the network under it is another one.
    pub fn abandon(&mut self) {
        (self.running, self.again, self.last_full) = (None, None, None);
    }

    pub fn poll_need(&mut self) -> Option<Need> {
        self.needs.pop_front()
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.running.as_ref().map(Check::deadline)
    }

    /// Sends what is due and ends the check when it is over.
    pub fn handle_timeout(&mut self, random: &mut Random, now: Instant) -> Vec<StunProbe> {
        let Some(check) = &mut self.running else { return Vec::new() };
        let probes = check.send_due(random, now);
        self.needs.extend(check.begin_https(now).into_iter().map(Need::Https));
        probes
    }

    /// Returns whether the answer was waited for.
    pub fn handle_answer(&mut self, from: SocketAddr, tx: StunTx, mapped: SocketAddr, now: Instant) -> bool {
        self.running.as_mut().is_some_and(|check| check.handle_answer(from, tx, mapped, now))
    }

    pub fn https_latency(&mut self, region: RegionId, latency: Option<Duration>) {
        if let Some(check) = &mut self.running {
            check.https_latency(region, latency);
        }
    }

    /// The report of a check that is over, once; it is [`Netcheck::report`] from then on. The second value says what
    /// to start next.
    pub fn poll_finished(&mut self, now: Instant) -> Option<(Instant, Option<Depth>)> {
        if !self.running.as_ref()?.is_over(now) {
            return None;
        }
        let check = self.running.take()?;
        let started = check.started();
        let report = check.finish(self.last.as_ref(), now);
        if report.is_full && !report.udp {
            // Perhaps nobody answers because the servers are no longer where their names were found.
            self.looked_up.clear();
        }
        self.last = Some(report);
        Some((started, self.again.take()))
    }

    pub fn set_preferred(&mut self, home: Option<RegionId>) {
        if let Some(report) = &mut self.last {
            report.preferred = home;
        }
    }
}
