//! How two nodes find each other, and by which way each datagram goes.
//!
//! [`Paths`] is one value for one node: it knows the peers, the relays and this node's sockets, sends every probe there
//! is (STUN, disco) and says for each peer where its packets go now. Nobody else sends such probes, and a probe always
//! leaves by the socket that it speaks for.
//!
//! ```text
//! data for a peer ──▶ hops_for ──▶ trusted direct path?  ──yes──▶ direct alone
//!                        │                  │no
//!                        │                  ▼
//!                        │         a path whose trust expired ──▶ direct and relay, both
//!                        ▼                  │none
//!              discovery round              ▼
//!       pings to every candidate,         relay alone
//!       then call-me-maybe by relay
//!                        │
//!                        ▼
//!                pong ──▶ select: better than what we have? ──▶ trusted for 6.5 s, heartbeat every 3 s
//! ```
//!
//! | idea | file |
//! |---|---|
//! | what goes in and comes out | [`Hop`], [`Hops`], [`Transmit`], [`Event`] |
//! | the value itself, a table of contents | [`Paths`] |
//! | messages between nodes | [`disco`] |
//! | which of two ways is better | [`select`] |
//! | why a path is what it is, for people | [`PathStatus::why`] |
//! | how this node sees the internet, and its home relay | [`Report`] |
//!
//! # How to drive it
//! Tell it the world (`set_peers`, `set_relay_map`, `set_sockets`), feed it probes that arrive (`is_probe`,
//! `handle_probe`), ask `hops_for` for every burst, report authenticated arrivals with `heard_from`; after anything,
//! drain `poll_transmit` and `poll_event`, and call `handle_timeout` at `poll_timeout`.
//!
//! # What is believed
//! Bytes that nobody vouches for change nothing. A disco message counts if it opens under the disco key of a peer in
//! the map. A disco key that the map does not know (a peer that restarted while the control server was down) is
//! believed only if the message came by a relay under the peer's node key, which the relay has checked, or if the peer
//! said so inside the tunnel; until the map confirms it, it stands beside the old key and replaces nothing. A STUN
//! answer counts if it comes from the address that was asked, with the random number of the question.
//!
//! # Not built yet
//! Port mapping (the report says so), path MTU probing, peer relays.
//!
//! Facts: data-plane.md §2–§4; constants carry their section.

#![forbid(unsafe_code)]

mod candidates;
pub mod disco;
mod disco_keys;
mod discovery;
mod endpoints;
mod events;
mod manager;
mod messages;
mod netcheck;
mod peer_paths;
mod probes;
mod relays;
pub mod select;
mod sockets;
mod status;
mod timers;

pub use events::{
    Counters, Event, Hop, Hops, LocalSocket, NoPath, PathsConfig, PeerConfig, PingId, Sign, SocketId, Transmit,
};
pub use manager::Paths;
pub use netcheck::{PORT_MAPPING, Report};
pub use status::{CandidateStatus, PathStatus};
