//! What a relay says: DERP frames and STUN, client and server roles, as values.
//!
//! - [`frame`]: the frames and the reader that cuts a byte stream into them
//! - [`client`]: a node's side of one connection
//! - [`server`]: a relay with all its connections: admission, queues, duplicates, counters
//! - [`stun`]: the address that a server sees us at
//!
//! Nothing here opens a socket or knows TLS and HTTP: the shell hands in bytes that came and takes bytes to send.

#![forbid(unsafe_code)]

pub mod client;
pub mod frame;
mod queue;
pub mod server;
pub mod stun;

pub use client::Client;
pub use frame::{DISCO_MAGIC, Frame, FrameError, FrameReader, GoneReason, looks_like_disco};
pub use server::{ConnId, Counters, Server};
