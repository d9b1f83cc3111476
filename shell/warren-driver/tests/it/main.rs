//! Whole nodes on loopback sockets, against a small control server that tells everybody about everybody.

mod control;
mod interface;
mod mesh;
mod relayed;
