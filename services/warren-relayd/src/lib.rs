//! The relay as a service: DERP and STUN for nodes that cannot reach each other directly.
//!
//! ```text
//! listener ── GET /derp, 101 ──▶ connection ──bytes──▶ warren_relay::server::Server ──frames──▶ other connections
//!                                     '── who are you? ──▶ Admission
//! ```
//!
//! - [`Relay`]: one relay; [`Relay::routes`] is what it answers on somebody's listener
//! - [`admission`]: who may use it, at the door and while inside
//! - [`verifier`]: a control server elsewhere says so
//! - [`stun`]: the UDP half
//! - [`config`]: file, environment, flags
//! - [`service`]: [`prepare`](service::prepare) and [`run`](service::run) a relay with its own listener
//! - [`key_file`]: the relay's own key
//!
//! Not built: forwarding between the
//! relays of one region, bootstrap DNS, rate limits per client.

#![forbid(unsafe_code)]

pub mod admission;
pub mod config;
mod connection;
mod fast_start;
pub mod key_file;
pub mod relay;
mod routes;
pub mod service;
pub mod stun;
pub mod verifier;

pub use admission::Admission;
pub use relay::Relay;
pub use service::{RelayConfig, RunError, prepare, run};
