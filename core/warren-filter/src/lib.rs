//! The verdict on one packet, with its reason

#![forbid(unsafe_code)]
