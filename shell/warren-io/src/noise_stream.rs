//! A TS2021 channel as a byte stream, for both ends.
//!
//! ```text
//! client                                   server
//! (initiation went in the upgrade request)
//!                                      ◀── response, 51 bytes
//!                                      ◀── record: early payload (maybe)
//! records ───────────────────────────────▶ records: HTTP/2
//! ```
//!
//! Reading gives the other side's plaintext; the early payload is taken out first ([`NoiseStream::early_payload`]).
//! The channel has no close record: an end between two records is an end, one inside a record is an error.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use warren_crypto::channel::early::{self, EarlyPayload, First};
use warren_crypto::channel::{Channel, HandshakeError, Initiator, Opener, RESPONSE_BYTES, Responder, Sealer};
use warren_crypto::{MachinePublic, MachineSecret, Random};

/// Sealed bytes that may wait for a slow peer before writing waits too.
const MOST_WAITING: usize = 64 << 10;

/// Sealed bytes that wait for more before they go, unless the writer flushes: what is written together leaves together.
const WORTH_SENDING: usize = 32 << 10;

/// What an idle channel may keep of its buffers. There are thousands.
const KEPT: usize = 2 << 10;

/// Plaintext that is sealed in one go.
const MOST_AT_ONCE: usize = 16 << 10;

/// Longest text of a handshake error.
const LONGEST_ERROR: usize = 1024;

/// A stream of plaintext over `T`.
pub struct NoiseStream<T> {
    io: T,
    version: u16,
    opener: Opener,
    sealer: Sealer,
    /// Opened and not yet read.
    plain: Vec<u8>,
    taken: usize,
    /// Sealed and not yet written.
    sealed: Vec<u8>,
    written: usize,
    beginning: Beginning,
    early: Option<EarlyPayload>,
}

/// Whether the first plaintext may still be an early payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beginning {
    Unseen,
    Seen,
}

/// Why no channel came to be.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The connection failed.
    #[error("the connection broke during the Noise handshake")]
    Io(#[from] io::Error),
    /// The other side did it wrong, or is someone else.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
}

impl<T: AsyncRead + AsyncWrite + Unpin> NoiseStream<T> {
    /// The client's end: `initiator` has made the initiation that the upgrade request carried; the server's response
    /// is the next thing that `io` says. Dropping the future drops `io`; the caller sets the deadline.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn connect(mut io: T, initiator: Initiator, version: u16) -> Result<Self, OpenError> {
        let mut response = vec![0; 3];
        io.read_exact(&mut response).await?;
        let stated = usize::from(u16::from_be_bytes([response[1], response[2]]));
        // A wrong length is the channel's to refuse; here it only decides how much to read, within bounds.
        response.resize(3 + stated.min(LONGEST_ERROR), 0);
        io.read_exact(&mut response[3..]).await?;
        Ok(Self::new(io, initiator.finish(&response)?, version, Beginning::Unseen))
    }

    /// The server's end: takes a client's `initiation` and answers it, together with `early` if there is one.
    /// Returns the stream and the machine key that the client proved. A malformed initiation is answered with an error
    /// message; a forged one is not answered.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn accept(
        mut io: T,
        server: &MachineSecret,
        initiation: &[u8],
        early: Option<&EarlyPayload>,
        random: &mut Random,
    ) -> Result<(Self, MachinePublic), OpenError> {
        let accepted = match Responder::accept(server, initiation, random) {
            Ok(accepted) => accepted,
            Err(HandshakeError::Forged) => return Err(HandshakeError::Forged.into()),
            Err(error) => {
                let text = error.to_string();
                let length = u16::try_from(text.len()).unwrap_or(0);
                let message = [&[3], length.to_be_bytes().as_slice(), text.as_bytes()].concat();
                io.write_all(&message).await?;
                io.shutdown().await?;
                return Err(error.into());
            }
        };
        let mut stream = Self::new(io, accepted.channel, accepted.version, Beginning::Seen);
        stream.sealed.extend_from_slice(&accepted.response);
        debug_assert_eq!(stream.sealed.len(), RESPONSE_BYTES);
        if let Some(early) = early {
            stream.sealer.seal(&early.encode(), &mut stream.sealed).map_err(invalid)?;
        }
        stream.flush().await?;
        Ok((stream, accepted.machine))
    }

    fn new(io: T, channel: Channel, version: u16, beginning: Beginning) -> Self {
        let (sealer, opener) = channel.split();
        Self {
            io,
            version,
            opener,
            sealer,
            plain: Vec::new(),
            taken: 0,
            sealed: Vec::new(),
            written: 0,
            beginning,
            early: None,
        }
    }

    /// The capability version that both sides bound into the handshake.
    pub fn version(&self) -> u16 {
        self.version
    }

    /// What the server said before its first byte of HTTP/2, once that has been read.
    pub fn early_payload(&self) -> Option<&EarlyPayload> {
        self.early.as_ref()
    }

    /// Whether bytes lie ready for the reader.
    fn is_readable(&mut self) -> io::Result<bool> {
        if self.beginning == Beginning::Unseen {
            let Some(header) = self.plain.first_chunk::<{ early::HEADER_BYTES }>() else { return Ok(false) };
            match early::first(header) {
                First::Http2 => {}
                First::TooLong(length) => {
                    return Err(invalid(format!("an early payload of {length} bytes")));
                }
                First::Early(length) => {
                    let end = early::HEADER_BYTES + length;
                    if self.plain.len() < end {
                        return Ok(false);
                    }
                    // It is of no use to us, so one that we cannot read does no harm.
                    self.early = serde_json::from_slice(&self.plain[early::HEADER_BYTES..end]).ok();
                    self.taken = end;
                }
            }
            self.beginning = Beginning::Seen;
        }
        Ok(self.taken < self.plain.len())
    }

    /// Writes what is sealed until at most `left` bytes wait.
    fn poll_drain(&mut self, cx: &mut Context<'_>, left: usize) -> Poll<io::Result<()>> {
        while self.sealed.len() - self.written > left {
            let count = ready!(Pin::new(&mut self.io).poll_write(cx, &self.sealed[self.written..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += count;
        }
        if self.written == self.sealed.len() {
            self.sealed.clear();
            self.written = 0;
            self.sealed.shrink_to(KEPT);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for NoiseStream<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while !this.is_readable()? {
            if this.beginning == Beginning::Seen {
                this.plain.clear();
                this.plain.shrink_to(KEPT);
                this.taken = 0;
            }
            let mut space = [0; 8192];
            let mut piece = ReadBuf::new(&mut space);
            ready!(Pin::new(&mut this.io).poll_read(cx, &mut piece))?;
            if piece.filled().is_empty() {
                if this.opener.is_at_boundary() {
                    return Poll::Ready(Ok(()));
                }
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            this.opener.push(piece.filled(), &mut this.plain).map_err(invalid)?;
        }
        let left = &this.plain[this.taken..];
        let count = left.len().min(buf.remaining());
        buf.put_slice(&left[..count]);
        this.taken += count;
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for NoiseStream<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        ready!(this.poll_drain(cx, MOST_WAITING))?;
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let piece = &buf[..buf.len().min(MOST_AT_ONCE)];
        this.sealer.seal(piece, &mut this.sealed).map_err(invalid)?;
        // What cannot go now goes with the next write or flush.
        if this.sealed.len() - this.written >= WORTH_SENDING
            && let Poll::Ready(Err(error)) = this.poll_drain(cx, 0)
        {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(piece.len()))
    }

    /// HTTP/2 has a head and a body to write: both go into one record.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut filled = pieces.iter().filter(|piece| !piece.is_empty());
        let (Some(first), Some(second)) = (filled.next(), filled.next()) else {
            let only = pieces.iter().find(|piece| !piece.is_empty());
            return self.poll_write(cx, only.map_or(&[], |piece| &**piece));
        };
        let mut together = Vec::with_capacity(MOST_AT_ONCE);
        for piece in [first, second].into_iter().chain(filled) {
            let room = MOST_AT_ONCE - together.len();
            together.extend_from_slice(&piece[..piece.len().min(room)]);
        }
        self.poll_write(cx, &together)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx, 0))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx, 0))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl<T> std::fmt::Debug for NoiseStream<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NoiseStream").field("version", &self.version).finish_non_exhaustive()
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::DuplexStream;
    use warren_crypto::ChallengePublic;

    async fn pair(
        early: Option<EarlyPayload>,
        buffer: usize,
    ) -> (NoiseStream<DuplexStream>, NoiseStream<DuplexStream>, MachinePublic) {
        let mut random = Random::from_seed([1; 32]);
        let (server_key, machine) = (MachineSecret::generate(&mut random), MachineSecret::generate(&mut random));
        // At least the response and the early payload must fit, as nobody reads the latter yet.
        let (near, far) = tokio::io::duplex(buffer);
        let (initiator, initiation) =
            Initiator::new(&machine, &server_key.public(), 113, &mut random).expect("a usable key");
        let (client, accepted) = tokio::join!(
            NoiseStream::connect(near, initiator, 113),
            NoiseStream::accept(far, &server_key, &initiation, early.as_ref(), &mut random),
        );
        let (server, proven) = accepted.expect("accepted");
        assert_eq!(proven, machine.public());
        (client.expect("connected"), server, proven)
    }

    #[tokio::test]
    async fn bytes_pass_both_ways_however_small_the_pipe() {
        let early = EarlyPayload { node_key_challenge: ChallengePublic::from_bytes([9; 32]) };
        let (mut client, mut server, _) = pair(Some(early.clone()), 199).await;
        let sent: Vec<u8> = (0..100_000_u32).map(|n| n as u8).collect();
        let serving = async {
            let mut heard = vec![0; sent.len()];
            server.read_exact(&mut heard).await.expect("all of it");
            server.write_all(&heard).await.expect("open");
            server.shutdown().await.expect("open");
        };
        let asking = async {
            let (mut reader, mut writer) = tokio::io::split(&mut client);
            let mut heard = Vec::new();
            let write = async {
                writer.write_all(&sent).await.expect("open");
                writer.flush().await.expect("open");
            };
            let (_, read) = tokio::join!(write, reader.read_to_end(&mut heard));
            read.expect("ends between two records");
            heard
        };
        let ((), heard) = tokio::join!(serving, asking);
        assert!(heard == sent);
        assert_eq!(client.early_payload(), Some(&early));
    }

    #[tokio::test]
    async fn without_an_early_payload_the_first_bytes_are_the_servers() {
        let (mut client, mut server, _) = pair(None, 4096).await;
        server.write_all(b"\0\0\x12\x04\0\0\0\0\0 settings").await.expect("open");
        server.flush().await.expect("open");
        let mut heard = [0; 18];
        client.read_exact(&mut heard).await.expect("all of it");
        assert_eq!(&heard[9..], b" settings");
    }

    #[tokio::test]
    async fn a_malformed_initiation_is_answered_with_words_and_a_forged_one_with_nothing() {
        let mut random = Random::from_seed([2; 32]);
        let server_key = MachineSecret::generate(&mut random);
        for (initiation, expect_words) in [(vec![7; 50], true), (vec![0; 101], true)] {
            let (mut near, far) = tokio::io::duplex(4096);
            let refused = NoiseStream::accept(far, &server_key, &initiation, None, &mut random).await;
            assert!(refused.is_err());
            let mut heard = Vec::new();
            near.read_to_end(&mut heard).await.expect("closed");
            assert_eq!(heard.first() == Some(&3), expect_words);
        }
        let other = MachineSecret::generate(&mut random);
        let (_, forged) = Initiator::new(&other, &other.public(), 113, &mut random).expect("a usable key");
        let (mut near, far) = tokio::io::duplex(4096);
        assert!(NoiseStream::accept(far, &server_key, &forged, None, &mut random).await.is_err());
        let mut heard = Vec::new();
        near.read_to_end(&mut heard).await.expect("closed");
        assert!(heard.is_empty());
    }

    #[tokio::test]
    async fn an_end_inside_a_record_is_an_error() {
        let (client, server, _) = pair(None, 4096).await;
        let NoiseStream { mut io, .. } = server;
        io.write_all(&[4, 0, 20, 1]).await.expect("open");
        drop(io);
        let mut client = client;
        let error = client.read_to_end(&mut Vec::new()).await.expect_err("cut");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
