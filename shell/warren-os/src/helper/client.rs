//! The daemon's end.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::channel;
use super::request::{HelperReply, HelperRequest, VERSION};
use crate::{Applied, OsConfig, Tun};

/// A connection to a helper. Dropping it makes the helper undo everything.
pub struct Client {
    stream: UnixStream,
    interface: String,
}

/// What [`Client::open_tun`] gives.
pub struct OpenedTun {
    pub tun: Tun,
    pub interface: String,
}

/// Why a request to the helper brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("talk to the helper")]
    Connection(#[source] io::Error),
    #[error("the helper speaks version {0}, this program version {VERSION}")]
    Version(u32),
    #[error("the helper refused: {0}")]
    Refused(String),
    #[error("the helper could not: {0}")]
    Failed(String),
    #[error("the helper gave an answer that does not fit")]
    Unexpected,
}

impl Client {
    /// # Errors
    /// When nobody listens there, or somebody who does not speak our version.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        Self::greet(UnixStream::connect(path).map_err(ClientError::Connection)?)
    }

    /// Speaks over a socket that a parent process made.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn from_fd(fd: OwnedFd) -> Result<Self, ClientError> {
        Self::greet(UnixStream::from(fd))
    }

    fn greet(stream: UnixStream) -> Result<Self, ClientError> {
        let mut client = Self { stream, interface: String::new() };
        match client.ask(&HelperRequest::Hello { version: VERSION })? {
            (HelperReply::Hello { version: VERSION, interface }, _) => client.interface = interface,
            (HelperReply::Hello { version, .. }, _) => return Err(ClientError::Version(version)),
            _ => return Err(ClientError::Unexpected),
        }
        Ok(client)
    }

    /// The interface this helper serves.
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// # Errors
    /// When the helper refuses or the system would not.
    pub fn open_tun(&mut self, mtu: u16) -> Result<OpenedTun, ClientError> {
        let (reply, mut fds) = self.ask(&HelperRequest::OpenTun { mtu })?;
        match (reply, fds.pop()) {
            (HelperReply::Tun { interface, offloads }, Some(fd)) => {
                Ok(OpenedTun { tun: Tun::from_fd(fd, offloads).map_err(ClientError::Connection)?, interface })
            }
            _ => Err(ClientError::Unexpected),
        }
    }

    /// Makes addresses and routes as stated, whole.
    ///
    /// # Errors
    /// When the helper refuses or the system would not.
    pub fn configure(&mut self, config: OsConfig) -> Result<Applied, ClientError> {
        match self.ask(&HelperRequest::Configure(config))? {
            (HelperReply::Configured { skipped }, _) => Ok(Applied { skipped }),
            _ => Err(ClientError::Unexpected),
        }
    }

    /// Bound UDP sockets with large buffers, one per family.
    ///
    /// # Errors
    /// When the helper refuses or no family can be opened.
    pub fn open_udp(&mut self, port: u16) -> Result<Vec<OwnedFd>, ClientError> {
        match self.ask(&HelperRequest::OpenUdp { port })? {
            (HelperReply::Udp {}, fds) if !fds.is_empty() => Ok(fds),
            _ => Err(ClientError::Unexpected),
        }
    }

    /// Takes everything back; the connection stays.
    ///
    /// # Errors
    /// When the system would not let go.
    pub fn undo(&mut self) -> Result<(), ClientError> {
        match self.ask(&HelperRequest::Undo {})? {
            (HelperReply::Undone {}, _) => Ok(()),
            _ => Err(ClientError::Unexpected),
        }
    }

    fn ask(&mut self, request: &HelperRequest) -> Result<(HelperReply, Vec<OwnedFd>), ClientError> {
        let bytes = serde_json::to_vec(request).map_err(|_| ClientError::Unexpected)?;
        channel::send(&self.stream, &bytes, &[]).map_err(ClientError::Connection)?;
        let answer = channel::receive(&self.stream).map_err(ClientError::Connection)?;
        let ended = || ClientError::Connection(io::Error::from(io::ErrorKind::UnexpectedEof));
        let (bytes, fds) = answer.ok_or_else(ended)?;
        match serde_json::from_slice(&bytes).map_err(|_| ClientError::Unexpected)? {
            HelperReply::Refused { reason } => Err(ClientError::Refused(reason)),
            HelperReply::Failed { reason } => Err(ClientError::Failed(reason)),
            reply => Ok((reply, fds)),
        }
    }
}

impl AsRawFd for Client {
    /// Readable only when the helper is gone: it never speaks unasked.
    fn as_raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }
}
