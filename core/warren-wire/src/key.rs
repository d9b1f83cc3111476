//! The server's keys (`GET /key`), its early word inside Noise, and the relay's question to it. §2, §3.7, §4.3.

use std::net::IpAddr;

use warren_crypto::{ChallengePublic, MachinePublic, NodePublic};

use crate::object::wire_object;

wire_object! {
    /// The answer to `GET /key?v=`.
    pub struct ServerKeys {
        [always_key] pub legacy_public_key: Option<MachinePublic> => "legacyPublicKey",
        [always] pub public_key: MachinePublic => "publicKey",
    }
}

wire_object! {
    /// What the server says first inside Noise, before HTTP/2.
    pub struct EarlyNoise {
        [always_key] pub node_key_challenge: Option<ChallengePublic> => "nodeKeyChallenge",
    }
}

wire_object! {
    /// A relay asks whether it should carry a client.
    pub struct DerpAdmitRequest {
        [always] pub node_public: NodePublic => "NodePublic",
        [always] pub source: Option<IpAddr> => "Source",
    }
}

wire_object! {
    /// The answer to a [`DerpAdmitRequest`].
    pub struct DerpAdmitResponse {
        [always] pub allow: bool => "Allow",
    }
}
