//! The control server on loopback, met by a client of our own: real port, real Noise, real database.

mod asking;
mod claims;
mod client;
mod doors;
mod joining;
mod maps;
mod restart;
mod world;
