//! What a relay says: DERP frames and STUN, client and server roles. No sockets, no TLS, no HTTP: bytes in, bytes out.
//!
//! - [`stun`]: the request that a node sends, the answer that tells it its outer address
//! - [`frame`]: the frames of a relay connection and the decoder of its byte stream
//! - [`login`]: how a client proves its node key to a relay
//! - [`client`]: one connection to a relay, the node's side
//! - [`server`]: a whole relay as one value
//!
//! Not here: who may use a relay (the server asks its owner, [`server::AdmitRequest`]), which relay to use
//! (`warren-path`), forwarding between the relays of one region (not built).
//!
//! Protocol: `derp/*` and `net/stun` of the stock client.

#![forbid(unsafe_code)]

pub mod client;
pub mod frame;
pub mod login;
mod queue;
pub mod server;
pub mod stun;

pub use frame::{DISCO_MAGIC, looks_like_disco};
