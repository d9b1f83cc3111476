//! Messages with descriptors over a Unix stream socket, with a cap before every allocation.

use std::io::{self, Read, Write};
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

/// The longest message: twenty thousand routes as text are well within it.
pub const MOST_BYTES: usize = 2 << 20;

/// The most descriptors with one message: UDP for two families.
const MOST_FDS: usize = 4;

/// Room for the control message that carries [`MOST_FDS`] descriptors, aligned by the `u64`s.
type Control = [u64; 8];

/// Sends one message; `fds` travel with its first byte and stay open here.
pub(super) fn send(stream: &UnixStream, message: &[u8], fds: &[OwnedFd]) -> io::Result<()> {
    if message.len() > MOST_BYTES || fds.len() > MOST_FDS {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let header = (message.len() as u32).to_le_bytes();
    let sent = send_with_fds(stream, &header, fds)?;
    let mut stream = stream;
    stream.write_all(&header[sent..])?;
    stream.write_all(message)
}

/// Receives one message and the descriptors that came with it; `None` at the end of the connection.
pub(super) fn receive(stream: &UnixStream) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let mut header = [0; 4];
    let (read, fds) = receive_with_fds(stream, &mut header)?;
    if read == 0 {
        return Ok(None);
    }
    let mut stream = stream;
    stream.read_exact(&mut header[read..])?;
    let length = u32::from_le_bytes(header) as usize;
    if length > MOST_BYTES {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message)?;
    Ok(Some((message, fds)))
}

/// Takes over a descriptor that a parent process left open for us (`--fd N`); `None` when it is not open.
///
/// Call it once for each number, before anything else could have opened a file by that number.
pub fn inherited_fd(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: F_SETFD passes integers only; it fails on a number that is not open.
    let open = number > 2 && unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } == 0;
    // SAFETY: the number is an open descriptor, and the caller's command line says that it is ours to own.
    open.then(|| unsafe { OwnedFd::from_raw_fd(number) })
}

fn send_with_fds(stream: &UnixStream, bytes: &[u8], fds: &[OwnedFd]) -> io::Result<usize> {
    let mut control: Control = [0; 8];
    let mut vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut header = empty_header(&mut vector);
    if !fds.is_empty() {
        let size = mem::size_of_val(fds) as u32;
        // SAFETY: OwnedFd is a RawFd in memory, so `size` is what the descriptors take; CMSG_SPACE only calculates.
        let space = unsafe { libc::CMSG_SPACE(size) } as usize;
        debug_assert!(space <= mem::size_of::<Control>());
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = space as _; // a usize or a u32, as the C library has it
        // SAFETY: `control` is zeroed, aligned and at least `space` bytes (MOST_FDS descriptors fit), so CMSG_FIRSTHDR
        // points to its start and CMSG_DATA to room for every descriptor.
        unsafe {
            let message = libc::CMSG_FIRSTHDR(&raw const header);
            (*message).cmsg_level = libc::SOL_SOCKET;
            (*message).cmsg_type = libc::SCM_RIGHTS;
            (*message).cmsg_len = libc::CMSG_LEN(size) as _;
            let slots = libc::CMSG_DATA(message).cast::<RawFd>();
            for (index, fd) in fds.iter().enumerate() {
                slots.add(index).write_unaligned(fd.as_raw_fd());
            }
        }
    }
    loop {
        // SAFETY: `header` points to `vector`, `bytes` and `control`, which outlive the call.
        let sent = unsafe { libc::sendmsg(stream.as_raw_fd(), &raw const header, libc::MSG_NOSIGNAL) };
        match usize::try_from(sent) {
            Ok(sent) => return Ok(sent),
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
}

fn receive_with_fds(stream: &UnixStream, bytes: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut control: Control = [0; 8];
    let mut vector = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let mut header = empty_header(&mut vector);
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = mem::size_of::<Control>() as _;
    let read = loop {
        // SAFETY: `header` points to `vector`, `bytes` and `control` with their true lengths, and all outlive the call.
        let read = unsafe { libc::recvmsg(stream.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC) };
        match usize::try_from(read) {
            Ok(read) => break read,
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    };
    Ok((read, take_fds(&header)))
}

/// Takes ownership of every descriptor that came along, so that none leaks, wanted or not.
fn take_fds(header: &libc::msghdr) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    // SAFETY: recvmsg filled `header`; the CMSG macros walk the whole control messages within `msg_controllen`. The kernel
    // made every descriptor in an SCM_RIGHTS message new for this process, so each has exactly this one owner.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(header);
        while !message.is_null() {
            if (*message).cmsg_level == libc::SOL_SOCKET && (*message).cmsg_type == libc::SCM_RIGHTS {
                let bytes = ((*message).cmsg_len as usize).saturating_sub(libc::CMSG_LEN(0) as usize);
                let slots = libc::CMSG_DATA(message).cast::<RawFd>();
                for index in 0..bytes / mem::size_of::<RawFd>() {
                    fds.push(OwnedFd::from_raw_fd(slots.add(index).read_unaligned()));
                }
            }
            message = libc::CMSG_NXTHDR(header, message);
        }
    }
    fds
}

fn empty_header(vector: &mut libc::iovec) -> libc::msghdr {
    // SAFETY: `msghdr` is a plain C struct for which all-zero bytes are a valid value.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_iov = vector;
    header.msg_iovlen = 1;
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Seek;

    #[test]
    fn a_message_carries_descriptors_that_work() {
        let (a, b) = UnixStream::pair().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"through the wall").unwrap();
        file.rewind().unwrap();
        send(&a, b"here", &[OwnedFd::from(file)]).unwrap();
        let (message, mut fds) = receive(&b).unwrap().unwrap();
        assert_eq!(message, b"here");
        let mut text = String::new();
        File::from(fds.pop().unwrap()).read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), fds.len()), ("through the wall", 0));
    }

    #[test]
    fn the_end_of_a_connection_is_not_an_error_but_half_a_message_is() {
        let (a, b) = UnixStream::pair().unwrap();
        drop(a);
        assert!(receive(&b).unwrap().is_none());
        let (mut a, b) = UnixStream::pair().unwrap();
        a.write_all(&[9, 0, 0, 0, 1]).unwrap();
        drop(a);
        assert!(receive(&b).is_err());
    }

    #[test]
    fn a_boast_of_length_is_refused_before_it_costs_memory() {
        let (mut a, b) = UnixStream::pair().unwrap();
        a.write_all(&u32::MAX.to_le_bytes()).unwrap();
        assert_eq!(receive(&b).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
