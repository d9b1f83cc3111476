//! How bytes cross the process edge: UDP batches, TLS and HTTP, Noise and relay streams, local sockets.

pub mod http_upgrade;
pub mod listener;
pub mod local_socket;
pub mod noise_stream;
pub mod relay_stream;
pub mod tls;
pub mod udp;
