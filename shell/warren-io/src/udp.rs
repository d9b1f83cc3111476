//! UDP in batches, with GSO on sending and GRO on receiving.
//!
//! One [`Udp`] is one non-blocking socket for one address family, driven from a plain epoll loop by its raw
//! descriptor; nothing here needs a runtime. What goes out are *runs*: equal-sized datagrams (the last may be
//! shorter) for one destination, back to back in one buffer. What comes in are *bursts* of the same shape.
//!
//! ```text
//! send:   [run to P][run to Q]…  ── sendmmsg ──▶  one message a run, its segment size in a UDP_SEGMENT control message
//! receive: recvmmsg of up to 16 buffers of 64 KiB, each a burst with its segment size from the UDP_GRO control message
//! ```
//!
//! Where the kernel or a device refuses a segmented send, the same run goes out datagram by datagram, so nothing
//! is lost by trying; a refusal that says "no checksum offload" (EIO) switches segmentation off for the socket.

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use socket2::{Domain, Protocol, Socket, Type};

/// The UDP port that a node tries first.
pub const DEFAULT_PORT: u16 = 41641;

/// Most datagrams in one segmented send: the kernel's `UDP_MAX_SEGMENTS` before 6.9.
pub const MAX_SEGMENTS: usize = 64;

/// Most buffers filled by one `recvmmsg`.
pub const MAX_BURSTS: usize = 16;

/// Size of one receive buffer: the largest burst the kernel joins.
pub const BURST_BYTES: usize = 65_535;

/// Most messages handed to one `sendmmsg`.
const MAX_MESSAGES: usize = 64;

/// Room for a whole second at a gigabit on a slow scheduler; the kernel doubles it for its own bookkeeping.
const SOCKET_BUFFER_BYTES: usize = 7 << 20;

/// Room for one `UDP_SEGMENT` (u16) or one `UDP_GRO` (int) control message, aligned by the `u64`s.
type Control = [u64; 8];

/// Equal-sized datagrams for one destination, back to back; the last one may be shorter.
#[derive(Clone, Copy)]
pub struct RunRef<'a> {
    pub to: SocketAddr,
    /// Bytes in each datagram; a run of one datagram may state its own length.
    pub segment: usize,
    pub bytes: &'a [u8],
}

/// One received buffer: datagrams of `segment` bytes from one source, the last may be shorter.
#[derive(Debug)]
pub struct Burst {
    pub bytes: Vec<u8>,
    /// At least 1, unless the burst is one empty datagram.
    pub segment: usize,
    pub from: SocketAddr,
}

/// How far a call to [`Udp::send`] came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// Every run was handed to the kernel, or counted as failed.
    All,
    /// The socket's buffer is full: `runs` are done, and `bytes` of the next one. Go on when the socket is writable.
    Blocked { runs: usize, bytes: usize },
}

/// What a socket has done since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UdpCounters {
    pub sent_datagrams: u64,
    /// Messages that the kernel took: one is a whole segmented run, so datagrams / messages tells whether bursts travel as bursts.
    pub sent_messages: u64,
    pub send_calls: u64,
    pub received_datagrams: u64,
    pub receive_calls: u64,
    /// Datagrams the kernel refused for good (no route, too large, forbidden).
    pub failed_datagrams: u64,
    /// Segmented sends that had to be repeated datagram by datagram.
    pub gso_refusals: u64,
    /// Received messages longer than the buffer, dropped.
    pub truncated: u64,
}

/// A send that the kernel refused for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SendFailure {
    pub to: SocketAddr,
    pub kind: io::ErrorKind,
}

/// Failures that are kept until they are taken; of more at once the first say enough.
const MAX_FAILURES: usize = 64;

/// One non-blocking UDP socket of one family.
pub struct Udp {
    socket: Socket,
    bound: SocketAddr,
    segments_allowed: bool,
    joins: bool,
    counters: UdpCounters,
    failures: Vec<SendFailure>,
}

/// The node's two sockets, on one port number where that is possible.
pub struct UdpPair {
    pub v4: Option<Udp>,
    pub v6: Option<Udp>,
}

impl UdpPair {
    /// Opens both families on `port`, or, when that is taken, on any free port; a missing family is left out.
    ///
    /// # Errors
    /// The last error, when neither family could be opened.
    pub fn bind(port: u16) -> io::Result<Self> {
        let mut last = None;
        for wanted in [port, 0] {
            match Self::bind_exactly(wanted) {
                Ok(pair) => return Ok(pair),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable)))
    }

    fn bind_exactly(port: u16) -> io::Result<Self> {
        let v4 = keep_unless_taken(Udp::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))))?;
        // The second family follows the first on a port the kernel chose; if it is taken there, any other will do.
        let second_port = v4.as_ref().map_or(port, |udp| udp.local_addr().port());
        let v6 = match Udp::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, second_port))) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && port == 0 => {
                Udp::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))).ok()
            }
            other => keep_unless_taken(other)?,
        };
        if v4.is_none() && v6.is_none() {
            return Err(io::Error::from(io::ErrorKind::AddrNotAvailable));
        }
        Ok(Self { v4, v6 })
    }
}

/// A family the host does not have is absent; a port that somebody else holds is an error.
fn keep_unless_taken(opened: io::Result<Udp>) -> io::Result<Option<Udp>> {
    match opened {
        Ok(udp) => Ok(Some(udp)),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse || error.kind() == io::ErrorKind::PermissionDenied => {
            Err(error)
        }
        Err(_) => Ok(None),
    }
}

impl Udp {
    /// Opens a socket at `local`; an IPv6 one takes IPv6 only.
    ///
    /// # Errors
    /// Those of `socket` and `bind`; offloads and buffer sizes are asked for and done without when refused.
    pub fn bind(local: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
        if local.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&local.into())?;
        Self::adopt(socket)
    }

    /// Takes over a bound UDP socket that a privileged helper opened.
    ///
    /// # Errors
    /// When the descriptor is not a bound IP socket.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        Self::adopt(Socket::from(fd))
    }

    fn adopt(socket: Socket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        grow_buffers(&socket);
        let bound = socket.local_addr()?.as_socket().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let segments_allowed = option(&socket, libc::SOL_UDP, libc::UDP_SEGMENT).is_ok();
        let joins = set_option(&socket, libc::SOL_UDP, libc::UDP_GRO, 1).is_ok();
        Ok(Self { socket, bound, segments_allowed, joins, counters: UdpCounters::default(), failures: Vec::new() })
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.bound
    }

    pub fn counters(&self) -> UdpCounters {
        self.counters
    }

    /// Whether sends of several datagrams are segmented by the kernel.
    pub fn segments(&self) -> bool {
        self.segments_allowed
    }

    /// Whether the kernel joins received datagrams.
    pub fn joins(&self) -> bool {
        self.joins
    }

    /// Switches segmented sending off (for a person looking for a fault in a driver).
    pub fn forbid_segments(&mut self) {
        self.segments_allowed = false;
    }

    /// Sends that failed for good since the last call, each destination once for each reason.
    pub fn take_failures(&mut self) -> Vec<SendFailure> {
        mem::take(&mut self.failures)
    }

    /// Sends `runs` in order with as few system calls as the kernel allows.
    ///
    /// A datagram that the kernel refuses for good (no route, too large) is counted and skipped: one peer's bad
    /// address does not hold back another's packets.
    pub fn send(&mut self, runs: &[RunRef<'_>]) -> Sent {
        let mut at = Cursor::default();
        while at.run < runs.len() {
            if !self.send_some(runs, &mut at) {
                return Sent::Blocked { runs: at.run, bytes: at.byte };
            }
        }
        Sent::All
    }

    /// One `sendmmsg`, from `at` on. False when the socket is full.
    fn send_some(&mut self, runs: &[RunRef<'_>], at: &mut Cursor) -> bool {
        let messages = plan(runs, *at, self.segments_allowed && !at.apart);
        if messages.is_empty() {
            // Only empty runs were left.
            *at = Cursor { run: runs.len(), ..Cursor::default() };
            return true;
        }
        self.counters.send_calls += 1;
        match send_messages(&self.socket, &messages) {
            Ok(taken) => {
                for message in &messages[..taken] {
                    self.counters.sent_messages += 1;
                    self.counters.sent_datagrams += message.datagrams() as u64;
                }
                if let Some(last) = messages[..taken].last() {
                    at.pass(last);
                }
                true
            }
            Err(error) => self.handle_refusal(&error, &messages[0], at),
        }
    }

    /// The kernel took nothing and said why about the first message. False when the socket is full.
    fn handle_refusal(&mut self, error: &io::Error, first: &Message<'_>, at: &mut Cursor) -> bool {
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::ENOBUFS) => return false,
            Some(libc::EINTR) => return true,
            Some(code @ (libc::EIO | libc::EINVAL | libc::EMSGSIZE)) if first.datagrams() > 1 => {
                self.counters.gso_refusals += 1;
                // EIO: the outgoing device cannot checksum. The others concern this run (its size, its route).
                if code == libc::EIO {
                    self.segments_allowed = false;
                }
                at.apart = true;
                return true;
            }
            _ => {}
        }
        self.counters.failed_datagrams += first.datagrams() as u64;
        let failure = SendFailure { to: first.to, kind: error.kind() };
        if self.failures.len() < MAX_FAILURES && !self.failures.contains(&failure) {
            self.failures.push(failure);
        }
        at.pass(first);
        true
    }

    /// Receives up to `buffers.len()` bursts (at most [`MAX_BURSTS`]) into the buffers, which move to `bursts`.
    ///
    /// Each buffer is used up to its capacity; give [`BURST_BYTES`] of it, or joined bursts are cut and dropped.
    /// The last buffer is filled first, so that of a stack of them the warmest are used; those not filled stay.
    ///
    /// # Errors
    /// `WouldBlock` when nothing waits. Anything else is the socket's end.
    pub fn receive(&mut self, buffers: &mut Vec<Vec<u8>>, bursts: &mut Vec<Burst>) -> io::Result<usize> {
        self.counters.receive_calls += 1;
        let facts = receive_messages(&self.socket, buffers)?;
        let count = facts.len();
        for fact in facts {
            let Some(mut bytes) = buffers.pop() else { break };
            let Some(from) = fact.from else { continue };
            if fact.truncated {
                self.counters.truncated += 1;
                continue;
            }
            bytes.truncate(fact.length);
            let segment = fact.segment.filter(|&size| size > 0 && size < fact.length).unwrap_or(fact.length);
            self.counters.received_datagrams += fact.length.div_ceil(segment.max(1)).max(1) as u64;
            bursts.push(Burst { bytes, segment, from });
        }
        Ok(count)
    }
}

impl AsRawFd for Udp {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl AsFd for Udp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Where in a list of runs the next send begins.
#[derive(Debug, Clone, Copy, Default)]
struct Cursor {
    run: usize,
    byte: usize,
    /// The rest of this run goes datagram by datagram: segmentation was refused for it.
    apart: bool,
}

impl Cursor {
    fn pass(&mut self, message: &Message<'_>) {
        if message.ends_run {
            *self = Self { run: message.run + 1, ..Self::default() };
        } else {
            *self = Self { run: message.run, byte: message.from_byte + message.bytes.len(), apart: self.apart };
        }
    }
}

/// One entry of a `sendmmsg`: a piece of a run that the kernel takes whole or not at all.
struct Message<'a> {
    to: SocketAddr,
    bytes: &'a [u8],
    segment: usize,
    run: usize,
    from_byte: usize,
    ends_run: bool,
}

impl Message<'_> {
    fn datagrams(&self) -> usize {
        self.bytes.len().div_ceil(self.segment.max(1))
    }
}

/// Cuts `runs` from `at` on into pieces the kernel accepts: at most [`MAX_MESSAGES`] of them, and nothing beyond a
/// run that has to go datagram by datagram.
fn plan<'a>(runs: &[RunRef<'a>], at: Cursor, segmented: bool) -> Vec<Message<'a>> {
    let mut messages = Vec::with_capacity(runs.len().min(MAX_MESSAGES));
    for (index, run) in runs.iter().enumerate().skip(at.run) {
        let mut byte = if index == at.run { at.byte } else { 0 };
        let segment = run.segment.clamp(1, run.bytes.len().max(1));
        let piece = if segmented { piece_bytes(segment, run.to.is_ipv6()) } else { segment };
        while byte < run.bytes.len() {
            if messages.len() == MAX_MESSAGES {
                return messages;
            }
            let end = run.bytes.len().min(byte + piece);
            messages.push(Message {
                to: run.to,
                bytes: &run.bytes[byte..end],
                segment,
                run: index,
                from_byte: byte,
                ends_run: end == run.bytes.len(),
            });
            byte = end;
        }
        if at.apart {
            break;
        }
    }
    messages
}

/// The most bytes of `segment`-sized datagrams that one message may carry.
fn piece_bytes(segment: usize, ipv6: bool) -> usize {
    let limit = if ipv6 { 65_527 } else { 65_507 };
    segment * (limit / segment).clamp(1, MAX_SEGMENTS)
}

fn send_messages(socket: &Socket, messages: &[Message<'_>]) -> io::Result<usize> {
    let mut names: Vec<Name> = messages.iter().map(|message| Name::of(message.to)).collect();
    let mut vectors: Vec<libc::iovec> = messages
        .iter()
        .map(|message| libc::iovec { iov_base: message.bytes.as_ptr().cast_mut().cast(), iov_len: message.bytes.len() })
        .collect();
    let mut controls: Vec<Control> = vec![[0; 8]; messages.len()];
    let mut headers: Vec<libc::mmsghdr> = Vec::with_capacity(messages.len());
    for (index, message) in messages.iter().enumerate() {
        let mut header = empty_header();
        header.msg_name = (&raw mut names[index].storage).cast();
        header.msg_namelen = names[index].length;
        header.msg_iov = &raw mut vectors[index];
        header.msg_iovlen = 1;
        if message.datagrams() > 1 {
            header.msg_control = controls[index].as_mut_ptr().cast();
            // A usize or a u32, as the C library has it.
            header.msg_controllen = write_segment_size(&mut controls[index], message.segment as u16) as _;
        }
        headers.push(libc::mmsghdr { msg_hdr: header, msg_len: 0 });
    }
    // SAFETY: every pointer in `headers` leads into `names`, `vectors`, `controls` or the callers' bytes, all of which
    // outlive the call and are not resized; the kernel only reads them.
    let taken = unsafe {
        libc::sendmmsg(
            socket.as_raw_fd(),
            headers.as_mut_ptr(),
            headers.len() as libc::c_uint,
            // An int or an unsigned one, as the C library has it.
            (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _,
        )
    };
    usize::try_from(taken).map_err(|_| io::Error::last_os_error())
}

/// Facts about one received message; the bytes are in the caller's buffers, of which the last is the first message's.
struct Received {
    length: usize,
    segment: Option<usize>,
    from: Option<SocketAddr>,
    truncated: bool,
}

fn receive_messages(socket: &Socket, buffers: &mut [Vec<u8>]) -> io::Result<Vec<Received>> {
    let count = buffers.len().min(MAX_BURSTS);
    let mut names: [Name; MAX_BURSTS] = std::array::from_fn(|_| Name::empty());
    let mut controls: [Control; MAX_BURSTS] = [[0; 8]; MAX_BURSTS];
    let mut vectors: Vec<libc::iovec> = buffers
        .iter_mut()
        .rev()
        .take(count)
        .map(|buffer| {
            buffer.clear();
            libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.capacity() }
        })
        .collect();
    let mut headers: Vec<libc::mmsghdr> = Vec::with_capacity(count);
    for index in 0..count {
        let mut header = empty_header();
        header.msg_name = (&raw mut names[index].storage).cast();
        header.msg_namelen = mem::size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        header.msg_iov = &raw mut vectors[index];
        header.msg_iovlen = 1;
        header.msg_control = controls[index].as_mut_ptr().cast();
        header.msg_controllen = mem::size_of::<Control>() as _;
        headers.push(libc::mmsghdr { msg_hdr: header, msg_len: 0 });
    }
    let filled = loop {
        // SAFETY: every pointer in `headers` leads into `names`, `controls` or the capacity of a caller's buffer, each
        // with its true length, and all outlive the call; nothing else touches them meanwhile.
        let filled = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                count as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        };
        if let Ok(filled) = usize::try_from(filled) {
            break filled;
        }
        let error = io::Error::last_os_error();
        // An ICMP error for something sent earlier is reported here once; the path core learns by its own probes.
        match error.raw_os_error() {
            Some(libc::EINTR | libc::ECONNREFUSED | libc::EHOSTUNREACH | libc::ENETUNREACH) => {}
            _ => return Err(error),
        }
    };
    let mut facts = Vec::with_capacity(filled);
    for (index, (header, buffer)) in headers.iter().take(filled).zip(buffers.iter_mut().rev()).enumerate() {
        let length = (header.msg_len as usize).min(buffer.capacity());
        // SAFETY: the kernel wrote `length` bytes from the start of this buffer's capacity, which `vectors` named.
        unsafe { buffer.set_len(length) };
        facts.push(Received {
            length,
            segment: read_segment_size(&header.msg_hdr),
            from: names[index].address(),
            truncated: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
        });
    }
    Ok(facts)
}

fn empty_header() -> libc::msghdr {
    // SAFETY: `msghdr` is a plain C struct for which all-zero bytes (null pointers, zero lengths) are a valid value.
    unsafe { mem::zeroed() }
}

/// Writes the `UDP_SEGMENT` control message; its length for `msg_controllen`.
fn write_segment_size(control: &mut Control, segment: u16) -> usize {
    // SAFETY: CMSG_LEN and CMSG_SPACE only calculate. The header at the start of `control` is aligned by its `u64`s, and
    // header, padding and two bytes are well within its 64 bytes.
    unsafe {
        let header = control.as_mut_ptr().cast::<libc::cmsghdr>();
        (*header).cmsg_level = libc::SOL_UDP;
        (*header).cmsg_type = libc::UDP_SEGMENT;
        (*header).cmsg_len = libc::CMSG_LEN(mem::size_of::<u16>() as u32) as _;
        libc::CMSG_DATA(header).cast::<u16>().write_unaligned(segment);
        libc::CMSG_SPACE(mem::size_of::<u16>() as u32) as usize
    }
}

fn read_segment_size(header: &libc::msghdr) -> Option<usize> {
    // SAFETY: `header` was filled by recvmmsg, so its control part holds whole control messages within `msg_controllen`;
    // the CMSG macros walk exactly those, and an int is read only where the kernel says it put one.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(header);
        while !message.is_null() {
            let is_size = (*message).cmsg_level == libc::SOL_UDP && (*message).cmsg_type == libc::UDP_GRO;
            if is_size && (*message).cmsg_len as usize >= libc::CMSG_LEN(mem::size_of::<libc::c_int>() as u32) as usize
            {
                let size = libc::CMSG_DATA(message).cast::<libc::c_int>().read_unaligned();
                return usize::try_from(size).ok();
            }
            message = libc::CMSG_NXTHDR(header, message);
        }
    }
    None
}

/// A socket address in the kernel's form.
struct Name {
    storage: libc::sockaddr_storage,
    length: libc::socklen_t,
}

impl Name {
    fn empty() -> Self {
        // SAFETY: `sockaddr_storage` is plain bytes; family zero means "unspecified".
        Self { storage: unsafe { mem::zeroed() }, length: 0 }
    }

    fn of(address: SocketAddr) -> Self {
        let mut name = Self::empty();
        match address {
            SocketAddr::V4(v4) => {
                let raw = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                    sin_zero: [0; 8],
                };
                // SAFETY: `sockaddr_storage` is larger than and at least as aligned as every socket address.
                unsafe { (&raw mut name.storage).cast::<libc::sockaddr_in>().write(raw) };
                name.length = mem::size_of::<libc::sockaddr_in>() as libc::socklen_t;
            }
            SocketAddr::V6(v6) => {
                let raw = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: v6.flowinfo(),
                    sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                    sin6_scope_id: v6.scope_id(),
                };
                // SAFETY: as above.
                unsafe { (&raw mut name.storage).cast::<libc::sockaddr_in6>().write(raw) };
                name.length = mem::size_of::<libc::sockaddr_in6>() as libc::socklen_t;
            }
        }
        name
    }

    fn address(&self) -> Option<SocketAddr> {
        match i32::from(self.storage.ss_family) {
            libc::AF_INET => {
                // SAFETY: the family says that the kernel wrote a `sockaddr_in`, and the storage has its size and alignment.
                let raw = unsafe { (&raw const self.storage).cast::<libc::sockaddr_in>().read() };
                let ip = Ipv4Addr::from(raw.sin_addr.s_addr.to_ne_bytes());
                Some(SocketAddr::V4(SocketAddrV4::new(ip, u16::from_be(raw.sin_port))))
            }
            libc::AF_INET6 => {
                // SAFETY: as above, for `sockaddr_in6`.
                let raw = unsafe { (&raw const self.storage).cast::<libc::sockaddr_in6>().read() };
                let ip = Ipv6Addr::from(raw.sin6_addr.s6_addr);
                let port = u16::from_be(raw.sin6_port);
                // Only a link-local source needs its interface to be answered; elsewhere a scope would make one peer two.
                let scope = if ip.is_unicast_link_local() { raw.sin6_scope_id } else { 0 };
                Some(match ip.to_ipv4_mapped() {
                    Some(mapped) => SocketAddr::new(IpAddr::V4(mapped), port),
                    None => SocketAddr::V6(SocketAddrV6::new(ip, port, 0, scope)),
                })
            }
            _ => None,
        }
    }
}

/// Asks for large buffers: beyond the system's limit where we may, up to it otherwise.
fn grow_buffers(socket: &Socket) {
    let size = SOCKET_BUFFER_BYTES as libc::c_int;
    if set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, size).is_err() {
        let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
    }
    if set_option(socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, size).is_err() {
        let _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
    }
}

fn set_option(socket: &Socket, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: `value` is an int on the stack and its size is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            mem::size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn option(socket: &Socket, level: libc::c_int, name: libc::c_int) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut length = mem::size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: `value` has room for `length` bytes, and both outlive the call.
    let result = unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut length) };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loopback(ipv6: bool) -> Option<(Udp, Udp)> {
        let local: SocketAddr = if ipv6 { "[::1]:0" } else { "127.0.0.1:0" }.parse().unwrap();
        match (Udp::bind(local), Udp::bind(local)) {
            (Ok(a), Ok(b)) => Some((a, b)),
            (a, _) if ipv6 => {
                eprintln!("SKIPPED: this host has no IPv6 loopback ({:?})", a.err());
                None
            }
            (a, b) => panic!("no loopback sockets: {:?} {:?}", a.err(), b.err()),
        }
    }

    fn datagrams_of(burst: &Burst) -> Vec<Vec<u8>> {
        burst.bytes.chunks(burst.segment.max(1)).map(<[u8]>::to_vec).collect()
    }

    /// Waits for readability with the kernel's own wait, then takes everything that arrived, until `wanted` are there.
    fn receive(udp: &mut Udp, wanted: usize) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        while all.len() < wanted {
            let mut poll = libc::pollfd { fd: udp.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: one pollfd that outlives the call.
            let ready = unsafe { libc::poll(&raw mut poll, 1, 5_000) };
            assert_eq!(ready, 1, "only {} of {wanted} datagrams came", all.len());
            let mut buffers: Vec<Vec<u8>> = (0..MAX_BURSTS).map(|_| Vec::with_capacity(BURST_BYTES)).collect();
            let mut bursts = Vec::new();
            udp.receive(&mut buffers, &mut bursts).unwrap();
            all.extend(bursts.iter().flat_map(datagrams_of));
        }
        all
    }

    fn numbered(segment: usize, count: usize, last: usize) -> (Vec<u8>, Vec<Vec<u8>>) {
        let datagrams: Vec<Vec<u8>> =
            (0..count).map(|index| vec![index as u8; if index + 1 == count { last } else { segment }]).collect();
        (datagrams.concat(), datagrams)
    }

    #[track_caller]
    fn check_run(ipv6: bool, segment: usize, count: usize, last: usize) {
        let Some((mut a, mut b)) = loopback(ipv6) else { return };
        let (bytes, expected) = numbered(segment, count, last);
        let run = RunRef { to: b.local_addr(), segment, bytes: &bytes };
        assert_eq!(a.send(&[run]), Sent::All);
        assert_eq!(receive(&mut b, count), expected);
        assert_eq!(a.counters().sent_datagrams, count as u64);
        assert_eq!(b.counters().received_datagrams, count as u64);
    }

    #[test]
    fn a_run_arrives_as_its_datagrams_in_order() {
        check_run(false, 1000, 1, 1000);
        check_run(false, 1000, 7, 13);
        check_run(true, 1280, 20, 1280);
    }

    #[test]
    fn a_run_longer_than_one_segmented_send_is_cut_and_nothing_is_lost() {
        check_run(false, 1200, 150, 7);
        check_run(true, 200, 130, 200);
        check_run(false, 30_000, 5, 100);
    }

    #[test]
    fn a_burst_costs_one_message_where_the_kernel_segments() {
        let Some((mut a, mut b)) = loopback(false) else { return };
        if !a.segments() {
            eprintln!("SKIPPED: this kernel has no UDP_SEGMENT");
            return;
        }
        let (bytes, expected) = numbered(1300, 40, 1300);
        a.send(&[RunRef { to: b.local_addr(), segment: 1300, bytes: &bytes }]);
        assert_eq!(receive(&mut b, 40), expected);
        assert_eq!((a.counters().sent_messages, a.counters().send_calls), (1, 1));
    }

    #[test]
    fn runs_for_several_peers_share_one_call() {
        let Some((mut a, mut b)) = loopback(false) else { return };
        let mut c = Udp::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let runs = [
            RunRef { to: b.local_addr(), segment: 5, bytes: b"hello" },
            RunRef { to: c.local_addr(), segment: 2, bytes: b"aabbc" },
        ];
        assert_eq!(a.send(&runs), Sent::All);
        assert_eq!(receive(&mut b, 1), [b"hello".to_vec()]);
        assert_eq!(receive(&mut c, 3), [b"aa".to_vec(), b"bb".to_vec(), b"c".to_vec()]);
        assert_eq!(a.counters().send_calls, 1);
    }

    #[test]
    fn refused_segmentation_falls_back_to_single_datagrams_and_loses_nothing() {
        let Some((mut a, mut b)) = loopback(false) else { return };
        // Segmentation needs checksums: with them switched off the kernel answers EINVAL to every segmented send.
        set_option(&a.socket, libc::SOL_SOCKET, libc::SO_NO_CHECK, 1).unwrap();
        let (bytes, mut expected) = numbered(900, 100, 41);
        let runs = [
            RunRef { to: b.local_addr(), segment: 900, bytes: &bytes },
            RunRef { to: b.local_addr(), segment: 3, bytes: b"end" },
        ];
        assert_eq!(a.send(&runs), Sent::All);
        expected.push(b"end".to_vec());
        assert_eq!(receive(&mut b, 101), expected);
        if a.segments() {
            assert_eq!(a.counters().gso_refusals, 1);
        }
        assert_eq!((a.counters().sent_datagrams, a.counters().failed_datagrams), (101, 0));
    }

    #[test]
    fn an_unreachable_destination_does_not_hold_back_the_next() {
        let Some((mut a, mut b)) = loopback(false) else { return };
        let runs = [
            // A loopback source may not leave the host.
            RunRef { to: "192.0.2.1:9".parse().unwrap(), segment: 4, bytes: b"lost" },
            RunRef { to: b.local_addr(), segment: 4, bytes: b"kept" },
        ];
        assert_eq!(a.send(&runs), Sent::All);
        assert_eq!(receive(&mut b, 1), [b"kept".to_vec()]);
        assert_eq!(a.counters().failed_datagrams, 1);
        let failures = a.take_failures();
        assert_eq!(failures.iter().map(|failure| failure.to).collect::<Vec<_>>(), [runs[0].to]);
        assert!(a.take_failures().is_empty());
    }

    #[test]
    fn receiving_with_nothing_there_would_block() {
        let Some((mut a, _b)) = loopback(false) else { return };
        let error = a.receive(&mut vec![Vec::with_capacity(BURST_BYTES)], &mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_taken_port_leads_to_another_and_both_families_share_it() {
        let holder = Udp::bind("0.0.0.0:0".parse().unwrap()).unwrap();
        let taken = holder.local_addr().port();
        let pair = UdpPair::bind(taken).unwrap();
        let v4 = pair.v4.expect("IPv4").local_addr().port();
        assert_ne!(v4, taken);
        assert_ne!(v4, 0);
    }

    #[test]
    fn pieces_respect_the_kernels_two_limits() {
        assert_eq!(piece_bytes(1280, false), 51 * 1280);
        assert_eq!(piece_bytes(100, false), MAX_SEGMENTS * 100);
        assert_eq!(piece_bytes(65_507, false), 65_507);
        assert!(piece_bytes(1, true) <= 65_527);
    }
}
