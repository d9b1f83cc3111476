//! DERP frames: what travels between a node and a relay, over any byte stream.
//!
//! ```text
//! 0      1                5
//! | type | payload length | payload …            big-endian
//! ```
//!
//! Types and limits: `derp/derp.go` of the stock client; protocol version 2.

use std::net::SocketAddr;

use warren_crypto::{NodePublic, RelayPublic};

pub const HEADER_BYTES: usize = 5;
pub const KEY_BYTES: usize = 32;
/// Largest packet that is relayed.
pub const MAX_PACKET_BYTES: usize = 64 << 10;
/// First bytes of a relay's first frame: "DERP" and a key symbol.
pub const MAGIC: [u8; 8] = [0x44, 0x45, 0x52, 0x50, 0xf0, 0x9f, 0x94, 0x91];
/// The protocol version that both sides state.
pub const VERSION: i64 = 2;

/// Largest frame that is held whole; any other kind is refused or skipped.
const MAX_HELD_BYTES: usize = 256 << 10;
/// Largest frame of an unknown kind that is skipped rather than fatal.
const MAX_SKIPPED_BYTES: usize = 1 << 20;

/// First six bytes of every disco message.
pub const DISCO_MAGIC: [u8; 6] = [0x54, 0x53, 0xf0, 0x9f, 0x92, 0xac];
/// Magic, sender's key and nonce: a disco message is longer than this.
const DISCO_HEADER_BYTES: usize = 62;

/// Whether a packet is a disco message by its first bytes; a relay counts and queues those apart.
pub fn looks_like_disco(packet: &[u8]) -> bool {
    packet.len() >= DISCO_HEADER_BYTES && packet.starts_with(&DISCO_MAGIC)
}

mod kind {
    pub const SERVER_KEY: u8 = 0x01;
    pub const CLIENT_INFO: u8 = 0x02;
    pub const SERVER_INFO: u8 = 0x03;
    pub const SEND_PACKET: u8 = 0x04;
    pub const RECV_PACKET: u8 = 0x05;
    pub const KEEP_ALIVE: u8 = 0x06;
    pub const NOTE_PREFERRED: u8 = 0x07;
    pub const PEER_GONE: u8 = 0x08;
    pub const PEER_PRESENT: u8 = 0x09;
    pub const FORWARD_PACKET: u8 = 0x0a;
    pub const WATCH_CONNS: u8 = 0x10;
    pub const CLOSE_PEER: u8 = 0x11;
    pub const PING: u8 = 0x12;
    pub const PONG: u8 = 0x13;
    pub const HEALTH: u8 = 0x14;
    pub const RESTARTING: u8 = 0x15;
}

/// Why a peer cannot be reached by this relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GoneReason {
    /// It had sent to you, and has left.
    Disconnected,
    /// You sent a disco message to a key that is not here.
    NotHere,
    Other(u8),
}

/// One frame, its payload borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    ServerKey(RelayPublic),
    ClientInfo { key: NodePublic, sealed: &'a [u8] },
    ServerInfo { sealed: &'a [u8] },
    SendPacket { to: NodePublic, packet: &'a [u8] },
    RecvPacket { from: NodePublic, packet: &'a [u8] },
    KeepAlive,
    NotePreferred(bool),
    PeerGone { key: NodePublic, reason: GoneReason },
    /// Only for relays of one region among themselves.
    PeerPresent { key: NodePublic, address: Option<SocketAddr> },
    Ping([u8; 8]),
    Pong([u8; 8]),
    Health(&'a str),
    /// Milliseconds until a reconnect makes sense, and for how long to try.
    Restarting { reconnect_in_ms: u32, try_for_ms: u32 },
    /// Frames between relays (forward, watch, close), which need a right that no node has.
    Mesh,
    /// Of a newer version; skipped.
    Unknown(u8),
}

/// A frame that is not what its type promises: the connection is of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("frame of type {kind:#04x} with a length of {bytes} bytes")]
    Length { kind: u8, bytes: usize },
    #[error("the relay does not begin as relays do")]
    Magic,
}

fn key(bytes: &[u8; KEY_BYTES]) -> NodePublic {
    NodePublic::from_bytes(*bytes)
}

impl<'a> Frame<'a> {
    /// # Errors
    /// [`FrameError`] for a payload that is too short or, where the length is fixed, too long.
    pub fn decode(kind: u8, payload: &'a [u8]) -> Result<Frame<'a>, FrameError> {
        let length = FrameError::Length { kind, bytes: payload.len() };
        let keyed = || payload.split_first_chunk::<KEY_BYTES>().map(|(bytes, rest)| (key(bytes), rest)).ok_or(length);
        let eight = || payload.first_chunk::<8>().copied().filter(|_| payload.len() <= 1000).ok_or(length);
        Ok(match kind {
            kind::SERVER_KEY => {
                let (magic, rest) = payload.split_first_chunk::<8>().ok_or(length)?;
                if *magic != MAGIC {
                    return Err(FrameError::Magic);
                }
                Frame::ServerKey(RelayPublic::from_bytes(*rest.first_chunk::<KEY_BYTES>().ok_or(length)?))
            }
            kind::CLIENT_INFO => {
                let (key, sealed) = keyed()?;
                Frame::ClientInfo { key, sealed }
            }
            kind::SERVER_INFO => Frame::ServerInfo { sealed: payload },
            kind::SEND_PACKET => {
                let (to, packet) = keyed()?;
                Frame::SendPacket { to, packet }
            }
            kind::RECV_PACKET => {
                let (from, packet) = keyed()?;
                Frame::RecvPacket { from, packet }
            }
            kind::KEEP_ALIVE => Frame::KeepAlive,
            kind::NOTE_PREFERRED => match payload {
                [home] => Frame::NotePreferred(*home != 0),
                _ => return Err(length),
            },
            kind::PEER_GONE => {
                let (key, rest) = keyed()?;
                let reason = match rest.first() {
                    None | Some(0) => GoneReason::Disconnected,
                    Some(1) => GoneReason::NotHere,
                    Some(other) => GoneReason::Other(*other),
                };
                Frame::PeerGone { key, reason }
            }
            kind::PEER_PRESENT => {
                let (key, rest) = keyed()?;
                let address = rest.first_chunk::<18>().map(|bytes| {
                    let (ip, port) = (bytes.first_chunk::<16>().copied().unwrap_or_default(), [bytes[16], bytes[17]]);
                    SocketAddr::new(std::net::Ipv6Addr::from(ip).to_canonical(), u16::from_be_bytes(port))
                });
                Frame::PeerPresent { key, address }
            }
            kind::PING => Frame::Ping(eight()?),
            kind::PONG => Frame::Pong(eight()?),
            kind::HEALTH => Frame::Health(std::str::from_utf8(payload).unwrap_or("the relay reports a problem that is not text")),
            kind::RESTARTING => {
                let bytes = payload.first_chunk::<8>().ok_or(length)?;
                let number = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
                Frame::Restarting { reconnect_in_ms: number(0), try_for_ms: number(4) }
            }
            kind::FORWARD_PACKET | kind::WATCH_CONNS | kind::CLOSE_PEER => Frame::Mesh,
            other => Frame::Unknown(other),
        })
    }

    /// Appends the frame to `out`. [`Frame::Mesh`] and [`Frame::Unknown`] have no form of ours and add nothing.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut put = |kind: u8, parts: &[&[u8]]| {
            let bytes: usize = parts.iter().map(|part| part.len()).sum();
            out.reserve(HEADER_BYTES + bytes);
            out.push(kind);
            out.extend_from_slice(&u32::try_from(bytes).unwrap_or(u32::MAX).to_be_bytes());
            for part in parts {
                out.extend_from_slice(part);
            }
        };
        match self {
            Frame::ServerKey(key) => put(kind::SERVER_KEY, &[&MAGIC, key.as_bytes()]),
            Frame::ClientInfo { key, sealed } => put(kind::CLIENT_INFO, &[key.as_bytes(), sealed]),
            Frame::ServerInfo { sealed } => put(kind::SERVER_INFO, &[sealed]),
            Frame::SendPacket { to, packet } => put(kind::SEND_PACKET, &[to.as_bytes(), packet]),
            Frame::RecvPacket { from, packet } => put(kind::RECV_PACKET, &[from.as_bytes(), packet]),
            Frame::KeepAlive => put(kind::KEEP_ALIVE, &[]),
            Frame::NotePreferred(home) => put(kind::NOTE_PREFERRED, &[&[u8::from(*home)]]),
            Frame::PeerGone { key, reason } => {
                let reason = match reason {
                    GoneReason::Disconnected => 0,
                    GoneReason::NotHere => 1,
                    GoneReason::Other(other) => *other,
                };
                put(kind::PEER_GONE, &[key.as_bytes(), &[reason]]);
            }
            Frame::PeerPresent { key, address } => match address {
                None => put(kind::PEER_PRESENT, &[key.as_bytes()]),
                Some(address) => {
                    let ip = match address.ip() {
                        std::net::IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                        std::net::IpAddr::V6(ip) => ip,
                    };
                    put(kind::PEER_PRESENT, &[key.as_bytes(), &ip.octets(), &address.port().to_be_bytes()]);
                }
            },
            Frame::Ping(data) => put(kind::PING, &[data]),
            Frame::Pong(data) => put(kind::PONG, &[data]),
            Frame::Health(text) => put(kind::HEALTH, &[text.as_bytes()]),
            Frame::Restarting { reconnect_in_ms, try_for_ms } => {
                put(kind::RESTARTING, &[&reconnect_in_ms.to_be_bytes(), &try_for_ms.to_be_bytes()]);
            }
            Frame::Mesh | Frame::Unknown(_) => {}
        }
    }
}

/// Cuts a byte stream into frames. Holds at most one incomplete frame.
#[derive(Debug, Default)]
pub struct FrameReader {
    buffer: Vec<u8>,
    /// Payload bytes of an unknown frame that are still to be passed over.
    skip: usize,
}

impl FrameReader {
    /// Takes bytes and calls `each` for every frame that they complete, until it fails.
    ///
    /// # Errors
    /// What `each` returned, or the [`FrameError`] of a frame that cannot be.
    pub fn push<E: From<FrameError>>(
        &mut self,
        mut bytes: &[u8],
        mut each: impl FnMut(Frame<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            // A frame that lies whole in `bytes` is not copied.
            if self.buffer.is_empty()
                && let Some((kind, payload, rest)) = whole(bytes)?
            {
                each(Frame::decode(kind, payload)?)?;
                bytes = rest;
                continue;
            }
            if bytes.is_empty() {
                return Ok(());
            }
            let wanted = match header(&self.buffer)? {
                None => HEADER_BYTES,
                Some((_, length)) => HEADER_BYTES + length,
            };
            let (now, later) = bytes.split_at(bytes.len().min(wanted - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
            let Some((kind, length)) = header(&self.buffer)? else { continue };
            if !is_known(kind) {
                self.skip = length;
                self.buffer.clear();
                each(Frame::Unknown(kind))?;
            } else if self.buffer.len() == HEADER_BYTES + length {
                each(Frame::decode(kind, &self.buffer[HEADER_BYTES..])?)?;
                self.buffer.clear();
            }
        }
    }
}

fn is_known(kind: u8) -> bool {
    matches!(kind, kind::SERVER_KEY..=kind::FORWARD_PACKET | kind::WATCH_CONNS..=kind::RESTARTING)
}

fn header(bytes: &[u8]) -> Result<Option<(u8, usize)>, FrameError> {
    let Some([kind, a, b, c, d]) = bytes.first_chunk::<HEADER_BYTES>().copied() else { return Ok(None) };
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    let most = match kind {
        kind::SEND_PACKET | kind::RECV_PACKET => KEY_BYTES + MAX_PACKET_BYTES,
        kind::FORWARD_PACKET => 2 * KEY_BYTES + MAX_PACKET_BYTES,
        known if is_known(known) => MAX_HELD_BYTES,
        _ => MAX_SKIPPED_BYTES,
    };
    if length > most { Err(FrameError::Length { kind, bytes: length }) } else { Ok(Some((kind, length))) }
}

type Whole<'a> = (u8, &'a [u8], &'a [u8]);

fn whole(bytes: &[u8]) -> Result<Option<Whole<'_>>, FrameError> {
    let Some((kind, length)) = header(bytes)? else { return Ok(None) };
    let body = &bytes[HEADER_BYTES..];
    Ok((is_known(kind) && body.len() >= length).then(|| (kind, &body[..length], &body[length..])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(bytes: &[u8], packet: &[u8]) -> Vec<Vec<u8>> {
        let key = NodePublic::from_bytes([bytes[0]; 32]);
        let text = "slow disk";
        let address = Some("192.0.2.1:80".parse().unwrap());
        [
            Frame::ServerKey(RelayPublic::from_bytes([1; 32])),
            Frame::ClientInfo { key, sealed: packet },
            Frame::ServerInfo { sealed: packet },
            Frame::SendPacket { to: key, packet },
            Frame::RecvPacket { from: key, packet },
            Frame::KeepAlive,
            Frame::NotePreferred(true),
            Frame::PeerGone { key, reason: GoneReason::NotHere },
            Frame::PeerPresent { key, address },
            Frame::Ping([3; 8]),
            Frame::Pong([4; 8]),
            Frame::Health(text),
            Frame::Restarting { reconnect_in_ms: 1, try_for_ms: 2 },
        ]
        .iter()
        .map(|frame| {
            let mut out = Vec::new();
            frame.encode(&mut out);
            out
        })
        .collect()
    }

    proptest! {
        #[test]
        fn a_stream_cut_anywhere_gives_the_frames_that_went_in(
            packet in prop::collection::vec(any::<u8>(), 0..300),
            cuts in prop::collection::vec(1_usize..90, 1..20),
        ) {
            let frames = all(&[7], &packet);
            let mut stream = frames.concat();
            // A frame from the future in the middle is passed over.
            stream.extend_from_slice(&[0x77, 0, 0, 0, 3, 1, 2, 3]);
            stream.extend_from_slice(&frames[5]);
            let (mut reader, mut seen, mut rest) = (FrameReader::default(), Vec::new(), stream.as_slice());
            let mut cuts = cuts.iter().cycle();
            while !rest.is_empty() {
                let (piece, after) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
                reader.push(piece, |frame| {
                    let mut out = Vec::new();
                    frame.encode(&mut out);
                    seen.push(out);
                    Ok::<_, FrameError>(())
                }).unwrap();
                rest = after;
            }
            let mut expected = frames.clone();
            expected.extend([Vec::new(), frames[5].clone()]);
            prop_assert_eq!(seen, expected);
        }

        #[test]
        fn no_bytes_make_the_reader_panic_or_hold_much(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let mut reader = FrameReader::default();
            let _ = reader.push(&bytes, |_| Ok::<_, FrameError>(()));
            prop_assert!(reader.buffer.len() <= bytes.len());
        }
    }

    #[test]
    fn a_length_beyond_what_its_type_may_have_is_refused_at_once() {
        let mut reader = FrameReader::default();
        let refused = reader.push(&[kind::SEND_PACKET, 0, 2, 0, 0], |_| Ok::<_, FrameError>(()));
        assert_eq!(refused, Err(FrameError::Length { kind: kind::SEND_PACKET, bytes: 0x20000 }));
    }

    #[test]
    fn only_a_long_enough_packet_with_the_magic_is_disco() {
        let mut packet = vec![0; 62];
        assert!(!looks_like_disco(&packet));
        packet[..6].copy_from_slice(&DISCO_MAGIC);
        assert!(looks_like_disco(&packet));
        assert!(!looks_like_disco(&packet[..61]));
    }
}
