//! A node that is in: updates, sleep and waking, names, pings, status, the state file.

use std::time::Duration;

use warren_node::{
    Action, BackendState, Command, ControlEvent, LoadStateError, NodeState, Notice, PingKind, PrefsEdit, Reply,
};

use crate::rig::{Rig, first_map, map, success};

#[test]
fn a_start_without_control_uses_the_known_map_and_says_its_age() {
    let mut rig = Rig::joined();
    rig.pass(Duration::from_secs(10));
    let wall = rig.wall.saturating_add(Duration::from_secs(7200));
    let mut rig = rig.restarted_at(wall);
    assert_eq!(rig.state(), BackendState::Running);
    assert!(rig.reaches("100.64.0.2"));
    let freshness = rig.node.status(rig.now, rig.wall).map.unwrap();
    assert!(!freshness.live && freshness.age >= Duration::from_secs(7200));
    let (id, _) = rig.asked().register.unwrap();
    rig.say(
        id,
        ControlEvent::RegisterFailed {
            status: None,
            text: "connection refused".into(),
            retry_after: None,
            is_lasting: false,
        },
    );
    let health = rig.node.health(rig.now, rig.wall);
    let stale = health.iter().find(|item| item.code == "not-in-map-poll").unwrap();
    assert!(stale.text.contains("connection refused") && stale.text.contains("2 hours old"), "{}", stale.text);
}

#[test]
fn a_restart_keeps_addresses_and_keys_and_needs_no_login() {
    let rig = Rig::joined();
    let before = rig.node.status(rig.now, rig.wall);
    let mut rig = rig.restarted();
    let after = rig.node.status(rig.now, rig.wall);
    assert_eq!((before.node_key, before.addresses), (after.node_key, after.addresses));
    let (_, request) = rig.asked().register.unwrap();
    assert_eq!((request.auth, request.node_key), (None, before.node_key));
}

#[test]
fn the_disco_key_survives_a_restart() {
    let mut rig = Rig::new();
    let (id, _) = rig.up_with_key();
    rig.say(id, success());
    let (_, before) = rig.asked().stream.unwrap();
    let mut rig = rig.restarted();
    let (id, _) = rig.asked().register.unwrap();
    rig.say(id, success());
    let (_, after) = rig.asked().stream.unwrap();
    assert!(before.disco_key.is_some());
    assert_eq!(before.disco_key, after.disco_key);
}

#[test]
fn a_silent_server_is_left_after_two_minutes_and_tried_again() {
    let mut rig = Rig::joined();
    rig.asked();
    rig.pass(Duration::from_secs(119));
    assert!(!rig.asked().closed);
    rig.pass(Duration::from_secs(1));
    assert!(rig.reaches("100.64.0.2"), "the map stays in use");
    rig.pass(Duration::from_secs(1));
    let asked = rig.asked();
    assert!(asked.stream.is_some(), "{asked:?}");
}

#[test]
fn a_keep_alive_is_enough_to_stay() {
    let mut rig = Rig::new();
    let (id, _) = rig.up_with_key();
    rig.say(id, success());
    let (stream, _) = rig.asked().stream.unwrap();
    rig.say(stream, map(&first_map("")));
    for _ in 0..10 {
        rig.pass(Duration::from_secs(60));
        rig.say(stream, map(r#"{"KeepAlive":true}"#));
    }
    assert!(!rig.asked().closed);
    assert!(rig.node.status(rig.now, rig.wall).map.unwrap().live);
}

#[test]
fn a_server_that_forgot_us_is_introduced_to_us_again() {
    let mut rig = Rig::new();
    let (id, _) = rig.up_with_key();
    rig.say(id, success());
    let (stream, _) = rig.asked().stream.unwrap();
    rig.say(stream, ControlEvent::StreamEnded { status: Some(404), reason: "unknown node".into() });
    rig.pass(Duration::from_secs(1));
    assert!(rig.asked().register.is_some());
}

/// How many streams are asked for in so many seconds of waiting, of a server that ends each after a map and `life`.
fn streams(life: Duration, seconds: u32) -> u32 {
    let mut rig = Rig::new();
    let (id, _) = rig.up_with_key();
    rig.say(id, success());
    let mut streams = 0;
    for _ in 0..seconds * 100 {
        if let Some((stream, _)) = rig.asked().stream {
            streams += 1;
            rig.say(stream, map(&first_map("")));
            rig.pass(life);
            rig.say(stream, ControlEvent::StreamEnded { status: None, reason: "reset".into() });
        }
        rig.pass(Duration::from_millis(10));
    }
    streams
}

#[test]
fn a_server_that_sends_a_map_and_hangs_up_is_asked_less_and_less_often() {
    let count = streams(Duration::ZERO, 60);
    assert!((10..40).contains(&count), "{count} streams");
}

#[test]
fn a_stream_that_lived_a_while_is_followed_by_the_next_at_once() {
    assert!(streams(Duration::from_secs(11), 1) >= 40);
}

#[test]
fn a_new_stream_begins_from_nothing_but_the_old_map_serves_until_it_does() {
    let mut rig = Rig::new();
    let (id, _) = rig.up_with_key();
    rig.say(id, success());
    let (stream, _) = rig.asked().stream.unwrap();
    rig.say(stream, map(&first_map("")));
    rig.say(stream, ControlEvent::StreamEnded { status: None, reason: "reset".into() });
    rig.pass(Duration::from_secs(1));
    let (stream, _) = rig.asked().stream.unwrap();
    assert!(rig.reaches("100.64.0.2"));
    // No peers in the first message of the new stream: there are none any more.
    rig.say(stream, map(r#"{"Node":{"ID":1,"MachineAuthorized":true,"Addresses":["100.64.0.1/32"]}}"#));
    assert!(!rig.reaches("100.64.0.2"));
}

#[test]
fn a_changed_wish_is_told_by_a_lite_update_once() {
    let mut rig = Rig::new();
    let (id, _) = rig.up_with_key();
    rig.say(id, success());
    let asked = rig.asked();
    let (stream, (update, _)) = (asked.stream.unwrap().0, asked.update.unwrap());
    rig.say(stream, map(&first_map("")));
    rig.say(update, ControlEvent::UpdateDone);
    assert!(rig.asked().update.is_none(), "nothing is new");
    let edit = PrefsEdit { hostname: Some("other".into()), ..PrefsEdit::default() };
    rig.command(Command::EditPrefs(edit)).unwrap();
    let (update, request) = rig.asked().update.expect("an update");
    assert_eq!(request.hostinfo.unwrap().hostname, "other");
    rig.say(update, ControlEvent::UpdateFailed { reason: "502".into() });
    rig.pass(Duration::from_secs(1));
    assert!(rig.asked().update.is_some(), "what was not taken is told again");
}

#[test]
fn down_leaves_the_network_and_up_comes_back_without_a_login() {
    let mut rig = Rig::joined();
    let run = |running| Command::EditPrefs(PrefsEdit { want_running: Some(running), ..PrefsEdit::default() });
    rig.command(run(false)).unwrap();
    let asked = rig.asked();
    assert!(asked.closed && !rig.reaches("100.64.0.2"));
    assert!(asked.others.iter().any(|action| matches!(action, Action::ConfigureHost(plan) if !plan.up)));
    assert_eq!(rig.state(), BackendState::Stopped);
    rig.command(run(true)).unwrap();
    assert!(rig.reaches("100.64.0.2"));
    assert!(rig.asked().register.unwrap().1.auth.is_none());
}

#[test]
fn names_and_addresses_lead_to_each_other() {
    let rig = Rig::joined();
    let both = rig.node.resolve_name("WEB.tail.example.").unwrap();
    assert_eq!(both.len(), 2);
    assert_eq!(rig.node.resolve_name("web").unwrap(), both);
    assert_eq!(rig.node.resolve_name("box").unwrap()[0].to_string(), "100.64.0.1");
    assert_eq!(rig.node.resolve_name("nobody"), None);
    assert_eq!(rig.node.resolve_name(""), None);
    let who = rig.node.whois("100.64.0.2:1234".parse().unwrap()).unwrap();
    assert_eq!((who.node.short_name(), who.user.login_name.as_str()), ("web", "ann@example.org"));
    assert_eq!(who.caps["x"], [1]);
    assert!(rig.node.whois("192.0.2.7:1".parse().unwrap()).is_none());
}

#[test]
fn a_ping_to_nobody_and_to_ourselves_is_answered_at_once() {
    let mut rig = Rig::joined();
    let mut ping = |ip: &str| {
        let command = Command::Ping { ip: ip.parse().unwrap(), kind: PingKind::Disco, size: 0 };
        rig.command(command).unwrap()
    };
    assert!(matches!(ping("100.64.0.9"), Reply::Pinged(result) if result.error == "no matching peer"));
    assert!(matches!(ping("100.64.0.1"), Reply::Pinged(result) if result.is_local_ip));
    assert!(matches!(ping("100.64.0.2"), Reply::Ping(_)));
}

#[test]
fn a_ping_that_nobody_answers_ends() {
    let mut rig = Rig::joined();
    let command = Command::Ping { ip: "100.64.0.2".parse().unwrap(), kind: PingKind::Disco, size: 0 };
    let Reply::Ping(number) = rig.command(command).unwrap() else { panic!("a ping under way") };
    rig.pass(Duration::from_secs(30));
    let ended = rig.notices().into_iter().any(
        |notice| matches!(notice, Notice::Ping { number: ended, result } if ended == number && !result.error.is_empty()),
    );
    assert!(ended);
}

#[test]
fn the_servers_ping_is_answered_once_per_url() {
    let mut rig = Rig::new();
    let (id, _) = rig.up_with_key();
    rig.say(id, success());
    let (stream, _) = rig.asked().stream.unwrap();
    rig.say(stream, map(&first_map("")));
    let ping = r#"{"KeepAlive":true,"PingRequest":{"URL":"http://192.0.2.1/ping?id=1"}}"#;
    rig.say(stream, map(ping));
    rig.say(stream, map(ping));
    let answers = rig.asked().others.into_iter().filter(|action| matches!(action, Action::AnswerPing(_))).count();
    assert_eq!(answers, 1);
}

#[test]
fn a_state_file_that_cannot_be_used_is_refused_in_clear_words() {
    let mut rig = Rig::joined();
    rig.asked();
    let text = rig.disk.unwrap().to_file_text_with_secrets().to_string();
    assert!(NodeState::from_file_text(&text).is_ok());
    let refuse = |text: &str| NodeState::from_file_text(text).unwrap_err();
    assert!(matches!(refuse(&text[..text.len() / 2]), LoadStateError::Damaged(_)));
    assert!(matches!(refuse("\0\0\0"), LoadStateError::Damaged(_)));
    assert_eq!(refuse("{}"), LoadStateError::Foreign);
    assert_eq!(refuse(r#"{"kind":"something-else","format":1}"#), LoadStateError::Foreign);
    let newer = text.replacen(r#""format": 1"#, r#""format": 2"#, 1);
    assert_eq!(refuse(&newer), LoadStateError::FromTheFuture { found: 2 });
    assert_eq!(refuse(&newer).to_string(), "node state has format 2; this build knows up to 1");
    let key = text.find("privkey:").unwrap();
    let mut broken = text.clone();
    broken.replace_range(key..key + 20, "privkey:zz");
    let words = refuse(&broken).to_string();
    assert!(words.starts_with("node state is damaged") && !words.contains("zz"), "{words}");
}

#[test]
fn no_secret_can_be_printed() {
    let mut rig = Rig::joined();
    rig.asked();
    let state = rig.disk.unwrap();
    let text = state.to_file_text_with_secrets();
    let printed = format!("{state:?}");
    for secret in text.split("privkey:").skip(1).map(|rest| &rest[..64]) {
        assert!(!printed.contains(secret));
    }
}

#[test]
fn the_same_inputs_give_the_same_outputs() {
    let run = || {
        let mut rig = Rig::joined();
        rig.pass(Duration::from_secs(300));
        let mut said = Vec::new();
        while let Some(action) = rig.node.poll_action() {
            said.push(format!("{action:?}"));
        }
        (said, rig.notices())
    };
    assert_eq!(run(), run());
}

#[test]
fn who_signs_in_again_keeps_running_meanwhile() {
    let mut rig = Rig::joined();
    rig.command(Command::LoginInteractive).unwrap();
    let (id, _) = rig.asked().register.unwrap();
    rig.say(id, crate::rig::answer(|answer| answer.auth_url = "https://192.0.2.1/register/x".into()));
    assert_eq!(rig.state(), BackendState::Running);
    assert!(rig.reaches("100.64.0.2"));
}

#[test]
fn a_peer_that_the_stream_takes_away_is_gone_from_the_engine() {
    let mut rig = Rig::new();
    let (id, _) = rig.up_with_key();
    rig.say(id, success());
    let (stream, _) = rig.asked().stream.unwrap();
    rig.say(stream, map(&first_map("")));
    rig.asked();
    rig.say(stream, map(r#"{"PeersRemoved":[2]}"#));
    assert!(!rig.reaches("100.64.0.2"));
    assert!(rig.disk.is_some() && rig.node.net_map().unwrap().peers.is_empty());
}
