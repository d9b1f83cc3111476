//! Registration: a node asks to join, stay, renew or leave. control-protocol.md §5.

use std::fmt;

use serde::{Deserialize, Serialize};
use warren_crypto::{LockPublic, NodePublic, UnixTime};

use crate::object::wire_object;
use crate::{CapabilityVersion, Hostinfo, Login, User};

wire_object! {
    /// What a node sends to `POST /machine/register`.
    pub struct RegisterRequest {
        [always] pub version: CapabilityVersion => "Version",
        /// The key that shall be registered.
        [always] pub node_key: NodePublic => "NodeKey",
        /// The key before it, after a rotation.
        [always_key] pub old_node_key: Option<NodePublic> => "OldNodeKey",
        [always_key] pub nl_key: Option<LockPublic> => "NLKey",
        [omit] pub auth: Option<RegisterAuth> => "Auth",
        /// `None`: the server's default. In the past: log out now ([`LOGOUT_EXPIRY`]).
        [always_time] pub expiry: Option<UnixTime> => "Expiry",
        /// The login page that is being waited on; empty for none.
        [always] pub followup: String => "Followup",
        [always] pub hostinfo: Option<Box<Hostinfo>> => "Hostinfo",
        [omit] pub ephemeral: bool => "Ephemeral",
        [always_bytes] pub node_key_signature: Vec<u8> => "NodeKeySignature",
        [omit] pub signature_type: String => "SignatureType",
        [time] pub timestamp: Option<UnixTime> => "Timestamp",
        [bytes] pub device_cert: Vec<u8> => "DeviceCert",
        [bytes] pub signature: Vec<u8> => "Signature",
        [omit] pub tailnet: String => "Tailnet",
    }
}

/// Seconds since 1970 that a node sends as expiry to log out. A server must treat it as "now", never store it.
pub const LOGOUT_EXPIRY: u64 = 123;

wire_object! {
    /// How a node proves at once that it may join.
    pub struct RegisterAuth {
        [omit] pub auth_key: Option<AuthKey> => "AuthKey",
    }
}

/// A pre-authorisation key. It goes over the wire and nowhere else: it does not print.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AuthKey(String);

impl AuthKey {
    /// Takes the text that a person was given, without surrounding blanks.
    pub fn new(text: &str) -> AuthKey {
        AuthKey(text.trim().to_owned())
    }

    /// The text, for the one place that checks it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for AuthKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("AuthKey(..)")
    }
}

wire_object! {
    /// The answer; every key is always there.
    ///
    /// Read in this order: `error`, `node_key_signature`, `node_key_expired`, `auth_url`. §5.3.
    pub struct RegisterResponse {
        [always] pub user: User => "User",
        [always] pub login: Login => "Login",
        /// The key cannot be used: make a new one and come again.
        [always] pub node_key_expired: bool => "NodeKeyExpired",
        [always] pub machine_authorized: bool => "MachineAuthorized",
        /// Not empty: a person must visit this page.
        [always] pub auth_url: String => "AuthURL",
        [always_bytes] pub node_key_signature: Vec<u8> => "NodeKeySignature",
        /// For a person, verbatim.
        [always] pub error: String => "Error",
    }
}
