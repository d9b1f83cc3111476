//! What node and control server say to each other, and the network map that it folds into.
//!
//! | module | what |
//! |---|---|
//! | [`register`](RegisterRequest) | a node asks to join, stay, renew or leave |
//! | [`MapRequest`], [`MapResponse`] | the map poll |
//! | [`Node`], [`Hostinfo`], [`RelayMap`], [`DnsConfig`], [`FilterRule`] … | what they carry |
//! | [`netmap`] | what a stream of map responses means: [`netmap::fold`], and its inverse [`netmap::diff`] |
//! | [`framing`] | how messages lie in the stream |
//! | [`Message`] | a map response whose large parts were written before, and are shared |
//! | [`NodeName`] | names that need no escape anywhere |
//!
//! This is the only crate that knows the JSON of the control protocol. What it writes satisfies both the stock client
//! (in Go: any case, nulls, escapes) and a strict one (exact keys, no `null` for a list, no escape in a name). It does
//! no transport, no compression and no clock, and it decides nothing: who may see whom is the control server's.

#![forbid(unsafe_code)]

mod capability;
mod capped;
mod dns_config;
mod filter_rules;
pub mod framing;
mod hostinfo;
mod ids;
mod key;
mod lenient;
mod map;
mod name;
pub mod netmap;
mod node;
mod object;
mod register;
mod relay_map;
mod services;
pub mod ssh;
mod users;
mod written;

pub use capability::{CapMap, CapabilityVersion, cap};
pub use dns_config::{DnsConfig, DnsRecord, Resolver};
pub use filter_rules::{CapGrant, FilterRule, NetPortRange, PortRange};
pub use hostinfo::{Hostinfo, Location, NetInfo, Service, Tpm};
pub use ids::{LoginId, NodeId, RegionId, StableId, UserId};
pub use key::{DerpAdmitRequest, DerpAdmitResponse, EarlyNoise, ServerKeys};
pub use map::{
    ClientVersion, ControlDialPlan, ControlIpCandidate, Debug, DisplayAction, DisplayMessage, Endpoint, EndpointKind,
    MapRequest, MapResponse, PeerChange, PingRequest, PingResponse, TkaInfo,
};
pub use name::{InvalidName, NodeName, is_deceptive};
pub use node::Node;
pub use register::{AuthKey, LOGOUT_EXPIRY, RegisterAuth, RegisterRequest, RegisterResponse};
pub use relay_map::{HomeParams, HomeParamsUpdate, RelayMap, RelayMapUpdate, RelayNode, RelayRegion};
pub use services::{ServiceDetails, VipService, VipServices};
pub use users::{Login, User, UserProfile};
pub use written::{Lists, Message, Piece, Written};
