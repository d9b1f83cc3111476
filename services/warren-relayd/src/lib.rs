//! Relay: DERP and STUN
