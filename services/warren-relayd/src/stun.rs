//! The UDP half of a relay: tells nodes how the outside sees them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

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
    let mut buffer = [0; LONGEST_REQUEST];
    loop {
        let (count, source) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                tracing::warn!(%error, "STUN socket");
                tokio::time::sleep(AFTER_ERROR).await;
                continue;
            }
        };
        let Ok(id) = stun::decode_request(&buffer[..count]) else {
            counters.ignored.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        // A full socket buffer drops the answer, as the network may; the node asks again.
        let _ = socket.try_send_to(&stun::encode_response(id, source), source);
        counters.answered.fetch_add(1, Ordering::Relaxed);
    }
}
