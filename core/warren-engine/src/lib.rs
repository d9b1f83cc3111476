//! What happens to a packet: the data plane as one value

#![forbid(unsafe_code)]
