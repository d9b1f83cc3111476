//! Several networks on one device.

use warren_node::{BackendState, Command, CommandError, PrefsEdit, ProfileId, Reply};

use crate::rig::{Rig, first_map, map};

fn list(rig: &mut Rig) -> Vec<warren_node::ProfileSummary> {
    match rig.command(Command::ListProfiles).unwrap() {
        Reply::Profiles(profiles) => profiles,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_second_network_has_its_own_key_and_leaves_the_first_in_peace() {
    let mut rig = Rig::joined();
    let first = rig.node.status(rig.now, rig.wall);
    rig.command(Command::NewProfile).unwrap();
    assert!(rig.asked().closed);
    let second = rig.node.status(rig.now, rig.wall);
    assert_ne!((first.node_key, &first.profile), (second.node_key, &second.profile));
    assert_eq!(second.state, BackendState::NeedsLogin);
    assert!(!rig.reaches("100.64.0.2"));

    let names: Vec<_> = list(&mut rig).into_iter().map(|profile| (profile.name, profile.is_active)).collect();
    assert_eq!(names, [("ann@example.org".into(), false), (String::new(), true)]);

    rig.command(Command::SwitchProfile(first.profile)).unwrap();
    assert!(rig.reaches("100.64.0.2"), "by the map that it had");
    let (_, request) = rig.asked().register.unwrap();
    assert_eq!((request.node_key, request.auth), (first.node_key, None));
}

#[test]
fn the_active_profile_survives_a_restart() {
    let mut rig = Rig::joined();
    rig.command(Command::NewProfile).unwrap();
    let active = rig.node.status(rig.now, rig.wall).profile;
    let rig = rig.restarted();
    assert_eq!(rig.node.status(rig.now, rig.wall).profile, active);
}

#[test]
fn late_words_for_one_network_do_not_reach_another() {
    let mut rig = Rig::new();
    let (id, _) = rig.up_with_key();
    rig.say(id, crate::rig::success());
    let (stream, _) = rig.asked().stream.unwrap();
    rig.command(Command::NewProfile).unwrap();
    rig.say(stream, map(&first_map("")));
    assert!(rig.node.net_map().is_none() && !rig.reaches("100.64.0.2"));
}

#[test]
fn deleting_the_last_profile_leaves_an_empty_one() {
    let mut rig = Rig::joined();
    let id = rig.node.status(rig.now, rig.wall).profile;
    rig.command(Command::DeleteProfile(id.clone())).unwrap();
    let left = list(&mut rig);
    assert_eq!(left.len(), 1);
    assert_ne!(left[0].id, id);
    assert_eq!(rig.command(Command::SwitchProfile(ProfileId("none".into()))), Err(CommandError::NoSuchProfile));
}

#[test]
fn asking_for_new_profiles_again_and_again_makes_one() {
    let mut rig = Rig::joined();
    for _ in 0..10 {
        rig.command(Command::NewProfile).unwrap();
    }
    assert_eq!(list(&mut rig).len(), 2);
}

#[test]
fn another_control_server_never_sees_the_key_of_the_first() {
    let mut rig = Rig::joined();
    let before = rig.node.status(rig.now, rig.wall).node_key;
    let edit = PrefsEdit { control_url: Some("http://192.0.2.99".into()), ..PrefsEdit::default() };
    rig.command(Command::EditPrefs(edit)).unwrap();
    let (_, request) = rig.asked().register.unwrap();
    assert_ne!(request.node_key, before);
    assert_eq!(request.old_node_key, None);
}
