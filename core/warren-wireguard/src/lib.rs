//! WireGuard: handshake, key pairs, timers, replay, cookies

#![forbid(unsafe_code)]
