//! Fuzz targets for every parser of foreign bytes in the cores, and their corpora, which ordinary tests replay.
//!
//! A target takes bytes as they would come from a stranger, checks what must hold whatever they are, and says whether they
//! were *understood* (parsed, opened, accepted). That answer keeps the corpora honest: a corpus whose every file is thrown
//! away at the first check tests nothing, and a test says so.
//!
//! | file | whose bytes |
//! |---|---|
//! | [`control_channel`] | a control server or its client, before and inside Noise |
//! | [`control_messages`] | the JSON inside it, and the network map that follows |
//! | [`relays`] | a relay or its client; anybody on UDP (STUN) |
//! | [`tunnels`] | anybody on UDP (disco, WireGuard) |
//! | [`packets`] | a peer, inside the tunnel; the kernel's bursts |
//! | [`sign_in`] | an identity provider, or whoever answers in its place |
//! | [`texts`] | an operator's policy; keys, prefixes and names in any message |
//!
//! [`mutation`] is the little fuzzer of the ordinary tests; `fuzz/` holds entry points for the real one.

pub mod control_channel;
pub mod control_messages;
pub mod mutation;
pub mod packets;
pub mod relays;
pub mod seeds;
pub mod sign_in;
pub mod texts;
pub mod tunnels;

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Instant;

/// One target: its name (which is its corpus folder's), and what it does with bytes.
pub type Target = (&'static str, fn(&[u8]) -> bool);

/// All of them. `fuzz/Cargo.toml` and `corpus/` name the same; a test compares.
pub const TARGETS: &[Target] = &[
    ("noise-initiation", control_channel::noise_initiation),
    ("noise-response", control_channel::noise_response),
    ("noise-records", control_channel::noise_records),
    ("early-payload", control_channel::early_payload),
    ("map-frames", control_channel::map_frames),
    ("map-responses", control_messages::map_responses),
    ("map-request", control_messages::map_request),
    ("register-request", control_messages::register_request),
    ("register-response", control_messages::register_response),
    ("server-keys", control_messages::server_keys),
    ("derp-frames", relays::derp_frames),
    ("derp-client", relays::derp_client),
    ("derp-server", relays::derp_server),
    ("derp-client-info", relays::derp_client_info),
    ("stun-request", relays::stun_request),
    ("stun-response", relays::stun_response),
    ("disco-packet", tunnels::disco_packet),
    ("disco-message", tunnels::disco_message),
    ("wireguard-message", tunnels::wireguard_message),
    ("wireguard-handshake", tunnels::wireguard_handshake),
    ("wireguard-transport", tunnels::wireguard_transport),
    ("ip-packet", packets::ip_packet),
    ("virtio-cut", packets::virtio_cut),
    ("virtio-join", packets::virtio_join),
    ("filtered-packet", packets::filtered_packet),
    ("tsmp", packets::tsmp),
    ("oidc-discovery", sign_in::discovery),
    ("oidc-keys", sign_in::keys),
    ("oidc-tokens", sign_in::tokens),
    ("oidc-claims", sign_in::claims),
    ("policy", texts::policy),
    ("filter-rules", texts::filter_rules),
    ("prefixes", texts::prefixes),
    ("keys", texts::keys),
    ("names", texts::names),
    ("dates", texts::dates),
];

/// Runs the target of that name; for the entry points in `fuzz/`.
///
/// # Panics
/// When there is none, or when the target has found something.
pub fn run(name: &str, bytes: &[u8]) {
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("no target {name}"));
    target(bytes);
}

/// Where a target's corpus lies.
pub fn corpus_dir(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name)
}

/// A moment that is the same for everything in one process: targets do not test time.
pub(crate) fn start() -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    *START.get_or_init(Instant::now)
}

/// The input in pieces whose sizes its own first byte chooses, as a stream may be cut anywhere.
pub(crate) fn pieces(bytes: &[u8]) -> std::slice::Chunks<'_, u8> {
    bytes.chunks(bytes.first().map_or(1, |first| usize::from(*first % 61) * 5 + 1))
}
