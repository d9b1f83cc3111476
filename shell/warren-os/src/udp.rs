//! UDP sockets whose buffers may go beyond the system's limit, which needs the right to administer the network.

use std::io;
use std::mem;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use socket2::{Domain, Protocol, Socket, Type};

/// A second of a gigabit, roughly.
const BUFFER_BYTES: libc::c_int = 7 << 20;

/// Opens one socket for each family the host has, on `port` if it is free in both, else on any.
///
/// # Errors
/// When neither family can be opened.
pub fn open_pair(port: u16) -> io::Result<Vec<OwnedFd>> {
    let mut opened = open_families(port);
    if port != 0 && opened.iter().any(|family| matches!(family, Err(e) if e.kind() == io::ErrorKind::AddrInUse)) {
        opened = open_families(0);
    }
    let mut sockets = Vec::new();
    let mut last = None;
    for family in opened {
        match family {
            Ok(socket) => sockets.push(OwnedFd::from(socket)),
            Err(error) => last = Some(error),
        }
    }
    match last {
        Some(error) if sockets.is_empty() => Err(error),
        _ => Ok(sockets),
    }
}

fn open_families(port: u16) -> [io::Result<Socket>; 2] {
    let v4 = open(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)));
    let port =
        v4.as_ref().ok().and_then(|socket| socket.local_addr().ok()?.as_socket()).map_or(port, |addr| addr.port());
    [v4, open(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))]
}

fn open(local: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
    if local.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&local.into())?;
    let size = BUFFER_BYTES;
    for option in [libc::SO_RCVBUFFORCE, libc::SO_SNDBUFFORCE] {
        // Without the right the sockets keep the system's sizes: slower, not broken.
        // SAFETY: one int on the stack, with its size.
        let _ = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                option,
                (&raw const size).cast(),
                mem::size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port_of(fd: OwnedFd) -> u16 {
        Socket::from(fd).local_addr().unwrap().as_socket().unwrap().port()
    }

    #[test]
    fn both_families_share_a_port_and_a_taken_one_is_left_alone() {
        let first: Vec<u16> = open_pair(0).unwrap().into_iter().map(port_of).collect();
        assert!(first.windows(2).all(|pair| pair[0] == pair[1]), "{first:?}");

        let holder = open(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))).unwrap();
        let taken = holder.local_addr().unwrap().as_socket().unwrap().port();
        let others: Vec<u16> = open_pair(taken).unwrap().into_iter().map(port_of).collect();
        assert!(!others.is_empty() && others.iter().all(|&port| port != taken), "{others:?}");
    }
}
