//! What a node sends to `POST /machine/map`. control-protocol.md §6.1–6.2.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use warren_crypto::{DiscoPublic, NodePublic, UnixTime};

use crate::object::wire_object;
use crate::{CapabilityVersion, Hostinfo};

wire_object! {
    /// A streaming poll (`stream`), or a lite update (`omit_peers`) that is answered with an empty body.
    pub struct MapRequest {
        [always] pub version: CapabilityVersion => "Version",
        /// `zstd` or empty.
        [omit] pub compress: String => "Compress",
        [omit] pub keep_alive: bool => "KeepAlive",
        [always] pub node_key: NodePublic => "NodeKey",
        /// A server must not forget a known key because of a request without one.
        [always_key] pub disco_key: Option<DiscoPublic> => "DiscoKey",
        [omit] pub hardware_attestation_key: String => "HardwareAttestationKey",
        [bytes] pub hardware_attestation_key_signature: Vec<u8> => "HardwareAttestationKeySignature",
        [time] pub hardware_attestation_time: Option<UnixTime> => "HardwareAttestationKeySignatureTimestamp",
        [omit] pub stream: bool => "Stream",
        [always] pub hostinfo: Option<Box<Hostinfo>> => "Hostinfo",
        [omit] pub map_session_handle: String => "MapSessionHandle",
        [omit] pub map_session_seq: i64 => "MapSessionSeq",
        /// UDP addresses at which the node may be reached, best first.
        [endpoints] pub endpoints: Vec<SocketAddr> => "Endpoints",
        /// Parallel to `endpoints`; see [`MapRequest::typed_endpoints`].
        [omit] pub endpoint_types: Vec<EndpointKind> => "EndpointTypes",
        [omit] pub tka_head: String => "TKAHead",
        [omit] pub read_only: bool => "ReadOnly",
        [omit] pub omit_peers: bool => "OmitPeers",
        [omit] pub debug_flags: Vec<String> => "DebugFlags",
        [omit] pub connection_handle_for_test: String => "ConnectionHandleForTest",
    }
}

impl MapRequest {
    /// Endpoints with their kinds; [`EndpointKind::UNKNOWN`] for all when there are not as many kinds as endpoints.
    pub fn typed_endpoints(&self) -> Vec<Endpoint> {
        let kinds = if self.endpoint_types.len() == self.endpoints.len() { &self.endpoint_types[..] } else { &[] };
        let kinds = kinds.iter().copied().chain(std::iter::repeat(EndpointKind::UNKNOWN));
        self.endpoints.iter().zip(kinds).map(|(addr, kind)| Endpoint { addr: *addr, kind }).collect()
    }

    /// Sets `endpoints` and `endpoint_types` from one list.
    pub fn set_endpoints(&mut self, endpoints: &[Endpoint]) {
        self.endpoints = endpoints.iter().map(|endpoint| endpoint.addr).collect();
        self.endpoint_types = endpoints.iter().map(|endpoint| endpoint.kind).collect();
    }
}

/// One UDP address of a node, and how it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// Address and port.
    pub addr: SocketAddr,
    /// How it is known.
    pub kind: EndpointKind,
}

/// How an endpoint became known. Numbers that we do not know are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EndpointKind(pub u8);

impl EndpointKind {
    /// Not said.
    pub const UNKNOWN: Self = Self(0);
    /// An address of an interface.
    pub const LOCAL: Self = Self(1);
    /// As seen from outside by STUN.
    pub const STUN: Self = Self(2);
    /// Mapped by the gateway at our request.
    pub const PORT_MAPPED: Self = Self(3);
    /// The address that STUN saw, with our local port (a hand-made port forwarding might be there).
    pub const STUN_LOCAL_PORT: Self = Self(4);
    /// Configured by a person.
    pub const CONFIGURED: Self = Self(5);
}
