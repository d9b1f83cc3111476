//! Opening streams as the node: by the user-space stack or by the host's own, by name or address.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::oneshot;
use tokio::time::timeout;
use warren_node::mesh_ranges;

use crate::event_loop::Input;
use crate::inbox::Inbox;
use crate::own_ports::{Kind, OwnPorts};
use crate::socks5::{Dial, DialError, Relaying, Target};
use crate::socks5_udp::{Association, MeshPort};

/// Both directions of an opened connection.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// An opened connection. Dropping it closes both directions.
pub type MeshStream = Box<dyn Duplex>;

/// One address of a name; the first packets may have to wait for a handshake by a relay.
const DIAL_PATIENCE: Duration = Duration::from_secs(15);

#[derive(Clone)]
pub(crate) struct Dialer {
    inbox: Inbox<Input>,
    userspace: bool,
    own_ports: OwnPorts,
}

impl Dialer {
    pub(crate) fn new(inbox: Inbox<Input>, userspace: bool, own_ports: OwnPorts) -> Self {
        Self { inbox, userspace, own_ports }
    }

    /// Tries the target's addresses in order; the last failure is the answer.
    pub(crate) async fn open(&self, target: Target) -> Result<MeshStream, DialError> {
        let mut last = DialError::NoSuchHost;
        for addr in self.addresses(target).await? {
            match timeout(DIAL_PATIENCE, self.open_one(addr)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last = error,
                Err(_) => last = DialError::TimedOut,
            }
        }
        Err(last)
    }

    /// Names of the network come first; the host's resolver knows the rest.
    pub(crate) async fn addresses(&self, target: Target) -> Result<Vec<SocketAddr>, DialError> {
        let (name, port) = match target {
            Target::Address(ip, port) => return Ok(vec![SocketAddr::new(ip, port)]),
            Target::Name(name, port) => (name, port),
        };
        // Clients that cannot send addresses send them as names.
        if let Ok(ip) = name.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        let (reply, answer) = oneshot::channel();
        let asked = name.clone();
        let ask = Input::Ask(Box::new(move |node, _, _| {
            let _ = reply.send(node.resolve_name(&asked));
        }));
        self.inbox.send(ask).await.map_err(|_| DialError::Stopped)?;
        if let Some(addrs) = answer.await.map_err(|_| DialError::Stopped)? {
            return Ok(addrs.into_iter().map(|ip| SocketAddr::new(ip, port)).collect());
        }
        let found = timeout(DIAL_PATIENCE, tokio::net::lookup_host((name.as_str(), port))).await;
        match found {
            Ok(Ok(addrs)) => Ok(addrs.collect()),
            _ => Err(DialError::NoSuchHost),
        }
    }

    async fn open_one(&self, addr: SocketAddr) -> Result<MeshStream, DialError> {
        if self.userspace && mesh_ranges().iter().any(|range| range.contains(addr.ip())) {
            let (reply, answer) = oneshot::channel();
            self.inbox.send(Input::Dial(addr, reply)).await.map_err(|_| DialError::Stopped)?;
            let stream = answer.await.map_err(|_| DialError::Stopped)??;
            return Ok(Box::new(stream));
        }
        match TcpStream::connect(addr).await {
            Ok(stream) => {
                let _ = stream.set_nodelay(true);
                Ok(Box::new(stream))
            }
            Err(error) => Err(match error.kind() {
                std::io::ErrorKind::ConnectionRefused => DialError::Refused,
                std::io::ErrorKind::TimedOut => DialError::TimedOut,
                _ => DialError::Unreachable,
            }),
        }
    }
}

impl Dial for Dialer {
    type Stream = MeshStream;

    async fn dial(&self, target: Target) -> Result<MeshStream, DialError> {
        self.open(target).await
    }

    async fn associate(&self, client: IpAddr, here: IpAddr) -> Result<(SocketAddr, Relaying), DialError> {
        let door = UdpSocket::bind((here, 0)).await.map_err(|_| DialError::Busy)?;
        let addr = door.local_addr().map_err(|_| DialError::Busy)?;
        // Before anybody can hear of it: a peer's datagrams are led to loopback, where they would look like the client's.
        let held = self.own_ports.hold(Kind::Udp, addr);
        let mut mesh = None;
        if self.userspace {
            let (reply, answer) = oneshot::channel();
            self.inbox.send(Input::OpenDatagrams(reply)).await.map_err(|_| DialError::Stopped)?;
            let (port, arriving) = answer.await.map_err(|_| DialError::Stopped)?.ok_or(DialError::Busy)?;
            mesh = Some(MeshPort { port, arriving, inbox: self.inbox.clone() });
        }
        let own_ports = self.own_ports.clone();
        let association = Association { door, _held: held, client, mesh, dialer: self.clone(), own_ports };
        Ok((addr, Box::pin(association.run())))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::inbox::inbox;

    #[tokio::test]
    async fn the_door_for_datagrams_is_ours_before_the_client_hears_of_it_and_until_it_is_closed() {
        let own_ports = OwnPorts::default();
        let dialer = Dialer::new(inbox(1).unwrap().0, false, own_ports.clone());
        let here = IpAddr::from(Ipv4Addr::LOCALHOST);
        let (door, relaying) = dialer.associate(here, here).await.unwrap();
        assert!(own_ports.contains(Kind::Udp, door.port()));
        drop(relaying);
        assert!(!own_ports.contains(Kind::Udp, door.port()));
    }
}
