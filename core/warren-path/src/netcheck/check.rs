//! One look at the network, from the first question to the report.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use warren_crypto::Random;
use warren_relay::stun::{self, TxId as StunTx};
use warren_wire::RegionId;

use super::plan::ProbeSet;
use super::report::Report;
use crate::sockets::{Family, Sockets};

/// STUN gets so long.
const STUN_LIMIT: Duration = Duration::from_secs(3);
/// The whole look gets so long.
const LIMIT: Duration = Duration::from_secs(5);
/// After so long without any answer by UDP, HTTPS is asked too: a node without a home cannot be reached at all.
const HTTPS_AFTER: Duration = Duration::from_secs(1);
/// When so many regions have answered, only a little more is waited for.
const ENOUGH_REGIONS: usize = 3;
/// More addresses of ours than this are not counted.
const MAX_SEEN: usize = 32;

/// One STUN question to send.
#[derive(Debug)]
pub(crate) struct StunProbe {
    pub to: SocketAddr,
    pub bytes: Vec<u8>,
}

struct Asked {
    set: usize,
    to: SocketAddr,
    at: Instant,
}

pub(super) struct Check {
    started: Instant,
    sets: Vec<ProbeSet>,
    /// Questions by transaction. Bounded by the tries of the sets.
    asked: BTreeMap<[u8; 12], Asked>,
    regions: usize,
    report: Report,
    /// Which of our addresses each IPv4 server saw.
    seen_by: BTreeMap<SocketAddr, SocketAddr>,
    stop_at: Option<Instant>,
    https_regions: BTreeSet<RegionId>,
    https_waiting: Option<BTreeSet<RegionId>>,
}

impl Check {
    pub fn new(
        sets: Vec<ProbeSet>,
        https_regions: BTreeSet<RegionId>,
        is_full: bool,
        sockets: &Sockets,
        now: Instant,
    ) -> Check {
        let regions = sets.iter().map(|set| set.region).collect::<BTreeSet<_>>().len();
        let os_has_ipv6 = sockets.get(Family::V6).is_some();
        let report = Report { is_full, os_has_ipv6, ..Report::empty(now) };
        Check {
            started: now,
            sets,
            asked: BTreeMap::new(),
            regions,
            report,
            seen_by: BTreeMap::new(),
            stop_at: None,
            https_regions,
            https_waiting: None,
        }
    }

    pub fn started(&self) -> Instant {
        self.started
    }

    /// Nobody is asked by UDP.
    pub fn has_no_servers(&self) -> bool {
        self.sets.is_empty()
    }

    pub fn deadline(&self) -> Instant {
        let next_try = self.sets.iter().filter_map(|set| set.tries.front().map(|(at, _)| *at)).min();
        let https = (!self.report.udp && self.https_waiting.is_none()).then(|| self.https_begin());
        [next_try, https, Some(self.end())].into_iter().flatten().min().unwrap_or(self.started + LIMIT)
    }

    pub fn is_over(&self, now: Instant) -> bool {
        let https_was_tried = self.https_waiting.is_some() || self.https_regions.is_empty();
        now >= self.end() && (self.report.udp || https_was_tried)
    }

    /// When there is nothing more to wait for, as far as is known now.
    fn end(&self) -> Instant {
        if self.report.udp {
            return self.stop_at.unwrap_or(self.started + STUN_LIMIT);
        }
        let nobody_to_ask = self.sets.iter().all(|set| set.tries.is_empty()) && self.asked.is_empty();
        match &self.https_waiting {
            Some(waiting) if waiting.is_empty() && nobody_to_ask => self.started,
            Some(waiting) if waiting.is_empty() => self.https_begin() + HTTPS_AFTER / 2,
            None if self.https_regions.is_empty() && nobody_to_ask => self.started,
            None if self.https_regions.is_empty() => self.started + STUN_LIMIT,
            Some(_) | None => self.started + LIMIT,
        }
    }

    fn https_begin(&self) -> Instant {
        // Without any server to ask by UDP there is nothing to wait for.
        if self.sets.is_empty() { self.started } else { self.started + HTTPS_AFTER }
    }

    pub fn send_due(&mut self, random: &mut Random, now: Instant) -> Vec<StunProbe> {
        let mut probes = Vec::new();
        for index in 0..self.sets.len() {
            while let Some((at, to)) = self.sets[index].tries.front().copied() {
                if at > now {
                    break;
                }
                self.sets[index].tries.pop_front();
                if !self.is_useful(index, to) {
                    continue;
                }
                let tx = random.bytes::<12>();
                self.report.stun_asked += 1;
                self.asked.insert(tx, Asked { set: index, to, at: now });
                probes.push(StunProbe { to, bytes: stun::encode_request(StunTx(tx)).to_vec() });
            }
        }
        probes
    }

    /// Whether an answer would tell anything new.
    fn is_useful(&self, set: usize, to: SocketAddr) -> bool {
        let ProbeSet { region, family, .. } = &self.sets[set];
        let unmeasured = !self.report.region_latency.contains_key(region);
        match family {
            Family::V6 => unmeasured || self.report.region_v6_latency.is_empty(),
            Family::V4 => unmeasured || self.report.region_v4_latency.is_empty() || self.could_tell_mapping(to),
        }
    }

    /// A second answer from the same place says nothing about other places.
    fn could_tell_mapping(&self, server: SocketAddr) -> bool {
        server.is_ipv4() && self.report.mapping_varies.is_none() && !self.seen_by.contains_key(&server)
    }

    pub fn handle_answer(&mut self, from: SocketAddr, tx: StunTx, mapped: SocketAddr, now: Instant) -> bool {
        let Some(asked) = self.asked.get(&tx.0) else { return false };
        let is_plausible = mapped.is_ipv4() == from.is_ipv4() && mapped.port() != 0 && !mapped.ip().is_unspecified();
        if asked.to != from || !is_plausible {
            return false;
        }
        let (set, latency) = (asked.set, now.saturating_duration_since(asked.at));
        self.asked.remove(&tx.0);
        let (region, family) = (self.sets[set].region, self.sets[set].family);
        self.note_latency(region, family, latency);
        self.note_mapping(from, mapped);
        let kept = self.sets[set].tries.iter().filter(|(_, to)| self.could_tell_mapping(*to)).copied().collect();
        self.sets[set].tries = kept;
        self.consider_stopping(now);
        true
    }

    fn note_latency(&mut self, region: RegionId, family: Family, latency: Duration) {
        let report = &mut self.report;
        report.udp = true;
        let of_family = match family {
            Family::V4 => {
                report.ipv4 = true;
                &mut report.region_v4_latency
            }
            Family::V6 => {
                report.ipv6 = true;
                &mut report.region_v6_latency
            }
        };
        for latencies in [of_family, &mut report.region_latency] {
            latencies.entry(region).and_modify(|known| *known = latency.min(*known)).or_insert(latency);
        }
    }

    fn note_mapping(&mut self, server: SocketAddr, mapped: SocketAddr) {
        *self.report.seen.entry(mapped).or_default() += 1;
        if mapped.is_ipv6() {
            self.report.global_v6 = Some(mapped);
            return;
        }
        self.report.global_v4.get_or_insert(mapped);
        for (other, seen) in &self.seen_by {
            if *other == server {
                continue;
            }
            if *seen != mapped {
                self.report.mapping_varies = Some(true);
            } else if self.report.mapping_varies.is_none() {
                self.report.mapping_varies = Some(false);
            }
        }
        self.seen_by.insert(server, mapped);
    }

    /// Once enough regions have answered, the slowest of them says how long a straggler deserves; where a question
    /// about our mapping is still to be asked, its answer is waited for too.
    fn consider_stopping(&mut self, now: Instant) {
        let latencies = &self.report.region_latency;
        if latencies.len() < ENOUGH_REGIONS.min(self.regions) {
            return;
        }
        let slowest = latencies.values().max().copied().unwrap_or_default();
        let patience = if self.report.is_full { slowest * 2 } else { slowest };
        let informative = self.sets.iter().flat_map(|set| &set.tries).filter(|(_, to)| self.could_tell_mapping(*to));
        let last_question = informative.map(|(at, _)| *at).min().unwrap_or(now);
        let stop_at = last_question.max(now) + patience;
        self.stop_at = Some(self.stop_at.map_or(stop_at, |known| known.min(stop_at)).min(self.started + STUN_LIMIT));
    }

    /// The regions to ask by HTTPS, once: those that UDP did not reach.
    pub fn begin_https(&mut self, now: Instant) -> Vec<RegionId> {
        if self.report.udp || self.https_waiting.is_some() || now < self.https_begin() {
            return Vec::new();
        }
        self.https_waiting = Some(self.https_regions.clone());
        self.https_regions.iter().copied().collect()
    }

    pub fn https_latency(&mut self, region: RegionId, latency: Option<Duration>) {
        let Some(waiting) = &mut self.https_waiting else { return };
        if waiting.remove(&region)
            && let Some(latency) = latency
        {
            self.report.region_latency.entry(region).or_insert(latency);
        }
    }

    pub fn finish(self, last: Option<&Report>, now: Instant) -> Report {
        let mut report = Report { finished: now, ..self.report };
        // How often an address was seen counts over reports: routers hand out fresh ones mid-life, and one that was seen
        // twice is worth showing beside the newest.
        for (addr, count) in last.iter().flat_map(|last| &last.seen) {
            if report.seen.len() < MAX_SEEN || report.seen.contains_key(addr) {
                *report.seen.entry(*addr).or_default() += count;
            }
        }
        if report.mapping_varies.is_none() && report.global_v4.is_some() {
            report.mapping_varies =
                last.filter(|last| last.global_v4 == report.global_v4).and_then(|last| last.mapping_varies);
        }
        report
    }
}
