//! Two engines in one thread, under one clock, on an internet of two addresses and one relay.

mod bursts;
mod fate;
mod net;
mod session;
