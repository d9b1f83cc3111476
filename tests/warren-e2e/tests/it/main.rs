//! Real programs in network namespaces, and other people's clients on loopback.
//!
//! The namespace tests do nothing unless `cargo xtask test` started them inside namespaces of their own.

mod acme;
mod admission;
mod bad_input;
mod beside;
mod browser;
mod faults;
mod figures;
mod guard;
mod joining;
mod laboratory;
mod official;
mod paths;
mod policy;
mod quickstart;
mod reload;
mod secrets;
mod signing_in;
