//! The smallest internet: each engine has one address and a place at the relay; what is sent arrives at once.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use warren_crypto::{DiscoPublic, DiscoSecret, NodePublic, NodeSecret, Random, UnixTime};
use warren_engine::{Burst, Delivery, Engine, EngineConfig, EngineEvent, EngineIdentity, EnginePeer, Run};
use warren_ip::Prefix;
use warren_ip::offload::{Super, VirtioHeader};
use warren_path::{Hop, LocalSocket, SocketId};
use warren_wire::{FilterRule, NetPortRange, PortRange, RegionId};

pub const REGION: RegionId = RegionId(900);

pub struct Side {
    pub engine: Engine,
    pub config: EngineConfig,
    pub node: NodePublic,
    pub disco: DiscoPublic,
    pub addr: IpAddr,
    pub underlay: SocketAddr,
    pub delivered: Vec<Super>,
    pub events: Vec<EngineEvent>,
}

/// What crossed the underlay.
#[derive(Default, Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crossed {
    pub direct: usize,
    pub relayed: usize,
}

pub struct Net {
    pub now: Instant,
    pub sides: [Side; 2],
    pub crossed: Crossed,
    /// UDP between the two is lost while this is set.
    pub is_udp_blocked: bool,
    /// Runs as they left, for those who want to look.
    pub log: Option<Vec<(usize, Hop, usize, usize)>>,
    /// Kept back instead of delivered, while this is set.
    pub held: Option<Vec<(usize, Hop, Burst)>>,
}

impl Net {
    /// Two sides that know each other and permit everything. Nothing has been sent yet.
    pub fn new() -> Self {
        Self::with(Delivery::Single, 1280)
    }

    pub fn with(delivery: Delivery, mtu: u16) -> Self {
        let now = start();
        let mut net = Self {
            now,
            sides: [Side::new(0, now), Side::new(1, now)],
            crossed: Crossed::default(),
            is_udp_blocked: false,
            log: None,
            held: None,
        };
        for i in 0..2 {
            let peer = net.sides[1 - i].as_peer();
            let side = &mut net.sides[i];
            side.config = EngineConfig {
                self_addrs: vec![side.addr],
                peers: vec![peer],
                filter: vec![allow("*", PortRange::ANY)],
                mtu,
                delivery,
                ..EngineConfig::default()
            };
            let config = side.config.clone();
            assert!(side.engine.set(config, now).is_empty());
            let paths = side.engine.paths_mut();
            paths.set_sockets(
                vec![LocalSocket { id: SocketId::V4, bound: side.underlay }],
                vec![side.underlay.ip()],
                now,
            );
            paths.relay_state(REGION, true, now);
        }
        net
    }

    /// Two sides with keys; a packet went each way.
    pub fn connected() -> Self {
        let mut net = Self::new();
        net.send(0, udp(&net, 0, 1, b"hello"));
        assert_eq!(net.take_delivered(1).len(), 1);
        net
    }

    /// Sends packets of one host, and carries everything until it rests.
    pub fn send(&mut self, from: usize, packet: Vec<u8>) {
        self.send_bursts(from, vec![Super::packet(packet)]);
    }

    pub fn send_bursts(&mut self, from: usize, bursts: Vec<Super>) {
        let mut jobs = Vec::new();
        self.sides[from].engine.decide_outbound(bursts, self.now, &mut jobs);
        for job in jobs {
            self.sides[from].engine.finish_sealed(job.run(), self.now);
        }
        self.settle();
    }

    /// Lets time pass, in steps of the engines' own deadlines.
    pub fn pass(&mut self, duration: Duration) {
        let until = self.now + duration;
        self.settle();
        while let Some(at) =
            self.sides.iter().filter_map(|side| side.engine.poll_timeout()).min().filter(|at| *at <= until)
        {
            // A deadline may lie behind us; the clock never goes back.
            self.now = self.now.max(at);
            for side in &mut self.sides {
                side.engine.handle_timeout(self.now);
            }
            self.settle();
        }
        self.now = until;
    }

    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            let mut is_quiet = true;
            for from in 0..2 {
                while let Some(run) = self.sides[from].engine.poll_run() {
                    is_quiet = false;
                    self.carry(from, run);
                }
                let side = &mut self.sides[from];
                while let Some(delivery) = side.engine.poll_delivery() {
                    side.delivered.push(delivery);
                }
                while let Some(event) = side.engine.poll_event() {
                    is_quiet = false;
                    side.events.push(event);
                }
            }
            if is_quiet {
                return;
            }
        }
        panic!("the engines never come to rest");
    }

    pub fn receive(&mut self, at: usize, from: Hop, burst: Burst) {
        let mut jobs = Vec::new();
        self.sides[at].engine.decide_inbound(from, burst, self.now, &mut jobs);
        for job in jobs {
            self.sides[at].engine.finish_opened(job.run(), self.now);
        }
    }

    pub fn take_delivered(&mut self, at: usize) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.sides[at].delivered)
            .iter()
            .flat_map(|burst| burst.packets().collect::<Vec<_>>())
            .collect()
    }

    pub fn reconfigure(&mut self, at: usize, change: impl FnOnce(&mut EngineConfig)) {
        let side = &mut self.sides[at];
        change(&mut side.config);
        assert!(side.engine.set(side.config.clone(), self.now).is_empty());
    }

    fn carry(&mut self, from: usize, run: Run) {
        let to = 1 - from;
        assert!(run.segment > 0 && !run.bytes.is_empty());
        if let Some(log) = &mut self.log {
            log.push((from, run.hop, run.segment, run.bytes.len()));
        }
        let arrives_by = match run.hop {
            Hop::Direct { addr, .. } => {
                if addr != self.sides[to].underlay || self.is_udp_blocked {
                    return;
                }
                self.crossed.direct += usize::from(!is_disco(&run.bytes));
                Hop::Direct { socket: SocketId::V4, addr: self.sides[from].underlay }
            }
            Hop::Relay { region, peer } => {
                assert_eq!(peer, self.sides[to].node);
                self.crossed.relayed += usize::from(!is_disco(&run.bytes));
                Hop::Relay { region, peer: self.sides[from].node }
            }
        };
        let burst = Burst { bytes: run.bytes, segment: run.segment };
        match &mut self.held {
            Some(held) => held.push((to, arrives_by, burst)),
            None => self.receive(to, arrives_by, burst),
        }
    }
}

impl Side {
    fn new(number: u8, now: Instant) -> Self {
        let (node, disco) = (NodeSecret::from_seed([10 + number; 32]), DiscoSecret::from_seed([20 + number; 32]));
        Self {
            node: node.public(),
            disco: disco.public(),
            addr: [100, 64, 0, 1 + number].into(),
            underlay: ([192, 0, 2, 1 + number], 41641).into(),
            engine: Engine::new(EngineIdentity { node, disco }, Random::from_seed([number; 32]), now, wall()),
            config: EngineConfig::default(),
            delivered: Vec::new(),
            events: Vec::new(),
        }
    }

    pub fn as_peer(&self) -> EnginePeer {
        EnginePeer {
            disco: Some(self.disco),
            endpoints: vec![self.underlay],
            home: Some(REGION),
            allowed: vec![Prefix::host(self.addr)],
            ..EnginePeer::new(self.node)
        }
    }
}

/// An arbitrary instant to count from; the one look at a clock here.
#[allow(clippy::disallowed_methods)]
pub fn start() -> Instant {
    Instant::now()
}

pub fn wall() -> UnixTime {
    UnixTime::from_secs(1_790_000_000)
}

pub fn allow(dst: &str, ports: PortRange) -> FilterRule {
    FilterRule {
        src_ips: vec!["*".into()],
        dst_ports: vec![NetPortRange { ip: dst.into(), ports, ..NetPortRange::default() }],
        ..FilterRule::default()
    }
}

/// A UDP packet from one side's host to the other's, port 1000 to 2000.
pub fn udp(net: &Net, from: usize, to: usize, payload: &[u8]) -> Vec<u8> {
    let (src, dst) = (net.sides[from].addr, net.sides[to].addr);
    warren_ip::build::udp((src, 1000).into(), (dst, 2000).into(), payload).expect("one family")
}

/// A TCP burst as a TUN with offloads gives it: `payload` in segments of `mss`, checksums left to us.
pub fn tcp_burst(src: IpAddr, dst: IpAddr, sequence: u32, payload: &[u8], mss: u16) -> Super {
    let (IpAddr::V4(src), IpAddr::V4(dst)) = (src, dst) else { panic!("IPv4") };
    let mut tcp = vec![0; 20];
    tcp[0..2].copy_from_slice(&5001u16.to_be_bytes());
    tcp[2..4].copy_from_slice(&5002u16.to_be_bytes());
    tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
    tcp[12] = 0x50;
    tcp[13] = 0x10;
    tcp.extend_from_slice(payload);
    let packet = warren_ip::build::ip(src.into(), dst.into(), warren_ip::Protocol::TCP, &tcp).expect("fits");
    let header =
        VirtioHeader { flags: 1, gso_type: 1, header_len: 40, gso_size: mss, checksum_start: 20, checksum_offset: 16 };
    let mut read = header.encode().to_vec();
    read.extend_from_slice(&packet);
    Super::from_virtio(read).expect("a proper burst")
}

fn is_disco(bytes: &[u8]) -> bool {
    bytes.starts_with(&warren_path::disco::MAGIC)
}
