//! The relay as a service: DERP and STUN for nodes that cannot reach each other directly.
//!
//! ```text
//! listener ── GET /derp, 101 ──▶ connection ──bytes──▶ warren_relay::server::Server ──frames──▶ other connections
//!                                     '── who are you? ──▶ Admission
//! ```
//!
//! - [`Relay`]: one relay; [`Relay::routes`] is what it answers on somebody's listener
//! - [`admission`]: who may use it; what cannot be decided is refused
//! - [`stun`]: the UDP half
//! - [`service`]: [`prepare`](service::prepare) and [`run`](service::run) a relay with its own listener
//! - [`key_file`]: the relay's own key
//!
//! Not built: the meta certificate and fast start (clients then do one ordinary upgrade), WebSocket, forwarding between the
//! relays of one region, bootstrap DNS, rate limits per client.

#![forbid(unsafe_code)]

pub mod admission;
mod connection;
pub mod key_file;
pub mod relay;
mod routes;
pub mod service;
pub mod stun;

pub use admission::Admission;
pub use relay::Relay;
pub use service::{RelayConfig, RunError, prepare, run};
