//! Reliable streams: everything arrives, in order, or both ends learn that the stream broke. What TCP gives, without its
//! packets: firewalls against UDP do not see them, a cut link stalls them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::internet::{Arrival, HostId, Internet, Segment};

/// How often a stalled stream is tried again.
const RETRY: Duration = Duration::from_millis(200);
/// A stream that was stalled for so long is broken.
const PATIENCE: Duration = Duration::from_secs(15);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(u64);

/// What one end of a stream learns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamEvent {
    /// Somebody connected to this host. `from` is the address that is seen here.
    Opened {
        stream: StreamId,
        from: SocketAddr,
        to: SocketAddr,
    },
    Bytes {
        stream: StreamId,
        bytes: Vec<u8>,
    },
    /// The other end closed it, or it broke.
    Closed {
        stream: StreamId,
    },
}

#[derive(Debug)]
pub(crate) struct StreamStep {
    stream: StreamId,
    to: HostId,
    event: StreamEvent,
    stalled_since: Option<Instant>,
}

#[derive(Debug)]
struct Stream {
    ends: [HostId; 2],
    /// When the last event on its way to each end arrives: nothing overtakes it.
    last: [Instant; 2],
    /// Until when everything on its way to each end waits behind an event that is stalled.
    held_until: [Instant; 2],
}

#[derive(Debug, Default)]
pub(crate) struct Streams {
    open: BTreeMap<StreamId, Stream>,
    next: u64,
}

impl<T> Internet<T> {
    /// Connects to whoever listens at `to`: a host on the public segment or on the own one. `None`: nobody is there now.
    pub fn open(&mut self, from: HostId, to: SocketAddr) -> Option<StreamId> {
        let own = self.hosts[from.0].segment;
        let is_target = |host: &crate::Host<T>| {
            (host.segment == Segment::Public || host.segment == own) && host.addrs.contains(&to.ip())
        };
        let target = HostId(self.hosts.iter().position(is_target)?);
        self.latency(from, target)?;
        let seen_as = self.outer_address(from, target, to)?;
        let stream = StreamId(self.streams.next);
        self.streams.next += 1;
        let now = self.now();
        self.streams.open.insert(stream, Stream { ends: [from, target], last: [now; 2], held_until: [now; 2] });
        self.deliver_later(stream, target, StreamEvent::Opened { stream, from: seen_as, to });
        Some(stream)
    }

    /// Sends bytes from one end. A stream that is no longer open swallows them.
    pub fn write(&mut self, stream: StreamId, from: HostId, bytes: Vec<u8>) {
        if let Some(to) = self.other_end(stream, from) {
            self.deliver_later(stream, to, StreamEvent::Bytes { stream, bytes });
        }
    }

    /// Ends a stream; the other end learns of it.
    pub fn close(&mut self, stream: StreamId, from: HostId) {
        if let Some(to) = self.other_end(stream, from) {
            self.deliver_later(stream, to, StreamEvent::Closed { stream });
            self.streams.open.remove(&stream);
        }
    }

    pub fn is_open(&self, stream: StreamId) -> bool {
        self.streams.open.contains_key(&stream)
    }

    /// All streams of a host break; both ends learn of it.
    pub fn break_streams(&mut self, host: HostId) {
        let of_host = |(_, stream): &(&StreamId, &Stream)| stream.ends.contains(&host);
        let broken: Vec<StreamId> = self.streams.open.iter().filter(of_host).map(|(id, _)| *id).collect();
        for stream in broken {
            self.break_stream(stream);
        }
    }

    fn break_stream(&mut self, stream: StreamId) {
        let Some(broken) = self.streams.open.remove(&stream) else { return };
        let now = self.now();
        for to in broken.ends {
            let event = StreamEvent::Closed { stream };
            self.schedule_stream(now, StreamStep { stream, to, event, stalled_since: None });
        }
    }

    fn other_end(&self, stream: StreamId, from: HostId) -> Option<HostId> {
        let [a, b] = self.streams.open.get(&stream)?.ends;
        Some(if a == from { b } else { a })
    }

    fn deliver_later(&mut self, stream: StreamId, to: HostId, event: StreamEvent) {
        let now = self.now();
        let Some(open) = self.streams.open.get(&stream) else { return };
        let [a, b] = open.ends;
        // Cut links are noticed on arrival, so that what was under way stalls too.
        let latency = self.latency(a, b).unwrap_or(RETRY);
        let Some(open) = self.streams.open.get_mut(&stream) else { return };
        let side = usize::from(to == open.ends[1]);
        let at = (now + latency).max(open.last[side]);
        open.last[side] = at;
        self.schedule_stream(at, StreamStep { stream, to, event, stalled_since: None });
    }

    pub(crate) fn step_stream(&mut self, mut step: StreamStep) -> Option<Arrival> {
        let is_last_word = matches!(step.event, StreamEvent::Closed { .. });
        if is_last_word {
            return Some(Arrival::Stream { host: step.to, event: step.event });
        }
        let now = self.now();
        let open = self.streams.open.get(&step.stream)?;
        let ([a, b], held_until) = (open.ends, open.held_until[usize::from(step.to == open.ends[1])]);
        if now < held_until {
            // The one before it was tried and stalled: this one is tried after it.
            self.schedule_stream(held_until, step);
            return None;
        }
        if self.latency(a, b).is_some() {
            return Some(Arrival::Stream { host: step.to, event: step.event });
        }
        let since = *step.stalled_since.get_or_insert(now);
        if now >= since + PATIENCE {
            self.break_stream(step.stream);
        } else {
            if let Some(open) = self.streams.open.get_mut(&step.stream) {
                open.held_until[usize::from(step.to == open.ends[1])] = now + RETRY;
            }
            self.schedule_stream(now + RETRY, step);
        }
        None
    }

    /// The address by which the target sees the host: that of the outermost translator on the way.
    fn outer_address(&self, from: HostId, target: HostId, to: SocketAddr) -> Option<SocketAddr> {
        let host = &self.hosts[from.0];
        let mut ip = host.addr_like(to.ip())?;
        let mut at = host.segment;
        while let (Segment::Behind(router), true) = (at, at != self.hosts[target.0].segment) {
            let router = &self.routers[router.0];
            ip = router.outer.filter(|_| ip.is_ipv4()).unwrap_or(ip);
            at = router.config.upstream;
        }
        let port = 32_768 + u16::try_from(self.streams.next % 28_000).unwrap_or(0);
        Some(SocketAddr::new(ip, port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the second host received until the limit.
    fn received(internet: &mut Internet<()>, seconds: u64) -> Vec<StreamEvent> {
        let limit = internet.now() + Duration::from_secs(seconds);
        let mut events = Vec::new();
        while let Some(arrival) = internet.advance(limit) {
            if let Arrival::Stream { host, event } = arrival
                && host == HostId(1)
            {
                events.push(event);
            }
        }
        events
    }

    fn pair() -> (Internet<()>, StreamId) {
        let mut internet = Internet::new(1);
        let a = internet.add_host(Segment::Public, true, false, ());
        let b = internet.add_host(Segment::Public, true, false, ());
        let to = SocketAddr::new(internet.host(b).addrs()[0], 443);
        let stream = internet.open(a, to).expect("a listener");
        (internet, stream)
    }

    #[test]
    fn bytes_arrive_in_order_even_across_a_short_cut() {
        let (mut internet, stream) = pair();
        internet.write(stream, HostId(0), vec![1]);
        internet.host_mut(HostId(0)).link.is_up = false;
        assert_eq!(received(&mut internet, 5), []);
        internet.host_mut(HostId(0)).link.is_up = true;
        internet.write(stream, HostId(0), vec![2]);
        let bytes: Vec<u8> = received(&mut internet, 5)
            .into_iter()
            .filter_map(|event| if let StreamEvent::Bytes { bytes, .. } = event { Some(bytes) } else { None })
            .flatten()
            .collect();
        assert_eq!(bytes, [1, 2]);
    }

    #[test]
    fn what_was_sent_during_a_cut_does_not_overtake_what_was_sent_before_it() {
        let (mut internet, stream) = pair();
        received(&mut internet, 1);
        internet.host_mut(HostId(0)).link.is_up = false;
        internet.write(stream, HostId(0), vec![1]);
        let pause = |internet: &mut Internet<()>, millis| {
            let limit = internet.now() + Duration::from_millis(millis);
            while internet.advance(limit).is_some() {}
        };
        pause(&mut internet, 300);
        internet.write(stream, HostId(0), vec![2]);
        pause(&mut internet, 50);
        internet.host_mut(HostId(0)).link.is_up = true;
        internet.write(stream, HostId(0), vec![3]);
        let bytes: Vec<StreamEvent> = received(&mut internet, 5);
        let expect = [1, 2, 3].map(|byte| StreamEvent::Bytes { stream, bytes: vec![byte] });
        assert_eq!(bytes, expect);
    }

    #[test]
    fn a_long_cut_breaks_the_stream_at_both_ends() {
        let (mut internet, stream) = pair();
        received(&mut internet, 1);
        internet.host_mut(HostId(0)).link.is_up = false;
        internet.write(stream, HostId(0), vec![1]);
        assert_eq!(received(&mut internet, 20), [StreamEvent::Closed { stream }]);
        assert!(!internet.is_open(stream));
    }
}
