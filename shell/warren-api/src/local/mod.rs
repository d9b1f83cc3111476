//! LocalAPI: the contract that the stock command line and tools speak with a node daemon.
//!
//! HTTP/1.1 over a Unix socket, paths below [`BASE_PATH`]. Field names, zero values and presence follow the stock
//! client's `ipnstate`, `ipn` and `apitype` packages, because scripts and tray programs read them; what only our daemon
//! knows travels in fields and paths of its own (`Warren…`, `warren/…`), which stock tools ignore.
//!
//! - [`status`]: `Status`, `PeerStatus`, `PingResult`, `WhoIs`, the netcheck report
//! - [`prefs`]: `Prefs`, `MaskedPrefs`, `StartOptions`, `LoginProfile`
//! - [`notify`]: the bus
//! - [`client`]: an asynchronous client for all of it

pub mod client;
pub mod notify;
pub mod prefs;
pub mod status;

pub use client::{Client, ClientError};
pub use notify::{BackendState, Notify, watch};
pub use prefs::{LoginProfile, MaskedPrefs, NetworkProfile, Prefs, StartOptions};
pub use status::{NetcheckReport, PathExplanation, PeerStatus, PingKind, PingResult, Status, TailnetStatus, WhoIs};

/// Prefix of every LocalAPI path.
pub const BASE_PATH: &str = "/localapi/v0/";

/// The only `Host` that a request may name, besides an empty one: a web page cannot make a browser send it.
pub const HOST: &str = "local-tailscaled.sock";

/// Version of the stock client whose contract these shapes keep; its command line warns about any other.
pub const CONTRACT_VERSION: &str = "1.98.0";
