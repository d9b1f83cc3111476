//! User-space TCP and UDP over packets in and out

#![forbid(unsafe_code)]
