//! Bursts from one engine to another, in memory: everything that a data plane does but system calls.

use std::net::IpAddr;
use std::time::Instant;

use warren_crypto::{DiscoSecret, NodePublic, NodeSecret, Random, UnixTime};
use warren_engine::{Burst, Delivery, Engine, EngineConfig, EngineIdentity, EnginePeer};
use warren_ip::offload::{Super, VirtioHeader};
use warren_ip::{Prefix, Protocol, build};
use warren_path::Hop;
use warren_wire::{FilterRule, NetPortRange, PortRange, RegionId};

use crate::{Figure, RUNS, allocations};

const REGION: RegionId = RegionId(900);
const BURSTS: usize = 2_000;
const PAYLOAD: usize = 60_000;

/// One TCP stream in TSO bursts of 60 kB, A seals, B opens, filters and joins.
pub fn tso_end_to_end() {
    for (case, mtu) in [("tcp-1-mtu1420", 1420), ("tcp-1-mtu1280", 1280)] {
        let mut pair = Pair::new(mtu);
        pair.stream(64);
        let (mut goodput, mut allocated) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            let (begin, before) = (Instant::now(), allocations::count());
            let bytes = pair.stream(BURSTS);
            let seconds = begin.elapsed().as_secs_f64();
            goodput.push(bytes as f64 * 8.0 / seconds / 1e6);
            let packets = BURSTS * PAYLOAD.div_ceil(usize::from(mtu) - 40);
            allocated.push((allocations::count() - before) as f64 / packets as f64);
        }
        Figure { bench: "engine", case: case.into(), metric: "goodput", unit: "Mbit/s" }.print(goodput);
        Figure { bench: "engine", case: case.into(), metric: "allocations", unit: "1/packet" }.print(allocated);
    }
}

struct Pair {
    engines: [Engine; 2],
    nodes: [NodePublic; 2],
    template: Vec<u8>,
    now: Instant,
    sequence: u32,
}

impl Pair {
    fn new(mtu: u16) -> Self {
        let now = Instant::now();
        let node = |n: u8| NodeSecret::from_seed([10 + n; 32]);
        let nodes = [node(0).public(), node(1).public()];
        let engines = [0u8, 1].map(|n| {
            let identity = EngineIdentity { node: node(n), disco: DiscoSecret::from_seed([20 + n; 32]) };
            let mut engine = Engine::new(identity, Random::from_seed([n; 32]), now, UnixTime::from_secs(1_790_000_000));
            let peer = EnginePeer {
                home: Some(REGION),
                allowed: vec![Prefix::host(addr(1 - n))],
                ..EnginePeer::new(nodes[usize::from(1 - n)])
            };
            let everything = FilterRule {
                src_ips: vec!["*".into()],
                dst_ports: vec![NetPortRange { ip: "*".into(), ports: PortRange::ANY, ..NetPortRange::default() }],
                ..FilterRule::default()
            };
            let problems = engine.set(
                EngineConfig {
                    self_addrs: vec![addr(n)],
                    peers: vec![peer],
                    filter: vec![everything],
                    mtu,
                    delivery: Delivery::Joined { udp: false },
                    ..EngineConfig::default()
                },
                now,
            );
            assert!(problems.is_empty());
            engine.relay_state(REGION, true, now);
            engine
        });
        let mut pair = Self { engines, nodes, template: template(mtu - 40), now, sequence: 1 };
        pair.engines[0].initiate(&nodes[1], now);
        pair.carry();
        pair
    }

    /// Sends bursts of one stream; the payload bytes that came out at the other end.
    fn stream(&mut self, bursts: usize) -> usize {
        let mut received = 0;
        for _ in 0..bursts {
            // The device's write into the buffer stands in for the read: both cost one copy.
            let mut read = self.engines[0].take_buffer();
            read.extend_from_slice(&self.template);
            read[34..38].copy_from_slice(&self.sequence.to_be_bytes());
            self.sequence = self.sequence.wrapping_add(PAYLOAD as u32);
            let burst = Super::from_virtio(read).expect("a proper burst");
            let mut jobs = Vec::new();
            self.engines[0].decide_outbound(vec![burst], self.now, &mut jobs);
            for job in jobs {
                self.engines[0].finish_sealed(job.run(), self.now);
            }
            received += self.carry();
        }
        assert_eq!(received, bursts * PAYLOAD, "nothing is lost in memory");
        received
    }

    fn carry(&mut self) -> usize {
        let mut received = 0;
        loop {
            let mut is_quiet = true;
            for from in 0..2 {
                while let Some(run) = self.engines[from].poll_run() {
                    is_quiet = false;
                    let (to, hop) = (1 - from, Hop::Relay { region: REGION, peer: self.nodes[from] });
                    let mut jobs = Vec::new();
                    let burst = Burst { bytes: run.bytes, segment: run.segment };
                    self.engines[to].decide_inbound(hop, burst, self.now, &mut jobs);
                    for job in jobs {
                        self.engines[to].finish_opened(job.run(), self.now);
                    }
                }
            }
            if is_quiet {
                break;
            }
        }
        while let Some(delivery) = self.engines[1].poll_delivery() {
            received += delivery.view().expect("IP").payload().len();
            self.engines[1].recycle(delivery.into_buffer());
        }
        // In life each engine has its own device and socket; here a buffer wanders from one to the other.
        while self.engines[1].spare_buffers() > 48 {
            let buffer = self.engines[1].take_buffer();
            self.engines[0].recycle(buffer);
        }
        received
    }
}

fn addr(n: u8) -> IpAddr {
    [100, 64, 0, 1 + n].into()
}

/// One TUN read: virtio header, IPv4, TCP, payload.
fn template(mss: u16) -> Vec<u8> {
    let mut tcp = vec![0x5a; 20 + PAYLOAD];
    tcp[..20].fill(0);
    tcp[0..2].copy_from_slice(&5001u16.to_be_bytes());
    tcp[2..4].copy_from_slice(&5002u16.to_be_bytes());
    tcp[12] = 0x50;
    tcp[13] = 0x10;
    let header =
        VirtioHeader { flags: 1, gso_type: 1, header_len: 40, gso_size: mss, checksum_start: 20, checksum_offset: 16 };
    let mut read = header.encode().to_vec();
    read.extend(build::ip(addr(0), addr(1), Protocol::TCP, &tcp).expect("fits"));
    read
}
