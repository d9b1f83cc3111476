//! Options of TCP connections that we dial and that then live for days: a path that died under them shows in seconds.

use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// A silent connection is asked for a sign of life after this.
const SILENCE: Duration = Duration::from_secs(15);
/// And so often, until one comes.
const PROBE_EVERY: Duration = Duration::from_secs(5);
/// Lost answers that end a silent connection; where the limit for unacknowledged bytes counts instead, two do.
const PROBES: u32 = 3;
/// Bytes that nobody acknowledges for so long end the connection. The kernel ends a silent one by this limit too, counted
/// from the last sign of life: with less, one lost probe would be enough.
const UNACKNOWLEDGED: Duration = Duration::from_secs(25);

/// Sets them. None makes a difference to correctness, so a refusal is no error.
pub(crate) fn prepare(stream: &TcpStream) {
    // Small frames must not wait for each other's acknowledgements.
    let _ = stream.set_nodelay(true);
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new().with_time(SILENCE).with_interval(PROBE_EVERY).with_retries(PROBES);
    let _ = socket.set_tcp_keepalive(&keepalive);
    let _ = socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn a_dialled_connection_notices_within_half_a_minute_that_it_is_dead() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        prepare(&stream);
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap() && socket.tcp_nodelay().unwrap());
        let silent = socket.tcp_keepalive_time().unwrap() + socket.tcp_keepalive_interval().unwrap() * PROBES;
        assert!(silent <= Duration::from_secs(30), "{silent:?}");
        assert!(socket.tcp_user_timeout().unwrap().is_some_and(|limit| limit <= Duration::from_secs(30)));
    }
}
