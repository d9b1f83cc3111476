//! When relays that are known by name are looked up.

use std::time::{Duration, Instant};

use warren_crypto::{DiscoSecret, NodePublic, Random};
use warren_path::{Event, LocalSocket, Paths, PathsConfig, SocketId};
use warren_wire::{RegionId, RelayMap, RelayNode, RelayRegion};

const NAME: &str = "relay.example";

struct Rig {
    paths: Paths,
    now: Instant,
}

impl Rig {
    /// A node that was just told of a relay by its name.
    fn new() -> Rig {
        let now = warren_simnet::beginning();
        let node = NodePublic::from_bytes([1; 32]);
        let config = PathsConfig { node, disco: DiscoSecret::from_seed([3; 32]), random: Random::from_seed([4; 32]) };
        let mut rig = Rig { paths: Paths::new(config, now), now };
        let socket = LocalSocket { id: SocketId::V4, bound: "0.0.0.0:41641".parse().expect("an address") };
        rig.paths.set_sockets(vec![socket], vec!["192.0.2.7".parse().expect("an address")], now);
        let node = RelayNode { host_name: NAME.into(), region_id: RegionId(1), ..RelayNode::default() };
        let region = RelayRegion { region_id: RegionId(1), nodes: vec![node], ..RelayRegion::default() };
        let map = RelayMap { regions: [(RegionId(1), region)].into(), ..RelayMap::default() };
        rig.paths.set_relay_map(map, now);
        rig
    }

    /// How often the name is asked for until the node rests, while nobody answers a probe.
    fn questions(&mut self) -> usize {
        let mut count = 0;
        let until = self.now + Duration::from_secs(10);
        loop {
            while self.paths.poll_transmit().is_some() {}
            while let Some(event) = self.paths.poll_event() {
                count += usize::from(event == Event::Resolve { name: NAME.into() });
            }
            match self.paths.poll_timeout().filter(|at| *at <= until) {
                Some(at) => self.now = self.now.max(at),
                None => break,
            }
            self.paths.handle_timeout(self.now);
        }
        self.now = until;
        count
    }

    /// Where STUN goes in the look that begins now.
    fn asked(&mut self) -> Vec<String> {
        let mut asked = Vec::new();
        while let Some(probe) = self.paths.poll_transmit() {
            asked.push(format!("{:?}", probe.hop));
        }
        asked
    }

    fn answer(&mut self, addr: &str) {
        self.paths.resolved(NAME, vec![addr.parse().expect("an address")], self.now);
    }
}

#[test]
fn a_name_is_looked_up_again_when_a_whole_look_brought_no_answer() {
    let mut rig = Rig::new();
    assert!(rig.questions() > 0);
    rig.answer("203.0.113.1");
    let asked = rig.asked();
    assert!(!asked.is_empty() && asked.iter().all(|hop| hop.contains("203.0.113.1")), "{asked:?}");
    // Nobody answers there.
    rig.questions();
    rig.paths.check_network(rig.now);
    assert!(rig.questions() > 0);
    rig.answer("203.0.113.2");
    let asked = rig.asked();
    assert!(!asked.is_empty() && asked.iter().all(|hop| hop.contains("203.0.113.2")), "{asked:?}");
}

#[test]
fn a_name_is_looked_up_again_on_another_network_and_after_ten_minutes_and_not_before() {
    let mut rig = Rig::new();
    rig.questions();
    rig.answer("203.0.113.1");
    let count = |rig: &mut Rig| {
        std::iter::from_fn(|| rig.paths.poll_event()).filter(|event| matches!(event, Event::Resolve { .. })).count()
    };
    rig.paths.check_network(rig.now);
    assert_eq!(count(&mut rig), 0);
    rig.paths.rebound(rig.now);
    assert_eq!(count(&mut rig), 1);
    rig.answer("203.0.113.1");
    rig.now += Duration::from_secs(599);
    rig.paths.set_sockets(Vec::new(), Vec::new(), rig.now);
    assert_eq!(count(&mut rig), 0);
    rig.now += Duration::from_secs(2);
    let socket = LocalSocket { id: SocketId::V4, bound: "0.0.0.0:41641".parse().expect("an address") };
    rig.paths.set_sockets(vec![socket], Vec::new(), rig.now);
    assert_eq!(count(&mut rig), 1);
}
