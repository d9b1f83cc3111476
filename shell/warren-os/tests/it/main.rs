//! The host's real kernel, in a network namespace of each test's own. They need root and say so when they skip.

mod helper;
mod host;
mod namespace;
