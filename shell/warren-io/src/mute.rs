//! A stream whose writer can be silenced for a while: what is written then goes nowhere.
//!
//! A relay's fast start has no HTTP answer: its client has sent its first frames behind the request and waits for frames
//! only. The HTTP library knows of no upgrade without an answer, so the answer is left unsaid here.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Silences one connection; clones silence the same.
#[derive(Clone, Debug, Default)]
pub struct Mute(Arc<AtomicBool>);

impl Mute {
    /// From now on, and until [`Mute::lift`], nothing that is written leaves.
    pub fn silence(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// The end of silence: call it when what was to be left unsaid has been written.
    pub fn lift(&self) {
        self.0.store(false, Ordering::Release);
    }
}

pub(crate) struct Mutable<T> {
    io: T,
    mute: Mute,
}

impl<T> Mutable<T> {
    pub(crate) fn new(io: T, mute: Mute) -> Self {
        Self { io, mute }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Mutable<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Mutable<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.mute.0.load(Ordering::Acquire) {
            return Poll::Ready(Ok(buf.len()));
        }
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
