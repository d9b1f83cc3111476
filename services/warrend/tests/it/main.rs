//! LocalAPI over a real Unix socket, with a daemon behind it that only remembers what it was asked.

mod fake;
mod local_api;
