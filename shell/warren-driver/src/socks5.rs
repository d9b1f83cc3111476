//! A SOCKS5 door into the mesh (RFC 1928): CONNECT and UDP ASSOCIATE without authentication, by name or address.
//!
//! ```text
//! client                                   we
//! 05 n methods…                     ──▶
//!                                   ◀──    05 00 (or 05 FF: no method that we offer)
//! 05 01 00 type address port        ──▶    dial through the node
//!                                   ◀──    05 code 00 01 0.0.0.0 0
//! bytes                             ◀─▶    bytes
//! ```
//!
//! Whoever reaches the door acts as this node, so it opens on loopback only unless a person says otherwise. BIND is
//! answered "command not supported"; datagrams are in [`crate::socks5_udp`].

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Where a client wants to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Address(IpAddr, u16),
    /// Printable ASCII, 1–255 bytes.
    Name(String, u16),
}

/// Why a dial brought no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    #[error("connection refused")]
    Refused,
    #[error("no such host")]
    NoSuchHost,
    #[error("no way to that address")]
    Unreachable,
    #[error("no answer in time")]
    TimedOut,
    #[error("too many connections are open")]
    Busy,
    #[error("the node has stopped")]
    Stopped,
}

/// What opens connections for the clients of the door.
pub(crate) trait Dial: Clone + Send + Sync + 'static {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send;

    fn dial(&self, target: Target) -> impl Future<Output = Result<Self::Stream, DialError>> + Send;

    /// A UDP socket at our address `here` for datagrams of the client at `client`, and what carries them.
    fn associate(
        &self,
        client: IpAddr,
        here: IpAddr,
    ) -> impl Future<Output = Result<(SocketAddr, Relaying), DialError>> + Send;
}

/// Carries an association's datagrams until it is dropped.
pub(crate) type Relaying = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

/// What a client asks for.
#[derive(Debug)]
enum Request {
    Connect(Target),
    /// Where the client says that its datagrams come from is not believed: its connection says it.
    Associate,
}

/// The client's address, and ours as the client sees it.
type Ends = (IpAddr, IpAddr);

/// Clients at once; the rest wait in the kernel's backlog.
const MOST_CLIENTS: usize = 512;

/// A client that says nothing for so long is not going to.
const GREETING_PATIENCE: Duration = Duration::from_secs(10);

/// Serves `listener` until the future is dropped, which closes every connection; counts who was no client.
pub(crate) async fn serve(listener: TcpListener, dial: impl Dial, refused: Arc<AtomicU64>) {
    let room = Arc::new(Semaphore::new(MOST_CLIENTS));
    let mut clients = JoinSet::new();
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, from)) => {
                let ends = stream.local_addr().ok().map(|here| (from.ip(), here.ip()));
                let (dial, refused) = (dial.clone(), Arc::clone(&refused));
                clients.spawn(async move {
                    let _permit = permit;
                    let _ = stream.set_nodelay(true);
                    let served = serve_client(stream, dial, ends).await;
                    let is_garbage = served.is_err_and(|error| error.kind() == io::ErrorKind::InvalidData);
                    refused.fetch_add(u64::from(is_garbage), Ordering::Relaxed);
                });
            }
            // Out of descriptors: let some clients go first.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
        while clients.try_join_next().is_some() {}
    }
}

async fn serve_client(
    mut client: impl AsyncRead + AsyncWrite + Unpin,
    dial: impl Dial,
    ends: Option<Ends>,
) -> io::Result<()> {
    let request = timeout(GREETING_PATIENCE, greet(&mut client)).await;
    // Whoever does not come to the point is no client.
    let target = match request.ok().and_then(Result::ok).ok_or(io::ErrorKind::InvalidData)? {
        Ok(Request::Connect(target)) => target,
        Ok(Request::Associate) => return serve_datagrams(client, dial, ends).await,
        Err(code) => return client.write_all(&reply(code)).await,
    };
    match dial.dial(target).await {
        Ok(mut stream) => {
            client.write_all(&reply(GRANTED)).await?;
            copy_bidirectional(&mut client, &mut stream).await?;
            Ok(())
        }
        Err(error) => client.write_all(&reply(code_of(error))).await,
    }
}

/// Carries datagrams while the connection that asked for it stands.
async fn serve_datagrams(
    mut client: impl AsyncRead + AsyncWrite + Unpin,
    dial: impl Dial,
    ends: Option<Ends>,
) -> io::Result<()> {
    let Some((from, here)) = ends else { return client.write_all(&reply(FAILED)).await };
    match dial.associate(from, here).await {
        Ok((addr, relaying)) => {
            client.write_all(&reply_at(GRANTED, addr)).await?;
            let ended = async {
                // Nothing more is to be said here; what is said all the same is not kept.
                while client.read(&mut [0; 64]).await? > 0 {}
                Ok(())
            };
            tokio::select! {
                ended = relaying => ended,
                ended = ended => ended,
            }
        }
        Err(error) => client.write_all(&reply(code_of(error))).await,
    }
}

/// Greeting and request. The inner error is the reply code to send before closing.
async fn greet(client: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<Result<Request, u8>> {
    let [version, count] = read_array(client).await?;
    if version != VERSION {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    }
    let mut methods = vec![0; usize::from(count)];
    client.read_exact(&mut methods).await?;
    if !methods.contains(&NO_AUTHENTICATION) {
        client.write_all(&[VERSION, NO_METHOD]).await?;
        return Err(io::Error::from(io::ErrorKind::PermissionDenied));
    }
    client.write_all(&[VERSION, NO_AUTHENTICATION]).await?;
    let [version, command, _, kind] = read_array(client).await?;
    if version != VERSION {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    }
    let target = match kind {
        KIND_IPV4 => Target::Address(Ipv4Addr::from(read_array::<4>(client).await?).into(), port(client).await?),
        KIND_IPV6 => Target::Address(Ipv6Addr::from(read_array::<16>(client).await?).into(), port(client).await?),
        KIND_NAME => {
            let [length] = read_array(client).await?;
            let mut name = vec![0; usize::from(length)];
            client.read_exact(&mut name).await?;
            match (name_from(name), port(client).await?) {
                (Some(name), port) => Target::Name(name, port),
                (None, _) => return Ok(Err(FAILED)),
            }
        }
        _ => return Ok(Err(KIND_UNKNOWN)),
    };
    Ok(match command {
        CONNECT => Ok(Request::Connect(target)),
        ASSOCIATE => Ok(Request::Associate),
        _ => Err(COMMAND_UNKNOWN),
    })
}

pub(crate) fn name_from(bytes: Vec<u8>) -> Option<String> {
    let name = String::from_utf8(bytes).ok()?;
    (!name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic())).then_some(name)
}

async fn port(client: &mut (impl AsyncRead + Unpin)) -> io::Result<u16> {
    Ok(u16::from_be_bytes(read_array(client).await?))
}

async fn read_array<const N: usize>(client: &mut (impl AsyncRead + Unpin)) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    client.read_exact(&mut bytes).await?;
    Ok(bytes)
}

/// The address in a reply to CONNECT is of no use to anybody; zeroes are what most servers send.
fn reply(code: u8) -> [u8; 10] {
    [VERSION, code, 0, KIND_IPV4, 0, 0, 0, 0, 0, 0]
}

/// A reply with the address that the client is to use.
fn reply_at(code: u8, addr: SocketAddr) -> Vec<u8> {
    let mut bytes = vec![VERSION, code, 0];
    push_address(&mut bytes, addr);
    bytes
}

/// Kind, address and port, as they stand in replies and in front of datagrams (RFC 1928 §6, §7).
pub(crate) fn push_address(bytes: &mut Vec<u8>, addr: SocketAddr) {
    match addr.ip() {
        IpAddr::V4(ip) => {
            bytes.push(KIND_IPV4);
            bytes.extend(ip.octets());
        }
        IpAddr::V6(ip) => {
            bytes.push(KIND_IPV6);
            bytes.extend(ip.octets());
        }
    }
    bytes.extend(addr.port().to_be_bytes());
}

fn code_of(error: DialError) -> u8 {
    match error {
        DialError::Refused => REFUSED,
        DialError::NoSuchHost | DialError::TimedOut => HOST_UNREACHABLE,
        DialError::Unreachable => NETWORK_UNREACHABLE,
        DialError::Busy | DialError::Stopped => FAILED,
    }
}

// RFC 1928 §3–§6.
const VERSION: u8 = 5;
const NO_AUTHENTICATION: u8 = 0;
const NO_METHOD: u8 = 0xff;
const CONNECT: u8 = 1;
const ASSOCIATE: u8 = 3;
pub(crate) const KIND_IPV4: u8 = 1;
pub(crate) const KIND_NAME: u8 = 3;
pub(crate) const KIND_IPV6: u8 = 4;
const GRANTED: u8 = 0;
const FAILED: u8 = 1;
const NETWORK_UNREACHABLE: u8 = 3;
const HOST_UNREACHABLE: u8 = 4;
const REFUSED: u8 = 5;
const COMMAND_UNKNOWN: u8 = 7;
const KIND_UNKNOWN: u8 = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{DuplexStream, duplex};

    /// Answers each dial with an echo, or with the given failure.
    #[derive(Clone)]
    struct Echo(Option<DialError>, Target);

    impl Dial for Echo {
        type Stream = DuplexStream;

        async fn dial(&self, target: Target) -> Result<DuplexStream, DialError> {
            assert_eq!(target, self.1);
            if let Some(error) = self.0 {
                return Err(error);
            }
            let (ours, theirs) = duplex(1024);
            tokio::spawn(async move {
                let (mut read, mut write) = tokio::io::split(theirs);
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
            Ok(ours)
        }

        async fn associate(&self, client: IpAddr, here: IpAddr) -> Result<(SocketAddr, Relaying), DialError> {
            assert_eq!((client, here), (IpAddr::from([127, 0, 0, 9]), IpAddr::from([127, 0, 0, 1])));
            let relaying = std::future::pending::<io::Result<()>>();
            Ok((SocketAddr::new(here, 4242), Box::pin(relaying)))
        }
    }

    /// Plays `request` to the door and gives everything it answered until it closed.
    async fn converse(request: &[u8], dial: Echo) -> Vec<u8> {
        let (mut client, door) = duplex(4096);
        let ends = Some(([127, 0, 0, 9].into(), [127, 0, 0, 1].into()));
        let served = tokio::spawn(serve_client(door, dial, ends));
        // The door may close before it has read everything.
        let _ = client.write_all(request).await;
        let _ = client.shutdown().await;
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        let _ = served.await.unwrap();
        answer
    }

    fn name(text: &str, port: u16) -> Target {
        Target::Name(text.into(), port)
    }

    const BY_NAME: &[u8] = b"\x05\x01\x00\x05\x01\x00\x03\x04peer\x00\x50";

    #[tokio::test]
    async fn a_connection_by_name_carries_bytes_both_ways() {
        let request = [BY_NAME, b"hello"].concat();
        let answer = converse(&request, Echo(None, name("peer", 80))).await;
        assert_eq!(answer, [&[5, 0][..], &reply(GRANTED), b"hello"].concat());
    }

    #[tokio::test]
    async fn addresses_of_both_families_are_understood() {
        let v4 = b"\x05\x02\x02\x00\x05\x01\x00\x01\x64\x40\x00\x02\x1f\x90";
        let target = Target::Address("100.64.0.2".parse().unwrap(), 8080);
        assert_eq!(converse(v4, Echo(Some(DialError::Refused), target)).await[2..], reply(REFUSED));
        let v6 = [&b"\x05\x01\x00\x05\x01\x00\x04"[..], &[0xfd; 16], &[0, 22]].concat();
        let target = Target::Address(Ipv6Addr::from([0xfd; 16]).into(), 22);
        assert_eq!(converse(&v6, Echo(Some(DialError::TimedOut), target)).await[2..], reply(HOST_UNREACHABLE));
    }

    #[tokio::test]
    async fn what_is_not_offered_is_refused_by_its_code() {
        let never = || Echo(None, name("never dialled", 0));
        // Password only; BIND; an unknown address type; a name with a blank.
        assert_eq!(converse(b"\x05\x01\x02", never()).await, [5, 0xff]);
        let bind = b"\x05\x01\x00\x05\x02\x00\x01\x7f\x00\x00\x01\x00\x01";
        assert_eq!(converse(bind, never()).await[2..], reply(COMMAND_UNKNOWN));
        assert_eq!(converse(b"\x05\x01\x00\x05\x01\x00\x09", never()).await[2..], reply(KIND_UNKNOWN));
        assert_eq!(converse(b"\x05\x01\x00\x05\x01\x00\x03\x03a b\x00\x50", never()).await[2..], reply(FAILED));
    }

    #[tokio::test]
    async fn an_association_is_told_its_address_and_ends_with_its_connection() {
        let associate = b"\x05\x01\x00\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00";
        let answer = converse(associate, Echo(None, name("never dialled", 0))).await;
        assert_eq!(answer[2..], [5, GRANTED, 0, KIND_IPV4, 127, 0, 0, 1, 0x10, 0x92]);
    }

    #[tokio::test]
    async fn garbage_gets_no_answer() {
        let never = || Echo(None, name("never dialled", 0));
        for garbage in
            [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x04\x01\x00\x50\x7f\x00\x00\x01", b"\x16\x03\x01", b"\x05", b""]
        {
            assert!(converse(garbage, never()).await.is_empty(), "{garbage:?}");
        }
    }
}
