//! What happens to a packet between a host or router and the segment that it is plugged into.

use std::time::{Duration, Instant};

use crate::random::Dice;

/// One cable, the same in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// One way.
    pub latency: Duration,
    /// Packets lost of a thousand.
    pub loss_per_mille: u16,
    /// Larger IP packets are lost.
    pub mtu: usize,
    /// Bytes a second; `None`: no limit.
    pub rate: Option<u64>,
    /// Bytes that may wait where there is a rate; what exceeds it is lost.
    pub queue: u64,
    /// Cut: nothing passes.
    pub is_up: bool,
}

impl Default for Link {
    /// Five milliseconds, no loss, no limit, Ethernet size.
    fn default() -> Link {
        Link {
            latency: Duration::from_millis(5),
            loss_per_mille: 0,
            mtu: 1500,
            rate: None,
            queue: 256 * 1024,
            is_up: true,
        }
    }
}

/// How busy one direction of a link is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Busy {
    until: Option<Instant>,
}

impl Link {
    /// A link of this one-way latency and no other quality.
    pub fn with_latency(latency: Duration) -> Link {
        Link { latency, ..Link::default() }
    }

    /// When a packet of `size` bytes comes out at the other end; `None`: never.
    pub(crate) fn carry(&self, busy: &mut Busy, size: usize, dice: &mut Dice, now: Instant) -> Option<Instant> {
        if !self.is_up || size > self.mtu || dice.chance(self.loss_per_mille) {
            return None;
        }
        let Some(rate) = self.rate else { return Some(now + self.latency) };
        let begin = busy.until.map_or(now, |until| until.max(now));
        let waiting = begin.saturating_duration_since(now).as_secs_f64() * rate as f64;
        if waiting > self.queue as f64 {
            return None;
        }
        let end = begin + Duration::from_secs_f64(size as f64 / rate as f64);
        busy.until = Some(end);
        Some(end + self.latency)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_loses_packets_and_an_empty_one_delays_them_by_their_size() {
        let (now, mut dice, mut busy) = (Instant::now(), Dice::new(1), Busy::default());
        let link = Link { rate: Some(1000), queue: 1500, ..Link::default() };
        let arrivals: Vec<Option<Duration>> =
            (0..4).map(|_| link.carry(&mut busy, 1000, &mut dice, now).map(|at| at - now)).collect();
        let after = |seconds| Some(Duration::from_secs(seconds) + link.latency);
        assert_eq!(arrivals, [after(1), after(2), None, None]);
    }

    #[test]
    fn what_exceeds_the_mtu_never_arrives() {
        let (now, mut dice, mut busy) = (Instant::now(), Dice::new(1), Busy::default());
        let link = Link { mtu: 1280, ..Link::default() };
        assert!(link.carry(&mut busy, 1280, &mut dice, now).is_some());
        assert!(link.carry(&mut busy, 1281, &mut dice, now).is_none());
    }
}
