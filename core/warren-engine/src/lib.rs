//! What happens to a packet: the data plane of one node as one value.
//!
//! [`Engine`] joins WireGuard, paths and the filter. It does not know whether packets come from a TUN device or a user-space
//! stack, nor whether a hop is direct or relayed. Every burst goes through three steps, so that the middle one, which
//! costs the time, may run on any thread:
//!
//! ```text
//! out  decide_outbound ─ whose address, may it, which way, which counters ─> SealJob::run ─> finish_sealed ─> poll_run
//! in   decide_inbound  ─ probe? handshake? whose keys ─────────────────────> OpenJob::run ─> finish_opened ─> poll_delivery
//! ```
//! Jobs of one peer are finished in the order in which they were decided; jobs that are finished otherwise are only
//! reordered packets.
//!
//! | idea | file |
//! |---|---|
//! | desired state, whole | [`EngineConfig`], [`EnginePeer`] (`config`) |
//! | the value itself, a table of contents | [`Engine`] (`engine`) |
//! | a packet leaves | `outbound`, [`SealJob`] |
//! | a packet arrives | `inbound`, [`OpenJob`] |
//! | applying desired state | `apply` |
//! | pings inside the tunnel, messages between nodes | `pings` |
//! | buffers that go round | `pool` |
//! | why packets go no further | [`DropReason`], [`Counters`] |
//!
//! # How to drive it
//! Give it bursts and datagrams, run the jobs, give them back; after anything, drain [`Engine::poll_run`],
//! [`Engine::poll_delivery`] and [`Engine::poll_event`]; call [`Engine::handle_timeout`] at [`Engine::poll_timeout`].
//! Buffers that were sent or written come back by [`Engine::recycle`]; reads use [`Engine::take_buffer`].

#![forbid(unsafe_code)]

mod apply;
mod config;
mod counters;
mod engine;
mod inbound;
mod jobs;
mod outbound;
mod pings;
mod pool;

pub use config::{Delivery, EngineConfig, EngineIdentity, EnginePeer};
pub use counters::{Counters, DropReason};
pub use engine::{Engine, EngineEvent, PeerStats, Run};
pub use inbound::Burst;
pub use jobs::{OpenJob, Opened, SealJob, Sealed};
pub use pings::{InnerPing, InnerPingId, PingError};
pub use warren_wireguard::Counters as HandshakeCounters;
