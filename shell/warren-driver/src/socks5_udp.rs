//! UDP ASSOCIATE of the SOCKS5 door (RFC 1928 §7): datagrams of one client into the mesh and beyond it.
//!
//! ```text
//! client ── 00 00 frag type address port payload ──▶ our UDP socket ──▶ mesh, or the host's own network
//!        ◀─ 00 00 00   type address port payload ──                 ◀──
//! ```
//!
//! An association lives as long as its TCP connection, and takes datagrams of that client alone.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use warren_netstack::Datagram;
use warren_node::mesh_ranges;

use crate::datagrams::{LONGEST, Outgoing};
use crate::dialer::Dialer;
use crate::event_loop::Input;
use crate::inbox::Inbox;
use crate::own_ports::{Held, Kind, OwnPorts};
use crate::socks5::{KIND_IPV4, KIND_IPV6, KIND_NAME, Target, name_from, push_address};

/// The mesh's side of an association.
pub(crate) struct MeshPort {
    pub(crate) port: u16,
    pub(crate) arriving: mpsc::Receiver<Datagram>,
    pub(crate) inbox: Inbox<Input>,
}

pub(crate) struct Association {
    /// Where the client's datagrams come to.
    pub(crate) door: UdpSocket,
    /// That no peer speaks to it.
    pub(crate) _held: Held,
    /// Nobody else's datagrams are taken.
    pub(crate) client: IpAddr,
    /// `None`: the host's own network leads into the mesh.
    pub(crate) mesh: Option<MeshPort>,
    pub(crate) dialer: Dialer,
    pub(crate) own_ports: OwnPorts,
}

impl Association {
    /// Runs until the future is dropped, or a socket breaks.
    pub(crate) async fn run(mut self) -> io::Result<()> {
        let host4 = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
        let host6 = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).await.ok();
        let sockets = [Some(&host4), host6.as_ref()];
        let bound = sockets.into_iter().flatten().filter_map(|socket| socket.local_addr().ok());
        // A peer's datagrams are led to loopback, where they would look like answers.
        let _held: Vec<Held> = bound.map(|bound| self.own_ports.hold(Kind::Udp, bound)).collect();
        let mut buffers = [vec![0; LONGEST], vec![0; LONGEST], vec![0; LONGEST]];
        // The client's first datagram says by which port it speaks.
        let mut client: Option<SocketAddr> = None;
        loop {
            let [from_client, from_host4, from_host6] = &mut buffers;
            tokio::select! {
                got = self.door.recv_from(from_client) => {
                    let Ok((length, from)) = got else { continue };
                    if from.ip() != self.client || *client.get_or_insert(from) != from {
                        continue;
                    }
                    if let Some((target, payload)) = parse(&from_client[..length]) {
                        self.send(target, payload, &host4, host6.as_ref()).await;
                    }
                }
                Some(datagram) = arrival(&mut self.mesh) => self.answer(client, datagram.remote, &datagram.payload).await,
                Ok((length, from)) = host4.recv_from(from_host4) => self.answer(client, from, &from_host4[..length]).await,
                Ok((length, from)) = receive(host6.as_ref(), from_host6) => {
                    self.answer(client, from, &from_host6[..length]).await;
                }
            }
        }
    }

    async fn send(&self, target: Target, payload: &[u8], host4: &UdpSocket, host6: Option<&UdpSocket>) {
        let Some(remote) = self.dialer.addresses(target).await.ok().and_then(|addrs| addrs.into_iter().next()) else {
            return;
        };
        match &self.mesh {
            Some(mesh) if mesh_ranges().iter().any(|range| range.contains(remote.ip())) => {
                let outgoing = Outgoing { port: mesh.port, remote, payload: payload.to_vec() };
                let _ = mesh.inbox.send(Input::SendDatagram(outgoing)).await;
            }
            _ => {
                let socket = if remote.is_ipv4() { Some(host4) } else { host6 };
                if let Some(socket) = socket {
                    let _ = socket.send_to(payload, remote).await;
                }
            }
        }
    }

    async fn answer(&self, client: Option<SocketAddr>, from: SocketAddr, payload: &[u8]) {
        if let Some(client) = client {
            let _ = self.door.send_to(&[header(from).as_slice(), payload].concat(), client).await;
        }
    }
}

async fn arrival(mesh: &mut Option<MeshPort>) -> Option<Datagram> {
    match mesh {
        Some(mesh) => mesh.arriving.recv().await,
        None => std::future::pending().await,
    }
}

async fn receive(socket: Option<&UdpSocket>, into: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
    match socket {
        Some(socket) => socket.recv_from(into).await,
        None => std::future::pending().await,
    }
}

/// Target and payload of a client's datagram. Fragments are not taken, which RFC 1928 permits.
fn parse(bytes: &[u8]) -> Option<(Target, &[u8])> {
    let (&[0, 0, 0, kind], rest) = bytes.split_first_chunk::<4>()? else { return None };
    let (host, rest) = match kind {
        KIND_IPV4 => {
            let (ip, rest) = rest.split_first_chunk::<4>()?;
            (Ok(IpAddr::from(*ip)), rest)
        }
        KIND_IPV6 => {
            let (ip, rest) = rest.split_first_chunk::<16>()?;
            (Ok(IpAddr::from(*ip)), rest)
        }
        KIND_NAME => {
            let (length, rest) = rest.split_first()?;
            let (name, rest) = rest.split_at_checked(usize::from(*length))?;
            (Err(name_from(name.to_vec())?), rest)
        }
        _ => return None,
    };
    let (port, payload) = rest.split_first_chunk::<2>()?;
    let port = u16::from_be_bytes(*port);
    Some(match host {
        Ok(ip) => (Target::Address(ip, port), payload),
        Err(name) => (Target::Name(name, port), payload),
    })
}

fn header(from: SocketAddr) -> Vec<u8> {
    let mut bytes = vec![0; 3];
    push_address(&mut bytes, from);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_they_are_written_and_what_is_short_or_in_pieces_is_dropped() {
        for from in ["100.64.0.2:53", "[fd7a:115c:a1e0::2]:5353"].map(|text| text.parse::<SocketAddr>().unwrap()) {
            let bytes = [header(from).as_slice(), b"payload"].concat();
            let target = Target::Address(from.ip(), from.port());
            assert_eq!(parse(&bytes), Some((target, &b"payload"[..])));
            for short in 0..header(from).len() {
                assert_eq!(parse(&bytes[..short]), None);
            }
            let piece = [&[0, 0, 1], &bytes[3..]].concat();
            assert_eq!(parse(&piece), None);
        }
        let by_name = b"\0\0\0\x03\x04peer\0\x35?";
        assert_eq!(parse(by_name), Some((Target::Name("peer".into(), 53), &b"?"[..])));
        assert_eq!(parse(b"\0\0\0\x03\xffpeer\0\x35?"), None, "a name that is longer than its datagram");
    }
}
