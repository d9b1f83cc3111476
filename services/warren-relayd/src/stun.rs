//! The UDP half of a relay: tells nodes how the outside sees them.

use std::io::{IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::libc;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt, sockopt,
};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::watch;
use warren_relay::stun;

/// After an error of the socket, before the next try.
const AFTER_ERROR: Duration = Duration::from_secs(1);
/// No request of a node is longer; what is cut off was not one.
const LONGEST_REQUEST: usize = 1500;

/// What a STUN server has seen.
#[derive(Debug, Default)]
pub struct StunCounters {
    pub answered: AtomicU64,
    /// Not STUN, not of this network's software, or broken. Met with silence.
    pub ignored: AtomicU64,
}

impl StunCounters {
    /// As `/debug/counters` shows them.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        let ignored = self.ignored.load(Ordering::Relaxed);
        let mut json = warren_io::debug_counters::dropped(&[("not-a-request", ignored)]);
        json["answered"] = self.answered.load(Ordering::Relaxed).into();
        json
    }
}

/// Binds a socket; `[::]` also takes IPv4 on systems as they come (`net.ipv6.bindv6only = 0`).
///
/// # Errors
/// The operating system's.
pub async fn bind(address: SocketAddr) -> std::io::Result<UdpSocket> {
    match UdpSocket::bind(address).await {
        // A kernel without IPv6 knows no `[::]`; every IPv4 address is the next best "everywhere".
        Err(_) if address.ip() == std::net::Ipv6Addr::UNSPECIFIED && !has_ipv6() => {
            UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        result => result,
    }
}

fn has_ipv6() -> bool {
    std::net::UdpSocket::bind("[::1]:0").is_ok()
}

/// Answers requests until `shutdown` turns true. Dropping the future stops it.
pub async fn serve(socket: UdpSocket, counters: Arc<StunCounters>, mut shutdown: watch::Receiver<bool>) {
    tokio::select! {
        () = answer(socket, &counters) => {}
        _ = shutdown.wait_for(|stop| *stop) => {}
    }
}

async fn answer(socket: UdpSocket, counters: &StunCounters) {
    if let Err(error) = ask_for_destinations(&socket) {
        tracing::warn!(%error, "STUN answers may leave by another address than they were asked at");
    }
    loop {
        let received = socket.async_io(Interest::READABLE, || receive(&socket)).await;
        let request = match received {
            Ok(request) => request,
            Err(error) => {
                tracing::warn!(%error, "STUN socket");
                tokio::time::sleep(AFTER_ERROR).await;
                continue;
            }
        };
        let Some(Request { source, at, id: Some(id) }) = request else {
            counters.ignored.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        // A full socket buffer drops the answer, as the network may; the node asks again.
        let _ = socket.try_io(Interest::WRITABLE, || send(&socket, &stun::encode_response(id, source), source, at));
        counters.answered.fetch_add(1, Ordering::Relaxed);
    }
}

struct Request {
    source: SocketAddr,
    /// Our own address that it was sent to.
    at: Option<IpAddr>,
    id: Option<stun::TxId>,
}

/// A machine with several addresses must answer from the one that was asked: routers in between let no other answer in.
fn ask_for_destinations(socket: &UdpSocket) -> std::io::Result<()> {
    if socket.local_addr()?.is_ipv6() {
        setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)?;
    } else {
        setsockopt(socket, sockopt::Ipv4PacketInfo, &true)?;
    }
    Ok(())
}

/// `None`: no datagram with a source came.
fn receive(socket: &UdpSocket) -> std::io::Result<Option<Request>> {
    let mut bytes = [0; LONGEST_REQUEST];
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let mut space = nix::cmsg_space!(libc::in6_pktinfo);
    let message = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_DONTWAIT)?;
    let mut at = None;
    for extra in message.cmsgs()? {
        at = match extra {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                Some(IpAddr::V4(Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr))))
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => Some(IpAddr::V6(Ipv6Addr::from(info.ipi6_addr.s6_addr))),
            _ => at,
        };
    }
    let source = message.address.and_then(socket_address);
    let count = message.bytes;
    Ok(source.map(|source| Request { source, at, id: stun::decode_request(&bytes[..count]).ok() }))
}

fn send(socket: &UdpSocket, answer: &[u8], to: SocketAddr, from: Option<IpAddr>) -> std::io::Result<usize> {
    let parts = [IoSlice::new(answer)];
    let any_interface = 0;
    let v4 = from.and_then(|ip| if let IpAddr::V4(ip) = ip { Some(ip) } else { None }).map(|ip| libc::in_pktinfo {
        ipi_ifindex: any_interface,
        ipi_spec_dst: libc::in_addr { s_addr: u32::from(ip).to_be() },
        ipi_addr: libc::in_addr { s_addr: 0 },
    });
    let v6 = from
        .and_then(|ip| if let IpAddr::V6(ip) = ip { Some(ip) } else { None })
        .map(|ip| libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: ip.octets() }, ipi6_ifindex: 0 });
    let extras: Vec<ControlMessage<'_>> =
        [v4.as_ref().map(ControlMessage::Ipv4PacketInfo), v6.as_ref().map(ControlMessage::Ipv6PacketInfo)]
            .into_iter()
            .flatten()
            .collect();
    Ok(sendmsg(socket.as_raw_fd(), &parts, &extras, MsgFlags::MSG_DONTWAIT, Some(&SockaddrStorage::from(to)))?)
}

fn socket_address(storage: SockaddrStorage) -> Option<SocketAddr> {
    let v4 = storage.as_sockaddr_in().map(|found| SocketAddr::from(SocketAddrV4::from(*found)));
    v4.or_else(|| storage.as_sockaddr_in6().map(|found| SocketAddr::from(SocketAddrV6::from(*found))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_leaves_by_the_address_that_was_asked() {
        let socket = bind("[::]:0".parse().expect("an address")).await.expect("bound");
        let port = socket.local_addr().expect("an address").port();
        let (stop, shutdown) = watch::channel(false);
        let counters = Arc::new(StunCounters::default());
        let serving = tokio::spawn(serve(socket, counters.clone(), shutdown));
        let client = UdpSocket::bind("127.0.0.1:0").await.expect("bound");
        // Loopback is a whole network: without care, answers to any of its addresses come from 127.0.0.1.
        for asked in ["127.0.0.1", "127.0.0.2"] {
            let id = stun::TxId([7; 12]);
            client.send_to(&stun::encode_request(id), (asked, port)).await.expect("sent");
            let mut answer = [0; 100];
            let receiving = tokio::time::timeout(Duration::from_secs(10), client.recv_from(&mut answer));
            let (count, from) = receiving.await.expect("in time").expect("an answer");
            assert_eq!(from.ip().to_string(), asked);
            assert_eq!(stun::decode_response(&answer[..count]), Ok((id, client.local_addr().expect("an address"))));
        }
        for garbage in [&b"\x00\x01\x00\x14\x21\x12\xa4\x42"[..], b"", &[0xff; 1400]] {
            client.send_to(garbage, ("127.0.0.1", port)).await.expect("sent");
        }
        let ignored = async {
            while counters.ignored.load(Ordering::Relaxed) < 3 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), ignored).await.expect("garbage is counted");
        let expect = serde_json::json!({ "answered": 2, "dropped": { "not-a-request": 3 } });
        assert_eq!(counters.to_json(), expect);
        stop.send(true).expect("still serving");
        serving.await.expect("ended");
    }
}
