//! Reaching a relay as the relay map describes it.

use std::net::IpAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use warren_io::relay_stream::{self, RelayDialError, RelayStream, RelayTarget};
use warren_io::tls::{self, Trust};
use warren_wire::{RelayNode, RelayRegion};

/// Where a relay's TCP port is and how to trust it; `None` when the map makes no sense.
fn target_of(node: &RelayNode) -> Option<RelayTarget> {
    let literal = |text: &str| text.parse::<IpAddr>().ok();
    let addresses: Vec<IpAddr> = [literal(&node.ipv4), literal(&node.ipv6)].into_iter().flatten().collect();
    // A family is switched off by a text that is no address ("none"); with both off there is nowhere to go.
    if addresses.is_empty() && !node.ipv4.is_empty() && !node.ipv6.is_empty() {
        return None;
    }
    // A certificate may carry another name than the relay is found by.
    let host = match node.cert_name.as_str() {
        "" => node.host_name.as_str(),
        name if name.starts_with("sha256-raw:") => node.host_name.as_str(),
        name => name,
    };
    Some(RelayTarget {
        host: host.to_owned(),
        addresses,
        port: node.derp_port(),
        trust: Trust::of_relay(&node.cert_name, node.insecure_for_tests)?,
    })
}

/// Connects to the first of the region's relays that answers; otherwise the last one's reason, in words.
pub(crate) async fn dial(region: &RelayRegion) -> Result<RelayStream, String> {
    let mut last = "the region has no relay that can be dialled".to_owned();
    for target in targets(region) {
        match relay_stream::dial(&target).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = crate::control_link::with_causes(&error),
        }
    }
    Err(last)
}

/// The time of one HTTPS exchange with the first relay of the region that answers.
pub(crate) async fn latency(region: &RelayRegion) -> Option<Duration> {
    for target in targets(region) {
        let measured: Result<Duration, RelayDialError> = relay_stream::https_latency(&target).await;
        if let Ok(latency) = measured {
            return Some(latency);
        }
    }
    None
}

fn targets(region: &RelayRegion) -> impl Iterator<Item = RelayTarget> + '_ {
    region.nodes.iter().filter(|node| !node.stun_only).filter_map(target_of)
}

/// TLS with `host` over a connection that stands, trusted as this system trusts.
pub(crate) async fn tls(stream: TcpStream, host: &str) -> Option<TlsStream<TcpStream>> {
    let connector = TlsConnector::from(tls::client_config(Trust::System).ok()?);
    connector.connect(tls::server_name(host)?, stream).await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(ipv4: &str, cert_name: &str) -> RelayNode {
        RelayNode {
            host_name: "relay.example".into(),
            ipv4: ipv4.into(),
            ipv6: "none".into(),
            cert_name: cert_name.into(),
            derp_port_raw: 8080,
            ..RelayNode::default()
        }
    }

    #[test]
    fn a_relay_is_found_by_its_addresses_and_trusted_by_its_fingerprint() {
        let target = target_of(&node("192.0.2.1", &format!("sha256-raw:{}", "ab".repeat(32)))).unwrap();
        assert_eq!(target.addresses, ["192.0.2.1".parse::<IpAddr>().unwrap()]);
        assert_eq!((target.host.as_str(), target.port), ("relay.example", 8080));
        assert_eq!(target.trust, Trust::Pinned([0xab; 32]));
    }

    #[test]
    fn a_relay_with_both_families_off_or_a_bad_fingerprint_is_not_dialled() {
        assert!(target_of(&node("none", "")).is_none());
        assert!(target_of(&node("192.0.2.1", "sha256-raw:nonsense")).is_none());
        assert!(target_of(&node("", "")).unwrap().addresses.is_empty());
    }
}
