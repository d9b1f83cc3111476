//! Asking a privileged process for what needs rights, and being that process.
//!
//! ```text
//! daemon (unprivileged)                         helper (may administer the network)
//!   Client ── one request ──────────────────▶  Session: judged against Limits, then done
//!          ◀── one reply (+ descriptors) ────
//!   connection ends ────────────────────────▶  everything the connection made is undone
//! ```
//!
//! A message is a 4-byte little-endian length and that many bytes of JSON, at most [`MOST_BYTES`]. Descriptors travel
//! with the first byte of a reply (`SCM_RIGHTS`). The helper takes nothing from its caller on trust: the set of requests
//! is closed, unknown fields are errors, and [`crate::Limits`] come from whoever started the helper.

mod channel;
mod client;
mod request;
mod server;

pub use channel::{MOST_BYTES, inherited_fd};
pub use client::{Client, ClientError, OpenedTun};
pub use request::{HelperReply, HelperRequest, VERSION, parse_request};
pub use server::{ServeError, serve_fd, serve_socket};
