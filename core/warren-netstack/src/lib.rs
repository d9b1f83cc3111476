//! User-space TCP and UDP over packets in and out: what a node without an interface has instead of a kernel.
//!
//! ```text
//! engine ── handle_packet ──▶ Stack ── poll_event ──▶ shell (dials 127.0.0.1, answers SOCKS5)
//! engine ◀── poll_packet ───  Stack ◀── read, write, connect, accept … ── shell
//! ```
//!
//! TCP is smoltcp's, wrapped so that nobody else sees it; UDP and echo need no state and are ours. Every TCP port of the
//! node's own addresses listens: a flow from a peer is reported ([`Event::Incoming`]) before it is answered, so that the
//! shell can dial its target first and the peer never talks to a connection that leads nowhere.
//!
//! Drive it like any core value: feed packets, call [`Stack::poll`], drain [`Stack::poll_packet`] and
//! [`Stack::poll_event`], come back at [`Stack::poll_timeout`].

#![forbid(unsafe_code)]

mod device;
mod stack;
mod tcp;

pub use stack::{ConnectError, Datagram, Event, Stack};
pub use tcp::{FlowId, Read};
