//! Pairs of [`warren_path::Paths`] on a simulated internet, with a stand-in for relay and control server.

mod believed;
mod faults;
mod matrix;
mod names;
mod reasons;
mod routes;
mod world;
