//! The paths by which a node gets in, stays in and leaves. control-protocol.md §5.3–5.4.

use std::time::Duration;

use warren_crypto::UnixTime;
use warren_node::{BackendState, Command, ControlEvent, Notice, PrefsEdit};

use crate::rig::{Rig, answer, first_map, map, success};

const PAGE: &str = "https://192.0.2.1/register/abc";

#[test]
fn a_key_gets_a_node_in_at_once() {
    let mut rig = Rig::new();
    assert_eq!(rig.state(), BackendState::NeedsLogin);
    let (id, request) = rig.up_with_key();
    assert_eq!(request.auth.unwrap().auth_key.unwrap().expose(), "the-key");
    assert_eq!((request.version.0, request.old_node_key), (113, None));
    assert!(request.nl_key.is_some() && request.hostinfo.as_ref().unwrap().backend_log_id.len() == 64);
    assert_eq!(request.hostinfo.unwrap().userspace, Some(true));
    rig.say(id, success());
    assert!(rig.notices().contains(&Notice::LoginFinished));
    let asked = rig.asked();
    let (stream, poll) = asked.stream.expect("a poll");
    assert_eq!((poll.node_key, poll.stream, poll.compress.as_str()), (request.node_key, true, "zstd"));
    assert!(asked.update.unwrap().1.omit_peers, "facts also go by a lite update");
    assert_eq!(rig.state(), BackendState::Starting);
    rig.say(stream, map(&first_map("")));
    assert_eq!(rig.state(), BackendState::Running);
    assert!(rig.notices().contains(&Notice::State(BackendState::Running)));
}

#[test]
fn a_person_gets_a_node_in_by_a_page() {
    let mut rig = Rig::new();
    rig.up(None);
    let (id, _) = rig.asked().register.unwrap();
    rig.say(id, answer(|answer| answer.auth_url = PAGE.into()));
    assert!(rig.notices().contains(&Notice::BrowseToUrl(PAGE.into())));
    assert_eq!(rig.node.status(rig.now, rig.wall).auth_url, PAGE);
    let (id, followup) = rig.asked().register.expect("the follow-up");
    assert_eq!(followup.followup, PAGE);
    rig.say(id, success());
    assert!(rig.notices().contains(&Notice::LoginFinished));
    assert!(rig.asked().stream.is_some());
}

#[test]
fn the_same_page_again_is_no_progress_and_a_new_page_is_followed() {
    let mut rig = Rig::new();
    rig.up(None);
    let (id, _) = rig.asked().register.unwrap();
    rig.say(id, answer(|answer| answer.auth_url = PAGE.into()));
    let (id, _) = rig.asked().register.unwrap();
    rig.say(id, answer(|answer| answer.auth_url = PAGE.into()));
    assert!(rig.asked().register.is_none(), "it waits first");
    rig.pass(Duration::from_secs(1));
    let (id, followup) = rig.asked().register.unwrap();
    assert_eq!(followup.followup, PAGE);
    rig.say(id, answer(|answer| answer.auth_url = "https://192.0.2.1/register/def".into()));
    assert_eq!(rig.asked().register.unwrap().1.followup, "https://192.0.2.1/register/def");
}

#[test]
fn what_the_server_says_is_shown_and_tried_again_ever_more_slowly() {
    let mut rig = Rig::new();
    let (mut id, _) = rig.up_with_key();
    rig.notices();
    let mut waits = Vec::new();
    for _ in 0..70 {
        rig.say(id, answer(|answer| answer.error = "invalid pre auth key".into()));
        let failed_at = rig.now;
        id = loop {
            rig.pass(Duration::from_millis(5));
            if let Some((id, _)) = rig.asked().register {
                break id;
            }
        };
        waits.push(rig.now - failed_at);
    }
    let errors =
        rig.notices().into_iter().filter(|notice| *notice == Notice::Error("invalid pre auth key".into())).count();
    assert_eq!(errors, 1, "the same words are news once");
    assert!(waits[0] < Duration::from_millis(100));
    assert!(
        waits[60..].iter().all(|wait| *wait >= Duration::from_secs(14) && *wait <= Duration::from_secs(31)),
        "{waits:?}"
    );
    assert!(rig.node.health(rig.now, rig.wall)[0].text.contains("invalid pre auth key"));
}

#[test]
fn a_server_that_is_away_is_no_error_and_one_that_is_another_is() {
    let mut rig = Rig::new();
    let (id, _) = rig.up_with_key();
    rig.notices();
    let failed = |text: &str, status, is_lasting| ControlEvent::RegisterFailed {
        status,
        text: text.into(),
        retry_after: None,
        is_lasting,
    };
    rig.say(id, failed("connection refused", None, false));
    assert_eq!(rig.notices(), [Notice::Retrying("connection refused".into())]);
    for (status, is_lasting, is_error) in
        [(None, false, false), (Some(503), false, false), (Some(403), false, true), (None, true, true)]
    {
        rig.pass(Duration::from_secs(31));
        let (id, _) = rig.asked().register.expect("it tries again in any case");
        rig.say(id, failed(&format!("{status:?} {is_lasting}"), status, is_lasting));
        let notices = rig.notices();
        let errors = notices.iter().filter(|notice| matches!(notice, Notice::Error(_))).count();
        let waits = notices.iter().filter(|notice| matches!(notice, Notice::Retrying(_))).count();
        assert_eq!((errors, waits), if is_error { (1, 0) } else { (0, 1) }, "{status:?} {is_lasting}");
    }
}

#[test]
fn a_server_that_asks_to_wait_is_waited_for() {
    let mut rig = Rig::new();
    let (id, _) = rig.up_with_key();
    let wait = Some(Duration::from_secs(90));
    rig.say(
        id,
        ControlEvent::RegisterFailed { status: Some(429), text: String::new(), retry_after: wait, is_lasting: false },
    );
    rig.pass(Duration::from_secs(89));
    assert!(rig.asked().register.is_none());
    rig.pass(Duration::from_secs(2));
    assert!(rig.asked().register.is_some());
}

#[test]
fn an_expired_key_is_renewed_once_and_then_is_an_error() {
    let mut rig = Rig::joined().restarted();
    let (id, request) = rig.asked().register.unwrap();
    rig.say(id, answer(|answer| answer.node_key_expired = true));
    let asked = rig.asked();
    let (id, renewed) = asked.register.expect("at once");
    assert_ne!(renewed.node_key, request.node_key);
    assert_eq!(renewed.old_node_key, Some(request.node_key));
    rig.say(id, answer(|answer| answer.node_key_expired = true));
    assert!(rig.asked().register.is_none(), "a new key that has expired is an error, not a loop");
}

#[test]
fn a_new_key_is_on_disk_before_the_server_hears_of_it() {
    let mut rig = Rig::joined();
    rig.asked();
    rig.command(Command::LoginInteractive).unwrap();
    let mut written_first = false;
    while let Some(action) = rig.node.poll_action() {
        match action {
            warren_node::Action::Persist(_) => written_first = true,
            warren_node::Action::Control { .. } => break,
            _ => {}
        }
    }
    assert!(written_first);
}

#[test]
fn signing_in_again_takes_a_new_key_when_it_succeeds_and_keeps_the_old_until_then() {
    let mut rig = Rig::joined();
    let before = rig.node.status(rig.now, rig.wall).node_key;
    rig.command(Command::LoginInteractive).unwrap();
    let (id, request) = rig.asked().register.unwrap();
    assert_eq!(request.old_node_key, Some(before));
    rig.say(id, answer(|answer| answer.auth_url = PAGE.into()));
    assert_eq!(rig.node.status(rig.now, rig.wall).node_key, before);
    let (id, followup) = rig.asked().register.unwrap();
    assert_eq!(followup.node_key, request.node_key);
    rig.say(id, success());
    assert_eq!(rig.node.status(rig.now, rig.wall).node_key, request.node_key);
}

#[test]
fn a_restart_in_the_middle_of_signing_in_again_keeps_the_node_in() {
    let mut rig = Rig::joined();
    let before = rig.node.status(rig.now, rig.wall).node_key;
    rig.command(Command::LoginInteractive).unwrap();
    let (_, request) = rig.asked().register.unwrap();
    let mut rig = rig.restarted();
    let (id, again) = rig.asked().register.unwrap();
    assert_eq!(again.node_key, before, "the key that the server knows goes first");
    rig.say(id, answer(|answer| answer.auth_url = PAGE.into()));
    let (_, tried) = rig.asked().register.expect("the server took the new key just before we died");
    assert_eq!((tried.node_key, tried.old_node_key), (request.node_key, Some(before)));
}

#[test]
fn leaving_says_goodbye_forgets_the_key_and_stays_out() {
    let mut rig = Rig::joined();
    let before = rig.node.status(rig.now, rig.wall).node_key;
    rig.command(Command::Logout).unwrap();
    let asked = rig.asked();
    let goodbye = asked.goodbye.unwrap();
    assert_eq!((goodbye.node_key, goodbye.expiry), (before, Some(UnixTime::from_secs(123))));
    assert_eq!(rig.state(), BackendState::NeedsLogin);
    assert!(!rig.reaches("100.64.0.2") && rig.node.net_map().is_none());
    let mut rig = rig.restarted();
    assert!(rig.asked().register.is_none());
    assert_ne!(rig.node.status(rig.now, rig.wall).node_key, before);
}

#[test]
fn answers_to_questions_of_the_past_are_ignored() {
    let mut rig = Rig::new();
    let (old, _) = rig.up_with_key();
    let (new, _) = rig.up_with_key();
    assert_ne!(old, new);
    rig.say(old, success());
    assert!(rig.asked().stream.is_none());
    rig.say(new, success());
    assert!(rig.asked().stream.is_some());
}

#[test]
fn a_key_given_to_a_node_that_is_in_already_is_answered_for() {
    let mut rig = Rig::joined();
    rig.notices();
    let (id, _) = rig.up_with_key();
    rig.say(id, success());
    let notices = rig.notices();
    assert!(notices.contains(&Notice::LoginFinished), "nothing else would tell who waits: {notices:?}");
    assert_eq!(rig.state(), BackendState::Running);
}

#[test]
fn a_machine_that_is_not_approved_waits_without_speaking_to_anyone() {
    let mut rig = Rig::new();
    let (id, _) = rig.up_with_key();
    rig.say(id, success());
    let (stream, _) = rig.asked().stream.unwrap();
    rig.say(stream, map(&first_map("").replacen(r#""MachineAuthorized":true,"#, "", 1)));
    assert_eq!(rig.state(), BackendState::NeedsMachineAuth);
    assert!(!rig.reaches("100.64.0.2"));
    rig.say(stream, map(&first_map("")));
    assert!(rig.reaches("100.64.0.2"));
}

#[test]
fn a_login_page_that_is_no_web_page_is_refused() {
    let mut rig = Rig::new();
    rig.up(None);
    let (id, _) = rig.asked().register.unwrap();
    rig.say(id, answer(|answer| answer.auth_url = "file:///etc/passwd".into()));
    assert!(rig.notices().iter().all(|notice| !matches!(notice, Notice::BrowseToUrl(_))));
}

#[test]
fn a_node_that_was_deleted_while_it_was_away_gives_its_addresses_up_and_says_why() {
    let mut rig = Rig::joined().restarted();
    assert_eq!(rig.state(), BackendState::Running, "away, it trusts what it knows");
    let (id, _) = rig.asked().register.unwrap();
    rig.say(id, answer(|answer| answer.auth_url = PAGE.into()));
    let status = rig.node.status(rig.now, rig.wall);
    assert_eq!((status.state, status.auth_url.as_str()), (BackendState::NeedsLogin, PAGE));
    assert!(status.addresses.is_empty() && status.peers.is_empty() && status.self_node.is_none());
    assert!(!rig.reaches("100.64.0.2"));
    assert!(status.health.iter().any(|item| item.text.contains("does not know this device any more")));
    rig.asked();
    // Another start does not bring them back, and a server that knows the node after all lets it in as it was.
    let mut rig = rig.restarted();
    assert!(rig.node.status(rig.now, rig.wall).addresses.is_empty());
    let stream = rig.back();
    rig.say(stream, map(&first_map("")));
    assert_eq!(rig.state(), BackendState::Running);
    assert!(rig.reaches("100.64.0.2"));
}

#[test]
fn a_key_that_was_ended_while_the_node_was_away_is_not_taken_for_a_deleted_device() {
    let mut rig = Rig::joined().restarted();
    let (id, _) = rig.asked().register.unwrap();
    rig.say(id, answer(|answer| answer.node_key_expired = true));
    let (id, _) = rig.asked().register.expect("a new key is tried");
    rig.say(id, answer(|answer| answer.auth_url = PAGE.into()));
    let status = rig.node.status(rig.now, rig.wall);
    assert_eq!((status.state, status.auth_url.as_str()), (BackendState::NeedsLogin, PAGE));
    assert!(status.self_expired && status.self_node.is_some());
    assert!(status.health.iter().any(|item| item.text.contains("has expired")), "{:?}", status.health);
    assert!(!rig.reaches("100.64.0.2"));
    let (id, _) = rig.asked().register.expect("a wait for the person");
    rig.say(id, success());
    assert_eq!(rig.state(), BackendState::Running, "as it was, before there is a new map");
    assert!(rig.reaches("100.64.0.2"));
}

#[test]
fn a_node_that_wants_other_tags_registers_again_and_keeps_running_meanwhile() {
    let mut rig = Rig::joined();
    let tags = Some(vec!["tag:web".to_owned()]);
    rig.notices();
    rig.command(Command::Start { auth_key: None, prefs: PrefsEdit { advertise_tags: tags, ..PrefsEdit::default() } })
        .unwrap();
    assert!(rig.notices().contains(&Notice::State(BackendState::Running)), "who starts a node waits for this");
    let (id, request) = rig.asked().register.expect("else the server would not judge them");
    assert_eq!(request.hostinfo.unwrap().request_tags, ["tag:web"]);
    rig.say(id, success());
    assert!(rig.asked().stream.is_some() && rig.reaches("100.64.0.2"));
}
