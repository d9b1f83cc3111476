//! One TCP stream of the user-space stack, joined to a pipe that tokio's side holds the other end of.
//!
//! ```text
//! stack socket ──inbound──▶ pipe ──▶ SOCKS5 client, `dial`, local service
//!              ◀─outbound──      ◀──
//! ```
//!
//! The packet thread moves bytes without ever waiting: a full pipe or socket is simply left for later. A pipe that
//! becomes ready says so by its waker, which rings the packet thread's bell.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use warren_netstack::Read;

/// Bytes that wait in a pipe for tokio's side.
pub(crate) const PIPE_BYTES: usize = 256 << 10;

/// Bytes moved at a time.
const PIECE: usize = 64 << 10;

/// What a bridge needs of a stack's flow.
pub(crate) trait Socket {
    /// Bytes that came in order, or why there are none.
    fn read(&mut self, into: &mut [u8]) -> Read;
    /// How many bytes the flow takes now; `None`: none any more, ever.
    fn write(&mut self, bytes: &[u8]) -> Option<usize>;
    /// We have finished sending.
    fn finish(&mut self);
}

/// The pipe's end in the packet thread, with what could not be moved yet.
pub(crate) struct Bridge {
    pipe: DuplexStream,
    waker: Waker,
    inbound: Piece,
    outbound: Piece,
    inbound_over: bool,
    outbound_over: bool,
}

/// Bytes on their way, between a read and a write.
#[derive(Default)]
struct Piece {
    bytes: Vec<u8>,
    moved: usize,
}

impl Piece {
    fn rest(&self) -> &[u8] {
        &self.bytes[self.moved..]
    }

    fn is_empty(&self) -> bool {
        self.rest().is_empty()
    }

    /// Room to be filled anew, then [`Piece::keep`]; only when empty.
    fn room(&mut self) -> &mut [u8] {
        self.moved = 0;
        self.bytes.resize(PIECE, 0);
        &mut self.bytes
    }

    fn keep(&mut self, count: usize) {
        self.bytes.truncate(count);
    }
}

/// What became of a bridge after a pump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Open,
    /// Both directions ended in order.
    Finished,
    /// One side broke off; the other shall see that.
    Broken,
}

impl Bridge {
    pub(crate) fn new(pipe: DuplexStream, waker: Waker) -> Self {
        Self {
            pipe,
            waker,
            inbound: Piece::default(),
            outbound: Piece::default(),
            inbound_over: false,
            outbound_over: false,
        }
    }

    /// Moves what can be moved both ways.
    pub(crate) fn pump(&mut self, socket: &mut impl Socket) -> State {
        if !self.pump_inbound(socket) || !self.pump_outbound(socket) {
            return State::Broken;
        }
        if self.inbound_over && self.outbound_over { State::Finished } else { State::Open }
    }

    /// False when a side is broken.
    fn pump_inbound(&mut self, socket: &mut impl Socket) -> bool {
        let waker = self.waker.clone();
        let mut context = Context::from_waker(&waker);
        while !self.inbound_over {
            if self.inbound.is_empty() {
                let result = socket.read(self.inbound.room());
                self.inbound.keep(if let Read::Bytes(count) = result { count } else { 0 });
                match result {
                    Read::Bytes(_) => {}
                    Read::Later => return true,
                    Read::Finished => {
                        // A pipe's end never waits.
                        let _ = Pin::new(&mut self.pipe).poll_shutdown(&mut context);
                        self.inbound_over = true;
                        return true;
                    }
                    Read::Broken => return false,
                }
            }
            match Pin::new(&mut self.pipe).poll_write(&mut context, self.inbound.rest()) {
                Poll::Ready(Ok(count)) => self.inbound.moved += count,
                Poll::Ready(Err(_)) => return false,
                Poll::Pending => return true,
            }
        }
        true
    }

    /// False when a side is broken.
    fn pump_outbound(&mut self, socket: &mut impl Socket) -> bool {
        let waker = self.waker.clone();
        let mut context = Context::from_waker(&waker);
        while !self.outbound_over {
            if self.outbound.is_empty() {
                let mut buffer = ReadBuf::new(self.outbound.room());
                let result = Pin::new(&mut self.pipe).poll_read(&mut context, &mut buffer);
                let count = buffer.filled().len();
                self.outbound.keep(count);
                match result {
                    Poll::Pending => return true,
                    Poll::Ready(Err(_)) => return false,
                    Poll::Ready(Ok(())) if count == 0 => {
                        socket.finish();
                        self.outbound_over = true;
                        return true;
                    }
                    Poll::Ready(Ok(())) => {}
                }
            }
            match socket.write(self.outbound.rest()) {
                None => return false,
                Some(0) => return true,
                Some(count) => self.outbound.moved += count,
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// A socket with bounded room that a test looks into.
    #[derive(Default)]
    struct Fake {
        incoming: Vec<u8>,
        outgoing: Vec<u8>,
        room: usize,
        finished: bool,
        shut: bool,
    }

    impl Socket for Fake {
        fn read(&mut self, into: &mut [u8]) -> Read {
            let count = self.incoming.len().min(into.len());
            into[..count].copy_from_slice(&self.incoming[..count]);
            self.incoming.drain(..count);
            match count {
                0 if self.finished => Read::Finished,
                0 => Read::Later,
                _ => Read::Bytes(count),
            }
        }
        fn write(&mut self, bytes: &[u8]) -> Option<usize> {
            let count = bytes.len().min(self.room - self.outgoing.len());
            self.outgoing.extend_from_slice(&bytes[..count]);
            Some(count)
        }
        fn finish(&mut self) {
            self.shut = true;
        }
    }

    fn bridge(room: usize) -> (Bridge, DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(room);
        (Bridge::new(ours, Waker::noop().clone()), theirs)
    }

    #[tokio::test]
    async fn bytes_cross_both_ways_and_each_end_is_told_of_the_others_end() {
        let (mut bridge, mut theirs) = bridge(1 << 20);
        let mut socket = Fake { incoming: b"from the mesh".to_vec(), room: 100, ..Fake::default() };
        theirs.write_all(b"to the mesh").await.unwrap();
        assert_eq!(bridge.pump(&mut socket), State::Open);
        assert_eq!(socket.outgoing, b"to the mesh");
        let mut text = [0; 13];
        theirs.read_exact(&mut text).await.unwrap();
        assert_eq!(&text, b"from the mesh");

        socket.finished = true;
        assert_eq!(bridge.pump(&mut socket), State::Open);
        assert_eq!(theirs.read(&mut text).await.unwrap(), 0);
        theirs.shutdown().await.unwrap();
        assert_eq!(bridge.pump(&mut socket), State::Finished);
        assert!(socket.shut);
    }

    #[tokio::test]
    async fn a_slow_side_loses_nothing() {
        let (mut bridge, mut theirs) = bridge(10);
        let sent: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
        let mut socket = Fake { incoming: sent.clone(), finished: true, room: 0, ..Fake::default() };
        let mut received = Vec::new();
        while received.len() < sent.len() {
            bridge.pump(&mut socket);
            let mut piece = [0; 7];
            let count = theirs.read(&mut piece).await.unwrap();
            received.extend_from_slice(&piece[..count]);
        }
        assert_eq!(received, sent);
    }

    #[tokio::test]
    async fn a_dropped_pipe_breaks_the_bridge_once_there_is_something_for_it() {
        let (mut bridge, theirs) = bridge(10);
        drop(theirs);
        let mut socket = Fake { incoming: b"x".to_vec(), room: 1, ..Fake::default() };
        assert_eq!(bridge.pump(&mut socket), State::Broken);
    }
}
