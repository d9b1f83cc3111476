//! WireGuard as a value: handshake, key pairs, timers, replay, cookies.
//!
//! Nothing here waits, sends, or looks at a clock. Datagrams and instants go in, datagrams and events come out; the
//! engine joins this with paths and filters. The pieces, from the wire upwards:
//!
//! - [`message`]: the four messages as bytes, in both directions.
//! - `noise`, `handshake`: `Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s`, one struct per step, both roles.
//! - [`macs`]: MAC1, MAC2, cookies; [`limiter`]: what is answered while many knock at once.
//! - [`timestamp`]: TAI64N, and what is remembered of a peer's stamps.
//! - [`transport`]: [`SendKey`] and [`ReceiveKey`], pure and shareable, so that two threads may work for one peer;
//!   [`replay`]: the window that judges counters afterwards, in order.
//! - `keypairs`, `timers`, `peer`: one peer's life; [`WireGuard`]: all of them.
//!
//! # How to drive it
//!
//! ```text
//! outbound   reserve(peer, n, now) ─ Ok ──> SendKey + counters ──> seal each (any thread) ──> send
//!                                  └ Err(NoKeys) ──> stage the burst; poll_transmit has an initiation
//! inbound    kind(datagram)  ─ Handshake ──> handle_handshake(.., source, now) ──> an answer for where it came from
//!                            └ Transport ──> inbound_key(index, now) ──> open each (any thread)
//!                                            ──> receiving(index).accept(counter) in order ──> heard(index, data, now)
//! always     poll_transmit, poll_event until None; handle_timeout at poll_timeout
//! ```
//!
//! Deliberately not here: allowed addresses, endpoints, roaming (the path core owns where a peer is), device queues.
//!
//! Sources: the WireGuard whitepaper (revision 2020-06-01), the Noise specification (revision 34), RFC 6479, RFC 7693.

#![forbid(unsafe_code)]

pub mod limiter;
pub mod macs;
pub mod message;
pub mod replay;
pub mod staging;
pub mod timestamp;
pub mod transport;

mod counters;
mod handshake;
mod index;
mod keypairs;
mod noise;
mod peer;
pub mod timers;
mod wireguard;

pub use counters::Counters;
pub use handshake::Psk;
pub use macs::Source;
pub use message::{Kind, kind};
pub use replay::ReplayWindow;
pub use staging::Staging;
pub use transport::{OpenError, Opened, ReceiveKey, SendKey};
pub use wireguard::{
    Answer, Event, HandshakeDrop, InboundKey, NoKeys, Outgoing, Receiving, Reserved, SessionStats, WireGuard,
};
