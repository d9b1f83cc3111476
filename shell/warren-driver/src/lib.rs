//! The node's event loop on real sockets; also the embedding API and SOCKS5.
//!
//! ```text
//!            DriverHandle (any task)                         tokio's side
//!                 │ inbox (bounded, bell)                     ▲ orders (in order), relay runs (bounded, drop)
//!                 ▼                                           │
//!  UDP ◀──▶ packet thread: one epoll loop that owns the Node ─┘──▶ control link, relay links, look-ups, state file
//!  TUN ◀──▶       │
//!  or Stack       └─▶ keeper of the host (a thread): helper connection, interface
//! ```
//!
//! | idea | file |
//! |---|---|
//! | starting, and the handle | [`Driver`], [`DriverHandle`] (`driver`) |
//! | the packet thread | `event_loop`, `packets`, `poller` |
//! | time that goes on during suspend | `clock` |
//! | from tokio's side to the packet thread | `inbox` |
//! | what may wait | `supervisor`, `control_link`, `control_dial`, `map_stream`, `relays`, `relay_dial`, `call_back`, `outside` |
//! | the interface, by the helper | `host` |
//! | TCP in user space | `streams`, `bridge`, `dialer` |
//! | UDP in user space | `datagrams` |
//! | a SOCKS5 door, an HTTP proxy | [`socks5`], `socks5_udp`, `http_proxy` |
//! | state on disk | [`state_file`] |
//!
//! What it deliberately is not: it decides nothing about peers, paths, logins or retries. Those are the node's; here are
//! only sockets, files and time.

mod bridge;
mod call_back;
mod clock;
mod control_dial;
mod control_link;
mod datagrams;
mod dialer;
mod driver;
mod event_loop;
mod host;
mod http_proxy;
mod inbox;
mod map_stream;
mod outside;
mod own_ports;
mod packets;
mod poller;
mod relay_dial;
mod relays;
pub mod socks5;
mod socks5_udp;
pub mod state_file;
mod streams;
mod supervisor;
mod underlay;
mod waiting;

pub use dialer::{Duplex, MeshStream};
pub use driver::{AskError, Driver, DriverConfig, DriverHandle, Mode, StartError};
pub use event_loop::DriverFacts;
pub use host::HelperDoor;
pub use inbox::Stopped;
pub use packets::DriverDrops;
pub use socks5::DialError;
