use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;
use crate::checksum::{self, Sum};
use crate::{Protocol, TcpFlags, build};

/// A TCP packet with its checksums, built from parts.
fn tcp(src: SocketAddr, dst: SocketAddr, sequence: u32, flags: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    assert!(options.len().is_multiple_of(4) && options.len() <= 40);
    let mut message = Vec::new();
    message.extend_from_slice(&src.port().to_be_bytes());
    message.extend_from_slice(&dst.port().to_be_bytes());
    message.extend_from_slice(&sequence.to_be_bytes());
    message.extend_from_slice(&0x0102_0304u32.to_be_bytes());
    message.push((((20 + options.len()) / 4) << 4) as u8);
    message.push(flags);
    message.extend_from_slice(&[0x10, 0x00, 0, 0, 0, 0]);
    message.extend_from_slice(options);
    message.extend_from_slice(payload);
    let sum = checksum::transport(src.ip(), dst.ip(), Protocol::TCP, &message);
    message[16..18].copy_from_slice(&sum.to_be_bytes());
    build::ip(src.ip(), dst.ip(), Protocol::TCP, &message).expect("one family, short enough")
}

fn ends(is_v4: bool) -> (SocketAddr, SocketAddr) {
    let (a, b) = if is_v4 { ("100.64.0.1:443", "100.64.0.2:40000") } else { ("[fd7a::1]:443", "[fd7a::2]:40000") };
    (a.parse().unwrap(), b.parse().unwrap())
}

/// Puts the pseudo-header's sum where the checksum stood: how a kernel hands a burst over.
fn half_checksum(packet: &mut [u8], transport: usize, field: usize, protocol: Protocol) {
    let view = PacketView::parse(packet).unwrap();
    let partial = Sum::pseudo_header(view.src(), view.dst(), protocol, packet.len() - transport).partial();
    packet[transport + field..transport + field + 2].copy_from_slice(&partial.to_be_bytes());
}

fn from_kernel(header: VirtioHeader, packet: &[u8]) -> Result<Super, VirtioError> {
    Super::from_virtio([&header.encode()[..], packet].concat())
}

/// A burst that a kernel may hand over and that joining may give back.
#[derive(Debug, Clone)]
struct Burst {
    is_v4: bool,
    is_udp: bool,
    segment: u16,
    count: u16,
    short: u16,
    options: usize,
    sequence: u32,
    push: bool,
}

impl Burst {
    fn build(&self) -> Super {
        let (src, dst) = ends(self.is_v4);
        let short = self.short % self.segment;
        let len = usize::from(self.segment) * usize::from(self.count) - usize::from(short);
        let payload: Vec<u8> = (0..len).map(|at| (at * 7) as u8).collect();
        let ip_header = if self.is_v4 { 20 } else { 40 };
        let (mut packet, protocol, field) = if self.is_udp {
            (build::udp(src, dst, &payload).unwrap(), Protocol::UDP, 6)
        } else {
            let flags = TcpFlags::ACK | if self.push { TcpFlags::PSH } else { 0 };
            (tcp(src, dst, self.sequence, flags, &vec![1; self.options * 4], &payload), Protocol::TCP, 16)
        };
        half_checksum(&mut packet, ip_header, field, protocol);
        let header = VirtioHeader {
            flags: 1,
            gso_type: if self.is_udp {
                5
            } else if self.is_v4 {
                1
            } else {
                4
            },
            header_len: 3, // a lie, as on forwarded traffic
            gso_size: self.segment,
            checksum_start: ip_header as u16,
            checksum_offset: field as u16,
        };
        from_kernel(header, &packet).expect("a legal burst")
    }
}

fn burst() -> impl Strategy<Value = Burst> {
    (any::<bool>(), any::<bool>(), 1u16..1500, 2u16..40, any::<u16>(), 0usize..=10, any::<u32>(), any::<bool>())
        .prop_map(|(is_v4, is_udp, segment, count, short, options, sequence, push)| Burst {
            is_v4,
            is_udp,
            segment,
            count,
            short,
            options,
            sequence,
            push,
        })
}

/// The same IPv6 burst behind an extension header of 8 + 8 × `units` bytes of padding options.
fn with_destination_options(burst: &Super, units: usize) -> Super {
    let Offload::Tcp6(how) = burst.offload() else { panic!("IPv6 and TCP") };
    let mut packet = burst.bytes().to_vec();
    let mut extension = vec![packet[6], units as u8];
    extension.resize(8 + units * 8, 0);
    packet[6] = 60;
    let len = packet.len() - 40 + extension.len();
    packet[4..6].copy_from_slice(&(len as u16).to_be_bytes());
    packet.splice(40..40, extension);
    let header = VirtioHeader {
        flags: 1,
        gso_type: 4,
        gso_size: how.segment,
        checksum_start: 48 + units as u16 * 8,
        checksum_offset: 16,
        ..VirtioHeader::default()
    };
    from_kernel(header, &packet).expect("a legal burst")
}

fn join<'a>(packets: impl IntoIterator<Item = &'a Vec<u8>>) -> Vec<Super> {
    let mut joiner = Joiner::new(true);
    packets.into_iter().for_each(|packet| joiner.push(packet));
    joiner.take()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn joining_what_was_cut_gives_the_burst_back(burst in burst()) {
        let whole = burst.build();
        let pieces: Vec<Vec<u8>> = whole.packets().collect();
        prop_assert_eq!(pieces.len(), usize::from(burst.count));
        prop_assert_eq!(pieces.iter().map(Vec::len).sum::<usize>(), whole.segments_len());
        let joined = join(&pieces);
        prop_assert_eq!(&joined, std::slice::from_ref(&whole));
        let written = [&joined[0].to_virtio()[..], joined[0].bytes()].concat();
        prop_assert_eq!(Super::from_virtio(written).unwrap(), whole);
    }

    #[test]
    fn every_piece_is_a_valid_packet_of_the_flow(burst in burst()) {
        let whole = burst.build();
        for (index, packet) in whole.packets().enumerate() {
            prop_assert_eq!(packet.len(), whole.segment_len(index));
            let view = PacketView::parse(&packet).unwrap();
            prop_assert!(view.checksums_are_valid());
            prop_assert_eq!(view.bytes().len(), packet.len());
            prop_assert_eq!(Some(Flow::of(&view)), whole.flow());
            if burst.is_v4 {
                prop_assert_eq!(u16::from_be_bytes([packet[4], packet[5]]), index as u16);
            }
        }
    }

    #[test]
    fn a_cutter_gives_the_very_same_packets(burst in burst(), single in any::<bool>(), extensions in 0usize..20) {
        let mut whole = burst.build();
        if single {
            let first = whole.packets().next().map(Super::packet);
            whole = first.unwrap();
        } else if !burst.is_v4 && !burst.is_udp {
            whole = with_destination_options(&whole, extensions);
        }
        let expected: Vec<Vec<u8>> = whole.packets().collect();
        let capacity = whole.buffer.capacity();
        let mut cutter = whole.into_cutter();
        let mut seen = Vec::new();
        while let Some(packet) = cutter.next_packet() {
            seen.push(packet.to_vec());
        }
        prop_assert_eq!(seen, expected);
        prop_assert!(cutter.next_packet().is_none());
        prop_assert_eq!(cutter.into_buffer().capacity(), capacity);
    }

    #[test]
    fn the_first_two_segments_in_wrong_order_still_join(
        burst in burst(),
    ) {
        let whole = Burst { is_udp: false, push: false, ..burst }.build();
        let mut pieces: Vec<Vec<u8>> = whole.packets().collect();
        pieces.swap(0, 1);
        prop_assert_eq!(join(&pieces), vec![whole]);
    }

    #[test]
    fn whatever_is_joined_cuts_into_the_packets_that_went_in(
        bursts in proptest::collection::vec((burst(), any::<proptest::sample::Index>(), any::<u8>()), 1..4),
    ) {
        // Damage one byte of one packet of each burst: what was joined must still carry every packet unchanged, but for
        // identifications and order between flows.
        let mut pieces = Vec::new();
        for (burst, at, flip) in &bursts {
            let mut cut: Vec<Vec<u8>> = burst.build().packets().collect();
            let victim = at.index(cut.len());
            let byte = at.index(cut[victim].len());
            cut[victim][byte] ^= flip;
            pieces.extend(cut);
        }
        let mut out: Vec<Vec<u8>> = join(&pieces).iter().flat_map(|burst| burst.packets().collect::<Vec<_>>()).collect();
        prop_assert_eq!(out.len(), pieces.len());
        for packet in out.iter_mut().chain(pieces.iter_mut()) {
            if packet[0] >> 4 == 4 {
                packet[4..6].fill(0);
                packet[10..12].fill(0);
            }
        }
        out.sort();
        pieces.sort();
        prop_assert_eq!(out, pieces);
    }

    #[test]
    fn arbitrary_reads_never_panic_and_cut_within_their_own_claims(
        mut read in proptest::collection::vec(any::<u8>(), 0..200), steer in any::<bool>(), kind in 0usize..5,
    ) {
        if steer && read.len() > 60 {
            let kinds = [0u8, 1, 4, 5, 0x81];
            read[1] = kinds[kind];
            let len = (read.len() - 10) as u16;
            let is_v6 = kind == 2;
            read[10] = if is_v6 { 0x60 } else { 0x45 };
            let (at, value, protocol) = if is_v6 { (14, len - 40, 16) } else { (12, len, 19) };
            read[at..at + 2].copy_from_slice(&value.to_be_bytes());
            read[protocol] = if kind == 3 { 17 } else { 6 };
            read[16] = 0;
            read[17] = 0;
            read[6..8].copy_from_slice(&(if is_v6 { 40u16 } else { 20 }).to_ne_bytes());
        }
        if let Ok(burst) = Super::from_virtio(read) {
            prop_assert!((1..=MAX_SEGMENTS).contains(&burst.segment_count()));
            let packets: Vec<Vec<u8>> = burst.packets().collect();
            prop_assert_eq!(packets.iter().map(Vec::len).sum::<usize>(), burst.segments_len());
            let joined = join(&packets);
            prop_assert_eq!(joined.iter().map(Super::segment_count).sum::<usize>(), packets.len());
        }
    }
}

#[test]
fn fin_and_push_stay_on_the_last_segment_and_cwr_on_the_first() {
    let (src, dst) = ends(true);
    let flags = TcpFlags::ACK | TcpFlags::PSH | TcpFlags::FIN | TcpFlags::CWR;
    let packet = tcp(src, dst, u32::MAX - 50, flags, &[], &[9; 250]);
    let header =
        VirtioHeader { flags: 1, gso_type: 0x81, gso_size: 100, checksum_start: 20, ..VirtioHeader::default() };
    let burst = from_kernel(header, &packet).unwrap();
    let seen: Vec<(u32, u8)> =
        burst.packets().map(|packet| (u32::from_be_bytes(packet[24..28].try_into().unwrap()), packet[33])).collect();
    let (ack, push, fin, cwr) = (TcpFlags::ACK, TcpFlags::PSH, TcpFlags::FIN, TcpFlags::CWR);
    assert_eq!(seen, [(u32::MAX - 50, ack | cwr), (49, ack), (149, ack | push | fin)]);
}

#[test]
fn a_half_done_checksum_is_completed() {
    for is_v4 in [true, false] {
        let (src, dst) = ends(is_v4);
        let whole = build::udp(src, dst, b"odd").unwrap();
        let start = if is_v4 { 20 } else { 40 };
        let mut half = whole.clone();
        half_checksum(&mut half, start, 6, Protocol::UDP);
        let header =
            VirtioHeader { flags: 1, checksum_start: start as u16, checksum_offset: 6, ..VirtioHeader::default() };
        let burst = from_kernel(header, &half).unwrap();
        assert_eq!(burst.packets().collect::<Vec<_>>(), [whole]);
        assert_eq!(VirtioHeader::decode(&burst.to_virtio()), header);
    }
}

#[test]
fn a_header_that_contradicts_its_packet_is_refused() {
    let (src, dst) = ends(true);
    let packet = tcp(src, dst, 1, TcpFlags::ACK, &[], &[0; 3000]);
    let good =
        VirtioHeader { flags: 1, gso_type: 1, gso_size: 1000, checksum_start: 20, checksum_offset: 16, header_len: 40 };
    assert!(from_kernel(good, &packet).is_ok());
    let check = |header: VirtioHeader, error| assert_eq!(from_kernel(header, &packet).unwrap_err(), error);
    check(VirtioHeader { gso_type: 3, ..good }, VirtioError::UnknownKind(3));
    check(VirtioHeader { gso_type: 0x85, ..good }, VirtioError::UnknownKind(0x85));
    check(VirtioHeader { gso_type: 4, ..good }, VirtioError::Contradiction);
    check(VirtioHeader { gso_type: 5, ..good }, VirtioError::Contradiction);
    check(VirtioHeader { checksum_start: 24, ..good }, VirtioError::Contradiction);
    check(VirtioHeader { gso_size: 0, ..good }, VirtioError::NoSegmentSize);
    check(VirtioHeader { gso_size: 1, ..good }, VirtioError::TooManySegments(3000));
    check(VirtioHeader { gso_type: 0, checksum_start: 3030, ..good }, VirtioError::ChecksumOutside);
    assert_eq!(Super::from_virtio(vec![0; 9]).unwrap_err(), VirtioError::Short);
}

#[test]
fn segments_that_differ_in_more_than_their_place_do_not_join() {
    let (src, dst) = ends(true);
    let first = tcp(src, dst, 100, TcpFlags::ACK, &[1; 4], &[1; 50]);
    let check = |next: Vec<u8>, bursts: usize| assert_eq!(join(&[first.clone(), next]).len(), bursts);
    check(tcp(src, dst, 150, TcpFlags::ACK, &[1; 4], &[1; 50]), 1);
    check(tcp(src, dst, 150, TcpFlags::ACK | TcpFlags::PSH, &[1; 4], &[1; 10]), 1);
    check(tcp(src, dst, 151, TcpFlags::ACK, &[1; 4], &[1; 50]), 2);
    check(tcp(src, dst, 150, TcpFlags::ACK, &[1; 4], &[1; 51]), 2);
    check(tcp(src, dst, 150, TcpFlags::ACK | TcpFlags::FIN, &[1; 4], &[1; 50]), 2);
    check(tcp(src, dst, 150, TcpFlags::ACK | TcpFlags::SYN, &[1; 4], &[1; 50]), 2);
    check(tcp(src, dst, 150, TcpFlags::ACK, &[0, 1, 1, 1], &[1; 50]), 2);
    check(tcp(src, dst, 150, TcpFlags::ACK, &[], &[1; 50]), 2);
    check(tcp(src, dst, 150, TcpFlags::ACK, &[1; 4], &[]), 2);
    check(tcp(SocketAddr::new(src.ip(), 444), dst, 150, TcpFlags::ACK, &[1; 4], &[1; 50]), 2);
    let mut acked = tcp(src, dst, 150, TcpFlags::ACK, &[1; 4], &[1; 50]);
    acked[31] ^= 1;
    let sum = {
        let mut message = acked[20..].to_vec();
        message[16..18].fill(0);
        checksum::transport(src.ip(), dst.ip(), Protocol::TCP, &message)
    };
    acked[36..38].copy_from_slice(&sum.to_be_bytes());
    check(acked, 2);
}

#[test]
fn a_wrong_checksum_is_passed_on_as_it_came() {
    let (src, dst) = ends(true);
    let first = tcp(src, dst, 100, TcpFlags::ACK, &[], &[1; 50]);
    let mut damaged = tcp(src, dst, 150, TcpFlags::ACK, &[], &[1; 50]);
    damaged[60] ^= 1;
    let out = join(&[first, damaged.clone()]);
    assert_eq!(out.len(), 2);
    assert_eq!(out[1].bytes(), damaged);
    assert_eq!(out[1].offload(), Offload::None);
}

#[test]
fn a_short_segment_or_push_ends_its_burst() {
    let (src, dst) = ends(false);
    let at = |sequence, flags, len| tcp(src, dst, sequence, flags, &[], &vec![1; len]);
    let push = TcpFlags::ACK | TcpFlags::PSH;
    let out = join(&[
        at(0, TcpFlags::ACK, 50),
        at(50, push, 50),
        at(100, TcpFlags::ACK, 50),
        at(150, TcpFlags::ACK, 9),
        at(159, TcpFlags::ACK, 9),
    ]);
    assert_eq!(out.iter().map(Super::segment_count).collect::<Vec<_>>(), [2, 2, 1]);
}

#[test]
fn no_burst_passes_the_longest_packet() {
    let (src, dst) = ends(true);
    let packets: Vec<Vec<u8>> = (0..100u32).map(|n| tcp(src, dst, n * 1400, TcpFlags::ACK, &[], &[1; 1400])).collect();
    let out = join(&packets);
    assert_eq!(out.iter().map(Super::segment_count).sum::<usize>(), 100);
    assert!(out.iter().all(|burst| burst.bytes().len() <= MAX_PACKET_LEN));
    assert_eq!(out.len(), 3);
}

#[test]
fn udp_joins_only_where_the_device_takes_it() {
    let (src, dst) = ends(true);
    let packets: Vec<Vec<u8>> = (0..3).map(|_| build::udp(src, dst, &[1; 100]).unwrap()).collect();
    assert_eq!(join(&packets).len(), 1);
    let mut joiner = Joiner::new(false);
    packets.iter().for_each(|packet| joiner.push(packet));
    assert_eq!(joiner.take().len(), 3);
}

#[test]
fn cutting_needs_room_and_an_index_that_exists() {
    let burst =
        Burst { is_v4: true, is_udp: false, segment: 100, count: 3, short: 0, options: 0, sequence: 7, push: false }
            .build();
    let mut out = [0u8; 140];
    assert_eq!(burst.cut_into(0, &mut out), 140);
    assert_eq!(burst.cut_into(0, &mut out[..139]), 0);
    assert_eq!(burst.cut_into(3, &mut out), 0);
}
