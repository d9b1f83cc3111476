//! Keys, sealed boxes, Noise handshakes and record channels

#![forbid(unsafe_code)]
