//! UDP of the user-space stack, joined to tokio's side.
//!
//! ```text
//! incoming:  Event::Datagram ─▶ port of an association? ─▶ its queue ─▶ SOCKS5 client
//!                             └ else ─▶ forward queue ─▶ a socket per flow ─▶ 127.0.0.1, same port
//! outgoing:  Input::SendDatagram ─▶ stack
//! ```
//!
//! Every queue is bounded and drops when it is full, as UDP may.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use warren_netstack::{Datagram, Stack};

use crate::event_loop::Input;
use crate::inbox::Inbox;
use crate::own_ports::{Kind, OwnPorts};

/// Associations of SOCKS5 clients at once.
const MOST_ASSOCIATIONS: usize = 64;
/// Datagrams that wait for one of them.
const ASSOCIATION_ROOM: usize = 128;
/// Datagrams that wait to be forwarded to services of this host.
pub(crate) const FORWARD_ROOM: usize = 512;
/// Flows from peers to services of this host at once; each has a socket.
const MOST_FLOWS: usize = 256;
/// Datagrams that wait for one flow's socket.
const FLOW_ROOM: usize = 64;
/// A flow without a datagram either way for so long is over (RFC 4787 asks for at least two minutes).
const FLOW_IDLE: Duration = Duration::from_secs(120);
/// The longest datagram there is.
pub(crate) const LONGEST: usize = 65_535;
/// Ports of associations in the mesh (IANA's dynamic range).
const FIRST_PORT: u16 = 49152;

/// The packet thread's part.
pub(crate) struct Datagrams {
    associations: BTreeMap<u16, mpsc::Sender<Datagram>>,
    forward: mpsc::Sender<Datagram>,
    own_ports: OwnPorts,
    next_port: u16,
    dropped: u64,
}

impl Datagrams {
    pub(crate) fn new(forward: mpsc::Sender<Datagram>, own_ports: OwnPorts) -> Self {
        Self { associations: BTreeMap::new(), forward, own_ports, next_port: FIRST_PORT, dropped: 0 }
    }

    /// A port in the mesh, and what comes to it. It is given back when the receiver is dropped. `None`: too many.
    pub(crate) fn open(&mut self) -> Option<(u16, mpsc::Receiver<Datagram>)> {
        self.associations.retain(|_, queue| !queue.is_closed());
        if self.associations.len() >= MOST_ASSOCIATIONS {
            return None;
        }
        while self.associations.contains_key(&self.next_port) || self.own_ports.contains(Kind::Udp, self.next_port) {
            self.next_port = self.next_port.checked_add(1).unwrap_or(FIRST_PORT);
        }
        let (queue, arriving) = mpsc::channel(ASSOCIATION_ROOM);
        let port = self.next_port;
        self.associations.insert(port, queue);
        self.next_port = port.checked_add(1).unwrap_or(FIRST_PORT);
        Some((port, arriving))
    }

    /// A datagram came out of the tunnel.
    pub(crate) fn arrived(&mut self, datagram: Datagram) {
        let port = datagram.local.port();
        let queue = self.associations.get(&port).unwrap_or(&self.forward);
        if port == 0 || self.own_ports.contains(Kind::Udp, port) || queue.try_send(datagram).is_err() {
            self.dropped += 1;
        }
    }

    /// Sends from our address of the target's family.
    pub(crate) fn send(&mut self, outgoing: Outgoing, stack: &mut Stack) {
        let Outgoing { port, remote, payload } = outgoing;
        let local = stack.address_for(remote.ip()).map(|ip| SocketAddr::new(ip, port));
        let sent = local.is_some_and(|local| stack.send_datagram(&Datagram { local, remote, payload }));
        self.dropped += u64::from(!sent);
    }

    /// Datagrams that found no room, no address or no service.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }
}

/// A datagram into the mesh.
#[derive(Debug)]
pub(crate) struct Outgoing {
    /// Ours.
    pub(crate) port: u16,
    pub(crate) remote: SocketAddr,
    pub(crate) payload: Vec<u8>,
}

type Ends = (SocketAddr, SocketAddr);

/// Carries datagrams of peers to the services of this host and back. Dropping the future closes every flow.
pub(crate) async fn forward(mut arriving: mpsc::Receiver<Datagram>, inbox: Inbox<Input>) {
    let mut flows: BTreeMap<Ends, mpsc::Sender<Vec<u8>>> = BTreeMap::new();
    let mut tasks = JoinSet::new();
    while let Some(datagram) = arriving.recv().await {
        while tasks.try_join_next().is_some() {}
        let ends = (datagram.local, datagram.remote);
        if flows.get(&ends).is_none_or(mpsc::Sender::is_closed) {
            flows.retain(|_, queue| !queue.is_closed());
            if flows.len() >= MOST_FLOWS {
                continue;
            }
            let (queue, waiting) = mpsc::channel(FLOW_ROOM);
            flows.insert(ends, queue);
            let inbox = inbox.clone();
            tasks.spawn(async move {
                // A port without a service answers "refused", which ends the flow; the peer hears nothing, as with UDP.
                let _ = carry_flow(ends, waiting, inbox).await;
            });
        }
        if let Some(queue) = flows.get(&ends) {
            // A flow that is not keeping up loses datagrams, nobody else's.
            let _ = queue.try_send(datagram.payload);
        }
    }
}

async fn carry_flow(ends: Ends, mut waiting: mpsc::Receiver<Vec<u8>>, inbox: Inbox<Input>) -> io::Result<()> {
    let (local, remote) = ends;
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    socket.connect((Ipv4Addr::LOCALHOST, local.port())).await?;
    let mut buffer = vec![0; LONGEST];
    loop {
        let moved = async {
            tokio::select! {
                payload = waiting.recv() => match payload {
                    Some(payload) => socket.send(&payload).await.map(|_| ()),
                    None => Err(io::ErrorKind::BrokenPipe.into()),
                },
                length = socket.recv(&mut buffer) => {
                    let payload = buffer[..length?].to_vec();
                    let outgoing = Outgoing { port: local.port(), remote, payload };
                    inbox.send(Input::SendDatagram(outgoing)).await.map_err(io::Error::other)
                }
            }
        };
        timeout(FLOW_IDLE, moved).await??;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(port: u16) -> Datagram {
        let [local, remote] = ["100.64.0.1", "100.64.0.2"].map(|ip| SocketAddr::new(ip.parse().unwrap(), port));
        Datagram { local, remote, payload: vec![1] }
    }

    fn own_ports(port: u16) -> OwnPorts {
        let ports = OwnPorts::default();
        ports.add(Kind::Udp, SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)));
        ports
    }

    #[test]
    fn own_sockets_are_never_reached_through_the_tunnel_and_full_queues_drop() {
        let (forward, mut forwarded) = mpsc::channel(1);
        let mut datagrams = Datagrams::new(forward, own_ports(41641));
        for port in [41641, 0] {
            datagrams.arrived(datagram(port));
        }
        assert_eq!((datagrams.dropped(), forwarded.try_recv().is_err()), (2, true));
        datagrams.arrived(datagram(53));
        datagrams.arrived(datagram(53));
        assert_eq!((datagrams.dropped(), forwarded.try_recv().is_ok()), (3, true));
    }

    #[test]
    fn associations_are_bounded_and_their_ports_come_back() {
        let (forward, _forwarded) = mpsc::channel(1);
        let mut datagrams = Datagrams::new(forward, own_ports(FIRST_PORT + 1));
        let mut open: Vec<_> = std::iter::from_fn(|| datagrams.open()).collect();
        assert_eq!(open.len(), MOST_ASSOCIATIONS);
        assert!(open.iter().all(|(port, _)| *port != FIRST_PORT + 1), "its own socket's port");
        let (port, mut arriving) = open.pop().unwrap();
        datagrams.arrived(datagram(port));
        assert!(arriving.try_recv().is_ok());
        drop(arriving);
        assert!(datagrams.open().is_some());
    }
}
