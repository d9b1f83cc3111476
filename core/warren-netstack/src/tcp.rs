//! TCP flows: one socket each, known by a number that is never used again.

use std::net::SocketAddr;
use std::time::Instant;

use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{CongestionControl, Socket, SocketBuffer, State};
use smoltcp::time::Duration;
use smoltcp::wire::{IpAddress, IpEndpoint};

/// Send and receive buffers of one flow: a megabyte fills 100 Mbit/s over 80 ms. The pages come when they are used.
const BUFFER_BYTES: usize = 1 << 20;
/// Kernels retransmit about this long before they give up on an established connection that answers nothing.
const GIVE_UP: Duration = Duration::from_secs(180);
/// An idle connection is asked for a sign of life, so that a dead peer's flows do not stay for ever.
const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// One TCP flow of a [`crate::Stack`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowId(pub u64);

/// What reading gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// So many bytes.
    Bytes(usize),
    /// Nothing now; [`crate::Event::Changed`] tells when to try again.
    Later,
    /// The peer has finished sending, and everything was read.
    Finished,
    /// The flow broke: reset, or given up.
    Broken,
}

/// What the shell has been told of a flow, to tell it only what is new.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    pub(crate) ended: bool,
}

pub(crate) struct Flow {
    /// Its one socket, in a set of its own: what a flow costs does not depend on how many others there are.
    pub(crate) set: SocketSet<'static>,
    handle: SocketHandle,
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    /// It was established once: an end before that is a refusal.
    pub(crate) established: bool,
    /// The shell has let go of it; it goes when TCP is done.
    pub(crate) abandoned: bool,
    pub(crate) told: Told,
    /// When its timers want it to be looked at, if nothing happens before.
    pub(crate) due: Option<Instant>,
}

impl Flow {
    pub(crate) fn new(socket: Socket<'static>, local: SocketAddr, remote: SocketAddr) -> Self {
        let mut set = SocketSet::new(Vec::with_capacity(1));
        let handle = set.add(socket);
        Flow { set, handle, local, remote, established: false, abandoned: false, told: Told::default(), due: None }
    }

    pub(crate) fn socket(&self) -> &Socket<'static> {
        self.set.get(self.handle)
    }

    pub(crate) fn socket_mut(&mut self) -> &mut Socket<'static> {
        self.set.get_mut(self.handle)
    }
}

pub(crate) fn socket() -> Socket<'static> {
    let buffer = || SocketBuffer::new(vec![0; BUFFER_BYTES]);
    let mut socket = Socket::new(buffer(), buffer());
    socket.set_congestion_control(CongestionControl::Cubic);
    socket.set_nagle_enabled(false);
    socket.set_timeout(Some(GIVE_UP));
    socket.set_keep_alive(Some(KEEP_ALIVE));
    socket
}

pub(crate) fn endpoint(address: SocketAddr) -> IpEndpoint {
    IpEndpoint::new(IpAddress::from(address.ip()), address.port())
}

/// What can be done with a flow now.
pub(crate) fn readiness(socket: &Socket<'_>) -> Told {
    let ended = matches!(socket.state(), State::Closed | State::TimeWait);
    Told {
        // The end of the stream is something to read as well.
        readable: socket.can_recv() || (!socket.may_recv() && was_open(socket)),
        writable: socket.can_send(),
        ended,
    }
}

fn was_open(socket: &Socket<'_>) -> bool {
    !matches!(socket.state(), State::Listen | State::SynSent | State::SynReceived)
}
