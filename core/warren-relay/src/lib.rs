//! What a relay says: DERP frames and STUN, client and server roles

#![forbid(unsafe_code)]
