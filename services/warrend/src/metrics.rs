//! Prometheus text for those who collect metrics, with the field's names where this build knows the numbers.

use std::fmt::Write;

use warren_engine::{Counters, DropReason};
use warren_node::Status;

/// All metrics. Which way packets took is not counted apart, so there is no `path` label.
pub(crate) fn text(status: &Status, engine: &Counters) -> String {
    let mut text = String::new();
    for (name, help, value) in [
        ("inbound_packets_total", "Packets accepted from peers", engine.packets_in),
        ("inbound_bytes_total", "Their bytes", engine.bytes_in),
        ("outbound_packets_total", "Packets sealed for peers", engine.packets_out),
        ("outbound_bytes_total", "Their bytes", engine.bytes_out),
    ] {
        family(&mut text, name, "counter", help);
        let _ = writeln!(text, "tailscaled_{name} {value}");
    }
    for (name, help, is_ours) in [
        ("inbound_dropped_packets_total", "Packets from peers that were dropped", false),
        ("outbound_dropped_packets_total", "Packets to peers that were dropped", true),
    ] {
        family(&mut text, name, "counter", help);
        for reason in DropReason::ALL.into_iter().filter(|reason| is_outbound(*reason) == is_ours) {
            let label = if reason == DropReason::Filter { "acl" } else { reason.name() };
            let _ = writeln!(text, "tailscaled_{name}{{reason=\"{label}\"}} {}", engine.dropped(reason));
        }
    }
    family(&mut text, "health_messages", "gauge", "What is wrong now");
    let _ = writeln!(text, "tailscaled_health_messages{{type=\"warning\"}} {}", status.health.len());
    family(&mut text, "home_derp_region_id", "gauge", "The relay region where peers find this node; 0: none");
    let _ = writeln!(text, "tailscaled_home_derp_region_id {}", status.home.map_or(0, |region| region.0));
    text
}

fn family(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP tailscaled_{name} {help}\n# TYPE tailscaled_{name} {kind}");
}

/// Whether packets of this host are dropped for this reason; the filter drops those of peers.
fn is_outbound(reason: DropReason) -> bool {
    match reason {
        DropReason::NotOurSource
        | DropReason::NoPeerForAddress
        | DropReason::NoPath
        | DropReason::StagedTooLong
        | DropReason::ImpossibleKey
        | DropReason::PeerGone
        | DropReason::PeerExpired => true,
        DropReason::NotIp
        | DropReason::Filter
        | DropReason::NotAMessage
        | DropReason::BadHandshake
        | DropReason::UnknownKeys
        | DropReason::Forged
        | DropReason::Replayed
        | DropReason::SourceNotOwnedByPeer
        | DropReason::UnknownTsmp
        | DropReason::OwnDisco => false,
    }
}
