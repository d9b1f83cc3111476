//! The control server on loopback, met by a client of our own: real port, real Noise, real database.

mod api_keys;
mod asking;
mod browser;
mod claims;
mod client;
mod doors;
mod facts;
mod joining;
mod log;
mod malformed;
mod maps;
mod names;
mod people;
mod provider;
mod relays;
mod reload;
mod restart;
mod scripts;
mod secrets;
mod services;
mod shells;
mod signing_in;
mod tokens;
mod ways_in;
mod world;
