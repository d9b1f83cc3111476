//! Policy file to per-node filters and visibility; explains itself

#![forbid(unsafe_code)]
