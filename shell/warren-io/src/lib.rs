//! How bytes cross the process edge: UDP batches, TLS and HTTP, Noise and relay streams, local sockets.
//!
//! | module | what |
//! |---|---|
//! | [`udp`] | datagrams in bursts |
//! | [`listener`] | the one public port, TLS and plain side by side, with caps ([`door`](listener::Caps)) and deadlines |
//! | [`debug_counters`] | what was dropped, by reason |
//! | [`routes`] | which handler answers which path; services merge their tables |
//! | [`answer`] | small answers, and request bodies with a cap and a deadline |
//! | [`http_upgrade`] | connections that become something else, both ends |
//! | [`web_socket`] | the same by WebSocket, and the pages that may open one |
//! | [`noise_stream`], [`control_dial`] | the control channel as a stream, and how a node gets one |
//! | [`exchange`] | one question to somebody else's web service |
//! | [`relay_stream`] | relay connections |
//! | [`tls`] | certificates and whom to trust |
//! | [`certificates`] | what a listener shows, replaced while it runs |
//! | [`acme`] | a certificate from an authority, and its renewal |
//! | [`files`] | files that are there whole or not at all |
//! | [`settings`](mod@settings) | what an operator says about a service |
//! | [`local_socket`] | Unix sockets and the kernel's word for who calls |
//!
//! What it is not: nothing here decides. It has no retry, no back-off and no policy; deadlines that only a transport can
//! know are here, all others are the caller's.

pub mod acme;
pub mod answer;
pub mod certificates;
pub mod control_dial;
pub mod debug_counters;
mod dialled_tcp;
mod door;
pub mod exchange;
pub mod files;
pub mod http_upgrade;
pub mod listener;
pub mod local_socket;
mod mute;
pub mod noise_stream;
pub mod relay_stream;
pub mod routes;
pub mod settings;
pub mod tls;
pub mod udp;
pub mod web_socket;

pub use control_dial::{ControlStream, DialError, DialOptions, FetchKeyError, dial_control, fetch_server_key};
