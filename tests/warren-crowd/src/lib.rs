//! Thousands of simulated nodes at a real control server, and what it takes to serve them.
//!
//! Each speaks the real protocol: TS2021 Noise, HTTP/2 in it, registration by a reusable key, one map stream with zstd.
//! Each folds every message; equal peer records lie on one [`shelf`]. What all hold is compared with a model that is made
//! apart from the maps of the viewers: what a node was told of itself, with what it said.

#![forbid(unsafe_code)]

pub mod client;
pub mod crowd;
pub mod figures;
pub mod map;
pub mod server;
pub mod shelf;
