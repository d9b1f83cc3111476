//! The interface as a stream of bursts.
//!
//! The device runs with `IFF_VNET_HDR`: every read gives, and every write takes, a 10-byte virtio-net header and one
//! packet, which may be a burst of up to 64 KiB of one flow ([`warren_ip::offload`]).
//!
//! Linux `Documentation/networking/tuntap.rst`; `include/uapi/linux/if_tun.h`, `virtio_net.h`.

use std::ffi::c_ulong;
use std::fs::OpenOptions;
use std::io::{self, IoSlice};
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use serde::{Deserialize, Serialize};
use warren_ip::offload::{Super, VIRTIO_HEADER_LEN};

/// Capacity a read buffer needs: the header and the longest burst.
pub const READ_BYTES: usize = VIRTIO_HEADER_LEN + 65_535;

/// Which bursts the kernel gives and takes on this device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Offloads {
    /// TCP bursts only: kernels before 6.2.
    Tcp,
    TcpAndUdp,
}

/// An open TUN device, non-blocking.
pub struct Tun {
    fd: OwnedFd,
    offloads: Offloads,
}

impl Tun {
    /// Makes (or joins, when it lives on) the interface `name`; needs the right to administer the network.
    ///
    /// # Errors
    /// Those of opening `/dev/net/tun` and of its ioctls; `InvalidInput` for a name the kernel would cut.
    pub fn open(name: &str) -> io::Result<Self> {
        let mut request = request_for(name)?;
        request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
        let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
        let fd = OwnedFd::from(file);
        // SAFETY: TUNSETIFF reads and writes one `ifreq`, which outlives the call.
        check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
        let header = VIRTIO_HEADER_LEN as libc::c_int;
        // SAFETY: TUNSETVNETHDRSZ reads one int, which outlives the call.
        check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const header) })?;
        let offloads = ask_for_offloads(&fd)?;
        Ok(Self { fd, offloads })
    }

    /// Takes over a device that a helper opened with [`Tun::open`].
    ///
    /// # Errors
    /// When the descriptor cannot be made non-blocking.
    pub fn from_fd(fd: OwnedFd, offloads: Offloads) -> io::Result<Self> {
        // SAFETY: F_GETFL and F_SETFL pass integers only.
        let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) };
        check(flags)?;
        // SAFETY: as above.
        check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) })?;
        Ok(Self { fd, offloads })
    }

    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    pub fn offloads(&self) -> Offloads {
        self.offloads
    }

    /// Reads one burst into `buffer` (its capacity should be [`READ_BYTES`]).
    ///
    /// A packet whose header makes no sense is `Ok(None)`: a drop, and the buffer with it.
    ///
    /// # Errors
    /// `WouldBlock` when nothing waits (the buffer is gone; keep a pool). Code `EBADFD` or `EIO`: the interface was taken away or is down.
    pub fn read(&self, mut buffer: Vec<u8>) -> Result<Option<Super>, (io::Error, Vec<u8>)> {
        buffer.clear();
        // SAFETY: the kernel writes at most `capacity` bytes from the start of the buffer's own memory.
        let read = unsafe { libc::read(self.fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.capacity()) };
        let Ok(read) = usize::try_from(read) else {
            return Err((io::Error::last_os_error(), buffer));
        };
        // SAFETY: the kernel initialised the first `read` bytes, and `read` is at most the capacity.
        unsafe { buffer.set_len(read) };
        Ok(Super::from_virtio(buffer).ok())
    }

    /// Hands one burst to the kernel.
    ///
    /// # Errors
    /// `WouldBlock` when the device is full; `EIO` when it is down; `EINVAL` when the kernel rejects the packet.
    pub fn write(&self, burst: &Super) -> io::Result<()> {
        let header = burst.to_virtio();
        let parts = [IoSlice::new(&header), IoSlice::new(burst.bytes())];
        // SAFETY: `IoSlice` is laid out as `iovec` on Unix (a guarantee of std), and both parts outlive the call.
        let written = unsafe { libc::writev(self.fd.as_raw_fd(), parts.as_ptr().cast(), parts.len() as libc::c_int) };
        if written < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl AsRawFd for Tun {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// TCP segmentation is required with the virtio header on; UDP segmentation came with Linux 6.2.
fn ask_for_offloads(fd: &OwnedFd) -> io::Result<Offloads> {
    let tcp = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
    let udp = libc::TUN_F_USO4 | libc::TUN_F_USO6;
    let ask = |flags: libc::c_uint| {
        // SAFETY: TUNSETOFFLOAD takes its flags by value.
        check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETOFFLOAD, c_ulong::from(flags)) })
    };
    if ask(tcp | udp).is_ok() {
        return Ok(Offloads::TcpAndUdp);
    }
    ask(tcp)?;
    Ok(Offloads::Tcp)
}

fn request_for(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: `ifreq` is a plain C struct (bytes and a union of plain types) for which all zeroes is valid.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    // One byte stays zero as the end of the C string.
    if name.is_empty() || name.len() >= request.ifr_name.len() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    for (slot, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *slot = byte as libc::c_char;
    }
    Ok(request)
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
