//! Two sides of the protocol in one thread under one clock; other people's code on one of them.

mod interop;
mod link;
mod oracles;
mod pair;
