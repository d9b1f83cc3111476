//! What may be asked of the helper, and its answers.

use serde::{Deserialize, Serialize};

use crate::{Offloads, OsConfig};

/// Both ends must speak the same version; they are installed together.
pub const VERSION: u32 = 2;

/// A request. Each carries whole wanted state; none names a file, a command or a program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum HelperRequest {
    /// Always first.
    Hello { version: u32 },
    /// Make the interface and hand over its descriptor. What an earlier owner left is swept first.
    OpenTun { mtu: u16 },
    /// Make addresses and routes as stated.
    Configure(OsConfig),
    /// Open the node's UDP sockets (both families, large buffers) and hand them over. Port 0 or 1024–65535.
    OpenUdp { port: u16 },
    /// Undo everything now; the connection stays.
    Undo {},
}

/// The answer to one request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HelperReply {
    Hello {
        version: u32,
        /// The interface this helper serves.
        interface: String,
    },
    /// One descriptor comes with it.
    Tun {
        interface: String,
        offloads: Offloads,
    },
    /// Done; what had to be left out, in words.
    Configured {
        skipped: Vec<String>,
    },
    /// One descriptor per family comes with it.
    Udp {},
    Undone {},
    /// The request goes beyond what this helper was started for, or makes no sense.
    Refused {
        reason: String,
    },
    /// The system would not do it.
    Failed {
        reason: String,
    },
}

/// Reads one request from hostile bytes.
///
/// # Errors
/// A sentence about what is wrong with them.
pub fn parse_request(bytes: &[u8]) -> Result<HelperRequest, String> {
    serde_json::from_slice(bytes).map_err(|error| format!("not a request: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expect: Option<HelperRequest>) {
        assert_eq!(parse_request(text.as_bytes()).ok(), expect, "{text}");
    }

    #[test]
    fn only_the_five_requests_are_understood() {
        check(r#"{"Hello":{"version":1}}"#, Some(HelperRequest::Hello { version: 1 }));
        check(r#"{"OpenTun":{"mtu":1280}}"#, Some(HelperRequest::OpenTun { mtu: 1280 }));
        check(r#"{"Undo":{}}"#, Some(HelperRequest::Undo {}));
        check(r#"{"OpenTun":{"mtu":1280,"name":"eth0"}}"#, None);
        check(r#"{"OpenTun":{"mtu":128000}}"#, None);
        check(r#"{"Run":{"command":"id"}}"#, None);
        check(r#"{"Configure":{"interface":"warren0"}}"#, None);
        check("", None);
    }

    #[test]
    fn a_request_survives_its_encoding() {
        let request = HelperRequest::Configure(OsConfig {
            interface: "warren0".into(),
            mtu: 1280,
            up: true,
            addrs: vec!["100.64.0.1".parse().unwrap()],
            routes: vec!["100.64.0.0/10".parse().unwrap()],
            guard: false,
        });
        assert_eq!(parse_request(&serde_json::to_vec(&request).unwrap()).unwrap(), request);
    }
}
