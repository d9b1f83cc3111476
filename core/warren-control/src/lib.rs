//! A whole control server as one value: registry, map sessions, decisions

#![forbid(unsafe_code)]
