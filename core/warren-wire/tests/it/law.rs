//! `fold(old, diff(old, new, version)) ≈ new.as_seen_by(version)`, for our fold and for the stock client's.

use proptest::prelude::*;
use proptest::sample::select;
use warren_crypto::{DiscoPublic, NodePublic, UnixTime};
use warren_wire::netmap::{NetMap, diff, equivalent, fold, full};
use warren_wire::{
    CapabilityVersion, ControlDialPlan, ControlIpCandidate, DisplayMessage, DnsConfig, FilterRule, HomeParams,
    MapResponse, Node, NodeId, RegionId, RelayMap, RelayNode, RelayRegion, Resolver, StableId, TkaInfo, UserId,
    UserProfile, ssh::SshPolicy,
};

use crate::stock_client::stock_fold;

const NOW: UnixTime = UnixTime::from_secs(1_790_000_000);

/// Few values each, so that two maps agree as often as they differ.
fn node(id: i64) -> impl Strategy<Value = Node> {
    let key = (0u8..3).prop_map(|byte| NodePublic::from_bytes([byte + 1; 32]));
    let disco = prop::option::weighted(0.8, (0u8..2).prop_map(|byte| DiscoPublic::from_bytes([byte + 1; 32])));
    let presence = (
        select(vec![None, Some(false), Some(true)]),
        select(vec![None, Some(UnixTime::from_secs(1)), Some(UnixTime::from_secs(2))]),
        select(vec![None, Some(UnixTime::from_secs(2_000_000_000))]),
    );
    let place = (
        select(vec![None, Some(RegionId(900)), Some(RegionId(901))]),
        prop::collection::vec(select(vec!["192.0.2.1:1".parse().unwrap(), "[2001:db8::1]:2".parse().unwrap()]), 0..3),
        select(vec![0, 113, 138]).prop_map(CapabilityVersion),
    );
    let rest = (
        select(vec!["a.tail.example.", "b.tail.example."]),
        select(vec![None, Some(vec![]), Some(vec!["10.0.0.0/8".parse().unwrap()])]),
        prop::collection::btree_map(select(vec!["x".to_owned(), "y".to_owned()]), Just(vec![]), 0..2),
        select(vec![vec![], vec![1, 2, 3]]),
    );
    (key, disco, presence, place, rest).prop_map(move |(key, disco_key, presence, place, rest)| Node {
        id: NodeId(id),
        stable_id: StableId(id.to_string()),
        name: rest.0.into(),
        user: UserId(1),
        key,
        disco_key,
        addresses: vec![format!("100.64.0.{id}/32").parse().unwrap()],
        allowed_ips: rest.1,
        online: presence.0,
        last_seen: presence.1,
        key_expiry: presence.2,
        home_derp: place.0,
        endpoints: place.1,
        cap: place.2,
        cap_map: rest.2,
        key_signature: rest.3,
        ..Node::default()
    })
}

fn relay_map() -> impl Strategy<Value = RelayMap> {
    let region = |id: u32| {
        let node = RelayNode {
            name: format!("{id}a"),
            region_id: RegionId(id),
            host_name: "relay".into(),
            ..RelayNode::default()
        };
        RelayRegion { region_id: RegionId(id), nodes: vec![node], ..RelayRegion::default() }
    };
    (prop::collection::btree_set(900u32..903, 0..3), select(vec![None, Some(0.5), Some(2.0)]), any::<bool>()).prop_map(
        move |(ids, score, omit_default_regions)| RelayMap {
            home_params: score.map(|score| HomeParams { region_score: [(RegionId(900), score)].into() }),
            regions: ids.into_iter().map(|id| (RegionId(id), region(id))).collect(),
            omit_default_regions,
        },
    )
}

fn filters() -> impl Strategy<Value = Vec<(String, Vec<FilterRule>)>> {
    let chunk = (select(vec!["base", "extra"]), prop::collection::vec(Just(FilterRule::allow_all()), 0..2));
    prop::collection::vec(chunk.prop_map(|(name, rules)| (name.to_owned(), rules)), 0..3)
}

fn net_map() -> impl Strategy<Value = NetMap> {
    let peers = (prop::option::of(node(2)), prop::option::of(node(3)), prop::option::of(node(4)));
    let dns = (any::<bool>(), any::<bool>()).prop_map(|(proxied, use_with_exit_node)| DnsConfig {
        proxied,
        resolvers: vec![Resolver { addr: "192.0.2.53".into(), use_with_exit_node, ..Resolver::default() }],
        ..DnsConfig::default()
    });
    let words = (
        prop::collection::vec(select(vec!["slow".to_owned(), "late".to_owned()]), 0..2),
        prop::collection::btree_map(
            select(vec!["m1".to_owned(), "m2".to_owned()]),
            select(vec!["one", "two"])
                .prop_map(|text| DisplayMessage { title: text.into(), ..DisplayMessage::default() }),
            0..2,
        ),
        prop::collection::btree_set(1i64..4, 0..3),
    );
    let rest = (
        select(vec![None, Some(SshPolicy::default())]),
        any::<bool>(),
        select(vec![None, Some(TkaInfo::default()), Some(TkaInfo { head: "h".into(), disabled: false })]),
        select(vec![vec![], vec![ControlIpCandidate { ip: "192.0.2.9".into(), ..ControlIpCandidate::default() }]]),
        select(vec!["", "tail.example"]),
    );
    (node(1), peers, relay_map(), dns, filters(), words, rest).prop_map(
        |(self_node, peers, relay_map, dns, filters, words, rest)| NetMap {
            self_node,
            peers: [peers.0, peers.1, peers.2].into_iter().flatten().map(|node| (node.id, node)).collect(),
            relay_map,
            dns,
            domain: rest.4.into(),
            filters: filters.into_iter().collect(),
            profiles: words
                .2
                .into_iter()
                .map(|id| (UserId(id), UserProfile { id: UserId(id), ..UserProfile::default() }))
                .collect(),
            health: words.0,
            display_messages: words.1,
            ssh_policy: rest.0,
            collect_services: rest.1,
            tka_info: rest.2,
            control_dial_plan: ControlDialPlan { candidates: rest.3 },
            ..NetMap::default()
        },
    )
}

fn version() -> impl Strategy<Value = CapabilityVersion> {
    select(vec![113, 116, 117, 124, 125, 145]).prop_map(CapabilityVersion)
}

/// Sends a message through its JSON, as a client would see it.
fn over_the_wire(message: &MapResponse) -> MapResponse {
    serde_json::from_slice(&serde_json::to_vec(message).unwrap()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn folding_a_difference_gives_the_new_map(maps in prop::collection::vec(net_map(), 1..5), version in version()) {
        let mut held = None;
        let mut stock = None;
        let mut before: Option<&NetMap> = None;
        for map in &maps {
            if let Some(message) = diff(before, map, version) {
                let message = over_the_wire(&message);
                fold(&mut held, message.clone(), NOW).unwrap();
                stock_fold(&mut stock, message, NOW);
            }
            let seen = map.as_seen_by(version);
            let ours = held.as_ref().unwrap();
            prop_assert!(equivalent(ours, &seen), "ours {ours:#?}\nmeant {seen:#?}");
            let theirs = stock.as_ref().unwrap();
            prop_assert!(equivalent(theirs, &seen), "stock {theirs:#?}\nmeant {seen:#?}");
            before = Some(map);
        }
    }

    #[test]
    fn nothing_is_said_when_nothing_changed(map in net_map(), version in version()) {
        prop_assert_eq!(diff(Some(&map), &map, version), None);
    }

    #[test]
    fn our_own_fold_loses_no_presence(old in net_map(), new in net_map()) {
        let mut held = Some(old.as_seen_by(CapabilityVersion::OUR_NODE));
        if let Some(message) = diff(held.as_ref(), &new, CapabilityVersion::OUR_NODE) {
            fold(&mut held, over_the_wire(&message), NOW).unwrap();
        }
        let held = held.unwrap();
        for (id, node) in &new.peers {
            prop_assert_eq!(held.peers[id].last_seen, node.last_seen);
            prop_assert_eq!(held.peers[id].online, node.online);
            prop_assert_eq!(held.peers[id].home_derp, node.home_derp);
        }
    }

    #[test]
    fn a_whole_map_never_has_an_empty_list_of_peers(map in net_map()) {
        let text = serde_json::to_value(full(&map, CapabilityVersion::OUR_NODE)).unwrap();
        prop_assert!(text.get("Peers").is_none_or(|peers| !peers.as_array().unwrap().is_empty()));
        prop_assert!(text.get("PacketFilters").is_some());
    }
}

#[test]
fn equivalence_still_tells_a_different_peer_apart() {
    let map = |name: &str| {
        let node = Node { id: NodeId(2), name: name.into(), ..Node::default() };
        NetMap { peers: [(NodeId(2), node)].into(), ..NetMap::default() }
    };
    assert!(equivalent(&map("a."), &map("a.")));
    assert!(!equivalent(&map("a."), &map("b.")));
    assert!(!equivalent(&NetMap::default(), &map("a.")));
    assert!(!equivalent(&map("a."), &NetMap::default()));
}
