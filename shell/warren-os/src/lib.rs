//! An operating system: TUN, addresses, routes, change watching; the helper's two ends.
//!
//! Linux only so far. Everything here blocks or is non-blocking on a raw descriptor; there is no runtime, so that the
//! privileged helper stays small.
//!
//! | idea | file |
//! |---|---|
//! | the interface as a stream of bursts | [`Tun`] |
//! | the whole wanted state of the host, and what the host may be asked | [`OsConfig`], [`Limits`] |
//! | making it so, and undoing it | [`Host`] |
//! | keeping others out of the mesh's address ranges | [`guard`] |
//! | news that links or addresses changed | [`Watch`], [`News`] |
//! | the addresses that say where this host is; the ways out of it | [`Uplinks`], [`DefaultRoute`] |
//! | UDP sockets with buffers that need rights | [`udp::open_pair`] |
//! | what the host is called and runs | [`OsFacts`] |
//! | asking a privileged process for all this | [`helper::Client`], [`helper::serve_socket`], [`helper::serve_fd`] |
//!
//! **Nothing is left behind.** Every route carries [`ROUTE_PROTOCOL`], every interface the alias [`ALIAS`], and the
//! guard's table the interface's name. What a
//! connection to the helper made is undone when the connection ends; what a killed helper left is swept by the next.

pub mod apply;
mod config;
mod default_routes;
mod facts;
pub mod guard;
pub mod helper;
mod netlink;
mod tun;
pub mod udp;
mod uplinks;
mod watch;

pub use apply::{Applied, ApplyError, Host};
pub use config::{ConfigProblem, Limits, OsConfig};
pub use default_routes::DefaultRoute;
pub use facts::OsFacts;
pub use tun::{Offloads, READ_BYTES, Tun};
pub use uplinks::Uplinks;
pub use watch::{News, Watch};

/// The `rtm_protocol` of every route we make: `W`. (iproute2's `rt_protos` leaves 0x57 to nobody.)
pub const ROUTE_PROTOCOL: u8 = 0x57;

/// The alias (`ip link show` prints it) of every interface we make; one without it is not ours to remove.
pub const ALIAS: &str = "warren mesh";

/// The interface that a node uses unless told otherwise.
pub const DEFAULT_INTERFACE: &str = "warren0";
