//! IP as values: prefixes, prefix maps, packet views, flows, offloaded bursts.
//!
//! This crate knows how bytes on the overlay look and nothing about who may send them. It has no sockets, no routes of
//! the host, and no opinion on a packet beyond "this is not IP".
//!
//! | idea | file |
//! |---|---|
//! | one network, `10.0.0.0/8` | [`Prefix`] |
//! | longest match, per packet | [`PrefixMap`], [`PrefixSet`] |
//! | sets of addresses that need not be prefixes | [`IpRange`], [`IpRanges`] |
//! | a checked look at one packet | [`PacketView`], [`Protocol`], [`TcpFlags`] |
//! | who talks to whom | [`Flow`] |
//! | who counts as one, where strangers share | [`source_of`], [`heaviest`] |
//! | Internet checksums | [`checksum`] |
//! | packets that we make ourselves | [`build`] |
//! | bursts of one flow as the kernel hands them over | [`offload`] |
//!
//! Every parser is total: arbitrary bytes give a value or an error, never a panic, and nothing is allocated by a
//! length that the bytes merely claim.

#![forbid(unsafe_code)]

pub mod build;
pub mod checksum;
mod flow;
pub mod offload;
mod packet;
mod prefix;
mod prefix_map;
mod ranges;
mod source;

pub use flow::Flow;
pub use packet::{Fragment, Malformed, PacketView, Protocol, TcpFlags};
pub use prefix::{ParsePrefixError, Prefix};
pub use prefix_map::{PrefixMap, PrefixSet};
pub use ranges::{IpRange, IpRanges, ParseRangeError};
pub use source::{heaviest, source_of};
