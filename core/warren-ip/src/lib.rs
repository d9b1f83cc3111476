//! IP as values: prefixes, prefix maps, packet views, flows, offloaded bursts

#![forbid(unsafe_code)]
