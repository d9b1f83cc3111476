//! Other people's tunnels behind the same face. They read real clocks, so only ours can be led through time.

use std::sync::Arc;
use std::time::Instant;

use crate::link::End;

pub struct Boringtun(boringtun::noise::Tunn);

impl Boringtun {
    pub fn new(secret: [u8; 32], peer: [u8; 32], psk: Option<[u8; 32]>) -> Self {
        Self(boringtun::noise::Tunn::new(secret.into(), peer.into(), psk, None, 7, None))
    }

    fn collect(&mut self, first: Step, out: &mut Vec<Vec<u8>>, packets: &mut Vec<Vec<u8>>) {
        let mut step = first;
        let mut buffer = vec![0; 2048];
        loop {
            match step {
                // After something for the network, ask again: it may have queued packets.
                Step::Network(bytes) => out.push(bytes),
                Step::Tunnel(bytes) => {
                    packets.push(bytes);
                    return;
                }
                Step::Nothing => return,
            }
            step = Step::of(self.0.decapsulate(None, &[], &mut buffer));
        }
    }
}

enum Step {
    Nothing,
    Network(Vec<u8>),
    Tunnel(Vec<u8>),
}

impl Step {
    fn of(result: boringtun::noise::TunnResult<'_>) -> Self {
        use boringtun::noise::TunnResult;
        match result {
            TunnResult::Done | TunnResult::Err(_) => Self::Nothing,
            TunnResult::WriteToNetwork(bytes) => Self::Network(bytes.to_vec()),
            TunnResult::WriteToTunnelV4(bytes, _) | TunnResult::WriteToTunnelV6(bytes, _) => {
                Self::Tunnel(bytes.to_vec())
            }
        }
    }
}

impl End for Boringtun {
    fn send(&mut self, packet: &[u8], _: Instant) -> Vec<Vec<u8>> {
        let mut buffer = vec![0; 2048];
        match Step::of(self.0.encapsulate(packet, &mut buffer)) {
            Step::Network(bytes) => vec![bytes],
            _ => Vec::new(),
        }
    }

    fn receive(&mut self, datagram: &[u8], _: Instant) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
        let (mut out, mut packets) = (Vec::new(), Vec::new());
        let mut buffer = vec![0; 2048];
        let first = Step::of(self.0.decapsulate(Some([192, 0, 2, 1].into()), datagram, &mut buffer));
        self.collect(first, &mut out, &mut packets);
        (out, packets)
    }

    fn rekey(&mut self, _: Instant) -> Vec<Vec<u8>> {
        let mut buffer = vec![0; 2048];
        match Step::of(self.0.format_handshake_initiation(&mut buffer, true)) {
            Step::Network(bytes) => vec![bytes],
            _ => Vec::new(),
        }
    }
}

pub struct Gotatun(gotatun::noise::Tunn);

impl Gotatun {
    pub fn new(secret: [u8; 32], peer: [u8; 32], psk: Option<[u8; 32]>) -> Self {
        let secret = gotatun::x25519::StaticSecret::from(secret);
        let limiter = gotatun::noise::rate_limiter::RateLimiter::new(&(&secret).into(), 10);
        let indices = gotatun::noise::index_table::IndexTable::from_os_rng();
        Self(gotatun::noise::Tunn::new(secret, peer.into(), psk, None, indices, Arc::new(limiter)))
    }

    fn queued(&mut self) -> Vec<Vec<u8>> {
        let mut mtu = gotatun::tun::MtuWatcher::new(1420);
        self.0.get_queued_packets(&mut mtu).map(bytes_of).collect()
    }
}

fn bytes_of(kind: gotatun::packet::WgKind) -> Vec<u8> {
    let packet: gotatun::packet::Packet = kind.into();
    packet.to_vec()
}

fn packet_of(bytes: &[u8]) -> gotatun::packet::Packet {
    gotatun::packet::Packet::copy_from(bytes)
}

impl End for Gotatun {
    fn send(&mut self, packet: &[u8], _: Instant) -> Vec<Vec<u8>> {
        let mut mtu = gotatun::tun::MtuWatcher::new(1420);
        self.0.handle_outgoing_packet(packet_of(packet), Some(&mut mtu)).map(bytes_of).into_iter().collect()
    }

    fn receive(&mut self, datagram: &[u8], _: Instant) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
        use gotatun::noise::TunnResult;
        let (mut out, mut packets) = (Vec::new(), Vec::new());
        if let Ok(kind) = packet_of(datagram).try_into_wg() {
            match self.0.handle_incoming_packet(kind) {
                TunnResult::WriteToNetwork(kind) => {
                    out.push(bytes_of(kind));
                    out.extend(self.queued());
                }
                TunnResult::WriteToTunnel(packet) if !packet.is_empty() => packets.push(packet.to_vec()),
                TunnResult::WriteToTunnel(_) | TunnResult::Done | TunnResult::Err(_) => {}
            }
        }
        (out, packets)
    }

    fn rekey(&mut self, _: Instant) -> Vec<Vec<u8>> {
        let initiation: Option<gotatun::packet::WgKind> = self.0.format_handshake_initiation(true).map(Into::into);
        initiation.map(bytes_of).into_iter().collect()
    }
}

/// The official crate's tunnel. Its timers take our clock; only its stamps come from the real one.
pub struct Official(ts_tunnel::Endpoint);

const PEER: ts_tunnel::PeerId = ts_tunnel::PeerId(1);

impl Official {
    pub fn new(secret: &warren_crypto::NodeSecret, peer: [u8; 32], psk: Option<[u8; 32]>) -> Self {
        let secret: ts_tunnel::NodePrivateKey = secret.to_file_text().parse().expect("the text form of both");
        let mut endpoint = ts_tunnel::Endpoint::new(secret.into());
        let peer =
            ts_tunnel::PeerConfig::new(PEER, ts_tunnel::NodePublicKey::from_bytes(peer), psk.unwrap_or_default());
        assert!(endpoint.upsert_peer(peer).is_none());
        Self(endpoint)
    }

    /// What falls due at its timers until now.
    pub fn pass(&mut self, now: Instant) -> Vec<Vec<u8>> {
        flat(self.0.dispatch_events(now).to_peers)
    }
}

fn flat<P: AsRef<[u8]>>(to_peers: impl IntoIterator<Item = (ts_tunnel::PeerId, Vec<P>)>) -> Vec<Vec<u8>> {
    to_peers.into_iter().flat_map(|(_, packets)| packets).map(|packet| packet.as_ref().to_vec()).collect()
}

impl End for Official {
    fn send(&mut self, packet: &[u8], now: Instant) -> Vec<Vec<u8>> {
        flat(self.0.send(now, [(PEER, vec![packet.into()])]).to_peers)
    }

    fn receive(&mut self, datagram: &[u8], now: Instant) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
        let result = self.0.recv(now, [datagram.into()]);
        let packets = flat(result.to_local).into_iter().filter(|packet| !packet.is_empty()).collect();
        (flat(result.to_peers), packets)
    }

    /// It begins by itself, with the first packet after two minutes.
    fn rekey(&mut self, _: Instant) -> Vec<Vec<u8>> {
        Vec::new()
    }
}
