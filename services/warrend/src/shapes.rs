//! The node's facts in the stock JSON shapes, and back: the one place that knows both.

use std::collections::BTreeMap;
use std::time::Instant;

use warren_api::local::status::ZERO_TIME;
use warren_api::local::{
    BackendState, LoginProfile, NetcheckReport, NetworkProfile, Notify, PathExplanation, PeerStatus, PingResult, Prefs,
    Status, TailnetStatus, WhoIs,
};
use warren_crypto::UnixTime;
use warren_driver::DriverFacts;
use warren_engine::{Counters, DropReason, HandshakeCounters};
use warren_ip::Prefix;
use warren_node::{HealthItem, Notice, PrefsEdit, ProfileSummary, Severity};
use warren_path::{Hop, PathStatus, Report};
use warren_wire::{Node, RegionId, RelayMap};

/// The short name of each relay region.
pub(crate) type RegionCodes = BTreeMap<RegionId, String>;

pub(crate) fn region_codes(map: Option<&RelayMap>) -> RegionCodes {
    map.map(|map| map.regions.iter().map(|(id, region)| (*id, region.region_code.clone())).collect())
        .unwrap_or_default()
}

fn code(regions: &RegionCodes, region: Option<RegionId>) -> String {
    // A region that the map no longer has is shown by its number.
    region.map(|region| regions.get(&region).cloned().unwrap_or_else(|| region.to_string())).unwrap_or_default()
}

fn state(state: warren_node::BackendState) -> BackendState {
    match state {
        warren_node::BackendState::NeedsLogin => BackendState::NeedsLogin,
        warren_node::BackendState::NeedsMachineAuth => BackendState::NeedsMachineAuth,
        warren_node::BackendState::Stopped => BackendState::Stopped,
        warren_node::BackendState::Starting => BackendState::Starting,
        warren_node::BackendState::Running => BackendState::Running,
    }
}

pub(crate) fn status(status: &warren_node::Status, regions: &RegionCodes, with_peers: bool) -> Status {
    let own = own(status, regions);
    // Until the first trouble with it, the server is being dialled, not out of reach.
    let is_out_of_reach = status.health.iter().any(|item| item.code == "not-in-map-poll");
    let peers = || status.peers.iter().map(|one| (one.node.key.to_string(), peer(one, regions))).collect();
    Status {
        version: warren_api::local::CONTRACT_VERSION.into(),
        tun: !status.userspace,
        backend_state: state(status.state).as_str().into(),
        have_node_key: status.have_node_key,
        auth_url: status.auth_url.clone(),
        tailscale_ips: own.tailscale_ips.clone(),
        self_status: own,
        health: status.health.iter().map(|item| item.text.clone()).collect(),
        magic_dns_suffix: status.dns_suffix.clone(),
        current_tailnet: status.map.map(|_| TailnetStatus {
            name: status.domain.clone(),
            magic_dns_suffix: status.dns_suffix.clone(),
            magic_dns_enabled: status.dns.proxied,
        }),
        cert_domains: None,
        peer: (with_peers && status.map.is_some()).then(peers),
        user: status.map.map(|_| status.users.iter().map(|(id, profile)| (id.to_string(), profile.clone())).collect()),
        client_version: None,
        warren_version: String::new(),
        warren_map_age_seconds: status.map.filter(|map| is_out_of_reach && !map.live).map(|map| map.age.as_secs()),
        warren_socks5: None,
        warren_control_url: status.control_url.clone(),
    }
}

fn own(status: &warren_node::Status, regions: &RegionCodes) -> PeerStatus {
    let mut own = status.self_node.as_ref().map(record).unwrap_or_default();
    own.public_key = status.node_key.to_string();
    own.relay = code(regions, status.home);
    own.expired = status.self_expired;
    own.in_network_map = status.self_node.is_some();
    if status.map.is_none_or(|map| !map.live) {
        // What the server said of us before it was lost is no longer true.
        own.online = false;
    }
    if let Some(node) = &status.self_node {
        let caps = node.cap_map.iter().map(|(cap, values)| (cap.clone(), serde_json::Value::from(values.clone())));
        own.cap_map = Some(caps.collect());
    }
    own
}

fn peer(status: &warren_node::PeerStatus, regions: &RegionCodes) -> PeerStatus {
    let mut peer = record(&status.node);
    peer.in_network_map = true;
    peer.in_engine = status.in_engine;
    peer.in_magic_sock = status.in_engine;
    peer.expired = status.is_expired;
    peer.active = status.is_active;
    peer.rx_bytes = i64::try_from(status.rx_bytes).unwrap_or(i64::MAX);
    peer.tx_bytes = i64::try_from(status.tx_bytes).unwrap_or(i64::MAX);
    peer.last_handshake = time(status.last_handshake);
    peer.last_write = time(status.last_send);
    peer.relay = code(regions, status.path.as_ref().and_then(|path| path.relay).or(status.node.home_derp));
    if let Some(path) = &status.path {
        peer.addrs = Some(path.candidates.iter().map(|candidate| candidate.addr.to_string()).collect());
        if let Some(Hop::Direct { addr, .. }) = path.current {
            peer.cur_addr = addr.to_string();
        }
        peer.warren_path = Some(explanation(path));
    }
    peer
}

fn explanation(path: &PathStatus) -> PathExplanation {
    let kind = match path.current {
        Some(Hop::Direct { .. }) => "direct",
        Some(Hop::Relay { .. }) => "relay",
        None => "none",
    };
    let latency_ms = path.latency.map(|latency| latency.as_secs_f64() * 1e3);
    PathExplanation { kind: kind.into(), why: path.why.clone(), latency_ms }
}

/// What a record of the map says.
fn record(node: &Node) -> PeerStatus {
    let prefixes = |prefixes: &[Prefix]| prefixes.iter().map(ToString::to_string).collect::<Vec<_>>();
    let hostinfo = node.hostinfo.as_deref();
    PeerStatus {
        id: node.stable_id.to_string(),
        node_id: node.id.0,
        public_key: node.key.to_string(),
        host_name: hostinfo.map(|info| info.hostname.clone()).unwrap_or_default(),
        dns_name: node.name.clone(),
        os: hostinfo.map(|info| info.os.clone()).unwrap_or_default(),
        user_id: node.user.0,
        tailscale_ips: Some(node.addresses.iter().map(Prefix::addr).collect()),
        allowed_ips: Some(prefixes(node.routed())),
        tags: (!node.tags.is_empty()).then(|| node.tags.clone()),
        primary_routes: (!node.primary_routes.is_empty()).then(|| prefixes(&node.primary_routes)),
        addrs: Some(node.endpoints.iter().map(ToString::to_string).collect()),
        created: time(node.created),
        // Only meaningful while offline.
        last_seen: time(node.last_seen.filter(|_| node.online != Some(true))),
        online: node.online == Some(true),
        exit_node_option: node.routed().contains(&Prefix::ALL_V4),
        key_expiry: node.key_expiry.map(UnixTime::to_rfc3339),
        ..PeerStatus::default()
    }
}

fn time(time: Option<UnixTime>) -> String {
    time.map_or_else(|| ZERO_TIME.to_owned(), UnixTime::to_rfc3339)
}

pub(crate) fn prefs(prefs: &warren_node::Prefs) -> Prefs {
    let list = |items: &[String]| (!items.is_empty()).then(|| items.to_vec());
    let mut shape = Prefs {
        control_url: prefs.control_url.clone(),
        route_all: prefs.route_all,
        exit_node_id: prefs.exit_node_id.clone(),
        exit_node_ip: prefs.exit_node_ip.map(|ip| ip.to_string()).unwrap_or_default(),
        exit_node_allow_lan_access: prefs.exit_node_allow_lan_access,
        corp_dns: prefs.corp_dns,
        run_ssh: prefs.run_ssh,
        run_web_client: prefs.run_web_client,
        want_running: prefs.want_running,
        logged_out: prefs.logged_out,
        shields_up: prefs.shields_up,
        advertise_tags: list(&prefs.advertise_tags),
        hostname: prefs.hostname.clone(),
        advertise_routes: list(&prefs.advertise_routes.iter().map(ToString::to_string).collect::<Vec<_>>()),
        advertise_services: list(&prefs.advertise_services),
        no_snat: prefs.no_snat,
        no_stateful_filtering: prefs.no_stateful_filtering,
        netfilter_mode: i64::from(prefs.netfilter_mode),
        operator_user: prefs.operator_user.clone(),
        profile_name: prefs.profile_name.clone(),
        posture_checking: prefs.posture_checking,
        ..Prefs::default()
    };
    shape.auto_update.check = prefs.auto_update_check;
    shape.auto_update.apply = prefs.auto_update_apply;
    shape.app_connector.advertise = prefs.app_connector;
    shape
}

/// The field's preferences say who is signed in: by that the stock command line knows that `up` alone means "go on".
/// Secret keys, which stand beside it on the disk there, are never said.
pub(crate) fn config(active: &ProfileSummary) -> Option<serde_json::Value> {
    let is_in = !active.user.login_name.is_empty();
    is_in.then(|| serde_json::json!({ "UserProfile": active.user, "NodeID": active.node_id.to_string() }))
}

/// Whether somebody who repeats what we said means to set more than that.
fn has_keys(config: &serde_json::Value) -> bool {
    config.as_object().is_some_and(|config| config.keys().any(|name| name.ends_with("Key")))
}

/// An edit that makes the preferences so. `server_key` pins the control server; without it a pin stays as long as the
/// server's address does.
///
/// # Errors
/// With one line for a person: a value that does not fit, or a wish that only a stock client could fulfil.
pub(crate) fn edit(
    wanted: Prefs,
    current: &warren_node::Prefs,
    server_key: Option<String>,
) -> Result<PrefsEdit, String> {
    for (asked, what) in [
        (wanted.drive_shares.as_ref().is_some_and(|shares| !shares.is_empty()), "file sharing"),
        (wanted.advertise_services.as_ref().is_some_and(|services| !services.is_empty()), "advertising services"),
        (wanted.notepad_urls, "notepad URLs"),
        (wanted.config.as_ref().is_some_and(has_keys), "setting keys by preferences"),
    ] {
        if asked {
            return Err(format!("{what} is not built yet in this node"));
        }
    }
    let control_url = wanted.control_url.trim_end_matches('/').to_owned();
    let kept = if control_url == current.control_url { current.control_key.clone() } else { String::new() };
    let routes = wanted.advertise_routes.unwrap_or_default().into_iter();
    let routes = routes
        .map(|text| text.parse::<Prefix>().map_err(|_| format!("\"{text}\" is not a network such as 10.0.0.0/24")));
    let exit_node_ip = match wanted.exit_node_ip.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|_| format!("exit node \"{text}\" is not an address"))?),
    };
    let netfilter_mode = u8::try_from(wanted.netfilter_mode);
    Ok(PrefsEdit::all(warren_node::Prefs {
        control_key: server_key.unwrap_or(kept),
        control_url,
        want_running: wanted.want_running,
        logged_out: wanted.logged_out,
        hostname: wanted.hostname,
        shields_up: wanted.shields_up,
        route_all: wanted.route_all,
        corp_dns: wanted.corp_dns,
        exit_node_id: wanted.exit_node_id,
        exit_node_ip,
        auto_exit_node: String::new(),
        exit_node_allow_lan_access: wanted.exit_node_allow_lan_access,
        run_ssh: wanted.run_ssh,
        run_web_client: wanted.run_web_client,
        advertise_routes: routes.collect::<Result<_, _>>()?,
        advertise_tags: wanted.advertise_tags.unwrap_or_default(),
        advertise_services: Vec::new(),
        operator_user: wanted.operator_user,
        profile_name: wanted.profile_name,
        no_snat: wanted.no_snat,
        no_stateful_filtering: wanted.no_stateful_filtering,
        netfilter_mode: netfilter_mode
            .map_err(|_| format!("netfilter mode {} is none of 0, 1, 2", wanted.netfilter_mode))?,
        auto_update_check: wanted.auto_update.check,
        auto_update_apply: wanted.auto_update.apply,
        app_connector: wanted.app_connector.advertise,
        posture_checking: wanted.posture_checking,
    }))
}

pub(crate) fn profile(profile: &ProfileSummary) -> LoginProfile {
    LoginProfile {
        id: profile.id.to_string(),
        name: profile.name.clone(),
        network_profile: NetworkProfile {
            magic_dns_name: profile.dns_suffix.clone(),
            domain_name: profile.domain.clone(),
            display_name: String::new(),
        },
        key: format!("profile-{}", profile.id),
        user_profile: Some(profile.user.clone()),
        node_id: profile.node_id.to_string(),
        local_user_id: String::new(),
        control_url: profile.control_url.clone(),
    }
}

pub(crate) fn ping(result: &warren_node::PingResult) -> PingResult {
    let text = |ip: Option<std::net::IpAddr>| ip.map(|ip| ip.to_string()).unwrap_or_default();
    PingResult {
        ip: text(result.ip),
        node_ip: text(result.node_ip),
        node_name: result.node_name.clone(),
        err: result.error.clone(),
        latency_seconds: result.latency.as_secs_f64(),
        endpoint: result.endpoint.map(|address| address.to_string()).unwrap_or_default(),
        peer_relay: String::new(),
        derp_region_id: result.region.map_or(0, |region| i64::from(region.0)),
        derp_region_code: result.region_code.clone(),
        is_local_ip: result.is_local_ip,
        warren_why: String::new(),
    }
}

pub(crate) fn who_is(found: warren_node::WhoIs) -> WhoIs {
    WhoIs { node: found.node, user_profile: found.user, cap_map: Some(found.caps) }
}

/// `time` is that of `now`.
pub(crate) fn netcheck(report: &Report, now: Instant, time: UnixTime) -> NetcheckReport {
    let latencies = |latencies: &BTreeMap<RegionId, std::time::Duration>| {
        let nanoseconds =
            latencies.iter().map(|(id, took)| (id.to_string(), i64::try_from(took.as_nanos()).unwrap_or(i64::MAX)));
        nanoseconds.collect()
    };
    NetcheckReport {
        now: time.saturating_sub(now.saturating_duration_since(report.finished)).to_rfc3339(),
        udp: report.udp,
        ipv6: report.ipv6,
        ipv4: report.ipv4,
        os_has_ipv6: report.os_has_ipv6,
        mapping_varies_by_dest_ip: report.mapping_varies,
        upnp: None,
        pmp: None,
        pcp: None,
        preferred_derp: report.preferred.map_or(0, |region| i64::from(region.0)),
        region_latency: latencies(&report.region_latency),
        region_v4_latency: latencies(&report.region_v4_latency),
        region_v6_latency: latencies(&report.region_v6_latency),
        global_v4: report.global_v4.map(|address| address.to_string()).unwrap_or_default(),
        global_v6: report.global_v6.map(|address| address.to_string()).unwrap_or_default(),
        captive_portal: None,
    }
}

/// What the data plane counted, part by part.
#[derive(Clone, Copy)]
pub(crate) struct Counted {
    pub(crate) engine: Counters,
    paths: warren_path::Counters,
    handshakes: HandshakeCounters,
}

impl Counted {
    pub(crate) fn of(node: &warren_node::Node) -> Self {
        let engine = node.engine();
        Self { engine: *engine.counters(), paths: *engine.paths().counters(), handshakes: *engine.handshake_counters() }
    }
}

/// Everything that was counted, drops by reason. `refused_requests`: by LocalAPI.
pub(crate) fn counters(counted: &Counted, driver: &DriverFacts, refused_requests: u64) -> serde_json::Value {
    let Counted { engine, paths, handshakes } = counted;
    let engine_drops = DropReason::ALL.into_iter().map(|reason| (reason.name(), engine.dropped(reason)));
    let drops = &driver.drops;
    let driver_drops = [
        ("socket-full", drops.socket_full),
        ("no-socket", drops.no_socket),
        ("relay-queue-full", drops.relay_queue_full),
        ("tun-write", drops.tun_write),
        ("no-tun", drops.no_tun),
        ("tun-read", drops.tun_read),
        ("datagrams", drops.datagrams),
        ("socks5", drops.socks5),
        ("http-proxy", drops.http_proxy),
        ("local-api", refused_requests),
    ];
    let sockets = driver.sockets.iter().zip(&driver.udp).map(|(bound, udp)| {
        serde_json::json!({
            "bound": bound,
            "sent_datagrams": udp.sent_datagrams,
            "sent_messages": udp.sent_messages,
            "send_calls": udp.send_calls,
            "received_datagrams": udp.received_datagrams,
            "receive_calls": udp.receive_calls,
            "failed_datagrams": udp.failed_datagrams,
            "gso_refusals": udp.gso_refusals,
            "truncated": udp.truncated,
        })
    });
    serde_json::json!({
        "packets_out": engine.packets_out,
        "bytes_out": engine.bytes_out,
        "packets_in": engine.packets_in,
        "bytes_in": engine.bytes_in,
        "runs": engine.runs,
        "disco": {
            "pings_sent": paths.pings_sent,
            "pongs_sent": paths.pongs_sent,
            "calls_sent": paths.calls_sent,
            "stun_sent": paths.stun_sent,
            "pongs_received": paths.pongs_received,
            "calls_received": paths.calls_received,
            "dropped": {
                "malformed": paths.drop_malformed,
                "unknown-sender": paths.drop_unknown_sender,
                "forged": paths.drop_forged,
                "unknown-message": paths.drop_unknown_message,
                "call-not-relayed": paths.drop_call_not_relayed,
                "unexpected-pong": paths.drop_unexpected_pong,
                "unexpected-stun": paths.drop_unexpected_stun,
                "duplicate-ping": paths.drop_duplicate_ping,
            },
        },
        "handshakes": {
            "initiations_sent": handshakes.initiations_sent,
            "initiations_answered": handshakes.initiations_answered,
            "finished": handshakes.handshakes_finished,
            "given_up": handshakes.given_up,
            "cookies_sent": handshakes.cookies_sent,
            "dropped": {
                "malformed": handshakes.malformed,
                "bad-mac1": handshakes.bad_mac1,
                "rate-limited": handshakes.rate_limited,
                "forged": handshakes.forged,
                "unknown-peer": handshakes.unknown_peer,
                "replayed": handshakes.replayed_initiations,
            },
        },
        "dropped": engine_drops.chain(driver_drops).collect::<BTreeMap<_, u64>>(),
        "sockets": sockets.collect::<Vec<_>>(),
    })
}

/// A line of the bus; `None` for news that it has no word for. `own` is our record, for [`Notice::SelfChanged`].
pub(crate) fn notify(notice: Notice, own: Option<Node>) -> Option<Notify> {
    let nothing = Notify::default();
    Some(match notice {
        Notice::State(new) => Notify { state: Some(state(new).number()), ..nothing },
        Notice::Prefs(new) => Notify { prefs: Some(prefs(&new)), ..nothing },
        Notice::BrowseToUrl(url) => Notify { browse_to_url: Some(url), ..nothing },
        Notice::LoginFinished => Notify { login_finished: Some(serde_json::Map::new()), ..nothing },
        Notice::Error(text) => Notify { err_message: Some(text), ..nothing },
        Notice::Retrying(text) => Notify { warren_retrying: Some(text), ..nothing },
        Notice::SelfChanged => Notify { self_change: Some(own?), ..nothing },
        Notice::Health(items) => Notify { health: Some(health(&items)), ..nothing },
        // An empty line: "something changed, look". The stock bus's whole map is not sent; `status` has it.
        Notice::NetMap | Notice::Profile(_) | Notice::PathChanged(_) => nothing,
        Notice::Ping { .. } | Notice::NetworkChecked => return None,
    })
}

fn health(items: &[HealthItem]) -> serde_json::Value {
    let warnings = items.iter().map(|item| {
        let severity = match item.severity {
            Severity::High => "high",
            Severity::Medium => "medium",
            Severity::Low => "low",
        };
        let warning = serde_json::json!({
            "WarnableCode": item.code,
            "Severity": severity,
            "Title": item.title,
            "Text": item.text,
            "ImpactsConnectivity": item.impacts_connectivity,
        });
        (item.code.clone(), warning)
    });
    serde_json::json!({ "Warnings": warnings.collect::<serde_json::Map<_, _>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preferences_survive_the_way_there_and_back() {
        let kept = warren_node::Prefs {
            control_url: "http://192.0.2.1:8080".into(),
            control_key: "mkey:01".into(),
            want_running: true,
            hostname: "web".into(),
            shields_up: true,
            advertise_tags: vec!["tag:a".into()],
            advertise_routes: vec!["10.0.0.0/8".parse().unwrap()],
            exit_node_ip: Some("100.64.0.9".parse().unwrap()),
            operator_user: "me".into(),
            netfilter_mode: 1,
            no_stateful_filtering: None,
            ..warren_node::Prefs::default()
        };
        assert_eq!(edit(prefs(&kept), &kept, None).unwrap(), PrefsEdit::all(kept));
    }

    #[test]
    fn preferences_say_who_is_signed_in_and_what_they_say_may_be_repeated() {
        let mut user = warren_wire::UserProfile { login_name: "ann".into(), ..Default::default() };
        let mut profile = ProfileSummary {
            id: warren_node::ProfileId("ab12".into()),
            name: String::new(),
            domain: String::new(),
            dns_suffix: String::new(),
            user: user.clone(),
            node_id: warren_wire::StableId("7".into()),
            control_url: String::new(),
            is_active: true,
        };
        let said = config(&profile).expect("somebody is signed in");
        assert_eq!((said["UserProfile"]["LoginName"].as_str(), said["NodeID"].as_str()), (Some("ann"), Some("7")));
        let current = warren_node::Prefs::default();
        let taken = |config| edit(Prefs { config, ..prefs(&current) }, &current, None).is_ok();
        assert!(taken(Some(said)) && taken(None));
        assert!(!taken(Some(serde_json::json!({ "PrivateNodeKey": "privkey:01" }))));
        user.login_name.clear();
        profile.user = user;
        assert_eq!(config(&profile), None, "nobody is");
    }

    #[test]
    fn a_pin_stays_with_its_server_only() {
        let current = warren_node::Prefs {
            control_url: "http://a".into(),
            control_key: "mkey:01".into(),
            ..warren_node::Prefs::default()
        };
        let key = |url: &str, given: Option<&str>| {
            let wanted = Prefs { control_url: url.into(), ..Prefs::default() };
            edit(wanted, &current, given.map(str::to_owned)).unwrap().control_key
        };
        assert_eq!(key("http://a/", None).as_deref(), Some("mkey:01"));
        assert_eq!(key("http://b", None).as_deref(), Some(""));
        assert_eq!(key("http://b", Some("mkey:02")).as_deref(), Some("mkey:02"));
    }

    #[test]
    fn wishes_that_only_a_stock_client_fulfils_are_refused_by_name() {
        let refused = |wanted: Prefs| edit(wanted, &warren_node::Prefs::default(), None).unwrap_err();
        let shares = Prefs { drive_shares: Some(vec!["x".into()]), ..Prefs::default() };
        assert_eq!(refused(shares), "file sharing is not built yet in this node");
        assert!(refused(Prefs { exit_node_ip: "laptop".into(), ..Prefs::default() }).contains("laptop"));
        assert!(refused(Prefs { netfilter_mode: 300, ..Prefs::default() }).contains("300"));
    }

    #[test]
    fn every_state_has_its_stock_name_and_number() {
        use warren_node::BackendState as Node;
        for (ours, number) in [
            (Node::NeedsLogin, 2),
            (Node::NeedsMachineAuth, 3),
            (Node::Stopped, 4),
            (Node::Starting, 5),
            (Node::Running, 6),
        ] {
            assert_eq!(notify(Notice::State(ours), None).unwrap().state, Some(number));
        }
    }

    #[test]
    fn health_is_keyed_by_code() {
        let item = HealthItem {
            code: "no-derp-home".into(),
            severity: Severity::High,
            title: "t".into(),
            text: "x".into(),
            impacts_connectivity: true,
        };
        let line = notify(Notice::Health(vec![item]), None).unwrap();
        assert_eq!(line.health.unwrap()["Warnings"]["no-derp-home"]["Severity"], "high");
    }
}
