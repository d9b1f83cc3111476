//! What this value knows of the connections to relays: who is connected, heard, wanted.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use warren_wire::RegionId;

/// While a region is in use its owner hears of it so often, so that it keeps the connection.
const WANT_AGAIN: Duration = Duration::from_secs(10);
/// … and so often until there is a connection.
const WANT_AGAIN_UNCONNECTED: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, Default)]
struct Relay {
    is_connected: bool,
    heard: Option<Instant>,
    wanted: Option<Instant>,
}

/// The regions that anything was said about. Bounded by the regions of the map and those that the caller names.
#[derive(Debug, Default)]
pub(crate) struct Relays(BTreeMap<RegionId, Relay>);

impl Relays {
    pub fn set_connected(&mut self, region: RegionId, is_connected: bool) {
        let relay = self.0.entry(region).or_default();
        relay.is_connected = is_connected;
    }

    pub fn is_connected(&self, region: RegionId) -> bool {
        self.0.get(&region).is_some_and(|relay| relay.is_connected)
    }

    pub fn note_heard(&mut self, region: RegionId, now: Instant) {
        if let Some(relay) = self.0.get_mut(&region) {
            relay.heard = Some(now);
        }
    }

    pub fn heard(&self, region: RegionId) -> Option<Instant> {
        self.0.get(&region).and_then(|relay| relay.heard)
    }

    /// A region is being used. Returns whether its owner should hear of it now.
    pub fn note_wanted(&mut self, region: RegionId, now: Instant) -> bool {
        let relay = self.0.entry(region).or_default();
        let pause = if relay.is_connected { WANT_AGAIN } else { WANT_AGAIN_UNCONNECTED };
        if relay.wanted.is_some_and(|wanted| now < wanted + pause) {
            return false;
        }
        relay.wanted = Some(now);
        true
    }
}
