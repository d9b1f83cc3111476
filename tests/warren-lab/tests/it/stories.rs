//! Scenarios told as stories: what is sure to be met, one at a time.

use std::time::Duration;

use warren_lab::{Choices, Crash, NodeNo, Outcome, Place, Port, Rule, Rules, Step, Who, run, run_steps};

use crate::CHOICES;

#[test]
fn the_same_seed_gives_the_same_run() {
    let outcome = || run(3, Choices::seeded(3, CHOICES)).unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!(outcome(), outcome());
}

const A: NodeNo = NodeNo(0);
const B: NodeNo = NodeNo(1);

fn join(user: usize, place: Place) -> Step {
    Step::Join { user, place, v4: true, v6: false, crash: None }
}

/// Two machines of two people, then these steps.
#[track_caller]
fn story(places: [Place; 2], steps: &[Step]) -> Outcome {
    let joins = [join(0, places[0]), join(1, places[1]), Step::Talk(A, B)];
    run_steps(&[&joins, steps].concat()).unwrap_or_else(|failure| panic!("{failure}"))
}

fn only(src: usize, dst: usize, port: u16) -> Step {
    Step::Policy(Rules(vec![Rule { src: Who::User(src), dst: Who::User(dst), port: Port::One(port) }]))
}

#[test]
fn two_machines_behind_ordinary_routers_join_and_talk_directly() {
    let outcome = story([Place::PortCone, Place::Linux], &[]);
    assert_eq!((outcome.direct, outcome.relayed), (1, 0));
}

#[test]
fn where_no_direct_path_can_be_the_relay_carries_them() {
    let outcome = story([Place::Symmetric, Place::Symmetric], &[]);
    assert_eq!((outcome.direct, outcome.relayed), (0, 1));
    let outcome = story([Place::Blocked, Place::Public], &[]);
    assert_eq!((outcome.direct, outcome.relayed), (0, 1));
}

#[test]
fn a_port_taken_away_ends_flows_that_run_and_given_back_opens_them() {
    let nothing = Step::Policy(Rules(Vec::new()));
    story([Place::Public, Place::PortCone], &[only(0, 1, 22), only(0, 1, 80), nothing, only(1, 0, 22)]);
}

#[test]
fn tunnels_go_on_without_the_control_server_also_with_a_new_disco_key() {
    let steps = [Step::ControlDown, Step::NewDisco(B), Step::Talk(A, B), Step::ControlUp, Step::Talk(A, B)];
    story([Place::PortCone, Place::PortCone], &steps);
}

#[test]
fn a_relay_that_dies_and_returns_interrupts_nobody_for_long() {
    let steps = [Step::RelayDown, Step::RelayUp, Step::Talk(A, B)];
    story([Place::Symmetric, Place::PortCone], &steps);
    story([Place::PortCone, Place::PortCone], &steps);
}

#[test]
fn a_node_that_was_killed_returns_without_the_control_server() {
    let steps = [Step::ControlDown, Step::Kill(A), Step::Start(A), Step::Talk(A, B)];
    story([Place::PortCone, Place::Symmetric], &steps);
}

#[test]
fn a_key_that_ends_while_the_control_server_is_away_ends() {
    let hours = |hours: u64| Step::Wait(Duration::from_secs(hours * 3600));
    let steps = [hours(3), Step::ControlDown, hours(4), Step::Kill(B), Step::Start(B), Step::ControlUp, Step::Renew(B)];
    story([Place::Public, Place::PortCone], &steps);
}

#[test]
fn a_new_node_key_takes_the_place_of_the_old() {
    story([Place::PortCone, Place::PortCone], &[Step::Rotate(A), Step::Talk(A, B), Step::Rotate(B), Step::Talk(A, B)]);
    story([Place::PortCone, Place::PortCone], &[Step::Expire(A), Step::Renew(A), Step::Talk(A, B)]);
    story([Place::PortCone, Place::PortCone], &[Step::Leave(A), Step::Renew(A), Step::Talk(A, B)]);
}

#[test]
fn who_moves_is_found_again() {
    let steps = [Step::Roam(B, Place::Firewall), Step::Talk(A, B), Step::Cut(B), Step::Heal(B), Step::Talk(A, B)];
    story([Place::PortCone, Place::PortCone], &steps);
    let steps = [Step::ControlDown, Step::Roam(B, Place::Linux), Step::Talk(A, B), Step::ControlUp, Step::Talk(A, B)];
    story([Place::PortCone, Place::PortCone], &steps);
}

#[test]
fn a_clock_that_is_wrong_by_a_day_disturbs_nobody() {
    let steps =
        [Step::SetClock(A, 24), Step::SetClock(B, -24), Step::Kill(B), Step::Start(B), Step::Kill(A), Step::Start(A)];
    story([Place::PortCone, Place::PortCone], &steps);
}

#[test]
fn a_control_server_that_dies_in_a_join_lets_the_machine_in_once_when_it_is_back() {
    let join = |crash| Step::Join { user: 0, place: Place::Public, v4: true, v6: true, crash: Some(crash) };
    story([Place::PortCone, Place::PortCone], &[join(Crash::BeforeCommit), join(Crash::BeforeAnswer)]);
}

#[test]
fn where_udp_is_taken_away_the_relay_takes_over_as_soon_as_trust_ends() {
    let steps = [Step::BlockUdp(B), Step::Talk(A, B)];
    let outcome = story([Place::PortCone, Place::PortCone], &steps);
    assert_eq!((outcome.direct, outcome.relayed), (1, 1));
}

#[test]
fn a_node_that_is_forgotten_while_attached_is_out_and_may_come_back_as_a_new_one() {
    for crash in [None, Some(Crash::BeforeCommit), Some(Crash::BeforeAnswer)] {
        let steps = [Step::Delete { node: B, crash }, Step::Renew(B), Step::Talk(A, B)];
        story([Place::PortCone, Place::PortCone], &steps);
    }
}

#[test]
fn a_node_that_changes_hands_reaches_what_its_new_owner_may_reach() {
    for crash in [None, Some(Crash::BeforeCommit), Some(Crash::BeforeAnswer)] {
        let to = |user| Step::Move { node: B, user, crash };
        story([Place::PortCone, Place::PortCone], &[only(0, 1, 22), to(0), only(0, 0, 80), to(1), Step::Talk(A, B)]);
    }
}
