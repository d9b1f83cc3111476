//! How two nodes find each other: disco, STUN reports, path choice

#![forbid(unsafe_code)]
