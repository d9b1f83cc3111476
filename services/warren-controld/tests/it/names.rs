//! Names with every kind of trick in them, wherever somebody may choose one: none reaches a map, a page or an answer as
//! anything but harmless text.

use serde_json::json;
use url::Url;
use warren_api::admin::CreateUser;
use warren_wire::netmap::NetMap;
use warren_wire::{Hostinfo, RegisterRequest, is_deceptive};

use crate::client::Machine;
use crate::doors::get;
use crate::signing_in;
use crate::world::{World, start};

/// What somebody calls a machine, and the name that is made of it.
fn tricks() -> Vec<(String, String)> {
    let plain = [
        ("", "node"),
        (".", "node"),
        ("...", "node"),
        ("--help", "help"),
        ("-rf /", "rf"),
        ("a\r\nb", "ab"),
        ("a\0b\u{7f}\u{9b}31m", "ab31m"),
        ("\u{1b}[2J\u{1b}]0;x\u{7}", "2j0x"),
        ("\"quoted\" 'name' `x`", "quoted-name-x"),
        ("a\\\"b", "ab"),
        ("<script>alert(1)</script>", "scriptalert1script"),
        ("</title><img src=x onerror=x>", "titleimg-srcx-onerrorx"),
        ("&lt;b&gt;", "ltbgt"),
        ("../../etc/passwd", "etcpasswd"),
        ("$(id)", "id"),
        ("`id`;id|id&id", "idididid"),
        ("%2e%2e%2f", "2e2e2f"),
        ("{{7*7}}${x}", "77x"),
        ("a\u{202e}txt.exe", "atxt-exe"),
        ("a\u{200b}\u{200d}\u{feff}b", "ab"),
        ("\u{e0041}tag", "tag"),
        ("раураl", "l"), // all but the last letter are Cyrillic
        ("laptop\u{301}", "laptop"),
        ("🦀", "node"),
        ("İstanbul", "istanbul"),
        ("xn--80ak6aa92e", "xn--80ak6aa92e"),
        ("localhost", "node"),
        ("wpad", "node"),
        ("a.b.mesh.test", "a-b-mesh-test"),
    ];
    let mut all: Vec<_> = plain.map(|(said, made)| (said.to_owned(), made.to_owned())).into();
    all.push(("x".repeat(300), "x".repeat(63)));
    all.push((format!("{}é", "ü".repeat(200)), "node".to_owned()));
    all.push((format!("{}-{}", "a".repeat(62), "b".repeat(9)), "a".repeat(62)));
    all
}

fn is_label(text: &str) -> bool {
    warren_wire::NodeName::new(text).is_ok()
}

#[track_caller]
fn is_harmless(text: &str, said: &str) {
    let is_bad = |c: char| is_deceptive(c) || matches!(c, '"' | '\\');
    assert!(!text.contains(is_bad), "{text:?} of {said:?}");
}

/// A page may have line ends of its own and markup of its own, but nothing of what was said.
#[track_caller]
fn is_harmless_page(page: &str, said: &str) {
    assert!(!page.contains(|c: char| c != '\n' && is_deceptive(c)), "{said:?}: {page:?}");
    for part in ["<script", "<img", "onerror=x>", "\"quoted\"", "'name'"] {
        assert!(!page.contains(part), "{said:?}: {part} is in {page}");
    }
}

/// The whole map as the observer holds it.
#[track_caller]
fn is_harmless_map(map: &NetMap, said: &str) {
    for node in map.peers.values().chain([&map.self_node]) {
        let label = node.full_name().strip_suffix(".mesh.test").unwrap_or_else(|| panic!("{}", node.full_name()));
        assert!(is_label(label), "{label:?} of {said:?}");
        assert!(node.computed_name.is_empty() || is_label(&node.computed_name), "{:?}", node.computed_name);
        let host = node.hostinfo.as_deref().cloned().unwrap_or_default();
        for text in [&host.hostname, &host.os, &host.os_version, &host.app, &host.ipn_version] {
            is_harmless(text, said);
            assert!(text.len() <= 255);
        }
    }
    for profile in map.profiles.values() {
        for text in [&profile.login_name, &profile.display_name, &profile.profile_pic_url] {
            is_harmless(text, said);
        }
    }
    for record in &map.dns.extra_records {
        is_harmless(&record.name, said);
    }
}

fn calls_itself(machine: &Machine, key: Option<&str>, said: &str) -> RegisterRequest {
    let hostinfo = Hostinfo {
        hostname: said.to_owned(),
        os: said.to_owned(),
        os_version: said.to_owned(),
        app: said.to_owned(),
        ipn_version: said.to_owned(),
        ..Hostinfo::default()
    };
    RegisterRequest { hostinfo: Some(Box::new(hostinfo)), ..machine.register_request(key) }
}

async fn with_observer() -> (World, Machine, crate::client::Maps, String) {
    let world = start().await;
    let key = world.join_key(true).await;
    let observer = Machine::new(&world, 1, "observer").await;
    observer.join(&key).await;
    let mut maps = observer.stream().await;
    maps.until("the first map", |_| true).await;
    (world, observer, maps, key)
}

#[tokio::test]
async fn whatever_a_machine_calls_itself_reaches_maps_records_and_pages_as_harmless_text() {
    let (world, _observer, mut maps, key) = with_observer().await;
    for (number, (said, made)) in tricks().into_iter().enumerate() {
        let machine = Machine::new(&world, number as u8 + 2, "").await;
        // The page first: an operator may look at it before anybody let the machine in.
        let waiting = machine.register(&calls_itself(&machine, None, &said)).await;
        let link = Url::parse(&waiting.auth_url).expect("a link");
        is_harmless_page(&get(&world, link.path()).await.1, &said);

        let answer = machine.register(&calls_itself(&machine, Some(&key), &said)).await;
        assert!(answer.machine_authorized, "{said:?}: {answer:?}");
        let full = format!("{made}.mesh.test");
        let map = maps.until(&full, |map| map.peers.values().any(|peer| peer.full_name() == full)).await;
        is_harmless_map(map, &said);

        let nodes = world.admin.nodes(None).await.expect("a list");
        let node = nodes.iter().find(|node| node.node_key == machine.node.public().to_string()).expect("listed");
        assert_eq!(node.given_name, made, "{said:?}");
        // Names that differ by nothing that a name keeps are told apart.
        let twin = Machine::new(&world, number as u8 + 100, "").await;
        assert!(twin.register(&calls_itself(&twin, Some(&key), &said.to_uppercase())).await.machine_authorized);
        let map = maps.until("the twin", |map| map.peers.len() == 2).await;
        let names: std::collections::BTreeSet<&str> = map.peers.values().map(|peer| peer.full_name()).collect();
        assert_eq!(names.len(), 2, "{names:?}");
        is_harmless_map(map, &said);

        // What else a name may come by.
        for node in world.admin.nodes(None).await.expect("a list").iter().filter(|node| node.id != "1") {
            let renamed = world.admin.rename_node(&node.id, &said).await;
            assert_eq!(renamed.is_ok(), is_label(&said) && !["localhost", "wpad"].contains(&said.as_str()), "{said:?}");
            let tag = format!("tag:{said}");
            if let Ok(tagged) = world.admin.set_tags(&node.id, std::slice::from_ref(&tag)).await {
                assert!(tagged.tags == [tag] && is_label(&said.to_lowercase()), "{said:?}");
            }
            world.admin.delete_node(&node.id).await.expect("there");
        }
        maps.until("gone", |map| map.peers.is_empty()).await;
    }
}

#[tokio::test]
async fn whatever_an_operator_calls_a_person_is_refused_or_harmless() {
    let (world, _observer, mut maps, _key) = with_observer().await;
    for (said, _) in tricks() {
        let wish = CreateUser { name: said.clone(), ..CreateUser::default() };
        if let Ok(user) = world.admin.create_user(&wish).await {
            is_harmless(&user.name, &said);
            assert!(user.name.is_ascii() && !user.name.contains(['<', '/', '$', ' ']), "{said:?}");
            world.admin.delete_user(&user.id).await.expect("has no nodes");
        }
        let wish = CreateUser { name: "bob".into(), display_name: said.clone(), ..CreateUser::default() };
        match world.admin.create_user(&wish).await {
            Ok(user) => {
                assert!(!user.display_name.contains(is_deceptive), "{said:?}");
                let key = warren_api::admin::CreateKey { user: "bob".into(), ..Default::default() };
                let key = world.admin.create_key(&key).await.expect("a key").key;
                let machine = Machine::new(&world, 2, "bobs").await;
                machine.join(&key).await;
                is_harmless_map(maps.until("bob's", |map| map.peers.len() == 1).await, &said);
                world.admin.delete_user_with_nodes(&user.id).await.expect("there");
                maps.until("gone", |map| map.peers.is_empty()).await;
            }
            Err(error) => assert!(said.contains(is_deceptive), "{said:?}: {error}"),
        }
    }
}

#[tokio::test]
async fn whatever_a_provider_calls_a_person_reaches_maps_records_and_pages_as_harmless_text() {
    let (provider, world) = signing_in::both(|_| {}).await;
    for (number, (said, _)) in tricks().into_iter().enumerate() {
        provider.state().person = json!({ "sub": format!("s{number}"), "email": format!("{said}@example.net"),
            "email_verified": true, "name": said, "preferred_username": said, "picture": format!("https://x/{said}"),
            "groups": [said] });
        let device = signing_in::Device::new(&world, number as u8 + 1, &said).await;
        let mut browser = crate::browser::Browser::default();
        let question = signing_in::sign_in(&mut browser, &device).await;
        is_harmless_page(&question.body, &said);
        if question.status != 200 {
            continue; // an address that is none
        }
        let token = question.field("token");
        let done = browser.post(&question.url, &[("token", &token), ("verdict", "add")]).await;
        is_harmless_page(&done.body, &said);
        if done.status != 303 {
            assert!(done.body.contains("is the address of user"), "{}", done.body); // differs by nothing that shows
            continue;
        }
        is_harmless_page(&browser.open(&done.location()).await.body, &said);
        let mut maps = device.machine.stream().await;
        is_harmless_map(maps.until("a map", |_| true).await, &said);
    }
    let users = world.admin.users().await.expect("a list");
    assert!(users.len() > 10, "{}", users.len());
    for user in users {
        assert!(user.name.is_ascii() && !user.name.contains(['<', '/', '$', ' ', '"']), "{:?}", user.name);
        for text in [&user.name, &user.display_name, &user.email, &user.profile_pic_url] {
            assert!(!text.contains(is_deceptive), "{text:?}");
        }
    }
}
