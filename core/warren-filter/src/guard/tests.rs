use std::net::SocketAddr;
use std::time::Duration;

use proptest::prelude::*;
use warren_ip::{TcpFlags, build};
use warren_wire::{FilterRule, NetPortRange, PortRange};

use super::*;

const PEER: &str = "100.64.0.1";
const US: &str = "100.64.0.2";

#[allow(clippy::disallowed_methods)] // a starting point for arithmetic; no test looks at it
fn start() -> Instant {
    Instant::now()
}

/// Lets everyone reach these ports here.
fn ports(list: &[u16]) -> Filter {
    let dst_ports = list
        .iter()
        .map(|port| NetPortRange { ip: US.into(), bits: None, ports: PortRange { first: *port, last: *port } })
        .collect();
    let rule = FilterRule { src_ips: vec!["*".into()], dst_ports, ..FilterRule::default() };
    let (filter, problems) = Filter::compile(&[rule], |_| Vec::new());
    assert_eq!(problems, []);
    filter
}

fn local() -> PrefixSet {
    [US.parse::<IpAddr>().unwrap().into()].into_iter().collect()
}

fn at(addr: &str, port: u16) -> SocketAddr {
    SocketAddr::new(addr.parse().unwrap(), port)
}

fn tcp(src: SocketAddr, dst: SocketAddr, flags: u8) -> Vec<u8> {
    let mut message = vec![0u8; 20];
    message[..2].copy_from_slice(&src.port().to_be_bytes());
    message[2..4].copy_from_slice(&dst.port().to_be_bytes());
    message[12] = 0x50;
    message[13] = flags;
    build::ip(src.ip(), dst.ip(), Protocol::TCP, &message).unwrap()
}

fn udp(src: SocketAddr, dst: SocketAddr) -> Vec<u8> {
    build::udp(src, dst, b"x").unwrap()
}

/// A guard and its clock.
struct Door {
    guard: Guarded,
    now: Instant,
}

impl Door {
    fn open_for(list: &[u16]) -> Door {
        let mut guard = Guarded::new();
        guard.set_filter(ports(list));
        Door { guard, now: start() }
    }

    fn inbound(&mut self, packet: Vec<u8>) -> Verdict {
        self.guard.inbound(&PacketView::parse(&packet).unwrap(), &local(), self.now)
    }

    fn outbound(&mut self, packet: Vec<u8>) -> Verdict {
        self.guard.outbound(&PacketView::parse(&packet).unwrap(), self.now)
    }

    fn wait(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }
}

const NO_RULE: Verdict = Verdict::Drop(DropReason::NoRule);
const CUT: Verdict = Verdict::Drop(DropReason::FlowCut);

#[test]
fn nothing_opens_before_the_first_filter() {
    let mut door = Door { guard: Guarded::new(), now: start() };
    assert_eq!(door.inbound(tcp(at(PEER, 9), at(US, 22), TcpFlags::SYN)), NO_RULE);
    assert_eq!(door.inbound(udp(at(PEER, 9), at(US, 22))), NO_RULE);
}

#[test]
fn taking_a_port_away_cuts_the_tcp_that_runs_on_it_and_giving_it_back_lets_it_run() {
    let mut door = Door::open_for(&[22, 80]);
    let segment = || tcp(at(PEER, 9), at(US, 22), TcpFlags::ACK);
    assert_eq!(door.inbound(tcp(at(PEER, 9), at(US, 22), TcpFlags::SYN)), Verdict::Accept);
    assert_eq!(door.inbound(tcp(at(PEER, 9), at(US, 80), TcpFlags::SYN)), Verdict::Accept);
    assert_eq!(door.inbound(segment()), Verdict::Accept);
    door.guard.set_filter(ports(&[80]));
    assert_eq!(door.inbound(segment()), CUT);
    // Our side may be the one that talks: it must fall silent as well.
    assert_eq!(door.outbound(tcp(at(US, 22), at(PEER, 9), TcpFlags::ACK)), CUT);
    assert_eq!(door.inbound(tcp(at(PEER, 9), at(US, 80), TcpFlags::ACK)), Verdict::Accept);
    assert_eq!(door.inbound(tcp(at(PEER, 9), at(US, 22), TcpFlags::SYN)), NO_RULE);
    assert_eq!(door.inbound(segment()), CUT);
    door.guard.set_filter(ports(&[22]));
    assert_eq!(door.inbound(segment()), Verdict::Accept);
}

#[test]
fn connections_that_this_node_opened_survive_any_filter() {
    let mut door = Door::open_for(&[22]);
    assert_eq!(door.outbound(tcp(at(US, 5000), at(PEER, 443), TcpFlags::SYN)), Verdict::Accept);
    assert_eq!(door.outbound(udp(at(US, 5000), at(PEER, 53))), Verdict::Accept);
    door.guard.set_filter(Filter::default());
    assert_eq!(door.inbound(tcp(at(PEER, 443), at(US, 5000), TcpFlags::SYN | TcpFlags::ACK)), Verdict::Accept);
    assert_eq!(door.inbound(tcp(at(PEER, 443), at(US, 5000), TcpFlags::ACK)), Verdict::Accept);
    assert_eq!(door.inbound(udp(at(PEER, 53), at(US, 5000))), Verdict::Accept);
    assert_eq!(door.inbound(udp(at(PEER, 54), at(US, 5000))), NO_RULE);
}

#[test]
fn an_empty_table_breaks_no_established_connection() {
    let mut door = Door::open_for(&[]);
    assert_eq!(door.inbound(tcp(at(PEER, 9), at(US, 22), TcpFlags::ACK | TcpFlags::PSH)), Verdict::Accept);
    door.guard.set_filter(ports(&[80]));
    assert_eq!(door.inbound(tcp(at(PEER, 9), at(US, 22), TcpFlags::ACK)), Verdict::Accept);
}

#[test]
fn a_tuple_that_was_theirs_and_cut_is_ours_once_we_open_it() {
    let mut door = Door::open_for(&[22]);
    assert_eq!(door.inbound(tcp(at(PEER, 9), at(US, 22), TcpFlags::SYN)), Verdict::Accept);
    door.guard.set_filter(Filter::default());
    assert_eq!(door.inbound(tcp(at(PEER, 9), at(US, 22), TcpFlags::ACK)), CUT);
    assert_eq!(door.outbound(tcp(at(US, 22), at(PEER, 9), TcpFlags::SYN)), Verdict::Accept);
    assert_eq!(door.inbound(tcp(at(PEER, 9), at(US, 22), TcpFlags::SYN | TcpFlags::ACK)), Verdict::Accept);
}

#[test]
fn our_answers_do_not_keep_a_cut_udp_flow_alive() {
    let mut door = Door::open_for(&[53]);
    assert_eq!(door.inbound(udp(at(PEER, 9), at(US, 53))), Verdict::Accept);
    assert_eq!(door.outbound(udp(at(US, 53), at(PEER, 9))), Verdict::Accept);
    door.guard.set_filter(Filter::default());
    for _ in 0..100 {
        assert_eq!(door.inbound(udp(at(PEER, 9), at(US, 53))), CUT);
        assert_eq!(door.outbound(udp(at(US, 53), at(PEER, 9))), Verdict::Accept);
        door.wait(60);
    }
    door.wait(3600);
    assert_eq!(door.outbound(udp(at(US, 53), at(PEER, 9))), Verdict::Accept);
    assert_eq!(door.inbound(udp(at(PEER, 9), at(US, 53))), Verdict::Accept);
}

#[test]
fn an_answer_that_comes_after_five_silent_minutes_is_not_one() {
    let mut door = Door::open_for(&[]);
    let _ = door.outbound(udp(at(US, 5000), at(PEER, 53)));
    door.wait(299);
    assert_eq!(door.inbound(udp(at(PEER, 53), at(US, 5000))), Verdict::Accept);
    door.wait(300);
    assert_eq!(door.inbound(udp(at(PEER, 53), at(US, 5000))), NO_RULE);
}

#[test]
fn shields_cut_what_peers_opened_and_lowering_them_lets_it_run() {
    let mut door = Door::open_for(&[22]);
    assert_eq!(door.inbound(tcp(at(PEER, 9), at(US, 22), TcpFlags::SYN)), Verdict::Accept);
    door.guard.set_shields_up(true);
    assert_eq!(door.inbound(tcp(at(PEER, 9), at(US, 22), TcpFlags::ACK)), CUT);
    assert_eq!(door.inbound(tcp(at(PEER, 10), at(US, 22), TcpFlags::SYN)), Verdict::Drop(DropReason::ShieldsUp));
    door.guard.set_filter(ports(&[22]));
    assert_eq!(door.inbound(tcp(at(PEER, 9), at(US, 22), TcpFlags::ACK)), CUT);
    door.guard.set_shields_up(false);
    assert_eq!(door.inbound(tcp(at(PEER, 9), at(US, 22), TcpFlags::ACK)), Verdict::Accept);
}

#[test]
fn echo_replies_and_errors_pass_and_requests_need_any_rule() {
    let (peer, us): (IpAddr, IpAddr) = (PEER.parse().unwrap(), US.parse().unwrap());
    let mut door = Door::open_for(&[]);
    assert_eq!(door.inbound(build::echo_reply(peer, us, 1, 1, b"").unwrap()), Verdict::Accept);
    assert_eq!(door.inbound(build::ip(peer, us, Protocol::ICMP, &[3, 1, 0, 0, 0, 0, 0, 0]).unwrap()), Verdict::Accept);
    assert_eq!(door.inbound(build::echo_request(peer, us, 1, 1, b"").unwrap()), NO_RULE);
    door.guard.set_filter(ports(&[22]));
    assert_eq!(door.inbound(build::echo_request(peer, us, 1, 1, b"").unwrap()), Verdict::Accept);
}

#[test]
fn what_no_tunnel_carries_is_dropped_both_ways() {
    let mut door = Door::open_for(&[22]);
    let check = |door: &mut Door, dst: &str, reason| {
        assert_eq!(door.outbound(udp(at(US, 1), at(dst, 22))), Verdict::Drop(reason));
        assert_eq!(door.inbound(udp(at(PEER, 1), at(dst, 22))), Verdict::Drop(reason));
    };
    check(&mut door, "224.0.0.251", DropReason::Multicast);
    check(&mut door, "169.254.1.1", DropReason::LinkLocal);
    assert_eq!(door.outbound(udp(at(US, 1), at("169.254.169.254", 53))), Verdict::Accept);
    assert_eq!(door.inbound(udp(at(PEER, 1), at("100.64.0.3", 22))), Verdict::Drop(DropReason::NotLocal));
    assert_eq!(door.guard.counters().dropped(DropReason::Multicast), 2);
    assert_eq!(door.guard.counters().dropped(DropReason::NotLocal), 1);
}

#[test]
fn messages_between_nodes_pass_inbound_and_never_come_from_the_host() {
    let (peer, us): (IpAddr, IpAddr) = (PEER.parse().unwrap(), US.parse().unwrap());
    let mut door = Door::open_for(&[]);
    assert_eq!(door.inbound(build::ip(peer, us, Protocol::TSMP, b"p12345678").unwrap()), Verdict::Accept);
    let sent = door.outbound(build::ip(us, peer, Protocol::TSMP, b"p12345678").unwrap());
    assert_eq!(sent, Verdict::Drop(DropReason::TsmpFromHost));
}

#[test]
fn a_later_fragment_passes_to_this_node_only() {
    let mut door = Door::open_for(&[]);
    let mut packet = build::udp(at(PEER, 1), at(US, 22), &[0; 80]).unwrap();
    packet[7] = 20;
    assert_eq!(door.inbound(packet.clone()), Verdict::Accept);
    packet[19] = 77;
    assert_eq!(door.inbound(packet), Verdict::Drop(DropReason::NotLocal));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happened before: a flow that a peer opened and that the rules now forbid carries nothing inbound, and one
    /// that they allow does.
    #[test]
    fn after_every_filter_change_only_permitted_flows_of_theirs_run(
        steps in proptest::collection::vec((0u8..4, 0u16..3, any::<[bool; 3]>()), 1..60),
    ) {
        let mut door = Door::open_for(&[0, 1, 2]);
        let mut allowed = [true; 3];
        let mut opened = [false; 3];
        for (step, port, choice) in steps {
            let is_allowed = allowed[usize::from(port)];
            match step {
                0 => {
                    let verdict = door.inbound(tcp(at(PEER, 9), at(US, port), TcpFlags::SYN));
                    prop_assert_eq!(verdict == Verdict::Accept, is_allowed);
                    opened[usize::from(port)] |= is_allowed;
                }
                1 if opened[usize::from(port)] => {
                    let verdict = door.inbound(tcp(at(PEER, 9), at(US, port), TcpFlags::ACK));
                    prop_assert_eq!(verdict, if is_allowed { Verdict::Accept } else { CUT });
                }
                2 => {
                    let verdict = door.inbound(udp(at(PEER, 9), at(US, port)));
                    prop_assert_eq!(verdict == Verdict::Accept, is_allowed);
                    let _ = door.outbound(udp(at(US, port + 10), at(PEER, 9)));
                }
                _ => {
                    allowed = choice;
                    let list: Vec<u16> = (0..3).filter(|port| choice[usize::from(*port)]).collect();
                    door.guard.set_filter(ports(&list));
                }
            }
        }
    }
}
