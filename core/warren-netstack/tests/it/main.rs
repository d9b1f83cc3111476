//! Two stacks on one cable that loses and reorders, under one clock.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use warren_crypto::Random;
use warren_ip::{PacketView, build};
use warren_netstack::{Datagram, Event, FlowId, Read, Stack};

const A: IpAddr = IpAddr::V4(Ipv4Addr::new(100, 64, 0, 1));
const B: IpAddr = IpAddr::V4(Ipv4Addr::new(100, 64, 0, 2));
const MTU: usize = 1280;

/// A cable with a delay; every `lose`-th packet goes missing (0: none), and some overtake others.
struct World {
    now: Instant,
    a: Stack,
    b: Stack,
    to_a: VecDeque<(Instant, Vec<u8>)>,
    to_b: VecDeque<(Instant, Vec<u8>)>,
    random: Random,
    lose_per_mille: u64,
}

const DELAY: Duration = Duration::from_millis(10);

impl World {
    #[allow(clippy::disallowed_methods)] // a starting point for arithmetic; no test looks at it
    fn new(lose_per_mille: u64) -> Self {
        let now = Instant::now();
        let stack = |ip, seed| Stack::new(&[ip], MTU, Random::from_seed([seed; 32]), now);
        World {
            now,
            a: stack(A, 1),
            b: stack(B, 2),
            to_a: VecDeque::new(),
            to_b: VecDeque::new(),
            random: Random::from_seed([3; 32]),
            lose_per_mille,
        }
    }

    fn step(&mut self) {
        for (stack, other) in [(&mut self.a, &mut self.to_b), (&mut self.b, &mut self.to_a)] {
            stack.poll(self.now);
            while let Some(packet) = stack.poll_packet() {
                if self.random.below(1000) >= self.lose_per_mille {
                    let late =
                        if self.random.below(50) == 0 && self.lose_per_mille > 0 { DELAY / 4 } else { Duration::ZERO };
                    other.push_back((self.now + DELAY + late, packet));
                }
            }
        }
        let due = [&self.to_a, &self.to_b].into_iter().flatten().map(|(at, _)| *at);
        let timers = [self.a.poll_timeout(), self.b.poll_timeout()].into_iter().flatten();
        if let Some(next) = due.chain(timers).min() {
            self.now = self.now.max(next).max(self.now + Duration::from_micros(50));
        } else {
            self.now += DELAY;
        }
        for (stack, queue) in [(&mut self.a, &mut self.to_a), (&mut self.b, &mut self.to_b)] {
            let (arrived, waiting) = std::mem::take(queue).into_iter().partition(|(at, _)| *at <= self.now);
            *queue = waiting;
            let arrived: VecDeque<(Instant, Vec<u8>)> = arrived;
            for (_, packet) in arrived {
                stack.handle_packet(&packet, self.now);
            }
        }
    }

    /// A flow from A to port 80 of B, accepted.
    fn connect(&mut self) -> (FlowId, FlowId) {
        let ours = self.a.connect(SocketAddr::new(B, 80)).unwrap();
        let mut theirs = None;
        for _ in 0..500 {
            self.step();
            while let Some(event) = self.b.poll_event() {
                if let Event::Incoming { id, local, .. } = event {
                    assert_eq!(local, SocketAddr::new(B, 80));
                    self.b.accept(id);
                    theirs = Some(id);
                }
            }
            while let Some(event) = self.a.poll_event() {
                if event == Event::Connected(ours) {
                    return (ours, theirs.unwrap());
                }
            }
        }
        panic!("no connection");
    }
}

fn transfer(world: &mut World, bytes: usize) -> Duration {
    let (from, to) = world.connect();
    let begun = world.now;
    let data: Vec<u8> = (0..bytes).map(|at| (at * 31 % 251) as u8).collect();
    let (mut sent, mut got) = (0, Vec::new());
    let mut buffer = vec![0; 64 << 10];
    for _ in 0..2_000_000 {
        if sent < data.len() {
            sent += world.a.write(from, &data[sent..]).expect("the flow stands");
            if sent == data.len() {
                world.a.finish(from);
            }
        }
        world.step();
        loop {
            match world.b.read(to, &mut buffer) {
                Read::Bytes(count) => got.extend_from_slice(&buffer[..count]),
                Read::Later => break,
                Read::Finished => {
                    assert!(got == data, "{} of {} bytes, or others", got.len(), data.len());
                    return world.now - begun;
                }
                Read::Broken => panic!("broke after {} bytes", got.len()),
            }
        }
    }
    panic!("{} of {} bytes after two million steps", got.len(), data.len());
}

#[test]
fn eight_megabytes_arrive_whole() {
    transfer(&mut World::new(0), 8 << 20);
}

#[test]
fn two_megabytes_arrive_whole_over_a_cable_that_loses_one_packet_in_a_hundred() {
    transfer(&mut World::new(10), 2 << 20);
}

#[test]
fn a_peer_is_not_answered_before_the_target_is_reached_and_then_refused_if_it_is_not() {
    let mut world = World::new(0);
    let ours = world.a.connect(SocketAddr::new(B, 81)).unwrap();
    let mut incoming = None;
    for _ in 0..20 {
        world.step();
        while let Some(event) = world.b.poll_event() {
            if let Event::Incoming { id, .. } = event {
                incoming = Some(id);
            }
        }
    }
    assert_eq!(world.a.poll_event(), None);
    world.b.abort(incoming.expect("the knock was reported"));
    for _ in 0..20 {
        world.step();
    }
    assert_eq!(world.a.poll_event(), Some(Event::Refused(ours)));
    assert_eq!((world.a.flows(), world.b.flows()), (0, 0));
}

#[test]
fn both_sides_forget_a_flow_that_both_released() {
    let mut world = World::new(0);
    let (ours, theirs) = world.connect();
    world.a.release(ours);
    world.b.release(theirs);
    for _ in 0..2000 {
        world.step();
    }
    assert_eq!((world.a.flows(), world.b.flows()), (0, 0));
}

#[test]
fn a_slow_reader_holds_the_sender_back() {
    let mut world = World::new(0);
    let (ours, _) = world.connect();
    let mut taken = 0;
    for _ in 0..2000 {
        taken += world.a.write(ours, &[0; 64 << 10]).unwrap();
        world.step();
    }
    assert!(taken <= 2 << 20, "{taken} bytes are on their way to somebody who does not read");
}

#[test]
fn echo_is_answered_and_datagrams_pass_both_ways() {
    let mut world = World::new(0);
    world.b.handle_packet(&build::echo_request(A, B, 7, 1, b"are you there").unwrap(), world.now);
    let reply = world.b.poll_packet().expect("a reply");
    let view = PacketView::parse(&reply).unwrap();
    assert_eq!((view.src(), view.dst(), view.echo_reply()), (B, A, Some((7, 1))));

    let datagram =
        Datagram { local: SocketAddr::new(A, 5), remote: SocketAddr::new(B, 53), payload: b"name?".to_vec() };
    assert!(world.a.send_datagram(&datagram));
    for _ in 0..3 {
        world.step();
    }
    let mirrored = Datagram { local: datagram.remote, remote: datagram.local, payload: datagram.payload };
    assert_eq!(world.b.poll_event(), Some(Event::Datagram(mirrored)));
}

#[test]
fn a_thousand_idle_flows_cost_a_busy_one_nothing() {
    let mut world = World::new(0);
    for _ in 0..1000 {
        world.connect();
    }
    // What is still on its way settles.
    for _ in 0..200 {
        world.step();
    }
    let (busy, _) = world.connect();
    let before = (world.a.looks(), world.b.looks());
    for _ in 0..100 {
        assert_eq!(world.a.write(busy, b"x"), Some(1));
        world.step();
    }
    let looks = (world.a.looks() - before.0, world.b.looks() - before.1);
    assert!(looks.0 < 1000 && looks.1 < 1000, "{looks:?} looks for a hundred packets");
}

#[test]
fn flows_share_a_full_cable() {
    let mut world = World::new(0);
    let flows = [(); 4].map(|()| world.connect().0);
    let filled = flows.map(|flow| world.a.write(flow, &[1; 256 << 10]).unwrap());
    assert_eq!(filled, [256 << 10; 4]);
    world.a.poll(world.now);
    let mut ports: Vec<u16> = Vec::new();
    for _ in 0..4 {
        let packet = world.a.poll_packet().expect("much to send");
        ports.push(PacketView::parse(&packet).unwrap().src_port());
    }
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 4, "each has its turn");
}

#[test]
fn a_flood_of_knocks_is_bounded() {
    let mut world = World::new(0);
    for port in 1..5000_u16 {
        let mut message = vec![0; 20];
        message[..2].copy_from_slice(&port.to_be_bytes());
        message[3] = 80;
        message[12] = 5 << 4;
        message[13] = 2;
        let sum = warren_ip::checksum::transport(A, B, warren_ip::Protocol::TCP, &message);
        message[16..18].copy_from_slice(&sum.to_be_bytes());
        world.b.handle_packet(&build::ip(A, B, warren_ip::Protocol::TCP, &message).unwrap(), world.now);
    }
    assert!(world.b.flows() <= 512);
    assert!(world.b.dropped() > 4000);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_packet_makes_the_stack_panic(mut bytes in prop::collection::vec(any::<u8>(), 20..200), tcp: bool) {
        let mut world = World::new(0);
        bytes[0] = 0x45;
        let length = u16::try_from(bytes.len()).unwrap();
        bytes[2..4].copy_from_slice(&length.to_be_bytes());
        bytes[6..8].copy_from_slice(&[0, 0]);
        bytes[9] = if tcp { 6 } else { 17 };
        bytes[16..20].copy_from_slice(&[100, 64, 0, 2]);
        world.b.handle_packet(&bytes, world.now);
        world.b.poll(world.now);
    }
}

/// Opens `count` flows from a stack at `ip` to port 80 of B; the doors at which B was knocked.
fn knock(world: &mut World, ip: IpAddr, count: usize, seed: u8) -> Vec<FlowId> {
    let mut peer = Stack::new(&[ip], MTU, Random::from_seed([seed; 32]), world.now);
    for _ in 0..count {
        peer.connect(SocketAddr::new(B, 80)).unwrap();
    }
    let mut sent = 0;
    while sent < count {
        peer.poll(world.now);
        while let Some(packet) = peer.poll_packet() {
            world.b.handle_packet(&packet, world.now);
            sent += 1;
        }
    }
    let events = std::iter::from_fn(|| world.b.poll_event());
    let doors = events.filter_map(|event| if let Event::Incoming { id, .. } = event { Some(id) } else { None });
    doors.collect()
}

#[test]
fn one_peer_that_opens_all_it_can_leaves_room_for_another() {
    let mut world = World::new(0);
    let peers = [9, 10].map(|last| IpAddr::V4(Ipv4Addr::new(100, 64, 0, last)));
    let doors = knock(&mut world, peers[0], 1000, 4);
    assert!(doors.len() < 512 / 2, "{} of one peer wait for the shell", doors.len());
    // What ends makes room again.
    for id in &doors {
        world.b.abort(*id);
    }
    world.step();
    world.step();
    assert_eq!(world.b.flows(), 0);
    for seed in 0..100 {
        for id in knock(&mut world, peers[0], 100, seed) {
            world.b.accept(id);
        }
    }
    assert!((100..=4096 / 2).contains(&world.b.flows()), "{} of one peer stand", world.b.flows());
    assert_eq!(knock(&mut world, peers[1], 1, 4).len(), 1, "another peer is let in");
}
